"""Any bytes given as a MaxMind DB end in a table or in EnrichError that names the file; nothing else, and soon.

A table that comes out of damaged bytes answers every address with a row that exists, or with none.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.address import parse
from agent.core.errors import EnrichError
from enrichers.ranges import RangeTable, flatten, open_database
from enrichers.ranges.facts import READINGS
from tests.tools import mmdb

SOME = parse(["0.0.0.0", "20.0.0.1", "255.255.255.255", "::1:0:0:0", "2001:db8::1", "2002:1400::", "ffff::"])
SEEDS: list[bytes] = []


def seeds() -> list[bytes]:
    if not SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.mmdb")
            for size, version, aliases in ((24, 4, ()), (28, 6, ()), (32, 6, mmdb.MAXMIND_ALIASES)):
                records = mmdb.COUNTRIES if version == 6 else {"20.0.0.0/7": {"country_code": "JP"}}
                mmdb.write(path, records, ip_version=version, record_size=size, aliases=aliases)
                SEEDS.append(path.read_bytes())
    return SEEDS


def flattened(content: bytes) -> RangeTable | None:
    """The table of these bytes, checked; None for a database that was refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fuzzed.mmdb")
        path.write_bytes(content)
        try:
            table = flatten(open_database(path), READINGS["country"])
        except EnrichError as error:
            assert "fuzzed.mmdb: " in str(error)
            return None
    rows = table.find(SOME)
    assert ((rows >= -1) & (rows < max(len(table), 1))).all()
    table.take("country", rows)
    assert (np.diff(table.v4_start.astype(np.int64)) > 0).all()
    return table


@settings(max_examples=300)
@given(st.data())
def test_damaged_databases(data: st.DataObject) -> None:
    """A database with some octets changed, cut out or put in is a table or an error."""
    content = bytearray(data.draw(st.sampled_from(seeds())))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "head"])):
            case "change":
                content[at] = data.draw(st.integers(0, 255))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                content[at:at] = data.draw(st.binary(max_size=20))
            case "head":
                content[at % 64] = data.draw(st.integers(0, 255))
        if not content:
            break
    flattened(bytes(content))


@settings(max_examples=100)
@given(st.binary(max_size=400))
def test_a_tree_of_any_bytes(tree: bytes) -> None:
    """A well-formed frame around a tree of arbitrary bytes is a table or an error."""
    whole = seeds()[0]
    flattened(tree[: len(whole)] + whole[len(tree) :])


def test_the_seeds_are_good() -> None:
    """The files that are damaged above are read without a fault when they are whole."""
    assert [flattened(seed) is not None for seed in seeds()] == [True, True, True]


@pytest.mark.parametrize("fan", [1, 4, 15])
def test_a_record_that_unfolds_without_end(fan: int) -> None:
    """A record of a few octets that pointers unfold to gigabytes is refused, or small enough to decode."""
    pointer = 0b00111000
    data, at = bytearray(b"\x42JP"), 0
    for _ in range(12):
        here = len(data)
        data += bytes([fan, 4]) + (bytes([pointer]) + at.to_bytes(4, "big")) * fan
        at = here
    root = len(data)
    data += b"\xe1\x47country" + bytes([pointer]) + at.to_bytes(4, "big")
    meta = seeds()[0][seeds()[0].rindex(b"\xab\xcd\xefMaxMind.com") :]
    start = meta.index(b"node_count") + len(b"node_count")
    width = meta[start] & 0x1F
    meta = meta[: start + 1] + (1).to_bytes(width, "big") + meta[start + 1 + width :]
    value = (1 + 16 + root).to_bytes(3, "big")
    table = flattened(value * 2 + bytes(16) + bytes(data) + meta)
    assert (table is None) == (fan > 1)
