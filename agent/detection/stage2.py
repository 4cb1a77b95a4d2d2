"""Stage 2: four rings over all paths, and exact tracks for the few pairs that may pass a threshold.

Per row the rings cost one sum for each window, however many rules there are. A track is made when the bound of a pair
passes the least threshold of the rules that read it, and dropped when it cannot pass it any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from agent.core.grouping import distinct
from agent.detection.admit import Step, seen_ns
from agent.detection.cube import Cube, Placed
from agent.detection.episodes import RECLASSIFIED, Emit, Episode, Feed, Track
from agent.detection.keys import Bools, Ints, grown
from agent.detection.rules import COLUMNS, Watch
from agent.detection.sources import BEGINNING
from agent.detection.windows import BASE_NS, PAIR, WINDOWS, Parts, Ring, Window, cells_of, summed
from agent.detection.years import DAYS

_NEVER: Final = 2**62
_COLUMNS: Final = {"": "content_octets_out", **COLUMNS}
"""What a ring sums, by what follows the dot of its name."""
RULE_GONE: Final = "rule_gone"
"""Reason of a finding that was closed because its rule is no longer there."""


class Stage2:
    """Rings and tracks of one cube."""

    def __init__(self, cube: Cube) -> None:
        self._cube = cube
        self.rings: dict[str, Ring] = {}
        self._least: dict[tuple[str, str], Ints] = {}
        """By ring and grouping, and pair: the least threshold of the rules that read it."""
        self.tracks: dict[tuple[int, int], Track] = {}
        """By rule index and pair."""
        self._known_details = 0
        """How many details there were before the step's rows."""
        self._use_watches(BEGINNING)

    def _use_watches(self, watermark_ns: int) -> None:
        """Rings and thresholds for the rules in force; a ring that is new begins at the watermark."""
        self._by_index = {w.index: w for w in self._cube.book.watches}
        self._by_persons = [w for w in self._cube.book.watches if w.rule.subjects is not None]
        """Rules whose threshold follows from what their store holds."""
        self._lowest: dict[tuple[int, ...], dict[tuple[str, str], int]] = {}
        windows: dict[str, Window] = dict(WINDOWS)
        for watch in self._by_index.values():
            windows |= {ring: DAYS if ring == DAYS.name else watch.window for ring in watch.rings}
        for name in [n for n in self.rings if n not in windows]:
            del self.rings[name]
        for name, window in windows.items():
            if name not in self.rings:
                ring = self.rings[name] = Ring(window)
                ring.due = window.last_due(watermark_ns) if watermark_ns > BEGINNING else None
        asked = {(w.ring, w.group) for w in self._by_index.values()}
        self._asked = {name: tuple(sorted(g for r, g in asked if r == name)) for name in self.rings}
        """By ring: the groupings of the rules that read it."""
        for name, ring in self.rings.items():
            others = {g: self._cube.groups[g] for g in self._asked[name] if g != PAIR}
            ring.regroup(others, self._cube.pairs.count)
        self._least = {key: np.full(1024, _NEVER, np.int64) for key in asked}

    def take(self, step: Step, placed: Placed, known_paths: int, watermark_ns: int, emit: Emit) -> None:
        """Take the rows of a step; ``watermark_ns`` holds after them. ``known_paths``: how many there were before."""
        self._known_details = placed.known_details if step.rows else self._cube.details.count
        if step.rows:
            self._learn(range(known_paths, self._cube.paths.count))
            grouped = _Grouped(self._cube, placed)
            base = _base_parts(step, placed)
            for name, ring in self.rings.items():
                parts = self._parts(step, placed, name, base)
                for group in ring.bounds:
                    pairs = self._cube.pairs_by(group)[parts.paths]
                    ring.add_bound(parts, pairs, self._cube.pairs.count, group)
                for group in self._asked[name]:
                    self._watch(name, group, grouped.touched(group), known_paths)
                ring.add(parts)
            self._feed(step, placed, grouped, emit)
        self.pass_to(watermark_ns, emit)

    def pass_to(self, watermark_ns: int, emit: Emit, *, data_ends_ns: int | None = None) -> None:
        """Evaluate all that is due, close what was quiet long enough. ``data_ends_ns``: also the buckets not over."""
        due = {}
        for name, ring in self.rings.items():
            grain = ring.window.grain_ns
            due[name] = ring.window.last_due(watermark_ns) if data_ends_ns is None else data_ends_ns // grain
            due[name] = max(due[name], ring.due if ring.due is not None else due[name])
        for key, track in list(self.tracks.items()):
            window = track.watch.window
            track.advance(due[track.watch.ring], emit, window.last_due(watermark_ns))
            if not track.episodes and self._bound(track.watch, track.pair) * 2 <= track.over:
                del self.tracks[key]
        for name, ring in self.rings.items():
            ring.retire(due[name], self._cube.pair_of, self._cube.groups)

    # rings

    def _parts(self, step: Step, placed: Placed, name: str, base: Parts | None) -> Parts:
        """What a ring takes. Without long or very old rows it is made of the base buckets' sums."""
        ring = self.rings[name]
        oldest = self._oldest(step, ring)
        if (reads := self._cube.ring_reads.get(name)) is not None:
            return self._some_parts(step, placed, name, grown(reads, self._cube.paths.count), oldest)
        if base is not None:
            parts = base.coarser(ring.window.grain_ns // BASE_NS)
            if parts.numbers[0] >= int(oldest.max()):
                return parts
        arrays = step.arrays
        cells = cells_of(
            arrays["start_ns"], arrays["end_ns"], arrays["content_octets_out"], ring.window, oldest
        )
        return Parts.of(cells.bucket, placed.path[cells.row], cells.amount)

    def _some_parts(self, step: Step, placed: Placed, name: str, reads: Bools, oldest: Ints) -> Parts:
        """What a ring takes that holds but the paths that its rules read."""
        rows = np.flatnonzero(reads[placed.path])
        starts, ends = step.arrays["start_ns"][rows], step.arrays["end_ns"][rows]
        amounts = step.arrays[_COLUMNS[name.partition(".")[2]]][rows]
        cells = cells_of(starts, ends, amounts, self.rings[name].window, oldest[rows])
        if not len(cells.row):
            return Parts.of(cells.bucket, cells.row, cells.amount)
        return summed(cells.bucket, placed.path[rows][cells.row], cells.amount, int(placed.path.max()) + 1)

    @staticmethod
    def _oldest(step: Step, ring: Ring) -> Ints:
        due = step.arrays["before_ns"] // ring.window.grain_ns - 1
        return np.asarray(due - (ring.window.n - ring.window.kept_from(ring.window.n)))

    def window_sum(self, pair: int, name: str, bucket: int) -> int | None:
        """The sum of a pair at a bucket; None if the ring does not hold all of its window."""
        ring = self.rings[name]
        low = ring.window.low(bucket)
        if ring.due is not None and low < ring.window.kept_from(ring.due):
            return None
        series = ring.series(self._cube.pair_of[: self._cube.paths.count] == pair)
        return sum(amount for b, amount in series.items() if low <= b <= bucket)

    # tracks

    def _learn(self, paths: range) -> None:
        """New paths: which rules read their pairs."""
        for key in self._least:
            self._least[key] = grown(self._least[key], self._cube.pairs.count, _NEVER)
        for path in paths:
            rules = tuple(self._cube.hits[path])
            if rules not in self._lowest:
                self._lowest[rules] = self._lowest_of(rules)
            for key, over in self._lowest[rules].items():
                pair = self._cube.pairs_by(key[1])[path]
                self._least[key][pair] = min(self._least[key][pair], over)
            for watch in self._by_persons:
                if watch.index in rules:
                    pair = int(self._cube.pairs_by(watch.group)[path])
                    least = self._least[watch.ring, watch.group]
                    least[pair] = min(int(least[pair]), self._over(watch, pair))

    def _lowest_of(self, rules: tuple[int, ...]) -> dict[tuple[str, str], int]:
        """By ring and grouping: the lowest threshold of some rules. Most paths are read by the same rules as others."""
        lowest: dict[tuple[str, str], int] = {}
        for watch in (self._by_index[rule] for rule in rules):
            if watch.rule.subjects is None:
                key = (watch.ring, watch.group)
                lowest[key] = min(lowest.get(key, watch.over), watch.over)
        return lowest

    def _over(self, watch: Watch, pair: int) -> int:
        if watch.rule.subjects is None:
            return watch.over
        return self._cube.book.over(watch, self._cube.pair(pair)[1])

    def _bound(self, watch: Watch, pair: int) -> int:
        bound = self.rings[watch.ring].bounds[watch.group]
        return int(bound[pair]) if pair < len(bound) else 0

    def _watch(self, name: str, group: str, pairs: Ints, known_paths: int) -> None:
        """Make tracks for the pairs whose bound has passed a threshold."""
        bound = self.rings[name].bounds[group]
        for pair in pairs[bound[pairs] > self._least[name, group][pairs]].tolist():
            for index in sorted(self._cube.pair_rules[pair]):
                watch = self._by_index[index]
                if (
                    (watch.ring, watch.group) == (name, group)
                    and bound[pair] > self._over(watch, pair)
                    and (index, pair) not in self.tracks
                ):
                    self.tracks[index, pair] = self._track(watch, pair, known_paths)

    def _track(self, watch: Watch, pair: int, known_paths: int) -> Track:
        """A track from what the ring holds."""
        count, ring = self._cube.paths.count, self.rings[watch.ring]
        pairs = self._cube.pairs_by(watch.group)[:count]
        reads = grown(self._cube.rule_reads[watch.index], count)[:count]
        own = reads & (pairs == pair)
        track = Track(watch, pair, ring.due, ring.series(own), self._over(watch, pair))
        track.first_ns = int(self._cube.first_ns[pair])
        track.paths = {int(p) for p in np.flatnonzero(own) if p < known_paths}
        if watch.rule.any_of.share_of_store is not None:
            stores = self._stores()
            track.store_series = ring.series(stores[pairs] == stores[pair])
        if watch.compares_days:
            track.days = self.rings[DAYS.name].series(own)
        if watch.counts_ends:
            buckets, paths, amounts = ring.cells_between(-_NEVER, _NEVER)
            mine = np.flatnonzero(own[paths])
            track.note_destinations(buckets[mine], self._cube.pair_of[paths[mine]], amounts[mine])
        track.process_ns = lambda: self._cube.programs.first_ns
        if watch.asks_processes:
            of = self._cube.details.columns[0, : self._known_details]
            track.processes = set(distinct(self._cube.programs.of[: len(of)][own[of]]).tolist())
        return track

    def _stores(self) -> Ints:
        """By pair: a number for its tenant and store."""
        tenant, store, _ = self._cube.pairs.columns
        return np.asarray(tenant << 32 | store)

    def _feed(self, step: Step, placed: Placed, grouped: _Grouped, emit: Emit) -> None:
        stores = self._stores()
        of_rows: dict[str, tuple[Ints, set[int]]] = {}
        for track in list(self.tracks.values()):
            group, pairs = track.watch.group, grouped.pairs(track.watch.group)
            if track.watch.rule.any_of.share_of_store is not None:
                if group not in of_rows:
                    of_rows[group] = stores[pairs], set(distinct(stores[pairs]).tolist())
                numbers, touched = of_rows[group]
                store = int(stores[track.pair])
                rows = np.flatnonzero(numbers == store) if store in touched else None
            else:
                rows = np.flatnonzero(pairs == track.pair) if track.pair in grouped.some(group) else None
            if rows is not None:
                track.feed(self._rows_for(track, step, placed, pairs, rows), emit)

    def _rows_for(self, track: Track, step: Step, placed: Placed, pairs: Ints, rows: Ints) -> Feed:
        window = track.watch.window
        starts, ends, before = (step.arrays[name][rows] for name in ("start_ns", "end_ns", "before_ns"))
        due = before // window.grain_ns - 1
        if track.at is not None:
            due = np.maximum(due, track.at)
        content, paths = step.arrays[track.watch.column][rows], placed.path[rows]
        of_pair = pairs[rows] == track.pair
        return Feed(
            cells=cells_of(
                starts, ends, content, window, self._oldest(step, self.rings[track.watch.ring])[rows]
            ),
            own=of_pair & grown(self._cube.rule_reads[track.watch.index], self._cube.paths.count)[paths],
            of_pair=of_pair,
            ends=ends,
            seen_ns=seen_ns(step)[rows],
            paths=paths,
            due=due,
            step_rows=rows,
            amounts=content,
            ends_of=placed.pair[rows],
            processes=self._cube.programs.of[placed.detail[rows]],
        )

    # the past

    def fill(self, days: Ints, paths: Ints, amounts: Ints, watermark_ns: int) -> None:
        """Take the days of the ring of days from the ledger, in place of all that it holds."""
        old = self.rings[DAYS.name]
        ring = self.rings[DAYS.name] = Ring(DAYS)
        ring.due = old.due
        if ring.due is None and len(days):
            ring.due = DAYS.last_due(watermark_ns) if watermark_ns > BEGINNING else int(days.max()) - 1
        reads = grown(self._cube.ring_reads[DAYS.name], self._cube.paths.count)
        kept = reads[paths] & (days >= (DAYS.kept_from(ring.due) if ring.due is not None else 0))
        if kept.any():
            parts = summed(days[kept], paths[kept], amounts[kept], self._cube.paths.count)
            ring.add_bound(parts, self._cube.pair_of[parts.paths], self._cube.pairs.count)
            ring.add(parts)
        self.rebuild(watermark_ns)

    # reload, state

    def close_gone(self, rules: set[tuple[str, str]], when_ns: int, emit: Emit) -> None:
        """Close the episodes of rules that are not among these (pack, rule id). The old rulebook is still in force."""
        for key, track in list(self.tracks.items()):
            if (track.watch.pack, track.watch.rule.id) not in rules:
                for episode in track.episodes:
                    episode.opened["reasons"] = (*episode.opened["reasons"], RULE_GONE)
                    emit(track, episode, "close", when_ns, None, None)
                del self.tracks[key]

    def move(self, pairs: Mapping[int, int], taken: frozenset[int], when_ns: int, emit: Emit) -> None:
        """Paths were given to other pairs: the episodes of a pair that moved whole (old -> new) go with it, and keep
        their ids. Those whose new pair is ``taken`` by a case are closed; that case goes on. Call :meth:`rebuild` next."""
        moved: dict[tuple[int, int], Track] = {}
        for (index, pair), track in self.tracks.items():
            new = pairs.get(pair, pair)
            if new != pair and (new in taken or (index, new) in self.tracks or (index, new) in moved):
                for episode in track.episodes:
                    episode.opened["reasons"] = (*episode.opened["reasons"], RECLASSIFIED)
                    emit(track, episode, "close", when_ns, None, None)
                continue
            track.pair = new
            moved[index, new] = track
        self.tracks = moved
        for ring in self.rings.values():
            ring.rebound(self._cube.pair_of, self._cube.pairs.count)

    def rebuild(self, watermark_ns: int = BEGINNING) -> None:
        """After another rulebook or a restore: thresholds and tracks anew from the rings; episodes are kept."""
        kept = self.episodes()
        self.tracks, self._known_details = {}, self._cube.details.count
        self._use_watches(watermark_ns)
        count = self._cube.paths.count
        self._learn(range(count))
        for name, ring in self.rings.items():
            for group in self._asked[name]:
                ring.bounds[group] = grown(ring.bounds[group], self._cube.pairs.count)
                self._watch(name, group, np.arange(self._cube.pairs.count), count)
        self.set_episodes(kept)

    def tell_open(
        self, when_ns: int, emit: Emit, *, final: bool, pairs: frozenset[int] | None = None
    ) -> None:
        """Tell every open episode (of ``pairs``) as it stands, where that is not told yet. ``final``: no more rows
        will come."""
        for track in self.tracks.values():
            if pairs is not None and track.pair not in pairs:
                continue
            track.settle()
            for episode in track.episodes:
                if episode.told_as != episode.stands:
                    episode.provisional = episode.provisional and not final
                    emit(track, episode, "update", when_ns, None, None)

    def episodes(self) -> list[dict[str, Any]]:
        """What of the tracks the rings do not tell, as plain values."""
        return [
            {
                "rule": [t.watch.pack, t.watch.rule.id],
                "pair": t.pair,
                "grain": t.watch.window.grain_ns,
                "raised": t.raised,
                "episodes": [asdict(e) for e in t.episodes],
            }
            for _, t in sorted(self.tracks.items())
            if t.episodes or t.raised is not None
        ]

    def set_episodes(self, kept: list[dict[str, Any]]) -> None:
        """Take back what :meth:`episodes` gave; a rule's grain may have changed since."""
        watches = {(w.pack, w.rule.id): w for w in self._by_index.values()}
        for entry in kept:
            watch = watches.get(tuple(entry["rule"]))
            if watch is None:
                continue
            key = (watch.index, entry["pair"])
            if key not in self.tracks:
                self.tracks[key] = self._track(watch, entry["pair"], self._cube.paths.count)
            old, new = entry["grain"], watch.window.grain_ns
            if old == new:
                self.tracks[key].raised = entry["raised"]
            for values in entry["episodes"]:
                episode = Episode(**values | {"told_as": tuple(values["told_as"])})
                episode.first, episode.last = episode.first * old // new, episode.last * old // new
                self.tracks[key].episodes.append(episode)


class _Grouped:
    """Pairs of a step's rows by grouping, worked out where a rule asks."""

    def __init__(self, cube: Cube, placed: Placed) -> None:
        self._cube, self._placed = cube, placed
        self._pairs = {PAIR: placed.pair}
        self._touched: dict[str, Ints] = {}
        self._some: dict[str, frozenset[int]] = {}

    def pairs(self, group: str) -> Ints:
        """By row."""
        if group not in self._pairs:
            self._pairs[group] = self._cube.pairs_by(group)[self._placed.path]
        return self._pairs[group]

    def touched(self, group: str) -> Ints:
        """Those that have a row, sorted."""
        if group not in self._touched:
            self._touched[group] = distinct(self.pairs(group))
        return self._touched[group]

    def some(self, group: str) -> frozenset[int]:
        """The same as a set."""
        if group not in self._some:
            self._some[group] = frozenset(self.touched(group).tolist())
        return self._some[group]


def _base_parts(step: Step, placed: Placed) -> Parts | None:
    """Sums by base bucket and path; None if a row is longer than a bucket."""
    starts, ends = step.arrays["start_ns"], step.arrays["end_ns"]
    if (ends - starts > BASE_NS).any():
        return None
    buckets = ends // BASE_NS
    width = int(placed.path.max()) + 1
    if (int(buckets.max()) - int(buckets.min()) + 1) * width >= _NEVER:
        return None
    return summed(buckets, placed.path, step.arrays["content_octets_out"], width)
