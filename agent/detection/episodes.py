"""Tracks and episodes: the exact look at one rule and one pair.

A track is made when the bound of its pair passes the rule's threshold, and holds the exact series of buckets. It is
fed the rows of its pair in order of arrival, each after the buckets that the watermark had closed before that row. So
what it says does not depend on where batches end. Between two buckets at which the sum can change, nothing is looked
at: an empty year costs as much as an empty minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from agent.core.clock import DAY_NS
from agent.core.grouping import distinct
from agent.detection.keys import Bools, Ints
from agent.detection.kinds import COMPARING, KINDS, Look, asked_of, history
from agent.detection.rules import Watch
from agent.detection.windows import Cells
from agent.detection.years import DAYS

_STEP_BY_STEP: Final = 64

RECLASSIFIED: Final = "reclassified"
"""Reason of a finding that came, or was closed, because the table of owners changed, and not the traffic."""


@dataclass(slots=True)
class Episode:
    """Exceedance buckets less than quiet apart."""

    first: int
    last: int
    """Buckets."""
    peak: int
    """Largest sum of a window."""
    id: str = ""
    revision: int = 0
    told_as: tuple[int, int, int] = (0, 0, 0)
    """First, last and peak when they were last told."""
    severity: int = 0
    opened: dict[str, Any] = field(default_factory=dict)
    """What was true when it opened and never changes: window, crossing, tests."""
    provisional: bool = False
    approval: str = ""
    """The approval that holds its finding back; empty once people were told."""

    @property
    def stands(self) -> tuple[int, int, int]:
        """First, last and peak."""
        return self.first, self.last, self.peak


@dataclass(frozen=True, slots=True)
class Opening:
    """How an episode opened."""

    bucket: int
    amount: int
    crossed_ns: int
    provisional: bool
    first_seen: bool
    share: float | None
    paths: frozenset[int]
    passed: tuple[str, ...] = ()
    """Kinds of tests that held."""
    was_cold: bool = False
    """The days of the past were asked for, and there are too few."""


Emit = Callable[["Track", Episode, str, int, int | None, Opening | None], None]
"""Told of each change: track, episode, what (open, grow, update, close, merge, severity), when, at which row (None: between rows)."""


@dataclass(frozen=True, slots=True)
class Feed:
    """The rows of a pair (of its whole store, where a rule asks for a share), in order of arrival."""

    cells: Cells
    """Of the track's window; ``row`` counts within the feed."""
    own: Bools
    """By row: read by the rule and of the pair."""
    of_pair: Bools
    ends: Ints
    seen_ns: Ints
    """When each row counts as seen first: where the first of its octets counts."""
    paths: Ints
    due: Ints
    """By row: the last bucket that was due just before it."""
    step_rows: Ints
    """By row: its place in the step."""
    amounts: Ints
    ends_of: Ints
    """By row: the pair of its destination, in whatever grouping the track is."""
    processes: Ints
    """By row: the store's program (:attr:`agent.detection.programs.Programs`), -1 where it is not known."""


class Track:
    """One rule, one pair."""

    def __init__(
        self, watch: Watch, pair: int, due: int | None, series: dict[int, int], over: int | None = None
    ) -> None:
        self.watch = watch
        self.over = watch.over if over is None else over
        """Strictly more than this is an exceedance."""
        self.pair = pair
        self.at = due
        """The last bucket evaluated; None before the first."""
        self.series = series
        self.store_series: dict[int, int] = {}
        """The same for all that left the store; kept only for a rule that asks for a share."""
        self.days: dict[int, int] = {}
        """What the rule read, by UTC day; kept only for a rule that compares days."""
        self.destinations: dict[int, set[int]] = {}
        """By bucket: to whom something was sent; kept only for a rule that counts them."""
        self.processes: set[int] = set()
        """Programs that sent, as far as the rows were fed; kept only for a rule that asks."""
        self.process_ns: Callable[[], Ints] = lambda: np.zeros(0, np.int64)
        """When each program was first seen."""
        self.asked = asked_of(watch.rule.any_of)
        self.first_ns = 0
        self.paths: set[int] = set()
        """Paths that the rule read, as far as the rows were fed."""
        self.raised: int | None = None
        """The least evaluated bucket to which something was added since; looked at when the next bucket is due."""
        self.episodes: list[Episode] = []
        self.sum = 0 if due is None else self.window_sum(due)

    def largest(self, first: int, last: int) -> int:
        """The largest single bucket of the windows of an episode."""
        low = self.watch.window.low(first)
        return max((v for b, v in self.series.items() if low <= b <= last), default=0)

    def window_sum(self, bucket: int, series: dict[int, int] | None = None) -> int:
        """The sum at a bucket."""
        values = self.series if series is None else series
        low = self.watch.window.low(bucket)
        if len(values) <= self.watch.window.n:
            return sum(v for b, v in values.items() if low <= b <= bucket)
        return sum(values.get(b, 0) for b in range(low, bucket + 1))

    # feeding

    def feed(self, feed: Feed, emit: Emit) -> None:
        """Take rows, evaluating what became due before each."""
        if not len(feed.due):
            return
        edges = np.flatnonzero(np.diff(feed.due)) + 1
        lows, highs = [0, *edges.tolist()], [*edges.tolist(), len(feed.due)]
        cell_edges = np.searchsorted(feed.cells.row, [*lows, len(feed.due)]).tolist()
        for i, (low, high) in enumerate(zip(lows, highs, strict=True)):
            self.advance(int(feed.due[low]), emit)
            self._stretch(feed, slice(low, high), slice(cell_edges[i], cell_edges[i + 1]), emit)

    def _stretch(self, feed: Feed, rows: slice, cells: slice, emit: Emit) -> None:
        """Rows between which no bucket becomes due."""
        first_before, paths_before = self.first_ns, frozenset(self.paths)
        self._look_at_rows(feed, rows)
        part = feed.cells.take(cells)
        if self.watch.rule.any_of.share_of_store is not None:
            _add(self.store_series, part.bucket, part.amount)
        if self.watch.compares_days:
            own = np.flatnonzero(feed.own[rows])
            _add(self.days, feed.ends[rows][own] // DAY_NS, feed.amounts[rows][own])
        mine = part.take(feed.own[part.row])
        if self.watch.counts_ends:
            self.note_destinations(mine.bucket, feed.ends_of[mine.row], mine.amount)
        if self.watch.asks_processes:
            self.processes.update(distinct(feed.processes[rows][feed.own[rows]]).tolist())
        added = _add(self.series, mine.bucket, mine.amount)
        closed = [b for b in added if self.at is not None and b <= self.at]
        if closed and self.at is not None:
            low = self.watch.window.low(self.at)
            self.sum += sum(added[b] for b in closed if b >= low)
            self.raised = min(closed) if self.raised is None else min(self.raised, *closed)
        touched = [b for b in {self._counts_at(b) for b in added} if not self._covers(b)]
        if any(self.window_sum(b) > self.over for b in touched):
            self._open_on_arrival(feed, mine, added, (first_before, paths_before), emit)

    def _counts_at(self, bucket: int) -> int:
        """The first bucket not evaluated yet whose sum a bucket is part of, as long as the window reaches back to it."""
        return bucket if self.at is None else max(bucket, self.at + 1)

    def note_destinations(self, buckets: Ints, ends: Ints, amounts: Ints) -> None:
        """Cells by bucket and destination; one in which nothing was sent is none."""
        sent = np.flatnonzero(amounts > 0)
        for bucket, end in zip(buckets[sent].tolist(), ends[sent].tolist(), strict=True):
            self.destinations.setdefault(bucket, set()).add(end)

    def _look_at_rows(self, feed: Feed, rows: slice) -> None:
        of_pair = feed.of_pair[rows]
        if of_pair.any():
            self.first_ns = min(self.first_ns, int(feed.seen_ns[rows][of_pair].min()))
        self.paths.update(distinct(feed.paths[rows][feed.own[rows]]).tolist())

    def _open_on_arrival(
        self,
        feed: Feed,
        cells: Cells,
        added: dict[int, int],
        before: tuple[int, frozenset[int]],
        emit: Emit,
    ) -> None:
        """Find the row that passed the threshold first: add the rows again, one by one."""
        window, over = self.watch.window, self.over
        first_ns, paths = before[0], set(before[1])
        looked_at = {self._counts_at(b) for b in added}
        if self.watch.is_tested and not self._can_pass_on_arrival(min(looked_at), first_ns):
            return
        then = {b: v - added.get(b, 0) for b, v in self.series.items()}
        sums = {b: self.window_sum(b, then) for b in looked_at}
        last_of_row = np.r_[cells.row[1:] != cells.row[:-1], True].tolist()
        whole = feed.of_pair.nonzero()[0]
        seen = 0
        for row, bucket, amount, ends_row in zip(
            cells.row.tolist(), cells.bucket.tolist(), cells.amount.tolist(), last_of_row, strict=True
        ):
            then[bucket] = then.get(bucket, 0) + amount
            for b in sums:
                if bucket <= b and window.low(b) <= bucket:
                    sums[b] += amount
            while seen < len(whole) and whole[seen] <= row:
                first_ns = min(first_ns, int(feed.seen_ns[whole[seen]]))
                seen += 1
            paths.add(int(feed.paths[row]))
            bucket = self._counts_at(bucket)
            if not ends_row or sums[bucket] <= over or self._covers(bucket) or self._reaches(bucket, then):
                continue
            is_first = first_ns >= self.watch.window.bounds(bucket)[0]
            if self.asked and not ("first_seen" in self.asked and is_first):
                continue
            opening = Opening(
                bucket, sums[bucket], int(feed.ends[row]), True, is_first, None, frozenset(paths)
            )
            self._open(bucket, bucket, opening, emit, opening.crossed_ns, int(feed.step_rows[row]))

    def _reaches(self, bucket: int, series: dict[int, int]) -> bool:
        """Whether an open episode reaches to here through buckets that are not evaluated yet, but exceed already."""
        window = self.watch.window
        grain = window.grain_ns
        for episode in self.episodes:
            points = {p for b in series for p in (b, window.gone(b))}
            starts = sorted({p for p in points if episode.last < p < bucket} | {episode.last + 1})
            for j, until in zip(starts, [*(p - 1 for p in starts[1:]), bucket - 1], strict=True):
                is_near = (j - episode.last) * grain < self.watch.quiet_ns
                if is_near and j <= until and self.window_sum(j, series) > self.over:
                    episode.last = until
        return self._covers(bucket)

    def _can_pass_on_arrival(self, bucket: int, first_ns: int) -> bool:
        """A share is judged at the ends of buckets only: on arrival it would depend on the rows of other pairs."""
        return self.watch.rule.any_of.first_seen and first_ns >= self.watch.window.bounds(bucket)[0]

    def settle(self) -> None:
        """Late rows raised sums that were evaluated: an open episode may have begun earlier or gone higher."""
        if self.raised is None or self.at is None:
            return
        window, grain = self.watch.window, self.watch.window.grain_ns
        low, self.raised = max(self.raised, window.late_from(self.at)), None
        total = self.window_sum(low)
        for j in range(low, self.at + 1):
            if j > low:
                total += self.series.get(j, 0) - self._dropped(j - 1, j)
            if total <= self.over:
                continue
            for episode in self.episodes:
                if j <= episode.last and (episode.first - j) * grain < self.watch.quiet_ns:
                    episode.first = min(episode.first, j)
                    episode.peak = max(episode.peak, total)

    # evaluating

    def advance(self, to: int, emit: Emit, over: int | None = None) -> None:
        """Evaluate every bucket up to ``to``, and close what was quiet by the end of ``over`` (default ``to``)."""
        if self.at is None:
            self.at = min([to, *(b - 1 for b in self.series)])
            self.sum = 0
        if to <= self.at:
            return
        self.settle()
        before = self.at
        for j, until in self._stretches(self.at, to):
            self.sum += self.series.get(j, 0) - self._dropped(before, j)
            before = j
            if self.sum > self.over:
                # Where the days or buckets are compared, the answer may change while the sum does not.
                each = self.asked.keys() & COMPARING
                for first, last in [(k, k) for k in range(j, until + 1)] if each else [(j, until)]:
                    self._exceed(first, last, emit)
        self.at = to
        self._close(to if over is None else over, emit)
        kept = self.watch.window.kept_from(to)
        for values in (self.series, self.store_series):
            for bucket in [b for b in values if b < kept]:
                del values[bucket]
        for bucket in [b for b in self.destinations if b < kept]:
            del self.destinations[bucket]
        if self.days:
            kept = (to + 1) * self.watch.window.grain_ns // DAY_NS - DAYS.n
            for day in [d for d in self.days if d < kept]:
                del self.days[day]

    def _dropped(self, before: int, j: int) -> int:
        """What the sum at ``before`` counts and the one at ``j`` does not."""
        low, high = self.watch.window.low(before), self.watch.window.low(j)
        if high - low <= _STEP_BY_STEP:
            return sum(self.series.get(b, 0) for b in range(low, high))
        return sum(v for b, v in self.series.items() if low <= b < high)

    def _stretches(self, at: int, to: int) -> Iterable[tuple[int, int]]:
        """(first, last) of each run of buckets over which neither the sum nor the store's can change."""
        if to - at <= _STEP_BY_STEP:
            return [(j, j) for j in range(at + 1, to + 1)]
        gone = self.watch.window.gone
        values = [*self.series, *self.store_series]
        points = {p for b in values for p in (b, gone(b)) if at < p <= to} | {at + 1}
        starts = sorted(points)
        return zip(starts, [*(s - 1 for s in starts[1:]), to], strict=True)

    def _exceed(self, j: int, until: int, emit: Emit) -> None:
        grain = self.watch.window.grain_ns
        self._close(j, emit)
        for episode in self.episodes:
            if self._joins(episode, j, until):
                episode.first = min(episode.first, j)
                episode.last = max(episode.last, until)
                episode.peak = max(episode.peak, self.sum)
                self._merge(emit, (j + 1) * grain)
                self._tell_growth(episode, emit, (j + 1) * grain)
                return
        look = self._look(j)
        passed = tuple(name for name, asked in self.asked.items() if KINDS[name].holds(asked, look))
        if self.asked and not passed:
            return
        due = (j + 1) * grain
        is_first = self.first_ns >= self.watch.window.bounds(j)[0]
        share = self.sum / look.store_amount if look.store_amount else None
        unusual = self.watch.rule.any_of.unusual
        was_cold = unusual is not None and len(history(look)) < unusual.least_days
        paths = frozenset(self.paths)
        opening = Opening(j, self.sum, due, False, is_first, share, paths, passed, was_cold)
        self._open(j, until, opening, emit, due, None)

    def _look(self, j: int) -> Look:
        asks_share = self.watch.rule.any_of.share_of_store is not None
        whole = self.window_sum(j, self.store_series) if asks_share else None
        return Look(
            self.watch.window,
            j,
            self.sum,
            self.series,
            whole,
            self.first_ns,
            self.days,
            process_ns=self._newest_process_ns(j),
            destinations=self._count_destinations(j),
        )

    def _newest_process_ns(self, j: int) -> int:
        """When the newest program was first seen, of those that were by the end of a bucket."""
        if not self.processes:
            return -1
        known = self.process_ns()
        firsts = known[[p for p in self.processes if 0 <= p < len(known)]]
        return int(firsts[firsts < (j + 1) * self.watch.window.grain_ns].max(initial=-1))

    def _count_destinations(self, j: int) -> int:
        low = self.watch.window.low(j)
        return len(set().union(*(ends for b, ends in self.destinations.items() if low <= b <= j)))

    def _joins(self, episode: Episode, j: int, until: int) -> bool:
        grain = self.watch.window.grain_ns
        return (j - episode.last) * grain < self.watch.quiet_ns and (
            episode.first - until
        ) * grain < self.watch.quiet_ns

    def _covers(self, bucket: int) -> bool:
        """Whether an exceedance here would belong to an open episode, so that no row can open another."""
        return any(self._joins(episode, bucket, bucket) for episode in self.episodes)

    def _open(self, j: int, until: int, opening: Opening, emit: Emit, when_ns: int, row: int | None) -> None:
        episode = Episode(j, until, opening.amount, provisional=opening.provisional)
        self.episodes.append(episode)
        emit(self, episode, "open", when_ns, row, opening)

    def _tell_growth(self, episode: Episode, emit: Emit, when_ns: int) -> None:
        if episode in self.episodes and episode.peak >= 2 * episode.told_as[2]:
            episode.provisional = False
            emit(self, episode, "grow", when_ns, None, None)

    def _merge(self, emit: Emit, when_ns: int) -> None:
        """Episodes that have met become the older one."""
        for other in self.episodes[1:]:
            oldest = self.episodes[0]
            if self._joins(oldest, other.first, other.last):
                oldest.first = min(oldest.first, other.first)
                oldest.last = max(oldest.last, other.last)
                oldest.peak = max(oldest.peak, other.peak)
                self.episodes.remove(other)
                emit(self, other, "merge", when_ns, None, None)
                self._tell_growth(oldest, emit, when_ns)

    def _close(self, at: int, emit: Emit) -> None:
        """Close the episodes whose quiet has passed by the end of bucket ``at``: always at the end of a bucket."""
        grain = self.watch.window.grain_ns
        for episode in list(self.episodes):
            quiet_at = episode.last - -self.watch.quiet_ns // grain
            if quiet_at <= at:
                self.episodes.remove(episode)
                episode.provisional = False
                emit(self, episode, "close", (quiet_at + 1) * grain, None, None)


def _add(series: dict[int, int], buckets: Ints, amounts: Ints) -> dict[int, int]:
    """Add cells to a series; gives what was added to each bucket."""
    if not len(buckets):
        return {}
    distinct, place = np.unique(buckets, return_inverse=True)
    sums = np.zeros(len(distinct), np.int64)
    np.add.at(sums, place, amounts)
    added = dict(zip(distinct.tolist(), sums.tolist(), strict=True))
    for bucket, amount in added.items():
        series[bucket] = series.get(bucket, 0) + amount
    return added
