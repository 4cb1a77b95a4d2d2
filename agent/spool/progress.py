"""How far the batches of one run and lane are through: what every message says of those before it."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

MOST_RANGES: Final = 256
"""Dropped ranges that are told; older ones were told by the messages before."""


class Progress:
    """Sequences of one lane of this run, from sealing to acknowledgement. Not thread-safe."""

    def __init__(self) -> None:
        self.low_water = 0
        """Every sequence below it was acknowledged or let go."""
        self.next_sequence = 0
        self._let_go: list[tuple[int, int]] = []
        self._through: set[int] = set()
        """Acknowledged, above the low-water mark."""
        self._starts: list[tuple[int, int]] = []
        """(record number, sequence) from which on the two run in step."""

    @property
    def dropped(self) -> tuple[tuple[int, int], ...]:
        """Ranges let go, first and last, in order; the newest :data:`MOST_RANGES`."""
        return tuple(self._let_go[-MOST_RANGES:])

    @property
    def waiting(self) -> int:
        """Batches that are kept and not through."""
        gone = sum(b - max(a, self.low_water) + 1 for a, b in self._let_go if b >= self.low_water)
        return self.next_sequence - self.low_water - len(self._through) - gone

    def appended(self, sequence: int, number: int) -> None:
        """A batch is kept under a record number of the lane."""
        self.next_sequence = sequence + 1
        if not self._starts or number - self._starts[-1][0] != sequence - self._starts[-1][1]:
            self._starts.append((number, sequence))

    def acknowledged(self, number: int) -> None:
        """The record of that number is through."""
        self._through.add(self._sequence(number))
        self._advance()

    def never_kept(self, sequence: int) -> None:
        """A batch had no room."""
        self.next_sequence = sequence + 1
        self._range(sequence, sequence)

    def let_go(self, number: int, count: int) -> None:
        """Records that were kept are let go."""
        end = number + count
        while number < end:
            at = bisect_right(self._starts, number, key=lambda start: start[0])
            upto = min(end, self._starts[at][0]) if at < len(self._starts) else end
            first = self._sequence(number)
            self._range(first, first + upto - number - 1)
            number = upto

    def _sequence(self, number: int) -> int:
        at = bisect_right(self._starts, number, key=lambda start: start[0]) - 1
        start, sequence = self._starts[at]
        return sequence + number - start

    def _range(self, first: int, last: int) -> None:
        merged: list[tuple[int, int]] = []
        for a, b in sorted([*self._let_go, (first, last)]):
            if merged and a <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], b))
            else:
                merged.append((a, b))
        self._let_go = merged
        self._advance()

    def _advance(self) -> None:
        while True:
            if self.low_water in self._through:
                self._through.remove(self.low_water)
                self.low_water += 1
                continue
            at = bisect_right(self._let_go, self.low_water, key=lambda span: span[0]) - 1
            if at < 0 or self._let_go[at][1] < self.low_water:
                return
            self.low_water = self._let_go[at][1] + 1
