"""Windows: rings of buckets over paths, and for each pair the bound that says which are worth an exact look.

Bucket ``b`` of a grain holds ``[b*grain, (b+1)*grain)``. The sum at ``j`` is that of the buckets ``j-n .. j``, so it
covers at least the window and less than the window and one bucket. A ring keeps ``2n`` buckets behind the last one
that is evaluated, so that late rows can be judged against whole windows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from agent.detection.keys import Bools, Ints, grown

BASE_NS: Final = 10 * SECOND_NS
"""The cube's bucket: a longer row is spread over several."""
_PIECES: Final = 16
_FEW: Final = 256
_SPARSE: Final = 4
_SHORT: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Window:
    """One window length and its grain."""

    name: str
    n: int
    """Buckets in a window."""
    grain_ns: int
    back: int | None = None
    """Evaluated buckets that late rows may still change; None: as many as a window has."""
    ring: str = ""
    """The ring that it is a sum of; its own where empty."""
    spreads: bool = True
    """A long row counts in every bucket that it spans; else whole in that of its end, as in the ledger."""

    @property
    def span_ns(self) -> int:
        """Its length."""
        return self.n * self.grain_ns

    def low(self, bucket: int) -> int:
        """The first bucket that the sum at a bucket counts; it never falls as buckets grow."""
        return bucket - self.n

    def gone(self, bucket: int) -> int:
        """The first bucket whose sum does not count a bucket any more."""
        return bucket + self.n + 1

    def late_from(self, due: int) -> int:
        """The first evaluated bucket that late rows may still change."""
        return due - (self.n if self.back is None else self.back)

    def kept_from(self, due: int) -> int:
        """The first bucket that any sum may still count, if ``due`` is the last one evaluated."""
        return self.low(self.late_from(due))

    def last_due(self, watermark_ns: int) -> int:
        """The last bucket whose end the watermark has reached."""
        return watermark_ns // self.grain_ns - 1

    def bounds(self, bucket: int) -> tuple[int, int]:
        """What the sum at this bucket truly covers: from, to."""
        return self.low(bucket) * self.grain_ns, (bucket + 1) * self.grain_ns


WINDOWS: Final[Mapping[str, Window]] = {
    "5m": Window("5m", 30, BASE_NS),
    "1h": Window("1h", 60, MINUTE_NS),
    "24h": Window("24h", 96, 15 * MINUTE_NS),
    "30d": Window("30d", 120, 6 * HOUR_NS),
}
assert all(w.span_ns in (5 * MINUTE_NS, HOUR_NS, DAY_NS, 30 * DAY_NS) for w in WINDOWS.values())


@dataclass(frozen=True, slots=True)
class Cells:
    """Amounts by bucket, in order of the rows that they come from; a long row has several, ending with its last."""

    row: Ints
    bucket: Ints
    amount: Ints

    def take(self, wanted: Any) -> Cells:
        """Some of them."""
        return Cells(self.row[wanted], self.bucket[wanted], self.amount[wanted])


def cells_of(starts: Ints, ends: Ints, amounts: Ints, window: Window, oldest: Ints) -> Cells:
    """Rows as cells of a window's grain. A row of up to one base bucket counts where it ends; a longer one is spread
    evenly over the base buckets that it spans, the remainder to the last. Nothing before bucket ``oldest`` of the row.
    """
    rows = np.arange(len(ends))
    bucket = ends // window.grain_ns
    long = np.flatnonzero(ends - starts > BASE_NS) if window.spreads else rows[:0]
    if not len(long):
        held = bucket >= oldest
        return Cells(rows, bucket, amounts) if held.all() else Cells(rows[held], bucket[held], amounts[held])
    short = np.setdiff1d(rows, long, assume_unique=True)
    spread = _spread(starts[long], ends[long], amounts[long], window, oldest[long])
    row = np.concatenate([short, long[spread.row]])
    order = np.argsort(row, kind="stable")
    joined = Cells(
        row[order],
        np.concatenate([bucket[short], spread.bucket])[order],
        np.concatenate([amounts[short], spread.amount])[order],
    )
    return joined.take(joined.bucket >= oldest[joined.row])


def _spread(starts: Ints, ends: Ints, amounts: Ints, window: Window, oldest: Ints) -> Cells:
    factor = window.grain_ns // BASE_NS
    first, last = starts // BASE_NS, ends // BASE_NS
    each, rest = np.divmod(amounts, last - first + 1)
    low, high = np.maximum(first // factor, oldest), last // factor
    count = np.maximum(high - low + 1, 0)
    row = np.repeat(np.arange(len(starts)), count)
    step = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    bucket = low[row] + step
    base = np.minimum(last[row], bucket * factor + factor - 1) - np.maximum(first[row], bucket * factor) + 1
    return Cells(row, bucket, each[row] * base + np.where(bucket == high[row], rest[row], 0))


@dataclass(frozen=True, slots=True)
class Parts:
    """Amounts by path, one stretch for each bucket, buckets in order."""

    numbers: list[int]
    edges: list[int]
    """One more than ``numbers``: where each stretch begins, and the end."""
    paths: NDArray[np.int32]
    amounts: Ints

    @classmethod
    def of(cls, buckets: Ints, paths: Ints, amounts: Ints) -> Parts:
        """Sorted by bucket, where they are not."""
        if not (buckets[1:] >= buckets[:-1]).all():
            order = np.argsort(buckets)
            buckets, paths, amounts = buckets[order], paths[order], amounts[order]
        starts = np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]]) if len(buckets) else buckets
        edges = [*starts.tolist(), len(buckets)]
        return cls(buckets[starts].tolist(), edges, paths.astype(np.int32), amounts)

    def coarser(self, factor: int) -> Parts:
        """The same in a grain that is ``factor`` times as long."""
        if factor == 1:
            return self
        numbers = [number // factor for number in self.numbers]
        kept = [i for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1]]
        edges = [*(self.edges[i] for i in kept), self.edges[-1]]
        return Parts([numbers[i] for i in kept], edges, self.paths, self.amounts)


def summed(buckets: Ints, paths: Ints, amounts: Ints, width: int) -> Parts:
    """Amounts by bucket, and by path where that makes them much fewer. Every path is under ``width``; buckets times
    width fit 62 bits."""
    low = int(buckets.min())
    if len(buckets) <= _SPARSE * width and int(buckets.max()) - low < _SHORT:
        # Few rows for each path: to sort by bucket alone is a tenth of the work, for short numbers are counted.
        near = (buckets - low).astype(np.uint16)
        order = np.argsort(near, kind="stable")
        return Parts.of(near[order].astype(np.int64) + low, paths[order], amounts[order])
    both = (buckets - low) * width + paths
    order = np.argsort(both)
    both = both[order]
    starts = np.flatnonzero(np.r_[True, both[1:] != both[:-1]])
    sums = np.add.reduceat(amounts[order], starts)
    both = both[starts]
    last = int(both[-1]) // width
    firsts = np.searchsorted(both, np.arange(last + 2) * width) if last < _FEW else None
    if firsts is None:
        bucket, path = np.divmod(both, width)
        return Parts.of(bucket + low, path, sums)
    number = [i for i in range(last + 1) if firsts[i] < firsts[i + 1]]
    for i in number:
        both[firsts[i] : firsts[i + 1]] -= i * width
    edges = [*(int(firsts[i]) for i in number), len(both)]
    return Parts([low + i for i in number], edges, both.astype(np.int32), sums)


class Bucket:
    """Amounts by path: a list of pieces, or, while it is filled, one dense column."""

    __slots__ = ("_dense", "_pieces")

    def __init__(self, paths: NDArray[np.int32], amounts: Ints) -> None:
        self._pieces = [(paths, amounts)]
        self._dense: Ints | None = None

    def add(self, paths: NDArray[np.int32], amounts: Ints) -> None:
        """Add amounts to paths, a path perhaps several times."""
        if self._dense is None:
            self._pieces.append((paths, amounts))
            if len(self._pieces) >= _PIECES:
                self._join()
            return
        self._dense = grown(self._dense, int(paths.max()) + 1)
        np.add.at(self._dense, paths, amounts)

    def pieces(self) -> list[tuple[NDArray[np.int32], Ints]]:
        """All of it; gives up the dense column, so call it when little more will come."""
        return [self.cells()] if self._dense is not None else self._pieces

    def cells(self) -> tuple[NDArray[np.int32], Ints]:
        """Each path with its amount, in order."""
        if self._dense is None:
            self._make_dense()
        assert self._dense is not None
        paths = np.flatnonzero(self._dense).astype(np.int32)
        amounts = self._dense[paths]
        self._pieces, self._dense = [(paths, amounts)] if len(paths) else [], None
        return paths, amounts

    def total(self, wanted: Bools) -> int:
        """The sum of the wanted paths (a mask by path)."""
        if self._dense is not None:
            n = min(len(self._dense), len(wanted))
            return int(self._dense[:n][wanted[:n]].sum())
        return sum(int(amounts[wanted[paths]].sum()) for paths, amounts in self._pieces)

    def _join(self) -> None:
        """Make one of many pieces: dense if they would fill a good part of the column anyway."""
        if sum(len(paths) for paths, _ in self._pieces) * 4 >= max(
            int(paths.max()) for paths, _ in self._pieces
        ):
            self._make_dense()
            return
        paths = np.concatenate([p for p, _ in self._pieces])
        amounts = np.concatenate([a for _, a in self._pieces])
        order = np.argsort(paths)
        paths = paths[order]
        starts = np.flatnonzero(np.r_[True, paths[1:] != paths[:-1]])
        self._pieces = [(paths[starts], np.add.reduceat(amounts[order], starts))]

    def _make_dense(self) -> None:
        size = max((int(paths.max()) for paths, _ in self._pieces), default=-1) + 1
        self._dense = np.zeros(size, np.int64)
        for paths, amounts in self._pieces:
            np.add.at(self._dense, paths, amounts)
        self._pieces = []


PAIR: Final = "pair"
"""The grouping of every rule that names no other: one store and one destination entity."""


class Ring:
    """All buckets of one window, by path; and by pair the sum of what the next evaluation may still count."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.bounds: dict[str, Ints] = {PAIR: np.zeros(1024, np.int64)}
        """By grouping and pair: at least as large as any sum of a window that is not evaluated yet."""
        self.due: int | None = None
        """The last bucket evaluated."""
        self._buckets: dict[int, Bucket] = {}
        self._counted: set[int] = set()

    @property
    def bound(self) -> Ints:
        """By pair, of the grouping that is always there."""
        return self.bounds[PAIR]

    def add_bound(self, parts: Parts, pairs: Ints, pair_count: int, group: str = PAIR) -> None:
        """Raise the bounds by what is about to be added; ``pairs`` of the parts' paths."""
        bound = self.bounds[group] = grown(self.bounds[group], pair_count)
        skipped = 0 if self.due is None else bisect_left(parts.numbers, self.window.low(self.due))
        counted = slice(parts.edges[skipped], None)
        np.add.at(bound, pairs[counted], parts.amounts[counted])

    def add(self, parts: Parts) -> None:
        """Put amounts into their buckets."""
        buckets, paths, amounts, edges = self._buckets, parts.paths, parts.amounts, parts.edges
        for number, low, high in zip(parts.numbers, edges, edges[1:], strict=False):
            bucket = buckets.get(number)
            if bucket is None:
                buckets[number] = Bucket(paths[low:high], amounts[low:high])
            else:
                bucket.add(paths[low:high], amounts[low:high])
        counts = 0 if self.due is None else bisect_left(parts.numbers, self.window.low(self.due))
        self._counted.update(parts.numbers[counts:])

    def retire(self, due: int, pair_of: Ints, others: Mapping[str, Ints] | None = None) -> None:
        """All buckets up to ``due`` are evaluated: let go of what no window will count again. ``others``: pairs by path
        of the other groupings."""
        if self.due is not None and due <= self.due:
            return
        for over in [b for b in self._buckets if (self.due is None or b > self.due) and b <= due]:
            self._buckets[over].pieces()
        self.due = due
        low, kept = self.window.low(due), self.window.kept_from(due)
        gone = [b for b in self._counted if b < low]
        if gone:
            self._counted.difference_update(gone)
            # A bucket of rows that sent nothing has none once it was looked at.
            none = (np.zeros(0, np.int32), np.zeros(0, np.int64))
            pieces = [none, *(piece for bucket in gone for piece in self._buckets[bucket].pieces())]
            paths, amounts = (np.concatenate(column) for column in zip(*pieces, strict=True))
            for group, bound in self.bounds.items():
                pairs = pair_of if group == PAIR else (others or {})[group]
                np.subtract.at(bound, pairs[paths], amounts)
        for bucket in [b for b in self._buckets if b < kept]:
            del self._buckets[bucket]

    def regroup(self, groups: Mapping[str, Ints], pair_count: int) -> None:
        """Bounds of these groupings (pairs by path) anew from the cells, beside the one that is always there."""
        self.bounds = {PAIR: grown(self.bound, pair_count)}
        for group, pairs in groups.items():
            self.rebound(pairs, pair_count, group)

    def rebound(self, pairs: Ints, pair_count: int, group: str = PAIR) -> None:
        """Make the bounds of a grouping anew, after paths were given to other pairs."""
        bound = self.bounds[group] = np.zeros(max(pair_count, 1024), np.int64)
        for number in self._counted:
            for paths, amounts in self._buckets[number].pieces():
                np.add.at(bound, pairs[paths], amounts)

    def series(self, wanted: Bools) -> dict[int, int]:
        """Bucket -> sum over the wanted paths (a mask by path), where there is any."""
        totals = {number: bucket.total(wanted) for number, bucket in self._buckets.items()}
        return {number: total for number, total in totals.items() if total}

    @property
    def held_from(self) -> int:
        """The first bucket whose whole window the ring still holds."""
        return -(2**62) if self.due is None else self.window.low(self.due)

    def cells_between(self, low: int, high: int) -> tuple[Ints, Ints, Ints]:
        """Bucket, path and amount of every cell from bucket ``low`` to ``high``, a path perhaps several times."""
        nothing = np.zeros(0, np.int64)
        buckets, paths, amounts = [nothing], [nothing], [nothing]
        for number in sorted(b for b in self._buckets if low <= b <= high):
            for path, amount in self._buckets[number].pieces():
                buckets.append(np.full(len(path), number, np.int64))
                paths.append(path.astype(np.int64))
                amounts.append(amount)
        return np.concatenate(buckets), np.concatenate(paths), np.concatenate(amounts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every cell, for a snapshot: bucket, path, amount."""
        numbers = sorted(self._buckets)
        cells = [self._buckets[number].cells() for number in numbers]
        nothing = np.zeros(0, np.int64)
        return {
            "bucket": np.repeat(np.array(numbers, np.int64), [len(paths) for paths, _ in cells]),
            "path": np.concatenate([nothing, *(paths for paths, _ in cells)]),
            "amount": np.concatenate([nothing, *(amounts for _, amounts in cells)]),
        }

    def set_arrays(self, arrays: Mapping[str, Ints], due: int | None, pair_of: Ints, pair_count: int) -> None:
        """Take back what :meth:`arrays` gave."""
        self.due = due
        parts = Parts.of(arrays["bucket"], arrays["path"], arrays["amount"])
        self.add_bound(parts, pair_of[parts.paths], pair_count)
        self.add(parts)
