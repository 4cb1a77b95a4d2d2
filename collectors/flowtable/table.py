"""The memory of the flow table: one row of numbers per live flow, found by its key. No rule stands in here."""

from __future__ import annotations

import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]

# Columns of ``Slots.cells``. The body is what a row is made of.
KEY: Final = slice(0, 5)
"""End a (high, low), end b (high, low), ports and protocol. End a is the lesser (address, port)."""
HASH: Final = 5
PLACE: Final = 6
"""Where the index points at this slot."""
CLOCK: Final = 7
"""The table's clock at the flow's last packet."""
BODY: Final = slice(8, 18)
WIDTH: Final = 18

# Rows of a body: a flow's standing, a row's standing, times, and amounts sent by end a and by end b.
FLOW, ROW, START, END, OCTETS_A, OCTETS_B, PACKETS_A, PACKETS_B, CONTENT_A, CONTENT_B = range(10)
AMOUNTS: Final = slice(OCTETS_A, CONTENT_B + 1)

NEVER: Final = np.iinfo(np.int64).max
"""``Slots.last`` of a slot that holds no flow."""
_EMPTY, _REMOVED = -1, -2
_ROW_DTYPE: Final = np.dtype((np.void, 8 * WIDTH))
"""A row as one thing: numpy then moves it at once instead of number by number."""
_FIRST_SIZE = 1 << 10


class KeyHash:
    """A 64-bit hash of keys that an outsider cannot steer: every step multiplies by secret odd numbers twice.

    One multiplication is not enough: flipping the top bits of two words would cancel out whatever the secret.
    """

    def __init__(self, seed: int | None = None) -> None:
        if seed is None:
            words = np.frombuffer(os.urandom(8 * 15), np.uint64)
        else:
            words = np.random.default_rng(seed).integers(0, 2**64, 15, np.uint64)
        self._salt = words[:5]
        self._odd = words[5:].reshape(5, 2) | np.uint64(1)

    def __call__(self, key: Words) -> Words:
        """Hashes of ``key`` of shape (5, n)."""
        half = np.uint64(32)
        mixed = np.zeros(key.shape[1], np.uint64)
        spread = np.empty_like(mixed)
        for word, salt, (first, second) in zip(key, self._salt, self._odd, strict=True):
            mixed ^= word
            mixed ^= salt
            mixed *= first
            np.right_shift(mixed, half, out=spread)
            mixed ^= spread
            mixed *= second
        np.right_shift(mixed, half, out=spread)
        mixed ^= spread
        return mixed


class Slots:
    """Flows in rows of int64, with an open-addressing index over them. Equal hashes are told apart by the whole key."""

    def __init__(self) -> None:
        self.cells: Numbers = np.empty((_FIRST_SIZE, WIDTH), np.int64)
        self._whole = self.cells.view(_ROW_DTYPE)[:, 0]
        self.last: Numbers = np.full(_FIRST_SIZE, NEVER, np.int64)
        """Newest packet of each flow; apart from the cells, because sweeps read nothing else."""
        self._index: NDArray[np.int32] = np.full(_FIRST_SIZE * 4, _EMPTY, np.int32)
        self._freed: NDArray[np.int32] = np.empty(_FIRST_SIZE, np.int32)
        self._n_freed = 0
        self._top = 0
        self._removed = 0

    def __len__(self) -> int:
        return self._top - self._n_freed

    @property
    def nbytes(self) -> int:
        """Octets of memory set aside."""
        return sum(a.nbytes for a in (self.cells, self.last, self._index, self._freed))

    def live(self) -> Numbers:
        """Every slot that holds a flow."""
        return np.flatnonzero(self.last[: self._top] != NEVER)

    def older(self, time_ns: int) -> Numbers:
        """Slots of flows whose last packet is at or before ``time_ns``."""
        return np.flatnonzero(self.last[: self._top] <= time_ns)

    def upsert(self, hashes: Words, keys: Words) -> tuple[Numbers, Flags, Numbers]:
        """The slot of each key, whether it is new (then only key and hash are filled in), and a copy of its cells.

        ``hashes`` (m,), ``keys`` (m, 5); the keys are distinct. :meth:`write` puts the copy back.
        """
        self._make_room(len(hashes))
        mask = len(self._index) - 1
        place = (hashes & np.uint64(mask)).view(np.int64)
        slots = self._index.take(place).astype(np.int64)
        # Most keys lie where they are looked for first. An empty place (-1, -2) reads the last row, which is no match.
        rows = self._whole[slots].view(np.int64).reshape(len(slots), WIDTH)
        same = slots >= 0
        same &= rows[:, HASH] == hashes.view(np.int64)
        for word, wanted in zip(range(KEY.start, KEY.stop), keys.view(np.int64).T, strict=True):
            same &= rows[:, word] == wanted
        fresh = np.zeros(len(hashes), bool)
        if len(todo := np.flatnonzero(~same)):
            self._seek(hashes.view(np.int64), keys.view(np.int64), place, slots, fresh, todo)
            rows[todo] = self.cells.take(slots[todo], axis=0)
        return slots, fresh, rows

    def write(self, slots: Numbers, rows: Numbers) -> None:
        """Put rows, as :meth:`upsert` gave them and changed since, into their slots."""
        self._whole[slots] = rows.view(_ROW_DTYPE)[:, 0]

    def _seek(
        self, hashes: Numbers, keys: Numbers, place: Numbers, slots: Numbers, fresh: Flags, todo: Numbers
    ) -> None:
        """Find or make the slots of the keys ``todo``, which do not lie at their first ``place``."""
        mask = len(self._index) - 1
        place = (place[todo] + (slots[todo] != _EMPTY)) & mask
        while len(todo):
            found = self._index.take(place)
            # As above: what is read for an empty place means nothing.
            hit = found >= 0
            hit &= self.cells[found, HASH] == hashes[todo]
            if len(seen := np.flatnonzero(hit)):
                there, here = found[seen], todo[seen]
                same = (self.cells[there, KEY] == keys[here]).all(axis=1)
                hit[seen] = same
                slots[here[same]] = there[same]
            free = found == _EMPTY
            if len(won := self._claim(np.flatnonzero(free), place, todo)):
                new = todo[won]
                slots[new] = self._make(hashes[new], keys[new], place[won])
                fresh[new] = hit[won] = True
            # Whoever lost a free place looks at it again: it now holds another key.
            place += ~free
            place &= mask
            on = np.flatnonzero(~hit)
            place, todo = place[on], todo[on]

    def _make(self, hashes: Numbers, keys: Numbers, place: Numbers) -> Numbers:
        """New slots, pointed at from ``place``."""
        slots = self._allocate(len(hashes))
        self._index[place] = slots
        rows = np.empty((len(hashes), WIDTH), np.int64)
        rows[:, KEY] = keys
        rows[:, HASH] = hashes
        rows[:, PLACE] = place
        self.write(slots, rows)
        return slots

    def remove(self, slots: Numbers) -> None:
        """Forget flows."""
        self._index[self.cells[slots, PLACE]] = _REMOVED
        self._removed += len(slots)
        self.last[slots] = NEVER
        self._freed[self._n_freed : self._n_freed + len(slots)] = slots
        self._n_freed += len(slots)

    def _claim(self, free: Numbers, place: Numbers, todo: Numbers) -> Numbers:
        """Of those at an empty place, one for each place."""
        if not len(free):
            return free
        marks = (-3 - todo[free]).astype(np.int32)
        self._index[place[free]] = marks
        return np.asarray(free[self._index[place[free]] == marks])

    def _allocate(self, n: int) -> Numbers:
        again = min(n, self._n_freed)
        self._n_freed -= again
        used = self._freed[self._n_freed : self._n_freed + again].astype(np.int64)
        new = np.arange(self._top, self._top + n - again)
        self._top += n - again
        return np.concatenate((used, new))

    def _make_room(self, more: int) -> None:
        need = len(self) + more
        if need > len(self.last):
            size = max(need, len(self.last) * 2)
            # Untouched pages of a new array cost no memory, so doubling is cheap; only the live part is copied.
            cells = np.empty((size, WIDTH), np.int64)
            cells[: self._top] = self.cells[: self._top]
            last = np.full(size, NEVER, np.int64)
            last[: self._top] = self.last[: self._top]
            freed = np.empty(size, np.int32)
            freed[: self._n_freed] = self._freed[: self._n_freed]
            self.cells, self.last, self._freed = cells, last, freed
            self._whole = cells.view(_ROW_DTYPE)[:, 0]
        if (need + self._removed) * 3 > len(self._index):
            self._rebuild_index(need)

    def _rebuild_index(self, need: int) -> None:
        size = len(self._index)
        while need * 4 > size:
            size *= 2
        self._index = np.full(size, _EMPTY, np.int32)
        self._removed = 0
        todo = self.live()
        mask = size - 1
        place = self.cells[todo, HASH] & mask
        while len(todo):
            won = self._claim(np.flatnonzero(self._index[place] == _EMPTY), place, todo)
            self._index[place[won]] = todo[won]
            self.cells[todo[won], PLACE] = place[won]
            lost = np.ones(len(todo), bool)
            lost[won] = False
            place = (place[lost] + 1) & mask
            todo = todo[lost]
