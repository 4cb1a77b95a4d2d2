"""Many messages decoded together: of the small ones that a fleet sends, what is asked of each costs more than its rows do.

Whatever the messages, each has the batch or the error that :func:`agent.core.wire.decode` gives for it alone. Those of one
schema are checked and their amounts unpacked as one column; where that check fails for any of them, each is decoded
alone, which finds the one that is broken and says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agent.core import wire
from agent.core.errors import DecodeError
from agent.core.flow import BY_NAME, ColumnData, FlowBatch

Found = FlowBatch | DecodeError | MemoryError
"""A message's rows, or why there are none."""
_READ_OF_ALL: Final = ("end_ns", "marks")
"""Besides amounts, what is read of every message."""


@dataclass(slots=True)
class _Group:
    """Messages of one schema, each with one record batch."""

    places: wire.Places
    at: list[int] = field(default_factory=list)
    records: list[pa.RecordBatch] = field(default_factory=list)


def decode_all(messages: Sequence[bytes], longest: Mapping[str, int] | None = None) -> list[Found]:
    """The batch of each message, as :func:`agent.core.wire.decode` gives it, or what that raises."""
    found: dict[int, Found] = {}
    groups: dict[int, _Group] = {}
    for at, message in enumerate(messages):
        try:
            reader = pa.ipc.RecordBatchStreamReader(pa.py_buffer(message))
            records = list(reader)
            if len(records) != 1:
                continue
            places = wire.places_in(message, reader.schema)
        except (pa.ArrowException, OSError, ValueError, DecodeError, MemoryError):
            continue
        group = groups.setdefault(id(places), _Group(places))
        group.at.append(at)
        group.records.append(records[0])
    for group in groups.values():
        found.update(zip(group.at, _batches(group, longest or {}), strict=False))
    return [found[at] if at in found else _alone(message, longest) for at, message in enumerate(messages)]


def _alone(message: bytes, longest: Mapping[str, int] | None) -> Found:
    try:
        return wire.decode(message, longest)
    except (DecodeError, MemoryError) as error:
        return error


def _batches(group: _Group, longest: Mapping[str, int]) -> Iterator[Found]:
    """The batch of each record of the group, or the error of its texts; nothing where they are to be decoded alone."""
    try:
        columns, totals = _columns(group)
    except (pa.ArrowException, ValueError, DecodeError, MemoryError):
        return
    ends = np.cumsum([record.num_rows for record in group.records]).tolist()
    for i, (record, end) in enumerate(zip(group.records, ends, strict=True)):
        rows = slice(end - record.num_rows, end)
        known: dict[str, ColumnData] = {name: values[rows] for name, values in columns.items()}
        sums = {name: values[i] for name, values in totals.items()}
        try:
            yield wire.arriving(record, group.places, longest, known, sums)
        except DecodeError as error:
            yield error


def _columns(group: _Group) -> tuple[dict[str, NDArray[Any]], dict[str, list[int]]]:
    """Columns of all records one after another, and the sums of each. Raises where any record is not as it must be."""
    table, places = pa.Table.from_batches(group.records), group.places
    table.validate(full=True)
    for column, index in places.required:
        if table.column(index).null_count:
            raise DecodeError(f"column {column.name} holds nulls and must not")
    lengths = [record.num_rows for record in group.records]
    begins = np.cumsum([0, *lengths[:-1]])
    columns: dict[str, NDArray[Any]] = {}
    totals: dict[str, list[int]] = {}
    for column, index in places.counts:
        array = _joined(table.column(index))
        wire.check_amounts(column, array)
        values: Any = wire.unpacked(column, array)
        columns[column.name] = values
        # No sum of rows passes 2**63: there are fewer than 1,024 of the most that a row may have.
        if not column.null and min(lengths) and max(lengths) < 2**63 // wire.MOST:
            totals[column.name] = np.add.reduceat(values, begins).tolist()
    for name in _READ_OF_ALL:
        if name in places.all:
            data: Any = wire.unpacked(BY_NAME[name], _joined(table.column(places.all[name])))
            columns[name] = data
    return columns, totals


def _joined(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined
