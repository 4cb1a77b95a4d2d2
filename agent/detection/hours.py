"""Sums by number and hour, of the last hours only: columns, so that a minute of all hosts is one addition."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from agent.detection.keys import Bools, Ints

WEEK: Final = 168
NO_HOUR: Final = -(2**40)


class Hours:
    """Octets by number (0, 1, 2 …) and hour. ``span``: how many hours are held."""

    def __init__(self, span: int) -> None:
        self._span = span
        self._hour = NO_HOUR
        self._sums = np.zeros((0, span), np.int64)

    def advance(self, hour: int, count: int) -> None:
        """It is this hour, and there are so many numbers; what is older than the span is forgotten."""
        new = np.arange(max(self._hour + 1, hour - self._span + 1), hour + 1)
        self._sums[:, new % self._span] = 0
        self._hour = max(self._hour, hour)
        if count > len(self._sums):
            more = np.zeros((max(count, 2 * len(self._sums)) - len(self._sums), self._span), np.int64)
            self._sums = np.concatenate([self._sums, more])

    def add(self, ids: Ints, octets: Ints) -> None:
        """Octets of this hour."""
        np.add.at(self._sums[:, self._hour % self._span], ids, octets)

    def last(self, ids: Ints) -> Ints:
        """By hour, oldest first; shape (n, span)."""
        return self._sums[ids][:, self._order]

    def spend(self, ids: Ints, octets: Ints) -> Ints:
        """Take at most so much of each number, oldest first; gives what was there. No number twice."""
        held = np.cumsum(self.last(ids), axis=1)
        spent = np.minimum(held[:, -1], octets)
        left = np.maximum(held - spent[:, None], 0)
        self._sums[ids[:, None], self._order[None]] = np.diff(left, prepend=0, axis=1)
        return np.asarray(spent)

    def keep(self, ids: Ints) -> None:
        """Only these numbers are left, as 0, 1, 2 …."""
        self._sums = self._sums[ids]

    @property
    def _order(self) -> Ints:
        return np.asarray((self._hour + 1 + np.arange(self._span)) % self._span)

    def state(self, count: int) -> tuple[int, Ints]:
        """The hour, and the sums of the first ``count`` numbers."""
        return self._hour, self._sums[:count]

    def set_state(self, hour: int, sums: Any) -> None:
        """Take back what :meth:`state` gave."""
        self._hour, self._sums = hour, np.array(sums, np.int64).reshape(-1, self._span)


def median_where(values: Ints, which: Bools) -> Ints:
    """By row the lower median of some of its values; 0 where there are none."""
    n = values.shape[1]
    count = which.sum(axis=1)
    ordered = np.sort(np.where(which, values, -1), axis=1)
    place = np.minimum(n - count + np.maximum(count - 1, 0) // 2, n - 1)
    return np.where(count > 0, ordered[np.arange(len(values)), place], 0)
