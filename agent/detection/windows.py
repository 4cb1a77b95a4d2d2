"""Windows: rings of buckets over paths, and for each pair the bound that says which are worth an exact look.

Bucket ``b`` of a grain holds ``[b*grain, (b+1)*grain)``. The sum at ``j`` is that of the buckets ``j-n .. j``, so it
covers at least the window and less than the window and one bucket. A ring keeps ``2n`` buckets behind the last one
that is evaluated, so that late rows can be judged against whole windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from agent.detection.keys import Bools, Ints, grown

BASE_NS: Final = 10 * SECOND_NS
"""The cube's bucket: a longer row is spread over several."""
_MERGE_AT: Final = 16


@dataclass(frozen=True, slots=True)
class Window:
    """One window length and its grain."""

    name: str
    n: int
    """Buckets in a window."""
    grain_ns: int

    @property
    def span_ns(self) -> int:
        """Its length."""
        return self.n * self.grain_ns

    def last_due(self, watermark_ns: int) -> int:
        """The last bucket whose end the watermark has reached."""
        return watermark_ns // self.grain_ns - 1

    def bounds(self, bucket: int) -> tuple[int, int]:
        """What the sum at this bucket truly covers: from, to."""
        return (bucket - self.n) * self.grain_ns, (bucket + 1) * self.grain_ns


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
    long = np.flatnonzero(ends - starts > BASE_NS)
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


class Ring:
    """All buckets of one window, by path; and by pair the sum of what the next evaluation may still count."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.bound: Ints = np.zeros(1024, np.int64)
        """By pair: at least as large as any sum of a window that is not evaluated yet."""
        self.due: int | None = None
        """The last bucket evaluated."""
        self._buckets: dict[int, list[tuple[Ints, Ints]]] = {}
        self._counted: set[int] = set()

    def add_bound(self, pairs: Ints, buckets: Ints, amounts: Ints, pair_count: int) -> None:
        """Raise the bounds by what is about to be added."""
        self.bound = grown(self.bound, pair_count)
        counted = slice(None) if self.due is None else buckets >= self.due - self.window.n
        np.add.at(self.bound, pairs[counted], amounts[counted])

    def add(self, paths: Ints, buckets: Ints, amounts: Ints) -> None:
        """Put amounts into their buckets."""
        if not len(buckets):
            return
        if not (buckets[1:] >= buckets[:-1]).all():
            order = np.argsort(buckets)
            paths, buckets, amounts = paths[order], buckets[order], amounts[order]
        edges = np.flatnonzero(np.diff(buckets)) + 1
        for low, high in zip([0, *edges.tolist()], [*edges.tolist(), len(buckets)], strict=True):
            bucket = int(buckets[low])
            chunks = self._buckets.setdefault(bucket, [])
            chunks.append((paths[low:high].astype(np.int32), amounts[low:high]))
            if len(chunks) >= _MERGE_AT:
                _merge(chunks)
            if self.due is None or bucket >= self.due - self.window.n:
                self._counted.add(bucket)

    def retire(self, due: int, pair_of: Ints) -> None:
        """All buckets up to ``due`` are evaluated: let go of what no window will count again."""
        if self.due is not None and due <= self.due:
            return
        self.due = due
        for bucket in [b for b in self._counted if b < due - self.window.n]:
            self._counted.remove(bucket)
            for paths, amounts in self._buckets[bucket]:
                np.subtract.at(self.bound, pair_of[paths], amounts)
        for bucket in [b for b in self._buckets if b < due - 2 * self.window.n]:
            del self._buckets[bucket]

    def series(self, wanted: Bools) -> dict[int, int]:
        """Bucket -> sum over the wanted paths (a mask by path), where there is any."""
        out: dict[int, int] = {}
        for bucket, chunks in self._buckets.items():
            total = sum(int(amounts[wanted[paths]].sum()) for paths, amounts in chunks)
            if total:
                out[bucket] = total
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every cell, for a snapshot: bucket, path, amount."""
        for chunks in self._buckets.values():
            _merge(chunks, even_one=True)
        buckets = sorted(self._buckets)
        sizes = [len(self._buckets[b][0][0]) for b in buckets]
        parts = [self._buckets[b][0] for b in buckets]
        nothing = np.zeros(0, np.int64)
        return {
            "bucket": np.repeat(np.array(buckets, np.int64), sizes),
            "path": np.concatenate([p for p, _ in parts]).astype(np.int64) if parts else nothing,
            "amount": np.concatenate([a for _, a in parts]) if parts else nothing,
        }

    def set_arrays(self, arrays: Mapping[str, Ints], due: int | None, pair_of: Ints, pair_count: int) -> None:
        """Take back what :meth:`arrays` gave."""
        self.due = due
        self.add_bound(pair_of[arrays["path"]], arrays["bucket"], arrays["amount"], pair_count)
        self.add(arrays["path"], arrays["bucket"], arrays["amount"])


def _merge(chunks: list[tuple[Ints, Ints]], *, even_one: bool = False) -> None:
    """Make one chunk of several, each path once and in order."""
    if even_one or len(chunks) > 1:
        paths = np.concatenate([p for p, _ in chunks])
        amounts = np.concatenate([a for _, a in chunks])
        order = np.argsort(paths)
        paths = paths[order]
        starts = np.flatnonzero(np.r_[True, paths[1:] != paths[:-1]])
        chunks[:] = [(paths[starts], np.add.reduceat(amounts[order], starts))]
