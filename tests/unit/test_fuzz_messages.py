"""Messages from anywhere: see tests/fuzz/fuzz_message.py for what must hold of each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.receiving.checking import Refused, Sealed
from tests.fuzz import fuzz_message
from tests.fuzz.fuzz_message import GOOD, check, resigned


def test_the_message_that_the_others_are_made_of_is_let_in() -> None:
    """Else every one would be refused for a reason of its own."""
    assert isinstance(check(GOOD), Sealed)


@given(st.binary(max_size=2000))
def test_any_octets(octets: bytes) -> None:
    """See tests/fuzz/fuzz_message.py."""
    fuzz_message.target(octets)


@given(st.data())
def test_a_value_with_flipped_octets_that_its_agent_signed(data: st.DataObject) -> None:
    """Signed by the right key all the same: decoding alone must hold."""
    value = bytearray(GOOD.value)
    for _ in range(data.draw(st.integers(1, 8))):
        value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    check(resigned(bytes(value)))


@given(st.integers(0, len(GOOD.value) - 1))
def test_a_value_that_was_cut_and_signed(cut: int) -> None:
    """A part of an Arrow stream is no batch of that many rows; only what ends behind the rows may pass for one."""
    found = check(resigned(GOOD.value[:cut]))
    assert isinstance(found, Refused) or cut >= len(GOOD.value) - 8


_FIELDS = st.dictionaries(
    st.sampled_from(
        ["schema_version", "agent_id", "run_id", "lane", "sequence", "low_water", "dropped", "rows", "key", "host",
         "collector", "versions", "clock_offset_ns", "account", "something_new"]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=300),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
        max_leaves=8,
    ),
    max_size=4,
)  # fmt: skip


@given(_FIELDS)
def test_a_header_that_lies(fields: dict[str, object]) -> None:
    """Whatever its fields say: refused, or let in as what it is."""
    fields = {k: v for k, v in fields.items() if k != "agent_id" or v != "db-1"}
    found = check(resigned(GOOD.value, **fields))
    if isinstance(found, Sealed):
        assert "agent_id" not in fields
