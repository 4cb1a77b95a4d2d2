"""Sorted, gapless address intervals with the id of a row of facts each, and how to search and join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.core.address import NULL_HALF, Addresses, Network, is_null
from agent.core.flow import ColumnData, Text
from agent.core.grouping import groups
from enrichers.ranges.direct import Direct
from enrichers.ranges.prefixes import Prefixes, longest

Rows = NDArray[np.int32]
"""Row ids; -1 is no row."""

_V4_HIGHEST = 0xFFFF_FFFF
_SORT_FIRST = 4_000
"""From this many addresses on, sorting them first costs less than it saves: neighbours share cache lines."""
_CHUNK = 1 << 15
"""IPv4 addresses looked up at a time: what is made on the way stays in the cache."""


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
    _direct: Direct = field(default_factory=Direct, init=False, repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.rows.values()), ()))

    @property
    def intervals(self) -> tuple[int, int]:
        """Number of IPv4 and of IPv6 intervals."""
        return len(self.v4_start), len(self.v6_high)

    @property
    def octets(self) -> int:
        """Memory held by the arrays, without the dictionaries' texts and what :class:`Direct` adds."""
        arrays: list[NDArray[Any]] = [self.v4_start, self.v4_row, self.v6_high, self.v6_low, self.v6_row]
        arrays += [f.codes if isinstance(f, Text) else f for f in self.rows.values()]
        return sum(a.nbytes for a in arrays)

    def rest(self) -> None:
        """Said now and then where rows come as they happen: what was asked until now is no reason for an index."""
        self._direct.rest()

    def find(self, addresses: Addresses) -> Rows:
        """The row id of each address; -1 where nothing is known, and for null addresses."""
        found = np.empty(len(addresses), np.int32)
        others: list[NDArray[np.intp]] = []
        for begin in range(0, len(addresses), _CHUNK):
            part = addresses[begin : begin + _CHUNK]
            low = part[:, 1]
            upper = low >> np.uint64(32)
            if (upper == 0xFFFF).all() and not part[:, 0].any():
                found[begin : begin + _CHUNK] = self._find_v4(low.astype(np.uint32))
                continue
            v4 = (part[:, 0] == 0) & ((upper == 0xFFFF) | (upper == 0))
            at = np.flatnonzero(v4)
            found[begin + at] = self._find_v4(low[at].astype(np.uint32))
            others.append(begin + np.flatnonzero(~v4))
        if others:
            self._find_others(addresses, np.concatenate(others), found)
        return found

    def take(self, name: str, rows: Rows) -> ColumnData:
        """One fact of the given rows: a text column with a dictionary of its own, or int64; null where the row is -1."""
        facts = self.rows[name]
        plain = facts.codes if isinstance(facts, Text) else facts
        if len(plain):
            picked = plain.take(rows)  # of row -1, the last
            picked[rows < 0] = -1
        else:
            picked = np.full(len(rows), -1, plain.dtype)
        return _compact(picked, facts.values) if isinstance(facts, Text) else picked

    def _find_others(self, addresses: Addresses, rest: NDArray[np.intp], found: Rows) -> None:
        """Fill in the rows of addresses that are no IPv4."""
        null = is_null(addresses[rest])
        found[rest[null]] = -1
        rest = rest[~null]
        for alias in self.aliases:
            high, low = addresses[rest, 0], addresses[rest, 1]
            inside = alias.match(high, low)
            if inside.any():
                found[rest[inside]] = self._find_v4(alias.embedded(high[inside], low[inside]))
                rest = rest[~inside]
        found[rest] = self._find_v6(addresses[rest, 0], addresses[rest, 1])

    def _find_v4(self, numbers: NDArray[np.uint32]) -> Rows:
        return self._direct.find(self.v4_start, self.v4_row, numbers)

    def _find_v6(self, high: NDArray[np.uint64], low: NDArray[np.uint64]) -> Rows:
        found = np.empty(len(high), np.int32)
        order = slice(None) if len(high) < _SORT_FIRST else np.argsort(high)
        at = np.searchsorted(self.v6_high, high[order], "right") - 1
        found[order] = self.v6_row[at]
        # Of several intervals that begin in one /64, the search above took the last; the low half decides.
        doubtful = np.flatnonzero(self.v6_low[at])
        if len(doubtful):
            last = at[doubtful]
            where = np.arange(len(high))[order][doubtful]
            late = (self.v6_high[last] == high[where]) & (self.v6_low[last] > low[where])
            where, last = where[late], last[late]
            found[where] = self.v6_row[self._back(high[where], low[where], last)]
        return found

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


def _compact(codes: NDArray[np.int32], values: tuple[str, ...]) -> Text:
    """The texts with only those values that are used, in their order."""
    used = np.zeros(len(values) + 1, bool)
    used[codes] = True  # -1 marks the last
    used[-1] = False
    kept = np.flatnonzero(used)
    translate = np.full(len(values) + 1, -1, np.int32)
    translate[kept] = np.arange(len(kept), dtype=np.int32)
    return Text(translate.take(codes), tuple(values[i] for i in kept.tolist()))


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
    sixes = [n for n in networks if isinstance(n, IPv6Network)]
    kept = tuple(a for a in aliases if not any(a.network.overlaps(n) for n in sixes))
    return from_prefixes(Prefixes.of(networks), rows, kept)


def from_prefixes(
    prefixes: Prefixes,
    rows: Mapping[str, ColumnData],
    aliases: tuple[Alias, ...] = (),
    ids: Rows | None = None,
) -> RangeTable:
    """As :func:`from_networks` for many: ``ids`` says which row each prefix has, otherwise row i is prefix i's."""
    if ids is None:
        ids = np.arange(len(prefixes), dtype=np.int32)
    _, start4, row4 = longest(prefixes, ids, v4=True)
    high6, low6, row6 = longest(prefixes, ids, v4=False)
    return build((start4.astype(np.uint32), row4), (high6, low6, row6), rows, aliases)


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
    order, starts = groups(columns)
    codes = np.empty(len(order), np.int64)
    codes[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    return codes, order[starts].astype(np.int64)


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
