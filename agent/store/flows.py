"""Reading the archive: finished Parquet files, and the journals of what is about to become one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray

from agent.core import wire
from agent.core.address import Network, NetworkSet
from agent.core.clock import DAY_NS
from agent.core.errors import DecodeError, StateError
from agent.core.flow import COLUMNS, FlowBatch, concat
from sinks.parquet import batches, parquet_of

_EPOCH = date(1970, 1, 1).toordinal()


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
    """The archived flows that ended in [since, until), of one store, to one remote network.

    With ``limit``: the newest so many, newest first. Without: all, in no order. ``columns`` are read beside those that
    are never null; the others are null. Reads beside the writer: each row once, those of the last seconds included.
    Raises :class:`StateError` for a directory that holds no archive or a file that cannot be read.
    """
    root = directory / "flows"
    if not root.is_dir():
        raise StateError(
            f"{directory}: there is no archive here; `sekisho up` writes one, or check the folder"
        )
    question = _Question(since_ns, until_ns, store, remote, _names(columns, store))
    days = sorted(_days(root, question), key=lambda item: item[0], reverse=True)
    if limit is None:
        for _, folder in days:
            yield from _read_day(folder, question)
    elif newest := _newest(days, question, limit):
        yield newest


@dataclass(frozen=True, slots=True)
class _Question:
    since_ns: int | None
    until_ns: int | None
    store: str | None
    remote: Network | None
    names: list[str]

    def holds(self, day: int) -> bool:
        """Whether a row of that day can be wanted."""
        after = self.since_ns is None or (day + 1) * DAY_NS > self.since_ns
        return after and (self.until_ns is None or day * DAY_NS < self.until_ns)

    def only(self, batch: FlowBatch) -> FlowBatch:
        """The wanted rows."""
        wanted: NDArray[np.bool_] = np.ones(len(batch), bool)
        if self.since_ns is not None:
            wanted &= batch["end_ns"] >= self.since_ns
        if self.until_ns is not None:
            wanted &= batch["end_ns"] < self.until_ns
        if self.store is not None:
            wanted &= batch.text("store").where(self.store)
        if self.remote is not None:
            wanted &= NetworkSet([self.remote]).contains(batch["remote_address"])
        return batch if wanted.all() else batch.take(wanted)

    def filter(self) -> pads.Expression | None:
        """What lets Parquet skip whole groups of rows."""
        when = pa.timestamp("ns", "UTC")
        tests = []
        if self.since_ns is not None:
            tests.append(pads.field("end_ns") >= pa.scalar(self.since_ns, pa.int64()).cast(when))
        if self.until_ns is not None:
            tests.append(pads.field("end_ns") < pa.scalar(self.until_ns, pa.int64()).cast(when))
        if self.store is not None:
            tests.append(pads.field("store") == self.store)
        joined = None
        for test in tests:
            joined = test if joined is None else joined & test
        return joined


def _names(columns: Collection[str] | None, store: str | None) -> list[str]:
    if columns is None:
        return [column.name for column in COLUMNS]
    if unknown := set(columns) - {column.name for column in COLUMNS}:
        raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
    wanted = {*columns, *(["store"] if store is not None else [])}
    return [column.name for column in COLUMNS if not column.null or column.name in wanted]


def _days(root: Path, question: _Question) -> Iterator[tuple[int, Path]]:
    """(day, folder) of the days that can hold wanted rows; the null day counts as after all others."""
    for folder in root.glob("day=*"):
        try:
            day = date.fromisoformat(folder.name.removeprefix("day=")).toordinal() - _EPOCH
        except ValueError:
            yield 2**31, folder
            continue
        if question.holds(day):
            yield day, folder


def _newest(days: Iterable[tuple[int, Path]], question: _Question, limit: int) -> FlowBatch | None:
    """The newest rows of all days, which come newest first; stops at a day that cannot add any."""
    best: FlowBatch | None = None
    for day, folder in days:
        if best is not None and len(best) >= limit and int(best["end_ns"][-1]) >= (day + 1) * DAY_NS:
            break
        for batch in _read_day(folder, question):
            joined = batch if best is None else concat([best, batch])
            best = joined.take(np.argsort(-joined["end_ns"], kind="stable")[:limit])
    return best


def _read_day(folder: Path, question: _Question) -> Iterator[FlowBatch]:
    """Journals first: one that turns into Parquet meanwhile is then left out below, or found there for the first time."""
    read = set()
    for journal in sorted(folder.glob("host=*/.part-*.journal")):
        if parquet_of(journal).exists():
            continue
        try:
            found = list(batches(journal))
        except FileNotFoundError:
            continue
        except (OSError, DecodeError) as error:
            raise StateError(f"{journal}: cannot be read: {error}; move it away to read the rest") from error
        read.add(parquet_of(journal))
        yield from (rows for batch in found if len(rows := question.only(batch)))
    for file in sorted(folder.glob("host=*/part-*.parquet")):
        if file not in read:
            yield from _read_file(file, question)


def _read_file(file: Path, question: _Question) -> Iterator[FlowBatch]:
    try:
        # Given a path, Arrow expands ~ in it and takes it for UTF-8.
        with file.open("rb") as opened:
            fragment = pads.ParquetFileFormat().make_fragment(pa.PythonFile(opened))
            wanted = {"columns": question.names, "filter": question.filter()}
            for record in fragment.to_batches(wire.arrow_schema(), **wanted):
                if record.num_rows and len(rows := question.only(wire.from_arrow(record))):
                    yield rows
    except FileNotFoundError:
        return  # its day was removed meanwhile
    except (OSError, pa.ArrowException, DecodeError) as error:
        raise StateError(f"{file}: cannot be read: {error}; move it away to read the rest") from error
