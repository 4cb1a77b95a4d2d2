"""Capture of forwarded traffic: stand-ins for machines and pods, against nft counters in the peer."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import GRE, IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Padding
from structlog.testing import capture_logs

from collectors.bpf import libbpf
from collectors.host.cgroups import mounted
from collectors.host.pods import Pods
from collectors.tc import Settings
from tests.tools import guests, hosting, netns
from tests.tools.ends import serving, sink, sums, total
from tests.tools.guests import POD4, VM4, VM6, Machine, capturing, ebpf, foreign
from tests.tools.hosting import Group
from tests.tools.netns import HOST4, PEER4, PEER6, Namespace, Pair, wait_for
from tests.tools.places import ROOT
from tests.tools.program import NO_RIGHTS, environment
from tests.tools.watching_sockets import control_group

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
]

PORT = 5001
Rows = list[dict[str, Any]]

SEND_UDP = """
import socket, sys
target, port, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as s:
    for n in range(count): s.sendto(bytes(size), (target, port))
"""
UPLOAD = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
    s.sendall(bytes(int(sys.argv[3]))); s.shutdown(1)
    while s.recv(1 << 16): pass
"""


def run(where: Namespace, code: str, *arguments: object) -> None:
    started = hosting.start_in(where, code, *arguments)
    assert started.wait(60) == 0


def talk(inside: Namespace, two: Pair, target: str) -> None:
    """An upload with an answer, and datagrams, from a guest to the peer."""
    with serving(two.peer, target, answer=50_000):
        run(inside, UPLOAD, target, PORT, 1_000_000)
    with sink(two.peer, target):
        run(inside, SEND_UDP, target, PORT, 500, 200)
        two.settle()


@pytest.mark.parametrize("attach", ["tcx", "clsact"])
@pytest.mark.parametrize("target", [PEER4, PEER6])
def test_a_routed_machine_is_counted_exactly(two: Pair, vm: Machine, target: str, attach: str) -> None:
    """Behind a tap and a router, by tcx and by clsact: octets and packets both ways equal nft's in the peer."""
    with capturing(two.host, attach=attach) as capture:
        talk(vm.space, two, target)
        rows = capture.rows()
    assert total(rows) == two.counts()
    assert sums(rows, "flows") == (2,)
    assert sums([r for r in rows if r["protocol"] == 17], "content_octets_out") == (100_000,)
    own = VM6 if ":" in target else VM4
    facts = ("local_address", "remote_address", "remote_port", "initiator", "interface", "vantage", "process", "pid", "attribution")  # fmt: skip
    assert {tuple(row[f] for f in facts) for row in rows} == {
        (own, target, PORT, "local", "vnet0", "tc:vnet0", "qemu-stand-in", vm.process.pid, "interface")
    }
    assert two.host.run("tc", "filter", "show", "dev", "vnet0", "ingress") == ""
    assert "clsact" not in two.host.run("tc", "qdisc", "show", "dev", "vnet0")


@pytest.mark.parametrize("watched", ["br0", "vnet0"])
def test_a_bridged_machine_is_counted_exactly(two: Pair, watched: str) -> None:
    """Behind a bridge, named itself or by the bridge alone: equal to nft's in the peer, IPv4 and IPv6, once."""
    with guests.machine(two.host) as vm:
        guests.join_bridge(two, vm.tap)
        guests.address_in_bridge(vm.space, "eth0", 11)
        with capturing(two.host, interfaces=[watched]) as capture:
            for target in (PEER4, PEER6):
                talk(vm.space, two, target)
            rows = capture.rows()
    assert total(rows) == two.counts()
    assert {row["interface"] for row in rows} == {"vnet0"}
    assert sums(rows, "flows") == (4,)


def test_frames_of_many_packets_count_as_those(two: Pair) -> None:
    """What a machine hands over in one piece (TSO in its virtual card) counts as the packets that reach the peer."""
    with guests.machine(two.host, offload=True) as vm:
        guests.route(two, vm.space, vm.tap, "eth0", (VM4, VM6, guests.GATE4, guests.GATE6))
        with capturing(two.host) as capture:
            for target in (PEER4, PEER6):
                with serving(two.peer, target):
                    run(vm.space, UPLOAD, target, PORT, 5_000_000)
            two.settle()
            rows = capture.rows()
        frames = int(two.host.run("cat", "/sys/class/net/vnet0/statistics/rx_packets"))
    truth = two.counts()
    sent = (truth["in", "ip", 6], truth["in", "ip6", 6])
    assert (total(rows)["in", "ip", 6], total(rows)["in", "ip6", 6]) == sent
    # Frames went over whole, else this test would show nothing.
    assert frames < sent[0][0]


@contextmanager
def resident(inside: Namespace, path: str) -> Iterator[Group]:
    """A control group of that path with a process in a namespace, as a pod's pause container is."""
    with control_group(path) as folder:
        group = Group(folder, inside)
        pause = group.start("print('ready', flush=True); sys.stdin.read()")
        assert pause.stdout is not None
        assert pause.stdout.readline() == "ready\n"
        try:
            yield group
        finally:
            pause.communicate(timeout=20)


def test_routed_pods_are_counted_exactly_where_asked_for(
    two: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod behind a veth and a router, with ``own_sockets: count``: equal to nft's in the peer; it is named with its uid."""
    monkeypatch.setattr("collectors.bpf.atguests.Pods", partial(Pods, tmp_path))
    uid = "0f0e0d0c-1111-2222-3333-444455556666"
    container = "ab" * 32
    (tmp_path / "pods" / f"example_web-0_{uid}").mkdir(parents=True)
    with (
        guests.pod(two) as inside,
        resident(inside, f"/kubepods-{inside.name}/pod{uid}/{container}") as group,
        capturing(two.host, interfaces=["cali*"], own_sockets="count") as capture,
    ):
        for target in (PEER4, PEER6):
            with serving(two.peer, target, answer=5000):
                group.run(UPLOAD, target, PORT, 300_000)
            with sink(two.peer, target):
                group.run(SEND_UDP, target, PORT, 100, 100)
                two.settle()
        rows = capture.rows()
    assert total(rows) == two.counts()
    assert {
        tuple(row[f] for f in ("pod", "pod_uid", "container", "vm", "process", "attribution")) for row in rows
    } == {("example/web-0", uid, container, None, None, "interface")}


def test_pods_are_left_to_the_ebpf_tier_by_default(two: Pair) -> None:
    """A veth's far end is in this kernel: without being asked, it is not watched, and the log says why."""
    with (
        guests.pod(two) as inside,
        capture_logs() as said,
        capturing(two.host, interfaces=["cali0"]) as capture,
    ):
        with sink(two.peer, PEER4):
            run(inside, SEND_UDP, PEER4, PORT, 10, 10)
            two.settle()
        assert capture.rows() == []
    left = [entry for entry in said if entry["event"] == "interface_not_watched"]
    assert [entry["interface"] for entry in left] == ["cali0"]
    assert "own_sockets: count" in left[0]["reason"]


ECHO = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], int(sys.argv[2]))); print("ready", flush=True)
while True:
    data, sender = s.recvfrom(2000); s.sendto(data * 2, sender)
"""
ASK = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.bind(("", int(sys.argv[3])))
for _ in range(50): s.sendto(bytes(100), (sys.argv[1], int(sys.argv[2]))); assert len(s.recv(2000)) == 200
"""


@pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted")
def test_nothing_is_sent_twice_where_both_collectors_run(two: Pair, vm: Machine) -> None:
    """Machine, host and container talk to each other and to the peer: with ebpf and tc beside each other, each datagram
    stands in one row's octets_out, its sender's, and in at most one row's octets_in."""
    ends = {"vm": (vm.space, VM4), "host": (two.host, HOST4), "pod": (None, POD4), "peer": (two.peer, PEER4)}
    pairs = [(a, b) for a in ("vm", "host", "pod") for b in ends if a != b]
    with guests.pod(two) as inside:
        places = {name: inside if place is None else place for name, (place, _) in ends.items()}
        servers = []
        for name, (_, address) in ends.items():
            servers.append(hosting.start_in(places[name], ECHO, address, PORT, stdout=subprocess.PIPE))
            assert servers[-1].stdout.readline() == "ready\n"
        with capturing(two.host, interfaces=["*"]) as tc, ebpf(two.host) as whole:
            for number, (asker, asked) in enumerate(pairs):
                run(places[asker], ASK, ends[asked][1], PORT, 20_000 + number)
            rows = tc.rows(17) + whole.rows(17)
        for server in servers:
            server.kill()
            server.communicate()
    own = {VM4, HOST4, POD4, guests.GATE4, guests.POD_GATE4}
    # The ebpf tier watches the whole kernel, so the stand-in machine's sockets too: a real machine's it would not see.
    rows = [r for r in rows if not (r["vantage"].startswith("ebpf") and r["local_address"] in (VM4, PEER4))]
    for number, (asker, asked) in enumerate(pairs):
        port = 20_000 + number
        of = [r for r in rows if port in (r["local_port"], r["remote_port"]) and r["local_address"] in own]
        question, answer = 50 * 128, 50 * 228
        asking = [r for r in of if r["local_port"] == port]
        asked_rows = [r for r in of if r["remote_port"] == port]
        assert sums(asking, "octets_out") == (question,), (asker, asked)
        assert sums(asked_rows, "octets_out") == ((answer,) if asked != "peer" else (0,)), (asker, asked)
        # What this host's own sockets send to a machine is their row's alone.
        assert sums(asking, "octets_in") == ((0,) if (asker, asked) == ("vm", "host") else (answer,)), (
            asker,
            asked,
        )
        expected = 0 if asked == "peer" or (asker, asked) == ("host", "vm") else question
        assert sums(asked_rows, "octets_in") == (expected,), (asker, asked)


RAW = """
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(("eth0", 0))
for frame in json.loads(sys.argv[1]): s.send(bytes.fromhex(frame))
"""


def test_tags_padding_options_and_tunnels(two: Pair) -> None:
    """VLAN tags and padding are no octets of IP; extension headers no content; a tunnel counts by its outer header."""
    ether, udp, data = (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"),
        UDP(sport=9, dport=9),
        b"x" * 100,
    )
    v4, v6 = IP(src=VM4, dst=PEER4), IPv6(src=VM6, dst=PEER6)
    packets = {
        "plain": ether / v4 / udp / data,
        "tagged": ether / Dot1Q(vlan=5) / v4 / UDP(sport=10, dport=9) / data,
        "tagged twice": ether / Dot1AD(vlan=6) / Dot1Q(vlan=5) / v6 / UDP(sport=11, dport=9) / data,
        "padded": ether / v4 / UDP(sport=12, dport=9) / b"x" / Padding(bytes(40)),
        "options": ether / v6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=13, dport=9) / data,
        "fragment": ether / IP(src=VM4, dst=PEER4, proto=17, frag=100) / data,
        "gre": ether / v4 / GRE() / IP(src="10.0.0.1", dst="10.0.0.2") / udp / data,
        "arp": ether / ARP(),
    }
    with guests.machine(two.host) as vm, capturing(two.host) as capture:
        run(vm.space, RAW, json.dumps([bytes(p).hex() for p in packets.values()]))
        wait_for(lambda: capture.accounts.read().captured.octets_out >= 128 * 3 + 29, "the frames")
        rows = capture.rows(17, 47)
    seen = sorted((r["protocol"], r["local_port"] or 0, r["packets_out"], r["octets_out"], r["content_octets_out"]) for r in rows if r["local_address"] in (VM4, VM6))  # fmt: skip
    assert seen == [
        (17, 0, 1, 120, 100),
        (17, 9, 1, 128, 100),
        (17, 10, 1, 128, 100),
        (17, 11, 1, 148, 100),
        (17, 12, 1, 29, 1),
        (17, 13, 1, 164, 100),
        (47, 0, 1, 20 + 4 + 128, 4 + 128),
    ]


def test_interfaces_that_come_and_go(two: Pair) -> None:
    """A machine that starts while watching is counted from then on, what passed before is counted as lost; rows of one
    that is gone come out whole, with its name."""
    with capturing(two.host, interval=60) as capture, capture_logs() as said:
        for tap, number in (("vnet1", 21), ("vnet2", 22)):
            with guests.machine(two.host, tap) as vm:
                _watched(said, tap)
                two.host.ip("addr", "add", f"10.9.{number}.1/24", "dev", tap)
                vm.space.ip("addr", "add", f"10.9.{number}.2/24", "dev", "eth0")
                run(vm.space, SEND_UDP, f"10.9.{number}.1", PORT, 40, 100)
                wait_for(partial(_has, capture, 40 * 128 * (number - 20)), "the datagrams")
        wait_for(lambda: _told(said, "interface_released") >= ["vnet1", "vnet2"], "both to be let go")
        rows = capture.rows(17)
    sent = [r for r in rows if r["remote_port"] == PORT]
    assert [
        (r["interface"], r["packets_out"], r["octets_out"])
        for r in sorted(sent, key=lambda r: r["interface"])
    ] == [
        ("vnet1", 40, 40 * 128),
        ("vnet2", 40, 40 * 128),
    ]
    assert {r["process"] for r in sent} == {"qemu-stand-in"}


def test_what_passed_before_an_interface_was_watched_is_counted_as_lost(two: Pair, vm: Machine) -> None:
    """Named later by the bridge it joins: its own counters say how many frames nobody has counted."""
    two.host.ip("link", "add", "br0", "type", "bridge")
    with sink(two.peer, PEER4):
        run(vm.space, SEND_UDP, PEER4, PORT, 30, 100)
        two.settle()
    with capturing(two.host, interfaces=["br0"]) as capture:
        two.host.ip("link", "set", "vnet0", "master", "br0")
        wait_for(lambda: bool(capture.accounts.read().lost_frames), "the gap to be counted")
    frames, octets = capture.accounts.read().lost_frames["before_watched"]
    assert frames >= 30
    assert octets >= 30 * (14 + 128)


def _has(capture: guests.Capture, octets_out: int) -> bool:
    return capture.accounts.read().captured.octets_out >= octets_out


def _told(said: list[Any], event: str) -> list[str]:
    return sorted(entry["interface"] for entry in said if entry["event"] == event)


def _watched(said: list[Any], tap: str) -> None:
    wait_for(lambda: tap in _told(said, "interface_watched"), f"{tap} to be watched")


@pytest.mark.parametrize("verdict", [0, 2])
def test_another_tool_s_program_that_was_there_first(two: Pair, vm: Machine, verdict: int) -> None:
    """Ours goes before it: what it lets pass (0) or drops (2) is counted, and it still decides."""
    with foreign(two.host, vm.tap, verdict), capturing(two.host) as capture:
        with sink(two.peer, PEER4):
            run(vm.space, SEND_UDP, PEER4, PORT, 20, 100)
            wait_for(lambda: capture.accounts.read().captured.octets_out >= 20 * 128, "the datagrams")
            two.settle()
        rows = [r for r in capture.rows(17) if r["remote_port"] == PORT]
    assert sums(rows, "packets_out", "octets_out") == (20, 20 * 128)
    assert two.counts()["in", "ip", 17] == ((20, 20 * 128) if verdict == 0 else (0, 0))


def test_another_tool_s_program_that_comes_before_ours_is_told(two: Pair, vm: Machine) -> None:
    """A program put before ours while watching keeps packets from it: the log names it, once."""
    with capturing(two.host) as capture, capture_logs() as said:
        with foreign(two.host, vm.tap, 0), sink(two.peer, PEER4):
            # Its answers still pass ours, so there is something to read.
            run(vm.space, SEND_UDP, PEER4, PORT, 20, 100)
            two.peer.call(lambda: _send_one((VM4, PORT)))
            wait_for(lambda: bool(_told(said, "programs_before_ours")), "the warning")
        capture.rows()
    warned = [entry for entry in said if entry["event"] == "programs_before_ours"]
    assert [(entry["interface"], entry["programs"]) for entry in warned] == [("vnet0", "foreign")]


def _send_one(target: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.sendto(b"x", target)


def test_interfaces_that_lead_to_no_guest_are_not_watched(two: Pair) -> None:
    """The loopback, named, is refused with a reason; nothing of the host's own traffic is counted."""
    with capture_logs() as said, capturing(two.host, interfaces=["lo", "*"]) as capture:
        run(two.host, SEND_UDP, PEER4, PORT, 5, 5)
        assert capture.rows() == []
    assert "lo" in _told(said, "interface_not_watched")


def test_check_is_told_what_it_can_do_here(two: Pair, vm: Machine) -> None:
    """Asked beforehand: it can run, and says what it would do without; it leaves nothing behind."""
    settings = Settings.model_validate(guests.ALLOWED | {"interfaces": ["vnet*"], "pin": False})
    absent = settings.model_copy(update={"interfaces": ("absent*",), "attach": "clsact"})
    assert two.host.call(lambda: (settings.hindrance(), settings.shortcomings())) == ("", ())
    hindered, without = two.host.call(lambda: (absent.hindrance(), absent.shortcomings()))
    assert hindered == ""
    assert [text.split(" (")[0] for text in without] == [
        "no tap or veth here is named by absent* now; those that appear are watched",
        "programs go into filters of a clsact qdisc",
    ]
    assert "clsact" not in two.host.run("tc", "qdisc", "show")


def test_without_rights_it_says_what_is_missing(two: Pair) -> None:
    """Without capabilities the collector ends with a sentence that names them."""
    code = """
import threading
from pathlib import Path
from agent.core.accounts import Accounts
from agent.core.errors import CaptureError
from agent.core.stages import Context
from collectors.tc import Settings
from tests.tools.guests import ALLOWED
settings = Settings.model_validate(ALLOWED | {"interfaces": ["vnet*"], "pin": False})
try:
    list(settings.build(Context(Accounts(), Path("/nonexistent"))).collect(threading.Event()))
except CaptureError as error:
    print(error)
"""
    line = (*NO_RIGHTS, sys.executable, "-c", code)
    done = subprocess.run(line, cwd=ROOT, env=environment(ROOT), capture_output=True, text=True, check=True)
    assert "CAP_BPF and CAP_NET_ADMIN" in done.stdout


def test_frames_that_are_joined_for_a_machine_count_as_what_was_sent() -> None:
    """What the peer sends to a machine arrives in large frames (TSO, GRO): packets are the segments its TCP counts."""
    with netns.pair(offload=True) as two, guests.machine(two.host, offload=True) as vm:
        guests.route(two, vm.space, vm.tap, "eth0", (VM4, VM6, guests.GATE4, guests.GATE6))
        for address in (VM4, VM6):
            # Once before, so that no SYN waits for a neighbour's address and is sent again.
            with serving(vm.space, address):
                two.peer.call(partial(_upload, address, 1))
            with capturing(two.host) as capture:
                with serving(vm.space, address):
                    segments, again = two.peer.call(partial(_upload, address, 5_000_000))
                two.settle()
                frames = [entry for entry in capture.rows() if entry["remote_port"] != PORT]
            assert sums(frames, "packets_in") == (segments,)
            header = 32 + (40 if ":" in address else 20)
            # The SYN has more options, 8 octets of them; what was sent again is known to the sender alone.
            assert sums(frames, "octets_in") == (segments * header + 8 + 5_000_000 + again,)


def _upload(address: str, size: int) -> tuple[int, int]:
    """Send; (segments sent, octets sent again), as TCP_INFO has them (linux/tcp.h)."""
    with socket.create_connection((address, PORT)) as link:
        link.sendall(bytes(size))
        link.shutdown(socket.SHUT_WR)
        while link.recv(1 << 16):
            pass
        info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int.from_bytes(info[136:140], "little"), int.from_bytes(info[208:216], "little")
