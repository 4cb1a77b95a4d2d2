"""Copies of the state to keep: made while the program runs, put back, and looked through.

A copy is one SQLite file, whatever database it was made from, so that it can be put back into either. Beside it stands
``FILE.json`` with its digest and the rows of each table.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from agent.core.clock import DAY_NS
from agent.core.errors import StateError
from agent.store import schema
from agent.store.database import (
    APPLICATION_ID,
    Database,
    RuntimeLock,
    SqliteDatabase,
    open_database,
    translated,
)

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""
_PAGES: Final = 2_048
_ROWS: Final = 5_000
_BUSY_S: Final = 5.0
_OF_ONE_SERVER: Final = frozenset(("leases",))
"""Tables that say something of the running programs only."""
BEFORE: Final = ".before-restore"
"""Ending of the file that a restore has put aside."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a copy holds."""

    made_ns: int
    source: str
    schema_version: int
    sha256: str
    octets: int
    rows: dict[str, int]
    """By table."""

    @classmethod
    def beside(cls, path: Path) -> Manifest:
        """The one of a copy. Raises :class:`StateError`."""
        file = manifest_of(path)
        try:
            return cls(**json.loads(file.read_text()))
        except OSError as error:
            raise StateError(
                f"{file}: {error.strerror}; it belongs to the copy, keep the two together"
            ) from error
        except (ValueError, TypeError) as error:
            raise StateError(
                f"{file}: this is no list of a copy; it was written by `ledger backup`"
            ) from error


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    """Words key."""
    faults: int
    looked_at: int
    examples: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether it is as it should be."""
        return self.faults == 0


def manifest_of(path: Path) -> Path:
    """Where the list of a copy stands."""
    return path.with_name(path.name + ".json")


# making a copy


def backup(
    database: Database,
    path: Path,
    *,
    now_ns: int,
    overwrite: bool = False,
    progress: Progress = lambda a, b: None,
) -> Manifest:
    """Copy the state as of one moment, beside a program that goes on writing. Raises :class:`StateError`."""
    if path.exists() and not overwrite:
        raise StateError(f"{path}: is there already; name another file, or say --overwrite")
    part = path.with_name(path.name + ".part")
    with translated(path):
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            if isinstance(database, SqliteDatabase):
                _copy_pages(database, part, progress)
            else:
                _copy_rows(database, part, progress)
            digest, octets = _digest(part)
            manifest = Manifest(now_ns, database.name, _read_version(part), digest, octets, _counts(part))
            _write(manifest_of(path), json.dumps(asdict(manifest), indent=1).encode())
            part.replace(path)
            _sync_folder(path)
        finally:
            part.unlink(missing_ok=True)
    return manifest


def _copy_pages(database: SqliteDatabase, part: Path, progress: Progress) -> None:
    source_uri = f"{database.path.absolute().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(source_uri, uri=True, timeout=_BUSY_S, isolation_level=None)) as source,
        closing(sqlite3.connect(part, isolation_level=None)) as target,
    ):
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM head").fetchone()  # from here on it sees one moment
        source.backup(target, pages=_PAGES, progress=lambda _, left, total: progress(total - left, total))
        source.execute("COMMIT")
        target.execute("PRAGMA journal_mode = DELETE")


def _copy_rows(database: Database, part: Path, progress: Progress) -> None:
    target = sa.create_engine(f"sqlite:///{part}")
    try:
        with database.read() as source, target.begin() as kept:
            kept.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            schema.metadata.create_all(kept)
            _pour(source, kept, progress)
    finally:
        target.dispose()


def _pour(source: sa.Connection, target: sa.Connection, progress: Progress) -> None:
    """Every row of every table from one database into another, whose tables are empty."""
    tables = [t for t in schema.metadata.sorted_tables if t.name not in _OF_ONE_SERVER]
    total = sum(source.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in tables)
    done = 0
    for table in tables:
        streamed = source.execution_options(stream_results=True).execute(sa.select(table))
        for rows in streamed.mappings().partitions(_ROWS):
            target.execute(table.insert(), [dict(row) for row in rows])
            done += len(rows)
            progress(done, total)


# putting one back


def restore_file(
    path: Path, state: Path, *, overwrite: bool = False, progress: Progress = lambda a, b: None
) -> Manifest:
    """Put a copy in place as a state file; one that is there is put aside under :data:`BEFORE`. Raises
    :class:`StateError` if a program has it open, or it is there and ``overwrite`` was not said."""
    manifest = _whole(path)
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = RuntimeLock(state.with_name(state.name + ".lock"))
    try:
        if state.exists() and not overwrite:
            raise StateError(f"{state}: there is a state already; say --overwrite to put it aside")
        part = state.with_name(state.name + ".part")
        with translated(state):
            _copy_file(path, part, progress)
            if state.exists():
                _settle(state)
                state.replace(state.with_name(state.name + BEFORE))
            for ending in ("-wal", "-shm"):
                state.with_name(state.name + ending).unlink(missing_ok=True)
            part.replace(state)
            _sync_folder(state)
        database = open_database(
            state, create=True, whole=False, now_ns=manifest.made_ns, busy_timeout_s=_BUSY_S
        )
        with database.write() as connection:
            _raise_epoch(connection, 0)
        database.run_alone("PRAGMA journal_mode = WAL")
        database.close()
    finally:
        lock.release()
    return manifest


def restore_rows(
    path: Path, database: Database, *, overwrite: bool = False, progress: Progress = lambda a, b: None
) -> Manifest:
    """Put a copy into the tables of an open database that nobody leads, in one transaction. Raises :class:`StateError`
    if they hold anything and ``overwrite`` was not said."""
    manifest = _whole(path)
    source = open_database(path, create=False, whole=False, now_ns=0, busy_timeout_s=_BUSY_S)
    try:
        with database.write() as connection, source.read() as kept:
            number, epoch = connection.execute(sa.select(schema.head.c.commit_no, schema.head.c.epoch)).one()
            if number and not overwrite:
                raise StateError(f"{database.name}: there is a state already; say --overwrite to replace it")
            for table in reversed(schema.metadata.sorted_tables):
                if table.name not in _OF_ONE_SERVER:
                    connection.execute(sa.delete(table))
            _pour(kept, connection, progress)
            _raise_epoch(connection, epoch)
            if connection.dialect.name == "postgresql":
                _count_on(connection)
    finally:
        source.close()
    return manifest


def _raise_epoch(connection: sa.Connection, epoch: int) -> None:
    """Whoever wrote before writes no more."""
    kept = connection.execute(sa.select(schema.head.c.epoch)).scalar_one()
    connection.execute(sa.update(schema.head).values(epoch=max(kept, epoch) + 1))


def _count_on(connection: sa.Connection) -> None:
    """Numbers that PostgreSQL gives by itself go on after the largest that came."""
    for table in schema.metadata.sorted_tables:
        for column in table.primary_key:
            if column.autoincrement is True:
                largest = connection.execute(sa.select(sa.func.max(column))).scalar_one()
                if largest is not None:
                    name = sa.func.pg_get_serial_sequence(table.name, column.name)
                    connection.execute(sa.select(sa.func.setval(name, largest)))


def _whole(path: Path) -> Manifest:
    """The list of a copy that is as it was made. Raises :class:`StateError`."""
    if not path.exists():
        raise StateError(f"{path}: there is no such copy; `sekisho ledger backup` makes one")
    manifest = Manifest.beside(path)
    with translated(path):
        found = _digest(path)[0]
    if found != manifest.sha256:
        raise StateError(f"{path}: differs from what was copied (SHA-256 {found[:12]}); take another copy")
    return manifest


def _copy_file(path: Path, part: Path, progress: Progress) -> None:
    total, done = path.stat().st_size, 0
    with (
        path.open("rb") as source,
        os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as out,
    ):
        while piece := source.read(1 << 20):
            out.write(piece)
            done += len(piece)
            progress(done, total)
        out.flush()
        os.fsync(out.fileno())


def _settle(state: Path) -> None:
    """What is still in the write-ahead log goes into the file, so that the file alone can be put aside."""
    with closing(sqlite3.connect(state)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def _read_version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT schema_version FROM head").fetchone()[0])


def _counts(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        names = sorted(
            row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        )
        kept = [name for name in names if not name.startswith("sqlite_")]
        return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in kept}


# looking through one


def verify_copy(path: Path, *, now_ns: int) -> list[Check]:
    """Look through a copy: its digest and counts, then what :func:`verify` looks at. Raises :class:`StateError`."""
    manifest = _whole(path)
    with translated(path):
        counts = _counts(path)
    other = [name for name in manifest.rows if counts.get(name) != manifest.rows[name]]
    database = open_database(path, create=False, whole=False, now_ns=now_ns, busy_timeout_s=_BUSY_S)
    try:
        return [Check("counts", len(other), len(counts), tuple(other[:5])), *verify(database, now_ns=now_ns)]
    finally:
        database.close()


def verify(database: Database, *, now_ns: int, progress: Progress = lambda a, b: None) -> list[Check]:
    """Whether the state is whole and what must hold of the ledger holds. Reads one moment. Raises :class:`StateError`."""
    checks: list[Check] = []
    if isinstance(database, SqliteDatabase):
        said = database.run_alone("PRAGMA integrity_check(5)")
        checks.append(Check("pages", int(said != "ok"), 1, () if said == "ok" else (said,)))
    with database.read() as connection:
        looks = list(_looks(now_ns // DAY_NS))
        for done, (name, of, wrong) in enumerate(looks):
            progress(done, len(looks))
            total = connection.execute(sa.select(sa.func.count()).select_from(of)).scalar_one()
            found = connection.execute(wrong.limit(6)).all()
            faults = len(found)
            if faults > 5:
                faults = connection.execute(
                    sa.select(sa.func.count()).select_from(wrong.subquery())
                ).scalar_one()
            checks.append(Check(name, faults, total, tuple(_said(row) for row in found[:5])))
    return checks


def _said(row: Any) -> str:
    return " ".join(str(value) for value in row if value != "")


def _looks(today: int) -> Iterator[tuple[str, sa.Table, sa.Select[Any]]]:
    """(name, table, question for the rows that are wrong)."""
    ledger, days = schema.ledger, schema.ledger_days
    keys = [ledger.c[name] for name in schema.DAYS_KEY]
    sums = [sa.cast(sa.func.sum(ledger.c[name]), sa.BigInteger).label(name) for name in schema.DAYS_SUMS]
    wide = sa.select(*keys, *sums).group_by(*keys)
    narrow = sa.select(*(days.c[name] for name in (*schema.DAYS_KEY, *schema.DAYS_SUMS)))
    yield "days_not_summed", days, sa.select(wide.except_(narrow).subquery())
    yield "days_without_rows", days, sa.select(narrow.except_(wide).subquery())
    pairs = schema.ledger_pairs
    of_days = [days.c[name] for name in schema.PAIRS_KEY]
    sums = [sa.cast(sa.func.sum(days.c[name]), sa.BigInteger).label(name) for name in schema.DAYS_SUMS]
    wide = sa.select(*of_days, *sums).group_by(*of_days)
    narrow = sa.select(*(pairs.c[name] for name in (*schema.PAIRS_KEY, *schema.DAYS_SUMS)))
    yield "pairs_not_summed", pairs, sa.select(wide.except_(narrow).subquery())
    yield "pairs_without_days", pairs, sa.select(narrow.except_(wide).subquery())
    yield "future", ledger, sa.select(ledger.c.day, ledger.c.store).where(ledger.c.day > today + 1)
    amounts = [ledger.c[name] < 0 for name in schema.LEDGER_SUMS]
    impossible = sa.or_(*amounts, ledger.c.late_octets > ledger.c.content_octets_out)
    yield "amounts", ledger, sa.select(ledger.c.day, ledger.c.store, ledger.c.entity).where(impossible)
    nameless = sa.or_(*(ledger.c[name] == "" for name in ("tenant", "store", "entity")), ledger.c.day < 0)
    yield "keys", ledger, sa.select(ledger.c.day, ledger.c.store, ledger.c.entity).where(nameless)
    known, ended = schema.identities, schema.ended_keys
    yield (
        "agents",
        known,
        sa.select(known.c.agent_id).where(
            sa.or_(
                sa.func.length(known.c.public_key) != 32,
                sa.and_(
                    known.c.how != "revoked",
                    sa.exists().where(
                        ended.c.agent_id == known.c.agent_id, ended.c.public_key == known.c.public_key
                    ),
                ),
            )
        ),
    )
