"""Which batches were taken: one set of intervals of sequence numbers per (agent, run, lane).

Batches may come in any order and more than once; a set of intervals stays as small as the number of its holes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Self

BatchId = tuple[str, str, int, int]
"""(agent id, run id, lane, sequence)."""

Stream = tuple[str, str, int]
"""(agent id, run id, lane)."""


class Intervals:
    """A set of non-negative integers as sorted, disjoint, never touching intervals with both ends included."""

    __slots__ = ("_first", "_last")

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []

    @classmethod
    def parse(cls, text: str) -> Self:
        """The set that :meth:`text` wrote. Raises ``ValueError``."""
        made = cls()
        for part in filter(None, text.split(",")):
            first, dash, last = part.partition("-")
            low, high = int(first), int(last if dash else first)
            if low > high or (made._last and low <= made._last[-1] + 1):
                raise ValueError(f"not a sorted list of intervals: {text!r}")
            made._first.append(low)
            made._last.append(high)
        return made

    def text(self) -> str:
        """``0-41,43``."""
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in self)

    def copy(self) -> Intervals:
        """The same set, apart."""
        made = Intervals()
        made._first, made._last = self._first.copy(), self._last.copy()
        return made

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._first, self._last, strict=True)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._first, number) - 1
        return at >= 0 and number <= self._last[at]

    def __len__(self) -> int:
        return sum(self._last) - sum(self._first) + len(self._first)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervals) and (self._first, self._last) == (other._first, other._last)

    __hash__ = None  # type: ignore[assignment]

    def add(self, number: int) -> bool:
        """Put a number in; whether it was new. O(log n) to find its place."""
        at = bisect_right(self._first, number)
        if at and number <= self._last[at - 1]:
            return False
        joins_left = at > 0 and self._last[at - 1] == number - 1
        joins_right = at < len(self._first) and self._first[at] == number + 1
        if joins_left and joins_right:
            self._last[at - 1] = self._last.pop(at)
            del self._first[at]
        elif joins_left:
            self._last[at - 1] = number
        elif joins_right:
            self._first[at] = number
        else:
            self._first.insert(at, number)
            self._last.insert(at, number)
        return True

    def add_range(self, first: int, last: int) -> None:
        """Put every number of ``first``..``last`` in, both included."""
        low = bisect_left(self._last, first - 1)
        high = bisect_right(self._first, last + 1)
        if low < high:
            first, last = min(first, self._first[low]), max(last, self._last[high - 1])
        self._first[low:high] = [first]
        self._last[low:high] = [last]

    def discard(self, number: int) -> bool:
        """Take a number out; whether it was in."""
        at = bisect_right(self._first, number) - 1
        if at < 0 or number > self._last[at]:
            return False
        first, last = self._first[at], self._last[at]
        left = [(first, number - 1)] if first < number else []
        right = [(number + 1, last)] if number < last else []
        self._first[at : at + 1] = [a for a, _ in (*left, *right)]
        self._last[at : at + 1] = [b for _, b in (*left, *right)]
        return True

    def absent(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The intervals of ``first``..``last``, both included, that are not in the set."""
        at = bisect_left(self._last, first)
        for low, high in zip(self._first[at:], self._last[at:], strict=True):
            if low > last:
                break
            if low > first:
                yield first, low - 1
            first = high + 1
        if first <= last:
            yield first, last

    @property
    def pieces(self) -> int:
        """How many intervals it takes."""
        return len(self._first)

    def holes(self) -> Iterator[tuple[int, int]]:
        """What is missing between 0 and the highest number."""
        below = 0
        for first, last in self:
            if first > below:
                yield below, first - 1
            below = last + 1


class Sequences:
    """The interval sets of all streams."""

    def __init__(self, sets: dict[Stream, Intervals] | None = None) -> None:
        self._sets: dict[Stream, Intervals] = sets or {}

    def __contains__(self, batch_id: BatchId) -> bool:
        taken = self._sets.get(batch_id[:3])
        return taken is not None and batch_id[3] in taken

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequences) and self._sets == other._sets

    __hash__ = None  # type: ignore[assignment]

    def of(self, stream: Stream) -> Intervals:
        """The set of one stream, apart; empty if nothing of it was taken."""
        taken = self._sets.get(stream)
        return taken.copy() if taken else Intervals()

    def put(self, sets: dict[Stream, Intervals]) -> None:
        """Replace the sets of some streams."""
        self._sets.update(sets)

    def drop(self, streams: Iterable[Stream]) -> None:
        """Forget some streams."""
        for stream in streams:
            self._sets.pop(stream, None)

    def streams(self) -> Iterator[Stream]:
        """Every stream of which something was taken."""
        yield from self._sets

    def copy(self) -> Sequences:
        """The same sets, apart."""
        return Sequences({stream: taken.copy() for stream, taken in self._sets.items()})
