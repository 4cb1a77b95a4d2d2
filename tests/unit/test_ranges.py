"""Range tables: they answer as maxminddb does, whatever is merged, cut or cached."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import maxminddb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.address import Addresses, empty, parse
from agent.core.errors import EnrichError
from agent.core.flow import Text
from enrichers.ranges import (
    SIX_TO_FOUR,
    Alias,
    Database,
    RangeTable,
    Reading,
    cache,
    cached,
    flatten,
    from_networks,
    look_up,
    merge,
    open_database,
    recast,
)
from enrichers.ranges.facts import READINGS
from enrichers.ranges.mmdb import _records
from enrichers.ranges.texts import KeptTexts
from tests.tools import mmdb
from tests.tools.places import DATABASES, TESTDATA

WHOLE = Reading(
    {"record": str}, lambda record: (None if record is None else json.dumps(record, default=repr),)
)
"""The whole record as one text, so that any difference shows."""
TEREDO = Alias(0x20010000 << 96, 32)

networks4 = st.builds(
    lambda n, length: ip_network((n, length), strict=False), st.integers(0, 2**32 - 1), st.integers(1, 32)
)
networks6 = st.builds(
    lambda n, length: ip_network((n, length), strict=False),
    st.one_of(
        st.integers(0, 2**128 - 1), st.integers(0x2002 << 112, (0x2003 << 112) - 1), st.integers(0, 2**40)
    ),
    st.integers(1, 128),
)
some_networks = st.lists(st.one_of(networks4, networks6), max_size=12, unique=True)


def numbers(table: RangeTable) -> Iterator[int]:
    """Every start of an interval and the address before it, IPv4 mapped; also behind every alias. Not the very last
    address, which is the null marker here."""
    for start in table.v4_start.tolist():
        for value in {start, max(start - 1, 0)}:
            yield 0xFFFF << 32 | value
            yield value
            for alias in table.aliases:
                yield alias.prefix | value << (96 - alias.length)
                yield alias.prefix | value << (96 - alias.length) | (1 << (96 - alias.length)) - 1
    for high, low in zip(table.v6_high.tolist(), table.v6_low.tolist(), strict=True):
        if high << 64 | low != (1 << 128) - 1:
            yield high << 64 | low
        yield max((high << 64 | low) - 1, 0)
    for alias in table.aliases:
        yield from (alias.prefix - 1, alias.prefix + (1 << (128 - alias.length)))
    yield (1 << 128) - 2


def columns(values: list[int]) -> Addresses:
    """128-bit numbers as addresses."""
    return np.array([[v >> 64, v & (1 << 64) - 1] for v in values], np.uint64).reshape(-1, 2)


def text_of(value: int) -> str:
    return str(IPv4Address(value & 0xFFFF_FFFF) if value >> 32 == 0xFFFF else IPv6Address(value))


def answers(table: RangeTable, values: list[int], name: str = "record") -> list[str | None]:
    facts = table.take(name, table.find(columns(values)))
    assert isinstance(facts, Text)
    return facts.decode()


def truth(path: Path, values: list[int]) -> list[str | None]:
    """What maxminddb says; an IPv4 database knows no IPv6 address."""
    with maxminddb.open_database(path) as reader:
        six = reader.metadata().ip_version == 6
        found = []
        for value in values:
            text = text_of(value)
            if not six and ":" in text:
                text = str(IPv4Address(value)) if value >> 32 == 0 else ""
            found.append(WHOLE.read(reader.get(text))[0] if text else None)
        return found  # type: ignore[return-value]


def check(path: Path) -> RangeTable:
    table = flatten(open_database(path), WHOLE)
    values = list(numbers(table))
    assert answers(table, values) == truth(path, values)
    return table


@pytest.mark.parametrize("ip_version", [4, 6])
@pytest.mark.parametrize("record_size", [24, 28, 32])
def test_every_record_size_answers_as_maxminddb(tmp_path: Path, record_size: int, ip_version: int) -> None:
    """24, 28 and 32 bit trees of both families answer as maxminddb on every interval edge."""
    records = {n: {"name": n} for n in ("10.0.0.0/8", "10.1.0.0/16", "203.0.113.7/32", "128.0.0.0/1")}
    if ip_version == 6:
        records |= {n: {"name": n} for n in ("2001:db8::/32", "2001:db8:0:1::8/125", "2001:db8:0:1::b/128")}
    check(mmdb.write(tmp_path / "a.mmdb", records, ip_version=ip_version, record_size=record_size))


def test_aliases_answer_as_maxminddb(tmp_path: Path) -> None:
    """IPv4 behind 2002::/16 and 2001::/32 is found, and nothing is stored twice for it."""
    records = {n: {"name": n} for n in ("20.0.0.0/8", "20.1.0.0/16", "2400::/12")}
    path = mmdb.write(tmp_path / "a.mmdb", records, aliases=mmdb.MAXMIND_ALIASES)
    table = check(path)
    assert set(table.aliases) == {SIX_TO_FOUR, TEREDO}
    assert len(table.v6_high) == 3
    assert answers(table, [int(ip_address("2002:1401:203::5"))]) == ['{"name": "20.1.0.0/16"}']


@pytest.mark.parametrize("prefix", ["64:ff9b::/96", "2001:db8::/40", "2001:db8::/33", "2001:db8:0:1::/64"])
def test_an_alias_of_any_length_answers_as_maxminddb(tmp_path: Path, prefix: str) -> None:
    """The embedded IPv4 address is found wherever in the 128 bits it lies."""
    records = {n: {"name": n} for n in ("20.0.0.0/8", "20.1.2.0/24", "255.255.255.255/32")}
    table = check(mmdb.write(tmp_path / "a.mmdb", records, aliases=[prefix]))
    written_out = merge([table, from_networks([], {})])
    assert written_out.aliases == ()
    values = list(numbers(table))
    assert answers(written_out, values) == answers(table, values)


@given(some_networks, st.sampled_from([24, 28, 32]), st.booleans())
def test_random_databases_answer_as_maxminddb(
    tmp_path_factory: pytest.TempPathFactory, networks: list[Any], record_size: int, aliased: bool
) -> None:
    """Any set of networks in any layout answers as maxminddb on every interval edge."""
    mapped = IPv6Network("::ffff:0:0/96")
    reserved = [mapped, *(IPv6Network(a) for a in mmdb.MAXMIND_ALIASES)] if aliased else [mapped]
    kept = [n for n in networks if not any(n.version == 6 and n.overlaps(r) for r in reserved)]
    order = sorted(kept, key=lambda n: n.prefixlen + (96 if n.version == 4 else 0))
    if aliased and any(n.version == 6 and n.overlaps(IPv6Network("::/96")) for n in order):
        aliased = False
    records = {str(n): {"i": i} for i, n in enumerate(order)} or {"192.0.2.0/24": {"i": 0}}
    path = tmp_path_factory.mktemp("random") / "a.mmdb"
    aliases = mmdb.MAXMIND_ALIASES if aliased else ()
    check(mmdb.write(path, records, record_size=record_size, aliases=aliases))


@given(st.lists(st.one_of(networks4, networks6), max_size=20), st.data())
def test_the_longest_prefix_wins(networks: list[Any], data: st.DataObject) -> None:
    """Of nested networks the innermost one answers, of equal ones the first, as a plain search over all says."""
    table = from_networks(networks, {})
    values = [v for v in numbers(table) if v >> 96 != 0x0]
    values += data.draw(st.lists(st.integers(0xFFFF << 32, (0x10000 << 32) - 1), max_size=5))

    def longest(value: int) -> int:
        family = 4 if value >> 32 == 0xFFFF else 6
        number = value & 0xFFFF_FFFF if family == 4 else value
        fits = [
            (-_length(n), i)
            for i, n in enumerate(networks)
            if _family(n) == family and _first(n) <= number <= _last(n)
        ]
        return min(fits)[1] if fits else -1

    assert table.find(columns(values)).tolist() == [longest(v) for v in values]


def _as_v4(network: Any) -> bool:
    first = int(network.network_address)
    return network.version == 4 or (network.prefixlen >= 96 and first >> 32 in (0, 0xFFFF))


def _family(network: Any) -> int:
    return 4 if _as_v4(network) else 6


def _length(network: Any) -> int:
    return network.prefixlen - (96 if network.version == 6 and _as_v4(network) else 0)  # type: ignore[no-any-return]


def _first(network: Any) -> int:
    return int(network.network_address) & (0xFFFF_FFFF if _as_v4(network) else (1 << 128) - 1)


def _last(network: Any) -> int:
    return int(network.broadcast_address) & (0xFFFF_FFFF if _as_v4(network) else (1 << 128) - 1)


@given(some_networks, some_networks, some_networks, st.lists(st.booleans(), min_size=3, max_size=3))
def test_merged_tables_say_what_each_said(
    a: list[Any], b: list[Any], c: list[Any], aliased: list[bool]
) -> None:
    """One table of three gives every address the facts that each of the three gave it, aliases included."""
    tables = []
    for name, networks, with_alias in zip("abc", (a, b, c), aliased, strict=True):
        facts = {name: np.arange(len(networks))}
        tables.append(from_networks(networks, facts, (SIX_TO_FOUR,) if with_alias else ()))
    merged = merge(tables)
    values = columns([v for table in (*tables, merged) for v in numbers(table)])
    for name, table in zip("abc", tables, strict=True):
        expected = table.take(name, table.find(values))
        assert np.array_equal(merged.take(name, merged.find(values)), expected)


def test_a_merged_table_holds_each_combination_once() -> None:
    """Rows are distinct combinations, neighbours that are equal are one interval, and no facts at all is row -1."""
    left = from_networks([ip_network("10.0.0.0/8"), ip_network("12.0.0.0/8")], {"l": Text.of(["x", "x"])})
    left = recast(left, left.rows)
    right = from_networks([ip_network("10.0.0.0/9"), ip_network("10.128.0.0/9")], {"r": np.array([7, 7])})
    merged = merge([left, recast(right, right.rows)])
    assert merged.v4_start.tolist() == [0, 10 << 24, 11 << 24, 12 << 24, 13 << 24]
    rows = merged.v4_row.tolist()
    assert (rows[0], rows[2], rows[4]) == (-1, -1, -1)
    assert len(merged) == 2
    text = merged.take("l", merged.v4_row)
    assert isinstance(text, Text)
    assert (text.decode(), merged.take("r", merged.v4_row).tolist()) == (  # type: ignore[union-attr]
        [None, "x", None, "x", None],
        [-1, 7, -1, -1, -1],
    )


def test_tables_that_share_a_fact_cannot_be_merged() -> None:
    """Two tables with a fact of one name are refused."""
    table = from_networks([], {"a": np.zeros(0, np.int64)})
    with pytest.raises(ValueError, match="share a fact"):
        merge([table, table])


@pytest.mark.parametrize("repeat", [1, 3_000])
def test_many_addresses_answer_as_few(repeat: int) -> None:
    """The path for large batches gives what the path for small ones gives, null addresses included."""
    table = from_networks(
        [ip_network(n) for n in ("10.0.0.0/8", "2001:db8::/32", "2001:db8::8/125", "2001:db8::10/128")], {}
    )
    texts = [
        "10.1.1.1",
        "11.0.0.1",
        "2001:db8::1",
        "2001:db8::9",
        "2001:db8::10",
        "2001:db8::11",
        "::10.0.0.1",
    ]
    addresses = np.concatenate([parse(texts), empty(1)])
    assert table.find(np.tile(addresses, (repeat, 1))).tolist() == [0, -1, 1, 2, 3, 1, 0, -1] * repeat


def test_a_network_inside_an_alias_keeps_its_own_answer() -> None:
    """An IPv6 network in 2002::/16 takes that alias out, so that it is not read as IPv4."""
    networks = [ip_network("20.0.0.0/8"), ip_network("2002:1400::/24")]
    table = from_networks(networks, {}, (SIX_TO_FOUR, TEREDO))
    assert table.aliases == (TEREDO,)
    assert table.find(parse(["20.0.0.1", "2002:1400:1::", "2001:0:1400:1::"])).tolist() == [0, 1, 0]


def test_facts_of_unknown_rows_are_null() -> None:
    """Row -1 gives null for text and number, and a text column carries only the values in use."""
    table = from_networks(
        [ip_network("10.0.0.0/8"), ip_network("11.0.0.0/8")],
        {"t": Text.of(["a", "b"]), "n": np.array([5, 6])},
    )
    rows = table.find(parse(["12.0.0.1", "11.0.0.1"]))
    text = table.take("t", rows)
    assert isinstance(text, Text)
    assert (text.decode(), text.values, table.take("n", rows).tolist()) == ([None, "b"], ("b",), [-1, 6])  # type: ignore[union-attr]


def test_a_record_is_decoded_once(tmp_path: Path) -> None:
    """A record that many networks share is read once, however often it is pointed to."""
    seen: list[Any] = []

    def read(record: Any) -> tuple[str | None]:
        seen.append(record)
        return (record["n"],)

    records = {f"{i}.0.0.0/8": {"n": "odd" if i % 2 else "even"} for i in range(1, 100)}
    table = flatten(open_database(mmdb.write(tmp_path / "a.mmdb", records)), Reading({"n": str}, read))
    assert sorted(r["n"] for r in seen) == ["even", "odd"]
    assert (len(table), table.intervals[0]) == (2, 101)


@given(
    st.sampled_from([24, 28, 32]),
    st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 2), min_size=1, max_size=9),
)
def test_both_records_of_a_node_are_read_whole(size: int, nodes: list[tuple[int, int]]) -> None:
    """Every bit of 24, 28 and 32 bit records is read, those of large files too (specification 2.0, binary search tree)."""
    pairs = [(left % 2**size, right % 2**size) for left, right in nodes]
    if size == 28:
        high = [(left >> 24) << 4 | right >> 24 for left, right in pairs]
        content = b"".join(
            (left % 2**24).to_bytes(3, "big") + bytes([middle]) + (right % 2**24).to_bytes(3, "big")
            for (left, right), middle in zip(pairs, high, strict=True)
        )
    else:
        content = b"".join(n.to_bytes(size // 8, "big") for pair in pairs for n in pair)
    database = Database(Path("x"), content, "", "", None, 6, len(pairs), size)
    assert _records(database).tolist() == [list(pair) for pair in pairs]


def test_look_up_of_one_address(tmp_path: Path) -> None:
    """One address is looked up without flattening; IPv6 is unknown to an IPv4 database."""
    path = mmdb.write(tmp_path / "a.mmdb", {"192.0.2.0/24": {"n": 1}}, ip_version=4)
    database = open_database(path)
    assert look_up(database, "192.0.2.9") == ({"n": 1}, 24)
    assert look_up(database, "::ffff:192.0.2.9") == ({"n": 1}, 24)
    assert look_up(database, "2001:db8::1") == (None, 0)


def test_version_names_type_day_and_hash(tmp_path: Path) -> None:
    """A database's version is its type in lower case, the day it was built and twelve digits of its hash."""
    path = mmdb.write(tmp_path / "a.mmdb", {}, database_type="DBIP-ASN-Lite (compat=GeoLite2-ASN)")
    database = open_database(path)
    assert database.version == f"dbip-asn-lite 2026-09-01 sha256:{database.sha256[:12]}"
    undated = open_database(mmdb.write(tmp_path / "b.mmdb", {}, built_s=2**64 - 1))
    assert undated.version == f"test-database undated sha256:{undated.sha256[:12]}"


# --- broken and hostile files


def _node(left: int, right: int) -> bytes:
    return left.to_bytes(3, "big") + right.to_bytes(3, "big")


def _tree_of(path: Path, nodes: Callable[[int], list[tuple[int, int]]], good: Path) -> Path:
    """A copy of a good file whose first nodes are replaced."""
    content = bytearray(good.read_bytes())
    count = open_database(good).node_count
    for i, (left, right) in enumerate(nodes(count)):
        content[i * 6 : i * 6 + 6] = _node(left, right)
    path.write_bytes(content)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return mmdb.write(
        tmp_path / "good.mmdb", {f"{i}.0.0.0/12": {"n": i} for i in range(1, 60)}, record_size=24
    )


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (lambda n: [(0, 0)], "search tree"),
        (lambda n: [(1, 1), (0, 0)], "search tree"),
        (lambda n: [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8)], "loops or branches"),
        (lambda n: [(n + 3, n)], "points outside"),
        (lambda n: [(0xFFFFFF, n)], "points outside"),
    ],
)
def test_a_tree_that_is_none_is_refused(
    tmp_path: Path, good: Path, nodes: Callable[[int], list[tuple[int, int]]], reason: str
) -> None:
    """Loops, shared branches and pointers to nowhere end in an error that names file and reason."""
    path = _tree_of(tmp_path / "bad.mmdb", nodes, good)
    with pytest.raises(EnrichError, match=rf"bad\.mmdb: .*{reason}"):
        flatten(open_database(path), WHOLE)


def test_every_cut_of_a_file_is_an_error(tmp_path: Path) -> None:
    """A file cut off anywhere is refused, never read in part."""
    whole = mmdb.write(
        tmp_path / "a.mmdb", {"192.0.2.0/24": {"country_code": "JP"}}, ip_version=4
    ).read_bytes()
    path = tmp_path / "cut.mmdb"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(EnrichError, match=r"cut\.mmdb: "):
            flatten(open_database(path), WHOLE)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"\xab\xcd\xefMaxMind.com", b"PK\x03\x04" * 50])
def test_what_is_no_database_is_an_error(tmp_path: Path, content: bytes) -> None:
    """Other files are refused with their name."""
    path = tmp_path / "other.mmdb"
    path.write_bytes(content)
    with pytest.raises(EnrichError, match=r"other\.mmdb: not a MaxMind DB"):
        open_database(path)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    """A path without a file says why it cannot be read."""
    with pytest.raises(EnrichError, match="No such file"):
        open_database(tmp_path / "none.mmdb")
    with pytest.raises(EnrichError, match="Is a directory"):
        open_database(tmp_path)


def test_decoding_stops_in_time(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose records take for ever to decode is given up."""
    monkeypatch.setattr("enrichers.ranges.mmdb.DECODE_LIMIT_S", -1.0)
    with pytest.raises(EnrichError, match="decoding took over"):
        flatten(open_database(good), WHOLE)


def test_a_huge_file_is_not_read(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file over the limit is refused before it is read."""
    monkeypatch.setattr("enrichers.ranges.mmdb.MAX_FILE_OCTETS", 100)
    with pytest.raises(EnrichError, match="more than the 100"):
        open_database(good)


def test_a_file_changed_after_it_was_opened_changes_nothing(good: Path) -> None:
    """A database is read whole when it is opened: cutting the file short under it does no harm."""
    database = open_database(good)
    good.write_bytes(b"")
    assert len(flatten(database, WHOLE)) == 59


# --- cache


def a_table() -> RangeTable:
    networks = [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("2001:db8::8/125")]
    return from_networks(
        networks, {"t": Text.of(["a", None, "ü"]), "n": np.array([1, -1, 3])}, (SIX_TO_FOUR,)
    )


def same(a: RangeTable, b: RangeTable) -> bool:
    arrays = ("v4_start", "v4_row", "v6_high", "v6_low", "v6_row")
    equal = all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays)
    text_a, text_b = a.rows["t"], b.rows["t"]
    assert isinstance(text_a, Text)
    assert isinstance(text_b, Text)
    facts = text_a.decode() == text_b.decode() and np.array_equal(a.rows["n"], b.rows["n"])  # type: ignore[arg-type]
    return equal and facts and a.aliases == b.aliases


def test_a_cached_table_is_the_same_table(tmp_path: Path) -> None:
    """A table comes back from the cache as it went in, and is not built again."""
    built: list[int] = []

    def build() -> RangeTable:
        built.append(1)
        return a_table()

    first = cached(tmp_path / "c", "key", build)
    second = cached(tmp_path / "c", "key", build)
    assert same(first, second)
    assert len(built) == 1
    assert [p.suffix for p in (tmp_path / "c").iterdir()] == [".npz"]


def test_a_cached_table_is_used_where_it_lies(tmp_path: Path) -> None:
    """From the first time on its arrays are the file's own pages, read-only, and each lies at a multiple of its size."""
    for _ in range(2):
        table = cached(tmp_path, "key", a_table)
        arrays = [table.v4_start, table.v4_row, table.v6_high, table.v6_low, table.v6_row]
        arrays += [f.codes if isinstance(f, Text) else f for f in table.rows.values()]
        assert [(array.flags.writeable, array.ctypes.data % array.itemsize) for array in arrays] == [
            (False, 0)
        ] * len(arrays)


def test_a_damaged_cache_is_built_anew(tmp_path: Path) -> None:
    """A cache file with any octet changed, cut or replaced never gives a wrong table, and never an error."""
    cached(tmp_path, "key", a_table)
    (path,) = tmp_path.glob("*.npz")
    whole = path.read_bytes()
    variants = [b"", whole[: len(whole) // 2], b"\x80\x04" + whole]
    variants += [whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :] for i in range(0, len(whole), 7)]
    for content in variants:
        path.write_bytes(content)
        assert same(cached(tmp_path, "key", a_table), a_table())


@pytest.mark.parametrize(
    "change",
    [
        {"v4_row": np.array([-1, 3, -1], np.int32)},
        {"v4_row": np.array([-2, 0, -1], np.int32)},
        {"v4_start": np.array([0, 5, 5], np.uint32)},
        {"v4_start": np.array([1, 5, 6], np.uint32)},
        {"v4_start": np.array([0, 5], np.uint32)},
        {"v4_start": np.array([0.0, 5.0, 6.0])},
        {"v6_high": np.zeros(0, np.uint64)},
        {"fact0": np.array([0, 7, 1], np.int32)},
        {"fact1": np.array([1, 2], np.int64)},
        {"ends0": np.array([9_999], np.int64)},
        {"ends0": np.zeros(0, np.int64)},
        {"octets0": np.full(3, 0xFF, np.uint8)},
        {"head": np.frombuffer(b"[]", np.uint8)},
        {"head": np.array([{}], object)},
    ],
)
def test_a_forged_cache_is_not_believed(tmp_path: Path, change: dict[str, Any]) -> None:
    """A well-formed cache file whose numbers would lead a search astray is built anew; pickles are never loaded."""
    cached(tmp_path, "key", a_table)
    (path,) = tmp_path.glob("*.npz")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **{**arrays, **change})
    with pytest.raises(cache._DAMAGE):
        cache.read(path, "key")
    assert same(cached(tmp_path, "key", a_table), a_table())


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=8))
def test_kept_texts_are_the_texts(texts: list[str]) -> None:
    """Texts kept as octets are the texts that went in, one by one, from either end and in parts."""
    kept = KeptTexts.of(texts)
    assert (list(kept), len(kept), kept[1:3]) == (texts, len(texts), tuple(texts[1:3]))
    assert [kept[-1 - i] for i in range(len(texts))] == texts[::-1]


@pytest.mark.parametrize("ends", [[1, 5], [3, 5], [5, 2, 5], [-1, 5], [2, 4], [2, 6], []])
def test_texts_that_are_cut_elsewhere_are_refused(ends: list[int]) -> None:
    """Ends that lie inside a character, run backwards, or leave octets over are no texts."""
    octets = np.frombuffer("é€".encode(), np.uint8)
    with pytest.raises(ValueError, match=r"text|utf-8"):
        KeptTexts(octets, np.array(ends, np.int64))


def test_a_cache_under_another_key_is_not_believed(tmp_path: Path) -> None:
    """A cache file that was renamed is not taken for what its name says."""
    cached(tmp_path, "one", a_table)
    cached(tmp_path, "two", lambda: from_networks([], {"t": Text.of([]), "n": np.zeros(0, np.int64)}))
    one, two = sorted(tmp_path.glob("*.npz"), key=lambda p: p.stat().st_size, reverse=True)
    two.write_bytes(one.read_bytes())
    assert len(cached(tmp_path, "two", lambda: from_networks([], {}))) == 0


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    """Where the folder cannot be made, the table is built each time."""
    (tmp_path / "file").write_text("")
    assert same(cached(tmp_path / "file" / "c", "key", a_table), a_table())


def test_the_cache_keeps_few_files(tmp_path: Path) -> None:
    """Old tables are thrown away."""
    for i in range(cache.KEEP + 3):
        cached(tmp_path, str(i), a_table)
    assert len(list(tmp_path.iterdir())) == cache.KEEP


# --- data of others


def _others(folder: str) -> list[Path]:
    """Their files; where they are not at hand one stand-in, so that the mark ``testdata`` says why nothing runs."""
    return sorted((TESTDATA / "mmdb" / folder).rglob("*.mmdb")) if TESTDATA else [Path("absent")]


# Node count, pointers or values that maxminddb itself refuses.
BROKEN = (
    "Invalid-Node-Count",
    "broken-pointers",
    "broken-search-tree",
    "Broken-Double",
    "no-ipv4-search-tree",
)


@pytest.mark.testdata
@pytest.mark.parametrize("path", _others("test-data"), ids=lambda p: p.stem)
def test_databases_of_others_answer_as_maxminddb(path: Path) -> None:
    """Every readable test database of the format's maker answers as maxminddb on every interval edge."""
    try:
        table = flatten(open_database(path), WHOLE)
    except EnrichError as error:
        assert any(word in path.stem for word in BROKEN), error
        return
    values = list(numbers(table))
    assert answers(table, values) == truth(path, values)


@pytest.mark.testdata
@pytest.mark.parametrize("path", _others("bad-data"), ids=lambda p: p.stem)
def test_bad_databases_of_others_are_errors_or_harmless(path: Path) -> None:
    """Every hostile file of the format's maker ends in our error or in a table, never otherwise."""
    try:
        table = flatten(open_database(path), READINGS["country"])
    except EnrichError as error:
        assert str(path) in str(error)
    else:
        table.find(parse(["192.0.2.1", "2001:db8::1"]))


@pytest.mark.geodata
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["country", "network"])
def test_installed_databases_answer_as_maxminddb(kind: Any) -> None:
    """The installed databases answer as maxminddb on every interval edge and on a million random addresses."""
    assert DATABASES is not None
    path = DATABASES / f"{kind}.mmdb"
    reading = READINGS[kind]
    table = flatten(open_database(path), reading)
    rng = np.random.default_rng(20261121)
    v4 = (rng.integers(0, 2**32, 500_000) | 0xFFFF << 32).tolist()
    near = rng.choice(len(table.v6_high), 400_000)
    below = rng.integers(0, 2**63, (2, 400_000)).tolist()
    v6 = [
        (h << 64) + (a % (1 << 40) << 32) + b
        for h, a, b in zip(table.v6_high[near].tolist(), *below, strict=True)
    ]
    v6 += [(a << 65) % (1 << 128) | b for a, b in rng.integers(0, 2**63, (100_000, 2)).tolist()]
    # What lies behind an alias or in ::/96 is IPv4 again: every edge once, and a part of its echoes.
    echo = [SIX_TO_FOUR.network, TEREDO.network, IPv6Network("::/96")]
    bounds = [(int(n.network_address), int(n.broadcast_address)) for n in echo]
    edges = [
        v for i, v in enumerate(numbers(table)) if i % 50 == 0 or not any(a <= v <= b for a, b in bounds)
    ]
    values = [v % (1 << 128) for v in (*v4, *v6, *edges)]
    rows = table.find(columns(values))
    found = [table.take(name, rows) for name in reading.kinds]
    plain = [f.decode() if isinstance(f, Text) else [None if n < 0 else n for n in f.tolist()] for f in found]
    with maxminddb.open_database(path) as reader:
        for i, (value, *facts) in enumerate(zip(values, *plain, strict=True)):
            record = reader.get(text_of(value))
            assert tuple(facts) == reading.read(record), (i, text_of(value))
