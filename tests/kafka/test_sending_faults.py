"""Brokers and topics that are not there yet, messages that are too large: the account stays whole.

Outages and kills of brokers under the whole road: tests/faults/test_brokers.py.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from agent.core.kafka import Connection
from tests.tools import topics
from tests.tools.brokers import Cluster
from tests.tools.rows import batch_of
from tests.tools.sender import NOW, numbered, sender
from tests.tools.topics import until


def back(broker: Cluster) -> None:
    """Start the brokers again."""
    broker.start()


def sequences(kafka: Connection, lane: int = 0) -> list[int]:
    """Sequences of a lane in the topic, each once."""
    return sorted(s for _, _, on, s in topics.batches(kafka.servers, kafka.topics.flows) if on == lane)


def test_what_is_too_large_for_the_topic_is_counted_and_holds_up_nothing(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    """A message over the broker's limit leaves the spool as refused, is told as dropped, and those behind it go on."""
    kafka = topics.connection(broker.bootstrap, prefix)
    topics.make(broker.bootstrap, kafka.topics.agents)
    topics.make(broker.bootstrap, kafka.topics.flows, **{"max.message.bytes": "40000"})
    chance = random.Random(7)
    noise = [{"octets_out": chance.getrandbits(40), "octets_in": chance.getrandbits(40)} for _ in range(5000)]
    large = batch_of(noise)
    with sender(tmp_path, kafka) as agent:
        agent.put(numbered(10))
        agent.put(large)
        agent.put(numbered(10))
        until(lambda: not agent.waiting, "the large one is given up, the others are through")
        agent.put(numbered(10))
        until(lambda: not agent.waiting, "the last one is through")
        agent.check()
        account = agent.accounts.read()
        assert account.spool_dropped == {"refused_by_broker": large.amounts()}
        assert account.acked.flows == 30
    headers = [m.read_header() for m in topics.batches(kafka.servers, kafka.topics.flows).values()]
    last = max(headers, key=lambda h: h.sequence)
    assert sorted(h.sequence for h in headers) == [0, 2, 3]
    assert (last.dropped, last.low_water) == (((1, 1),), 3)


def test_an_agent_may_start_before_the_topic(broker: Cluster, prefix: str, tmp_path: Path) -> None:
    """No topic yet: the agent keeps, says so, and sends once it is there."""
    kafka = topics.connection(broker.bootstrap, prefix)
    with sender(tmp_path, kafka) as agent:
        agent.put(numbered(10))
        until(lambda: "sekisho kafka topics create" in agent.send.carrying.last_error, "the topic is missed")
        topics.make(broker.bootstrap, kafka.topics.flows, kafka.topics.agents)
        until(lambda: not agent.waiting, "the batch is through")
        agent.check()
    assert sequences(kafka) == [0]


def test_an_agent_may_start_before_the_broker(broker: Cluster, kafka: Connection, tmp_path: Path) -> None:
    """Addresses of which only the second ever answers, and a broker that comes later."""
    kafka = kafka.model_copy(update={"servers": ("127.0.0.1:1", *kafka.servers), "connect_s": 3.0})
    broker.brokers[0].kill()
    with sender(tmp_path, kafka) as agent:
        agent.put(numbered(10))
        until(lambda: agent.send.carrying.last_error, "nobody answers")
        back(broker)
        until(lambda: not agent.waiting, "the batch is through")
    assert sequences(kafka.model_copy(update={"servers": kafka.servers[1:]})) == [0]


def test_what_a_run_left_is_sent_by_the_next_and_its_end_is_told(
    broker: Cluster, kafka: Connection, tmp_path: Path
) -> None:
    """A run that ends in order while Kafka is away: the next sends its rows and its closing heartbeat."""
    away = kafka.model_copy(update={"servers": ("127.0.0.1:1",), "connect_s": 0.5})
    with sender(tmp_path, away, run=1) as agent:
        agent.put(numbered(10))
        agent.send.carrying.stop(0.1, closing=True)
        agent.check()
    with sender(tmp_path, kafka, run=2, pace=NOW) as agent:
        agent.put(numbered(20, first=100))
        until(lambda: not agent.waiting, "both are through")
        assert agent.accounts.read().acked == numbered(20, first=100).amounts()
        agent.send.finish()
    found = topics.batches(kafka.servers, kafka.topics.flows)
    assert sorted((run, s) for _, run, _, s in found) == [(f"{1:032x}", 0), (f"{2:032x}", 0)]
    beats = [json.loads(r.value) for r in topics.read(kafka.servers, kafka.topics.agents)]
    assert {b["run_id"] for b in beats if b["closing"]} == {f"{1:032x}", f"{2:032x}"}
