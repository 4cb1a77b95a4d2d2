"""Keys as dense numbers: texts by a dictionary, rows of numbers by an open-addressing table over numpy.

Both are bounded: what comes after the last place gets a number that says so, and the caller counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.flow import Text

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NONE: Final = -1
OVERFLOW: Final = "(other)"
"""Stands for every text past the limit."""

_MULTIPLIER: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_FIRST_BITS: Final = 10


TEXTS: Final = 262_144
"""Different texts that are numbered."""


class Names:
    """Text -> number, first come first numbered; None is -1."""

    def __init__(self, values: Sequence[str] = (), *, limit: int | None = None) -> None:
        self.values: list[str] = list(values)
        self._index = {value: code for code, value in enumerate(self.values)}
        self._limit = TEXTS if limit is None else limit
        self.refused = 0
        """How often a text found no place; whoever counts it sets it back."""

    def code(self, text: str | None) -> int:
        """The number of a text, given now if it has none."""
        if text is None:
            return NONE
        code = self._index.get(text)
        if code is None:
            if len(self.values) >= self._limit and text != OVERFLOW:
                self.refused += 1
                return self.code(OVERFLOW)
            code = self._index[text] = len(self.values)
            self.values.append(text)
        return code

    def known(self, text: str) -> int:
        """The number of a text if it has one; else one that nothing has."""
        return self._index.get(text, NONE - 1)

    def codes(self, column: Text) -> Ints:
        """The numbers of a text column. Only texts that a row uses are numbered."""
        used = np.zeros(len(column.values) + 1, bool)
        used[column.codes] = True
        translate = np.full(len(used), NONE, np.int64)
        for place in np.flatnonzero(used[:-1]).tolist():
            translate[place] = self.code(column.values[place])
        return translate[column.codes]

    def text(self, code: int) -> str:
        """The text of a number; empty for -1."""
        return self.values[code] if code >= 0 else ""

    def or_none(self, code: int) -> str | None:
        """The text of a number; None for -1."""
        return self.values[code] if code >= 0 else None


class Keys:
    """Rows of ``width`` numbers -> dense ids 0, 1, 2 …; at most ``limit``, -1 past it.

    Equal hashes are told apart by the whole key, so no input can make two keys one.
    """

    def __init__(self, width: int, limit: int) -> None:
        self.count = 0
        self.limit = limit
        self._columns: Ints = np.zeros((width, 1 << _FIRST_BITS), np.int64)
        self._hashes = np.zeros(1 << _FIRST_BITS, np.uint64)
        self._bits = _FIRST_BITS + 1
        self._slot_hash = np.zeros(1 << self._bits, np.uint64)
        self._slot_id = np.zeros(1 << self._bits, np.int32)

    @property
    def columns(self) -> Ints:
        """The keys by id: shape (width, count)."""
        return self._columns[:, : self.count]

    @classmethod
    def of(cls, columns: Ints, limit: int) -> Keys:
        """The table that gave these keys, in this order. Raises ``ValueError`` if two are equal."""
        keys = cls(columns.shape[0], limit)
        if columns.shape[1]:
            keys._insert_in_order(columns)
        return keys

    def ids(self, key: Sequence[Ints]) -> Ints:
        """The id of each row's key, given now if it has none; -1 where the table is full. Shape (n,)."""
        hashes = _hash(key)
        place = self._first_place(hashes)
        out = self._slot_id[place].astype(np.int64)
        # An id whose key is the row's is the right one, whatever led to it. (A free place leads to the first.)
        known = np.full(len(out), self.count > 0)
        for stored, column in zip(self._columns, key, strict=True):
            known &= stored[out] == column
        todo = np.flatnonzero(~known)
        out[todo] = NONE
        place = place[todo]
        while len(todo):
            wanted = hashes[todo]
            found = self._slot_hash[place]
            ids = self._slot_id[place]
            hit = found == wanted
            if hit.any():
                for stored, column in zip(self._columns, key, strict=True):
                    hit &= stored[ids] == column[todo]
                out[todo[hit]] = ids[hit]
            free = np.flatnonzero(found == 0)
            if len(free):
                if self.count >= self.limit:
                    hit[free] = True  # stays -1
                elif self._claim(key, hashes, todo, place, free):
                    place = self._first_place(hashes[todo])  # the table has grown: look again
                    continue
                else:
                    continue
            left = ~hit
            todo = todo[left]
            place = (place[left] + 1) & (len(self._slot_hash) - 1)
        return out

    def _claim(
        self, key: Sequence[Ints], hashes: NDArray[np.uint64], todo: Ints, place: Ints, free: Ints
    ) -> bool:
        """Give the free slots to the first row that wants each. Returns whether the table had to grow first."""
        slots, first = np.unique(place[free], return_index=True)
        if (self.count + len(slots)) * 2 > len(self._slot_hash):
            self._grow(self.count + len(slots))
            return True
        by_row = np.argsort(first)[: self.limit - self.count]
        rows, slots = todo[free[first[by_row]]], slots[by_row]
        self._append(key, hashes, rows, slots)
        return False

    def _append(self, key: Sequence[Ints], hashes: NDArray[np.uint64], rows: Ints, slots: Ints) -> None:
        new = slice(self.count, self.count + len(rows))
        while new.stop > self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)], axis=1)
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
        for stored, column in zip(self._columns, key, strict=True):
            stored[new] = column[rows]
        self._hashes[new] = hashes[rows]
        self._slot_hash[slots] = hashes[rows]
        self._slot_id[slots] = np.arange(new.start, new.stop, dtype=np.int32)
        self.count = new.stop

    def _insert_in_order(self, columns: Ints) -> None:
        n = columns.shape[1]
        self._columns = columns.astype(np.int64, copy=True)
        self._hashes = _hash(list(columns))
        self.count = n
        self._grow(n)
        if not np.array_equal(self.ids(list(columns)), np.arange(n)):
            raise ValueError("two keys are equal")

    def _grow(self, wanted: int) -> None:
        while wanted * 2 > 1 << self._bits:
            self._bits += 1
        self._slot_hash = np.zeros(1 << self._bits, np.uint64)
        self._slot_id = np.zeros(1 << self._bits, np.int32)
        todo = np.arange(self.count)
        place = self._first_place(self._hashes[: self.count])
        while len(todo):
            free = np.flatnonzero(self._slot_hash[place] == 0)
            slots, first = np.unique(place[free], return_index=True)
            won = free[first]
            self._slot_hash[slots] = self._hashes[todo[won]]
            self._slot_id[slots] = todo[won]
            left = np.ones(len(todo), bool)
            left[won] = False
            todo = todo[left]
            place = (place[left] + 1) & (len(self._slot_hash) - 1)

    def _first_place(self, hashes: NDArray[np.uint64]) -> Ints:
        places: Any = hashes >> np.uint64(64 - self._bits)
        return np.asarray(places, np.int64)


def _hash(key: Sequence[Ints]) -> NDArray[np.uint64]:
    """A 64-bit hash of each row, never 0."""
    out = np.zeros(len(key[0]), np.uint64)
    for column in key:
        out ^= np.ascontiguousarray(column).view(np.uint64)
        out *= _MULTIPLIER
        out ^= out >> np.uint64(32)
    out *= _MULTIPLIER
    return out | np.uint64(1)


def grown(array: NDArray[Any], size: int, fill: int = 0) -> NDArray[Any]:
    """The array with at least ``size`` places in its last axis, doubled when it must grow."""
    have = array.shape[-1]
    if have >= size:
        return array
    more = np.full((*array.shape[:-1], max(size, 2 * have) - have), fill, array.dtype)
    return np.concatenate([array, more], axis=-1)
