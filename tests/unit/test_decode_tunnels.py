"""What is inside of tunnels: each kind, what stays outer, and what the rules say of lengths, fragments and segments."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, GRE, Dot1Q
from scapy.layers.vxlan import VXLAN

from agent.core.address import texts
from collectors.packets.decode import Decoded, decode
from collectors.packets.inner import MOST_NESTED, decode_inner
from collectors.packets.odd import decode_any
from tests.fuzz import fuzz_tunnels
from tests.tools.encapsulated import A4, A6, B4, B6, GATES, LINKS, OUTER, OUTER6, TUNNELS, U4, U6, E, udp

UDP4 = (A4, B4, 53, 4000, 17, 128, 100)
UDP6 = (A6, B6, 53, 4000, 17, 148, 100)
COLUMNS = ("source_port", "target_port", "protocol", "octets", "content_octets")


def run(frames: Sequence[bytes], *, length: Sequence[int] | None = None, **rest: Any) -> Decoded:
    data = np.frombuffer(b"".join(frames), np.uint8)
    captured = np.array([len(frame) for frame in frames], np.int64)
    wire = captured if length is None else np.array(length, np.int64)
    starts = np.cumsum(captured) - captured
    return decode_inner(decode, data, starts, captured, wire, np.arange(len(frames)), 1, **rest)


def rows(found: Decoded) -> list[tuple[Any, ...]]:
    """(source, target, ports, protocol, octets, content) of each packet."""
    packets = found.packets
    numbers = (getattr(packets, name).tolist() for name in COLUMNS)
    return list(zip(texts(packets.source), texts(packets.target), *numbers, strict=True))


def one(packet: Any, *, cut: int = 0) -> tuple[tuple[Any, ...], dict[str, int]]:
    frame = bytes(E / packet)
    found = run([frame[: len(frame) - cut]], length=[len(frame)])
    return rows(found)[0], dict(found.repaired)


def outer(packet: Any) -> tuple[Any, ...]:
    frame = bytes(E / packet)
    size = np.array([len(frame)])
    return rows(decode(np.frombuffer(frame, np.uint8), np.array([0]), size, size, size, 1))[0]


@pytest.mark.parametrize("name", TUNNELS)
def test_the_packet_inside_takes_the_place_of_the_outer_one(name: str) -> None:
    """Every kind of tunnel gives the packet in it with its own octets; nothing is counted as unread."""
    packet = TUNNELS[name]
    expected = UDP4 if bytes(packet).endswith(bytes(U4)) else UDP6
    assert one(packet) == (expected, {})


@pytest.mark.parametrize("name", LINKS)
def test_frames_without_a_tunnel_stay_as_they_are(name: str) -> None:
    """Asking for the inside changes nothing where there is none, under every link type."""
    link, packet = LINKS[name]
    frame = bytes(packet)
    size = np.array([len(frame)])
    arguments = (np.frombuffer(frame, np.uint8), np.array([0]), size, size, np.array([7]), link)
    found = decode_inner(decode_any, *arguments)
    assert rows(found) == rows(decode_any(*arguments)) == [UDP4 if bytes(U4) in frame else UDP6]


def test_all_kinds_at_once_keep_their_order_and_columns() -> None:
    """A chunk of all tunnels and plain frames: each in its place, with the time, interface and direction of its frame."""
    packets = [U4, *TUNNELS.values(), U6]
    frames = [bytes(E / packet) for packet in packets]
    n = len(frames)
    sent = np.array([i % 2 for i in range(n)], np.int8)
    found = run(frames, interface=np.arange(n, dtype=np.int32), sent=sent)
    assert rows(found) == [UDP4 if frame.endswith(bytes(U4)) else UDP6 for frame in frames]
    assert found.packets.time_ns.tolist() == found.packets.interface.tolist() == list(range(n))
    assert found.packets.sent.tolist() == sent.tolist()
    assert found.order.tolist() == list(range(n))


KEPT = {
    "GRE keep-alive": (IP(**GATES, proto=47) / b"\0\0\0\0", {}),
    "ARP in VXLAN": (udp(4789) / VXLAN(flags="Instance") / E / ARP(), {}),
    "GTP echo": (udp(2152) / bytes([0x32, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]), {}),
    "PPTP acknowledgement": (IP(**GATES, proto=47) / bytes.fromhex("2081880b0000000000000001"), {}),
    "encrypted PPTP": (
        IP(**GATES, proto=47) / (bytes.fromhex("3001880b0040000000000001fd") + b"\x45" * 64),
        {},
    ),
    "VXLAN without its flag": (udp(4789) / (b"\0" * 8) / E / U4, {"inner_undecodable": 1}),
    "Geneve version 1": (udp(6081) / b"\x40\0\x65\x58\0\0\0\0" / E / U4, {"inner_undecodable": 1}),
    "GRE version 2": (IP(**GATES, proto=47) / b"\0\2\x08\0" / U4, {"inner_undecodable": 1}),
    "GRE with routing": (IP(**GATES, proto=47) / b"\x40\0\x08\0" / U4, {"inner_undecodable": 1}),
    "ERSPAN version 7": (
        IP(**GATES, proto=47) / (b"\x10\0\x88\xbe\0\0\0\1" + b"\x70" * 12) / E / U4,
        {"inner_undecodable": 1},
    ),
    "GTP-U extension of no length": (
        udp(2152) / (bytes([0x34, 255, 0, 140, 0, 0, 0, 7, 0, 0, 0, 0x85]) + bytes(8)) / U4,
        {"inner_undecodable": 1},
    ),
    "IPv6 in protocol 4": (IP(**GATES, proto=4) / U6, {"inner_undecodable": 1}),
    "no room for a header": (IP(**GATES, proto=4) / b"\x45\0\0\x14", {"inner_truncated": 1}),
    "a packet that claims more": (
        OUTER / IP(src=A4, dst=B4, len=900) / UDP(sport=1, dport=2),
        {"inner_length": 1},
    ),
    "a packet that claims less": (OUTER / IP(src=A4, dst=B4, len=20) / (b"x" * 900), {"inner_length": 1}),
    "plain UDP to a tunnel's port": (udp(4789) / (b"hello" * 20), {"inner_undecodable": 1}),
    "ICMP error about a tunnel": (OUTER / ICMP(type=3, code=4) / OUTER / GRE() / U4, {}),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_be_read_inside_leaves_the_outer_packet(name: str) -> None:
    """Control messages, broken headers and lengths that do not fit count the outer packet; broken ones are named."""
    packet, named = KEPT[name]
    assert one(packet) == (outer(packet), named)


def test_ethernet_padding_inside_is_no_content() -> None:
    """A short inner frame that was filled up to 60 octets still counts by its own IP length."""
    short = IP(src=A4, dst=B4) / TCP(sport=1, dport=2, flags="A")
    packet = udp(4789) / VXLAN(flags="Instance") / (bytes(E / short).ljust(60, b"\0"))
    assert one(packet) == ((A4, B4, 1, 2, 6, 40, 0), {})


def test_fragments_of_the_outer_packet_count_as_they_are() -> None:
    """The first fragment holds an inner packet that claims more than it has room for; later ones hold no header at all."""
    large = OUTER / GRE() / IP(src=A4, dst=B4) / UDP(sport=1, dport=2) / (b"\x45" * 3000)
    pieces = fragment(large, 1400)
    found = run([bytes(E / piece) for piece in pieces])
    assert rows(found) == [outer(piece) for piece in pieces]
    assert found.repaired == {"inner_length": 1}
    six = OUTER6 / IPv6ExtHdrFragment(nh=4, offset=10) / U4
    assert one(six) == (outer(six), {})


def test_fragments_inside_keep_their_rule() -> None:
    """A later fragment of the inner packet counts as such: its own octets, no ports, and nothing is looked for in it."""
    later = IP(src=A4, dst=B4, frag=100, proto=47) / (b"\0\0\x08\0" + bytes(U4))
    assert one(OUTER / later) == ((A4, B4, -1, -1, 47, 152, 132), {})


def test_a_snapshot_length_may_cut_the_inside() -> None:
    """The inner IP header is enough for its octets; without it the outer packet counts, and is named."""
    assert one(OUTER / GRE() / U4, cut=100) == (UDP4, {})
    assert one(OUTER / GRE() / U4, cut=108) == (((A4, B4, -1, -1, 17, 128, 100)), {})
    assert one(OUTER / GRE() / U4, cut=109) == (outer(OUTER / GRE() / U4), {"inner_truncated": 1})
    assert one(udp(4789) / VXLAN(flags="Instance") / E / U4, cut=140) == (
        outer(udp(4789) / VXLAN(flags="Instance") / E / U4),
        {"inner_truncated": 1},
    )


def test_nesting_has_an_end() -> None:
    """So many tunnels are opened and no more; what is found there counts."""
    deep: Any = U4
    for _ in range(MOST_NESTED + 2):
        deep = IP(**GATES) / deep
    (row, _) = one(deep)
    assert (row[:2], row[4:6]) == ((GATES["src"], GATES["dst"]), (4, 128 + 2 * 20))


def test_offload_frames_count_the_packets_that_they_become_inside() -> None:
    """A segment size cuts the innermost content, and each packet repeats the inner headers alone."""
    inner = IP(src=A4, dst=B4) / TCP(sport=1, dport=2, flags="A") / (b"x" * 4000)
    found = run(
        [bytes(E / (udp(4789) / VXLAN(flags="Instance") / E / inner)), bytes(E / inner)],
        segment=np.array([1448, 1448]),
    )
    assert rows(found) == [(A4, B4, 1, 2, 6, 4040 + 2 * 40, 4000)] * 2
    assert found.packets.packets.tolist() == [3, 3]


def test_mpls_inside_that_only_scapy_knows_is_read_with_it() -> None:
    """Ethernet over MPLS within a tunnel is given to scapy; the fast path alone leaves the outer packet."""
    packet = udp(4789) / VXLAN(flags="Instance") / LINKS["Ethernet over MPLS, control word"][1]
    frame = bytes(E / packet)
    size = np.array([len(frame)])
    arguments = (np.frombuffer(frame, np.uint8), np.array([0]), size, size, size, 1)
    assert rows(decode_inner(decode_any, *arguments)) == [UDP4]
    assert rows(decode_inner(decode, *arguments)) == [outer(packet)]


def test_the_outer_packets_columns_are_not_changed() -> None:
    """What the decoder gave stays as it was: the columns may be the caller's own."""
    time_ns, interface = np.array([5]), np.array([3], np.int32)
    frame = np.frombuffer(bytes(E / Dot1Q() / OUTER / GRE() / U4), np.uint8)
    size = np.array([len(frame)])
    first = decode(frame, np.array([0]), size, size, time_ns, 1, interface)
    kept = rows(first)
    decode_inner(lambda *_: first, frame, np.array([0]), size, size, time_ns, 1, interface)
    assert rows(first) == kept


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(TUNNELS)),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
def test_damaged_tunnels_keep_the_promise(name: str, changes: list[tuple[int, int]]) -> None:
    """See tests/fuzz/fuzz_tunnels.py: tunnels with some octets changed."""
    frame = bytearray(bytes(E / TUNNELS[name]))
    for at, value in changes:
        frame[at % len(frame)] = value
    fuzz_tunnels.target(bytes([0, len(frame) % 256]) + bytes(frame))


@settings(max_examples=300)
@given(st.binary(max_size=500))
def test_any_octets_keep_the_promise(octets: bytes) -> None:
    """See tests/fuzz/fuzz_tunnels.py."""
    fuzz_tunnels.target(octets)


def test_a_jumbo_option_tells_the_length() -> None:
    """RFC 2675: the option's payload length counts wherever in the header it stands; one below 65,536 is not believed."""
    tcp = bytes(TCP(sport=1, dport=2))
    for options, told in (
        (struct.pack(">BBI", 0xC2, 4, 70_000), 70_040),
        (b"\x01\x02\0\0" + struct.pack(">BBI", 0xC2, 4, 70_000) + b"\x01\x02\0\0", 70_040),
        (struct.pack(">BBI", 0xC2, 4, 900), 80_040),
        (b"\x01\x04\0\0\0\0", 80_040),
    ):
        hop = bytes([6, (len(options) + 2) // 8 - 1]) + options
        frame = bytes(E)[:12] + b"\x86\xdd" + bytes(IPv6(src=A6, dst=B6, plen=0, nh=0)) + hop + tcp
        found = run([frame], length=[14 + 80_040])
        assert (rows(found)[0][:4], rows(found)[0][5]) == ((A6, B6, 1, 2), told)
