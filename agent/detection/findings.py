"""From what the tracks say to findings, in the order of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agent.core.clock import DAY_NS
from agent.core.finding import Estimate, Finding, FindingState, HostTold, Severity, finding_id
from agent.detection.approved import Approvals
from agent.detection.cases import MERGED, SUBJECTS_POSSIBLE, Ruling
from agent.detection.cube import Cube
from agent.detection.episodes import RECLASSIFIED, Episode, Opening, Track
from agent.detection.estimate import estimate
from agent.detection.keys import Ints
from agent.detection.rules import Hit

Order = tuple[int, int, int, int, tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class Findings:
    """Collects the changes of one step. ``before_ns``: the watermark just before each of the step's rows."""

    cube: Cube
    store_seen: dict[tuple[str, str], int]
    """When each (tenant, store) was first observed."""
    before_ns: Ints
    versions: dict[str, str]
    simulated: bool
    told: Mapping[tuple[str, str, str, str], Sequence[tuple[HostTold, int]]] = field(default_factory=dict)
    """By (tenant, rule, store, entity): what hosts told people by themselves, and the first bucket's start."""
    filled_to_ns: int = 0
    """Until when windows of a year hold what came from the ledger."""
    approvals: Approvals | None = None
    changes: list[tuple[Order, Ruling]] = field(default_factory=list)

    def emit(
        self,
        track: Track,
        episode: Episode,
        what: str,
        when_ns: int,
        row: int | None,
        opening: Opening | None,
    ) -> None:
        """Take one change of one episode; its finding gets the next revision."""
        if opening is not None:
            self._open(track, episode, opening)
        if self.approvals is not None and (episode.revision == 0 or episode.approval):
            episode.approval = self.approvals.holding(track, episode)
        episode.revision += 1
        finding = self._finding(track, episode, what)
        episode.severity, episode.told_as = int(finding.severity), episode.stands
        names = self.cube.pair(track.pair)
        place = (int(np.searchsorted(self.before_ns, when_ns)), 0) if row is None else (row, 1)
        order = (*place, when_ns, track.watch.index, names, len(self.changes))
        self.changes.append((order, Ruling(finding, what, when_ns)))

    def rulings(self) -> list[Ruling]:
        """All changes in the order of events: by the row before which they came, then by time, rule and key."""
        return [ruling for _, ruling in sorted(self.changes, key=lambda change: change[0])]

    def severity(
        self, track: Track, episode: Episode, paths: frozenset[int] | set[int]
    ) -> tuple[Severity, Hit]:
        """The highest that any of the paths allows, and what the amount does."""
        hits = [
            self.cube.hits[p][track.watch.index]
            for p in sorted(paths)
            if track.watch.index in self.cube.hits[p]
        ]
        rule = track.watch.rule
        if rule.steps and (wanted := rule.severity_of(episode.peak)) > rule.severity:
            hits = [hit.raised(wanted) for hit in hits]
        best = max(hits, key=lambda hit: hit.severity, default=Hit(rule.severity, (), ()))
        if track.watch.rule.subjects is not None and episode.peak <= track.watch.over:
            best = Hit(Severity.INFORMATIONAL, (*best.reasons, SUBJECTS_POSSIBLE), best.destinations)
        return best.severity, best

    def _estimate(self, track: Track, episode: Episode) -> Estimate | None:
        asked = track.watch.rule.subjects
        if asked is None:
            return None
        store = self.cube.pair(track.pair)[1]
        # Of a year the largest day is one stretch; shorter windows are one themselves.
        largest = track.largest(episode.first, episode.last) if track.watch.is_yearly else episode.peak
        inputs = self.cube.book.inputs(store)
        if inputs.attested and not self.cube.left_on(track.paths, inputs.ports):
            inputs = replace(inputs, attested=False)
        return estimate(inputs, asked.over, episode.peak, min(largest, episode.peak))

    def _open(self, track: Track, episode: Episode, opening: Opening) -> None:
        watch = track.watch
        tenant, store, entity = self.cube.pair(track.pair)
        first_ns = opening.bucket * watch.window.grain_ns
        window_from, window_to = watch.window.bounds(opening.bucket)
        seen = self.store_seen.get((tenant, store), opening.crossed_ns)
        episode.id = finding_id(tenant, watch.rule.id, (store, entity), first_ns)
        for one, bucket_ns in self.told.get((tenant, watch.rule.id, store, entity), ()):
            is_free = all(other.id != one.id for other in track.episodes)
            if abs(bucket_ns - first_ns) < watch.quiet_ns and is_free:
                episode.id = one.id  # first told by the host
        episode.opened = {
            "window_from_ns": window_from,
            "window_to_ns": window_to,
            "crossed_ns": opening.crossed_ns,
            "first_seen": opening.first_seen,
            "share_of_store": opening.share,
            "observed_days": max(0, opening.crossed_ns - seen) // DAY_NS,
            "reasons": _reasons(track, opening, self.filled_to_ns, self.cube.moved_ns.get(track.pair)),
            "paths": sorted(opening.paths),
        }

    def _finding(self, track: Track, episode: Episode, what: str) -> Finding:
        watch, grain = track.watch, track.watch.window.grain_ns
        tenant, store, entity = self.cube.pair(track.pair)
        opened: dict[str, Any] = {k: v for k, v in episode.opened.items() if k not in ("paths", "reasons")}
        severity, hit = self.severity(track, episode, track.paths | set(episode.opened["paths"]))
        if what == "open":
            severity, hit = self.severity(track, episode, set(episode.opened["paths"]))
        is_over = what in ("close", "merge")
        return Finding(
            id=episode.id,
            revision=episode.revision,
            state=FindingState.CLOSED if is_over else FindingState.OPEN,
            rule=watch.rule.id,
            rule_version=str(watch.rule.version),
            rule_title=watch.rule.title,
            pack=watch.pack,
            categories=tuple(watch.rule.categories),
            destinations=hit.destinations,
            tenant=tenant,
            store=store,
            entity=entity,
            severity=severity,
            severity_reasons=hit.reasons,
            window=watch.window.name,
            content_octets_out=episode.peak,
            threshold_octets=track.over,
            measure=watch.rule.measure,
            estimate=self._estimate(track, episode),
            first_bucket_ns=episode.first * grain,
            last_bucket_ns=episode.last * grain,
            reasons=(*episode.opened["reasons"], *((MERGED,) if what == "merge" else ())),
            provisional=episode.provisional,
            told_before=self._told_before(track, episode),
            simulated=self.simulated,
            approval=episode.approval,
            versions=self.versions,
            **opened,
        )

    def _told_before(self, track: Track, episode: Episode) -> tuple[HostTold, ...]:
        watch, grain = track.watch, track.watch.window.grain_ns
        tenant, store, entity = self.cube.pair(track.pair)
        low, high = episode.first * grain - watch.quiet_ns, episode.last * grain + watch.quiet_ns
        told = self.told.get((tenant, watch.rule.id, store, entity), ())
        return tuple(one for one, bucket_ns in told if low < bucket_ns < high)


def _reasons(track: Track, opening: Opening, filled_to_ns: int, moved_ns: int | None) -> tuple[str, ...]:
    watch = track.watch
    reasons = ["over_threshold"]
    if opening.first_seen:
        reasons.append("first_seen")
    asked = watch.rule.any_of.share_of_store
    if asked is not None and opening.share is not None and opening.share >= asked:
        reasons.append("share_of_store")
    reasons += [name for name in opening.passed if name not in ("first_seen", "share_of_store")]
    if opening.was_cold:
        reasons.append("no_history_to_compare")
    if watch.is_yearly and watch.window.bounds(opening.bucket)[0] < filled_to_ns:
        reasons.append("filled_from_ledger")
    elif watch.since_ns is not None and watch.window.bounds(opening.bucket)[0] < watch.since_ns:
        reasons.append("rule_newer_than_window")
    if moved_ns is not None and track.window_sum(moved_ns // watch.window.grain_ns) > track.over:
        reasons.append(RECLASSIFIED)  # without a single octet since
    return tuple(reasons)
