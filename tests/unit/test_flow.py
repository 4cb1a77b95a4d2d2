"""FlowBatch, the schema table and the Arrow wire."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from agent.core import wire
from agent.core.accounts import Amounts
from agent.core.errors import DecodeError
from agent.core.flow import BY_NAME, COLUMNS, BatchHeader, FlowBatch, Mark, Text, concat
from tests.tools.rows import BATCHES, batch_of


@given(BATCHES)
def test_wire_gives_back_every_value(batch: FlowBatch) -> None:
    """What is encoded and decoded is equal, nulls included."""
    assert list(wire.decode(wire.encode(batch)).rows()) == list(batch.rows())


@given(BATCHES, BATCHES)
def test_concat_keeps_rows_and_amounts(first: FlowBatch, second: FlowBatch) -> None:
    """Two batches one after another hold the rows of both and the sum of their amounts."""
    both = concat([first, second])
    assert list(both.rows()) == list(first.rows()) + list(second.rows())
    assert both.amounts() == first.amounts() + second.amounts()


@given(BATCHES)
def test_compact_changes_no_value(batch: FlowBatch) -> None:
    """Compacting dictionaries changes no row and leaves only values that are used."""
    compact = batch.compact()
    assert list(compact.rows()) == list(batch.rows())
    for column, data in compact.columns():
        if isinstance(data, Text):
            assert set(data.values) == {t for t in data.decode() if t is not None}, column.name


def test_header_travels_with_the_batch() -> None:
    """Agent, run, lane, sequence and versions come back from the wire."""
    header = BatchHeader(
        "agent", "run", 1, 7, "db-01", "pcap", 12, {"country": "x 2026-09"}, None, "f.pcap:24"
    )
    assert wire.decode(wire.encode(batch_of([{}], header))).header == header


def test_ipv4_is_mapped_on_the_wire() -> None:
    """An IPv4 address travels as 16 bytes, v4-mapped, in network order (RFC 4291 section 2.5.5.2)."""
    record = wire.to_arrow(batch_of([{"local_address": "192.0.2.1"}]))
    assert record.column("local_address")[0].as_py() == bytes(10) + b"\xff\xff\xc0\x00\x02\x01"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"colour": np.zeros(1)}, "no such column: colour"),
        ({}, "column local_address is missing and cannot be null"),
        ({"local_address": np.zeros((2, 2), np.uint64)}, "column local_address has 2 rows, expected 1"),
        ({"local_address": np.zeros(1, np.uint64)}, "column local_address has shape (1,), expected (1, 2)"),
        ({"local_address": Text.of(["x"])}, "column local_address holds no text"),
    ],
)
def test_a_wrong_column_is_refused(columns: dict[str, np.ndarray], said: str) -> None:
    """A batch cannot be built from unknown, missing or ill-shaped columns."""
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        FlowBatch.build(1, columns)


@pytest.mark.parametrize("message", [b"", b"ARROW1", b"\x00" * 64, wire.encode(batch_of([{}]))[:100]])
def test_bytes_that_are_no_message_are_a_decode_error(message: bytes) -> None:
    """Anything but an Arrow IPC stream raises DecodeError."""
    with pytest.raises(DecodeError):
        wire.decode(message)


def test_a_column_of_another_type_is_a_decode_error() -> None:
    """A message whose octets are text is refused by name."""
    record = wire.to_arrow(batch_of([{}]))
    index = record.schema.get_field_index("octets_out")
    changed = pa.table(record).set_column(index, "octets_out", pa.array(["many"]))
    with pytest.raises(DecodeError, match="column octets_out is string, expected uint64"):
        wire.from_arrow(changed)


def test_unknown_columns_are_left_out_and_missing_ones_are_null() -> None:
    """A newer or older schema decodes: columns that we do not know are ignored, nullable ones that are missing are null."""
    table = pa.table(wire.to_arrow(batch_of([{"process": "postgres"}])))
    changed = table.append_column("mood", pa.array(["good"])).drop_columns(["process"])
    assert next(wire.from_arrow(changed).rows()) == next(batch_of([{}]).rows())


def test_every_column_says_what_it_means() -> None:
    """No column stands in the schema without a meaning, and amounts and times have units."""
    assert [c.name for c in COLUMNS if not c.meaning] == []
    assert [c.name for c in COLUMNS if c.kind.value in ("count", "time") and not c.unit] == []


def test_marks_are_single_bits_within_the_column() -> None:
    """Marks can be joined: each is one bit of sixteen."""
    assert [m for m in Mark if m.value & (m.value - 1) or m.value >= 2**16] == []


def test_amounts_never_turn_into_floats() -> None:
    """Sums of the largest amounts stay whole numbers."""
    big = batch_of([{"octets_out": 2**61}, {"octets_out": 2**61 + 1}])
    assert big.amounts() == Amounts(2, 2**62 + 1, 1000)
    assert BY_NAME["octets_out"].kind.value == "count"


def test_null_columns_stay_at_home_and_come_back_null() -> None:
    """What is null in every row takes no room in a message."""
    batch = batch_of([{"process": "postgres"}, {}])
    with pa.ipc.open_stream(wire.encode(batch)) as reader:
        sent = set(reader.schema.names)
    assert {c.name for c in COLUMNS if not c.null} | {"process"} <= sent
    assert "executable" not in sent
    assert list(wire.decode(wire.encode(batch)).rows()) == list(batch.rows())


def test_codes_outside_of_the_dictionary_are_a_decode_error() -> None:
    """A message whose codes point nowhere is refused, for it would fail later, or read what is not its own."""
    table = pa.table(wire.to_arrow(batch_of([{"process": "postgres"}])))
    wrong = pa.DictionaryArray.from_arrays(pa.array([7], pa.int32()), pa.array(["x"]), safe=False)
    changed = table.set_column(table.schema.get_field_index("process"), "process", wrong)
    with pytest.raises(DecodeError):
        wire.from_arrow(changed)


def test_amounts_that_nobody_can_have_sent_are_a_decode_error() -> None:
    """A row of 2^63 octets is refused: sums of such would turn negative."""
    table = pa.table(wire.to_arrow(batch_of([{}])))
    wrong = pa.array([2**63], pa.uint64())
    changed = table.set_column(table.schema.get_field_index("octets_out"), "octets_out", wrong)
    with pytest.raises(DecodeError, match="octets_out holds an amount above"):
        wire.from_arrow(changed)


@pytest.mark.parametrize("name", ["remote_asn", "remote_owner", "nat_address"])
def test_nulls_of_all_lengths_are_parts_of_one_array(name: str) -> None:
    """Batches of ever other lengths leave no arrays of nulls behind, and nobody can write to what all share."""
    few, many = (_bare(n)[name] for n in (3, 900))
    assert (len(few), len(many), (few == many[:3]).all()) == (3, 900, True)
    assert np.shares_memory(few, many)
    with pytest.raises(ValueError, match="read-only"):
        few[0] = 7


def _bare(n: int) -> FlowBatch:
    """A batch without anything that may be left out."""
    full = batch_of([{}] * n)
    needed = {c.name: full[c.name] for c in COLUMNS if not c.null and c.name != "marks"}
    return FlowBatch.build(n, needed)
