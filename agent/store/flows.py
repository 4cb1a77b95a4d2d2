"""Reading the archive: finished Parquet files, and the journals of what is about to become one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from agent.core import wire
from agent.core.address import Network
from agent.core.clock import DAY_NS
from agent.core.errors import DecodeError, StateError
from agent.core.flow import FlowBatch, concat
from agent.store.asking import Question
from sinks.parquet import batches, parquet_of

_EPOCH = date(1970, 1, 1).toordinal()
_NULL_DAY = 2**31

Progress = Callable[[int, int], None]
"""Told the octets of files read and those of all there are to read."""


def read_flows(
    directory: Path,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    store: str | None = None,
    remote: Network | None = None,
    columns: Collection[str] | None = None,
    limit: int | None = None,
) -> Iterator[FlowBatch]:
    """The archived flows that ended in [since, until), of one store, to one remote network: see :func:`ask`.

    With ``limit``: the newest so many, newest first. Without: all, in no order.
    """
    question = Question(
        since_ns,
        until_ns,
        texts={} if store is None else {"store": (store,)},
        networks={} if remote is None else {"remote_address": (remote,)},
    )
    if limit is None:
        yield from ask(directory, question, columns=columns)
    elif newest := top(directory, question, limit, columns=columns):
        yield newest


def ask(
    directory: Path,
    question: Question,
    *,
    columns: Collection[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Iterator[FlowBatch]:
    """All rows that answer the question, newest day first and in no order within a day; a group of rows in memory.

    ``columns`` are read beside those that are never null; the others are null. Reads beside the writer: each row once,
    those of the last seconds included. Raises :class:`StateError` for a directory that holds no archive or a file
    that cannot be read.
    """
    reading = _Reading(directory, question, question.names(columns), progress)
    for _, folder in reading.days():
        yield from reading.day(folder)


def top(
    directory: Path,
    question: Question,
    limit: int,
    *,
    by: tuple[str, ...] = ("end_ns",),
    columns: Collection[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> FlowBatch | None:
    """The ``limit`` rows of the largest sum of the columns ``by``, largest first; None if no row answers. See :func:`ask`."""
    reading = _Reading(directory, question, question.names(columns), progress)
    best: FlowBatch | None = None
    newest = by == ("end_ns",)
    for day, folder in reading.days():
        if (
            newest
            and best is not None
            and len(best) >= limit
            and int(best["end_ns"][-1]) >= (day + 1) * DAY_NS
        ):
            break  # days come newest first: none of the rest can add a row
        for batch in reading.day(folder, newer_than=_bound(best, limit) if newest else None):
            joined = batch if best is None else concat([best, batch])
            order = sum((joined[name] for name in by), start=np.zeros(len(joined), np.int64))
            best = joined.take(np.argsort(-order, kind="stable")[:limit]).compact()
    return best


def octets_by_day(directory: Path, question: Question) -> dict[int, int]:
    """Octets of the files of each day since 1970 in which rows can answer; rows of no believable day are none of them.

    Raises :class:`StateError` for a directory that holds no archive.
    """
    reading = _Reading(directory, question, [], lambda done, total: None)
    found: dict[int, int] = {}
    for day, folder in reading.days():
        if day != _NULL_DAY:
            octets = sum(_octets(file) for file in folder.glob("host*=*/*part-*"))
            found[day] = found.get(day, 0) + octets
    return found


def _bound(best: FlowBatch | None, limit: int) -> Callable[[], int | None]:
    """The end of the oldest row that is kept, once there are enough of them."""
    return lambda: int(best["end_ns"][-1]) if best is not None and len(best) >= limit else None


@dataclass
class _Reading:
    """One pass over the files that can hold wanted rows."""

    directory: Path
    question: Question
    names: list[str]
    progress: Progress
    _done: int = 0
    _total: int = 0
    _folders: list[tuple[int, Path]] = field(default_factory=list)

    def days(self) -> Iterable[tuple[int, Path]]:
        """(day, folder) newest first; the null day counts as after all others. Raises :class:`StateError`."""
        root = self.directory / "flows"
        if not root.is_dir():
            raise StateError(
                f"{self.directory}: there is no archive here; `sekisho up` writes one, or check the folder"
            )
        self._folders = sorted(_days(root, self.question), key=lambda item: item[0], reverse=True)
        self._total = sum(_octets(f) for _, folder in self._folders for f in folder.glob("host*=*/*part-*"))
        return self._folders

    def day(self, folder: Path, newer_than: Callable[[], int | None] | None = None) -> Iterator[FlowBatch]:
        """Journals first: one that turns into Parquet meanwhile is then left out below, or found there for the first
        time. ``newer_than`` may say, before each file, that only rows from then on are still wanted."""
        read = set()
        for journal in sorted(folder.glob("host*=*/.part-*.journal")):
            if parquet_of(journal).exists():
                continue
            try:
                found = list(batches(journal))
            except FileNotFoundError:
                continue
            except (OSError, DecodeError) as error:
                raise StateError(
                    f"{journal}: cannot be read: {error}; move it away to read the rest"
                ) from error
            read.add(parquet_of(journal))
            yield from (rows for batch in found if len(rows := self.question.only(batch)))
            self._step(journal)
        for file in sorted(folder.glob("host*=*/part-*.parquet")):
            if file not in read:
                least = newer_than() if newer_than else None
                yield from self._file(file, self._from(least))
            self._step(file)

    def _from(self, least_ns: int | None) -> Question:
        if least_ns is None or (self.question.since_ns or 0) >= least_ns:
            return self.question
        return replace(self.question, since_ns=least_ns)

    def _file(self, file: Path, question: Question) -> Iterator[FlowBatch]:
        try:
            # Given a path, Arrow expands ~ in it and takes it for UTF-8; given a file of Python's, its threads need the
            # interpreter, and may ask for it when that is gone (apache/arrow issue 34314: the process aborts at its exit).
            with file.open("rb") as opened, pa.OSFile(f"/proc/self/fd/{opened.fileno()}") as native:
                fragment = pads.ParquetFileFormat().make_fragment(native)
                wanted = {"columns": self.names, "filter": question.filter()}
                for record in fragment.to_batches(wire.arrow_schema(), **wanted):
                    if record.num_rows and len(rows := question.only(wire.from_arrow(record))):
                        yield rows
        except FileNotFoundError:
            return  # its day was removed meanwhile
        except (OSError, pa.ArrowException, DecodeError) as error:
            raise StateError(f"{file}: cannot be read: {error}; move it away to read the rest") from error

    def _step(self, file: Path) -> None:
        self._done += _octets(file)
        self.progress(self._done, max(self._total, self._done))


def _octets(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _days(root: Path, question: Question) -> Iterator[tuple[int, Path]]:
    for folder in root.glob("day=*"):
        try:
            day = date.fromisoformat(folder.name.removeprefix("day=")).toordinal() - _EPOCH
        except ValueError:
            yield _NULL_DAY, folder
            continue
        if question.holds(day):
            yield day, folder
