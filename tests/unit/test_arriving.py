"""Columns that are unpacked when they are first asked for: the same rows, and nothing that could fail later."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import wire
from agent.core.errors import DecodeError
from agent.core.flow import COLUMNS, FlowBatch, Kind, Text, concat
from tests.tools.rows import BATCHES, batch_of

TEXTS = [column.name for column in COLUMNS if column.kind is Kind.TEXT]


def plain(batch: FlowBatch) -> list[dict[str, object]]:
    """Every row."""
    return list(batch.rows())


def record(batch: FlowBatch) -> pa.RecordBatch:
    """It as Arrow."""
    with pa.ipc.open_stream(wire.encode(batch, header=False)) as reader:
        return next(iter(reader))


def message(record: pa.RecordBatch) -> bytes:
    """Arrow as octets."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record.schema) as writer:
        writer.write_batch(record)
    return bytes(sink.getvalue())


def with_column(batch: FlowBatch, name: str, array: pa.Array) -> bytes:
    """The batch's message with another column."""
    made = record(batch)
    fields, columns = list(made.schema), list(made.columns)
    at = made.schema.get_field_index(name)
    if at < 0:
        fields.append(pa.field(name, array.type))
        columns.append(array)
    else:
        fields[at], columns[at] = pa.field(name, array.type), array
    return message(
        pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, metadata=made.schema.metadata))
    )


@given(BATCHES, st.data())
def test_whatever_is_done_with_it_the_rows_are_those_of_a_whole_batch(
    batch: FlowBatch, data: st.DataObject
) -> None:
    """Taking rows, replacing columns, joining and compacting give what they give for a batch that was unpacked whole."""
    value = wire.encode(batch)
    assert plain(wire.decode(value)) == plain(batch)
    assert wire.decode(value).amounts() == batch.amounts()
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=len(batch), max_size=len(batch))), bool)
    assert plain(wire.decode(value).take(wanted)) == plain(batch.take(wanted))
    assert plain(wire.decode(value).take(slice(1, 3))) == plain(batch.take(slice(1, 3)))
    assert plain(wire.decode(value).compact()) == plain(batch)
    assert plain(concat([wire.decode(value), batch])) == plain(concat([batch, batch]))
    changed = {"store": Text.full(len(batch), "a"), "octets_out": batch["octets_out"] + 1}
    first = wire.decode(value)
    later = first.with_columns(**changed).with_header(host="h")
    assert plain(later) == plain(batch.with_columns(**changed))
    assert plain(first) == plain(batch)
    assert wire.encode(wire.decode(value).under(batch.header)) == value


@given(BATCHES)
def test_a_batch_in_several_records_is_the_same(batch: FlowBatch) -> None:
    """A stream of two record batches, as others may write it, gives the rows of both."""
    made = record(batch)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_batch(made)
        writer.write_batch(made)
    assert plain(wire.decode(bytes(sink.getvalue()))) == plain(concat([batch, batch]))


ROWS = batch_of([{"store": "a", "process": "p"}, {"store": "b", "process": None}, {"store": None}])

BROKEN: dict[str, Callable[[], bytes]] = {
    "amount": lambda: with_column(ROWS, "octets_out", pa.array([1, 2**60, 3], pa.uint64())),
    "null": lambda: with_column(ROWS, "octets_in", pa.array([1, None, 3], pa.uint64())),
    "type": lambda: with_column(ROWS, "packets_in", pa.array(["1", "2", "3"])),
    "number": lambda: with_column(ROWS, "process", pa.array([1, 2, 3])),
    "code": lambda: with_column(
        ROWS,
        "process",
        pa.DictionaryArray.from_arrays(pa.array([0, 7, 1], pa.int8()), pa.array(["a", "b"]), safe=False),
    ),
    "negative": lambda: with_column(
        ROWS,
        "process",
        pa.DictionaryArray.from_arrays(pa.array([0, -7, 1], pa.int8()), pa.array(["a", "b"]), safe=False),
    ),
    "letters": lambda: with_column(
        ROWS,
        "process",
        pa.Array.from_buffers(
            pa.string(),
            3,
            [None, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"\xff\xfe\xfd")],
        ),
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_cannot_be_unpacked_is_refused_at_once(how: str) -> None:
    """Amounts nobody has, nulls where there must be none, other types, codes outside of the dictionary, no UTF-8."""
    with pytest.raises(DecodeError):
        wire.decode(BROKEN[how]())


def test_a_column_twice_or_not_there_is_refused() -> None:
    """A required column must stand there, and none twice."""
    made = record(ROWS)
    twice = pa.RecordBatch.from_arrays(
        [*made.columns, made.column(0)], schema=pa.schema([*made.schema, made.schema.field(0)])
    )
    with pytest.raises(DecodeError):
        wire.decode(message(twice))
    with pytest.raises(DecodeError):
        wire.decode(message(made.drop_columns(["octets_out"])))


def test_a_null_within_a_dictionary_is_null() -> None:
    """Arrow lets a dictionary hold a null; whoever points to it says null."""
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int8()), pa.array(["a", None]))
    assert wire.decode(with_column(ROWS, "process", array)).text("process").decode() == ["a", None, "a"]


def test_what_lies_under_a_null_is_not_looked_at() -> None:
    """An amount that is null may have anything beneath."""
    bits = pa.py_buffer(np.packbits([True, False, True], bitorder="little"))
    numbers = pa.py_buffer(np.array([1, 2**62, 3], np.uint64))
    array = pa.Array.from_buffers(pa.uint64(), 3, [bits, numbers])
    found = wire.decode(with_column(ROWS, "source_octets_out", array))
    assert found["source_octets_out"].tolist() == [1, -1, 3]


@pytest.mark.parametrize("text", ["x" * 201, "日" * 67, "a\0b"])
def test_texts_that_no_state_takes_are_refused_where_rows_are_of_a_store(text: str) -> None:
    """Longer than asked for in octets, or with a zero, in any form that Arrow has for texts."""
    longest = {"process": 200}
    held = batch_of([{"store": "a", "process": "ok"}, {"store": "a", "process": text}])
    with pytest.raises(wire.TextError):
        wire.decode(wire.encode(held), longest)
    with pytest.raises(wire.TextError):
        wire.decode(with_column(held, "process", pa.array(["ok", text])), longest)
    twice = pa.BufferOutputStream()
    made = record(held)
    with pa.ipc.new_stream(twice, made.schema) as writer:
        writer.write_batch(made)
        writer.write_batch(made)
    with pytest.raises(wire.TextError):
        wire.decode(bytes(twice.getvalue()), longest)
    wire.decode(wire.encode(batch_of([{"process": text}])), longest)
    wire.decode(
        wire.encode(batch_of([{"store": "a", "process": text[:100].replace("\0", "")[:60]}])), longest
    )
