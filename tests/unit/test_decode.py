"""Frames to packets: fact by fact, against scapy as an independent decoder, and against any octets at all."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.core.address import texts
from collectors.packets import decode as decode_module
from collectors.packets.decode import Decoded, decode
from collectors.packets.links import ETHERNET, FAST_LINKS, IPV4, IPV6, LOOP, NULL, RAW, SLL, SLL2
from collectors.packets.odd import NFLOG, ODD_LINKS, decode_any
from tests.fuzz import fuzz_decode, fuzz_odd
from tests.tools.encapsulated import LINKS

logging.getLogger("scapy").setLevel(logging.CRITICAL)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.contrib.mpls import MPLS
    from scapy.layers.dot11 import Dot11, Dot11Beacon, RadioTap
    from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
    from scapy.layers.inet6 import (
        ICMPv6EchoRequest,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
    )
    from scapy.layers.l2 import (
        ARP,
        LLC,
        SNAP,
        STP,
        CookedLinux,
        CookedLinuxV2,
        Dot1AD,
        Dot1Q,
        Dot3,
        Ether,
        Loopback,
    )
    from scapy.layers.ppp import PPP, PPPoE
    from scapy.layers.sctp import SCTP
    from scapy.packet import Padding

A4, B4, A6, B6 = "192.0.2.1", "198.51.100.7", "2001:db8::1", "2001:db8:ffff::7"
V4, V6 = IP(src=A4, dst=B4), IPv6(src=A6, dst=B6)
E = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")

COLUMNS = (
    "source_port",
    "target_port",
    "protocol",
    "octets",
    "content_octets",
    "packets",
    "tcp_flags",
    "sent",
)


def run(
    frames: Sequence[bytes],
    link: int = ETHERNET,
    *,
    length: Sequence[int] | None = None,
    odd: bool = False,
    **rest: Any,
) -> Decoded:
    data = np.frombuffer(b"".join(frames), np.uint8)
    captured = np.array([len(frame) for frame in frames], np.int64)
    wire = captured if length is None else np.array(length, np.int64)
    call = decode_any if odd else decode
    return call(data, np.cumsum(captured) - captured, captured, wire, np.arange(len(frames)), link, **rest)


def rows(found: Decoded) -> list[tuple[Any, ...]]:
    """(source, target, source port, target port, protocol, octets, content, packets, flags, sent) of each packet."""
    packets = found.packets
    numbers = (getattr(packets, name).tolist() for name in COLUMNS)
    return list(zip(texts(packets.source), texts(packets.target), *numbers, strict=True))


def one(frame: Any, link: int = ETHERNET, **rest: Any) -> tuple[Any, ...]:
    found = run([bytes(frame)], link, **rest)
    assert (len(found.packets), found.skipped) == (1, {})
    return rows(found)[0]


UDP4 = (A4, B4, 53, 4000, 17, 128, 100, 1, -1, -1)
U4 = V4 / UDP(sport=53, dport=4000) / (b"x" * 100)
UDP6 = (A6, B6, 53, 4000, 17, 148, 100, 1, -1, -1)
U6 = V6 / UDP(sport=53, dport=4000) / (b"x" * 100)


@pytest.mark.parametrize(
    ("link", "head"),
    [
        (ETHERNET, E),
        (ETHERNET, E / Dot1Q(vlan=5)),
        (ETHERNET, E / Dot1AD(vlan=5) / Dot1Q(vlan=6)),
        (ETHERNET, Dot3(src=E.src, dst=E.dst) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP()),
        (RAW, None),
        (12, None),
    ],
)
def test_known_link_layers_lead_to_the_same_packet(link: int, head: Any) -> None:
    """Ethernet, one and two VLAN tags, SNAP and raw IP all give the packet that they carry, of IPv4 and IPv6."""
    assert one(head / U4 if head else U4, link) == UDP4
    if not (head and head.haslayer(SNAP)):
        assert one(head / U6 if head else U6, link) == UDP6


def test_cooked_captures_tell_who_sent() -> None:
    """SLL and SLL2 packets of type 4 were sent by this host, others were not."""
    for make, link in ((CookedLinux, SLL), (CookedLinuxV2, SLL2)):
        head = {"pkttype": 4, "proto": 0x0800}
        assert one(make(**head) / U4, link) == (*UDP4[:-1], 1)
        assert one(make(**{**head, "pkttype": 0}) / U4, link) == (*UDP4[:-1], 0)


def test_sent_that_is_given_wins_over_the_link_layer() -> None:
    """A direction that the caller knows is kept."""
    given_ = np.array([0], np.int8)
    assert one(CookedLinux(pkttype=4, proto=0x0800) / U4, SLL, sent=given_) == (*UDP4[:-1], 0)


def test_netlink_in_a_cooked_capture_is_no_ip() -> None:
    """Frames of ARPHRD_NETLINK hold a netlink family where others hold an ethertype."""
    frame = bytes(CookedLinux(pkttype=4, lladdrtype=824, proto=0x0800) / U4)
    assert run([frame], SLL).skipped == {"not_ip": (1, len(frame))}


def test_loopback_family_is_read_in_both_byte_orders() -> None:
    """NULL captures of little- and big-endian hosts and LOOP captures give the same packets; other families are no IP."""
    for order in "<>":
        assert one(struct.pack(order + "I", 2) + bytes(U4), NULL) == UDP4
        for family in (10, 24, 28, 30):
            assert one(struct.pack(order + "I", family) + bytes(U6), NULL) == UDP6
    assert one(Loopback(type=2) / U4, NULL) == UDP4
    assert one(struct.pack(">I", 2) + bytes(U4), LOOP) == UDP4
    assert run([struct.pack("<I", 7) + b"x" * 60], NULL).skipped == {"not_ip": (1, 64)}


def test_link_types_of_one_ip_version_hold_to_it() -> None:
    """LINKTYPE_IPV4 and LINKTYPE_IPV6 frames of the other version cannot be read."""
    assert (one(U4, IPV4), one(U6, IPV6)) == (UDP4, UDP6)
    assert run([bytes(U6)], IPV4).skipped == {"undecodable": (1, 148)}
    assert run([bytes(U4).ljust(140)], IPV6).skipped == {"undecodable": (1, 140)}


@pytest.mark.parametrize(
    "frame",
    [
        E / ARP(),
        Dot3(src=E.src, dst=E.dst) / LLC() / STP(),
        Ether(type=0x88CC) / (b"x" * 50),
        E / Dot1Q(type=0x0806) / (b"x" * 50),
    ],
)
def test_frames_without_ip_are_no_loss(frame: Any) -> None:
    """ARP, spanning tree, LLDP and tagged ARP are known, and skipped as no IP."""
    assert run([bytes(frame)]).skipped == {"not_ip": (1, len(bytes(frame)))}


def test_a_protocol_number_that_nobody_knows_is_odd() -> None:
    """An unknown ethertype may carry IP, so it is not passed over, and is counted as undecodable in the end."""
    frame = bytes(Ether(type=0x88B5) / (b"x" * 50))
    assert run([frame]).odd.tolist() == [0]
    assert run([frame], odd=True).skipped == {"undecodable": (1, 64)}


def test_ethernet_padding_does_not_count() -> None:
    """Of a short frame that was padded to 60 octets the IP length counts, and ports are never read from padding."""
    frame = bytes(E / V4 / TCP(sport=1, dport=2, flags="A")).ljust(60, b"\xff")
    assert one(frame) == (A4, B4, 1, 2, 6, 40, 0, 1, 0x10, -1)
    bare = bytes(E / IP(src=A4, dst=B4, proto=17)).ljust(60, b"\xff")
    assert one(bare) == (A4, B4, -1, -1, 17, 20, 0, 1, -1, -1)


def test_amounts_of_a_cut_frame_are_those_of_the_wire() -> None:
    """A snapshot length changes no octets; what it cuts off of ports and flags is unknown."""
    frame = bytes(E / V4 / TCP(sport=1, dport=2, flags="PA", options=[("NOP", None)] * 12) / (b"x" * 1000))
    whole = (A4, B4, 1, 2, 6, 1052, 1000, 1, 0x18, -1)
    assert one(frame) == whole
    assert one(frame[:48], length=[len(frame)]) == whole
    # The data offset is at octet 46: without it the least TCP header is taken off.
    assert one(frame[:47], length=[len(frame)]) == (A4, B4, 1, 2, 6, 1052, 1012, 1, -1, -1)
    assert one(frame[:36], length=[len(frame)]) == (A4, B4, -1, -1, 6, 1052, 1012, 1, -1, -1)
    assert run([frame[:33]], length=[len(frame)]).skipped == {"truncated": (1, len(frame))}
    assert run([bytes(E / U6)[:53]], length=[162]).skipped == {"truncated": (1, 162)}
    assert run([b"\x02" * 10], length=[99]).skipped == {"truncated": (1, 99)}


def test_a_cut_snap_header_is_truncated_whatever_stands_behind_it() -> None:
    """Octets behind a frame's end are never taken for its own, even if they would go on with it."""
    head = Dot3(src=E.src, dst=E.dst)
    for frame in (bytes(head / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP() / U4), bytes(head / LLC() / STP())):
        data = np.frombuffer(frame, np.uint8)
        for captured in range(14, 22):
            size = np.array([captured])
            found = decode(data, np.array([0]), size, np.array([len(frame)]), size, ETHERNET)
            assert found.skipped == {"truncated": (1, len(frame))}


def test_a_length_below_what_was_captured_is_not_believed() -> None:
    """A record whose wire length is less than its captured octets counts what was captured."""
    assert one(E / U4, length=[20]) == UDP4


@pytest.mark.parametrize("size", [1448, 60_000, 100_000, 400_000])
def test_an_offload_frame_counts_by_its_length_on_the_wire(size: int) -> None:
    """IP total length 0 (TSO) and IPv6 payload length 0 (BIG TCP) take the frame's length less its link header."""
    tcp = TCP(sport=1, dport=2, flags="A")
    four = bytes(E / IP(src=A4, dst=B4, len=0) / tcp)
    six = bytes(E / IPv6(src=A6, dst=B6, plen=0) / tcp)
    assert one(four, length=[54 + size]) == (A4, B4, 1, 2, 6, 40 + size, size, 1, 0x10, -1)
    assert one(six, length=[74 + size]) == (A6, B6, 1, 2, 6, 60 + size, size, 1, 0x10, -1)


def test_an_offload_frame_of_absurd_length_is_not_believed() -> None:
    """A frame without an IP length that claims over 1 MiB on the wire is undecodable: no kernel makes one."""
    frame = bytes(E / IP(src=A4, dst=B4, len=0) / TCP())
    assert run([frame], length=[2**32 - 1]).skipped == {"undecodable": (1, 2**32 - 1)}


def test_a_jumbogram_counts_by_its_length_on_the_wire() -> None:
    """RFC 2675: payload length 0 and a jumbo option in a hop-by-hop header; the header is no content."""
    hop = bytes([6, 0, 0xC2, 4]) + struct.pack(">I", 70_000)
    frame = (
        bytes(E)[:12]
        + b"\x86\xdd"
        + bytes(IPv6(src=A6, dst=B6, plen=0, nh=0))
        + hop
        + bytes(TCP(sport=1, dport=2))
    )
    assert one(frame, length=[14 + 70_040]) == (A6, B6, 1, 2, 6, 70_040, 69_972, 1, 2, -1)


def test_a_packet_without_payload_is_no_offload_frame() -> None:
    """IPv6 payload length 0 with no next header is an empty packet, padding or not."""
    frame = bytes(E / IPv6(src=A6, dst=B6, plen=0, nh=59)).ljust(60, b"\0")
    assert one(frame) == (A6, B6, -1, -1, 59, 40, 0, 1, -1, -1)


def test_a_total_length_above_the_wire_is_cut_to_it_and_counted() -> None:
    """A header that claims more than the frame had on the wire counts what was on the wire, and is named."""
    found = run(
        [bytes(E / IP(src=A4, dst=B4, len=9000) / UDP(sport=53, dport=4000) / (b"x" * 100)), bytes(E / U4)]
    )
    assert rows(found) == [UDP4, UDP4]
    assert found.repaired == {"length_over_wire": 1}


@pytest.mark.parametrize(
    "network",
    [
        IP(src=A4, dst=B4, ihl=4),
        IP(src=A4, dst=B4, len=19),
        IP(src=A4, dst=B4, version=6),
        IP(src=A4, dst=B4, ihl=7, len=24),
    ],
)
def test_a_header_that_contradicts_itself_is_undecodable(network: Any) -> None:
    """A wrong version, a header under 20 octets, or a total length below the header's cannot be counted to a flow."""
    frame = bytes(E / network / UDP() / (b"x" * 60))
    assert run([frame]).skipped == {"undecodable": (1, len(frame))}


def test_ip_options_are_header() -> None:
    """IPv4 options move the ports and are no content."""
    frame = (
        E
        / IP(src=A4, dst=B4, options=IPOption_RR(length=39, routers=["192.0.2.9"] * 9))
        / UDP(sport=9, dport=8)
        / b"abc"
    )
    assert one(frame) == (A4, B4, 9, 8, 17, 71, 3, 1, -1, -1)


def test_extension_headers_are_walked() -> None:
    """Hop-by-hop, routing, destination options, authentication and fragment headers are header, and lead to the transport."""
    chain = (
        V6
        / IPv6ExtHdrHopByHop()
        / IPv6ExtHdrRouting(addresses=[B6])
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrFragment(m=1, nh=51)
    )
    authentication = bytes([17, 4]) + bytes(22)
    frame = bytes(chain / (authentication + bytes(UDP(sport=9, dport=8, len=11)) + b"abc"))
    extensions = 8 + 24 + 8 + 8 + 24
    assert one(frame, RAW) == (A6, B6, 9, 8, 17, 40 + extensions + 11, 3, 1, -1, -1)


def test_an_extension_header_that_was_cut_off_ends_the_walk() -> None:
    """Without the header's octets its own number is the protocol, and ports are unknown."""
    frame = bytes(V6 / IPv6ExtHdrHopByHop() / UDP(sport=9, dport=8))
    assert one(frame[:44], RAW, length=[56]) == (A6, B6, -1, -1, 0, 56, 16, 1, -1, -1)


def test_an_extension_header_may_end_the_packet() -> None:
    """A last header that fills the packet to its end is read: nothing follows it, and nothing is content."""
    frame = bytes(IPv6(src=A6, dst=B6, nh=60) / IPv6ExtHdrDestOpt(nh=59))
    assert one(frame, RAW) == (A6, B6, -1, -1, 59, 48, 0, 1, -1, -1)


def test_an_extension_header_may_claim_to_be_longer_than_the_packet() -> None:
    """A header whose length leads out of the packet, and of the buffer, leaves the ports unknown."""
    frame = bytes(IPv6(src=A6, dst=B6, nh=60) / (bytes([17, 255]) + bytes(6)))
    assert one(frame, RAW) == (A6, B6, -1, -1, 17, 48, 0, 1, -1, -1)


def test_an_endless_chain_of_extension_headers_ends() -> None:
    """After 16 extension headers the walk stops, with the next one's number as protocol."""
    chain = bytes([60, 0, 0, 0, 0, 0, 0, 0]) * 40
    frame = bytes(IPv6(src=A6, dst=B6, nh=60) / chain)
    assert one(frame, RAW) == (A6, B6, -1, -1, 60, 360, 320 - 16 * 8, 1, -1, -1)


def test_later_fragments_have_a_protocol_and_no_ports() -> None:
    """The first fragment has ports; a later one keeps its protocol, and all of it after the IP header is content."""
    first = E / IP(src=A4, dst=B4, flags="MF") / UDP(sport=9, dport=8, len=3000) / (b"x" * 1400)
    later = E / IP(src=A4, dst=B4, frag=176, proto=17) / (b"x" * 800)
    assert one(first) == (A4, B4, 9, 8, 17, 1428, 1400, 1, -1, -1)
    assert one(later) == (A4, B4, -1, -1, 17, 820, 800, 1, -1, -1)
    later6 = V6 / IPv6ExtHdrFragment(offset=100, nh=6) / (b"x" * 800)
    assert one(later6, RAW) == (A6, B6, -1, -1, 6, 848, 800, 1, -1, -1)
    last6 = V6 / IPv6ExtHdrFragment(offset=1, nh=60, m=0) / (b"x" * 800)
    assert one(last6, RAW) == (A6, B6, -1, -1, 60, 848, 800, 1, -1, -1)


def test_protocols_without_ports_have_none() -> None:
    """ICMP and ESP have no ports and no transport header; SCTP has both."""
    assert one(V4 / ICMP() / b"abc", RAW) == (A4, B4, -1, -1, 1, 31, 11, 1, -1, -1)
    assert one(IP(src=A4, dst=B4, proto=50) / (b"x" * 20), RAW) == (A4, B4, -1, -1, 50, 40, 20, 1, -1, -1)
    assert one(V4 / SCTP(sport=5, dport=6) / b"abcd", RAW) == (A4, B4, 5, 6, 132, 36, 4, 1, -1, -1)


def test_a_tunnel_is_its_outer_packet() -> None:
    """What leaves the host is the outer IP packet; the inner one is content."""
    assert one(IP(src=A4, dst=B4, proto=41) / U6, RAW) == (A4, B4, -1, -1, 41, 168, 148, 1, -1, -1)


def test_offload_frames_count_as_the_packets_they_become() -> None:
    """With a segment size, each packet repeats the headers; frames without one, or smaller than it, are one packet."""
    frames = [
        bytes(E / V4 / TCP(sport=1, dport=2, flags="A") / (b"x" * size)) for size in (4000, 1000, 0, 4000)
    ]
    found = run(frames, segment=np.array([1448, 1448, 1448, 0]))
    told = [(row[5], row[6], row[7]) for row in rows(found)]
    assert told == [(4000 + 3 * 40, 4000, 3), (1040, 1000, 1), (40, 0, 1), (4040, 4000, 1)]


@pytest.mark.parametrize("name", LINKS)
def test_every_link_type_leads_to_the_packet(name: str) -> None:
    """Each link type, and all that may stand between it and IP, gives the packet in it; scapy gets what it must alone."""
    link, packet = LINKS[name]
    frame = bytes(packet)
    by_scapy_alone = link in ODD_LINKS or name.startswith("Ethernet over MPLS")
    assert (len(run([frame], link).odd) == 1) == by_scapy_alone
    expected = UDP4 if bytes(U4) in frame else UDP6
    assert one(frame, link, odd=True)[:-1] == expected[:-1]


def test_all_link_types_that_are_named_are_tested() -> None:
    """The tables of docs/decoding.md name no link type that the test above does not hold."""
    assert {link for link, _ in LINKS.values()} | {12, 14, LOOP} == FAST_LINKS | ODD_LINKS.keys()


def test_shims_are_passed_sixteen_deep() -> None:
    """Sixteen tags, in any mix with labels and PPPoE, lead to the packet; with more of them scapy looks."""
    tags = struct.pack(">HH", 5, 0x8100) * 15
    frame = bytes(E)[:12] + b"\x81\x00" + tags + struct.pack(">HH", 5, 0x0800) + bytes(U4)
    assert one(frame) == UDP4
    deeper = frame[:12] + b"\x88\xa8" + struct.pack(">HH", 5, 0x8100) + frame[14:]
    assert run([deeper]).odd.tolist() == [0]


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (E / PPPoE(sessionid=1) / PPP(proto=0xC021) / (b"x" * 40), "not_ip"),
        (bytes(E)[:12] + b"\x88\x47\x00\x00", "truncated"),
        (bytes(E)[:12] + b"\x88\x47\x00\x00\x01\x00", "truncated"),
        (bytes(E)[:12] + b"\x88\x64\x11\x00\x00", "truncated"),
        (bytes(E)[:12] + b"\x81\x00\x00", "truncated"),
    ],
)
def test_shims_without_ip_behind_them(head: Any, reason: str) -> None:
    """PPP control is no IP; a tag, label or PPPoE header that was cut off is truncated, whatever stands behind it."""
    frame = bytes(head)
    data = np.frombuffer(frame + b"\x45\x00" * 40, np.uint8)
    size = np.array([len(frame)])
    found = decode(data, np.array([0]), size, size, size, ETHERNET)
    assert found.skipped == {reason: (1, len(frame))}


def test_odd_frames_keep_their_place_and_columns() -> None:
    """Packets that scapy helped with stand where their frames stood, with the caller's interface and direction."""
    frames = [bytes(E / MPLS(s=1) / E / U4), bytes(E / U6), bytes(E / ARP()), bytes(E / MPLS(s=1) / E / U6)]
    found = run(
        frames, odd=True, interface=np.array([3, 4, 5, 6], np.int32), sent=np.array([1, 0, 1, 0], np.int8)
    )
    assert rows(found) == [(*UDP4[:-1], 1), (*UDP6[:-1], 0), (*UDP6[:-1], 0)]
    assert (found.order.tolist(), found.odd.tolist()) == ([0, 1, 3], [0, 3])
    assert found.packets.interface.tolist() == [3, 4, 6]
    assert found.packets.time_ns.tolist() == [0, 1, 3]
    assert found.skipped == {"not_ip": (1, 42)}


def test_odd_frames_without_ip_are_no_loss() -> None:
    """A beacon, PPP control and a link type without IP are known to carry none; a link type nobody knows may."""
    beacon = bytes(RadioTap() / Dot11() / Dot11Beacon())
    assert run([beacon], 127, odd=True).skipped == {"not_ip": (1, len(beacon))}
    assert run([b"x" * 60], 271, odd=True).skipped == {"not_ip": (1, 60)}
    assert run([b"\x01\0\0\0"], NFLOG, odd=True).skipped == {"not_ip": (1, 4)}
    assert run([b"x" * 60], 147, odd=True).skipped == {"undecodable": (1, 60)}


def test_an_odd_frame_that_is_cut_is_counted_by_the_wire() -> None:
    """A PPP frame cut behind its IP header counts in full; cut in it, scapy cannot find the header."""
    frame = bytes(PPP(proto=0x21) / U4)
    assert one(frame[:26], 9, length=[len(frame)], odd=True) == (*UDP4[:2], 53, 4000, *UDP4[4:])
    assert run([frame[:12]], 9, length=[len(frame)], odd=True).skipped == {"undecodable": (1, len(frame))}


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames decoded three at a time are the frames decoded all at once."""
    frames = [
        bytes(E / U4),
        bytes(E / ARP()),
        bytes(E / U6),
        bytes(E / MPLS(s=1) / U4),
        b"",
        bytes(E / U6),
    ] * 3
    whole = run(frames, interface=np.arange(18, dtype=np.int32), segment=np.full(18, 50))
    monkeypatch.setattr(decode_module, "CHUNK", 3)
    assert fuzz_decode.equal(
        whole, run(frames, interface=np.arange(18, dtype=np.int32), segment=np.full(18, 50))
    )


def test_no_frames_give_no_packets() -> None:
    """Nothing in, nothing out."""
    found = run([])
    assert (len(found.packets), len(found.odd), found.skipped) == (0, 0, {})


@pytest.mark.parametrize(("start", "captured"), [(-1, 10), (0, 101), (95, 10), (0, -1)])
def test_a_frame_outside_the_buffer_is_the_callers_mistake(start: int, captured: int) -> None:
    """A frame that does not lie in the buffer raises ``ValueError`` and reads nothing."""
    with pytest.raises(ValueError, match="does not lie"):
        number = np.array([captured])
        decode(np.zeros(100, np.uint8), np.array([start]), number, number, number, RAW)


# scapy as the independent decoder ------------------------------------------------------------------------------------

ports = st.integers(0, 65535)
payloads = st.binary(max_size=80)
transports = st.one_of(
    st.builds(
        lambda sport, dport, flags, nops: TCP(
            sport=sport, dport=dport, flags=flags, options=[("NOP", None)] * nops
        ),
        ports,
        ports,
        st.integers(0, 255),
        st.integers(0, 40),
    ),
    st.builds(lambda sport, dport: UDP(sport=sport, dport=dport), ports, ports),
)
v4s = st.ip_addresses(v=4).map(str)
# A v4-mapped address has no business on the wire (RFC 4291); in our columns it reads as the IPv4 address.
v6s = st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None).map(str)
extensions = st.lists(
    st.sampled_from([IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=[B6]), IPv6ExtHdrFragment(m=1)]),
    max_size=3,
)


@st.composite
def ip_packets(draw: st.DrawFn) -> Any:
    """An IP packet with its transport and payload, as scapy layers."""
    if draw(st.booleans()):
        head: Any = IP(src=draw(v4s), dst=draw(v4s), id=draw(ports), tos=draw(st.integers(0, 255)))
        inner = draw(st.one_of(transports, st.just(ICMP())))
    else:
        head = IPv6(src=draw(v6s), dst=draw(v6s), tc=draw(st.integers(0, 255)), fl=draw(ports))
        inner = draw(st.one_of(transports, st.just(ICMPv6EchoRequest())))
        for extension in draw(extensions):
            head = head / extension
    return head / inner / draw(payloads)


links = st.sampled_from(
    [
        (ETHERNET, E),
        (ETHERNET, E / Dot1Q(vlan=7)),
        (ETHERNET, E / Dot1AD(vlan=7) / Dot1Q(vlan=8)),
        (SLL, CookedLinux(pkttype=0)),
        (SLL2, CookedLinuxV2(pkttype=0)),
        (RAW, None),
    ]
)


def by_scapy(frame: bytes, link: int) -> tuple[Any, ...]:
    """What scapy reads in a whole frame: the columns of :func:`rows` up to flags."""
    first = {ETHERNET: Ether, SLL: CookedLinux, SLL2: CookedLinuxV2}.get(link) or (
        IP if frame[0] >> 4 == 4 else IPv6
    )
    layer = first(frame)
    while not isinstance(layer, IP | IPv6):
        layer = layer.payload
    octets = layer.len if isinstance(layer, IP) else 40 + layer.plen
    ends = (layer.src, layer.dst)
    transport = layer.payload
    while transport.__class__.__name__.startswith("IPv6ExtHdr"):
        transport = transport.payload
    protocol = {TCP: 6, UDP: 17, ICMP: 1, ICMPv6EchoRequest: 58}[transport.__class__]
    padding = len(transport[Padding].load) if transport.haslayer(Padding) else 0
    if isinstance(transport, TCP | UDP):
        flags = int(transport.flags) & 0xFF if protocol == 6 else -1
        content = len(transport.payload) - padding
        return (*ends, transport.sport, transport.dport, protocol, octets, content, 1, flags)
    return (*ends, -1, -1, protocol, octets, len(transport) - padding, 1, -1)


@settings(max_examples=150)
@given(st.lists(st.tuples(ip_packets(), st.binary(max_size=12)), min_size=1, max_size=5), links)
def test_packets_are_what_scapy_reads(packets: list[tuple[Any, bytes]], link: tuple[int, Any]) -> None:
    """Addresses, ports, protocol, amounts and flags of random packets equal those that scapy reads, padding or not."""
    number, head = link
    frames = [bytes(head / packet if head else packet) + padding for packet, padding in packets]
    found = run(frames, number)
    assert [row[:-1] for row in rows(found)] == [by_scapy(frame, number) for frame in frames]


@settings(max_examples=150)
@given(ip_packets(), links, st.integers(0, 120))
def test_cutting_a_frame_loses_no_octets(packet: Any, link: tuple[int, Any], snap: int) -> None:
    """A cut frame is the same packet with perhaps unknown ports and flags, or is counted as truncated."""
    number, head = link
    frame = bytes(head / packet if head else packet)
    whole, cut = run([frame], number), run([frame[:snap]], number, length=[len(frame)])
    if not len(cut.packets):
        assert cut.skipped == {"truncated": (1, len(frame))}
        return
    (told,), (full,) = rows(cut), rows(whole)
    assert (told[:2], told[5]) == (full[:2], full[5])
    assert told[2:4] in (full[2:4], (-1, -1))
    assert told[8] in (full[8], -1)
    assert told[6] >= full[6]


@settings(max_examples=400)
@given(st.binary(max_size=600))
@example(b"\x01\x15" + bytes(E) + b"\0\x2e" + b"\xaa\xaa\x03")
def test_any_octets_keep_the_decoders_promise(octets: bytes) -> None:
    """See tests/fuzz/fuzz_decode.py."""
    fuzz_decode.target(octets)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(ip_packets(), st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4), links
)
def test_damaged_frames_keep_the_decoders_promise(
    packets: list[tuple[Any, int, int]], link: tuple[int, Any]
) -> None:
    """Frames with one octet changed keep the promise of tests/fuzz/fuzz_decode.py, too."""
    number, head = link
    for packet, at, value in packets:
        frame = bytearray(bytes(head / packet if head else packet))
        frame[at % len(frame)] = value
        choice = fuzz_decode.LINKS.index(number)
        fuzz_decode.target(bytes([choice, min(len(frame), 119)]) + bytes(frame))


@settings(max_examples=150)
@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300))
def test_any_octets_keep_the_odd_decoders_promise(link: int, size: int, octets: bytes) -> None:
    """See tests/fuzz/fuzz_odd.py."""
    fuzz_odd.target(bytes([link, size]) + octets)
