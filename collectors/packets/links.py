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

# What a frame turned out to be, in one octet.
NOT_IP, ODD, CUT, BAD, V4, TAG, V6, LLC = range(8)
REASON: Final[Mapping[int, str]] = {NOT_IP: "not_ip", CUT: "truncated", BAD: "undecodable"}
NO_LOSS: Final = frozenset({"not_ip"})
"""Reasons for skipping a frame that lose nothing: it was read, and it carries no IP."""

# IEEE 802 numbers of protocols that never carry IP: WoL, ARP, RARP, AppleTalk, IPX, slow protocols, PPPoE discovery,
# EAPOL, PROFINET, EtherCAT, GOOSE, LLDP, HomePlug, MRP, PTP, CFM, FCoE, RoCE, loopback.
_NEVER_IP: Final = """
0842 0806 8035 809b 80f3 8137 8809 8863 888e 8892 88a4 88b8 88b9 88ba 88cc 887b 88e1 88e3 88f5 88f6 88f7 8902 8906 8914
8915 9000
"""
_ETHERTYPE: Final = np.full(65536, ODD, np.uint8)
_ETHERTYPE[:1501] = LLC
_ETHERTYPE[[int(number, 16) for number in _NEVER_IP.split()]] = NOT_IP
_ETHERTYPE[[0x8100, 0x88A8, 0x9100]] = TAG
_ETHERTYPE[0x0800], _ETHERTYPE[0x86DD] = V4, V6
_AFTER_TAGS: Final = 2

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
        self._u16 = np.ndarray((n - 1,), ">u2", data, 0, (1,))
        self._u32 = np.ndarray((n - 3,), ">u4", data, 0, (1,))
        self._u64 = np.ndarray((n - 7,), ">u8", data, 0, (1,))

    def u16(self, at: Offsets) -> NDArray[np.uint16]:
        """The 2 octets at each offset."""
        return self._u16[at].astype(np.uint16)

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
FAST_LINKS: Final = frozenset(LINKS)
"""Link types that :func:`decode` knows; frames of any other are all odd."""


def _ethertype(
    view: View, number: NDArray[np.uint16], at: Offsets, end: Offsets
) -> tuple[NDArray[np.uint8], Offsets]:
    """Kind of each frame by its ethertype, past VLAN tags and SNAP headers."""
    kind = _ETHERTYPE[number]
    for _ in range(_AFTER_TAGS):
        tagged = np.flatnonzero(kind == TAG)
        if not len(tagged):
            break
        at[tagged] += 4
        kind[tagged] = _ETHERTYPE[view.u16(at[tagged] - 2)]
    rows = np.flatnonzero(kind == LLC)
    if len(rows):
        snap = view.u64(at[rows])
        inner = _ETHERTYPE[(snap & np.uint64(0xFFFF)).astype(np.uint16)]
        is_ip = (snap >> np.uint64(16) == 0xAAAA03000000) & ((inner == V4) | (inner == V6))
        kind[rows] = np.where(at[rows] + 8 > end[rows], CUT, np.where(is_ip, inner, NOT_IP))
        at[rows[is_ip]] += 8
    kind[kind == TAG] = ODD
    return kind, at
