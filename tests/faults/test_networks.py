"""A link to Kafka that is cut, then slow and lossy, under live capture: nft in the receiver's namespace says what is true.

The kernel itself slows (``tc`` tbf: rate and queue) and loses (nft numgen): netem is missing in some kernels.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from kafka.errors import KafkaError

from agent.core.kafka import Connection
from tests.tools import netns, topics
from tests.tools.brokers import Cluster
from tests.tools.hosting import start_in
from tests.tools.netns import HOST4, PEER4, Namespace, Pair
from tests.tools.plan import Plan
from tests.tools.road import Road

pytestmark = pytest.mark.root
Page = Callable[..., None]
AGENT4, KAFKA4 = "198.51.100.1", "198.51.100.2"
AGENT6, KAFKA6 = "2001:db8:100::1", "2001:db8:100::2"
PAYLOAD = 1000
SEND = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[2])):
    s.sendto(bytes(1000), (sys.argv[1], 9))
    if n % 20 == 0: time.sleep(0.01)
"""
LOSSY = """
table inet lossy {
    chain in {
        type filter hook input priority 0;
        iifname "p1" numgen random mod 100 < 5 drop
    }
}
"""


@pytest.fixture
def two() -> Iterator[Pair]:
    """Two hosts with a link for traffic, and one to Kafka beside it."""
    with netns.pair() as made:
        netns.join(made, "h1", "p1")
        netns.address(made.host, "h1", AGENT4, AGENT6)
        netns.address(made.peer, "p1", KAFKA4, KAFKA6)
        yield made


def _enter(space: Namespace) -> Sequence[str]:
    return ("nsenter", f"--net=/run/netns/{space.name}")


def test_a_link_to_kafka_that_is_cut_then_slow_and_lossy(two: Pair, tmp_path: Path, page: Page) -> None:
    """What nft counted of the traffic is in the topic and in the ledger to the octet, and no account has a residue."""
    with Cluster(tmp_path / "cluster", space=two.peer, address=KAFKA4) as running:
        kafka = topics.connection(running.bootstrap, "live", connect_s=3.0, request_s=3.0)
        topics.until(lambda: two.peer.call(lambda: _made(kafka)), "topics")
        with Road(tmp_path / "road", kafka, Plan.of_now()) as road:
            detector = road.detector(prefix=_enter(two.peer))
            capture = {"af_packet": {"interfaces": ["h0"]}}
            agent = road.agent(prefix=_enter(two.host), collectors=capture)
            topics.until(lambda: road.logged("agent", "capture_started"), "capture")
            _send(two, 500)
            topics.until(lambda: _sums(two, kafka)[0] > 0, "first rows")
            two.host.ip("link", "set", "h1", "down")
            _send(two, 3000)
            topics.until(lambda: _cut_off(road), "word of the cut")
            two.host.run("tc", "qdisc", "add", "dev", "h1", "root", "tbf", "rate", "1mbit", "burst", "8k", "latency", "200ms")  # fmt: skip
            subprocess.run([*_enter(two.peer), "nft", "-f", "-"], input=LOSSY, text=True, check=True)
            two.host.ip("link", "set", "h1", "up")
            _send(two, 3000)
            two.settle()
            packets, octets = two.counts()["in", "ip", 17]
            assert packets == 6500
            assert (
                agent.stop() == 0
            )  # hands out what its flow table still holds; the spool keeps what the link does not take
            again = road.agent(prefix=_enter(two.host), collectors=capture)
            topics.until(
                lambda: _sums(two, kafka) == (packets, octets), f"{packets} packets, {octets} octets"
            )
            assert again.stop() == 0
            assert _sums(two, kafka) == (packets, octets)
            taken = two.peer.call(road.end_offset)
            topics.until(lambda: road.taken() >= taken, "end of the topic")
            assert detector.stop() == 0
            facts = road.facts()
            assert sum(facts.ledger.values()) == packets * PAYLOAD and facts.missing == 0
            beats = two.peer.call(road.beats)
            none = {"flows": 0, "octets_out": 0, "octets_in": 0}
            assert all(b["account"]["sealed residue"] == b["account"]["residue"] == none for b in beats)
            two.peer.call(
                lambda: page("link to Kafka cut, then slow and lossy; live capture, packets by nft", road, sent=packets, delivered=packets)
            )  # fmt: skip


def _cut_off(road: Road) -> bool:
    return bool(road.logged("agent", "kafka_not_reached") or road.logged("agent", "heartbeat_not_sent"))


def _send(two: Pair, packets: int) -> None:
    sender = start_in(two.host, SEND, PEER4, packets)
    assert sender.wait(60) == 0


def _made(kafka: Connection) -> bool:
    try:
        topics.make(
            kafka.servers, *kafka.topics.model_dump().values(), **{"message.timestamp.type": "LogAppendTime"}
        )
    except KafkaError:
        return False
    return True


def _sums(two: Pair, kafka: Connection) -> tuple[int, int]:
    """(packets, octets) that the host sent by UDP, of every batch in the topic once."""
    found = two.peer.call(lambda: topics.batches(kafka.servers, kafka.topics.flows))
    packets = octets = 0
    host = b"\0" * 10 + b"\xff\xff" + bytes(map(int, HOST4.split(".")))
    for message in found.values():
        table = pa.ipc.open_stream(message.value).read_all()
        ours = np.array(table.column("local_address").to_pylist()) == host
        rows = ours & (table.column("protocol").to_numpy() == 17)
        packets += int(table.column("packets_out").to_numpy()[rows].sum())
        octets += int(table.column("octets_out").to_numpy()[rows].sum())
    return packets, octets
