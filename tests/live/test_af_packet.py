"""Live capture in network namespaces, against nft counters of the peer and the senders' own counts."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core.accounts import Accounts, Amounts
from agent.core.errors import CaptureError
from agent.core.flow import FlowBatch, Mark, concat
from agent.core.stages import Context
from collectors.af_packet import Settings
from tests.tools import netns
from tests.tools.ends import total
from tests.tools.netns import HOST4, HOST6, PEER4, PEER6, Namespace, Pair, Task, wait_for

pytestmark = pytest.mark.root

PORT = 5001
Rows = list[dict[str, Any]]


class Capture:
    """A collector at work in a namespace."""

    def __init__(self, namespace: Namespace, **settings: Any) -> None:
        self.accounts = Accounts()
        self.batches: list[FlowBatch] = []
        self.stop = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.started = threading.Event()
        context = Context(accounts=self.accounts, state_dir=Path("/nonexistent"))
        self.collector = Settings(**settings).build(context)
        self.task = Task(namespace, self._collect)

    def _collect(self) -> None:
        for batch in self.collector.collect(self.stop):
            self.batches.append(batch)
            self.started.set()
            self.go_on.wait()

    def wait_for_batches(self, more: int) -> None:
        """Wait until it has yielded so many more."""
        enough = len(self.batches) + more
        wait_for(lambda: len(self.batches) >= enough, f"{more} batches")

    def rows(self) -> Rows:
        """Stop it; all its rows of TCP and UDP. Checks the account."""
        self.stop.set()
        self.go_on.set()
        self.task.result()
        whole = concat(self.batches)
        account = self.accounts.check().read()
        assert account.captured == account.in_memory == whole.amounts()
        assert set(account.lost_frames) <= {"ring_full"}
        return [row for row in whole.rows() if row["protocol"] in (6, 17)]

    @property
    def lost(self) -> int:
        """Frames that the ring had no room for."""
        return self.accounts.read().lost_frames.get("ring_full", (0, 0))[0]


@contextlib.contextmanager
def capturing(namespace: Namespace, **settings: Any) -> Iterator[Capture]:
    capture = Capture(namespace, **settings)
    try:
        wait_for(
            lambda: capture.started.is_set() or not capture.task._thread.is_alive(), "the capture to begin"
        )
        yield capture
    finally:
        capture.stop.set()
        capture.go_on.set()
        capture.task.result()


def send_udp(namespace: Namespace, target: str, sizes: list[int], port: int = PORT) -> None:
    def work() -> None:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            for size in sizes:
                sender.sendto(bytes(size), (target, port))

    namespace.call(work)


def transfer(two: Pair, address: str, octets: int, answer: int = 0) -> tuple[int, int, int]:
    """A TCP connection from the host: sends, is answered, closes. (segments out, octets sent again, local port)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ready = threading.Event()

    def serve() -> None:
        with socket.create_server((address, PORT), family=family) as server:
            ready.set()
            with server.accept()[0] as link:
                while link.recv(1 << 16):
                    pass
                link.sendall(bytes(answer))

    def ask() -> tuple[int, int, int]:
        with socket.create_connection((address, PORT)) as link:
            link.sendall(bytes(octets))
            link.shutdown(socket.SHUT_WR)
            while link.recv(1 << 16):
                pass
            info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            # struct tcp_info: tcpi_segs_out at 136, tcpi_bytes_retrans at 208
            return (
                *struct.unpack_from("I", info, 136),
                *struct.unpack_from("Q", info, 208),
                link.getsockname()[1],
            )

    server = Task(two.peer, serve)
    wait_for(ready.is_set, "the server")
    result: tuple[int, int, int] = two.host.call(ask)
    server.result()
    return result


def test_counts_equal_the_peers(two: Pair) -> None:
    """Packets and octets of UDP and TCP, IPv4 and IPv6, in and out, equal nft's in the peer."""
    sizes = [n * 37 % 1400 for n in range(2000)]
    with capturing(two.host) as capture:
        for target in (PEER4, PEER6):
            send_udp(two.host, target, sizes)
            transfer(two, target, 300_000, 50_000)
        for target in (HOST4, HOST6):
            send_udp(two.peer, target, sizes[:500])
        two.settle()
        rows = capture.rows()
    assert total(rows) == two.counts()
    assert capture.lost == 0
    assert {row["local_address"] for row in rows} == {HOST4, HOST6}
    assert {(row["interface"], row["vantage"], row["marks"]) for row in rows} == {("h0", "af_packet:all", 0)}


def test_a_connection_is_one_flow_opened_by_the_host(two: Pair) -> None:
    """A connection is one row of one flow with its ports, its opener and its end."""
    with capturing(two.host) as capture:
        _segments, _again, port = transfer(two, PEER4, 5000)
        two.settle()
        rows = capture.rows()
    names = ("local_port", "remote_address", "remote_port", "initiator", "content_octets_out", "end_reason")
    assert [tuple(row[n] for n in names) for row in rows if row["flows"]] == [
        (port, PEER4, PORT, "local", 5000, "end")
    ] or sum(
        row["content_octets_out"] for row in rows
    ) == 5000  # the minute may have turned between two packets
    assert sum(row["flows"] for row in rows) == 1


def test_offload_frames_count_as_the_packets_they_become() -> None:
    """With segmentation offload on, content is what was sent and packets are the segments TCP counts itself."""
    with netns.pair(offload=True) as two:
        for target in (PEER4, PEER6):
            with capturing(two.host) as capture:
                segments, again, _port = transfer(two, target, 20_000_000)
                two.settle()
                rows = capture.rows()
            assert capture.lost == 0
            assert sum(row["content_octets_out"] for row in rows) == 20_000_000 + again
            assert sum(row["packets_out"] for row in rows) == segments
            # Frames went over whole, else this test would show nothing.
            assert two.counts()["in", "ip6" if ":" in target else "ip", 6][0] < segments


def tagged_frames(source: str, target: str, count: int, *, tags: int) -> list[bytes]:
    """UDP datagrams of 200 octets at the IP layer in Ethernet frames to everybody, with VLAN tags."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Dot1Q, Ether

    head = Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:00:01")
    for vlan in range(7, 7 + tags):
        head = head / Dot1Q(vlan=vlan)
    frame = bytes(head / IP(src=source, dst=target) / UDP(sport=4000, dport=PORT) / bytes(172))
    return [frame] * count


@pytest.mark.parametrize("tags", [1, 2])
def test_tagged_frames_are_counted_inside_their_tags(two: Pair, tags: int) -> None:
    """Frames with one and two VLAN tags, sent and received, count as the IP packets within."""

    def send(interface: str, frames: list[bytes]) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((interface, 0))
            for frame in frames:
                sender.send(frame)

    with capturing(two.host) as capture:
        two.host.call(lambda: send("h0", tagged_frames(HOST4, PEER4, 300, tags=tags)))
        two.peer.call(lambda: send("p0", tagged_frames(PEER4, HOST4, 200, tags=tags)))
        rows = capture.rows()
    names = ("local_address", "local_port", "packets_out", "octets_out", "packets_in", "octets_in")
    assert sorted(tuple(row[n] for n in names) for row in rows) == [
        (HOST4, 4000, 300, 60_000, 0, 0),
        (HOST4, PORT, 0, 0, 200, 40_000),
    ]


def test_a_bridge_is_counted_once(two: Pair) -> None:
    """Traffic through a bridge is counted at the bridge and not at its ports."""
    two.host.ip("link", "add", "br0", "type", "bridge")
    two.host.ip("link", "set", "br0", "up")
    two.host.ip("addr", "flush", "dev", "h0")
    two.host.ip("link", "set", "h0", "master", "br0")
    netns.address(two.host, "br0", HOST4, HOST6)
    with capturing(two.host) as capture:
        send_udp(two.host, PEER4, [100] * 300)
        send_udp(two.peer, HOST6, [100] * 200)
        two.settle()
        rows = capture.rows()
    assert total(rows) == two.counts()
    assert {row["interface"] for row in rows} == {"br0"}


def test_a_late_interface_and_a_late_address_are_seen(two: Pair) -> None:
    """An interface and an address that come while capture runs are counted from their first packet on."""
    with capturing(two.host) as capture:
        netns.join(two, "h1", "p1")
        netns.address(two.host, "h1", "203.0.113.1", "2001:db8:2::1")
        netns.address(two.peer, "p1", "203.0.113.2", "2001:db8:2::2")
        send_udp(two.host, "203.0.113.2", [100] * 300)
        two.settle()
        rows = capture.rows()
    assert total(rows) == two.counts()
    assert {(row["interface"], row["local_address"], row["marks"]) for row in rows} == {
        ("h1", "203.0.113.1", 0)
    }


def test_an_interface_that_goes_down_and_up_is_survived(two: Pair) -> None:
    """Capture goes on over an interface that goes down, comes up, is removed and comes again."""
    with capturing(two.host, interfaces=("h0",)) as capture:
        send_udp(two.host, PEER4, [100] * 50)
        two.host.ip("link", "set", "h0", "down")
        capture.wait_for_batches(2)
        two.host.ip("link", "set", "h0", "up")
        send_udp(two.host, PEER4, [100] * 50)
        two.host.ip("link", "del", "h0")
        netns.join(two, "h0", "p0")
        netns.address(two.host, "h0", HOST4, HOST6)
        netns.address(two.peer, "p0", PEER4, PEER6)
        send_udp(two.host, PEER4, [100] * 50)
        two.settle()
        rows = capture.rows()
    # What is sent just after "up" may wait for ARP, and TCP/IP may let some of it go: the peer's count is the truth.
    assert total(rows)["in", "ip", 17] == two.counts()["in", "ip", 17]
    assert {row["interface"] for row in rows} == {"h0"}


def test_what_the_ring_cannot_hold_is_counted(two: Pair) -> None:
    """Frames that the kernel drops because the ring is full are counted, and none is counted twice."""
    with capturing(two.host, ring_mib=1) as capture:
        # The reader then stands in the middle of the ring, so that what waits goes around its end.
        send_udp(two.host, PEER4, [64] * 1000)
        capture.go_on.clear()
        capture.wait_for_batches(1)
        send_udp(two.host, PEER4, [64] * 9000)
        two.settle()
        rows = capture.rows()
    sent = two.counts()["in", "ip", 17][0]
    assert capture.lost >= 9000 - 4096
    # Other frames (neighbour discovery and the like) take room too, and are not in these rows.
    assert 0 <= total(rows)["in", "ip", 17][0] + capture.lost - sent <= 20


def test_traffic_within_the_host(two: Pair) -> None:
    """With loopback on, what the host sends itself is a row for each end; without, there is none."""
    for wanted in (True, False):
        with capturing(two.host, loopback=wanted) as capture:
            send_udp(two.host, "127.0.0.1", [100] * 10)
            capture.wait_for_batches(2)
            rows = capture.rows()
        found = [(row["remote_port"], row["packets_out"], row["packets_in"]) for row in rows]
        assert sorted(p for p in found if p[0] == PORT) == ([(PORT, 10, 0)] if wanted else [])
        assert len(found) == (2 if wanted else 0)


def test_own_networks_make_forwarded_traffic_local(two: Pair) -> None:
    """Traffic from an address behind the host is transit, seen coming and going; of the host's own networks it is seen once."""
    two.peer.ip("route", "add", "198.51.100.0/24", "via", HOST4)
    two.host.ip("addr", "add", "198.51.100.9/32", "dev", "lo")
    two.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    two.host.ip("neigh", "replace", "192.0.2.77", "lladdr", "02:00:00:00:00:77", "dev", "h0")
    for own, marks, packets in (((), int(Mark.TRANSIT), 10), (("203.0.113.0/24",), 0, 5)):
        with capturing(two.host, own_networks=own) as capture:
            two.peer.ip("addr", "replace", "203.0.113.5/32", "dev", "p0")
            two.peer.ip("route", "replace", "192.0.2.77/32", "via", HOST4, "src", "203.0.113.5")
            send_udp(two.peer, "192.0.2.77", [100] * 5)
            capture.wait_for_batches(2)
            rows = [row for row in capture.rows() if row["remote_port"] == PORT]
        assert {(row["local_address"], row["marks"]) for row in rows} == {("203.0.113.5", marks)}
        assert sum(row["packets_out"] for row in rows) == packets


def test_an_absent_interface_is_said(two: Pair) -> None:
    """An interface that does not exist is an error that names those that do."""
    capture = Capture(two.host, interfaces=("eth9",))
    with pytest.raises(CaptureError, match="no interface is called eth9; there are h0, lo"):
        capture.task.result()


def test_sockets_and_memory_are_given_back(two: Pair) -> None:
    """After the capture no packet socket is left, also when the consumer just goes away."""
    for _ in range(2):
        with capturing(two.host) as capture:
            assert len(two.host.run("cat", "/proc/net/packet").splitlines()) == 2
            capture.rows()
        assert len(two.host.run("cat", "/proc/net/packet").splitlines()) == 1

    def look_once() -> None:
        context = Context(accounts=Accounts(), state_dir=Path("/nonexistent"))
        batches = Settings().build(context).collect(threading.Event())
        next(batches)
        batches.close()  # type: ignore[attr-defined]

    two.host.call(look_once)
    assert len(two.host.run("cat", "/proc/net/packet").splitlines()) == 1


def test_a_hundred_thousand_packets_a_second(two: Pair) -> None:
    """At 100,000 packets/s nothing is dropped and packets and octets equal the peer's count."""
    server = two.peer.start("iperf3", "-s", "-1", "-i", "0")
    wait_for(lambda: ":5201 " in two.peer.run("ss", "-ltn"), "iperf3 to listen")
    with capturing(two.host) as capture:
        two.host.run("iperf3", "-c", PEER4, "-u", "-l", "64", "-b", "51.2M", "-t", "5", "-i", "0")
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        two.settle()
        rows = capture.rows()
    server.kill()
    server.communicate()
    found = total(rows)
    assert capture.lost == 0
    assert found == two.counts()
    assert found["in", "ip", 17][0] > 100_000
    assert Amounts() == capture.accounts.read().residue
