"""Enrolment as people do it: two commands, a real broker and a real detector between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.core.clock import MINUTE_NS, SystemClock
from agent.core.enrolment import Token
from agent.core.errors import StateError
from agent.core.kafka import Connection
from agent.sending.identity import identity
from agent.store.state import State
from sinks.kafka import KafkaCarrier
from tests.tools import topics
from tests.tools.fleet import POLICY, FakeAgent, Program, now_ns, theft, until
from tests.tools.program import Outcome, sekisho

MB = 10**6


@dataclass
class Site:
    """A detector that takes only what is enrolled, and a host beside it."""

    folder: Path
    kafka: Connection
    detector: Program

    def detect(self, *words: str) -> dict[str, Any]:
        """A command where the detector runs; its JSON."""
        done = sekisho(
            "-c",
            self.folder / "detector.yaml",
            *words,
            "--json",
            home=self.folder,
            state_dir=self.folder / "there",
        )
        assert done.code == 0, done.text
        found: dict[str, Any] = json.loads(done.out)
        return found

    def enrol(self, token: str, *more: str, wait: str = "30") -> tuple[Outcome, dict[str, Any]]:
        """`sekisho agent enrol` on the host."""
        file = self.folder / "token"
        file.write_text(token + "\n")
        words = ("agent", "enrol", "--token-file", str(file), "--wait", wait, "--json", *more)
        done = sekisho(
            "-c", self.folder / "host.yaml", *words, home=self.folder, state_dir=self.folder / "here"
        )
        assert done.out, done.text
        return done, json.loads(done.out)

    def token(self, *more: str) -> str:
        """`sekisho enrolment token`."""
        return str(self.detect("enrolment", "token", *more)["token"])

    def send(self, agent: FakeAgent) -> None:
        """A batch of it to the broker."""
        carrier = KafkaCarrier(self.kafka)
        carrier.connect()
        answers: list[Any] = []
        carrier.send(agent.message(theft(now_ns() - MINUTE_NS, MB, 2)), agent.id, answers.append)
        topics.until(lambda: answers, "the broker has the batch")
        carrier.disconnect()
        assert answers == [None]

    def taken(self, agent: FakeAgent) -> str:
        """Sequences that the detector took of it."""
        with closing(
            State.open(self.folder / "there" / "state.db", clock=SystemClock(), read_only=True)
        ) as state:
            return state.taken_of((agent.id, agent.run, 1)).text()

    def dead(self) -> list[str]:
        """Reasons in the topic of dead letters."""
        found = topics.read(self.kafka.servers, self.kafka.topics.dead)
        return [record.headers["sekisho-reason"].decode() for record in found]

    def events(self) -> list[str]:
        """Names of what the detector told and logged."""
        lines = self.detector.log.read_text().splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith("{")]


@pytest.fixture
def site(kafka: Connection, tmp_path: Path) -> Iterator[Site]:
    """Both ends, and the detector at work."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    common = {"kafka": kafka.model_dump(mode="json", exclude_defaults=True), "enrichers": {"asset": {}}}
    there = {
        **common,
        "state_dir": "there",
        "policy": ["policy.yaml"],
        "detect": {"identities": "enrolled"},
        "sinks": {"jsonl": {"file": str(tmp_path / "alerts.jsonl"), "flows": False}},
    }
    (tmp_path / "detector.yaml").write_text(yaml.safe_dump(there))
    (tmp_path / "host.yaml").write_text(yaml.safe_dump({**common, "state_dir": "here", "host": "db-1"}))
    with Program(["-c", str(tmp_path / "detector.yaml")], tmp_path / "log") as detector:

        def ready() -> bool:
            try:
                with closing(
                    State.open(tmp_path / "there" / "state.db", clock=SystemClock(), read_only=True)
                ):
                    return True
            except StateError:
                return False

        until(ready, "state of the detector", detector)
        yield Site(tmp_path, kafka, detector)
        assert detector.stop() == 0, detector.log.read_text()[-2000:]


def test_a_host_is_enrolled_by_a_token_and_revoked_by_a_person(site: Site) -> None:
    """Unknown, enrolled, revoked: its batches are refused, taken, refused; what people are told names each cause."""
    here = site.folder / "here"
    done, told = site.enrol(Token.make().text)
    assert (done.code, told["state"], told["reason"], told["proven"]) == (
        1,
        "refused",
        "unknown_token",
        False,
    )
    agent = FakeAgent(told["agent_id"], identity(here))
    site.send(agent)
    until(lambda: site.dead() == ["unknown_key"], "refusal of the unknown agent", site.detector)

    token = site.token()
    for _ in range(2):
        done, told = site.enrol(token)
        assert (done.code, told["state"], told["proven"]) == (0, "enrolled", True)
        assert told["public_key"] == agent.key.public.hex()
    site.send(agent)
    until(lambda: site.taken(agent) == "1", "batch of the enrolled agent", site.detector)
    listed = site.detect("enrolment", "list")
    (known,) = listed["identities"]
    assert (known["agent_id"], known["host"], known["how"]) == (agent.id, "db-1", "enrolled")
    assert [(row["state"], row["used"]) for row in listed["tokens"]] == [("used_up", 1)]
    assert not any(token in path.read_text(errors="replace") for path in site.folder.glob("there/state.db*"))
    everything = b"".join(r.value for r in topics.read(site.kafka.servers, site.kafka.topics.enrolment))
    assert token.split("-", 2)[2].encode() not in everything

    site.detect("enrolment", "revoke", agent.id, "--note", "taken down")
    until(lambda: "enrolment_agent_revoked" in site.events(), "word of the revocation", site.detector)
    site.send(agent)
    until(
        lambda: site.dead() == ["unknown_key", "identity_ended"],
        "refusal of the revoked agent",
        site.detector,
    )
    assert site.taken(agent) == "1"
    told_of = {
        "enrolment_refused",
        "agent_unknown",
        "agent_enrolled",
        "identity_ended",
        "enrolment_token_made",
    }
    until(lambda: told_of <= set(site.events()), "events", site.detector)


def test_a_key_is_replaced_with_a_token_of_the_agents_own(site: Site) -> None:
    """A new key waits beside the old one until it is enrolled; then the old one is refused, and the file is the new one."""
    here = site.folder / "here"
    _, told = site.enrol(site.token())
    old = FakeAgent(told["agent_id"], identity(here))
    _, refused = site.enrol(site.token(), "--new-key")
    assert (refused["state"], refused["reason"]) == ("refused", "agent_known")
    assert identity(here) is not None
    assert identity(here).public == old.key.public
    done, told = site.enrol(site.token("--agent", old.id), "--new-key")
    assert (done.code, told["state"]) == (0, "enrolled")
    assert identity(here).public.hex() == told["public_key"] != old.key.public.hex()
    new = FakeAgent(old.id, identity(here), run="f" * 32)
    site.send(old)
    site.send(new)
    until(lambda: site.taken(new) == "0", "batch under the new key", site.detector)
    until(lambda: site.dead() == ["identity_ended"], "refusal of the old key", site.detector)


def test_a_request_waits_for_a_detector_that_is_down(site: Site) -> None:
    """The command says so and ends well; the detector, once it is back, finds the request, and asking again tells."""
    token = site.token()
    assert site.detector.stop() == 0
    done, told = site.enrol(token, wait="2")
    assert (done.code, told["state"]) == (0, "pending")
    with Program(["-c", str(site.folder / "detector.yaml")], site.folder / "log") as again:
        until(lambda: bool(site.detect("enrolment", "list")["identities"]), "enrolment", again)
        done, told = site.enrol(token)
        assert (done.code, told["state"]) == (0, "enrolled")
        assert again.stop() == 0
