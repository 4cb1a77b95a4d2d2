"""``sekisho detect``: the one run that reads what every agent sent, and decides.

With PostgreSQL several may be started: one leads, the others stand by and take over where it ends or stands still.
With SQLite there is one, and its restart is the fail-over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from agent.core.errors import ConfigError, Fault, SekishoError
from agent.core.flow import BatchHeader
from agent.core.kafka import Connection
from agent.covering.covering import Covering
from agent.covering.publishing import Publisher
from agent.deciding import LocalDecide
from agent.detection.fleet import LIVE
from agent.pipeline import Pipeline
from agent.receiving.checking import Checker
from agent.receiving.enrolling import Desk, desk
from agent.receiving.gaps import Gaps
from agent.receiving.hearing import Agents
from agent.receiving.refused import Refusals
from agent.receiving.stream import MessageStream
from agent.runtime import Runtime
from agent.signals import Signals
from agent.store.postgres import Leadership, a_holder, lead, open_postgres
from agent.store.state import BUSY_TIMEOUT_S, State
from collectors.kafka import Place, Reader
from sinks.coverage_topic import CoverageTopic
from sinks.dead_letters import DeadLetters


class NeverLedError(SekishoError):
    """The program was stopped while it stood by. Nothing was wrong."""


@dataclass
class DetectRuntime(Runtime):
    """One run of the detector: ``with DetectRuntime(loaded) as run: run.go()``.

    Entering waits until this one leads. Raises :class:`NeverLedError` if it was stopped before.
    """

    build_collectors: Any = field(default=lambda _context: {})
    standing_by: Callable[[], None] = lambda: None
    """Called once, before it stands by or leads."""
    waiting: Callable[[], None] = lambda: None
    """Called every now and then while another one leads."""
    _leadership: Leadership | None = None
    _publisher: Publisher = field(init=False)
    _desk: Desk | None = None

    @property
    def stream(self) -> MessageStream:
        """What reads, and its counts."""
        return cast(MessageStream, self.pipeline)

    def _connection(self) -> Connection:
        if self.settings.kafka is None:
            raise ConfigError(
                Fault(
                    "settings", 0, "the detector reads from Kafka: expected `kafka: {servers: [HOST:PORT]}`"
                )
            )
        return self.settings.kafka

    def _open_state(self) -> State:
        self._connection()
        url = self.settings.detect.database
        if url is None:
            return super()._open_state()
        holder = a_holder()
        database = open_postgres(
            url, holder=holder, create=True, now_ns=self.clock.now_ns(), busy_timeout_s=BUSY_TIMEOUT_S
        )
        try:
            self.standing_by()
            with Signals(self.stop, threading.Event()):
                self._leadership = lead(
                    database,
                    holder,
                    self.stop,
                    lease_s=self.settings.detect.lease_s,
                    waiting=self.waiting,
                )
            if self._leadership is None:
                raise NeverLedError("stopped while another one led")
            self._leadership.check()
            return State.lead(database, self._leadership, clock=self.clock)
        except BaseException:
            database.close()
            raise

    def _make_pipeline(self, header: BatchHeader) -> Pipeline:
        assert isinstance(self.decide, LocalDecide)
        connection, topic = self._connection(), self._connection().topics.flows
        client_id = f"sekisho-detect-{self.settings.host}"
        reader = Reader(connection, topic, client_id)
        known = {place: at for place, at in self.state.inputs.offsets().items() if place[0] == topic}
        reader.begin({place: Place(at.topic_id, at.next_offset) for place, at in known.items()})
        last_action = self.state.enrolments.last_action()
        pins, ended = self.state.inputs.pins(), self.state.enrolments.ended_keys()
        checker = Checker(pins, self.settings.detect.identities, ended)
        self._desk = desk(connection, client_id, checker, self.decide, self.clock, last_action)
        self._stack.callback(self._desk.close)
        stream = MessageStream(
            reader,
            DeadLetters(connection, client_id),
            checker,
            Gaps(self.state.inputs.said()),
            self.decide,
            self.enrichers,
            self.accounts,
            self.clock,
            self.settings.detect.gather_rows,
            begins=not known,
            refusals=Refusals(self.state.inputs.dead()),
            renew=self._renew,
            agents=self._agents(connection, client_id, checker),
            started=self._started,
            between=self._between_turns,
            turned=self.attendant.turned,
            stop=self.stop,
        )
        return cast(Pipeline, stream)

    def _covering(self, header: BatchHeader) -> None:
        """None: heartbeats of agents are what it keeps coverage by."""

    def _between_turns(self) -> None:
        self._between()
        if self._desk is not None:
            self._desk.turn(reachable=self.stream.reachable)

    def _agents(self, connection: Connection, client_id: str, checker: Checker) -> Agents:
        """What reads heartbeats, and the thread that sends coverage."""
        assert isinstance(self.decide, LocalDecide)
        topic = connection.topics.agents
        reader = Reader(connection, topic, f"{client_id}-agents")
        known = {place: at for place, at in self.state.inputs.offsets().items() if place[0] == topic}
        reader.begin({place: Place(at.topic_id, at.next_offset) for place, at in known.items()})
        self._publisher = Publisher(self.state, CoverageTopic(connection, f"{client_id}-coverage"))
        self._stack.callback(self._publisher.stop)
        covering = Covering(
            self.state,
            self.clock,
            lambda: self.policy,
            self.decide.detector,
            self.settings.lateness,
            lambda stream: self.stream.dead_of(stream),
        )
        return Agents(reader, checker, covering, self.decide, self.clock)

    def _started(self) -> None:
        super()._started()
        self._publisher.start()

    def _fleet(self) -> dict[str, int]:
        if self.stream.agents is None:
            return {}
        agents = self.stream.agents
        states = [known.state for known in agents.covering.agents.values()]
        told = {f"agents[{name}]": states.count(name) for name in LIVE}
        refused = {f"heartbeats_refused[{reason}]": n for reason, n in sorted(agents.refused.items())}
        return {**told, **refused, "coverage_sent": self._publisher.sent}

    def _most_paths(self) -> int:
        return self.settings.detect.paths

    def standing(self) -> dict[str, object]:
        """See :meth:`Runtime.standing`."""
        return {**super().standing(), "role": "detector", "counters": dict(self.counters)}

    def _renew(self) -> None:
        if self._leadership is not None:
            self._leadership.check()

    @property
    def past_limits(self) -> Mapping[str, int]:
        """Of this run: what found no place of its own in the detector's tables."""
        assert isinstance(self.decide, LocalDecide)
        return self.decide.past_limits

    @property
    def counters(self) -> Mapping[str, int]:
        """Figures of this run, for its status and metrics."""
        counts = self.stream.counts
        told = {f"dead[{reason}]": n for reason, n in sorted(counts.dead.items())}
        told |= {f"facts_differing[{column}]": n for column, n in sorted(counts.differing.items())}
        if self._desk is not None:
            told |= {f"enrolment_refused[{reason}]": n for reason, n in sorted(self._desk.refused.items())}
            told["enrolled"] = self._desk.enrolled
        return {
            "messages": counts.messages,
            "rows": counts.rows,
            "octets": counts.octets,
            "duplicates": counts.duplicates,
            "missing": self.stream.gaps.missing(),
            "facts_derived": counts.derived,
            "dead_unsent": counts.dead_unsent,
            "copied": counts.copied,
            "lag": counts.lag,
            "commits": counts.commits,
            **self.past_limits,
            **self._fleet(),
            **told,
        }
