"""Messages decoded together: of each the rows, or the error, that it has alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import wire
from agent.core.errors import DecodeError
from agent.core.flow import COLUMNS, FlowBatch, Kind
from agent.core.together import decode_all
from tests.tools.rows import BATCHES, batch_of
from tests.unit.test_arriving import BROKEN, ROWS, record, with_column

LONGEST = {"process": 200}
COUNTS = [column.name for column in COLUMNS if column.kind is Kind.COUNT and not column.null]
UNDER_A_NULL = pa.Array.from_buffers(
    pa.uint64(),
    3,
    [
        pa.py_buffer(np.packbits([True, False, True], bitorder="little")),
        pa.py_buffer(np.array([1, 2**62, 3], np.uint64)),
    ],
)


def twice(record: pa.RecordBatch) -> bytes:
    """A stream that holds it two times."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record.schema) as writer:
        writer.write_batch(record)
        writer.write_batch(record)
    return bytes(sink.getvalue())


WHOLE = wire.encode(ROWS, header=False)
ODD: dict[str, bytes] = {
    **{how: made() for how, made in BROKEN.items()},
    "no Arrow": b"no Arrow",
    "empty": b"",
    "cut": WHOLE[: len(WHOLE) // 2],
    "two records": twice(record(ROWS)),
    "long text": wire.encode(batch_of([{"store": "a", "process": "x" * 201}] * 3), header=False),
    "null": with_column(ROWS, "octets_in", pa.array([1, None, 3], pa.uint64())),
    "under a null": with_column(ROWS, "source_octets_out", UNDER_A_NULL),
}


def alone(value: bytes) -> object:
    """What decoding it by itself gives."""
    try:
        return seen(wire.decode(value, LONGEST))
    except DecodeError as error:
        return type(error), str(error)


def seen(found: Any) -> object:
    """Rows and sums, or kind and words of an error, for comparison."""
    if not isinstance(found, FlowBatch):
        return type(found), str(found)
    return list(found.rows()), found.amounts(), [found.total(name) for name in COUNTS]


@given(st.lists(BATCHES, max_size=6))
def test_rows_are_those_of_each_message_alone(batches: list[FlowBatch]) -> None:
    """Of many messages, of one schema or several, each has its own rows and sums."""
    values = [wire.encode(batch, header=False) for batch in batches]
    assert [seen(found) for found in decode_all(values, LONGEST)] == [alone(value) for value in values]


@pytest.mark.parametrize("odd", ODD)
def test_a_broken_message_spoils_none_of_the_others(odd: str) -> None:
    """What is broken is refused in the same words as alone; those around it, of the same schema, keep their rows."""
    other = wire.encode(batch_of([{"store": "b", "octets_out": 7}] * 2), header=False)
    values = [WHOLE, ODD[odd], other, ODD[odd], WHOLE]
    assert [seen(found) for found in decode_all(values, LONGEST)] == [alone(value) for value in values]
    assert isinstance(decode_all(values, LONGEST)[0], FlowBatch)


def test_a_broken_amount_is_found_among_messages_of_its_own_schema() -> None:
    """One value that nobody has, in messages that are otherwise alike: one is refused, and the sums of the rest are right."""
    good = wire.encode(batch_of([{"octets_out": 5}] * 2), header=False)
    bad = wire.encode(batch_of([{"octets_out": 2**54}] * 2), header=False)
    found = decode_all([good, bad, good])
    assert [isinstance(one, FlowBatch) for one in found] == [True, False, True]
    assert [one.total("octets_out") for one in found if isinstance(one, FlowBatch)] == [10, 10]


def test_sums_that_pass_what_a_number_holds_are_exact() -> None:
    """More rows of the most than fit into 64 bits are added up without a limit."""
    value = wire.encode(batch_of([{"octets_out": 2**53}] * 1_100), header=False)
    (found,) = decode_all([value])
    assert isinstance(found, FlowBatch)
    assert found.total("octets_out") == 1_100 * 2**53
