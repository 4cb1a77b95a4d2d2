"""The fuzz targets of capture files, run by hypothesis on every test run."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz import (
    fuzz_classic,
    fuzz_compressed,
    fuzz_decode,
    fuzz_files,
    fuzz_odd,
    fuzz_pcapng,
    fuzz_tunnels,
)

TARGETS = (fuzz_classic, fuzz_compressed, fuzz_decode, fuzz_files, fuzz_odd, fuzz_pcapng, fuzz_tunnels)
RECORD = struct.pack("<IIII", 1_700_000_000, 5, 40, 60) + bytes(40)
records = st.lists(
    st.builds(
        lambda captured, more, order: (
            struct.pack(order + "IIII", 1_700_000_000, 5, captured, captured + more) + bytes(captured)
        ),
        st.integers(0, 70),
        st.integers(-1, 9).map(lambda n: max(n, 0)),
        st.sampled_from("<>"),
    ),
    max_size=8,
).map(b"".join)


@settings(max_examples=150)
@given(st.integers(0, 5), st.integers(0, 255), st.one_of(records, st.binary(max_size=300)))
@example(0, 255, RECORD)
@example(0, 255, RECORD[:-7])
def test_any_records_are_read_as_a_plain_walk_reads_them(kind: int, times: int, octets: bytes) -> None:
    """See tests/fuzz/fuzz_classic.py."""
    fuzz_classic.target(bytes([kind, times]) + octets)


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=400))
def test_any_blocks_keep_what_came_before_them(octets: bytes) -> None:
    """See tests/fuzz/fuzz_pcapng.py."""
    fuzz_pcapng.target(octets)


@settings(max_examples=200)
@given(st.integers(0, 11), st.binary(min_size=2, max_size=200))
def test_damaged_compression_is_a_fault(kind: int, octets: bytes) -> None:
    """See tests/fuzz/fuzz_compressed.py."""
    fuzz_compressed.target(bytes([kind]) + octets)


@pytest.mark.parametrize("fuzz", TARGETS, ids=lambda fuzz: fuzz.__name__.rsplit(".", 1)[1])
def test_every_target_says_its_invariant_first(fuzz: object) -> None:
    """The first line of each target's text is its invariant, and it can be run by atheris."""
    assert str(fuzz.__doc__).startswith("Any ")
    assert callable(fuzz.target)  # type: ignore[attr-defined]
