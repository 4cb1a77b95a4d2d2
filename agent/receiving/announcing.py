"""What people are told of the messages themselves: one event for each cause, however many messages and agents it concerns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.core.clock import MINUTE_NS, SECOND_NS, Clock
from agent.core.finding import Event, Severity
from agent.deciding import LocalDecide
from agent.receiving.conflicts import Told
from agent.receiving.gaps import Gaps
from agent.store.inputs import Intake

TELL_EVERY_NS: Final = 10 * MINUTE_NS
GAP_PATIENCE_NS: Final = 30 * SECOND_NS
"""A batch may come by another partition a little later than the word that it was sent."""
AGENTS_NAMED: Final = 5
_OF_IDENTITY: Final = {
    "identity_conflict": "identity_conflict",
    "identity_ended": "identity_ended",
    "batch_conflict": "agent_restored",
    "bad_signature": "signature_wrong",
    "unknown_key": "agent_unknown",
}
"""What people are told where it is doubtful who sent a message, by the reason why it is dead: one name for each cause."""


@dataclass
class Announcing:
    """Keeps what is to be told until it may be. Not thread-safe."""

    decide: LocalDecide
    gaps: Gaps
    clock: Clock
    _refused: dict[str, set[str]] = field(default_factory=dict)
    """Reason -> agents of which people were not told yet."""
    _agents_told: Told = field(default_factory=Told)
    _told_ns: dict[str, int] = field(default_factory=dict)
    _gap_since_ns: int = 0

    def suspect(self, reason: str, agent_id: str) -> None:
        """People are to hear of it, unless they did today."""
        if agent_id and not self._agents_told.is_news(reason, agent_id, self.clock.monotonic_ns()):
            return
        agents = self._refused.setdefault(reason, set())
        if len(agents) < AGENTS_NAMED:
            agents.add(agent_id)

    def copied(self, agent_id: str, hosts: Sequence[str]) -> None:
        """Tell that several hosts send under one id and key."""
        if self._agents_told.is_news("agent_copied", agent_id, self.clock.monotonic_ns()):
            self._announce("agent_copied", Severity.HIGH, {"agents": agent_id, "hosts": ", ".join(hosts)})

    def unreachable(self, reason: str) -> None:
        """Tell that the brokers have not answered for long."""
        if self._may_tell("kafka_unreachable"):
            self._announce("kafka_unreachable", Severity.HIGH, {"reason": reason})

    def turn(self, dead: Callable[[str], int]) -> None:
        """Tell what is due. ``dead`` gives the messages of a reason since the start."""
        for reason, agents in list(self._refused.items()):
            if not self._may_tell(reason):
                continue
            del self._refused[reason]
            detail: dict[str, str | int] = {
                "reason": reason,
                "agents": ", ".join(sorted(filter(None, agents))) or "unknown",
                "messages": dead(reason),
            }
            severity = Severity.HIGH if reason in _OF_IDENTITY else Severity.MEDIUM
            self._announce(_OF_IDENTITY.get(reason, "messages_refused"), severity, detail)
        self._tell_gaps()

    def _tell_gaps(self) -> None:
        untold = self.gaps.untold()
        now_ns = self.clock.monotonic_ns()
        if not untold:
            self._gap_since_ns = 0
            return
        self._gap_since_ns = self._gap_since_ns or now_ns
        if now_ns - self._gap_since_ns < GAP_PATIENCE_NS:
            return
        self._gap_since_ns = 0
        batches = sum(len(said.missing) - said.told for said in untold.values())
        agents = sorted({stream[0] for stream in untold})
        detail: dict[str, str | int] = {
            "batches": batches,
            "agents": len(agents),
            "first_agents": ", ".join(agents[:AGENTS_NAMED]),
        }
        told = {stream: said.copy() for stream, said in untold.items()}
        for said in told.values():
            said.told = len(said.missing)
        self._announce("batches_missing", Severity.HIGH, detail, Intake(said=told))
        self.gaps.put(told)

    def _may_tell(self, what: str) -> bool:
        """Whether people have not heard of it lately."""
        now_ns = self.clock.monotonic_ns()
        before = self._told_ns.get(what)
        if before is not None and now_ns - before < TELL_EVERY_NS:
            return False
        self._told_ns[what] = now_ns
        return True

    def _announce(
        self, name: str, severity: Severity, detail: dict[str, str | int], intake: Intake | None = None
    ) -> None:
        self.decide.announce(Event(name=name, severity=severity, detail=detail), intake)
