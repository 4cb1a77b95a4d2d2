"""Heartbeats in, and what follows from them into the state: the part of the detector's road that looks at agents."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from agent.core.clock import Clock
from agent.covering.covering import Covering, Turn
from agent.deciding import LocalDecide
from agent.receiving.checking import Checker, Refused
from agent.store.inputs import Intake, Offset
from collectors.kafka import Reader

POLL_RECORDS: Final = 500
IDENTITY: Final = frozenset(("identity_conflict", "identity_ended", "bad_signature", "unknown_key"))
"""Reasons for which somebody else may have spoken for an agent."""


@dataclass
class Agents:
    """Reads heartbeats and hands on what is known of agents. Not thread-safe."""

    reader: Reader
    checker: Checker
    covering: Covering
    decide: LocalDecide
    clock: Clock
    refused: Counter[str] = field(default_factory=Counter)
    """Heartbeats that do not count, by reason."""
    suspects: dict[str, set[str]] = field(default_factory=dict)
    """Reason -> agents that somebody else may have spoken for, until people are told."""
    _live: bool = False
    """At the last look nothing waited."""

    def look(self, read_to_ns: int) -> None:
        """Take up heartbeats, and what follows from them and from the time; rows were read up to that append time (0: to
        now). Raises :class:`CaptureError`.
        """
        while records := self.reader.poll(POLL_RECORDS, 0.0):
            for record in records:
                if not record.value:
                    continue  # the topic is compacted: the agent was forgotten by hand
                found = self.checker.check_beat(record.headers, record.value)
                if isinstance(found, Refused):
                    self.refused[found.reason] += 1
                    if found.reason in IDENTITY:
                        self.suspects.setdefault(found.reason, set()).add(found.agent_id)
                else:
                    self.covering.hear(found, record.append_ns, live=self._live)
        self._live = self.reader.lag() == 0
        upto_ns = read_to_ns or self.covering.broker_ns()
        turn = self.covering.turn(self.decide.state.taken_of, read_to_ns=upto_ns, live=self._live)
        if turn:
            self._commit(turn)

    def finish(self) -> None:
        """Keep what is not kept yet."""
        self._commit(Turn(self.covering.ending()))

    def _commit(self, turn: Turn) -> None:
        offsets = {
            place: Offset(at.topic_id, at.next_offset)
            for place, at in self.reader.places().items()
            if at.topic_id
        }
        pins = dict(self.checker.fresh)
        intake = Intake(offsets if turn.covered.agents else {}, pins, covered=turn.covered)
        if turn.events:
            for event in turn.events:
                self.decide.announce(event, intake)
                intake = Intake()
        else:
            self.decide.note(intake)
        self.checker.kept(pins)
        self.covering.committed(turn)
