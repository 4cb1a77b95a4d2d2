"""The state file itself: opening, checking, locking, and saying what is wrong with it.

One program at a time is *the runtime*: it holds a lock file beside the database and a fencing epoch inside it. People's
commands open the same file without that role; SQLite's write-ahead log lets them read while the runtime commits.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from agent.core.errors import StateError
from agent.core.said import said
from agent.store import schema

APPLICATION_ID: Final = 0x53454B49
"""``SEKI`` in the SQLite header: tells our file from another program's."""

_MAGIC: Final = b"SQLite format 3\0"
_WAL_LIMIT: Final = 64 * 2**20
_RESTORE = (
    "stop sekisho, keep the file aside, put a copy of it back, or start without it: history begins anew"
)


class RuntimeLock:
    """The role of the runtime: an exclusive ``flock`` on a file beside the database, which holds the owner's pid."""

    def __init__(self, path: Path) -> None:
        """Take the role. Raises :class:`StateError` if another process has it."""
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise StateError(
                said(
                    "{path}: the state is in use by another sekisho (pid {pid}); "
                    "stop that one first, or give this one another state_dir",
                    path=path,
                    pid=owner,
                )
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the role up. The file stays, so that two takers never hold two files of one name."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Database:
    """A checked database with one writing connection and several reading ones. Thread-safe."""

    def __init__(self, name: str) -> None:
        """``name`` stands in every message; whoever derives from this makes the two engines."""
        self.name = name
        self.read_only = False
        self._lock = threading.Lock()
        self._writing: sa.Engine
        self._reading: sa.Engine

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One writing transaction, all or nothing; waits for other writers up to the busy timeout.

        Raises :class:`StateError`; then nothing was written and the same may be tried again.
        """
        if self.read_only:
            raise StateError(f"{self.name}: opened for reading only")
        with self._lock:
            try:
                with translated(self.name), self._writing.begin() as connection:
                    yield connection
            except StateError:
                self._writing.dispose()
                raise

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One reading transaction, which sees one moment. Raises :class:`StateError`."""
        with translated(self.name), self._reading.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of every connection."""
        self._reading.dispose()
        self._writing.dispose()


class SqliteDatabase(Database):
    """A state file."""

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        """``path`` must be an SQLite file already, be it empty (see :func:`open_database`)."""
        super().__init__(str(path))
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._writing = self._engine("BEGIN IMMEDIATE")
        self._reading = self._engine("BEGIN")

    def run_alone(self, statement: str) -> str:
        """Run a PRAGMA that no transaction may surround; its first value as text. Raises :class:`StateError`."""
        with self._lock, translated(self.name), self._plain() as connection:
            row = connection.execute(statement).fetchone()
            return str(row[0]) if row else ""

    def _engine(self, begin: str) -> sa.Engine:
        engine = sa.create_engine("sqlite://", creator=self._connect, poolclass=sa.QueuePool)
        # The driver's own transactions would start a deferred one at the first write only.
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        return connection

    @contextmanager
    def _plain(self) -> Iterator[sqlite3.Connection]:
        connection = self._connect()
        try:
            yield connection
        finally:
            connection.close()


def open_database(
    path: Path, *, create: bool, whole: bool, now_ns: int, busy_timeout_s: float
) -> SqliteDatabase:
    """The state file at ``path``, made first if it is missing and ``create``; ``whole``: look through all its pages.

    Raises :class:`StateError` for a file that is missing, foreign, damaged or newer than this program.
    """
    _check_file(path, create)
    database = SqliteDatabase(path, busy_timeout_s=busy_timeout_s)
    try:
        if path.stat().st_size == 0 and create:
            database.run_alone("PRAGMA journal_mode = WAL")
        if whole and (found := database.run_alone("PRAGMA quick_check(1)")) != "ok":
            raise StateError(
                said(
                    "{path}: the state file is damaged ({found}): {advice}",
                    path=path,
                    found=found.splitlines()[-1],
                    advice=_RESTORE,
                )
            )
        _check_tables(database, create, now_ns)
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def translated(path: Path | str) -> Iterator[None]:
    """Turn the driver's errors into :class:`StateError` with the database's name and what to do."""
    try:
        yield
    except DBAPIError as error:
        raise _state_error(path, error.orig if isinstance(error.orig, Exception) else error) from error
    except (sqlite3.Error, OSError) as error:
        raise _state_error(path, error) from error


def _state_error(path: Path | str, error: Exception) -> StateError:
    known = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    name = known or type(error).__name__
    advice = next((text for start, text in _ADVICE.items() if name.startswith(start)), "")
    if isinstance(error, OSError):
        return StateError(
            said(
                "{path}: {error}; {advice}",
                path=path,
                error=error.strerror or str(error),
                advice=advice or said("check state_dir"),
            )
        )
    told = " ".join(str(error).split())
    if not advice:
        return StateError(f"{path}: {told} [{name}]")
    return StateError(
        said("{path}: {error}: {advice} [{name}]", path=path, error=told, advice=advice, name=name)
    )


_ADVICE: Final = {
    "SQLITE_BUSY": "another process keeps the file locked, such as a backup or an sqlite3 shell; end it, then try again",
    "SQLITE_LOCKED": "another process keeps the file locked; end it, then try again",
    "SQLITE_FULL": "no room is left on its volume; free some, or move state_dir; nothing was written",
    "SQLITE_IOERR": "the disk or a limit (quota, ulimit -f) refused it; see the kernel's log; nothing was written",
    "SQLITE_READONLY": "the file or its directory may not be written; give this user write access to both",
    "SQLITE_CANTOPEN": "it cannot be opened; check that the directory exists and this user may write in it",
    "SQLITE_PERM": "access was refused; run as the user that sekisho runs as",
    "SQLITE_CORRUPT": f"the state file is damaged: {_RESTORE}",
    "SQLITE_NOTADB": f"this is no state file of sekisho, or it is damaged: {_RESTORE}",
    # PostgreSQL's SQLSTATE, or the driver's class where no server answered
    "OperationalError": "the server does not answer; check that it runs and the address of detect.database",
    "08": "the connection to the server broke; nothing was written",
    "28": "the server does not let this user in; check its name, its password file and pg_hba.conf",
    "3D000": "make the database first: createdb",
    "42501": "this user lacks rights; make it the owner of its database",
    "53100": "no room is left on the server's volume; free some; nothing was written",
    "53": "the server lacks resources; nothing was written",
    "55P03": "another transaction keeps the state locked; end it, then try again",
    "57P": "the server, or another sekisho that took over, ended this connection; nothing was written",
    "25P03": "this program paused too long in a transaction; nothing was written",
    "PermissionError": "access was refused; run as the user that sekisho runs as",
}


def _check_file(path: Path, create: bool) -> None:
    with translated(path):
        if path.exists():
            with path.open("rb") as file:
                begin = file.read(len(_MAGIC))
            if begin and begin != _MAGIC:
                raise StateError(
                    said("{path}: this is no state file of sekisho: {advice}", path=path, advice=_RESTORE)
                )
            if begin or create:
                return
        if not create:
            raise StateError(
                said("{path}: there is no state yet; `sekisho up` makes it, or check state_dir", path=path)
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))


def _check_tables(database: SqliteDatabase, create: bool, now_ns: int) -> None:
    path = database.path
    with database.read() as connection:
        application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        empty = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one() == 0
    if empty and create and application == 0:
        with database.write() as connection:
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            make_tables(connection, now_ns)
        return
    if empty and application in (0, APPLICATION_ID):
        raise StateError(
            said("{path}: there is no state yet; `sekisho up` makes it, or check state_dir", path=path)
        )
    if application != APPLICATION_ID:
        raise StateError(
            said("{path}: this database belongs to another program: {advice}", path=path, advice=_RESTORE)
        )
    check_version(database, upgrade=create)


def check_version(database: Database, *, upgrade: bool) -> None:
    """Refuse tables of a newer program; ``upgrade``: bring those of an older one up to this one's.

    Raises :class:`StateError`.
    """
    version = sa.select(schema.head.c.schema_version)
    with database.read() as connection:
        found = connection.execute(version).scalar_one()
    if found > schema.SCHEMA_VERSION:
        raise StateError(
            said(
                "{name}: written by a newer sekisho (state version {found}, this one knows {known}); "
                "start that version, or put back the copy made before the upgrade",
                name=database.name,
                found=found,
                known=schema.SCHEMA_VERSION,
            )
        )
    if found < schema.SCHEMA_VERSION and upgrade:
        with database.write() as connection:
            # Up to now every version only added tables, or put others in place of one.
            had = set(sa.inspect(connection).get_table_names())
            schema.metadata.create_all(connection)
            if schema.ledger_days.name not in had:
                connection.execute(schema.summed_days())
            if schema.ledger_pairs.name not in had:
                connection.execute(schema.summed_pairs())
            for name in schema.REPLACED:
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")
            connection.execute(sa.update(schema.head).values(schema_version=schema.SCHEMA_VERSION))


def make_tables(connection: sa.Connection, now_ns: int) -> None:
    """Make every table of an empty database, and the first row of ``head``."""
    schema.metadata.create_all(connection, checkfirst=False)
    connection.execute(
        schema.head.insert(),
        {
            "id": 1,
            "schema_version": schema.SCHEMA_VERSION,
            "epoch": 0,
            "commit_no": 0,
            "position": "",
            "last_action": 0,
            "created_ns": now_ns,
        },
    )
