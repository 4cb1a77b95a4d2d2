"""The state in PostgreSQL, shared by a leader and those who stand by.

Leadership is a session's advisory lock and a lease. A leader that ends gives the lock up at once. One that stands
still (a paused machine, SIGSTOP) keeps its connections and so the lock: once its lease, counted by the server's own
clock, has run out, whoever stands by has the server end them, and takes the lock. What decides in the end is neither:
every commit compares the fencing epoch, so that a leader that wakes up late writes nothing.

A thread of its own renews the lease: one broker that takes a connection and never answers may hold the leader up for
longer than a lease lasts, and is no reason to lead no more. A leader that says nothing for minutes is not renewed.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from agent.core.errors import StateError, TakenOverError
from agent.core.log import Log
from agent.core.said import said
from agent.store import schema
from agent.store.database import Database, check_version, make_tables, translated

LEASE_S: Final = 30.0
RENEWALS: Final = 6
"""In the time of one lease."""
HELD_UP_S: Final = 300.0
"""So long the one that leads may be at one thing; the watchdog of its service is shorter."""
LOOK_S: Final = 1.0
"""How often one that stands by looks."""
_LEADER: Final = 0x53454B49_0001
_WRITER: Final = 0x53454B49_0002
"""Keys of the advisory locks; the first part is ``SEKI``."""
_CONNECT_S: Final = 10
_RELEASE_S: Final = 5.0


class PostgresDatabase(Database):
    """A checked database of a PostgreSQL server; one writing transaction at a time, over all programs."""

    def __init__(self, url: str, *, holder: str, busy_timeout_s: float) -> None:
        """``holder`` names this program at the server. Raises :class:`StateError` for an address that is none."""
        self.url = _checked(url)
        super().__init__(self.url.render_as_string())
        self._busy_timeout_s = busy_timeout_s
        self._writing = self._engine(holder, "READ COMMITTED")
        self._reading = self._engine(holder, "REPEATABLE READ")

        @sa.event.listens_for(self._writing, "begin")
        def alone(connection: sa.Connection) -> None:
            """As SQLite has it: ids of actions then come in the order in which they can be seen."""
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER})")

    def session(self, holder: str) -> sa.Connection:
        """A connection of its own, outside any transaction. Raises :class:`StateError`."""
        with translated(self.name):
            return self._engine(holder, "AUTOCOMMIT", sa.NullPool).connect()

    def _engine(self, holder: str, isolation: Any, pool: type[sa.Pool] = sa.QueuePool) -> sa.Engine:
        wait_ms = int(self._busy_timeout_s * 1000)
        options = f"-c lock_timeout={wait_ms} -c timezone=UTC -c client_min_messages=warning"
        try:
            return sa.create_engine(
                self.url,
                poolclass=pool,
                isolation_level=isolation,
                connect_args={
                    "application_name": holder,
                    # A database without an encoding (SQL_ASCII, where the server was made without a locale) would else
                    # answer in octets.
                    "client_encoding": "utf8",
                    "connect_timeout": _CONNECT_S,
                    "options": options,
                    "keepalives_idle": 10,
                    "tcp_user_timeout": 20_000,
                },
            )
        except ImportError as error:
            raise StateError(
                said("PostgreSQL needs the package psycopg; install it: pip install 'sekisho[postgresql]'")
            ) from error


def open_postgres(
    url: str, *, holder: str, create: bool, now_ns: int, busy_timeout_s: float
) -> PostgresDatabase:
    """The state at a PostgreSQL address, its tables made first if they are missing and ``create``.

    Raises :class:`StateError` if the server does not answer, or what is there is newer than this program.
    """
    database = PostgresDatabase(url, holder=holder, busy_timeout_s=busy_timeout_s)
    try:
        if not _has_tables(database):
            if not create:
                raise StateError(
                    said("{name}: there is no state yet; `sekisho detect` makes it", name=database.name)
                )
            with database.write() as connection:
                if not sa.inspect(connection).has_table(schema.head.name):  # another may have been quicker
                    make_tables(connection, now_ns)
        check_version(database, upgrade=create)
    except BaseException:
        database.close()
        raise
    return database


class Leadership:
    """The role of the one leader, kept by a thread of its own from the first :meth:`check` on."""

    def __init__(
        self, database: PostgresDatabase, holder: str, session: sa.Connection, lease_s: float
    ) -> None:
        """For :func:`lead` only."""
        self.holder, self.lease_s = holder, lease_s
        self._database, self._session = database, session
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost: StateError | None = None
        self._renewed_s = self._checked_s = time.monotonic()
        self._log = Log(part="leadership")

    def check(self, held_up_s: float = HELD_UP_S) -> None:
        """Say that the one who leads is at work, between its steps. Raises :class:`StateError` if it leads no more.

        After ``held_up_s`` without such a word the lease is let go.
        """
        self._checked_s = time.monotonic()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._keep, args=(held_up_s,), name="sekisho-lease", daemon=True
            )
            self._thread.start()
        if self._lost is not None:
            raise self._lost
        wait_s = time.monotonic() + 2 * self.lease_s / RENEWALS
        while (silent_s := time.monotonic() - self._renewed_s) > self.lease_s and time.monotonic() < wait_s:
            if self._lost is not None:
                raise self._lost
            self._ended.wait(0.02)  # both have just come back, such as from a paused machine
        if silent_s > self.lease_s:
            raise TakenOverError(
                said(
                    "{name}: the lease could not be renewed for {seconds} s; another may lead, so this one stops",
                    name=self._database.name,
                    seconds=f"{silent_s:.0f}",
                )
            )

    def _keep(self, held_up_s: float) -> None:
        """Renew until it is released, lost, or nobody is at work."""
        while not self._ended.wait(self.lease_s / RENEWALS):
            begun_s = time.monotonic()
            if begun_s - self._checked_s > held_up_s:
                continue
            try:
                self.renew()
            except StateError as error:
                self._lost = error
                self._log.error("leadership_lost", reason=str(error))
                return
            self._renewed_s = begun_s

    def renew(self) -> None:
        """Say that this one still leads. Raises :class:`StateError` if it does not."""
        table = schema.leases.c
        change = sa.update(schema.leases).where(table.holder == self.holder).values(renewed_ms=_NOW_MS)
        with translated(self._database.name):
            changed = self._session.execute(change).rowcount
        if changed != 1:
            raise TakenOverError(
                said("{name}: another sekisho leads now; this one stops", name=self._database.name)
            )

    def release(self) -> None:
        """Give the role up; whoever stands by has it within a second."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_RELEASE_S)
            if (
                self._thread.is_alive()
            ):  # the server does not answer; the end of this process ends the session
                self._log.warning("session_not_closed", reason="the server does not answer")
                return
        try:
            self._session.close()
        except DBAPIError as error:
            self._log.warning("session_not_closed", reason=str(error.orig))


def lead(
    database: PostgresDatabase,
    holder: str,
    stop: threading.Event,
    *,
    lease_s: float = LEASE_S,
    waiting: Callable[[], None] = lambda: None,
) -> Leadership | None:
    """Stand by until this program leads; None if ``stop`` is set before. Raises :class:`StateError`.

    ``waiting`` is called after each look, while another one leads.
    """
    session, log, told = database.session(holder), Log(part="leadership"), ""
    try:
        while not stop.is_set():
            with translated(database.name):
                if session.execute(sa.select(sa.func.pg_try_advisory_lock(_LEADER))).scalar_one():
                    _note(session, holder, lease_s)
                    log.info("leads", holder=holder)
                    return Leadership(database, holder, session, lease_s)
                other, late_ms = _leader(session)
                if other != told:
                    log.info("stands_by", leader=other)
                    told = other
                if late_ms > 0 and other != holder:
                    ended = _end(session, other)
                    log.warning("leader_silent", leader=other, late_ms=late_ms, connections_ended=ended)
            waiting()
            stop.wait(LOOK_S)
    except BaseException:
        session.close()
        raise
    session.close()
    return None


@contextmanager
def unled(url: str) -> Iterator[PostgresDatabase]:
    """The state at an address, its tables made if they are missing, with nobody leading it meanwhile. Raises
    :class:`StateError` if a program does."""
    holder = a_holder()
    database = open_postgres(url, holder=holder, create=True, now_ns=0, busy_timeout_s=float(_CONNECT_S))
    try:
        session = database.session(holder)
        try:
            if not session.execute(sa.select(sa.func.pg_try_advisory_lock(_LEADER))).scalar_one():
                leader = _leader(session)[0] or "a sekisho"
                raise StateError(
                    said(
                        "{name}: {leader} leads; stop every `sekisho detect` first",
                        name=database.name,
                        leader=leader,
                    )
                )
            yield database
        finally:
            session.close()
    finally:
        database.close()


def a_holder() -> str:
    """A name for this process at the server, unlike any other's; at most 63 octets."""
    return f"sekisho {socket.gethostname()[:24]} {os.getpid()} {uuid.uuid4().hex[:12]}"


_NOW_MS: Final = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1000, sa.BigInteger)


def _note(session: sa.Connection, holder: str, lease_s: float) -> None:
    session.execute(sa.delete(schema.leases))
    row = {"id": 1, "holder": holder, "renewed_ms": _NOW_MS, "lease_ms": int(lease_s * 1000)}
    session.execute(schema.leases.insert().values(row))


def _leader(session: sa.Connection) -> tuple[str, int]:
    """Who leads, and for how long its lease has run out, in ms; negative while it has not."""
    table = schema.leases.c
    row = session.execute(sa.select(table.holder, _NOW_MS - table.renewed_ms - table.lease_ms)).one_or_none()
    return (row[0], row[1]) if row else ("", 0)


def _end(session: sa.Connection, holder: str) -> int:
    """Have the server end every connection of a holder, which may be one user's own; how many there were."""
    ended = sa.text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = :holder"
    )
    return int(session.execute(ended, {"holder": holder}).scalar_one())


def _has_tables(database: PostgresDatabase) -> bool:
    with database.read() as connection:
        return sa.inspect(connection).has_table(schema.head.name)


def _checked(url: str) -> URL:
    """The address with its driver. A password belongs into a file that only this user reads, not into settings."""
    try:
        made = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise StateError(said("detect.database: expected postgresql://USER@HOST/NAME")) from error
    if made.get_backend_name() != "postgresql":
        raise StateError(
            said(
                "detect.database: expected postgresql://USER@HOST/NAME, not {kind}://",
                kind=made.get_backend_name(),
            )
        )
    if made.password:
        raise StateError(
            said(
                "detect.database holds a password; put it into a file for libpq and name that: "
                "?passfile=/etc/sekisho/pgpass"
            )
        )
    return made.set(drivername="postgresql+psycopg")
