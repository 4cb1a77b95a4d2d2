"""Counts of the connection tracking table against nft counters of the peer, and what must neither be lost nor doubled."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core.flow import Mark
from tests.tools import netns
from tests.tools.netns import HOST4, HOST6, PEER4, PEER6, Pair
from tests.tools.tracking import Rows, datagrams, exchange, reading, track
from tests.tools.watching import SteppingClock

pytestmark = pytest.mark.root
PORT = 7000
INSIDE4 = "198.51.100.2"


@pytest.fixture
def two() -> Iterator[Pair]:
    with netns.pair() as made:
        track(made.host)
        yield made


def truth(two: Pair) -> dict[tuple[int, int], tuple[int, int, int, int]]:
    """(family, protocol) -> packets and octets to the peer, packets and octets from it."""
    two.settle()
    counts = two.counts()
    return {
        (version, protocol): (*counts["in", family, protocol], *counts["out", family, protocol])
        for version, family in ((4, "ip"), (6, "ip6"))
        for protocol in (6, 17)
    }


def sums(rows: Rows) -> dict[tuple[int, int], tuple[int, int, int, int]]:
    out = {(version, protocol): (0, 0, 0, 0) for version in (4, 6) for protocol in (6, 17)}
    for row in rows:
        key = (6 if ":" in row["remote_address"] else 4, row["protocol"])
        if key in out:
            more = (row["packets_out"], row["octets_out"], row["packets_in"], row["octets_in"])
            out[key] = tuple(a + b for a, b in zip(out[key], more, strict=True))  # type: ignore[assignment]
    return out


def test_both_families_are_counted_exactly(two: Pair) -> None:
    """TCP and UDP over IPv4 and IPv6: packets and octets of both ways equal what the peer's nft counted, packet for packet."""
    with reading(two.host) as running:
        for address in (PEER4, PEER6):
            exchange(two.host, two.peer, address, PORT, 300_000, 50_000)
            two.host.call(lambda address=address: datagrams(address, PORT, [0, 1, 500, 1200]))
        expected = truth(two)
        rows = running.rows()
    assert sums(rows) == expected
    tcp = [row for row in rows if row["protocol"] == 6 and row["octets_out"]]
    assert {(r["local_address"], r["remote_address"], r["initiator"], r["remote_port"]) for r in tcp} == {
        (HOST4, PEER4, "local", PORT),
        (HOST6, PEER6, "local", PORT),
    }
    assert sum(row["flows"] for row in rows if row["protocol"] == 6) == 2
    content = sum(row["content_octets_out"] for row in tcp)
    # What was sent again is content too.
    assert 600_000 - 600 <= content <= sum(row["octets_out"] - 40 * row["packets_out"] for row in tcp)


def test_a_long_flow_shows_in_every_reading_and_adds_up(two: Pair) -> None:
    """A flow that goes on has a row for each reading in which it grew; together they are what was sent, and it began once."""
    with reading(two.host) as running:
        for turn in range(1, 4):
            two.host.call(lambda: datagrams(PEER4, PORT, [100] * 50, source_port=9000))
            running.until_sent(PORT, turn * 50 * 128)
        expected = truth(two)
        rows = [row for row in running.rows() if row["remote_port"] == PORT]
    assert sums(rows) == expected
    assert len(rows) >= 3
    assert [row["flows"] for row in rows] == [1] + [0] * (len(rows) - 1)
    assert {row["end_reason"] for row in rows} <= {"active", "forced"}
    spans = [row["end_ns"] - row["start_ns"] for row in rows]
    assert max(spans) < 60_000_000_000


def test_connections_that_live_between_two_readings_are_counted_by_word_of_their_end(two: Pair) -> None:
    """Flows that come and go between two readings of the table are exact, and begin once each."""
    with reading(two.host, interval=60) as running:
        two.host.call(lambda: [datagrams(PEER4, PORT, [64] * 3, 10_000 + n) for n in range(300)])
        two.host.run("conntrack", "-D", "-p", "udp", "--dport", str(PORT))
        running.until_sent(PORT, 300 * 3 * 92)
        expected = truth(two)
        rows = [row for row in running.rows() if row["remote_port"] == PORT]
    assert sums(rows) == expected
    assert sum(row["flows"] for row in rows) == 300
    assert {row["end_reason"] for row in rows} == {"idle"}


def test_what_was_counted_before_is_no_news(two: Pair) -> None:
    """Of a flow older than the capture only what it sends from then on is counted, and its beginning was not seen."""
    two.host.call(lambda: datagrams(PEER4, PORT, [1000] * 20, source_port=9001))
    with reading(two.host) as running:
        two.host.call(lambda: datagrams(PEER4, PORT, [100] * 2, source_port=9001))
        rows = _until(running, lambda r: r["remote_port"] == PORT)
    assert [(r["octets_out"], r["packets_out"], r["flows"]) for r in rows] == [(256, 2, 0)]


def _until(running: Any, wanted: Callable[[dict[str, Any]], bool]) -> Rows:
    return [row for row in running.rows() if wanted(row)]


def test_icmp_has_no_ports_and_two_askers_are_two_flows(two: Pair) -> None:
    """Echo requests are counted with their answers; ports are null; two identifiers are two flows."""

    def ask(identifier: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            body = struct.pack("!BBHHH", 8, 0, 0, identifier, 1) + bytes(56)
            total = sum(struct.unpack("!32H", body))
            total = (total & 0xFFFF) + (total >> 16)
            raw.sendto(body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:], (PEER4, 0))
            raw.settimeout(5)
            raw.recv(1500)

    with reading(two.host) as running:
        for identifier in (7, 8):
            two.host.call(lambda identifier=identifier: ask(identifier))
        rows = _until(running, lambda r: r["protocol"] == 1)
    assert sum(row["flows"] for row in rows) == 2
    assert sum(row["octets_out"] for row in rows) == sum(row["octets_in"] for row in rows) == 2 * 84
    assert {(r["local_port"], r["remote_port"], r["initiator"]) for r in rows} == {(None, None, "local")}
    assert sum(row["content_octets_out"] for row in rows) == 2 * 64


def test_what_stays_within_the_host_is_excluded_or_kept_for_each_end(two: Pair) -> None:
    """Traffic over lo is counted as excluded, or shown once for each end where the setting says so."""
    with reading(two.host) as left_out, reading(two.host, loopback=True) as kept:
        two.host.call(lambda: datagrams("127.0.0.1", PORT, [72]))
        assert [r for r in left_out.rows() if r["protocol"] == 17] == []
        rows = [
            (r["local_port"], r["octets_out"], r["octets_in"]) for r in kept.rows() if r["protocol"] == 17
        ]
        excluded = left_out.accounts.read().excluded["loopback"]
    assert sorted(out for _, out, _ in rows) == [0, 100]
    assert (PORT, 0, 100) in rows
    assert (excluded.octets_out, excluded.octets_in) == (100, 100)


def test_requests_from_outside_are_the_other_end_s(two: Pair) -> None:
    """A connection that the peer opened has the host's service as the local end, and the peer as who opened it."""
    with reading(two.host) as running:
        exchange(two.peer, two.host, HOST4, PORT, 1000, 90_000)
        expected = truth(two)
        rows = _until(running, lambda r: r["protocol"] == 6)
    assert sums(rows) == expected
    assert {(r["local_address"], r["local_port"], r["remote_address"], r["initiator"]) for r in rows} == {
        (HOST4, PORT, PEER4, "remote")
    }


@contextlib.contextmanager
def behind(two: Pair, rule: str) -> Iterator[netns.Namespace]:
    """A namespace routed through the host, whose packets the host translates by an nft rule."""
    inner = netns.Namespace(f"ski{os.getpid()}")
    netns.run("ip", "netns", "add", inner.name)
    try:
        two.host.ip("link", "add", "h1", "type", "veth", "peer", "name", "i0", "netns", inner.name)
        two.host.ip("addr", "add", "198.51.100.1/24", "dev", "h1")
        two.host.ip("link", "set", "h1", "up")
        inner.ip("addr", "add", f"{INSIDE4}/24", "dev", "i0")
        inner.ip("link", "set", "i0", "up")
        inner.ip("route", "add", "default", "via", "198.51.100.1")
        two.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        two.host.run("nft", rule)
        yield inner
    finally:
        subprocess.run(("ip", "netns", "del", inner.name), check=False)


SNAT = (
    "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; "
    f"add rule ip nat post oifname h0 snat to {HOST4}"
)
DNAT = (
    "add table ip nat; add chain ip nat pre { type nat hook prerouting priority -100; }; "
    "add chain ip nat out { type nat hook output priority -100; }; "
    f"add rule ip nat pre ip daddr {HOST4} udp dport {PORT} dnat to {INSIDE4}:{PORT}; "
    f"add rule ip nat out ip daddr 192.0.2.200 dnat to {PEER4}"
)


@pytest.mark.parametrize("own", [True, False], ids=["own network", "not"])
def test_what_is_hidden_behind_the_host_keeps_both_addresses(two: Pair, own: bool) -> None:
    """Behind SNAT the row has the inner address and the one it leaves with, if the inner network is said to be ours; else the latter."""
    networks = ["198.51.100.0/24"] if own else []
    with behind(two, SNAT) as inner, reading(two.host, own_networks=networks) as running:
        inner.call(lambda: datagrams(PEER4, PORT, [100, 100], source_port=9002))
        expected = truth(two)
        rows = _until(running, lambda r: r["remote_port"] == PORT)
    assert sums(rows) == expected
    ends = {
        (r["local_address"], r["nat_address"], r["remote_address"], r["initiator"], r["marks"]) for r in rows
    }
    assert ends == {(INSIDE4, HOST4, PEER4, "local", 0) if own else (HOST4, None, PEER4, "local", 0)}


def test_a_service_address_is_shown_as_the_end_that_is_reached(two: Pair) -> None:
    """A datagram to a service address that the kernel replaces shows the end that the packet really goes to."""
    two.host.ip("route", "add", "192.0.2.200/32", "dev", "h0")
    with behind(two, DNAT), reading(two.host) as running:
        two.host.call(lambda: datagrams("192.0.2.200", PORT, [100]))
        rows = _until(running, lambda r: r["protocol"] == 17)
    assert [(r["local_address"], r["remote_address"], r["octets_out"]) for r in rows] == [(HOST4, PEER4, 128)]


def test_a_port_that_is_passed_on_keeps_both_addresses(two: Pair) -> None:
    """A datagram to the host's port that is passed on inside: the inner end with its outer address, opened by the peer."""
    with behind(two, DNAT), reading(two.host, own_networks=["198.51.100.0/24"]) as running:
        two.peer.call(lambda: datagrams(HOST4, PORT, [100], source_port=9003))
        rows = _until(running, lambda r: r["protocol"] == 17)
    assert [
        (
            r["local_address"],
            r["local_port"],
            r["nat_address"],
            r["remote_address"],
            r["initiator"],
            r["octets_in"],
        )
        for r in rows
    ] == [(INSIDE4, PORT, HOST4, PEER4, "remote", 128)]


def test_what_is_routed_for_others_is_transit(two: Pair) -> None:
    """Packets between two others are a row in transit."""
    rule = "add table ip nothing"
    two.peer.ip("route", "add", "198.51.100.0/24", "via", HOST4)
    with behind(two, rule) as inner, reading(two.host) as running:
        inner.call(lambda: datagrams(PEER4, PORT, [100]))
        rows = _until(running, lambda r: r["protocol"] == 17)
    assert [(r["local_address"], r["remote_address"], r["marks"]) for r in rows] == [
        (INSIDE4, PEER4, int(Mark.TRANSIT))
    ]


def test_lost_word_is_counted_and_made_good_by_a_reading(two: Pair) -> None:
    """With the buffer full, the kernel's count of lost ends stands in the account, and flows that still stand in the table stay exact."""
    with reading(two.host, buffer_mib=1, interval=60) as running:
        running.go_on.clear()
        running.more(1)
        two.host.call(lambda: datagrams(PEER4, PORT, [100] * 10, source_port=9004))
        gone = (
            "import socket\n"
            "for port in range(10_000, 30_000):\n"
            "    with socket.socket(2, 2) as one:\n"
            "        one.bind(('', port))\n"
            f"        one.sendto(b'x', ('{PEER4}', {PORT + 1}))\n"
        )
        two.host.run(sys.executable, "-c", gone)
        two.host.run("conntrack", "-D", "-p", "udp", "--dport", str(PORT + 1))
        running.go_on.set()
        running.until_sent(PORT, 10 * 128)
        rows = running.rows()
    lost, _ = running.accounts.read().lost_frames["endings_lost"]
    assert sum(r["octets_out"] for r in rows if r["remote_port"] == PORT) == 10 * 128
    assert sum(r["flows"] for r in rows if r["remote_port"] == PORT + 1) == 20_000 - lost
    assert 0 < lost < 20_000


def test_a_killed_collector_leaves_nothing_and_the_next_one_doubles_nothing(two: Pair) -> None:
    """After SIGKILL the next run counts what is sent from then on; what was sent before, by flows that live on, is not counted again."""
    script = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from agent.core.accounts import Accounts\nfrom agent.core.stages import Context\n"
        "from collectors.conntrack import Settings\n"
        "made = Settings(processes=False, interval=1).build(Context(accounts=Accounts(), state_dir=Path('/nonexistent')))\n"
        "for batch in made.collect(threading.Event()): print(int(batch['octets_out'].sum()), flush=True)\n"
    )
    with two.host.start(sys.executable, "-c", script) as running:
        assert running.stdout is not None
        running.stdout.readline()
        two.host.call(lambda: datagrams(PEER4, PORT, [100] * 5, source_port=9005))
        seen = 0
        for line in running.stdout:
            seen += int(line)
            if seen >= 5 * 128:
                break
        running.send_signal(signal.SIGKILL)
    two.host.call(lambda: datagrams(PEER4, PORT, [100] * 7, source_port=9005))
    with reading(two.host) as again:
        two.host.call(lambda: datagrams(PEER4, PORT, [100] * 3, source_port=9005))
        rows = _until(again, lambda r: r["remote_port"] == PORT)
    assert seen == 5 * 128
    assert sum(r["octets_out"] for r in rows) == 3 * 128


def test_hot_flows_under_frequent_readings_lose_and_double_nothing(two: Pair) -> None:
    """Many flows that send all the time while the table is read: what was handed out is what was sent."""
    script = (
        "import socket, time\n"
        "links = [socket.socket(2, 2) for _ in range(50)]\n"
        "end = time.monotonic() + 4\n"
        "while time.monotonic() < end:\n"
        f"    for link in links: link.sendto(bytes(200), ('{PEER4}', {PORT}))\n"
    )
    with reading(two.host, interval=1) as running:
        two.host.run(sys.executable, "-c", script)
        expected = truth(two)
        rows = _until(running, lambda r: r["remote_port"] == PORT)
    assert sums(rows)[4, 17][:2] == expected[4, 17][:2]
    assert sum(row["flows"] for row in rows) == 50
    assert len(rows) > 50


def test_ports_that_are_used_again_at_once_are_counted_once_each(two: Pair) -> None:
    """The same ends again and again, each entry taken out in between: every datagram is counted once."""
    with reading(two.host, interval=1) as running:
        for _ in range(40):
            two.host.call(lambda: datagrams(PEER4, PORT, [10, 10], source_port=9006))
            two.host.run("conntrack", "-D", "-p", "udp", "--dport", str(PORT))
        running.until_sent(PORT, 40 * 76)
        rows = _until(running, lambda r: r["remote_port"] == PORT)
    assert sum(r["octets_out"] for r in rows) == 40 * 76
    assert sum(r["flows"] for r in rows) == 40


def test_a_counter_that_somebody_sets_to_zero_is_taken_as_new(two: Pair) -> None:
    """Another program zeroes the counters: nothing is negative, and what is sent afterwards is counted."""
    with reading(two.host, interval=1) as running:
        two.host.call(lambda: datagrams(PEER4, PORT, [100] * 10, source_port=9007))
        running.until_sent(PORT, 1280)
        two.host.run("conntrack", "-L", "-z")
        two.host.call(lambda: datagrams(PEER4, PORT, [100] * 2, source_port=9007))
        running.until_sent(PORT, 1280 + 256)
        rows = _until(running, lambda r: r["remote_port"] == PORT)
    assert sum(r["octets_out"] for r in rows) == 1280 + 256


def test_other_zones_are_excluded_unless_asked_for(two: Pair) -> None:
    """With zones one packet may be tracked twice: only zone 0 counts, the others stand in the account as excluded."""
    two.host.run(
        "nft",
        "add table inet zoned; add chain inet zoned out { type filter hook output priority -300; }; "
        f"add rule inet zoned out udp dport {PORT} ct zone set 5",
    )
    with reading(two.host) as one, reading(two.host, zones="all") as every:
        two.host.call(lambda: datagrams(PEER4, PORT, [100]))
        assert _until(one, lambda r: r["remote_port"] == PORT) == []
        assert [r["octets_out"] for r in _until(every, lambda r: r["remote_port"] == PORT)] == [128]
    assert one.accounts.read().excluded["other_zone"].octets_out == 128


def test_a_clock_step_moves_no_amount_and_no_span(two: Pair) -> None:
    """The wall clock jumps an hour back and two ahead while flows go on: octets stay exact, no row spans a minute or runs backwards."""
    clock = SteppingClock()
    two.host.run("sysctl", "-qw", "net.netfilter.nf_conntrack_timestamp=1")
    with reading(two.host, clock, interval=1) as running:
        sent = 0
        for step_s in (0, -3600, 7200):
            clock.wall_ahead_ns += step_s * 1_000_000_000
            two.host.call(lambda: datagrams(PEER4, PORT, [100] * 4))
            sent += 4 * 128
            running.until_sent(PORT, sent)
        expected = truth(two)
        rows = _until(running, lambda r: r["remote_port"] == PORT)
    assert sums(rows) == expected
    assert all(0 <= row["end_ns"] - row["start_ns"] < 60_000_000_000 for row in rows)


def test_an_address_that_goes_away_stays_local_for_its_flows(two: Pair) -> None:
    """The interface is removed while a flow stands in the table: the flow's row keeps its local end, and the capture goes on."""
    with reading(two.host, interval=1) as running:
        two.host.call(lambda: datagrams(PEER4, PORT, [100] * 3, source_port=9008))
        running.until_sent(PORT, 3 * 128)
        two.host.ip("link", "del", "h0")
        running.more(4)
        two.host.call(lambda: datagrams("127.0.0.1", PORT, [1]))
        rows = _until(running, lambda r: r["remote_port"] == PORT)
    assert {(r["local_address"], r["marks"]) for r in rows} == {(HOST4, 0)}
    assert sum(r["octets_out"] for r in rows) == 3 * 128


def test_a_namespace_whose_name_is_removed_is_read_to_the_end(two: Pair) -> None:
    """`ip netns del` while the capture runs: it goes on in the namespace that it holds, and stops in order."""
    with reading(two.host, interval=1) as running:
        two.host.call(lambda: datagrams(PEER4, PORT, [100] * 2, source_port=9009))
        netns.run("ip", "netns", "del", two.host.name)
        running.until_sent(PORT, 256)
        running.more(2)
        rows = _until(running, lambda r: r["remote_port"] == PORT)
    assert sum(r["octets_out"] for r in rows) == 256


def test_a_frame_that_is_cut_later_is_a_lower_bound(two: Pair) -> None:
    """With segmentation offload the kernel counts whole frames with one header: the rows say that headers are missing."""
    with netns.pair(offload=True) as fast:
        track(fast.host)
        with reading(fast.host) as running:
            exchange(fast.host, fast.peer, PEER4, PORT, 3_000_000, 0)
            fast.settle()
            rows = _until(running, lambda r: r["protocol"] == 6)
    large = [row for row in rows if row["octets_out"] > 100_000]
    assert large and all(row["marks"] & Mark.LOWER_BOUND for row in large)
    content = sum(row["content_octets_out"] for row in rows)
    assert 3_000_000 - 20_000 <= content < sum(row["octets_out"] for row in rows)


def test_processes_are_known_by_their_sockets(two: Pair) -> None:
    """A flow of this host carries the process that holds its socket; the columns stay null for what is not seen."""
    with reading(two.host, processes=True, interval=1) as running:
        holding = (
            "import socket, sys, time\n"
            "s = socket.socket(2, 2)\n"
            f"for _ in range(60): s.sendto(bytes(100), ('{PEER4}', {PORT})); time.sleep(0.1)\n"
        )
        with two.host.start(sys.executable, "-c", holding) as program:
            running.until_sent(PORT, 30 * 128)
            program.wait(20)
        rows = _until(running, lambda r: r["remote_port"] == PORT)
    named = [row for row in rows if row["process"] is not None]
    assert {(row["pid"], row["uid"], row["executable"]) for row in named} == {
        (program.pid, 0, str(Path(sys.executable).resolve()))
    }
