"""One agent that is two: the same key and the same id at work in two places at once. No I/O.

A host that restarts its agent has one run after the other: once the new run is heard, nothing that the old one sent can
have ended later. Where rows of the old run did, two programs run with one identity: an image that was copied with the
agent's state in it, or a virtual machine that was cloned. (One that was put back to a snapshot goes on under its own
run id, and gives numbers of batches anew: that shows as :data:`~agent.receiving.checking.Reason` ``batch_conflict``.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from agent.core.clock import DAY_NS, MINUTE_NS, SECOND_NS
from agent.core.message import Header

LIVE_NS: Final = 2 * MINUTE_NS
"""A batch whose newest row ended so shortly before the broker took it came as it was sealed, and by a clock that goes right."""
AHEAD_NS: Final = 5 * SECOND_NS
MARGIN_NS: Final = MINUTE_NS
"""Rows of a run may have ended so long after the next was first heard: clocks differ a little."""
_MOST_AGENTS: Final = 200_000
_MOST_RUNS: Final = 8
_AGAIN_NS: Final = DAY_NS


@dataclass(slots=True)
class _Runs:
    run: str
    host: str
    before: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Earlier runs: when the next one was first heard, and the host name."""


@dataclass
class Twins:
    """Watches the runs of every agent. Not thread-safe."""

    _agents: dict[str, _Runs] = field(default_factory=dict)

    def hear(self, header: Header, end_ns: int, append_ns: int) -> tuple[str, ...]:
        """Take the newest row's end of a batch and when the broker took it. Names of the hosts where two runs are at
        work at once, else nothing. A backlog says nothing, whatever its order.
        """
        if not -AHEAD_NS <= append_ns - end_ns <= LIVE_NS:
            return ()
        known = self._agents.get(header.agent_id)
        if known is None:
            if len(self._agents) >= _MOST_AGENTS:
                self._agents.clear()
            self._agents[header.agent_id] = _Runs(header.run_id, header.host)
            return ()
        if header.run_id == known.run:
            known.host = header.host
            return ()
        ended = known.before.get(header.run_id)
        if ended is None:
            known.before[known.run] = (append_ns, known.host)
            if len(known.before) > _MOST_RUNS:
                known.before.pop(next(iter(known.before)))
            known.run, known.host = header.run_id, header.host
            return ()
        if end_ns <= ended[0] + MARGIN_NS:
            return ()
        return tuple(sorted({known.host or "?", header.host or "?"}))


@dataclass
class Told:
    """Of which agents people were told, and of what: once a day for the same."""

    _when: dict[tuple[str, str], int] = field(default_factory=dict)

    def is_news(self, what: str, agent_id: str, now_ns: int) -> bool:
        """Whether they were not told of it today; from now on they were."""
        before = self._when.get((what, agent_id))
        if before is not None and now_ns - before < _AGAIN_NS:
            return False
        if len(self._when) >= _MOST_AGENTS:
            self._when.clear()
        self._when[what, agent_id] = now_ns
        return True
