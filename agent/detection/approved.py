"""Which approval holds a finding back: it is recorded as any other, and tells nobody.

An approval holds while every path of the episode leads to an end that it names, from a store, an initiator and a
process that it names, and the episode's last exceedance lies within its dates. Over its cap a rule of its own finds
(:meth:`agent.policy.approvals.Approval.cap_rule`), which nothing holds back. What people were told of once stays told.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from agent.core.clock import when
from agent.detection.cube import Cube
from agent.detection.episodes import Episode, Track
from agent.policy.approvals import CAP, Approval


class Approvals:
    """The approvals of the policy in force, asked episode by episode."""

    def __init__(self, cube: Cube) -> None:
        self._cube = cube
        self._by_store: dict[str, list[Approval]] = {}
        policy = cube.book.policy
        for approval in policy.approvals:
            for store in policy.stores:
                if store.id in approval.stores or any(group in approval.stores for group in store.groups):
                    self._by_store.setdefault(store.id, []).append(approval)

    def holding(self, track: Track, episode: Episode) -> str:
        """Id of the approval that holds the episode's finding back; empty if none does."""
        known = self._by_store.get(self._cube.pair(track.pair)[1], ())
        if not known or track.watch.rule.id.startswith(CAP):
            return ""
        last_ns = (episode.last + 1) * track.watch.window.grain_ns - 1
        paths = sorted(track.paths | set(episode.opened.get("paths", ())))
        return next((a.id for a in known if a.holds_on(when(last_ns).date()) and self._covers(a, paths)), "")

    def _covers(self, approval: Approval, paths: Iterable[int]) -> bool:
        cube = self._cube
        for path in paths:
            fact = cube.fact(path)
            if approval.initiator not in ("any", fact.initiator):
                return False
            if not cube.book.is_in(approval.set_id, fact, cube.owner(path)):
                return False
            if approval.processes and not self._processes(path) <= set(approval.processes):
                return False
        return True

    def _processes(self, path: int) -> set[str]:
        """Processes that were seen on a path; one that is not known is the empty text."""
        paths, _, processes = self._cube.details.columns[:3, : self._cube.details.count]
        return {self._cube.names.text(int(code)) for code in np.unique(processes[paths == path])}
