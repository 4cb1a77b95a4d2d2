"""Tunnels: what each kind of tunnel header carries, and where that begins.

Columns in, columns out. A header that was cut off or contradicts itself says so, and what cannot be IP (keep-alives, ARP,
signalling, encrypted PPP) is ``NOT_IP``. What is done with the answer stands in :mod:`collectors.packets.inner`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.packets.links import BAD, CUT, ETHER, MPLS, NOT_IP, ODD, V4, V6, Offsets, View, past_labels

Opened = tuple[NDArray[np.uint8], Offsets]
"""(kind of what is inside, where it begins)."""
Opener = Callable[[View, Offsets, Offsets], Opened]
"""Reads tunnel headers that begin at given offsets, up to where each packet was captured."""

_MOST_GTP_EXTENSIONS: Final = 8
_TEB: Final = 0x6558
_CARRIED: Final[Mapping[int, int]] = {0x0800: V4, 0x86DD: V6, _TEB: ETHER, 0x8847: MPLS, 0x8848: MPLS}
"""Ethertype -> kind, as GRE and Geneve number what they carry."""
_ERSPAN: Final = (0x88BE, 0x22EB)
"""Types I and II, and type III."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A kind of tunnel, how it is told, and who says so."""

    name: str
    told_by: str
    inside: str
    source: str
    open: Opener


def _room(at: Offsets, end: Offsets, octets: int) -> tuple[NDArray[np.uint8], Offsets, Offsets]:
    """(kinds, all ``CUT``; offsets; rows whose header of this many octets was captured)."""
    return np.full(len(at), CUT, np.uint8), at.copy(), np.flatnonzero(at + octets <= end)


def _carried(number: NDArray[np.uint32] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    kind = np.full(len(number), NOT_IP, np.uint8)
    for ethertype, code in _CARRIED.items():
        kind[number == ethertype] = code
    return kind


def _by_version(view: View, at: Offsets, end: Offsets) -> NDArray[np.uint8]:
    """Kind by the version of an IP header, which must have been captured."""
    version = view.u8[np.minimum(at, len(view.u8) - 1)] >> 4
    kind = np.where(version == 4, V4, np.where(version == 6, V6, NOT_IP))
    return np.where(at < end, kind, CUT).astype(np.uint8)


def _past_stack(view: View, kind: NDArray[np.uint8], at: Offsets, end: Offsets) -> None:
    """Move what is MPLS past its labels."""
    rows = np.flatnonzero(kind == MPLS)
    if len(rows):
        found, at[rows] = past_labels(view, at[rows], end[rows])
        kind[rows] = np.where(found == ODD, NOT_IP, found)


def _always(kind: int) -> Opener:
    def read(view: View, at: Offsets, end: Offsets) -> Opened:
        kinds = np.full(len(at), kind, np.uint8)
        at = at.copy()
        _past_stack(view, kinds, at, end)
        return kinds, at

    return read


def _gre(view: View, at: Offsets, end: Offsets) -> Opened:
    kind, inner, rows = _room(at, end, 4)
    word = view.u32(at[rows]).astype(np.int64)
    flags, number = word >> 16, word & 0xFFFF
    version, sequence = flags & 7, flags >> 12 & 1
    size = 4 + 4 * ((flags >> 15 & 1) + (flags >> 13 & 1) + sequence)
    found = _carried(number.astype(np.uint32))
    found[(version > 1) | (flags & 0x4000 != 0)] = BAD
    kind[rows], inner[rows] = found, at[rows] + size
    plain = version == 0
    for some, opened in (
        (np.flatnonzero(plain & np.isin(number, _ERSPAN)), _erspan),
        (np.flatnonzero((version == 1) & (number == 0x880B)), _pptp),
    ):
        if len(some):
            of = rows[some]
            kind[of], inner[of] = opened(view, inner[of], end[of], flags[some])
    _past_stack(view, kind, inner, end)
    return kind, inner


def _erspan(view: View, at: Offsets, end: Offsets, flags: Offsets) -> Opened:
    # Type I has no header of its own and no GRE sequence number; type II has 8 octets, type III 12 or, with O, 20.
    kind, inner, rows = _room(at, end, 0)
    kind[rows] = ETHER
    rows = np.flatnonzero(flags & 0x1000 != 0)
    kind[rows] = CUT
    rows = rows[at[rows] + 12 <= end[rows]]
    version = view.u8[at[rows]] >> 4
    last = view.u32(at[rows] + 8)
    frame = last >> np.uint32(10) & np.uint32(31)
    size = np.where(version == 1, 8, 12 + 8 * (last & np.uint32(1)).astype(np.int64))
    known = (version == 1) | ((version == 2) & (frame == 0))
    is_ip = (version == 2) & (frame == 2)
    inner[rows] += size
    found = np.where(known, ETHER, np.where(version == 2, NOT_IP, BAD)).astype(np.uint8)
    found[is_ip] = _by_version(view, inner[rows[is_ip]], end[rows[is_ip]])
    kind[rows] = found
    return kind, inner


def _pptp(view: View, at: Offsets, end: Offsets, flags: Offsets) -> Opened:
    # RFC 2637: an acknowledgement alone has no sequence number and no payload. PPP may drop its address and control
    # octets (ff 03) and the first octet of its protocol number, which is then odd.
    inner = at + 4 * (flags >> 7 & 1)
    kind = np.full(len(at), NOT_IP, np.uint8)
    rows = np.flatnonzero(flags & 0x1000 != 0)
    kind[rows] = CUT
    rows = rows[inner[rows] + 4 <= end[rows]]
    inner[rows] += np.where(view.u16(inner[rows]) == 0xFF03, 2, 0)
    number = view.u16(inner[rows]).astype(np.int64)
    short = number >> 8 & 1 == 1
    number = np.where(short, number >> 8, number)
    inner[rows] += np.where(short, 1, 2)
    kind[rows] = np.where(number == 0x21, V4, np.where(number == 0x57, V6, NOT_IP))
    return kind, inner


def _etherip(view: View, at: Offsets, end: Offsets) -> Opened:
    kind, inner, rows = _room(at, end, 2)
    kind[rows] = np.where(view.u16(at[rows]) == 0x3000, ETHER, BAD)
    return kind, inner + 2


def _vxlan(view: View, at: Offsets, end: Offsets) -> Opened:
    # The flag that says that the network identifier is valid must be set; what else is reserved is ignored.
    kind, inner, rows = _room(at, end, 8)
    kind[rows] = np.where(view.u8[at[rows]] & 8 != 0, ETHER, BAD)
    return kind, inner + 8


def _vxlan_gpe(view: View, at: Offsets, end: Offsets) -> Opened:
    kind, inner, rows = _room(at, end, 8)
    following = view.u8[at[rows] + 3]
    found = np.full(len(rows), NOT_IP, np.uint8)
    for number, code in ((1, V4), (2, V6), (3, ETHER), (5, MPLS)):
        found[following == number] = code
    found[view.u8[at[rows]] & 12 != 12] = BAD
    kind[rows] = found
    inner += 8
    _past_stack(view, kind, inner, end)
    return kind, inner


def _geneve(view: View, at: Offsets, end: Offsets) -> Opened:
    kind, inner, rows = _room(at, end, 8)
    first = view.u8[at[rows]].astype(np.int64)
    found = _carried(view.u16(at[rows] + 2))
    found[first >> 6 != 0] = BAD
    kind[rows] = found
    inner[rows] += 8 + 4 * (first & 63)
    _past_stack(view, kind, inner, end)
    return kind, inner


def _gtp(view: View, at: Offsets, end: Offsets) -> Opened:
    # 3GPP TS 29.281 section 5: version 1, protocol type 1; message 255 is a user's packet.
    kind, inner, rows = _room(at, end, 8)
    flags, message = view.u8[at[rows]], view.u8[at[rows] + 1]
    wrong = flags >> 4 != 3
    kind[rows] = np.where(wrong, BAD, NOT_IP)
    rows, flags = rows[(message == 255) & ~wrong], flags[(message == 255) & ~wrong]
    kind[rows] = CUT
    inner[rows] += np.where(flags & 7 != 0, 12, 8)
    extended = rows[flags & 4 != 0]
    kind[extended] = BAD
    for _ in range(_MOST_GTP_EXTENSIONS + 1):
        kind[extended[inner[extended] > end[extended]]] = CUT
        extended = extended[inner[extended] <= end[extended]]
        more = view.u8[inner[extended] - 1] != 0
        kind[extended[~more]] = CUT
        extended = extended[more]
        cut = inner[extended] >= end[extended]
        kind[extended[cut]] = CUT
        extended = extended[~cut]
        if not len(extended):
            break
        size = 4 * view.u8[inner[extended]].astype(np.int64)
        extended, size = extended[size > 0], size[size > 0]
        inner[extended] += size
    rows = rows[kind[rows] != BAD]
    kind[rows] = _by_version(view, inner[rows], end[rows])
    return kind, inner


def _teredo(view: View, at: Offsets, end: Offsets) -> Opened:
    # RFC 4380 section 5.1.1: an authentication header (00 01) and an origin (00 00) may stand before the IPv6 packet.
    kind, inner, rows = _room(at, end, 4)
    some = rows[view.u16(at[rows]) == 1]
    inner[some] += 13 + view.u8[at[some] + 2].astype(np.int64) + view.u8[at[some] + 3]
    rows = rows[inner[rows] + 2 <= end[rows]]
    some = rows[view.u16(inner[rows]) == 0]
    inner[some] += 8
    found = _by_version(view, inner[rows], end[rows])
    kind[rows] = np.where(found == V4, NOT_IP, found)
    return kind, inner


_GRE: Final = Tunnel(
    "GRE version 0 and PPTP's version 1; ERSPAN I, II and III in it",
    "protocol 47",
    "IPv4, IPv6, Ethernet, MPLS, PPP",
    "RFC 2784, 2890, 2637; draft-foschiano-erspan",
    _gre,
)
_VXLAN: Final = Tunnel("VXLAN", "UDP to port 4789 or 8472", "Ethernet", "RFC 7348", _vxlan)
_TEREDO: Final = Tunnel("Teredo", "UDP to or from port 3544", "IPv6", "RFC 4380", _teredo)
_MPLS: Final = "IPv4, IPv6"

BY_PROTOCOL: Final[Mapping[int, Tunnel]] = {
    4: Tunnel("IPv4 in IP", "protocol 4", "IPv4", "RFC 2003, 2473", _always(V4)),
    41: Tunnel("IPv6 in IP", "protocol 41", "IPv6", "RFC 4213, 2473", _always(V6)),
    47: _GRE,
    97: Tunnel("EtherIP", "protocol 97", "Ethernet", "RFC 3378", _etherip),
    137: Tunnel("MPLS in IP", "protocol 137", _MPLS, "RFC 4023", _always(MPLS)),
}
BY_UDP_TARGET: Final[Mapping[int, Tunnel]] = {
    2152: Tunnel("GTP-U version 1, extension headers too", "UDP to port 2152", _MPLS, "3GPP TS 29.281", _gtp),
    3544: _TEREDO,
    4754: Tunnel("GRE in UDP", "UDP to port 4754", "as GRE", "RFC 8086", _gre),
    4789: _VXLAN,
    4790: Tunnel(
        "VXLAN-GPE",
        "UDP to port 4790",
        "IPv4, IPv6, Ethernet, MPLS",
        "draft-ietf-nvo3-vxlan-gpe",
        _vxlan_gpe,
    ),
    6081: Tunnel(
        "Geneve, options too", "UDP to port 6081", "IPv4, IPv6, Ethernet, MPLS", "RFC 8926", _geneve
    ),
    6635: Tunnel("MPLS in UDP", "UDP to port 6635", _MPLS, "RFC 7510", _always(MPLS)),
    8472: _VXLAN,
}
BY_UDP_SOURCE: Final[Mapping[int, Tunnel]] = {3544: _TEREDO}
OPAQUE: Final[Mapping[int, str]] = {50: "ESP", 108: "IPComp", 115: "L2TPv3"}
"""Protocol -> tunnels that nobody can or that we do not look into; WireGuard and OpenVPN are such by their nature."""
