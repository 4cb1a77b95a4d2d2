"""Who is who, against a real broker and detector: each way in which an identity is doubtful has a name, told once."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from kafka import KafkaProducer

from agent.core.clock import SECOND_NS, SystemClock
from agent.core.kafka import Connection
from agent.core.message import CONTEXT, HEADER_KEY, SIGNATURE_KEY, Message
from agent.store.state import State
from tests.tools import topics
from tests.tools.brokers import Cluster
from tests.tools.fleet import POLICY, FakeAgent, Program, now_ns, theft, until

MB = 10**6
HOSTILE = "../../<b>db-9</b>"


class Sending:
    """A producer that says itself when a record was sent."""

    def __init__(self, kafka: Connection) -> None:
        self._topic, self.sent = kafka.topics.flows, 0
        self._producer = KafkaProducer(bootstrap_servers=list(kafka.servers), acks="all")

    def send(self, message: Message, at_ns: int) -> None:
        """One batch, as if it were then."""
        headers = [(HEADER_KEY, message.header), (SIGNATURE_KEY, message.signature)]
        self._producer.send(
            self._topic, value=message.value, key=b"x", headers=headers, timestamp_ms=at_ns // 1_000_000
        ).get(30)
        self.sent += 1

    def close(self) -> None:
        """Let go."""
        self._producer.close()


def rows(ends_ns: int, octets: int = MB) -> list[dict[str, Any]]:
    """One row of the store."""
    return theft(ends_ns, octets, 1)


def send_all(kafka: Connection) -> tuple[Sending, FakeAgent]:
    """A copied image, a snapshot put back, a stranger under another's id, and an id that is none."""
    sending, now = Sending(kafka), now_ns()
    image, clone = FakeAgent("db-1"), FakeAgent("db-1", run="f" * 32)
    clone.key = image.key
    for second in (100, 60, 20):
        for agent, later in ((image, 0), (clone, 2)):
            at = now - (second - later) * SECOND_NS
            sending.send(agent.message(rows(at - SECOND_NS)), at)
    machine = FakeAgent("db-2")
    for sequence in range(3):
        sending.send(machine.message(rows(now - 9 * SECOND_NS), sequence=sequence), now - 8 * SECOND_NS)
    for sequence in range(1, 4):
        sending.send(
            machine.message(rows(now - 5 * SECOND_NS, 2 * MB), sequence=sequence), now - 4 * SECOND_NS
        )
    sending.send(FakeAgent("db-3").message(rows(now - SECOND_NS)), now)
    stranger = FakeAgent("db-3")
    for _ in range(3):
        sending.send(stranger.message(rows(now - SECOND_NS)), now)
    good = machine.message(rows(now), sequence=9)
    header = json.dumps({**json.loads(good.header), "agent_id": HOSTILE}).encode()
    sending.send(Message(header, machine.key.sign(CONTEXT + header), good.value), now)
    return sending, machine


def test_each_doubt_has_its_own_name_and_is_told_once(broker: Cluster, prefix: str, tmp_path: Path) -> None:
    """Copied image: all counted, told. Snapshot: what came before with other bytes is quarantined, what is new is taken.
    Another key: quarantined. An id with a path and markup: quarantined, and shown nowhere as it came.
    """
    # The records' time is the sender's here: the copies of an image are a minute and a half of live traffic.
    kafka = topics.connection(broker.bootstrap, prefix)
    topics.make(broker.bootstrap, *kafka.topics.model_dump().values())
    sending, machine = send_all(kafka)
    (tmp_path / "policy.yaml").write_text(POLICY)
    settings = {
        "kafka": kafka.model_dump(mode="json", exclude_defaults=True),
        "policy": ["policy.yaml"],
        "enrichers": {"asset": {}},
        "state_dir": "there",
    }
    (tmp_path / "sekisho.yaml").write_text(yaml.safe_dump(settings))
    told_of = ("agent_copied", "agent_restored", "identity_conflict", "messages_refused")
    with Program(["-c", str(tmp_path / "sekisho.yaml")], tmp_path / "log") as detector:

        def told() -> Counter[str]:
            lines = [json.loads(line) for line in detector.log.read_text().splitlines() if line[:1] == "{"]
            return Counter(line["event"] for line in lines if line["event"] in told_of and "part" in line)

        until(lambda: set(told()) == set(told_of), "word of each", detector)
        assert detector.stop() == 0
        assert told() == dict.fromkeys(told_of, 1)
        said = detector.log.read_text()
    sending.close()
    dead = topics.read(kafka.servers, kafka.topics.dead)
    reasons = Counter(record.headers["sekisho-reason"].decode() for record in dead)
    assert reasons == {"batch_conflict": 2, "identity_conflict": 3, "bad_header": 1}
    assert HOSTILE not in said
    with closing(State.open(tmp_path / "there" / "state.db", clock=SystemClock(), read_only=True)) as state:
        taken = {stream[:2]: state.taken_of(stream).text() for stream in state.streams()}
    assert taken == {
        ("db-1", machine.run): "0-2",
        ("db-1", "f" * 32): "0-2",
        ("db-2", machine.run): "0-3",
        ("db-3", machine.run): "0",
    }
