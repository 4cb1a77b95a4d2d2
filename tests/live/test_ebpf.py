"""eBPF capture in network namespaces, against nft counters of the peer and the senders' own counts."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from collectors.bpf import libbpf
from collectors.host.cgroups import mounted
from tests.tools import hosting, netns
from tests.tools.bpf_capture import capturing
from tests.tools.ends import serving, sink, sums, total
from tests.tools.hosting import Group
from tests.tools.netns import HOST4, HOST6, PEER4, PEER6, Pair, Task, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
]

PORT = 5001

SEND_UDP = """
import socket, sys
target, port, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ":" in target else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as s:
    if len(sys.argv) > 5: s.connect((target, port))
    for n in range(count):
        s.send(bytes(size)) if len(sys.argv) > 5 else s.sendto(bytes(size), (target, port))
"""
UPLOAD = """
import json, socket, struct, sys
target, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with socket.create_connection((target, port)) as s:
    s.sendall(bytes(size)); s.shutdown(1)
    while s.recv(1 << 16): pass
    info = s.getsockopt(6, 11, 256)
    print(json.dumps({"segments": struct.unpack_from("I", info, 136)[0], "again": struct.unpack_from("Q", info, 208)[0],
                      "port": s.getsockname()[1]}))
"""


@pytest.fixture
def here(two: Pair) -> Iterator[Group]:
    with hosting.group(two.host) as made:
        yield made


@pytest.mark.parametrize("target", [PEER4, PEER6])
def test_an_upload_is_counted_exactly(two: Pair, here: Group, target: str) -> None:
    """Octets and packets of a bulk upload equal nft's in the peer; content is what was sent."""
    with capturing(here) as capture:
        with serving(two.peer, target, answer=50_000):
            pid, said = here.run(UPLOAD, target, PORT, 3_000_000)
        two.settle()
        rows = capture.rows()
    assert total(rows) == two.counts()
    assert sums(rows, "flows", "content_octets_out") == (1, 3_000_000 + said["again"])
    facts = (
        "local_port",
        "initiator",
        "interface",
        "pid",
        "process",
        "uid",
        "cgroup",
        "attribution",
        "nat_address",
    )
    assert {tuple(row[f] for f in facts) for row in rows} == {
        (said["port"], "local", "h0", pid, "python", 0, here.path, "process", None)
    }
    assert [row["end_reason"] for row in rows][-1] == "end"


@pytest.mark.parametrize("target", [PEER4, PEER6])
@pytest.mark.parametrize("connected", [False, True])
def test_datagrams_are_counted_exactly(two: Pair, here: Group, target: str, connected: bool) -> None:
    """Small datagrams, connected and not, equal nft's in the peer; one flow, its process right."""
    with capturing(here) as capture:
        with sink(two.peer, target):
            pid, _ = here.run(SEND_UDP, target, PORT, 5000, 200, *(["connected"] if connected else []))
            two.settle()
        rows = capture.rows()
    assert total(rows) == two.counts()
    assert sums(rows, "flows", "packets_out", "content_octets_out") == (1, 5000, 1_000_000)
    assert {(row["pid"], row["attribution"]) for row in rows} == {(pid, "process")}


def test_offload_frames_count_as_the_packets_they_become() -> None:
    """With segmentation offload on, content is what was sent and packets are the segments TCP counts itself."""
    with netns.pair(offload=True) as two, hosting.group(two.host) as here:
        for target in (PEER4, PEER6):
            with capturing(here) as capture:
                with serving(two.peer, target):
                    _, said = here.run(UPLOAD, target, PORT, 20_000_000)
                two.settle()
                rows = capture.rows()
            assert sums(rows, "content_octets_out") == (20_000_000 + said["again"],)
            assert sums(rows, "packets_out") == (said["segments"],)
            # Frames went over whole, else this test would show nothing.
            assert two.counts()["in", "ip6" if ":" in target else "ip", 6][0] < said["segments"]


SERVERS = {
    "threaded": """
import socket, sys
server = socket.create_server((sys.argv[1], 5001)); print("ready", flush=True)
for _ in range(3):
    link = server.accept()[0]; link.recv(100); link.sendall(bytes(20000)); link.close()
sys.stdin.readline()
""",
    "accept-then-fork": """
import os, socket, sys
server = socket.create_server((sys.argv[1], 5001)); print("ready", flush=True)
for _ in range(3):
    link = server.accept()[0]
    if os.fork() == 0: link.recv(100); link.sendall(bytes(20000)); link.close(); os._exit(0)
    link.close()
sys.stdin.readline()
""",
    "prefork": """
import os, socket, sys
server = socket.create_server((sys.argv[1], 5001))
for _ in range(3):
    if os.fork() == 0:
        link = server.accept()[0]; link.recv(100); link.sendall(bytes(20000)); link.close(); os._exit(0)
print("ready", flush=True)
sys.stdin.readline()
""",
}


def ask(two: Pair, address: str) -> None:
    def work() -> None:
        with socket.create_connection((address, PORT)) as link:
            link.sendall(b"please")
            while link.recv(1 << 16):
                pass

    two.peer.call(work)


@pytest.mark.parametrize("kind", SERVERS)
def test_what_a_server_answers_is_the_listening_process_s(two: Pair, here: Group, kind: str) -> None:
    """Connections to a server are one row each, opened by the peer, of the process that listens, and say so."""
    with capturing(here) as capture:
        server = here.start(SERVERS[kind], HOST4)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        for _ in range(3):
            ask(two, HOST4)
        two.settle()
        server.communicate("\n", timeout=20)
        rows = capture.rows()
    # A FIN that meets a socket in TIME_WAIT reaches no socket: the hooks do not see it come in.
    seen, truth = total(rows), two.counts()
    assert seen["in", "ip", 6] == truth["in", "ip", 6]
    assert 0 <= truth["out", "ip", 6][0] - seen["out", "ip", 6][0] <= 3
    assert sums(rows, "flows", "content_octets_out") == (3, 60_000)
    assert {(r["local_port"], r["initiator"], r["pid"], r["attribution"]) for r in rows} == {
        (PORT, "remote", server.pid, "listener")
    }


LATE = """
import socket, sys
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
here, there = sys.argv[1:3]
family, layer = (socket.AF_INET6, IPv6) if ":" in here else (socket.AF_INET, IP)
late = bytes(layer(src=here, dst=there) / TCP(sport=int(sys.argv[4]), dport=int(sys.argv[3]), flags="A", seq=1, ack=7))
with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
    for _ in range(5): s.sendto(late, (there, 0))
"""


@pytest.mark.parametrize(
    ("host", "peer", "header", "seen"), [(HOST4, PEER4, 20, 5), (HOST6, PEER6, 40, 0)], ids=["IPv4", "IPv6"]
)
def test_resets_of_no_connection_are_seen_by_ipv4_alone(
    two: Pair, host: str, peer: str, header: int, seen: int
) -> None:
    """Acknowledgements that find their connection gone are counted at the listening socket; of the kernel's resets, headers
    without options, those by IPv6 pass no hook."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    mine = 40_000 + os.getpid() % 20_000  # other runs on this machine use the same addresses
    with (
        two.host.call(lambda: socket.create_server((host, PORT), family=family)),
        hosting.group(two.host) as all_of_it,
        capturing(all_of_it, cgroup=None) as capture,
    ):
        assert hosting.start_in(two.peer, LATE, peer, host, PORT, mine).wait(60) == 0
        two.settle()
        rows = [r for r in capture.rows() if (r["remote_address"], r["remote_port"]) == (peer, mine)]
    word, octets = {20: "ip", 40: "ip6"}[header], header + 20
    assert two.counts()["in", word, 6] == two.counts()["out", word, 6] == (5, 5 * octets)
    assert sums(rows, "packets_in", "octets_in") == (5, 5 * octets)
    assert sums(rows, "packets_out", "octets_out") == (seen, seen * octets)


def test_a_process_that_ends_at_once_is_named(two: Pair, here: Group) -> None:
    """Processes that live for milliseconds are named with their id, user and control group, each of them."""
    code = "import os; os.setgid(65534); os.setuid(65534)" + SEND_UDP
    with capturing(here) as capture:
        pids = {here.run(code, PEER4, PORT, 1, 10)[0] for _ in range(5)}
        two.settle()
        rows = capture.rows()
    assert {row["pid"] for row in rows} == pids
    assert {(row["process"], row["uid"], row["cgroup"]) for row in rows} == {("python", 65534, here.path)}


OLD = """
import socket, sys
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect((sys.argv[1], 5001))
t = socket.create_connection((sys.argv[1], 5001))
print("open", flush=True); sys.stdin.readline()
u.send(bytes(100)); t.sendall(bytes(70000)); t.shutdown(1); t.recv(1); t.close()
print("sent", flush=True); sys.stdin.readline()
"""


def test_sockets_older_than_the_agent_are_attributed(two: Pair, here: Group) -> None:
    """Sockets opened before the capture are given to the process that holds them, and marked so."""
    with serving(two.peer, PEER4):
        program = here.start(OLD, PEER4)
        assert program.stdout is not None
        assert program.stdin is not None
        assert program.stdout.readline() == "open\n"
        two.settle()
        before = two.counts()
        with capturing(here) as capture:
            program.stdin.write("\n")
            program.stdin.flush()
            assert program.stdout.readline() == "sent\n"
            two.settle()
            rows = capture.rows()
        program.communicate("\n", timeout=20)
    after = two.counts()
    for key in (("in", "ip", 6), ("in", "ip", 17)):
        assert total(rows)[key] == tuple(a - b for a, b in zip(after[key], before[key], strict=True))
    assert {(row["pid"], row["attribution"], row["cgroup"]) for row in rows} == {
        (program.pid, "holder", here.path)
    }
    assert {row["marks"] for row in rows if row["protocol"] == 6} == {128}


def test_source_translation_keeps_both_addresses(two: Pair, here: Group) -> None:
    """Behind SNAT a connection and a datagram exchange are one flow each, with the address they leave with beside."""
    two.host.ip("addr", "add", "192.0.2.77/24", "dev", "h0")
    two.host.run(
        "nft",
        "add table ip t; add chain ip t c { type nat hook postrouting priority 100; }; add rule ip t c oif h0 snat to 192.0.2.77",
    )
    with capturing(here) as capture:
        with serving(two.peer, PEER4, answer=5000):
            here.run(UPLOAD, PEER4, PORT, 100_000)
        with sink(two.peer, PEER4):
            here.run(SEND_UDP, PEER4, PORT, 10, 100, "connected")
            two.settle()
        rows = capture.rows()
    assert total(rows)["in", "ip", 6] == two.counts()["in", "ip", 6]
    assert total(rows)["in", "ip", 17] == two.counts()["in", "ip", 17]
    assert {(r["protocol"], r["local_address"], r["nat_address"], r["remote_address"]) for r in rows} == {
        (6, HOST4, "192.0.2.77", PEER4),
        (17, HOST4, "192.0.2.77", PEER4),
    }
    assert sums(rows, "flows") == (2,)


def test_destination_translation_shows_who_is_really_asked(two: Pair, here: Group) -> None:
    """A connection to a service address is one flow with the end that the packets really go to, and the one asked for."""
    two.host.ip("route", "add", "198.51.100.0/24", "dev", "h0")
    two.host.run(
        "nft",
        "add table ip t; add chain ip t c { type nat hook output priority -100; }; add rule ip t c ip daddr 198.51.100.9 tcp dport 80 dnat to 192.0.2.2:5001",
    )
    with capturing(here) as capture:
        with serving(two.peer, PEER4, answer=5000):
            here.run(UPLOAD, "198.51.100.9", 80, 100_000)
        two.settle()
        rows = capture.rows()
    assert total(rows) == two.counts()
    ends = ("remote_address", "remote_port", "nat_address", "service_address", "service_port")
    assert {tuple(r[name] for name in ends) for r in rows} == {(PEER4, PORT, None, "198.51.100.9", 80)}
    (connections, content) = sums(rows, "flows", "content_octets_out")
    assert connections == 1
    assert 100_000 <= content < 110_000  # what the kernel sends again is sent


def test_a_half_closed_connection_is_counted_to_its_end(two: Pair, here: Group) -> None:
    """What comes after one side has closed belongs to the same flow."""
    with capturing(here) as capture:
        with serving(two.peer, PEER4, answer=1_000_000):
            here.run(UPLOAD, PEER4, PORT, 10)
        two.settle()
        rows = capture.rows()
    assert total(rows) == two.counts()
    assert sums(rows, "flows", "content_octets_out") == (1, 10)


FAN = """
import socket, sys
s = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
for n in range(int(sys.argv[2])): s[n % 4].sendto(bytes(100), (sys.argv[1], 10000 + n % int(sys.argv[3])))
"""


def test_a_full_map_stops_nothing_and_explains_everything(two: Pair, here: Group) -> None:
    """With more flows than the map holds, all packets pass, and those without a row are one row of their own."""
    with capturing(here, map_flows=1024, interval=60) as capture:
        here.run(FAN, PEER4, 20_000, 20_000)
        two.settle()
        rows = capture.rows(protocols=(17, 255))
    truth = two.counts()["in", "ip", 17]
    assert truth == (20_000, 20_000 * 128)
    assert sums(rows, "packets_out", "octets_out", "content_octets_out") == (20_000, 20_000 * 128, 2_000_000)
    without = [row for row in rows if row["protocol"] == 255]
    assert without
    assert {(r["local_address"], r["remote_address"], r["end_reason"]) for r in without} == {
        ("::", "::", "resources")
    }
    assert capture.collector.overflowed.octets_out == sums(without, "octets_out")[0]


def test_exchanging_maps_under_load_loses_nothing(
    two: Pair, here: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an exchange every 10 ms under full load, every packet is in exactly one row."""
    monkeypatch.setattr("collectors.bpf.kept.SECOND_NS", 10_000_000)
    monkeypatch.setattr("collectors.bpf.counting._TICK_S", 0.01)
    with capturing(here) as capture:
        here.run(FAN, PEER4, 200_000, 500)
        two.settle()
        rows = capture.rows(protocols=(17,))
    assert len([b for b in capture.batches if len(b)]) > 20
    assert sums(rows, "packets_out", "octets_out") == two.counts()["in", "ip", 17]


def test_traffic_within_the_host_is_left_out_by_default(two: Pair, here: Group) -> None:
    """Loopback traffic is counted as excluded, or kept where asked for, once for each end."""
    code = """
import socket
s = socket.create_server(("127.0.0.1", 7)); c = socket.create_connection(("127.0.0.1", 7)); a = s.accept()[0]
c.sendall(bytes(1000)); assert len(a.recv(1000, socket.MSG_WAITALL)) == 1000
"""
    with capturing(here) as capture:
        here.run(code)
        assert capture.rows() == []
    assert capture.accounts.read().excluded["loopback"].octets_out > 1000
    with capturing(here, loopback=True) as capture:
        here.run(code)
        rows = capture.rows()
    assert sorted((r["content_octets_out"], r["initiator"], r["interface"]) for r in rows if r["flows"]) == [
        (0, "remote", "lo"),
        (1000, "local", "lo"),
    ]


def test_one_call_of_many_datagrams_counts_them_all(two: Pair, here: Group) -> None:
    """Datagrams that the kernel cuts from one large buffer (UDP_SEGMENT) count one by one, with their headers."""
    code = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(17, 103, 1000); s.connect((sys.argv[1], 5001))
for _ in range(20): s.send(bytes(10_500))
"""
    with capturing(here) as capture:
        with sink(two.peer, PEER4):
            here.run(code, PEER4)
            two.settle()
        rows = capture.rows()
    assert sums(rows, "packets_out", "content_octets_out") == (220, 210_000)
    assert total(rows) == two.counts()


def test_headers_between_ip_and_transport_are_no_content(two: Pair, here: Group) -> None:
    """IPv6 hop-by-hop and destination options are headers: octets equal nft's, content is the data alone."""
    code = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for option in (54, 59): s.setsockopt(41, option, bytes((0, 0, 1, 4, 0, 0, 0, 0)))  # IPV6_HOPOPTS, IPV6_DSTOPTS: padding
for _ in range(100): s.sendto(bytes(300), (sys.argv[1], 5001))
"""
    with capturing(here) as capture:
        with sink(two.peer, PEER6):
            here.run(code, PEER6)
            two.settle()
        rows = capture.rows()
    assert total(rows) == two.counts()
    assert sums(rows, "packets_out", "octets_out", "content_octets_out") == (
        100,
        100 * (40 + 16 + 8 + 300),
        30_000,
    )
    assert {(row["remote_port"], row["protocol"]) for row in rows} == {(PORT, 17)}


def test_a_datagram_cut_into_fragments_is_one_packet(two: Pair, here: Group) -> None:
    """A datagram above the MTU counts once, with all its octets but the fragments' repeated headers."""
    with capturing(here) as capture:
        with sink(two.peer, PEER4):
            here.run(SEND_UDP, PEER4, PORT, 10, 5000)
            two.settle()
        rows = capture.rows()
    assert sums(rows, "packets_out", "octets_out", "content_octets_out") == (10, 50_280, 50_000)
    assert two.counts()["in", "ip", 17] == (40, 50_280 + 10 * 3 * 20)


def test_a_socket_of_both_families_sends_ipv4(two: Pair, here: Group) -> None:
    """IPv4 through an IPv6 socket has IPv4 ends."""
    code = 'import socket, sys; s = socket.socket(10, 2); s.sendto(b"x", ("::ffff:" + sys.argv[1], 5001))'
    with capturing(here) as capture:
        with sink(two.peer, PEER4):
            here.run(code, PEER4)
            two.settle()
        rows = capture.rows()
    assert [(r["local_address"], r["remote_address"], r["octets_out"]) for r in rows] == [(HOST4, PEER4, 29)]
    assert total(rows) == two.counts()


def test_datagrams_of_a_loose_socket_behind_source_translation_are_one_flow(two: Pair, here: Group) -> None:
    """What is sent from the translated address and answered to the socket's own is one flow with both."""
    two.host.ip("addr", "add", "192.0.2.77/24", "dev", "h0")
    two.host.run("nft", "add table ip t; add chain ip t c { type nat hook postrouting priority 100; }; add rule ip t c oif h0 snat to 192.0.2.77")  # fmt: skip
    ready = threading.Event()

    def answer() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((PEER4, PORT))
            ready.set()
            for _ in range(5):
                server.sendto(bytes(500), server.recvfrom(1000)[1])

    code = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(5): s.sendto(bytes(50), (sys.argv[1], 5001)); assert len(s.recv(1000)) == 500
"""
    with capturing(here) as capture:
        task = Task(two.peer, answer)
        wait_for(ready.is_set, "the server")
        here.run(code, PEER4)
        task.result()
        two.settle()
        rows = capture.rows()
    assert total(rows) == two.counts()
    assert [(r["local_address"], r["nat_address"], r["flows"], r["packets_in"]) for r in rows] == [
        (HOST4, "192.0.2.77", 1, 5)
    ]


def test_what_the_kernel_itself_sends_is_the_kernel_s(two: Pair) -> None:
    """At the root: an ICMP error for a closed port has no process, and says kernel."""
    mine = "192.0.2.201"
    two.host.ip("addr", "add", f"{mine}/24", "dev", "h0")
    with hosting.group(two.host) as here, capturing(here, cgroup=None) as capture:
        with two.peer.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
            asking.sendto(b"x", (mine, 9))
        two.settle()
        rows = [row for row in capture.rows(protocols=(1,)) if row["local_address"] == mine]
    assert [
        (r["remote_address"], r["pid"], r["process"], r["attribution"], r["local_port"]) for r in rows
    ] == [(PEER4, None, None, "kernel", None)]
    assert {row["vantage"] for row in rows} == {"ebpf:/"}


def test_the_last_acknowledgement_is_the_connection_s(two: Pair) -> None:
    """At the root: a side that closes first sends its last acknowledgement without a socket; it is counted all the same."""
    mine = "192.0.2.202"
    two.host.ip("addr", "add", f"{mine}/24", "dev", "h0")
    with hosting.group(two.host) as here, capturing(here, cgroup=None) as capture:
        server = here.start(SERVERS["threaded"], mine)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        for _ in range(3):
            ask(two, mine)
        two.settle()
        server.communicate("\n", timeout=20)
        rows = [row for row in capture.rows() if row["local_address"] == mine]
    assert total(rows)["in", "ip", 6] == two.counts()["in", "ip", 6]
    assert {(row["pid"], row["flows"]) for row in rows if row["flows"]} == {(server.pid, 1)}
