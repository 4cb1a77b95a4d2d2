"""Running totals by key, with marks at the start of days, so that a case can count from the day its window began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import DAY_NS
from agent.detection.keys import Ints, grown

NEVER_NS: Final = 2**62
_EPOCH_DAYS: Final = 30


@dataclass(slots=True)
class _Mark:
    """The totals as a day began, and when each key was first seen from then until the next mark."""

    day: int
    totals: Ints
    first_ns: Ints


@dataclass(frozen=True, slots=True)
class Base:
    """What had been counted of some keys before a case: totals by key (a vector each), and first sight since."""

    day: int
    totals: dict[int, list[int]]
    first_ns: int


class Tally:
    """``measures`` sums for each id. Totals are never taken back; a case subtracts its base.

    Marks are kept for today, the day before, and the first day of this and the last period of 30 days.
    """

    def __init__(self, measures: int) -> None:
        self.totals: Ints = np.zeros((measures, 1024), np.int64)
        self.last_ns: Ints = np.zeros(1024, np.int64)
        self._marks: list[_Mark] = []

    def add(self, ids: Ints, sums: Ints, first_ns: Ints, last_ns: Ints, day: int) -> None:
        """Add sums of shape (measures, n) to distinct ids, in a batch whose newest row is of this day."""
        if not len(ids):
            return
        size = int(ids.max()) + 1
        self.totals = grown(self.totals, size)
        self.last_ns = grown(self.last_ns, size)
        if not self._marks or day > self._marks[-1].day:
            self._turn(day)
        mark = self._marks[-1]
        mark.first_ns = grown(mark.first_ns, size, NEVER_NS)
        mark.first_ns[ids] = np.minimum(mark.first_ns[ids], first_ns)
        self.totals[:, ids] += sums
        self.last_ns[ids] = np.maximum(self.last_ns[ids], last_ns)

    def base(self, ids: Ints, since_ns: int) -> Base:
        """What a case on these ids leaves out, if its window began at ``since_ns``."""
        day = since_ns // DAY_NS
        place = max((i for i, m in enumerate(self._marks) if m.day <= day), default=0)
        newest = len(self._marks) - 1
        if self._marks and place == newest - 1 and self._marks[place].day < day:
            place = newest  # the mark before holds the rows of its own day only
        totals: dict[int, list[int]] = {}
        first = NEVER_NS
        for mark in self._marks[place:]:
            known = ids[ids < len(mark.first_ns)]
            first = min(first, int(mark.first_ns[known].min(initial=NEVER_NS)))
        mark = self._marks[place]
        for i in ids[ids < mark.totals.shape[1]].tolist():
            if mark.totals[:, i].any():
                totals[i] = mark.totals[:, i].tolist()
        return Base(mark.day, totals, first)

    def since(self, ids: Ints, base: Base) -> Ints:
        """Totals of the ids without their base: shape (measures, n)."""
        out = self.totals[:, ids].copy()
        for place, i in enumerate(ids.tolist()):
            if i in base.totals:
                out[:, place] -= base.totals[i]
        return out

    def keep(self, ids: Ints) -> None:
        """Forget all other ids; these become 0, 1, 2 … in this order."""
        self.totals = np.ascontiguousarray(self.totals[:, ids])
        self.last_ns = self.last_ns[ids]
        for mark in self._marks:
            mark.totals = grown(mark.totals, int(ids.max(initial=-1)) + 1)[:, ids]
            mark.first_ns = grown(mark.first_ns, int(ids.max(initial=-1)) + 1, NEVER_NS)[ids]

    def _turn(self, day: int) -> None:
        self._marks.append(_Mark(day, self.totals.copy(), np.full(self.totals.shape[1], NEVER_NS, np.int64)))
        kept: list[_Mark] = []
        epochs: set[int] = set()
        for place, mark in enumerate(self._marks):
            epoch = mark.day // _EPOCH_DAYS
            opens_period = epoch not in epochs and epoch >= day // _EPOCH_DAYS - 1
            epochs.add(epoch)
            if opens_period or not kept or place >= len(self._marks) - 2:
                kept.append(mark)
                continue
            before = kept[-1]
            before.first_ns = grown(before.first_ns, len(mark.first_ns), NEVER_NS)
            longest = len(mark.first_ns)
            before.first_ns[:longest] = np.minimum(before.first_ns[:longest], mark.first_ns)
        if len(kept) > 1 and kept[0].day // _EPOCH_DAYS < day // _EPOCH_DAYS - 1 and len(kept) > 2:
            kept.pop(0)
        self._marks = kept

    def arrays(self, count: int) -> tuple[list[int], dict[str, NDArray[Any]]]:
        """Days of the marks, and every array cut to ``count`` ids."""
        out = {"totals": grown(self.totals, count)[:, :count], "last_ns": grown(self.last_ns, count)[:count]}
        for i, mark in enumerate(self._marks):
            out[f"mark{i}"] = grown(mark.totals, count)[:, :count]
            out[f"first{i}"] = grown(mark.first_ns, count, NEVER_NS)[:count]
        return [m.day for m in self._marks], out

    def set_arrays(self, days: list[int], arrays: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`arrays` gave."""
        self.totals, self.last_ns = arrays["totals"], arrays["last_ns"]
        self._marks = [_Mark(day, arrays[f"mark{i}"], arrays[f"first{i}"]) for i, day in enumerate(days)]


def grouped(ids: Ints, columns: Ints) -> tuple[Ints, NDArray[np.intp], Ints]:
    """Sums of columns (measures, n) by id: distinct ids in order, the sorting of the rows, sums (measures, groups)."""
    order = np.argsort(ids)
    in_order = ids[order]
    starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]]) if len(ids) else np.zeros(0, np.int64)
    if not len(starts):
        return ids[:0], order, np.zeros((len(columns), 0), np.int64)
    return in_order[starts], order, np.add.reduceat(columns[:, order], starts, axis=1)
