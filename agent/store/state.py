"""The state of the running program, changed by one transaction per commit: all of it or nothing.

    batch ids taken · detector's delta or snapshot · ledger · findings · cases · outbox · input position · fencing epoch

A program that is killed at any moment finds, at its next start, the effects of exactly the commits that returned (and
perhaps of the one that was about to return).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal, Protocol, Self

import sqlalchemy as sa

from agent.core.clock import DAY_NS, Clock
from agent.core.errors import StateError, TakenOverError
from agent.core.faults import faultpoint
from agent.core.said import said
from agent.store import deliveries, schema
from agent.store.cases import Cases, put_cases, put_findings
from agent.store.coverage import Coverage
from agent.store.database import Database, RuntimeLock, open_database, translated
from agent.store.deliveries import Deliveries
from agent.store.digests import Digests, put_step
from agent.store.enrolments import Enrolments
from agent.store.entities import Entities, move
from agent.store.inputs import Inputs, put_intake
from agent.store.kept import Action, Restored
from agent.store.kept import Commit as Commit
from agent.store.ledger import Ledger, add_rows
from agent.store.retention import Retention, begin_day
from agent.store.sequences import BatchId, Intervals, Sequences, Stream

BUSY_TIMEOUT_S: Final = 5.0


class Role(Protocol):
    """What makes a program the one that commits."""

    def release(self) -> None:
        """Give the role up."""


class State:
    """The state database. Thread-safe; every method may block on the disk and raise :class:`StateError`."""

    def __init__(
        self, database: Database, lock: Role | None, clock: Clock, keep: Retention, epoch: int
    ) -> None:
        """For :meth:`open` only."""
        self._database = database
        self._lock = lock
        self._keep = keep
        self._epoch = epoch
        self._taken = Sequences()
        self._digests = Digests(database)
        self._number = 0
        self._versions = ""
        self._day = -1
        self.cases = Cases(database, clock)
        self.ledger = Ledger(database)
        self.entities = Entities(database)
        self.deliveries = Deliveries(database)
        self.inputs = Inputs(database)
        self.enrolments = Enrolments(database)
        self.coverage = Coverage(database)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        create: bool = True,
        read_only: bool = False,
        people: bool = False,
        keep: Retention | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> Self:
        """Open the state file as the runtime. Whoever opens must close.

        ``people`` and ``read_only`` are for commands beside a running program: they take no role, commit nothing and
        make no file; with ``people`` alone, actions on cases may be added. Raises :class:`StateError`, which names
        the file and what to do, if the file is missing (and not to be made), damaged, foreign, newer than this
        program, or in use by another runtime.
        """
        keep, now_ns = keep or Retention(), clock.now_ns()
        if read_only or people:
            database = open_database(
                path, create=False, whole=False, now_ns=now_ns, busy_timeout_s=busy_timeout_s
            )
            database.read_only = read_only
            return cls._loaded(database, None, clock, keep, -1)
        with translated(path):
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            lock = RuntimeLock(path.with_name(path.name + ".lock"))
        try:
            database = open_database(
                path, create=create, whole=True, now_ns=now_ns, busy_timeout_s=busy_timeout_s
            )
            try:
                return cls._loaded(database, lock, clock, keep, _take_epoch(database))
            except BaseException:
                database.close()
                raise
        except BaseException:
            lock.release()
            raise

    @classmethod
    def lead(cls, database: Database, role: Role, *, clock: Clock, keep: Retention | None = None) -> Self:
        """The state of an open database, as the one that commits from now on: whoever did before commits no more.

        Takes over ``database`` and ``role``; closing gives both up. Raises :class:`StateError`.
        """
        return cls._loaded(database, role, clock, keep or Retention(), _take_epoch(database))

    @classmethod
    def beside(cls, database: Database, *, clock: Clock, read_only: bool = True) -> Self:
        """The state of an open database for people's commands beside a running program. Raises :class:`StateError`."""
        database.read_only = read_only
        return cls._loaded(database, None, clock, Retention(), -1)

    @classmethod
    def _loaded(
        cls, database: Database, lock: Role | None, clock: Clock, keep: Retention, epoch: int
    ) -> Self:
        state = cls(database, lock, clock, keep, epoch)
        table = schema.sequences.c
        with database.read() as connection:
            state._number = connection.execute(sa.select(schema.head.c.commit_no)).scalar_one()
            newest = sa.select(schema.versions.c.body).order_by(schema.versions.c.commit_no.desc()).limit(1)
            state._versions = connection.execute(newest).scalar_one_or_none() or ""
            rows = connection.execute(sa.select(table.agent_id, table.run_id, table.lane, table.intervals))
            try:
                state._taken = Sequences({(a, r, n): Intervals.parse(text) for a, r, n, text in rows})
            except ValueError as error:
                raise StateError(
                    f"{database.name}: the table of batch sequences is damaged: {error}"
                ) from error
        return state

    @property
    def name(self) -> str:
        """The state file, or the address of the database without any secret."""
        return self._database.name

    @property
    def number(self) -> int:
        """Number of the last commit."""
        return self._number

    def load(self) -> Restored:
        """What the last commit left behind."""
        head, snapshots, deltas = schema.head.c, schema.snapshots.c, schema.deltas.c
        with self._database.read() as connection:
            number, position, action = connection.execute(
                sa.select(head.commit_no, head.position, head.last_action)
            ).one()
            snapshot = connection.execute(
                sa.select(snapshots.body).order_by(snapshots.commit_no.desc()).limit(1)
            ).scalar_one_or_none()
            steps = connection.execute(sa.select(deltas.body).order_by(deltas.commit_no)).scalars().all()
        return Restored(snapshot, tuple(steps), self._taken.copy(), position, number, action)

    def taken(self, batch_id: BatchId, digest: bytes | None) -> Literal["new", "duplicate", "conflict"]:
        """Whether a batch was committed before: ``conflict`` is the same id with other bytes.

        Without a digest on either side (digests are kept for a shorter time than ids) the id decides alone.
        """
        if batch_id not in self._taken:
            return "new"
        if digest is None:
            return "duplicate"
        return "conflict" if self._digests.known(batch_id) not in (None, digest) else "duplicate"

    def taken_of(self, stream: Stream) -> Intervals:
        """The sequences of a stream that were committed, apart."""
        return self._taken.of(stream)

    def streams(self) -> list[Stream]:
        """Every (agent, run, lane) of which a batch was committed and is remembered."""
        return list(self._taken.streams())

    def commit(self, work: Commit) -> None:
        """Write it all in one transaction, or nothing; after an error the same work may be committed again.

        Raises :class:`StateError` if the disk is full, the file locked for longer than the busy timeout or damaged,
        another runtime has taken over, or a batch was taken before (which callers leave out, see :meth:`taken`).
        """
        if self._lock is None:
            raise StateError(f"{self.name}: opened for reading; only the runtime commits")
        touched = self._add(work)
        number, day = self._number + 1, work.now_ns // DAY_NS
        digests = self._digests.step(number, work.batches)
        forgotten: list[Stream] = []
        versions = (
            json.dumps(dict(work.versions), sort_keys=True, ensure_ascii=False) if work.versions else ""
        )
        faultpoint("commit.before_begin")
        with self._database.write() as connection:
            self._fence(connection, number)
            faultpoint("commit.after_fence")
            if day != self._day:
                forgotten = begin_day(connection, day, self._keep)
            _put_sequences(connection, touched, day)
            put_step(connection, digests, day)
            faultpoint("commit.after_sequences")
            _put_detector(connection, number, work)
            if versions and versions != self._versions:
                row = {"commit_no": number, "time_ns": work.now_ns, "body": versions}
                connection.execute(schema.versions.insert(), row)
            faultpoint("commit.after_detector")
            if work.entity_of is not None:
                move(connection, work.entity_of)
            _put_decision(connection, work)
            _put_position(connection, work)
            if work.intake is not None:
                put_intake(connection, work.intake, work.now_ns, day)
            faultpoint("commit.after_position")
        faultpoint("commit.after_commit")
        self._taken.drop(forgotten)
        self._taken.put(touched)
        self._digests.committed(digests)
        if day != self._day:
            self._digests.forget()
        self._number, self._day, self._versions = number, day, versions or self._versions

    def actions_after(self, number: int) -> list[Action]:
        """What people did to cases after action ``number``; see :attr:`Commit.last_action`."""
        return self.cases.actions_after(number)

    def close(self) -> None:
        """Let go of the file and of the role. Closing twice is harmless."""
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _add(self, work: Commit) -> dict[Stream, Intervals]:
        touched: dict[Stream, Intervals] = {}
        for batch_id, _ in work.batches:
            stream = batch_id[:3]
            taken = touched.setdefault(stream, self._taken.of(stream))
            if not taken.add(batch_id[3]):
                raise StateError(f"batch {batch_id} was committed before; leave duplicates out of a commit")
        return touched

    def _fence(self, connection: sa.Connection, number: int) -> None:
        head = schema.head
        mine = sa.and_(head.c.epoch == self._epoch, head.c.commit_no == number - 1)
        changed = connection.execute(sa.update(head).where(mine).values(commit_no=number))
        if changed.rowcount != 1:
            raise TakenOverError(
                said(
                    "{name}: another sekisho has taken this state over since this one opened it; "
                    "nothing was written; stop one of the two",
                    name=self.name,
                )
            )


def _take_epoch(database: Database) -> int:
    head = schema.head
    with database.write() as connection:
        connection.execute(sa.update(head).values(epoch=head.c.epoch + 1))
        return int(connection.execute(sa.select(head.c.epoch)).scalar_one())


def _put_sequences(connection: sa.Connection, touched: dict[Stream, Intervals], day: int) -> None:
    rows = [
        {"agent_id": agent, "run_id": run, "lane": lane, "intervals": taken.text(), "day": day}
        for (agent, run, lane), taken in touched.items()
    ]
    schema.put(connection, schema.sequences, rows)


def _put_detector(connection: sa.Connection, number: int, work: Commit) -> None:
    if work.snapshot is not None:
        connection.execute(sa.delete(schema.deltas))
        connection.execute(sa.delete(schema.snapshots))
        connection.execute(schema.snapshots.insert(), {"commit_no": number, "body": work.snapshot})
    elif work.decision.delta:
        connection.execute(schema.deltas.insert(), {"commit_no": number, "body": work.decision.delta})


def _put_decision(connection: sa.Connection, work: Commit) -> None:
    decision = work.decision
    add_rows(connection, decision.ledger)
    faultpoint("commit.after_ledger")
    put_findings(connection, decision.findings, work.now_ns)
    faultpoint("commit.after_findings")
    put_cases(connection, decision.cases)
    faultpoint("commit.after_cases")
    deliveries.queue(connection, decision.notices, work.notice_sinks, work.now_ns)
    faultpoint("commit.after_outbox")


def _put_position(connection: sa.Connection, work: Commit) -> None:
    change: dict[str, str | int] = {}
    if work.position:
        change["position"] = work.position
    if work.last_action:
        change["last_action"] = work.last_action
    if change:
        connection.execute(sa.update(schema.head).values(change))
