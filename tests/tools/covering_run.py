"""A detector without Kafka that hears heartbeats and decides rows at times that a test gives."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from agent.core.accounts import Accounts
from agent.core.clock import HOUR_NS, SECOND_NS, DataClock
from agent.core.finding import Event
from agent.covering.covering import Covering
from agent.deciding import LocalDecide
from agent.detection.detector import Detector
from agent.policy import load as policy_files
from agent.policy.model import Policy
from agent.store.inputs import Intake
from agent.store.state import State
from tests.tools.beats import RUN, Arrived, Beating
from tests.tools.fleet import FakeAgent

S = SECOND_NS
BEGIN = 490_000 * HOUR_NS
POLICY = """version: 1
tenant: example
stores:
  - id: patients
    categories: [personal_health]
    recognise: {hosts: [db-1]}
rules:
  - {id: much, over: 100 MB, window: 1h, severity: high}
"""


def policy_of(folder: Path, more: str = "") -> Policy:
    """A policy of one store and one rule, with more behind it."""
    (folder / "policy.yaml").write_text(POLICY + more)
    return policy_files.load([folder / "policy.yaml"], today=date(2026, 1, 1))


class Run:
    """One run of a detector without Kafka."""

    def __init__(self, folder: Path, policy: Policy, now_ns: int) -> None:
        self.clock = DataClock(now_ns)
        self.state = State.open(folder / "state.db", clock=self.clock)
        self.detector = Detector(policy, None)
        self.decide = LocalDecide(self.detector, self.state, Accounts(), self.clock, "detector")
        self.decide.restore()
        self.arrived = Arrived()
        self.events: list[Event] = []
        self.covering = Covering(self.state, self.clock, lambda: policy, self.detector)

    def hear(self, agent: Beating, time_ns: int, **more: object) -> None:
        """A heartbeat that came at once."""
        self.clock.set(max(time_ns, self.clock.now_ns()))
        self.covering.hear(agent.beat(time_ns, **more), time_ns, live=True)

    def turn(self, now_ns: int) -> list[Event]:
        """A look, committed."""
        self.clock.set(now_ns)
        self.decide.tick(now_ns)
        turn = self.covering.turn(self.arrived, read_to_ns=now_ns, live=True)
        if turn is None:
            return []
        self.decide.note(Intake(covered=turn.covered))
        self.covering.committed(turn)
        self.events += turn.events
        return list(turn.events)

    def pass_to(self, agents: list[Beating], from_ns: int, to_ns: int, step_ns: int = 10 * S) -> None:
        """Agents that beat, and looks between."""
        for now_ns in range(from_ns, to_ns, step_ns):
            for agent in agents:
                self.hear(agent, now_ns)
            self.turn(now_ns)

    def rows(self, rows: list[dict[str, object]], received_ns: int, sequence: int = 0) -> None:
        """A batch of the store on db-1, decided."""
        message = FakeAgent("db-1", run=RUN).message(rows, sequence=sequence)
        header = message.read_header()
        batch = message.batch(header)
        covered = self.covering.count([batch])
        intake = Intake(covered=covered)
        self.decide.take_sealed([batch], [received_ns], [bytes.fromhex(header.digest)], intake)
        self.covering.counted(covered)
        self.arrived.add("db-1", sequence, sequence)
