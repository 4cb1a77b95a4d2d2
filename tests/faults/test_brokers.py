"""Brokers that die, come back, lose their topic or refuse: every row arrives once, and what is found is the same."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from agent.core.kafka import Connection
from tests.faults.scale import FULL, chance, databases
from tests.tools import topics
from tests.tools.brokers import Cluster, cluster
from tests.tools.plan import Plan
from tests.tools.road import Facts, Road, ended, lost

Page = Callable[..., None]
AWAY_S = 180.0 if FULL else 20.0
KILLS = 4 if FULL else 1


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    """Apache Kafka with three brokers."""
    with cluster(3) as running:
        yield running


@pytest.mark.parametrize("database", databases("sqlite"), indirect=True)
def test_a_broker_away_while_three_million_rows_come(
    broker: Cluster, kafka: Connection, tmp_path: Path, database: str | None, undisturbed: Facts, page: Page
) -> None:
    """The transfer passes the rule's limit while nobody can be told of it: once the broker is back it is found."""
    plan = Plan.of_now(3000, 1000)
    with Road(tmp_path, kafka, plan, database) as road:
        detector, agent = road.detector(), road.agent()
        road.let(100)
        road.until_delivered(100 * plan.rows, agent, detector)
        broker.brokers[0].kill(signal.SIGKILL)
        gone = time.monotonic()
        road.let(plan.steps)
        road.until(
            lambda: time.monotonic() - gone > AWAY_S, "end of the outage", agent, detector, seconds=200
        )
        broker.start()
        road.until_delivered(plan.marks, agent, detector, seconds=180)
        ended(road, agent, detector)
        assert road.facts() == undisturbed
        assert road.told() == {"as:64500": 1, "as:64501": 1}
        page(f"broker away for {AWAY_S:.0f} s, the transfer goes on meanwhile", road)


@pytest.mark.parametrize("database", databases("sqlite"), indirect=True)
def test_a_broker_killed_in_mid_batch(
    broker: Cluster, kafka: Connection, tmp_path: Path, database: str | None, undisturbed: Facts, page: Page
) -> None:
    """kill -9 of the broker at random moments of a stream."""
    plan, when = Plan.of_now(200), chance("mid-batch")
    with Road(tmp_path, kafka, plan, database) as road:
        detector, agent = road.detector(), road.agent(rate=100)
        for turn in range(1, KILLS + 1):
            road.let(plan.steps * turn // KILLS)
            want = road.recount.rows + when.randrange(300, 2000)
            road.until_delivered(want, agent, detector)
            broker.brokers[0].kill(signal.SIGKILL)
            broker.start()
        road.until_delivered(plan.marks, agent, detector)
        ended(road, agent, detector)
        assert road.facts() == undisturbed
        page("broker killed -9 in mid-batch", road)


@pytest.mark.parametrize("database", databases("postgresql"), indirect=True)
def test_one_of_three_brokers_is_lost_and_another_leads(
    three: Cluster, prefix: str, tmp_path: Path, database: str | None, undisturbed: Facts, page: Page
) -> None:
    """The leader of the partition dies for good, another is elected; it comes back, and is elected again."""
    kafka = topics.connection(three.bootstrap, prefix, connect_s=5.0, request_s=5.0)
    _until_made(three, kafka)
    plan = Plan.of_now(120)
    with Road(tmp_path, kafka, plan, database) as road:
        detector, agent = road.detector(), road.agent(rate=50)
        road.let(40)
        road.until_delivered(30 * plan.rows, agent, detector)
        first = _leader(three, kafka)
        three.brokers[first - 1].kill(signal.SIGKILL)
        road.let(80)
        road.until_delivered(80 * plan.rows, agent, detector)
        assert _leader(three, kafka) != first
        three.start()
        road.let(100)
        road.until(lambda: _elected(three, kafka, first), "another election", agent, detector)
        road.let(plan.steps)
        road.until_delivered(plan.marks, agent, detector)
        ended(road, agent, detector)
        assert road.facts() == undisturbed
        page("one of three brokers lost, leaders elected twice", road)


@pytest.mark.parametrize("database", databases("sqlite"), indirect=True)
def test_a_topic_that_is_deleted_and_made_again(
    broker: Cluster, kafka: Connection, tmp_path: Path, database: str | None, undisturbed: Facts, page: Page
) -> None:
    """What was decided stays, what was not yet sent waits for the new topic, and the detector reads it from its start."""
    plan = Plan.of_now()
    flows = kafka.topics.flows
    with Road(tmp_path, kafka, plan, database) as road:
        detector, agent = road.detector(), road.agent()
        road.let(20)  # fewer than come after, so that offsets tell which topic was read to its end
        road.until_delivered(20 * plan.rows, agent, detector)
        road.until_decided(agent, detector)
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        try:
            admin.delete_topics([flows])
            # Until the broker has closed the log, it may still take what nobody will be able to read any more.
            log = broker.brokers[0].folder / "data" / f"{flows}-0"
            topics.until(lambda: flows not in admin.list_topics() and not log.exists(), "the topic is gone")
            road.let(45)
            topics.make(broker.bootstrap, flows)
        finally:
            admin.close()
        road.recount.begin_anew()
        road.let(plan.steps)
        road.until_delivered(plan.marks, agent, detector)
        ended(road, agent, detector)
        assert road.facts() == undisturbed
        page("topic deleted and made again", road)


def test_a_message_larger_than_the_broker_allows(
    broker: Cluster, prefix: str, tmp_path: Path, undisturbed: Facts, page: Page
) -> None:
    """It is given up by name and told as dropped, so it is no gap; the finding that needed its rows is not made up."""
    kafka = topics.connection(broker.bootstrap, prefix, connect_s=3.0, request_s=5.0)
    topics.make(broker.bootstrap, kafka.topics.agents, kafka.topics.dead)
    topics.make(broker.bootstrap, kafka.topics.flows, **{"max.message.bytes": "15000"})
    plan = Plan.of_now(20, 1000, noisy=7)
    with Road(tmp_path, kafka, plan) as road:
        detector, agent = road.detector(), road.agent()
        road.let(plan.steps)
        road.until(lambda: road.logged("agent", "message_refused"), "a refused message", agent, detector)
        refused = int(plan.of_store().sum())
        road.until_delivered(plan.marks - refused, agent, detector)
        road.end()
        assert agent.wait() == 0
        road.until_decided(detector)
        assert detector.stop() == 0
        gone = lost(road)
        assert len(gone) == refused and {(mark - 1) // plan.rows for mark in gone} == {plan.noisy}
        account = road.beats()[-1]["account"]
        octets = plan.octets_out()
        assert account["spool dropped (refused_by_broker)"]["octets_out"] == sum(
            int(octets[m - 1]) for m in gone
        )
        found = road.facts()
        assert {f[2] for f in found.findings} == {"as:64500"} and found.missing == 0
        page(
            "message larger than the broker allows", road,
            findings="equal but for the one that needs the refused rows", loss=f"{len(gone)} rows of one batch, told as dropped",
        )  # fmt: skip


def _until_made(three: Cluster, kafka: Connection) -> None:
    def made() -> bool:
        try:
            topics.make(three.bootstrap, *kafka.topics.model_dump().values())
        except KafkaError:
            return False
        return True

    topics.until(made, "three brokers take a topic")


def _leader(cluster: Cluster, kafka: Connection) -> int:
    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    try:
        (topic,) = admin.describe_topics([kafka.topics.flows])
        return int(topic["partitions"][0]["leader_id"])
    finally:
        admin.close()


def _elected(cluster: Cluster, kafka: Connection, wanted: int) -> bool:
    """Ask for the preferred leader, which is back; whether it leads."""
    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    try:
        admin.elect_leaders(0, {kafka.topics.flows: [0]}, raise_errors=False)
    except KafkaError:
        return False
    finally:
        admin.close()
    return _leader(cluster, kafka) == wanted
