"""The detector's side of enrolment: requests of the topic in, keys pinned in a commit, answers out.

A request is decided by the time at which the broker took it, so that one which waited for a detector that was down is
not too late. Asking again is harmless: the same key with the same token is answered as before and uses nothing up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from agent import logs
from agent.core.clock import MINUTE_NS, SECOND_NS, Clock
from agent.core.enrolment import Asked, Reason, answer, heard, is_request
from agent.core.errors import CaptureError, DecodeError, SinkError, StateError, TakenOverError
from agent.core.finding import Event, Severity
from agent.core.kafka import Connection
from agent.deciding import LocalDecide
from agent.receiving.checking import Checker
from agent.store.enrolments import Enrolled, EnrolmentAction, TokenRow
from agent.store.inputs import Intake, Offset, Partition, Pin
from collectors.kafka import Place, Reader, Record
from sinks.kafka import Done, Producer

LOOK_NS: Final = SECOND_NS
PEOPLE_NS: Final = 2 * SECOND_NS
TELL_NS: Final = 10 * MINUTE_NS
MOST_AT_ONCE: Final = 200
AGENTS_NAMED: Final = 5
QUICK_S: Final = 5.0
"""How long enrolment may hold up the rows, where brokers do not answer."""
_DETAIL: Final = 120


class Answering(Protocol):
    """Sends records, as :class:`sinks.kafka.Producer` does."""

    def connect(self) -> None:
        """Be connected."""

    def send(
        self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]], done: Done
    ) -> None:
        """Send one."""

    def disconnect(self) -> None:
        """Let go."""


class Reading(Protocol):
    """Gives records, as :class:`collectors.kafka.Reader` does."""

    topic: str
    topic_id: str

    def poll(self, most: int, wait_s: float) -> list[Record]:
        """What came."""

    def close(self) -> None:
        """Let go."""


@dataclass
class Desk:
    """Takes requests to enrol, and follows what people did to identities. Not thread-safe."""

    reader: Reading
    producer: Answering
    checker: Checker
    decide: LocalDecide
    clock: Clock
    last_action: int = 0
    """Number of the newest of people's actions that was followed."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests that were refused, by reason."""
    enrolled: int = 0
    unanswered: int = 0
    """Answers that Kafka did not take; whoever asks again is answered again."""
    _agent_of: dict[bytes, str] | None = None
    """Whose a key is."""
    _untold: Counter[str] = field(default_factory=Counter)
    _untold_agents: dict[str, set[str]] = field(default_factory=dict)
    _told_ns: dict[str, int] = field(default_factory=dict)
    _looked_ns: int = -LOOK_NS
    _people_ns: int = -PEOPLE_NS
    _fault: str = ""
    _waiting: list[Record] = field(default_factory=list)
    """Read and not decided yet."""

    def turn(self, *, reachable: bool = True) -> None:
        """Do what is due; called between two commits. Not ``reachable``: the brokers do not answer, and asking them once
        more would only hold up whoever waits for them.
        """
        now_ns = self.clock.monotonic_ns()
        if now_ns - self._people_ns >= PEOPLE_NS:
            self._people_ns = now_ns
            self._follow_people()
        if now_ns - self._looked_ns >= LOOK_NS:
            self._looked_ns = now_ns
            if reachable:
                self._read()
            self._tell(now_ns)

    def close(self) -> None:
        """Let go of every connection."""
        self.reader.close()
        self.producer.disconnect()

    # requests

    def _read(self) -> None:
        try:
            self._waiting = self._waiting or self.reader.poll(MOST_AT_ONCE, 0.0)
            if self._waiting:
                self._take(self._waiting)
            self._waiting, self._fault = [], ""
        except TakenOverError:
            raise
        except (CaptureError, StateError) as error:  # that Kafka is away is told by whoever reads the rows
            if str(error) != self._fault:
                logs.get("enrolment").warning("enrolment_not_read", reason=str(error))
            self._fault = str(error)

    def _take(self, records: Sequence[Record]) -> None:
        offsets: dict[Partition, Offset] = {}
        enrolled: dict[str, Enrolled] = {}
        answers: list[tuple[Asked, Reason, TokenRow | None]] = []
        used: Counter[str] = Counter()
        for record in records:
            offsets[self.reader.topic, record.partition] = Offset(self.reader.topic_id, record.offset + 1)
            headers = dict(record.headers)
            if not is_request(headers):
                continue
            try:
                asked = heard(headers, record.value)
            except DecodeError as error:
                self._refuse("malformed", "", str(error))
                continue
            token = self.decide.state.enrolments.token(asked.request.token_id)
            reason, new = self._judged(asked, token, used[asked.request.token_id], enrolled, record.append_ns)
            answers.append((asked, reason, token))
            if reason:
                self._refuse(reason, asked.request.agent_id, f"token {asked.request.token_id}")
            if new is not None:
                used[new.token] += 1
                enrolled[new.agent_id] = new
        self.decide.take_sealed((), (), (), Intake(offsets=offsets, enrolled=tuple(enrolled.values())))
        self._pin(enrolled.values())
        self._answer(answers)

    def _judged(
        self,
        asked: Asked,
        token: TokenRow | None,
        used_now: int,
        enrolled: Mapping[str, Enrolled],
        append_ns: int,
    ) -> tuple[Reason, Enrolled | None]:
        """Why a request is refused, or what it enrols; neither for one that was granted before."""
        request = asked.request
        key = bytes.fromhex(request.public_key)
        if token is None:
            return "unknown_token", None
        if not asked.proves(token.public_key):
            return "wrong_token", None
        agent, pin, by_token = request.agent_id, None, ""
        if agent in enrolled:
            pin, by_token = Pin(enrolled[agent].public_key, "enrolled"), enrolled[agent].token
        elif rows := self.decide.state.enrolments.identities(agent):
            pin, by_token = Pin(rows[0].public_key, rows[0].how), rows[0].token
        if pin is not None and (pin.how, pin.public_key, by_token) == ("enrolled", key, token.id):
            return "", None
        if reason := _unusable(token, agent, used_now, append_ns):
            return reason, None
        if key in self.checker.ended.get(agent, ()):
            return "key_ended", None
        if self._owner_of(key, enrolled) not in ("", agent):
            return "key_of_another", None
        replaces = pin is not None and pin.public_key != key
        if (replaces or (pin is not None and pin.how == "revoked")) and token.agent_id != agent:
            return "agent_known", None
        ends = pin.public_key if pin is not None and replaces else b""
        return "", Enrolled(agent, key, token.id, request.host, ends)

    def _owner_of(self, key: bytes, enrolled: Mapping[str, Enrolled]) -> str:
        if self._agent_of is None:
            self._agent_of = {pin.public_key: agent for agent, pin in self.checker.pins.items()}
        now = next((agent for agent, one in enrolled.items() if one.public_key == key), "")
        return now or self._agent_of.get(key, "")

    def _pin(self, enrolled: Iterable[Enrolled]) -> None:
        """These are committed."""
        pins, ended = {}, {}
        for one in enrolled:
            pins[one.agent_id] = Pin(one.public_key, "enrolled")
            if one.ends:
                ended[one.agent_id] = frozenset((one.ends,))
            if self._agent_of is not None:
                self._agent_of[one.public_key] = one.agent_id
            self.enrolled += 1
            self._note("agent_enrolled", one.agent_id)
        if pins:
            self.checker.changed(pins, ended)

    def _answer(self, answers: Sequence[tuple[Asked, Reason, TokenRow | None]]) -> None:
        try:
            for asked, reason, token in answers:
                public = token.public_key if token is not None and reason != "wrong_token" else None
                said: Reason = "unknown_token" if reason == "wrong_token" else reason
                value, headers = answer(asked, said, self.clock.now_ns(), public)
                self.producer.connect()
                key = asked.request.agent_id.encode()
                self.producer.send(self.reader.topic, key, value, list(headers.items()), self._sent)
        except SinkError as error:
            self._sent(error)
            self.producer.disconnect()

    def _sent(self, error: SinkError | None) -> None:
        if error is not None:
            self.unanswered += 1
            logs.get("enrolment").warning("answer_not_sent", reason=str(error))

    # people

    def _follow_people(self) -> None:
        try:
            enrolments = self.decide.state.enrolments
            for action in enrolments.actions_after(self.last_action):
                self._follow(action)
                self.last_action = action.id
        except StateError as error:
            logs.get("enrolment").error("enrolments_not_read", reason=str(error))

    def _follow(self, action: EnrolmentAction) -> None:
        if action.kind == "agent_revoked":
            rows = self.decide.state.enrolments.identities(action.subject)
            pins = {row.agent_id: Pin(row.public_key, row.how) for row in rows}
            self.checker.changed(pins, {a: frozenset((pin.public_key,)) for a, pin in pins.items()})
        detail: dict[str, str | int] = {"subject": action.subject, "by": action.who}
        if action.note:
            detail["note"] = action.note[:_DETAIL]
        severity = Severity.LOW if action.kind == "token_made" else Severity.MEDIUM
        self.decide.announce(Event(name=f"enrolment_{action.kind}", severity=severity, detail=detail))

    # what people are told

    def _refuse(self, reason: Reason, agent_id: str, detail: str) -> None:
        self.refused[reason] += 1
        self._note(f"enrolment_refused {reason}", agent_id)
        logs.get("enrolment").warning(
            "enrolment_refused", reason=reason, agent=agent_id, detail=detail[:_DETAIL]
        )

    def _note(self, what: str, agent_id: str) -> None:
        self._untold[what] += 1
        agents = self._untold_agents.setdefault(what, set())
        if agent_id and len(agents) < AGENTS_NAMED:
            agents.add(agent_id)

    def _tell(self, now_ns: int) -> None:
        """One event for all that is alike, at once and then once in ten minutes."""
        for what, number in list(self._untold.items()):
            before = self._told_ns.get(what)
            if before is not None and now_ns - before < TELL_NS:
                continue
            self._told_ns[what] = now_ns
            del self._untold[what]
            agents = ", ".join(sorted(self._untold_agents.pop(what, set()))) or "unknown"
            name, _, reason = what.partition(" ")
            detail: dict[str, str | int] = {"agents": agents, "requests": number}
            severity = Severity.INFORMATIONAL
            if reason:
                detail, severity = {"reason": reason, **detail}, Severity.MEDIUM
            self.decide.announce(Event(name=name, severity=severity, detail=detail))


def _unusable(token: TokenRow, agent_id: str, used_now: int, append_ns: int) -> Reason:
    """Why a token enrols nobody; empty where it does."""
    if token.revoked_ns:
        return "token_revoked"
    if append_ns > token.expires_ns:
        return "expired"
    if token.agent_id not in ("", agent_id):
        return "other_agent"
    return "used_up" if token.used + used_now >= token.uses else ""


def desk(
    connection: Connection,
    client_id: str,
    checker: Checker,
    decide: LocalDecide,
    clock: Clock,
    last_action: int,
) -> Desk:
    """The desk of a run; it begins where the last commit came to. ``last_action``: the newest that ``checker`` knows of."""
    topic = connection.topics.enrolment
    quick = {"connect_s": min(connection.connect_s, QUICK_S), "request_s": min(connection.request_s, QUICK_S)}
    connection = connection.model_copy(update=quick)
    reader = Reader(connection, topic, client_id)
    offsets = {place: at for place, at in decide.state.inputs.offsets().items() if place[0] == topic}
    reader.begin({place: Place(at.topic_id, at.next_offset) for place, at in offsets.items()})
    return Desk(reader, Producer(connection, client_id), checker, decide, clock, last_action)
