"""Entries of the kernel's connection tracking table as columns, from ctnetlink messages.

All messages are walked at once, attribute by attribute, so that the cost is numpy's and not Python's: about 2 µs an entry.
Message layout: linux/netfilter/nfnetlink_conntrack.h, linux/netfilter/nf_conntrack_common.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import V4_PREFIX, Addresses

Numbers = NDArray[np.int64]

HEAD: Final = 16 + 4
"""Octets of struct nlmsghdr and struct nfgenmsg, before the attributes."""
_AF_INET: Final = 2
_TYPE: Final = 0x3FFF
_MOST: Final = 40
"""Attributes that are read of one message or nest; there are 27 kinds (enum ctattr_type)."""

# enum ctattr_type
_ORIG, _REPLY, _STATUS, _PROTOINFO, _COUNTED_ORIG, _COUNTED_REPLY, _ID, _ZONE, _TIMESTAMP = (
    1, 2, 3, 4, 9, 10, 12, 18, 20,
)  # fmt: skip
# enum ctattr_tuple, ctattr_ip, ctattr_l4proto
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_V4_FROM, _V4_TO, _V6_FROM, _V6_TO = 1, 2, 3, 4
_PROTO, _PORT_FROM, _PORT_TO, _ICMP_ID, _ICMPV6_ID = 1, 2, 3, 4, 7
_PACKETS, _OCTETS, _START, _TCP, _TCP_STATE = 1, 2, 1, 1, 1

OFFLOADED: Final = 1 << 14
"""IPS_OFFLOAD: a flowtable forwards its packets; they are counted only if the flowtable says ``counter``."""
TIME_WAIT, CLOSED = 7, 8
"""enum tcp_conntrack: both ends have sent FIN, or one RST."""


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of n entries: who sends to whom, and how much was sent."""

    source: Addresses
    target: Addresses
    source_port: NDArray[np.int32]
    """-1 where the protocol has none. ICMP: see ``Tracked.echo``."""
    target_port: NDArray[np.int32]
    packets: Numbers
    octets: Numbers
    """IP layer with headers, as the kernel saw them: a frame that is cut later (GSO) has one header."""

    def take(self, index: NDArray[Any]) -> Direction:
        """Rows by index or mask."""
        return Direction(*(getattr(self, name)[index] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Tracked:
    """n entries of the table. ``orig`` is who sent first, ``reply`` who answers, as packets are after translation."""

    orig: Direction
    reply: Direction
    protocol: NDArray[np.uint8]
    zone: Numbers
    identity: Numbers
    """The kernel's id of the entry; a later entry may get it again."""
    echo: Numbers
    """Identifier of an ICMP echo, which tells two of them apart; -1 for others."""
    status: Numbers
    """Bits of enum ip_conntrack_status."""
    state: NDArray[np.int8]
    """enum tcp_conntrack; -1 where it is not told."""
    start_ns: Numbers
    """Wall clock when the entry was made; -1 where nf_conntrack_timestamp was off then."""
    counted: NDArray[np.bool_]
    """Whether it has counters: not where it is older than nf_conntrack_acct."""

    def __len__(self) -> int:
        return len(self.protocol)

    def take(self, index: NDArray[Any]) -> Tracked:
        """Rows by index or mask."""
        rest = {name: getattr(self, name)[index] for name in self.__slots__ if name not in ("orig", "reply")}
        return Tracked(orig=self.orig.take(index), reply=self.reply.take(index), **rest)

    @property
    def counts(self) -> Numbers:
        """(4, n): packets and octets sent first, packets and octets answered."""
        return np.stack((self.orig.packets, self.orig.octets, self.reply.packets, self.reply.octets))


class _Octets:
    """Numbers at any place of a buffer, aligned or not."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.octets = np.frombuffer(bytes(data) + bytes(16), np.uint8)

    def read(self, at: Numbers, kind: str) -> NDArray[Any]:
        """The number of that type at each place; what lies beyond the buffer reads its end."""
        dtype = np.dtype(kind)
        view: NDArray[Any] = np.ndarray((len(self.octets) - dtype.itemsize + 1,), dtype, self.octets, 0, (1,))
        return view[np.minimum(at, len(view) - 1)]


@dataclass(frozen=True, slots=True)
class _Span:
    """Where something lies in each message; ``at`` is -1 where it is not there."""

    at: Numbers
    end: Numbers


def parse(data: bytes | memoryview, starts: Numbers, ends: Numbers) -> Tracked:
    """Columns of the whole ctnetlink messages that lie from ``starts`` to ``ends`` in ``data``.

    A message that breaks off or lies about its lengths gives what could be read; nothing outside it is read.
    """
    octets = _Octets(data)
    top = _children(
        octets,
        _Span(starts + HEAD, ends),
        (_ORIG, _REPLY, _STATUS, _PROTOINFO, _COUNTED_ORIG, _COUNTED_REPLY, _ID, _ZONE, _TIMESTAMP),
    )
    four = octets.read(starts + 16, "u1") == _AF_INET
    orig, protocol, echo, zone_orig = _direction(octets, top[_ORIG], top[_COUNTED_ORIG], four)
    reply, _, _, zone_reply = _direction(octets, top[_REPLY], top[_COUNTED_REPLY], four)
    zone = np.maximum(np.maximum(zone_orig, zone_reply), _number(octets, top[_ZONE], ">u2", 0))
    tcp = _children(octets, top[_PROTOINFO], (_TCP,))[_TCP]
    state = _number(octets, _children(octets, tcp, (_TCP_STATE,))[_TCP_STATE], "u1", -1)
    begun = _children(octets, top[_TIMESTAMP], (_START,))[_START]
    counted = (top[_COUNTED_ORIG].at >= 0) & (top[_COUNTED_REPLY].at >= 0)
    return Tracked(
        orig=orig,
        reply=reply,
        protocol=np.maximum(protocol, 0).astype(np.uint8),
        zone=zone,
        identity=_number(octets, top[_ID], ">u4", 0),
        echo=echo,
        status=_number(octets, top[_STATUS], ">u4", 0),
        state=state.astype(np.int8),
        start_ns=_number(octets, begun, ">i8", -1),
        counted=counted & (top[_ORIG].at >= 0) & (top[_REPLY].at >= 0) & (protocol >= 0),
    )


def _direction(
    octets: _Octets, ends: _Span, counters: _Span, four: NDArray[np.bool_]
) -> tuple[Direction, Numbers, Numbers, Numbers]:
    """(who sends to whom, protocol, echo identifier, zone) of one tuple with its counters."""
    parts = _children(octets, ends, (_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE))
    ip = _children(octets, parts[_TUPLE_IP], (_V4_FROM, _V4_TO, _V6_FROM, _V6_TO))
    proto = _children(octets, parts[_TUPLE_PROTO], (_PROTO, _PORT_FROM, _PORT_TO, _ICMP_ID, _ICMPV6_ID))
    counts = _children(octets, counters, (_PACKETS, _OCTETS))
    echo = np.maximum(
        _number(octets, proto[_ICMP_ID], ">u2", -1), _number(octets, proto[_ICMPV6_ID], ">u2", -1)
    )
    direction = Direction(
        source=_address(octets, ip[_V4_FROM], ip[_V6_FROM], four),
        target=_address(octets, ip[_V4_TO], ip[_V6_TO], four),
        source_port=_number(octets, proto[_PORT_FROM], ">u2", -1).astype(np.int32),
        target_port=_number(octets, proto[_PORT_TO], ">u2", -1).astype(np.int32),
        packets=_number(octets, counts[_PACKETS], ">i8", 0),
        octets=_number(octets, counts[_OCTETS], ">i8", 0),
    )
    zone = _number(octets, parts[_TUPLE_ZONE], ">u2", 0)
    return direction, _number(octets, proto[_PROTO], "u1", -1), echo, zone


def _children(octets: _Octets, within: _Span, wanted: Sequence[int]) -> dict[int, _Span]:
    """The content of each wanted attribute, by walking the attributes of all messages at once."""
    n = len(within.at)
    found = {kind: _Span(np.full(n, -1, np.int64), np.zeros(n, np.int64)) for kind in wanted}
    rows = np.flatnonzero(within.at >= 0)
    at, end = within.at[rows], within.end[rows]
    for _ in range(_MOST):
        room = at + 4 <= end
        if not room.all():
            rows, at, end = rows[room], at[room], end[room]
        if not len(rows):
            break
        size = octets.read(at, "=u2").astype(np.int64)
        kind = octets.read(at + 2, "=u2") & _TYPE
        whole = (size >= 4) & (at + size <= end)
        if not whole.all():
            rows, at, end = rows[whole], at[whole], end[whole]
            size, kind = size[whole], kind[whole]
        # Messages of one table are alike, so most often all hold the same attribute at this turn.
        same = len(kind) > 0 and bool((kind == kind[0]).all())
        for one in {int(kind[0])} if same else set(np.unique(kind).tolist()):
            if one in found:
                here = slice(None) if same else kind == one
                found[one].at[rows[here]] = at[here] + 4
                found[one].end[rows[here]] = (at + size)[here]
        at = at + (size + 3 & ~3)
    return found


def _number(octets: _Octets, span: _Span, kind: str, absent: int) -> Numbers:
    """The number in each attribute, ``absent`` where there is none or it is too short."""
    there = (span.at >= 0) & (span.end - span.at >= np.dtype(kind).itemsize)
    return np.where(there, octets.read(np.maximum(span.at, 0), kind).astype(np.int64), absent)


def _address(octets: _Octets, v4: _Span, v6: _Span, four: NDArray[np.bool_]) -> Addresses:
    out = np.zeros((len(four), 2), np.uint64)
    has4 = four & (v4.at >= 0) & (v4.end - v4.at >= 4)
    out[has4, 1] = octets.read(v4.at[has4], ">u4").astype(np.uint64) | np.uint64(V4_PREFIX)
    has6 = ~four & (v6.at >= 0) & (v6.end - v6.at >= 16)
    out[has6, 0] = octets.read(v6.at[has6], ">u8")
    out[has6, 1] = octets.read(v6.at[has6] + 8, ">u8")
    return out
