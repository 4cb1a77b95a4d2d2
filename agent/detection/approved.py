"""Which approval holds a finding back: it is recorded as any other, and tells nobody.

An approval holds while every path of the episode leads to an end that it names, from a store, an initiator and a
process that it names, and the episode's last exceedance lies within its dates. Over its cap a rule of its own finds
(:meth:`agent.policy.approvals.Approval.cap_rule`), which nothing holds back. What people were told of once stays told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from agent.core.clock import when
from agent.core.finding import ApprovalFact, Standing
from agent.detection.cube import Cube
from agent.detection.episodes import Episode, Track
from agent.detection.windows import Ring
from agent.policy.approvals import CAP, Approval

MOST_BESIDE: Final = 3
"""Approvals that are told beside a case."""
_NEAREST: Final = (
    Standing.OVERRUN,
    Standing.HELD,
    Standing.EXPIRED,
    Standing.NOT_YET,
    Standing.OTHER_PROCESS,
    Standing.OTHER_SIDE,
    Standing.OTHER_END,
)
"""Those that say most of why people are told come first."""


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

    def beside(self, pair: int, last_ns: int, rings: Mapping[str, Ring]) -> tuple[ApprovalFact, ...]:
        """The approvals of a pair's store as they stand to it, nearest first, at most :data:`MOST_BESIDE`.

        ``last_ns``: of its last row; what is used is the sum of the window that holds it.
        """
        known = self._by_store.get(self._cube.pair(pair)[1], ())
        paths = self._cube.paths_of(pair) if known else ()
        facts = [self._fact(approval, paths, last_ns, rings) for approval in known] if paths else []
        return tuple(sorted(facts, key=lambda f: (_NEAREST.index(f.standing), f.id))[:MOST_BESIDE])

    def _fact(
        self, approval: Approval, paths: Iterable[int], last_ns: int, rings: Mapping[str, Ring]
    ) -> ApprovalFact:
        inside = [path for path in paths if self._reaches(approval, path)]
        used = self._used(approval, inside, last_ns, rings) if inside else None
        return ApprovalFact(
            id=approval.id,
            standing=self._standing(approval, list(paths), inside, last_ns, used),
            approver=approval.approver,
            basis=approval.basis,
            ticket=approval.ticket,
            valid_from=approval.valid_from.isoformat(),
            valid_to=approval.valid_to.isoformat(),
            cap_octets=approval.cap,
            window=approval.window,
            used_octets=used,
            provisional=approval.provisional,
        )

    def _standing(
        self, approval: Approval, paths: list[int], inside: list[int], last_ns: int, used: int | None
    ) -> Standing:
        day = when(last_ns).date()
        if len(inside) < len(paths):
            return Standing.OTHER_END
        if day > approval.valid_to:
            return Standing.EXPIRED
        if day < approval.valid_from:
            return Standing.NOT_YET
        if any(approval.initiator not in ("any", self._cube.fact(path).initiator) for path in paths):
            return Standing.OTHER_SIDE
        allowed = set(approval.processes)
        if allowed and not all(self._processes(path) <= allowed for path in paths):
            return Standing.OTHER_PROCESS
        return Standing.OVERRUN if used is not None and used > approval.cap else Standing.HELD

    def _used(
        self, approval: Approval, paths: list[int], last_ns: int, rings: Mapping[str, Ring]
    ) -> int | None:
        """Content octets on these paths in the approval's window that holds a time; None where no ring holds it."""
        watches = self._cube.book.watches
        watch = next((w for w in watches if w.rule.id == approval.cap_id), None)
        if watch is None or watch.ring not in rings:
            return None
        ring, window = rings[watch.ring], watch.window
        bucket = last_ns // window.grain_ns
        low = window.low(bucket)
        if low < ring.held_from and not watch.is_yearly:
            return None
        wanted = np.zeros(self._cube.paths.count, np.bool_)
        wanted[paths] = True
        return sum(amount for b, amount in ring.series(wanted).items() if low <= b <= bucket)

    def _reaches(self, approval: Approval, path: int) -> bool:
        """Whether the path's other end is one that the approval names."""
        return self._cube.book.is_in(approval.set_id, self._cube.fact(path), self._cube.owner(path))

    def _covers(self, approval: Approval, paths: Iterable[int]) -> bool:
        cube = self._cube
        for path in paths:
            fact = cube.fact(path)
            if approval.initiator not in ("any", fact.initiator):
                return False
            if not self._reaches(approval, path):
                return False
            if approval.processes and not self._processes(path) <= set(approval.processes):
                return False
        return True

    def _processes(self, path: int) -> set[str]:
        """Processes that were seen on a path; one that is not known is the empty text."""
        paths, _, processes = self._cube.details.columns[:3, : self._cube.details.count]
        return {self._cube.names.text(int(code)) for code in np.unique(processes[paths == path])}
