"""Frames of every tunnel and link type that we say we know, built by scapy around one packet each of IPv4 and IPv6."""

from __future__ import annotations

import logging
import struct
import warnings
from typing import Any

logging.getLogger("scapy").setLevel(logging.CRITICAL)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III, ERSPAN_PlatformSpecific
    from scapy.contrib.geneve import GENEVE, GeneveOptions
    from scapy.contrib.gtp import GTP_U_Header, GTPPDUSessionContainer
    from scapy.contrib.mpls import MPLS
    from scapy.contrib.ppi_geotag import PPI_Geotag_GPS  # noqa: F401  binds the PPI link type
    from scapy.layers.dot11 import Dot11, Dot11FCS, Dot11QoS, PrismHeader, RadioTap
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
    from scapy.layers.l2 import (
        GRE,
        GRE_PPTP,
        LLC,
        SNAP,
        CookedLinux,
        CookedLinuxV2,
        Dot1AD,
        Dot1Q,
        Dot3,
        Ether,
        Loopback,
    )
    from scapy.layers.ppi import PPI
    from scapy.layers.ppp import DIR_PPP, HDLC, PPP, PPPoE
    from scapy.layers.vxlan import VXLAN

A4, B4, A6, B6 = "192.0.2.1", "198.51.100.7", "2001:db8::1", "2001:db8:ffff::7"
GATES = {"src": "203.0.113.1", "dst": "203.0.113.2"}
GATES6 = {"src": "2001:db8:a::1", "dst": "2001:db8:b::2"}
E = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
U4 = IP(src=A4, dst=B4) / UDP(sport=53, dport=4000) / (b"x" * 100)
U6 = IPv6(src=A6, dst=B6) / UDP(sport=53, dport=4000) / (b"x" * 100)
OUTER, OUTER6 = IP(**GATES), IPv6(**GATES6)
SNAPPED = Dot3(src=E.src, dst=E.dst) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP()
AIR = Dot11(type=2, subtype=0) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP()
AIR_QOS = Dot11(type=2, subtype=8) / Dot11QoS() / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP()
AIR_FCS = (
    RadioTap(present="Flags", Flags="FCS")
    / Dot11FCS(type=2)
    / LLC(dsap=0xAA, ssap=0xAA, ctrl=3)
    / SNAP()
    / U4
)
NFLOG_HEAD = (
    b"\x02\x00\x00\x00" + b"\x08\x00\x01\x00\x08\x00\x00\x00" + struct.pack("<HH", 4 + len(bytes(U4)), 9)
)


def udp(port: int, *, source: int = 40_000) -> Any:
    """An outer UDP header over IPv4 to a tunnel's port."""
    return OUTER / UDP(sport=source, dport=port)


LINKS: dict[str, tuple[int, Any]] = {
    "Ethernet": (1, E / U4),
    "Ethernet, IPv6": (1, E / U6),
    "802.1Q": (1, E / Dot1Q(vlan=5) / U4),
    "QinQ": (1, E / Dot1AD(vlan=5) / Dot1Q(vlan=6) / U4),
    "five tags": (1, E / Dot1AD() / Dot1Q() / Dot1Q() / Dot1Q() / Dot1Q() / U6),
    "SNAP": (1, SNAPPED / U4),
    "MPLS": (1, E / MPLS(s=1) / U4),
    "MPLS, four labels": (1, E / MPLS(s=0) / MPLS(s=0) / MPLS(s=0) / MPLS(s=1) / U6),
    "MPLS in a VLAN": (1, E / Dot1Q(vlan=5) / MPLS(s=1) / U4),
    "Ethernet over MPLS, control word": (1, E / MPLS(s=1) / b"\0\0\0\0" / E / U4),
    "PPPoE session": (1, E / PPPoE(sessionid=1) / PPP(proto=0x21) / U4),
    "PPPoE session in a VLAN": (1, E / Dot1Q() / PPPoE(sessionid=1) / PPP(proto=0x57) / U6),
    "Linux cooked v1": (113, CookedLinux(pkttype=0, proto=0x0800) / U4),
    "Linux cooked v1, VLAN": (113, CookedLinux(pkttype=0, proto=0x8100) / Dot1Q(vlan=5) / U4),
    "Linux cooked v2": (276, CookedLinuxV2(pkttype=0, proto=0x86DD) / U6),
    "BSD loopback": (0, Loopback(type=2) / U4),
    "raw IP": (101, U6),
    "raw IPv4": (228, U4),
    "raw IPv6": (229, U6),
    "PPP": (9, PPP(proto=0x21) / U4),
    "PPP, IPv6": (9, PPP(proto=0x57) / U6),
    "PPP in HDLC framing": (50, HDLC() / PPP(proto=0x21) / U4),
    "PPPoE": (51, PPPoE(sessionid=1) / PPP(proto=0x21) / U4),
    "802.11": (105, AIR / U4),
    "802.11 QoS": (105, AIR_QOS / U6),
    "802.11, Prism": (119, PrismHeader() / AIR / U4),
    "802.11, radiotap": (127, RadioTap() / AIR / U4),
    "802.11, radiotap, FCS": (127, AIR_FCS),
    "802.11, PPI": (192, PPI(dlt=105) / AIR / U4),
    "PPP with direction": (204, DIR_PPP() / PPP(proto=0x21) / U4),
    "MPLS alone": (219, MPLS(s=1) / U4),
    "NFLOG": (239, NFLOG_HEAD + bytes(U4)),
}
"""Name -> (link type, frame around ``U4`` or ``U6``)."""

TUNNELS: dict[str, Any] = {
    "4in4": OUTER / U4,
    "6in4": OUTER / U6,
    "4in6": OUTER6 / U4,
    "6in6": OUTER6 / U6,
    "6in6, destination options": OUTER6 / IPv6ExtHdrDestOpt() / U6,
    "GRE": OUTER / GRE() / U4,
    "GRE over IPv6": OUTER6 / GRE(proto=0x86DD) / U6,
    "GRE, key, sequence, checksum": OUTER
    / GRE(key_present=1, key=7, seqnum_present=1, chksum_present=1)
    / U4,
    "GRE, Ethernet": OUTER / GRE(proto=0x6558, key_present=1, key=7) / E / U4,
    "GRE, Ethernet, VLAN": OUTER / GRE(proto=0x6558) / E / Dot1Q(vlan=4) / U6,
    "GRE, MPLS": OUTER / GRE(proto=0x8847) / MPLS(s=0) / MPLS(s=1) / U4,
    "PPTP": OUTER / GRE_PPTP(seqnum_present=1, acknum_present=1, payload_len=132) / b"\xff\x03\x00\x21" / U4,
    "PPTP, short": OUTER / GRE_PPTP(seqnum_present=1, payload_len=129) / b"\x21" / U4,
    "ERSPAN I": OUTER / GRE(proto=0x88BE) / E / U4,
    "ERSPAN II": OUTER / GRE(proto=0x88BE, seqnum_present=1) / ERSPAN_II(ver=1) / E / U4,
    "ERSPAN III": OUTER / GRE(proto=0x22EB, seqnum_present=1) / ERSPAN_III(ver=2) / E / U4,
    "ERSPAN III, subheader": OUTER
    / GRE(proto=0x22EB, seqnum_present=1)
    / ERSPAN_III(ver=2, o=1)
    / ERSPAN_PlatformSpecific()
    / E
    / U6,
    "EtherIP": IP(**GATES, proto=97) / b"\x30\x00" / E / U4,
    "MPLS in IP": IP(**GATES, proto=137) / MPLS(s=1) / U4,
    "VXLAN": udp(4789) / VXLAN(vni=42, flags="Instance") / E / U4,
    "VXLAN on 8472": udp(8472) / VXLAN(vni=42, flags="Instance") / E / U6,
    "VXLAN over IPv6": OUTER6 / UDP(sport=40_000, dport=4789) / VXLAN(vni=42, flags="Instance") / E / U4,
    "VXLAN-GPE": udp(4790) / b"\x0c\0\0\x01\0\0\x2a\0" / U4,
    "VXLAN-GPE, Ethernet": udp(4790) / b"\x0c\0\0\x03\0\0\x2a\0" / E / U6,
    "Geneve": udp(6081) / GENEVE(vni=42, proto=0x6558) / E / U4,
    "Geneve, IPv6": udp(6081) / GENEVE(vni=42, proto=0x86DD) / U6,
    "Geneve, options": udp(6081)
    / GENEVE(vni=42, proto=0x6558, options=[GeneveOptions(length=2, data=b"12345678")] * 3)
    / E
    / U4,
    "GTP-U": udp(2152, source=2152) / GTP_U_Header(teid=7) / U4,
    "GTP-U, sequence": udp(2152) / GTP_U_Header(teid=7, S=1, seq=3) / U6,
    "GTP-U, extension": udp(2152)
    / GTP_U_Header(teid=7, E=1, next_ex=0x85)
    / GTPPDUSessionContainer(type=1, QFI=3)
    / U4,
    "MPLS in UDP": udp(6635) / MPLS(s=1) / U4,
    "GRE in UDP": udp(4754) / GRE() / U4,
    "Teredo": udp(3544) / U6,
    "Teredo, authentication and origin": udp(50_000, source=3544)
    / (b"\x00\x01\x00\x00" + bytes(9))
    / (b"\x00\x00" + bytes(6))
    / U6,
    "GRE in GRE": OUTER / GRE() / IP(src="203.0.113.9", dst="203.0.113.10") / GRE() / U4,
    "GTP-U in VXLAN": udp(4789)
    / VXLAN(vni=1, flags="Instance")
    / E
    / IP(src="203.0.113.9", dst="203.0.113.10")
    / UDP(sport=2152, dport=2152)
    / GTP_U_Header(teid=7)
    / U6,
    "VXLAN, MPLS and tags inside": udp(4789)
    / VXLAN(vni=1, flags="Instance")
    / E
    / Dot1Q()
    / Dot1Q()
    / MPLS(s=1)
    / U4,
}
"""Name -> outer packet with ``U4`` or ``U6`` inside."""
