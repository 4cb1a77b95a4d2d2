"""The flow table against the packet-by-packet oracle, and fact by fact."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.accounts import Accounts, Amounts
from agent.core.address import NetworkSet, parse
from agent.core.flow import FlowBatch, Mark, concat
from collectors.flowtable import cuts, flows, table
from collectors.flowtable.flows import FlowTable
from collectors.packets.packet import Packets
from tests.tools.flow_rule import COLUMNS, FlowRule, Packet, comparable, rows_of

S = 1_000_000_000
T0 = 1_800_000_000 * S  # a whole minute
OWN = NetworkSet(["192.0.2.0/24", "2001:db8:1::/48"])
HERE, THERE, ELSEWHERE = "192.0.2.1", "198.51.100.7", "203.0.113.9"
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
INTERFACES = ("eth0", "eth1")


def columns(packets: Sequence[Packet]) -> Packets:
    """The packets as the table takes them."""

    def numbers(name: str, kind: type[np.generic]) -> Any:
        values = [getattr(p, name) for p in packets]
        return np.array([-1 if v is None else v for v in values], kind)

    interface = [-1 if p.interface is None else INTERFACES.index(p.interface) for p in packets]
    return Packets(
        time_ns=numbers("time_ns", np.int64),
        source=parse(p.source for p in packets),
        target=parse(p.target for p in packets),
        source_port=numbers("source_port", np.int32),
        target_port=numbers("target_port", np.int32),
        protocol=numbers("protocol", np.uint8),
        octets=numbers("octets", np.int64),
        content_octets=numbers("content_octets", np.int64),
        packets=numbers("packets", np.int64),
        tcp_flags=numbers("tcp_flags", np.int16),
        sent=np.full(len(packets), -1, np.int8),
        interface=np.array(interface, np.int32),
    )


def make(accounts: Accounts | None = None, **rest: Any) -> FlowTable:
    rest.setdefault("seed", 1)
    return FlowTable(
        local=OWN.contains,
        vantage="pcap:test",
        interfaces=INTERFACES,
        accounts=accounts or Accounts(),
        **rest,
    )


def rows(batches: Iterable[FlowBatch]) -> list[tuple[Any, ...]]:
    return comparable(row for batch in batches for row in batch.rows())


def truth(packets: Sequence[Packet]) -> list[tuple[Any, ...]]:
    return comparable(rows_of(packets, OWN.__contains__, vantage="pcap:test"))


def run(packets: Sequence[Packet], **rest: Any) -> list[dict[str, Any]]:
    """All rows of one table, those of a flush at the end included, as dicts, in order."""
    table = make(**rest)
    out = [table.add(columns(packets)), table.flush()]
    assert rows(out) == truth(packets)
    return [{name: row[name] for name in COLUMNS} for batch in out for row in batch.rows()]


def tcp(
    at: float, flags: int, *, out: bool = True, size: int = 100, ports: tuple[int, int] = (40000, 443)
) -> Packet:
    here, there = (HERE, ports[0]), (THERE, ports[1])
    source, target = (here, there) if out else (there, here)
    return Packet(
        T0 + int(at * S),
        source[0],
        target[0],
        source[1],
        target[1],
        6,
        size,
        max(size - 40, 0),
        1,
        flags,
        "eth0",
    )


def udp(at: float, source: str = HERE, target: str = THERE, ports: tuple[int, int] = (5000, 5001)) -> Packet:
    return Packet(T0 + int(at * S), source, target, ports[0], ports[1], 17, 100, 72)


def summary(found: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in found]


# ---- the whole rule against the oracle -------------------------------------------------------------------------------

ADDRESSES = (
    HERE,
    "192.0.2.2",
    THERE,
    ELSEWHERE,
    "2001:db8:1::1",
    "2001:db8:1::2",
    "2001:db8:2::1",
    "a001:db8:2::1",
)
STEPS = (
    0,
    0,
    0,
    1,
    1000,
    S // 2,
    S,
    7 * S,
    15 * S - 1,
    15 * S,
    20 * S,
    59 * S,
    130 * S,
    -1,
    -S,
    -14 * S,
    -16 * S,
    -70 * S,
)
FLAGS = (
    SYN,
    SYN,
    SYN | ACK,
    ACK,
    ACK,
    ACK,
    FIN | ACK,
    FIN | ACK,
    RST,
    RST | ACK,
    SYN | FIN,
    SYN | RST,
    0,
    0xFF,
)


@st.composite
def packet_streams(draw: st.DrawFn, steps: Sequence[int] = STEPS) -> list[Packet]:
    """Few ends and ports, so that flows meet; times that step, stand, and run backwards."""
    addresses = draw(st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=4))
    ports = draw(st.lists(st.sampled_from((443, 80, 2000, 3000, 40000, 50000)), min_size=1, max_size=3))
    time = T0 + draw(st.integers(0, 60 * S))
    out = []
    for _ in range(draw(st.integers(0, 60))):
        time += draw(st.sampled_from(steps))
        protocol = draw(st.sampled_from((6, 6, 6, 6, 17, 1)))
        with_ports = protocol in (6, 17) and draw(st.integers(0, 9)) > 0
        size = draw(st.integers(28, 65535))
        out.append(
            Packet(
                time,
                draw(st.sampled_from(addresses)),
                draw(st.sampled_from(addresses)),
                draw(st.sampled_from(ports)) if with_ports else None,
                draw(st.sampled_from(ports)) if with_ports else None,
                protocol,
                size,
                size - 28,
                draw(st.sampled_from((1, 1, 1, 44))),
                draw(st.sampled_from(FLAGS)) if protocol == 6 and with_ports else None,
                draw(st.sampled_from((None, *INTERFACES))),
            )
        )
    return out


PROPERTY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check_events(packets: list[Packet], parts: list[int], nows: dict[int, int], **rest: Any) -> None:
    """Table and oracle give the same rows for the packets cut into parts, with ``expire`` after some parts."""
    accounts = Accounts()
    mine = make(accounts, **rest)
    theirs = FlowRule(OWN.__contains__, vantage="pcap:test")
    batches, handed = [], Amounts()
    start = 0
    for number, end in enumerate([*sorted(parts), len(packets)]):
        batches.append(mine.add(columns(packets[start:end])))
        for packet in packets[start:end]:
            theirs.add(packet)
        if number in nows:
            batches.append(mine.expire(nows[number]))
            theirs.expire(nows[number])
        start = end
        handed = sum((b.amounts() for b in batches), Amounts())
        account = accounts.check().read()
        assert account.in_memory == mine.amounts() + handed == account.captured
    batches.append(mine.flush())
    assert rows(batches) == comparable(theirs.flush())
    assert (mine.amounts(), len(mine)) == (Amounts(), 0)
    assert concat(batches).amounts() == accounts.check().read().captured


@PROPERTY
@given(packet_streams(), st.data())
def test_table_equals_oracle_however_packets_are_cut(packets: list[Packet], data: st.DataObject) -> None:
    """The table gives the oracle's rows for any packets in any parts, with any calls of expire between them."""
    parts = data.draw(st.lists(st.integers(0, len(packets)), max_size=8))
    newest = max((p.time_ns for p in packets), default=T0)
    offsets = st.sampled_from((-80 * S, -20 * S, -S, 0, S, 15 * S))
    nows = {
        number: newest + data.draw(offsets)
        for number in data.draw(st.sets(st.integers(0, len(parts)), max_size=3))
    }
    check_events(packets, parts, nows)


@PROPERTY
@given(packet_streams(steps=[s for s in STEPS if s >= 0]), st.data())
def test_expire_changes_nothing_while_time_runs_forwards(packets: list[Packet], data: st.DataObject) -> None:
    """Rows are the same with and without expire, as long as no packet is older than its time."""
    found = make()
    batches = []
    for packet in packets:
        batches.append(found.add(columns([packet])))
        if data.draw(st.booleans()):
            batches.append(found.expire(packet.time_ns))
    assert rows([*batches, found.flush()]) == truth(packets)


@settings(parent=PROPERTY, max_examples=60)
@given(packet_streams(), st.lists(st.integers(0, 60), max_size=4), st.integers(0, 3))
def test_table_is_right_when_hashes_collide(packets: list[Packet], parts: list[int], bits: int) -> None:
    """Keys of equal hash are kept apart by the whole key, in a piece and in the table."""
    mine = make()
    mine._hash = lambda key: (key.sum(axis=0) & np.uint64(bits)) << np.uint64(62)  # type: ignore[assignment]
    batches, start = [], 0
    for end in [*sorted(min(p, len(packets)) for p in parts), len(packets)]:
        batches.append(mine.add(columns(packets[start:end])))
        start = end
    assert rows([*batches, mine.flush()]) == truth(packets)


def test_many_flows_in_small_pieces_equal_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of flows that grow the table, leave it and come again give the oracle's rows."""
    monkeypatch.setattr(flows, "_PIECE", 700)
    random = np.random.default_rng(5)
    packets = []
    for n in range(12_000):
        port = int(random.integers(1, 9000))
        at = n * 0.01 + float(random.integers(-2, 3))
        packets.append(
            udp(at, *((HERE, THERE) if random.integers(2) else (THERE, HERE)), ports=(port, port + 1))
        )
    mine = make()
    batches = [mine.add(columns(packets[at : at + 1500])) for at in range(0, len(packets), 1500)]
    assert rows([*batches, mine.flush()]) == truth(packets)


@pytest.mark.parametrize("octets", [(1 << 31) - 1, 1 << 31, (1 << 40) + 1])
@pytest.mark.parametrize("frames", [1, 45])
def test_amounts_of_any_size_are_summed_exactly(octets: int, frames: int) -> None:
    """Sums past 2**31 octets in one piece, and frames that are many packets, equal the oracle's."""
    packets = [
        Packet(1_000 + n, *ends, 17, octets + n, octets + n - 28, frames if n else 1)
        for n in range(6)
        for ends in ((HERE, THERE, 5000, 5001), (THERE, HERE, 5001, 5000), (HERE, THERE, 5002, 5001))
    ]
    assert rows([(table := make()).add(columns(packets)), table.flush()]) == truth(packets)


def test_rows_are_equal_whatever_the_seed() -> None:
    """Rows come in the same order whatever the hash, so that a replay is reproducible."""
    packets = [udp(n % 7, ports=(1000 + n % 50, 53)) for n in range(300)]
    first, second = (make(seed=seed) for seed in (1, 2))
    assert [list(b.rows()) for b in (first.add(columns(packets)), first.flush())] == [
        list(b.rows()) for b in (second.add(columns(packets)), second.flush())
    ]


# ---- fact by fact ----------------------------------------------------------------------------------------------------


def test_a_connection_is_one_row() -> None:
    """A connection from SYN to both FINs is one row of one flow with all amounts, as its local end saw it."""
    packets = [
        tcp(1, SYN, size=60),
        tcp(1.1, SYN | ACK, out=False, size=60),
        tcp(1.2, ACK, size=1500),
        tcp(1.3, ACK, out=False, size=40),
        tcp(2, FIN | ACK, size=40),
        tcp(2.1, FIN | ACK, out=False, size=40),
    ]
    expected = {
        "local_address": HERE,
        "remote_address": THERE,
        "local_port": 40000,
        "remote_port": 443,
        "protocol": 6,
        "initiator": "local",
        "interface": "eth0",
        "flows": 1,
        "octets_out": 1600,
        "packets_out": 3,
        "octets_in": 140,
        "packets_in": 3,
        "content_octets_out": 1480,
        "start_ns": T0 + S,
        "end_ns": T0 + int(2.1 * S),
        "tcp_flags": SYN | ACK | FIN,
        "end_reason": "end",
        "vantage": "pcap:test",
        "marks": 0,
    }
    assert run(packets) == [expected]


def test_fifteen_seconds_of_silence_end_a_flow() -> None:
    """A packet 15 s after the last one begins a new flow; one nanosecond less goes on with it."""
    assert summary(run([udp(1), udp(16)]), "flows", "end_reason") == [(1, "idle"), (1, "forced")]
    assert summary(run([udp(1), udp(15.999999999)]), "flows", "packets_out") == [(1, 2)]


def test_rows_are_cut_on_the_minute() -> None:
    """A flow gives one row for each UTC minute, flows counted in the first, initiator kept in all."""
    packets = [
        tcp(50, SYN),
        tcp(59.9, ACK),
        tcp(60, ACK),
        tcp(70, ACK),
        tcp(80, ACK),
        tcp(94, ACK),
        tcp(108, ACK),
        tcp(122, RST),
    ]
    names = ("flows", "packets_out", "initiator", "end_reason", "marks")
    assert summary(run(packets), *names) == [
        (1, 2, "local", "active", 0),
        (0, 5, "local", "active", 0),
        (0, 1, "local", "end", 0),
    ]


def test_a_port_used_again_is_a_new_flow() -> None:
    """A SYN on a key that carried FIN or RST begins a new flow; without them it is a retransmission."""
    again = [tcp(1, SYN), tcp(2, FIN | ACK), tcp(3, SYN), tcp(4, RST), tcp(5, SYN), tcp(6, SYN)]
    assert summary(run(again), "packets_out", "end_reason") == [(2, "end"), (2, "end"), (2, "forced")]


def test_initiator_of_a_connection_seen_from_its_middle() -> None:
    """Without SYN the higher port's end opened it, where exactly one port is low; the row is marked midstream."""
    middle = int(Mark.MIDSTREAM)
    for ports, expected in (
        ((40000, 443), "local"),
        ((443, 2000), "remote"),
        ((2000, 40000), "remote"),
        ((2000, 3000), None),
        ((80, 443), None),
        ((40000, 50000), None),
    ):
        assert summary(run([tcp(0, ACK, ports=ports)]), "initiator", "marks") == [(expected, middle)]


def test_initiator_from_syn_ack() -> None:
    """Where only the answer was seen, the end that it was sent to opened the connection."""
    assert summary(run([tcp(0, SYN | ACK, ports=(443, 80))]), "initiator", "marks") == [("remote", 0)]


def test_initiator_of_other_protocols() -> None:
    """The first sender opened it, once the watch is older than the idle time; before that the ports decide."""
    early, late = udp(0, THERE, HERE), udp(20, THERE, HERE, ports=(1, 2))
    assert summary(run([early, late]), "initiator") == [(None,), ("remote",)]


def test_both_ends_local_give_a_row_each() -> None:
    """Between two local ends each has a row, and what one sent is what the other received."""
    packets = [udp(1, HERE, "192.0.2.2"), udp(2, HERE, "192.0.2.2")]
    names = ("local_address", "remote_address", "flows", "octets_out", "octets_in")
    assert summary(run(packets), *names) == [
        (HERE, "192.0.2.2", 1, 200, 0),
        ("192.0.2.2", HERE, 1, 0, 200),
    ]


def test_neither_end_local_is_transit() -> None:
    """Between two foreign ends the first packet's source stands as the local one and the row is marked transit."""
    packets = [udp(1, THERE, ELSEWHERE), udp(2, ELSEWHERE, THERE, ports=(5001, 5000))]
    names = ("local_address", "octets_out", "octets_in", "marks")
    assert summary(run(packets), *names) == [(THERE, 100, 100, int(Mark.TRANSIT))]


def test_time_running_backwards_loses_nothing() -> None:
    """A packet older than the flow's row goes into a row of its own minute; the sums stay whole."""
    found = run([udp(61), udp(59), udp(62)])
    assert summary(found, "start_ns", "packets_out", "flows") == [
        (T0 + 59 * S, 1, 0),
        (T0 + 61 * S, 1, 1),
        (T0 + 62 * S, 1, 0),
    ]


def test_a_late_packet_does_not_make_its_flow_older() -> None:
    """After a late packet from the minute before, idle still counts from the newest packet, in whatever chunks."""
    packets = [udp(61), udp(59), udp(75.5)]
    mine = make()
    found = [mine.add(columns([packet])) for packet in packets]
    assert rows([*found, mine.flush()]) == truth(packets)
    assert summary(run(packets), "flows", "packets_out") == [(0, 1), (1, 1), (0, 1)]


def test_one_wrong_clock_reading_does_not_break_every_flow() -> None:
    """After one packet from the year 2106 other flows are cut once, not at every packet."""
    far = dataclasses.replace(udp(0, ELSEWHERE), time_ns=(2**32 - 1) * S)
    packets = [udp(1), far, *(udp(2 + n / 10) for n in range(50))]
    assert sorted(summary(run(packets), "packets_out")) == [(1,), (1,), (50,)]


def test_expire_gives_out_idle_flows() -> None:
    """Expire gives out a flow 15 s after its last packet and not before."""
    mine = make()
    mine.add(columns([udp(1)]))
    assert len(mine.expire(T0 + 16 * S - 1)) == 0
    found = mine.expire(T0 + 16 * S)
    assert summary(list(found.rows()), "end_reason", "packets_out") == [("idle", 1)]
    assert (len(mine), mine.amounts()) == (0, Amounts())


def test_add_gives_out_flows_that_fell_silent() -> None:
    """The packets' own times move the clock: a silent flow is given out while others go on, without expire."""
    mine = make()
    mine.add(columns([udp(1)]))
    found = mine.add(columns([udp(n, ports=(7, 8)) for n in range(2, 18)]))
    assert summary(list(found.rows()), "local_port", "end_reason") == [(5000, "idle")]


def test_a_full_table_gives_out_the_longest_idle() -> None:
    """Over the limit the flows idle for longest leave with reason resources, counted, and nothing is lost."""
    accounts = Accounts()
    mine = make(accounts, max_flows=100)
    found = mine.add(columns([udp(n / 100, ports=(1000 + n, 53)) for n in range(150)]))
    assert set(summary(list(found.rows()), "end_reason")) == {("resources",)}
    assert [row["local_port"] for row in found.rows()] == list(range(1000, 1060))
    assert (mine.evicted, len(mine)) == (60, 90)
    assert found.amounts() + mine.amounts() == accounts.check().read().captured == Amounts(150, 15000, 0)


def test_no_packets_give_no_rows() -> None:
    """An empty chunk, and a flush of an empty table, give an empty batch."""
    mine = make()
    assert [len(mine.add(columns([]))), len(mine.expire(T0)), len(mine.flush())] == [0, 0, 0]


def test_table_can_be_used_after_a_flush() -> None:
    """A flush forgets all flows, and the next packet begins a new one."""
    mine = make()
    mine.add(columns([udp(1)]))
    mine.flush()
    mine.add(columns([udp(2)]))
    assert summary(list(mine.flush().rows()), "flows", "packets_out") == [(1, 1)]


def test_hash_tells_top_bits_of_two_words_apart() -> None:
    """Flipping the top bits of two key words, which any odd multiplier leaves alone, changes the hash."""
    key = np.zeros((5, 2), np.uint64)
    key[[0, 2], 1] = 1 << 63
    key[0:2, 1] ^= np.uint64(1 << 31)
    for seed in range(20):
        first, second = table.KeyHash(seed)(key).tolist()
        assert first != second
    assert table.KeyHash()(key).tolist() != table.KeyHash()(key).tolist()


def test_memory_for_each_flow_is_bounded() -> None:
    """A hundred thousand flows take at most 300 octets each."""
    mine = make()
    n = 100_000
    one = columns([udp(0)])
    many = one.take(np.zeros(n, np.int64))
    ports = (np.arange(n) % 50_000).astype(np.int32)
    many = dataclasses.replace(many, source_port=ports, target_port=(np.arange(n) // 50_000).astype(np.int32))
    mine.add(many)
    assert len(mine) == n
    assert mine._slots._top * (table.WIDTH + 1) * 8 + mine._slots._index.nbytes <= 300 * n


def test_very_wide_times_are_cut_the_same() -> None:
    """Where times span too far for one running maximum, keys are taken one by one with the same result."""
    packets = [udp(n % 3, ports=(n % 5, 9)) for n in range(40)]
    packets.insert(3, dataclasses.replace(udp(0), time_ns=-(1 << 61)))
    run(packets)
    values = np.array([5, 3, 9, -(1 << 61), 1, 0, 2, 1], np.int64)
    starts = np.array([0, 3, 5], np.int64)
    assert cuts._newest(values, starts).tolist() == [5, 5, 9, -(1 << 61), 1, 0, 2, 2]
