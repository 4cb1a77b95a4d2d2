"""The pcap collector: rows equal what the generator knows; faults and losses are said and counted."""

from __future__ import annotations

import struct
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.core.accounts import Accounts, Amounts
from agent.core.address import NetworkSet
from agent.core.clock import SECOND_NS
from agent.core.errors import CaptureError, DecodeError
from agent.core.flow import FlowBatch, concat
from agent.core.stages import Context
from agent.policy.model import Policy, Site
from collectors.pcap import Pcap, Seen, Settings, own_networks
from tests.tools.captures import classic, enhanced, interface, option, section
from tests.tools.places import TESTDATA
from tests.tools.truth import LOCAL, Session, Shape, Traffic, traffic

MIXED = traffic(Shape(packets=6000, sessions=300, vlan=0.4))


def collector(*files: Path, accounts: Accounts | None = None, **rest: Any) -> Pcap:
    settings = Settings(files=files, local=LOCAL)  # type: ignore[arg-type]
    return Pcap(settings, NetworkSet(LOCAL), accounts or Accounts(), "db-01", **rest)


def rows(pcap: Pcap) -> FlowBatch:
    return concat(list(pcap.collect(threading.Event())))


def write(path: Path, octets: bytes) -> Path:
    path.write_bytes(octets)
    return path


def by_session(batch: FlowBatch) -> dict[Session, tuple[int, int, int, int, int]]:
    """The amounts of all rows of a session together."""
    total: dict[Session, list[int]] = defaultdict(lambda: [0] * 5)
    names = ("octets_out", "packets_out", "octets_in", "packets_in", "content_octets_out")
    local, remote = (
        [high << 64 | low for high, low in batch[name].tolist()]
        for name in ("local_address", "remote_address")
    )
    ends = zip(local, batch["local_port"], remote, batch["remote_port"], batch["protocol"], strict=True)
    for session, *amounts in zip(ends, *(batch[name].tolist() for name in names), strict=True):
        key = tuple(int(part) for part in session)
        for at, amount in enumerate(amounts):
            total[key][at] += amount  # type: ignore[index]
    return {key: tuple(amounts) for key, amounts in total.items()}  # type: ignore[misc]


def check(made: Traffic, batch: FlowBatch, accounts: Accounts) -> None:
    truth = made.truth
    assert int((batch["packets_out"] + batch["packets_in"]).sum()) == truth.packets
    assert batch.amounts() == Amounts(truth.sessions, truth.octets_out, truth.octets_in)
    assert int(batch["content_octets_out"].sum()) == truth.content_octets_out
    assert by_session(batch) == made.sessions
    # Of UDP in the first 15 s it is not known whether the beginning was seen; a SYN tells.
    assert set(batch.take(batch["protocol"] == 6).text("initiator").decode()) <= {"local"}
    account = accounts.read()
    assert (account.captured, account.residue, account.lost_frames) == (batch.amounts(), Amounts(), {})


@pytest.mark.parametrize(
    "shape",
    [
        Shape(v6=0.0),
        Shape(v6=1.0),
        Shape(vlan=0.5),
        Shape(vlan=1.0, v6=1.0),
        Shape(snap=72),
        Shape(snap=80, vlan=0.5),
        Shape(snap=0, packets=1000),
        Shape(udp=0.0),
        Shape(udp=1.0),
        Shape(packets=20_000, sessions=900, vlan=0.4),
    ],
    ids=str,
)
def test_rows_are_the_generators_truth(shape: Shape, tmp_path: Path) -> None:
    """Octets, packets, content and flows of every session equal what was made: IPv4, IPv6, VLAN, cut frames, mixed."""
    made, accounts = traffic(shape), Accounts()
    batch = rows(collector(write(tmp_path / "a.pcap", made.pcap()), accounts=accounts))
    check(made, batch, accounts)


@pytest.mark.parametrize(("nano", "order"), [(True, "<"), (False, ">"), (True, ">")])
def test_the_container_changes_no_row(tmp_path: Path, nano: bool, order: str) -> None:
    """Nanosecond and big-endian captures give the rows of the ordinary one."""
    ordinary = rows(collector(write(tmp_path / "a.pcap", MIXED.pcap())))
    other = rows(collector(write(tmp_path / "a.pcap", MIXED.pcap(nano=nano, order=order))))
    assert list(other.rows()) == list(ordinary.rows())


@pytest.mark.parametrize("chunk_octets", [24, 997, 8192, 100_003])
def test_the_size_of_chunks_changes_no_row(tmp_path: Path, chunk_octets: int) -> None:
    """Read in odd pieces, down to one frame at a time, a capture gives the same rows and the same account."""
    path = write(tmp_path / "a.pcap", traffic(Shape(packets=3000, sessions=150, vlan=0.4)).pcap())
    one, other = Accounts(), Accounts()
    whole = rows(collector(path, accounts=one))
    pieces = rows(collector(path, accounts=other, chunk_octets=chunk_octets))

    def ordered(batch: FlowBatch) -> list[str]:
        return sorted(str(sorted(row.items(), key=str)) for row in batch.rows())

    assert ordered(pieces) == ordered(whole)
    assert one.read() == other.read()


def test_batches_say_where_they_come_from(tmp_path: Path) -> None:
    """The header names host, collector and how far into the file the rows reach; the vantage is the file."""
    octets = MIXED.pcap()
    path = write(tmp_path / "day1.pcap", octets)
    batches = list(collector(path, chunk_octets=50_000).collect(threading.Event()))
    positions = [int(batch.header.position.removeprefix("day1.pcap:")) for batch in batches]
    assert (positions == sorted(positions), positions[-1]) == (True, len(octets))
    assert {(batch.header.host, batch.header.collector) for batch in batches} == {("db-01", "pcap")}
    assert set(concat(batches).text("vantage").decode()) == {"pcap:day1.pcap"}


@pytest.mark.parametrize("chunk_octets", [16_384, 1 << 20])
def test_files_that_overlap_are_read_side_by_side(tmp_path: Path, chunk_octets: int) -> None:
    """Batches follow each other in time, whatever the order given; each file is a vantage of its own."""
    first = write(tmp_path / "b.pcap", MIXED.pcap())
    second = write(tmp_path / "a.pcap", MIXED.pcap())
    batches = list(collector(first, second, chunk_octets=chunk_octets).collect(threading.Event()))
    batch = concat(batches)
    vantages = Counter(batch.text("vantage").decode())
    assert vantages == {"pcap:b.pcap": len(batch) // 2, "pcap:a.pcap": len(batch) // 2}
    assert batch.amounts().flows == 2 * MIXED.truth.sessions
    ends = np.concatenate([np.sort(b["end_ns"]) for b in batches])
    assert int((np.maximum.accumulate(ends) - ends).max()) <= 16 * SECOND_NS


def test_files_that_do_not_overlap_are_read_oldest_first(tmp_path: Path) -> None:
    """Files of one capture that was cut by time may be given in any order; no flow goes on from one into the next."""
    parts = []
    for number in (0, 1):
        times = [divmod(int(t) // 1000 + number * 3600 * 10**6, 10**6) for t in MIXED.time_ns]
        frames = [f[:n].tobytes() for f, n in zip(MIXED.frames, MIXED.captured.tolist(), strict=True)]
        octets = classic(frames, times=times, lengths=MIXED.length.tolist())
        parts.append(write(tmp_path / f"{number}.pcap", octets))
    batch = rows(collector(parts[1], parts[0]))
    vantages = batch.text("vantage").decode()
    half = len(vantages) // 2
    assert vantages == ["pcap:0.pcap"] * half + ["pcap:1.pcap"] * half


def test_progress_is_in_octets_of_the_files_as_they_lie(tmp_path: Path) -> None:
    """Progress goes from nothing to all octets of all files; with standard input among them there is none."""
    paths = [write(tmp_path / name, MIXED.pcap()) for name in ("a.pcap", "b.pcap")]
    size = len(MIXED.pcap())
    pcap = collector(*paths, chunk_octets=65_536)
    seen = [pcap.progress() for _ in pcap.collect(threading.Event())]
    read = [at for at, _ in seen]  # type: ignore[misc]
    assert (read == sorted(read), read[0] <= 65_536, pcap.progress()) == (True, True, (2 * size, 2 * size))
    assert collector(Path("-")).progress() is None


def test_stop_gives_out_what_is_held(tmp_path: Path) -> None:
    """With stop set between two chunks, all that was read is yielded, and the rest is left."""
    accounts, stop = Accounts(), threading.Event()
    batches = []
    for batch in collector(
        write(tmp_path / "a.pcap", MIXED.pcap()), accounts=accounts, chunk_octets=65_536
    ).collect(stop):
        stop.set()
        batches.append(batch)
    amounts = concat(batches).amounts()
    assert 0 < amounts.octets_out < MIXED.truth.octets_out
    assert (accounts.read().captured, accounts.read().residue) == (amounts, Amounts())


def test_a_fault_deep_in_a_file_costs_nothing_before_it(tmp_path: Path) -> None:
    """Rows of all whole records are yielded, then the other files are read, then the fault is raised."""
    bad = write(tmp_path / "bad.pcap", MIXED.pcap() + b"\xff" * 40)
    good = write(tmp_path / "good.pcap", MIXED.pcap())
    batches = []
    with pytest.raises(DecodeError, match=f"bad.pcap, byte {len(MIXED.pcap())}: a record claims 4294967295 "):
        for batch in collector(bad, good).collect(threading.Event()):
            batches.append(batch)  # noqa: PERF402  what came before the fault is the point
    counted = Counter(concat(batches).text("vantage").decode())
    assert counted["pcap:bad.pcap"] == counted["pcap:good.pcap"] > 0
    assert concat(batches).amounts().octets_out == 2 * MIXED.truth.octets_out


def test_several_faults_are_told_together(tmp_path: Path) -> None:
    """Every file that cannot be read is named in one error."""
    empty = write(tmp_path / "empty.pcap", b"")
    pcap = collector(empty, tmp_path / "none.pcap")
    with pytest.raises(CaptureError, match=r"empty.pcap: is empty.*\n.*none.pcap: there is no such file"):
        rows(pcap)


def test_what_is_lost_is_counted_and_what_is_no_ip_is_not(tmp_path: Path) -> None:
    """Cut, undecodable and torn frames and bad times are lost frames with their octets; ARP is none."""
    ether = b"\x02" * 12
    frames = [
        ether + b"\x08\x06" + bytes(46),
        ether + b"\x08\x00\x45" + bytes(10),
        ether + b"\x08\x00\x43" + bytes(59),
        ether + b"\x88\xb5" + bytes(50),
    ]
    accounts = Accounts()
    torn = classic(frames, lengths=[60, 500, 74, 64]) + struct.pack("<IIII", 5, 0, 100, 768) + b"x" * 10
    pcap = collector(write(tmp_path / "a.pcap", torn), accounts=accounts)
    assert len(rows(pcap)) == 0
    assert accounts.read().lost_frames == {
        "truncated": (1, 500),
        "undecodable": (2, 74 + 64),
        "torn_tail": (1, 768),
    }
    assert pcap.seen == Seen(frames=4, packets=0, odd=1, repaired=0)
    late = section() + interface() + enhanced(b"x" * 60, 2**64 - 1)
    rows(collector(write(tmp_path / "b.pcapng", late), accounts=accounts))
    assert accounts.read().lost_frames["time_out_of_range"] == (1, 60)


def test_link_types_may_be_mixed_in_one_file(tmp_path: Path) -> None:
    """Frames of Ethernet, raw IP and MPLS interfaces of one pcapng are one stream of packets in order."""
    octets = (
        section() + interface(1, option(2, b"eth0")) + interface(101, option(2, b"tun0")) + interface(219)
    )
    label = b"\0\1\x01\x40"
    for i, frame in enumerate(MIXED.frames[:300]):
        whole = frame[: MIXED.captured[i]].tobytes()
        at = 18 if whole[12:14] == b"\x81\0" else 14
        number = i % 3
        body = whole if number == 0 else whole[at:] if number == 1 else label + whole[at:]
        cut = len(whole) - len(body)
        ticks = int(MIXED.time_ns[i]) // 1000
        octets += enhanced(body, ticks, number, length=int(MIXED.length[i]) - cut)
    plain = classic(
        [MIXED.frames[i][: MIXED.captured[i]].tobytes() for i in range(300)],
        times=[divmod(int(t) // 1000, 10**6) for t in MIXED.time_ns[:300]],
        lengths=MIXED.length[:300].tolist(),
    )
    mixed = collector(write(tmp_path / "a", octets))
    batch = rows(mixed)
    assert set(batch.text("interface").decode()) == {"eth0", "tun0", None}
    assert mixed.seen == Seen(frames=300, packets=300, odd=100, repaired=0)
    want = rows(collector(write(tmp_path / "a", plain)))
    assert [{**row, "interface": None} for row in batch.rows()] == list(want.rows())


def test_time_may_run_backwards(tmp_path: Path) -> None:
    """Frames out of order, and one dated 2106, lose no octets."""
    order = np.random.default_rng(3).permutation(len(MIXED.frames))
    times = [divmod(int(t) // 1000, 10**6) for t in MIXED.time_ns[order]]
    times[500] = (2**32 - 1, 0)
    octets = classic(
        [MIXED.frames[i][: MIXED.captured[i]].tobytes() for i in order.tolist()],
        times=times,
        lengths=MIXED.length[order].tolist(),
    )
    accounts = Accounts()
    batch = rows(collector(write(tmp_path / "a", octets), accounts=accounts))
    assert by_session(batch) == MIXED.sessions
    assert int(batch["end_ns"].max()) == (2**32 - 1) * SECOND_NS
    assert (accounts.read().captured, accounts.read().residue) == (batch.amounts(), Amounts())


def test_by_default_nobody_elses_addresses_and_the_sites_are_local(tmp_path: Path) -> None:
    """Loopback, link-local, private, unique local and shared ranges and the policy's sites are local; others are not."""
    policy = Policy(sites=(Site(id="hq", networks=("203.0.113.0/24",)),))  # type: ignore[arg-type]
    own = NetworkSet(own_networks(policy))
    local = (
        "127.0.0.1",
        "169.254.1.1",
        "10.1.2.3",
        "192.168.1.1",
        "100.64.0.1",
        "fd00::1",
        "fe80::1",
        "203.0.113.9",
    )
    assert [address in own for address in local] == [True] * len(local)
    assert [address in own for address in ("198.51.100.1", "224.0.0.1", "2001:db8::1")] == [False] * 3
    assert "203.0.113.9" not in NetworkSet(own_networks(None))
    built = Settings(files=(tmp_path / "a",)).build(Context(Accounts(), tmp_path, policy=policy))
    assert built._local.networks == own.networks


FILES = sorted((TESTDATA / "pcap").glob("*.pcap*")) if TESTDATA else []


@pytest.mark.testdata
def test_captures_made_by_others_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Every capture at hand is read to its end, each frame accounted for, and the octets of the known ones are exact."""
    assert FILES
    with capsys.disabled():
        print("\nfile, frames, packets, to scapy, repaired, lost")
    for path in FILES:
        accounts = Accounts()
        # With nobody local each packet is in one row; with both ends local it would be in two.
        pcap = Pcap(Settings(files=(path,)), NetworkSet(), accounts, "db-01")
        batch = rows(pcap)
        account, seen = accounts.read(), pcap.seen
        with capsys.disabled():
            print(path.name, seen.frames, seen.packets, seen.odd, seen.repaired, dict(account.lost_frames))
        assert account.captured == batch.amounts()
        lost = sum(n for reason, (n, _) in account.lost_frames.items() if reason != "torn_tail")
        assert seen.packets + lost <= seen.frames
        assert int((batch["packets_out"] + batch["packets_in"]).sum()) == seen.packets
        amounts = batch.amounts()
        if wanted := OCTETS.get(path.name):
            assert amounts.octets_out + amounts.octets_in == wanted


OCTETS = {
    "tcpdump__bigtcp-ipv4.pcap": 80_052,
    "tcpdump__ipv4_tcp_http_xml_tso.pcap": 2016,
    "tcpdump__ipv6_jumbogram_1.pcap": 65_576,
    "tcpdump__tcp-handshake-nano.pcap": 172,
}
"""IP octets by hand: offload frames and a jumbogram by the wire."""
