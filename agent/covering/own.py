"""What a run that decides in its own process observed: its own account stands for the heartbeats of agents.

The worker drives it between two batches. Every ten seconds it hears how the run stands, as a detector hears an agent; what
follows is committed beside the decisions and handed to the sinks that take it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agent import logs
from agent.core.clock import SECOND_NS
from agent.core.errors import SinkError, StateError
from agent.core.finding import Event
from agent.core.heartbeat import EVERY_S, Beat
from agent.core.stages import TakesCoverage
from agent.covering.covering import Covering, Turn
from agent.covering.publishing import Publisher
from agent.store.coverage import Covered

BEAT_NS: Final = EVERY_S * SECOND_NS
SEND_NS: Final = 5 * SECOND_NS
TOLD_ELSEWHERE: Final = frozenset({"databases_stale"})
"""Events that the run tells by itself, with more detail."""


@dataclass
class SinksOfCoverage:
    """Hands records to every sink that takes them. The sinks are their owner's to close."""

    sinks: Sequence[TakesCoverage]

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Deliver all. Raises :class:`SinkError`; then some sinks have them, and get them again."""
        for sink in self.sinks:
            sink.write_coverage(records)

    def close(self) -> None:
        """Nothing of its own is open."""


@dataclass
class OwnCoverage:
    """Keeps what one run observed. Not thread-safe: one thread drives it."""

    covering: Covering
    said: Callable[[], Mapping[str, Any]]
    """How the run stands: the fields of a heartbeat but ``time_ns`` and ``closing``."""
    note: Callable[[Covered], None]
    """Commits what was found."""
    announce: Callable[[Event, Covered], None]
    """Commits it together with an event that people are told."""
    publisher: Publisher | None = None
    """None: no sink takes it, and it stays in the state."""
    _beaten_ns: int | None = None
    _sent_ns: int = 0
    _untold: str = field(default="", repr=False)

    def turn(self) -> None:
        """Hear the run, look, keep what follows, and send it. Raises :class:`StateError` as a commit does."""
        mono_ns = self.covering.clock.monotonic_ns()
        if self._beaten_ns is None or mono_ns - self._beaten_ns >= BEAT_NS:
            self._beaten_ns = mono_ns
            self._hear(closing=False)
        self._look()
        if mono_ns - self._sent_ns >= SEND_NS:
            self._sent_ns = mono_ns
            self._send()

    def finish(self) -> None:
        """The run has ended in order: all that it captured is decided."""
        if self._beaten_ns is None:
            self._hear(closing=False)
        self._hear(closing=True)
        self._look()
        self.note(self.covering.ending())
        self._send()

    def _hear(self, *, closing: bool) -> None:
        now_ns = self.covering.clock.now_ns()
        table = {**self.said(), "time_ns": now_ns, "closing": closing}
        self.covering.hear(Beat.read(json.dumps(table, default=str).encode()), now_ns, live=True)

    def _look(self) -> None:
        covering = self.covering
        turn = covering.turn(covering.state.taken_of, read_to_ns=covering.clock.now_ns(), live=True)
        if not turn:
            return
        covered = turn.covered
        for event in turn.events:
            if event.name not in TOLD_ELSEWHERE:
                self.announce(event, covered)
                covered = Covered()
        if covered != Covered():
            self.note(covered)
        covering.committed(Turn(turn.covered))

    def _send(self) -> None:
        if self.publisher is None:
            return
        try:
            self.publisher.step()
            self._untold = ""
        except (SinkError, StateError) as error:
            if str(error) != self._untold:
                logs.get("coverage").warning("coverage_not_sent", reason=str(error), kept="in the state")
            self._untold = str(error)
