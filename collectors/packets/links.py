"""Link layers: what a frame carries, and where what it carries begins.

Sources: the LINKTYPE_ registry of libpcap, IEEE 802.3 and 802.1Q, ``<linux/if_ether.h>``, ``<linux/if_packet.h>``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]

# LINKTYPE_ numbers of the pcap registry; 12 and 14 are DLT_RAW of some systems.
NULL, ETHERNET, RAW, LOOP, SLL, IPV4, IPV6, SLL2 = 0, 1, 101, 108, 113, 228, 229, 276

# What a frame turned out to be, in one octet. ETHER is a frame within a tunnel; those above V6 are passed over first.
NOT_IP, ODD, CUT, BAD, V4, ETHER, V6, TAG, LLC, MPLS, PPPOE = range(11)
REASON: Final[Mapping[int, str]] = {NOT_IP: "not_ip", CUT: "truncated", BAD: "undecodable"}
NO_LOSS: Final = frozenset({"not_ip"})
"""Reasons for skipping a frame that lose nothing: it was read, and it carries no IP."""

NEVER_IP: Final[Mapping[int, str]] = {
    0x0806: "ARP",
    0x0842: "Wake-on-LAN",
    0x8035: "RARP",
    0x809B: "AppleTalk",
    0x80F3: "AppleTalk ARP",
    0x8137: "IPX",
    0x8809: "slow protocols (LACP)",
    0x8863: "PPPoE discovery",
    0x887B: "HomePlug",
    0x888E: "EAPOL",
    0x8892: "PROFINET",
    0x88A4: "EtherCAT",
    0x88B8: "GOOSE",
    0x88B9: "GSE",
    0x88BA: "sampled values",
    0x88CC: "LLDP",
    0x88E1: "HomePlug AV",
    0x88E3: "MRP",
    0x88F5: "MVRP",
    0x88F6: "MMRP",
    0x88F7: "PTP",
    0x8902: "CFM",
    0x8906: "FCoE",
    0x8914: "FIP",
    0x8915: "RoCE",
    0x9000: "loopback test",
}
"""IEEE 802 numbers of protocols that never carry IP."""
SHIMS: Final[Mapping[int, tuple[int, str]]] = {
    0x8100: (TAG, "802.1Q tag"),
    0x88A8: (TAG, "802.1ad tag"),
    0x9100: (TAG, "0x9100 tag"),
    0x8847: (MPLS, "MPLS"),
    0x8848: (MPLS, "MPLS"),
    0x8864: (PPPOE, "PPPoE session"),
}
"""Ethertype -> what stands between the link header and IP, in any order and up to ``MOST_SHIMS`` deep."""
MOST_SHIMS: Final = 16
_ETHERTYPE: Final = np.full(65536, ODD, np.uint8)
_ETHERTYPE[:1501] = LLC
_ETHERTYPE[list(NEVER_IP)] = NOT_IP
_ETHERTYPE[list(SHIMS)] = [code for code, _ in SHIMS.values()]
_ETHERTYPE[0x0800], _ETHERTYPE[0x86DD] = V4, V6

_PPP: Final = np.full(65536, ODD, np.uint8)
"""PPP protocol numbers: those from 0x8000 on are control protocols (RFC 1661 section 2)."""
_PPP[0x8000:] = NOT_IP
_PPP[0x0021], _PPP[0x0057], _PPP[[0x0281, 0x0283]] = V4, V6, MPLS

_FAMILY: Final = {2: V4, 10: V6, 24: V6, 28: V6, 30: V6}
"""AF_INET, and AF_INET6 as Linux, NetBSD, FreeBSD and Darwin number it."""
_NETLINK: Final = 824
_OUTGOING: Final = 4

_VERSION: Final = np.full(16, BAD, np.uint8)
_VERSION[4], _VERSION[6] = V4, V6


class View:
    """Big-endian numbers at any offset of a buffer, without copying it."""

    def __init__(self, data: Bytes) -> None:
        n = len(data)
        self.u8 = data
        self._second = data[1:]
        self._u32 = np.ndarray((n - 3,), ">u4", data, 0, (1,))
        self._u64 = np.ndarray((n - 7,), ">u8", data, 0, (1,))

    def u16(self, at: Offsets) -> NDArray[np.uint16]:
        """The 2 octets at each offset."""
        # Two reads of an octet cost half as much as one of a number that is not aligned.
        number = self.u8.take(at).astype(np.uint16)
        number <<= 8
        number |= self._second.take(at)
        return number

    def u32(self, at: Offsets) -> NDArray[np.uint32]:
        """The 4 octets at each offset."""
        return self._u32[at].astype(np.uint32)

    def u64(self, at: Offsets) -> NDArray[np.uint64]:
        """The 8 octets at each offset."""
        return self._u64[at].astype(np.uint64)


# Link layers: (kind of each frame, offset of what follows the link header, whether this host sent it).
Link = tuple[NDArray[np.uint8], Offsets, NDArray[np.int8] | None]


def _ethernet(view: View, starts: Offsets, end: Offsets) -> Link:
    kind, at = _ethertype(view, view.u16(starts + 12), starts + 14, end)
    return kind, at, None


def _cooked(view: View, starts: Offsets, end: Offsets) -> Link:
    kind, at = _ethertype(view, view.u16(starts + 14), starts + 16, end)
    kind[view.u16(starts + 2) == _NETLINK] = NOT_IP
    return kind, at, (view.u16(starts) == _OUTGOING).astype(np.int8)


def _cooked2(view: View, starts: Offsets, end: Offsets) -> Link:
    kind, at = _ethertype(view, view.u16(starts), starts + 20, end)
    kind[view.u16(starts + 8) == _NETLINK] = NOT_IP
    return kind, at, (view.u8[starts + 10] == _OUTGOING).astype(np.int8)


def _raw(view: View, starts: Offsets, end: Offsets) -> Link:
    kind = _VERSION[view.u8[starts] >> 4]
    kind[starts >= end] = CUT
    return kind, starts, None


def _only(version: int) -> Callable[[View, Offsets, Offsets], Link]:
    def read(view: View, starts: Offsets, end: Offsets) -> Link:
        return np.full(len(starts), version, np.uint8), starts, None

    return read


def _loopback(view: View, starts: Offsets, end: Offsets) -> Link:
    family = view.u32(starts)
    # The header is in the byte order of the host that captured; no address family needs more than 16 bits.
    family = np.where(family > 0xFFFF, family.byteswap(), family)
    kind = np.full(len(starts), NOT_IP, np.uint8)
    for number, code in _FAMILY.items():
        kind[family == number] = code
    return kind, starts + 4, None


LINKS: Final[Mapping[int, Callable[[View, Offsets, Offsets], Link]]] = {
    ETHERNET: _ethernet,
    SLL: _cooked,
    SLL2: _cooked2,
    NULL: _loopback,
    LOOP: _loopback,
    **dict.fromkeys((RAW, 12, 14), _raw),
    IPV4: _only(V4),
    IPV6: _only(V6),
}
LINK_NAMES: Final[Mapping[int, str]] = {
    ETHERNET: "Ethernet",
    SLL: "Linux cooked v1",
    SLL2: "Linux cooked v2",
    NULL: "BSD loopback, either byte order",
    LOOP: "OpenBSD loopback",
    RAW: "raw IP",
    12: "raw IP (BSD)",
    14: "raw IP (OpenBSD)",
    IPV4: "raw IPv4",
    IPV6: "raw IPv6",
}
FAST_LINKS: Final = frozenset(LINKS)
"""Link types that :func:`decode` knows; frames of any other are all odd."""


def _ethertype(
    view: View, number: NDArray[np.uint16], at: Offsets, end: Offsets
) -> tuple[NDArray[np.uint8], Offsets]:
    """Kind of each frame by its ethertype, past tags, label stacks, PPPoE and SNAP headers."""
    kind = _ETHERTYPE[number]
    rows = np.flatnonzero(kind > V6)
    for _ in range(MOST_SHIMS):
        if not len(rows):
            return kind, at
        kinds = kind[rows]
        for code, step in _STEPS.items():
            some = rows[kinds == code]
            if len(some):
                kind[some], at[some] = step(view, at[some], end[some])
        kind[rows[at[rows] > end[rows]]] = CUT
        rows = rows[kind[rows] > V6]
    kind[rows] = ODD
    return kind, at


# One header further: (kind of what follows, where it begins), read within 16 octets of ``at``, which is in the frame.
_Step = tuple[NDArray[np.uint8], Offsets]


def _past_tag(view: View, at: Offsets, end: Offsets) -> _Step:
    return _ETHERTYPE[view.u16(at + 2)], at + 4


def _past_label(view: View, at: Offsets, end: Offsets) -> _Step:
    # RFC 3032: label, class, bottom of stack, time to live. What follows the bottom is not said: its version tells.
    bottom = view.u8[at + 2] & 1 == 1
    version = _VERSION[view.u8[at + 4] >> 4]
    within = np.where(version == BAD, ODD, version)
    kind = np.where(bottom, np.where(at + 4 < end, within, CUT), MPLS)
    return kind.astype(np.uint8), at + 4


def _past_pppoe(view: View, at: Offsets, end: Offsets) -> _Step:
    # RFC 2516 section 4: version and type 1, code 0; then PPP's protocol number.
    kind = _PPP[view.u16(at + 6)]
    kind[view.u16(at) != 0x1100] = ODD
    return kind, at + 8


def _past_llc(view: View, at: Offsets, end: Offsets) -> _Step:
    snap = view.u64(at)
    inner = _ETHERTYPE[(snap & np.uint64(0xFFFF)).astype(np.uint16)]
    is_ip = (snap >> np.uint64(16) == 0xAAAA03000000) & ((inner == V4) | (inner == V6))
    kind = np.where(at + 8 > end, CUT, np.where(is_ip, inner, NOT_IP)).astype(np.uint8)
    return kind, at + 8 * is_ip


_STEPS: Final[Mapping[int, Callable[[View, Offsets, Offsets], _Step]]] = {
    TAG: _past_tag,
    LLC: _past_llc,
    MPLS: _past_label,
    PPPOE: _past_pppoe,
}


def past_labels(view: View, at: Offsets, end: Offsets) -> _Step:
    """Kind and place of what follows the label stacks that begin at ``at``; reads nothing at or behind ``end``."""
    kind, at = np.full(len(at), MPLS, np.uint8), at.copy()
    for _ in range(MOST_SHIMS):
        rows = np.flatnonzero(kind == MPLS)
        cut = at[rows] + 5 > end[rows]
        kind[rows[cut]] = CUT
        rows = rows[~cut]
        if not len(rows):
            break
        kind[rows], at[rows] = _past_label(view, at[rows], end[rows])
    kind[kind == MPLS] = ODD
    return kind, at
