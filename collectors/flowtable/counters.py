"""Counters that somebody else keeps and that only grow, such as the kernel's: how much each grew since it was last seen.

Each entry has two keys: its ends, and an identity that the keeper gave it. An entry is seen in **looks** (all entries
there are, in parts) and once more when it **ended**. What it grew by is handed out exactly once, in whatever order the
two arrive; so its end is remembered for two looks, in which it may still show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.flowtable.table import BODY, KeyHash, Slots, Words

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

COUNTERS: Final = 4
_STATE, _NOTE = 0, 1
"""Rows of a body: whether the entry ended, and what the caller noted of it."""
_COUNTS: Final = slice(2, 2 + COUNTERS)
_LIVE, _ENDED = 0, 1
_LOOKS: Final = 2
"""An entry that was in none of so many looks is gone; so long an end is remembered too."""
_ALIKE: Final = 64
"""Packets up to which two entries of one name and equal counts are taken as two, beyond as one that was told twice:
the kernel gives small look-alikes (name lookups, probes) the same name again; and it tells an end again to everybody
where another program asked for reliable delivery and had no room."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What n entries grew by."""

    by: Numbers
    """(4, n); 0 for what is left to a later look or was handed out before."""
    fresh: Flags
    """Never seen before, so all it counts is new."""
    note: Numbers
    """What the caller noted when it was first seen."""


class Counters:
    """Remembers counters. ``most`` entries; those beyond are handed out when they end, whole. Not thread-safe."""

    def __init__(self, most: int, *, seed: int | None = None) -> None:
        self._most = most
        self._ends, self._again = KeyHash(seed), KeyHash(None if seed is None else seed + 1)
        self._hash = KeyHash(None if seed is None else seed + 2)
        self._slots = Slots()
        self._look = 0
        self.backwards = 0
        """Entries whose counters had become smaller: somebody set them to zero. What they count now was taken as new."""
        self.gone = 0
        """Entries that left the table without word of their end: what they grew by since the last look is not known."""
        self.waiting = 0
        """Entries of the last look for which there was no room."""
        self.repeated = 0
        """Ends that were told twice."""

    def __len__(self) -> int:
        return len(self._slots)

    def keys(self, ends: Words, identity: Words, start_ns: Numbers) -> Words:
        """Keys (n, 5) from ends (5, n), the keeper's identity and when it began (any fixed number where not known).

        The ends stand in it as 128 bits of two secret hashes, the rest as it is.
        """
        out = np.empty((ends.shape[1], 5), np.uint64)
        out[:, 0], out[:, 1], out[:, 2] = self._ends(ends), self._again(ends), ends[4]
        out[:, 3], out[:, 4] = identity, start_ns.view(np.uint64)
        return out

    def begin(self) -> None:
        """A look begins: everything that there is will be given to :meth:`seen`, in parts."""
        self._look += 1
        self.waiting = 0

    def seen(self, keys: Words, counts: Numbers, note: Numbers) -> Growth:
        """Entries of a look with counters (4, n)."""
        n = len(keys)
        out = Growth(np.zeros((COUNTERS, n), np.int64), np.zeros(n, bool), note.copy())
        for at in _apart(keys):
            self._see(keys[at], counts[:, at], at, out)
        return out

    def ended(self, keys: Words, counts: Numbers, note: Numbers) -> Growth:
        """Entries that ended with these counters, oldest first."""
        n = len(keys)
        out = Growth(np.zeros((COUNTERS, n), np.int64), np.zeros(n, bool), note.copy())
        for at in _apart(keys):
            self._end(keys[at], counts[:, at], at, out)
        return out

    def finish(self) -> None:
        """The look was whole: forget what was in none of the last two."""
        old = self._slots.older(self._look - _LOOKS)
        self.gone += int(np.count_nonzero(self._slots.cells[old, BODY.start + _STATE] == _LIVE))
        self._slots.remove(old)

    def _see(self, keys: Words, counts: Numbers, at: Numbers, out: Growth) -> None:
        slots, fresh, rows = self._slots.upsert(self._hash(np.ascontiguousarray(keys.T)), keys)
        body = rows[:, BODY].T
        begun, live = self._first(body, fresh, out.note[at]), body[_STATE] == _LIVE
        grown = counts - body[_COUNTS]
        smaller = (grown < 0).any(axis=0) & live
        self.backwards += int(np.count_nonzero(smaller))
        # An entry that ended may still show for a moment; a new one with its very name is taken up once that is over.
        out.by[:, at] = np.where(live, np.where(smaller, counts, grown), 0)
        out.fresh[at], out.note[at] = begun, body[_NOTE]
        body[_COUNTS] = np.where(live, counts, body[_COUNTS])
        self._slots.write(slots, rows)
        self._slots.last[slots[live]] = self._look
        if self._look > 1:
            self._leave(slots, fresh, at, out)

    def _leave(self, slots: Numbers, fresh: Flags, at: Numbers, out: Growth) -> None:
        """Let new entries go for which there is no room. Not at the first look: what it counts is no news."""
        excess = np.flatnonzero(fresh)[max(self._most - len(self._slots) + int(fresh.sum()), 0) :]
        if len(excess):
            self.waiting += len(excess)
            out.by[:, at[excess]] = 0
            out.fresh[at[excess]] = False
            self._slots.remove(slots[excess])

    def _end(self, keys: Words, counts: Numbers, at: Numbers, out: Growth) -> None:
        slots, fresh, rows = self._slots.upsert(self._hash(np.ascontiguousarray(keys.T)), keys)
        body = rows[:, BODY].T
        begun = self._first(body, fresh, out.note[at])
        told = (
            (body[_STATE] == _ENDED)
            & (body[_COUNTS] == counts).all(axis=0)
            & (counts[::2].sum(axis=0) > _ALIKE)
        )
        self.repeated += int(np.count_nonzero(told))
        # A second one with the name of one that has ended counts from nothing.
        another = (body[_STATE] == _ENDED) & ~told
        grown = counts - np.where(another, 0, body[_COUNTS])
        smaller = (grown < 0).any(axis=0)
        self.backwards += int(np.count_nonzero(smaller))
        out.by[:, at] = np.where(told, 0, np.where(smaller, counts, grown))
        out.fresh[at], out.note[at] = begun | another, body[_NOTE]
        body[_STATE], body[_COUNTS] = _ENDED, counts
        self._slots.write(slots, rows)
        self._slots.last[slots] = self._look

    @staticmethod
    def _first(body: Numbers, fresh: Flags, note: Numbers) -> Flags:
        """Fill in the bodies of new entries, in place."""
        body[:, fresh] = 0
        body[_NOTE, fresh] = note[fresh]
        return fresh


def _apart(keys: Words) -> list[Numbers]:
    """Rows in parts, each without a key twice, in order: the first of each key, then the second, and so on."""
    n = len(keys)
    if n == 0:
        return []
    whole = np.ascontiguousarray(keys).view(np.dtype((np.void, 40)))[:, 0]
    _, which, count = np.unique(whole, return_inverse=True, return_counts=True)
    if len(count) == n:
        return [np.arange(n)]
    order = np.argsort(which, kind="stable")
    starts = np.concatenate(([0], np.cumsum(count)[:-1]))
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n) - np.repeat(starts, count)
    return [np.flatnonzero(rank == r) for r in range(int(count.max()))]
