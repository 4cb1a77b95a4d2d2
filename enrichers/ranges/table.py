"""Sorted, gapless address intervals with the id of a row of facts each, and how to search and join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.core.address import NULL_HALF, Addresses, Network, is_null
from agent.core.flow import ColumnData, Text

Rows = NDArray[np.int32]
"""Row ids; -1 is no row."""

_V4_HIGHEST = 0xFFFF_FFFF
_SORT_FIRST = 4_000
"""From this many addresses on, sorting them first costs less than it saves: neighbours share cache lines."""


@dataclass(frozen=True, slots=True)
class Alias:
    """An IPv6 prefix whose addresses carry an IPv4 address right behind it, such as 6to4's 2002::/16 (RFC 3056)."""

    prefix: int
    """128-bit number."""
    length: int
    """1 to 96."""

    @property
    def network(self) -> IPv6Network:
        """The prefix as a network."""
        return IPv6Network((self.prefix, self.length))

    def match(self, high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Where the address begins with the prefix."""
        mask = ((1 << self.length) - 1) << (128 - self.length)
        high_mask, low_mask = np.uint64(mask >> 64), np.uint64(mask & NULL_HALF)
        same_high = high & high_mask == np.uint64(self.prefix >> 64)
        return np.asarray(same_high & (low & low_mask == np.uint64(self.prefix & NULL_HALF)))

    def embedded(self, high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The IPv4 number behind the prefix."""
        below = 96 - self.length  # bits right of the IPv4 address
        if below >= 64:
            value = high >> np.uint64(below - 64)
        elif below > 32:
            value = high << np.uint64(64 - below) | low >> np.uint64(below)
        else:
            value = low >> np.uint64(below)
        return (value & np.uint64(_V4_HIGHEST)).astype(np.uint32)

    def place(self, numbers: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """First (high, low) of the addresses that carry these IPv4 numbers."""
        below = 96 - self.length
        if below >= 64:
            high, low = numbers << np.uint64(below - 64), np.zeros_like(numbers)
        elif below > 32:
            high, low = numbers >> np.uint64(64 - below), numbers << np.uint64(below)
        else:
            high, low = np.zeros_like(numbers), numbers << np.uint64(below)
        return high | np.uint64(self.prefix >> 64), low | np.uint64(self.prefix & NULL_HALF)


SIX_TO_FOUR = Alias(0x2002 << 112, 16)
"""The IPv4 address in it is the far end's own (RFC 3056); in Teredo's 2001::/32 it is only a server's (RFC 4380)."""


@dataclass(frozen=True, slots=True, eq=False)
class RangeTable:
    """Which row of facts an address has. Each family's intervals begin at 0 and leave no gap.

    IPv4-compatible addresses (::/96) are read as IPv4, which is where an MMDB keeps IPv4; so are those of an alias.
    """

    v4_start: NDArray[np.uint32]
    v4_row: Rows
    v6_high: NDArray[np.uint64]
    v6_low: NDArray[np.uint64]
    """Starts are sorted by (high, low)."""
    v6_row: Rows
    rows: Mapping[str, ColumnData]
    """Facts by name: equal lengths, indexed by row id."""
    aliases: tuple[Alias, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.rows.values()), ()))

    @property
    def intervals(self) -> tuple[int, int]:
        """Number of IPv4 and of IPv6 intervals."""
        return len(self.v4_start), len(self.v6_high)

    @property
    def octets(self) -> int:
        """Memory held by the arrays, without the dictionaries' texts."""
        arrays: list[NDArray[Any]] = [self.v4_start, self.v4_row, self.v6_high, self.v6_low, self.v6_row]
        arrays += [f.codes if isinstance(f, Text) else f for f in self.rows.values()]
        return sum(a.nbytes for a in arrays)

    def find(self, addresses: Addresses) -> Rows:
        """The row id of each address; -1 where nothing is known, and for null addresses."""
        high, low = addresses[:, 0], addresses[:, 1]
        upper = low >> np.uint64(32)
        v4 = (high == 0) & ((upper == 0xFFFF) | (upper == 0))
        if v4.all():
            return self._find_v4(low.astype(np.uint32))
        found = np.full(len(addresses), -1, np.int32)
        if v4.any():
            found[v4] = self._find_v4(low[v4].astype(np.uint32))
        rest = np.flatnonzero(~v4 & ~is_null(addresses))
        for alias in self.aliases:
            high, low = addresses[rest, 0], addresses[rest, 1]
            inside = alias.match(high, low)
            if inside.any():
                found[rest[inside]] = self._find_v4(alias.embedded(high[inside], low[inside]))
                rest = rest[~inside]
        found[rest] = self._find_v6(addresses[rest, 0], addresses[rest, 1])
        return found

    def take(self, name: str, rows: Rows) -> ColumnData:
        """One fact of the given rows: a text column with a dictionary of its own, or int64; null where the row is -1."""
        facts = self.rows[name]
        if isinstance(facts, Text):
            if not len(facts):
                return Text.full(len(rows), None)
            codes = np.where(rows < 0, np.int32(-1), facts.codes[rows])
            return Text(codes, facts.values).compact()
        if not len(facts):
            return np.full(len(rows), -1, np.int64)
        return np.where(rows < 0, np.int64(-1), facts[rows])

    def _find_v4(self, numbers: NDArray[np.uint32]) -> Rows:
        n = len(numbers)
        if n < _SORT_FIRST:
            return self.v4_row[np.searchsorted(self.v4_start, numbers, "right") - 1]
        # Number and place in one word: sorting words in place is several times as fast as sorting indices.
        packed = numbers.astype(np.uint64) << np.uint64(32) | np.arange(n, dtype=np.uint64)
        packed.sort()
        ordered = (packed >> np.uint64(32)).astype(np.uint32)
        distinct = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        rows = self.v4_row[np.searchsorted(self.v4_start, ordered[distinct], "right") - 1]
        found = np.empty(n, np.int32)
        place = (packed & np.uint64(_V4_HIGHEST)).astype(np.intp)
        found[place] = np.repeat(rows, np.diff(np.append(distinct, n)))
        return found

    def _find_v6(self, high: NDArray[np.uint64], low: NDArray[np.uint64]) -> Rows:
        if len(high) < _SORT_FIRST:
            at = np.searchsorted(self.v6_high, high, "right") - 1
        else:
            order = np.argsort(high)
            at = np.empty(len(high), np.int64)
            at[order] = np.searchsorted(self.v6_high, high[order], "right") - 1
        # Of several intervals that begin in one /64, the search above took the last; the low half decides.
        late = np.flatnonzero((self.v6_high[at] == high) & (self.v6_low[at] > low))
        if len(late):
            at[late] = self._back(high[late], low[late], at[late])
        return self.v6_row[at]

    def _back(
        self, high: NDArray[np.uint64], low: NDArray[np.uint64], last: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Largest index up to ``last`` whose start is not above (high, low), by halving all rows at once."""
        first = np.maximum(np.searchsorted(self.v6_high, high, "left") - 1, 0)
        while (first < last).any():
            middle = (first + last + 1) // 2
            above = (self.v6_high[middle] == high) & (self.v6_low[middle] > low)
            last = np.where(above, middle - 1, last)
            first = np.where(above, first, middle)
        return first


def build(
    v4: tuple[NDArray[np.uint32], Rows],
    v6: tuple[NDArray[np.uint64], NDArray[np.uint64], Rows],
    rows: Mapping[str, ColumnData],
    aliases: tuple[Alias, ...] = (),
) -> RangeTable:
    """A table from sorted, distinct starts and their row ids; equal neighbours are joined."""
    keep4, keep6 = _changes(v4[1]), _changes(v6[2])
    return RangeTable(
        v4[0][keep4].astype(np.uint32),
        v4[1][keep4].astype(np.int32),
        v6[0][keep6].astype(np.uint64),
        v6[1][keep6].astype(np.uint64),
        v6[2][keep6].astype(np.int32),
        dict(rows),
        aliases,
    )


def from_networks(
    networks: Sequence[Network], rows: Mapping[str, ColumnData], aliases: Sequence[Alias] = ()
) -> RangeTable:
    """A table that says of each address which of ``networks`` is its longest match; row i belongs to network i.

    Of equal networks the first wins. ``aliases`` that a network touches are left out, so that its own prefix decides.
    """
    v4: list[tuple[int, int, int]] = []
    v6: list[tuple[int, int, int]] = []
    for row, network in enumerate(networks):
        first, last = int(network.network_address), int(network.broadcast_address)
        if isinstance(network, IPv4Network):
            v4.append((first, last, row))
        elif network.prefixlen >= 96 and first >> 32 in (0, 0xFFFF):
            v4.append((first & _V4_HIGHEST, last & _V4_HIGHEST, row))
        else:
            v6.append((first, last, row))
    sixes = [n for n in networks if isinstance(n, IPv6Network)]
    kept = tuple(a for a in aliases if not any(a.network.overlaps(n) for n in sixes))
    start4, row4 = _sweep(v4, _V4_HIGHEST)
    start6, row6 = _sweep(v6, (1 << 128) - 1)
    return build(
        (np.array(start4, np.uint32), np.array(row4, np.int32)),
        (
            np.array([s >> 64 for s in start6], np.uint64),
            np.array([s & NULL_HALF for s in start6], np.uint64),
            np.array(row6, np.int32),
        ),
        rows,
        kept,
    )


def merge(tables: Sequence[RangeTable]) -> RangeTable:
    """One table with a row per combination that occurs, so that an address is searched once for all facts.

    Raises ``ValueError`` when two tables hold a fact of the same name.
    """
    names = [name for table in tables for name in table.rows]
    if len(set(names)) != len(names):
        raise ValueError(f"tables share a fact: {sorted(names)}")
    shared = tuple(a for a in tables[0].aliases if all(a in t.aliases for t in tables))
    plain = [_without_aliases(table, shared) for table in tables]
    starts4, rows4 = _overlay(
        [(t.v4_start.astype(np.uint64), np.zeros(len(t.v4_start), np.uint64)) for t in plain]
    )
    starts6, rows6 = _overlay([(t.v6_high, t.v6_low) for t in plain])
    columns = [
        np.concatenate([t.v4_row[i4], t.v6_row[i6]]) for t, i4, i6 in zip(plain, rows4, rows6, strict=True)
    ]
    codes, example = _distinct(columns)
    # The combination of no rows at all must be no row.
    known = np.zeros(len(example), bool)
    for column in columns:
        known |= column[example] >= 0
    ids = np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)
    merged: dict[str, ColumnData] = {}
    for table, column in zip(plain, columns, strict=True):
        merged |= {name: _pick(table.rows[name], column[example[known]]) for name in table.rows}
    n4 = len(starts4[0])
    at = ids[codes]
    return build((starts4[0].astype(np.uint32), at[:n4]), (*starts6, at[n4:]), merged, shared)


def recast(table: RangeTable, rows: Mapping[str, ColumnData]) -> RangeTable:
    """The same intervals with other facts for the same row ids; rows that became equal are joined."""
    compact = {name: f.compact() if isinstance(f, Text) else f for name, f in rows.items()}
    codes, example = _distinct([f.codes if isinstance(f, Text) else f for f in compact.values()])
    facts = {name: _pick(f, example) for name, f in compact.items()}
    ids = np.append(codes, -1).astype(np.int32)  # row -1 takes the last element
    return build(
        (table.v4_start, ids[table.v4_row]),
        (table.v6_high, table.v6_low, ids[table.v6_row]),
        facts,
        table.aliases,
    )


def _pick(facts: ColumnData, rows: NDArray[np.integer]) -> ColumnData:
    """Facts of some rows, null for row -1; unlike ``take``, the dictionary is kept."""
    codes = facts.codes if isinstance(facts, Text) else facts
    if not len(codes):
        picked = np.full(len(rows), -1, codes.dtype)
    else:
        picked = np.where(rows < 0, codes.dtype.type(-1), codes[rows])
    return Text(picked, facts.values) if isinstance(facts, Text) else picked


def _changes(rows: Rows) -> NDArray[np.bool_]:
    keep = np.ones(len(rows), bool)
    keep[1:] = rows[1:] != rows[:-1]
    return keep


def _distinct(columns: Sequence[NDArray[np.integer]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the combinations that occur: (number of each row, one row of each combination)."""
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        # Both factors stay below the number of rows, so the product cannot overflow.
        values, codes_here = np.unique(column, return_inverse=True)
        _, codes = np.unique(codes * len(values) + codes_here, return_inverse=True)
    example = np.zeros(int(codes.max()) + 1 if len(codes) else 0, np.int64)
    example[codes] = np.arange(len(codes))
    return codes, example


Starts = tuple[NDArray[np.uint64], NDArray[np.uint64]]


def _overlay(tables: list[Starts]) -> tuple[Starts, list[NDArray[np.int64]]]:
    """All starts of all tables, sorted and distinct, and for each table the index of its interval at each start."""
    high = np.concatenate([t[0] for t in tables])
    low = np.concatenate([t[1] for t in tables])
    order = np.lexsort((low, high)) if low.any() else np.argsort(high, kind="stable")
    high, low = high[order], low[order]
    new = np.ones(len(high), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    number = np.empty(len(high), np.int64)
    number[order] = np.cumsum(new) - 1
    total = int(new.sum())
    indices, done = [], 0
    for table in tables:
        n = len(table[0])
        spans = np.diff(np.append(number[done : done + n], total))
        indices.append(np.repeat(np.arange(n), spans))
        done += n
    return (high[new], low[new]), indices


def _without_aliases(table: RangeTable, keep: tuple[Alias, ...]) -> RangeTable:
    """The same answers with the aliases that are not kept written out as IPv6 intervals."""
    for alias in table.aliases:
        if alias not in keep:
            table = _written_out(table, alias)
    return table


def _written_out(table: RangeTable, alias: Alias) -> RangeTable:
    high, low = alias.place(table.v4_start.astype(np.uint64))
    end = alias.prefix + (1 << (128 - alias.length))
    inside = alias.match(table.v6_high, table.v6_low)
    parts = [
        (table.v6_high[~inside], table.v6_low[~inside], table.v6_row[~inside]),
        (high, low, table.v4_row),
    ]
    after = (np.array([end >> 64 & NULL_HALF], np.uint64), np.array([end & NULL_HALF], np.uint64))
    beyond = end >> 128 or ((table.v6_high == after[0]) & (table.v6_low == after[1])).any()
    if not beyond:
        parts.append((*after, table._find_v6(*after)))
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.lexsort((joined[1], joined[0]))
    rest = tuple(a for a in table.aliases if a != alias)
    v6 = (joined[0][order], joined[1][order], joined[2][order])
    return build((table.v4_start, table.v4_row), v6, replace(table, aliases=rest).rows, rest)


def _sweep(spans: list[tuple[int, int, int]], highest: int) -> tuple[list[int], list[int]]:
    """Nested (first, last, row) as gapless (starts, rows): the innermost span wins."""
    starts, rows = [0], [-1]
    open_spans: list[tuple[int, int]] = []

    def change(start: int, row: int) -> None:
        if start > highest:
            return
        if starts[-1] == start:
            rows[-1] = row
        else:
            starts.append(start)
            rows.append(row)

    def close_before(first: int) -> None:
        while open_spans and open_spans[-1][0] < first:
            last, _ = open_spans.pop()
            change(last + 1, open_spans[-1][1] if open_spans else -1)

    # Of equal spans the one that is named first comes last, so that it lies innermost.
    for first, last, row in sorted(spans, key=lambda s: (s[0], -s[1], -s[2])):
        close_before(first)
        change(first, row)
        open_spans.append((last, row))
    close_before(highest + 2)
    return starts, rows
