"""A simulated fleet through a real broker into the real detector: what is hidden is found, and no real topic is touched."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from pathlib import Path

import pytest
from kafka import KafkaProducer

from agent.core.clock import DataClock
from agent.core.errors import StateError
from agent.detection.detector import Detector
from agent.policy.model import Policy
from agent.store.state import State
from tests.tools.brokers import Cluster
from tests.tools.fleet import FakeAgent, Program, now_ns, settings_of, until
from tests.tools.program import Outcome, sekisho
from tests.tools.states import Place
from tests.tools.topics import make, read


def simulate(broker: Cluster, home: Path, *words: str) -> Outcome:
    """The command against the broker."""
    return sekisho(
        f"--set=kafka.servers={','.join(broker.bootstrap)}", "simulate", "fleet", *words, home=home
    )


@pytest.fixture
def topic() -> str:
    return f"simulated.{uuid.uuid4().hex[:12]}"


def test_incidents_of_a_simulated_fleet_are_found_with_their_amounts(
    broker: Cluster, topic: str, tmp_path: Path
) -> None:
    """Every hidden transfer, and nothing else, is a finding of its store and receiver, to the octet; no row is missing."""
    make(broker.bootstrap, f"{topic}.dead")
    told = simulate(
        broker, tmp_path, "--hosts", "40", "--rate", "20", "--seconds", "40", "--incidents", "4", "--seed", "3",
        "--backlog-share", "10%", "--store-share", "10%", "--topic", topic, "--partitions", "3", "--json",
        "--write-policy", str(tmp_path / "policy.yaml"),
    )  # fmt: skip
    assert told.code == 0, told
    made = json.loads(told.out)
    folder = tmp_path / "d"
    flags = [
        *settings_of(
            folder, broker.bootstrap, **{"kafka.topics.flows": topic, "kafka.topics.dead": f"{topic}.dead"}
        ),
        f"--set=policy={tmp_path / 'policy.yaml'}",
    ]

    def taken() -> int:
        try:
            with Place(folder / "state" / "state.db").beside(DataClock(now_ns()), read_only=True) as state:
                return sum(at.next_offset for at in state.inputs.offsets().values())
        except StateError:
            return 0

    with Program(flags, folder / "log") as program:
        until(lambda: taken() >= made["messages"], "end of the topic", program)
        assert program.stop() == 0
    assert read(broker.bootstrap, f"{topic}.dead") == []
    with Place(folder / "state" / "state.db").beside(DataClock(now_ns()), read_only=True) as state:
        found = {(f.store, f.entity) for f in state.cases.findings_of()}
        sums = _ledger(state)
        assert not any(said.missing for said in state.inputs.said().values())
    expected = {(i["store"], i["entity"]): i["content_octets_out"] for i in made["truth"]["incidents"]}
    assert found == set(expected)
    assert {key: sums[key] for key in expected} == expected
    assert len(found) == 4


def _ledger(state: State) -> Counter[tuple[str, str]]:
    """Content octets by store and receiver, with what the detector holds back for its next commit."""
    detector, restored = Detector(Policy(), None), state.load()
    detector.restore(restored.snapshot, restored.deltas)
    sums: Counter[tuple[str, str]] = Counter()
    for row in (*state.ledger.rows(), *detector.finish().ledger):
        sums[row.store, row.entity] += row.content_octets_out
    return sums


def test_a_topic_with_messages_of_others_is_left_alone(broker: Cluster, topic: str, tmp_path: Path) -> None:
    """A name that says simulated is not enough where somebody else writes there; a real name is refused without looking."""
    words = ("--hosts", "2", "--seconds", "10", "--topic", topic)
    assert simulate(broker, tmp_path, *words).code == 0
    assert simulate(broker, tmp_path, *words, "--seed", "2").code == 0
    before = len(_all(broker, topic))
    agent = FakeAgent("db-1")
    message = agent.message([{"octets_out": 1}])
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    producer.send(topic, value=message.value, key=b"db-1", headers=[("sekisho", message.header)])
    producer.close()
    refused = simulate(broker, tmp_path, *words)
    assert refused.code == 1
    assert "messages of db-1" in refused.err
    assert "--allow-real-topic" in refused.err
    named = simulate(broker, tmp_path, *words[:-1], "sekisho.flows.v1")
    assert named.code == 1
    assert "sekisho.simulated.flows.v1" in named.err
    assert len(_all(broker, topic)) == before + 1
    assert simulate(broker, tmp_path, *words, "--allow-real-topic").code == 0


def _all(broker: Cluster, topic: str) -> list[bytes]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap)
    parts = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
    consumer.assign(parts)
    consumer.seek_to_beginning(*parts)
    ends, out = consumer.end_offsets(parts), []
    while any(consumer.position(part) < end for part, end in ends.items()):
        out += [r.value for rows in consumer.poll(timeout_ms=500).values() for r in rows]
    consumer.close()
    return out


def test_without_a_broker_it_says_so(tmp_path: Path) -> None:
    """No address in the settings, or nobody who answers there: one sentence, exit code 1."""
    run = sekisho("simulate", "fleet", home=tmp_path)
    assert (run.code, "kafka is not set" in run.err, "--dry-run" in run.err) == (1, True, True)
    run = sekisho("--set=kafka.servers=127.0.0.1:9", "simulate", "fleet", home=tmp_path)
    assert (run.code, "no broker answers" in run.err) == (1, True)
