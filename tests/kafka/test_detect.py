"""The detector against a real broker: what it takes, what it refuses. Kills and a paused leader: tests/faults."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer

from agent.core.clock import MINUTE_NS, DataClock
from agent.core.errors import StateError
from agent.core.message import HEADER_KEY, SIGNATURE_KEY
from agent.detection.detector import Detector
from agent.policy.model import Policy
from agent.store.state import State
from tests.tools.brokers import Cluster
from tests.tools.fleet import (
    DEAD,
    FLOWS,
    FakeAgent,
    Program,
    Sender,
    empty_topics,
    now_ns,
    settings_of,
    theft,
    until,
)
from tests.tools.states import Place

MB = 10**6


@pytest.fixture
def sender(broker: Cluster) -> Iterator[Sender]:
    empty_topics(broker.bootstrap)
    made = Sender(broker.bootstrap)
    yield made
    made.close()


def _state(folder: Path) -> State:
    return Place(folder / "state" / "state.db").beside(DataClock(now_ns()), read_only=True)


def _taken(folder: Path) -> int:
    """Messages that the state says were taken."""
    try:
        with _state(folder) as state:
            return sum(at.next_offset for (topic, _), at in state.inputs.offsets().items() if topic == FLOWS)
    except StateError:
        return 0


def _facts(state: State) -> dict[str, Any]:
    """What a run left behind, less times of its own; with what the detector holds back for the ledger."""
    found = {
        (f.id, f.rule, f.store, f.entity, f.crossed_ns, f.content_octets_out)
        for f in state.cases.findings_of()
    }
    detector, restored = Detector(Policy(), None), state.load()
    detector.restore(restored.snapshot, restored.deltas)
    ledger: Counter[tuple[int, str, str]] = Counter()
    for row in (*state.ledger.rows(), *detector.finish().ledger):
        ledger[row.day, row.store, row.entity] += row.content_octets_out
    taken = {stream: state.taken_of(stream).text() for stream in state.streams()}
    return {"findings": found, "ledger": ledger, "taken": taken}


def _run(flags: list[str], folder: Path, want: int, faults: str = "") -> int:
    """Run the detector until it took all, or is killed; its exit code."""
    with Program(flags, folder / "log", faults=faults) as program:
        if faults:
            return program.wait()
        until(lambda: _taken(folder) >= want, "end of the topic", program)
        return program.stop()


def test_messages_that_cannot_be_read_are_dead_and_named(
    broker: Cluster, sender: Sender, tmp_path: Path
) -> None:
    """Foreign, broken, forged and contradicting messages go to the dead letters with their reasons; the rest is decided."""
    begin = now_ns() - 5 * MINUTE_NS
    agent, thief = FakeAgent("db-1"), FakeAgent("db-1")
    good = agent.message(theft(begin, MB, 3))
    sender.send("db-1", good)
    sender.flush()
    sender.raw(b"hello", [])
    sender.raw(good.value[:-9], [(HEADER_KEY, good.header), (SIGNATURE_KEY, good.signature)], b"db-1")
    sender.raw(good.value, [(HEADER_KEY, b"{}"), (SIGNATURE_KEY, good.signature)], b"db-1")
    sender.raw(good.value, [(HEADER_KEY, good.header), (SIGNATURE_KEY, b"\0" * 64)], b"db-1")
    sender.send("db-1", thief.message(theft(begin, MB, 3), sequence=7))
    sender.send("db-1", agent.message(theft(begin, 2 * MB, 3), sequence=0))
    sender.send("db-1", agent.message(theft(begin, MB, 2), sequence=1, low_water=0))
    sender.flush()
    assert _run(settings_of(tmp_path / "d", broker.bootstrap), tmp_path / "d", sender.sent) == 0
    consumer = KafkaConsumer(
        DEAD,
        bootstrap_servers=broker.bootstrap,
        auto_offset_reset="earliest",
        group_id=None,
        consumer_timeout_ms=5000,
    )
    reasons: Counter[str] = Counter()
    for record in consumer:
        reasons[dict(record.headers)["sekisho-reason"].decode()] += 1
        if sum(reasons.values()) == 6:
            break
    consumer.close()
    assert reasons == {
        "foreign": 1,
        "bad_header": 2,
        "bad_signature": 1,
        "identity_conflict": 1,
        "batch_conflict": 1,
    }
    with _state(tmp_path / "d") as state:
        assert {s: t.text() for s in state.streams() for t in [state.taken_of(s)]} == {
            ("db-1", agent.run, 1): "0-1"
        }
        assert sum(_facts(state)["ledger"].values()) == 5 * MB
        notices = [json.loads(line) for line in (tmp_path / "d" / "alerts.jsonl").read_text().splitlines()]
    assert {n["event"]["name"] for n in notices if n.get("event")} == {
        "agent_restored",
        "identity_conflict",
        "messages_refused",
        "signature_wrong",
    }
