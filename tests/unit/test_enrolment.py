"""Tokens, requests and answers, and the desk that decides them: what enrols, what does not, and what anyone may read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agent.core.accounts import Accounts
from agent.core.clock import MINUTE_NS, SECOND_NS, DataClock
from agent.core.enrolment import (
    ANSWER_KEY,
    PROOF_KEY,
    Answer,
    Request,
    Token,
    answer,
    answered,
    ask,
    heard,
    is_request,
)
from agent.core.errors import CaptureError, DecodeError, StateError
from agent.core.finding import Notice
from agent.core.message import HEADER_KEY, SIGNATURE_KEY
from agent.deciding import LocalDecide
from agent.detection.detector import Detector
from agent.policy.model import Policy
from agent.receiving.checking import Checker, Refused, Sealed
from agent.receiving.enrolling import Desk
from agent.sending.identity import Identity
from agent.store.enrolments import TokenRow
from agent.store.inputs import Pin
from agent.store.state import State
from collectors.kafka import Record
from sinks.kafka import Done
from tests.tools.fleet import FakeAgent
from tests.tools.notices import START_NS

TOPIC = "sekisho.enrolment.v1"
HOSTILE = [
    "../../etc/passwd",
    "<b>db-1</b>",
    "db 1",
    "db-1\x1b[2J",
    "",
    "\u202edb",
    "a" * 129,
    "db-1\n",
    "-x/y",
]


def key() -> Identity:
    """A new key."""
    return Identity(Ed25519PrivateKey.generate())


def request(agent: str, whose: Identity, token: Token, nonce: int = 1, host: str = "db-1") -> Request:
    """What an agent asks."""
    return Request(
        agent_id=agent,
        nonce=f"{nonce:032x}",
        time_ns=START_NS,
        host=host,
        public_key=whose.public.hex(),
        token_id=token.id,
    )


# what travels


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=6, max_size=6))
def test_a_token_survives_its_text(secret: bytes, name: bytes) -> None:
    """Text and back is the same token; neither its representation nor what the detector keeps holds the secret."""
    token = Token(name.hex(), secret)
    assert Token.parse(f"  {token.text}\n") == token
    assert secret.hex() not in repr(token)
    assert token.public not in (secret, token.text.encode())


@given(st.text(max_size=80))
def test_no_other_text_is_a_token(text: str) -> None:
    """Whatever is no token is refused without being repeated, for it may be one that was mistyped."""
    with pytest.raises(DecodeError) as caught:
        Token.parse(text)
    assert str(caught.value) == (
        "this is no enrolment token; expected sekisho1-…, as `sekisho enrolment token` prints it"
    )


def test_a_request_shows_no_token_and_proves_it() -> None:
    """Whoever reads the topic finds neither the secret nor anything that enrols another key or agent."""
    token, whose = Token.make(), key()
    raw, headers = ask(request("db-1", whose, token), whose.sign, token)
    whole = raw + b"".join(headers.values())
    assert token.secret not in whole
    assert token.secret.hex().encode() not in whole
    assert token.public not in whole
    assert heard(headers, raw).proves(token.public)
    other = key()
    forged, signed = ask(request("db-2", other, token), other.sign, Token.make())
    assert not heard(signed, forged).proves(token.public)
    assert not heard({**signed, PROOF_KEY: headers[PROOF_KEY]}, forged).proves(token.public)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_request_that_was_changed_is_none(place: int, by: int) -> None:
    """A changed octet anywhere makes it unreadable or unproven, never another request."""
    token, whose = TOKEN, KEY
    raw, headers = ask(request("db-1", whose, token), whose.sign, token)
    at = place % len(raw)
    changed = raw[:at] + bytes([raw[at] ^ by]) + raw[at + 1 :]
    with pytest.raises(DecodeError):
        heard(headers, changed)


@pytest.mark.parametrize("agent_id", HOSTILE)
def test_an_agent_id_with_a_path_or_markup_is_refused(agent_id: str) -> None:
    """On the agent's side and on the detector's: it is no id, so no file, topic or screen ever sees it as one."""
    with pytest.raises(ValueError, match="agent_id"):
        request(agent_id, KEY, TOKEN)
    raw = json.dumps({**request("db-1", KEY, TOKEN).model_dump(), "agent_id": agent_id}).encode()
    _, headers = ask(request("db-1", KEY, TOKEN), KEY.sign, TOKEN)
    with pytest.raises(DecodeError, match="agent_id"):
        heard(headers, raw)


@given(
    st.binary(max_size=200),
    st.dictionaries(st.sampled_from((SIGNATURE_KEY, PROOF_KEY)), st.binary(max_size=70)),
)
def test_any_bytes_are_a_request_or_refused(value: bytes, headers: dict[str, bytes]) -> None:
    """Nothing that comes raises anything else."""
    with pytest.raises(DecodeError):
        heard(headers, value)


def test_an_answer_is_proven_to_whoever_holds_the_token() -> None:
    """Only the store and the token's holder can make it; one for another request, or forged, is none."""
    mine = request("db-1", KEY, TOKEN)
    raw, headers = ask(mine, KEY.sign, TOKEN)
    value, told = answer(heard(headers, raw), "", START_NS, TOKEN.public)
    said = Answer(agent_id="db-1", nonce=mine.nonce, time_ns=START_NS)
    assert answered(told, value, mine, TOKEN) == (said, True)
    assert not is_request(told)
    assert answered(told, value, request("db-1", KEY, TOKEN, nonce=2), TOKEN) is None
    assert answered({ANSWER_KEY: b"x" * 32}, value, mine, TOKEN) is None
    unknown, bare = answer(heard(headers, raw), "unknown_token", START_NS, None)
    found = answered(bare, unknown, mine, TOKEN)
    assert found is not None
    assert (found[0].reason, found[1]) == ("unknown_token", False)


TOKEN, KEY = Token.make(), key()


# the desk


@dataclass
class Topic:
    """A topic in memory, read and written as the real one."""

    topic: str = TOPIC
    topic_id: str = "id"
    records: list[Record] = field(default_factory=list)
    answers: list[tuple[dict[str, bytes], bytes]] = field(default_factory=list)
    fault: str = ""
    _at: int = 0

    def put(self, value: bytes, headers: dict[str, bytes], append_ns: int = START_NS) -> None:
        """A record comes."""
        self.records.append(Record(0, len(self.records), append_ns, b"", headers, value))

    def poll(self, most: int, _wait_s: float) -> list[Record]:
        """What came since the last look."""
        if self.fault:
            raise CaptureError(self.fault)
        out = self.records[self._at : self._at + most]
        self._at += len(out)
        return out

    def connect(self) -> None:
        """Nothing to do."""

    def send(
        self, topic: str, _key: bytes, value: bytes, headers: list[tuple[str, bytes]], done: Done
    ) -> None:
        """Keep an answer; the desk reads it again, as the real one does."""
        assert topic == TOPIC
        self.answers.append((dict(headers), value))
        self.put(value, dict(headers))
        done(None)

    def disconnect(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


@dataclass
class Office:
    """A desk with its state."""

    state: State
    clock: DataClock
    desk: Desk
    topic: Topic
    told: list[Notice] = field(default_factory=list)

    def token(self, **given: Any) -> Token:
        """A token that is kept."""
        made = Token.make()
        row: dict[str, Any] = {
            "agent_id": "", "note": "", "made_by": "ann", "made_ns": START_NS, "expires_ns": START_NS + MINUTE_NS,
            "uses": 1, **given,
        }  # fmt: skip
        self.state.enrolments.add_token(TokenRow(made.id, made.public, **row))
        return made

    def ask(
        self, agent: str, whose: Identity, token: Token, *, append_ns: int = START_NS, **more: Any
    ) -> str:
        """Ask; the answer's reason, empty where the key is pinned."""
        mine = request(agent, whose, token, nonce=len(self.topic.records) + 1, **more)
        raw, headers = ask(mine, whose.sign, token)
        self.topic.put(raw, headers, append_ns)
        self.turn()
        found = [answered(h, v, mine, token) for h, v in self.topic.answers]
        (said,) = [one for one in found if one is not None]
        return said[0].reason

    def turn(self) -> None:
        """Time passes, and the desk looks."""
        self.clock.set(self.clock.now_ns() + 3 * SECOND_NS)
        self.desk.turn()

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Of what people were told."""
        return [(n.event.name, n.event.detail) for n in self.told if n.event is not None]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """A desk over a state of its own."""
    clock = DataClock(START_NS)
    with State.open(tmp_path / "state.db", clock=clock) as state:
        decide = LocalDecide(
            Detector(Policy(), None), state, Accounts(), clock, "detector", notice_sinks=("paper",)
        )
        topic = Topic()
        checker = Checker({}, "enrolled")
        made = Office(state, clock, Desk(topic, topic, checker, decide, clock), topic)
        decide.committed = lambda decision: made.told.extend(decision.notices)
        yield made


def test_an_agent_with_a_token_is_enrolled_and_its_rows_are_taken(office: Office) -> None:
    """Before it is refused as unknown; after the commit its key is pinned, in memory and in the state."""
    agent = FakeAgent("db-1")
    sealed = agent.message([{}])
    headers = {HEADER_KEY: sealed.header, SIGNATURE_KEY: sealed.signature}
    before = office.desk.checker.check(headers, sealed.value)
    assert isinstance(before, Refused)
    assert before.reason == "unknown_key"
    assert office.ask("db-1", agent.key, office.token()) == ""
    assert isinstance(office.desk.checker.check(headers, sealed.value), Sealed)
    assert office.state.inputs.pins() == {"db-1": Pin(agent.key.public, "enrolled")}
    assert office.state.inputs.offsets()[TOPIC, 0].next_offset == 1
    assert ("agent_enrolled", {"agents": "db-1", "requests": 1}) in office.events()


def test_asking_again_is_harmless(office: Office) -> None:
    """The same key with the same token is answered as before, though the token is used up and too old by now."""
    token = office.token()
    assert office.ask("db-1", KEY, token) == ""
    assert office.ask("db-1", KEY, token, append_ns=START_NS + 9 * MINUTE_NS) == ""
    assert [row.used for row in office.state.enrolments.tokens()] == [1]
    assert office.ask("db-2", key(), token) == "used_up"


def test_a_token_enrols_as_many_as_it_may_also_in_one_turn(office: Office) -> None:
    """Three requests that came together for two uses: two are granted."""
    token = office.token(uses=2)
    mine = [(f"db-{n}", key()) for n in range(3)]
    for agent, whose in mine:
        raw, headers = ask(request(agent, whose, token), whose.sign, token)
        office.topic.put(raw, headers)
    office.turn()
    assert sorted(office.state.inputs.pins()) == ["db-0", "db-1"]
    assert office.desk.refused == {"used_up": 1}


@pytest.mark.parametrize(
    ("given", "append_ns", "reason"),
    [
        ({"expires_ns": START_NS}, START_NS + 1, "expired"),
        ({"agent_id": "db-9"}, START_NS, "other_agent"),
        ({"uses": 0}, START_NS, "used_up"),
        ({"revoked_ns": 1}, START_NS, "token_revoked"),
    ],
)
def test_a_token_that_does_not_fit_enrols_nobody(
    office: Office, given: dict[str, Any], append_ns: int, reason: str
) -> None:
    """Each is refused by its name, counted and told; nothing is pinned."""
    assert office.ask("db-1", KEY, office.token(**given), append_ns=append_ns) == reason
    assert (office.desk.refused, office.state.inputs.pins()) == ({reason: 1}, {})
    assert ("enrolment_refused", {"reason": reason, "agents": "db-1", "requests": 1}) in office.events()


def test_a_wrong_token_and_an_unknown_one_get_the_same_answer(office: Office) -> None:
    """Whoever guesses learns nothing of which names exist; the detector's own counts tell them apart."""
    known = office.token()
    assert office.ask("db-1", KEY, Token.make()) == "unknown_token"
    assert office.ask("db-1", KEY, Token(known.id, b"x" * 32)) == "unknown_token"
    assert office.desk.refused == {"unknown_token": 1, "wrong_token": 1}
    assert office.state.inputs.pins() == {}


def test_a_request_that_waited_for_the_detector_is_not_too_late(office: Office) -> None:
    """It counts by the time at which the broker took it, not by that at which it is read."""
    token = office.token()
    office.clock.set(START_NS + 60 * MINUTE_NS)
    assert office.ask("db-1", KEY, token, append_ns=START_NS + SECOND_NS) == ""


def test_a_host_that_was_built_anew_needs_a_token_of_its_own(office: Office) -> None:
    """A token for anybody takes no agent's id over; one for this agent replaces the key, and the old one never counts again."""
    old, new = FakeAgent("db-1"), FakeAgent("db-1")
    assert office.ask("db-1", old.key, office.token()) == ""
    assert office.ask("db-1", new.key, office.token()) == "agent_known"
    assert office.ask("db-1", new.key, office.token(agent_id="db-1")) == ""
    sealed = old.message([{}])
    headers = {HEADER_KEY: sealed.header, SIGNATURE_KEY: sealed.signature}
    restarted = Checker(office.state.inputs.pins(), "enrolled", office.state.enrolments.ended_keys())
    for checker in (office.desk.checker, restarted):
        found = checker.check(headers, sealed.value)
        assert isinstance(found, Refused)
        assert found.reason == "identity_ended"
    assert office.ask("db-1", old.key, office.token(agent_id="db-1")) == "key_ended"


def test_a_revoked_agent_is_refused_within_seconds_and_told(office: Office) -> None:
    """A person's revocation beside the running detector; with a token for anybody it does not come back."""
    agent = FakeAgent("db-1")
    assert office.ask("db-1", agent.key, office.token()) == ""
    office.state.enrolments.revoke_agent("db-1", "ann", "taken down", START_NS)
    office.turn()
    sealed = agent.message([{}])
    found = office.desk.checker.check(
        {HEADER_KEY: sealed.header, SIGNATURE_KEY: sealed.signature}, sealed.value
    )
    assert isinstance(found, Refused)
    assert found.reason == "identity_ended"
    told = {"subject": "db-1", "by": "ann", "note": "taken down"}
    assert ("enrolment_agent_revoked", told) in office.events()
    assert office.ask("db-1", key(), office.token()) == "agent_known"
    with pytest.raises(StateError, match="no agent db-1 whose key is in force"):
        office.state.enrolments.revoke_agent("db-1", "ann", "", START_NS)


def test_a_key_is_one_agents_alone(office: Office) -> None:
    """A copied image under another agent's id is refused, in the same turn too."""
    assert office.ask("db-1", KEY, office.token()) == ""
    assert office.ask("db-2", KEY, office.token()) == "key_of_another"


def test_what_is_no_request_is_counted_and_passed(office: Office) -> None:
    """Foreign bytes neither stop the desk nor are read again."""
    office.topic.put(b"hello", {})
    office.topic.put(b"{}", {SIGNATURE_KEY: b"", PROOF_KEY: b""})
    assert office.ask("db-1", KEY, office.token()) == ""
    assert office.desk.refused == {"malformed": 2}
    office.turn()
    assert office.state.inputs.offsets()[TOPIC, 0].next_offset == len(office.topic.records)


def test_kafka_away_stops_nothing(office: Office) -> None:
    """The desk waits for it; what came meanwhile is answered afterwards."""
    office.topic.fault = "no broker answers"
    office.turn()
    office.topic.fault = ""
    asked: list[int] = []
    office.topic.poll = lambda most, _wait_s: asked.append(most) or []  # type: ignore[assignment,method-assign,func-returns-value]
    office.clock.set(office.clock.now_ns() + MINUTE_NS)
    office.desk.turn(reachable=False)
    assert asked == []
    del office.topic.poll
    assert office.ask("db-1", KEY, office.token()) == ""


def test_a_state_that_fails_for_a_moment_loses_no_request(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was read is decided at the next turn."""
    token = office.token()
    raw, headers = ask(request("db-1", KEY, token), KEY.sign, token)
    office.topic.put(raw, headers)
    with monkeypatch.context() as patched:

        def fails(_token_id: str) -> None:
            raise StateError("locked")

        patched.setattr(office.state.enrolments, "token", fails)
        office.turn()
    office.turn()
    assert list(office.state.inputs.pins()) == ["db-1"]
