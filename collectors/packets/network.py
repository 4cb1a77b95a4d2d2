"""IP and transport headers of many frames at once: addresses, ports, flags, and which octets are whose.

All that stands at a fixed place is copied out of each frame in one read (reading a number that is not aligned costs
numpy as much as copying 56 octets); what options, extension headers and fragments move is read by its own offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import V4_PREFIX
from collectors.packets.jumbo import jumbo_payload
from collectors.packets.links import V6, Offsets, View

REACH: Final = 56
"""Octets copied of each frame from its IP header on: the header of IPv6, and that of TCP up to its flags."""

_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _NO_NEXT, _OPTIONS = 0, 43, 44, 51, 59, 60
_EXTENSION: Final = np.zeros(256, bool)
_EXTENSION[[_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _OPTIONS]] = True
_MOST_EXTENSIONS: Final = 16
_MOST_OFFLOAD: Final = 1 << 20
"""Octets of an offload frame that are believed; Linux makes none above 524,280 (GSO_MAX_SIZE, <linux/netdevice.h>)."""
_TCP: Final = 6
TRANSPORTS: Final[Mapping[int, tuple[str, int]]] = {
    _TCP: ("TCP", 20),
    17: ("UDP", 8),
    33: ("DCCP", 12),
    132: ("SCTP", 12),
    136: ("UDP-Lite", 8),
}
"""Protocols with ports -> (name, least octets of their header)."""
_HEADER: Final = np.zeros(256, np.uint16)
_HEADER[list(TRANSPORTS)] = [least for _, least in TRANSPORTS.values()]
"""Least transport header in octets by protocol: TCP, UDP, DCCP, SCTP, UDP-Lite. The others count as all content."""


class _Heads:
    """The first octets from each IP header on, side by side. An offset beyond the buffer reads what lies at its end."""

    def __init__(self, view: View, at: Offsets) -> None:
        places = len(view.u8) - REACH + 1
        whole = np.ndarray((places,), f"V{REACH}", view.u8, 0, (1,))
        self._octets = whole[np.minimum(at, places - 1)]

    def column(self, offset: int, kind: str) -> NDArray[Any]:
        """The number at ``offset`` of each, not copied."""
        return np.ndarray((len(self._octets),), kind, self._octets, offset, (REACH,))


@dataclass(slots=True)
class Network:
    """IP layer of some frames. ``at`` and ``transport`` are offsets into the buffer."""

    heads: _Heads
    six: Offsets
    """Which of them are IPv6."""
    at: Offsets
    transport: Offsets
    header: Offsets
    """IP header with options or extension headers, octets."""
    octets: NDArray[np.int64]
    protocol: NDArray[np.uint8]
    later: NDArray[np.bool_]
    """A fragment that is not the first."""
    bad: NDArray[np.bool_]
    over: NDArray[np.bool_]
    """Claims more octets than were on the wire."""
    source: NDArray[np.uint64]
    target: NDArray[np.uint64]


def read_network(
    view: View, kind: NDArray[np.uint8], at: Offsets, end: Offsets, wire_end: Offsets
) -> Network:
    """IP layer of every frame; of frames that carry none the values mean nothing.

    ``view`` must go on for ``REACH`` octets behind ``at`` wherever a frame carries IP.
    """
    network = _ipv4(_Heads(view, at), np.flatnonzero(kind == V6), at, wire_end)
    if len(network.six):
        _ipv6(view, network, end, wire_end)
    return network


def _ipv4(heads: _Heads, six: Offsets, at: Offsets, wire_end: Offsets) -> Network:
    """Every frame read as IPv4."""
    # RFC 791: version, header length, -, total length, identification, flags and fragment offset, in one read.
    first = heads.column(0, ">i8").astype(np.int64)
    header = (first >> 54) & 0x3C
    total = (first >> 32) & 0xFFFF
    on_wire = wire_end - at
    bad = (first >> 60) & 15 != 4
    bad |= header < 20
    bad |= (total < header) & (total != 0)
    over = total > on_wire
    offload = total == 0
    bad |= offload & (on_wire > _MOST_OFFLOAD)
    np.copyto(total, on_wire, where=offload | over)
    # The two columns of an address lie apart, each in one piece: what follows works on whole columns.
    source, target = np.zeros((2, len(at)), np.uint64), np.zeros((2, len(at)), np.uint64)
    np.bitwise_or(heads.column(12, ">u4"), np.uint64(V4_PREFIX), out=source[1])
    np.bitwise_or(heads.column(16, ">u4"), np.uint64(V4_PREFIX), out=target[1])
    return Network(
        heads=heads,
        six=six,
        at=at,
        transport=at + header,
        header=header,
        octets=total,
        protocol=heads.column(9, "u1").copy(),
        later=(first & 0x1FFF) != 0,
        bad=bad,
        over=over,
        source=source.T,
        target=target.T,
    )


def _ipv6(view: View, network: Network, end: Offsets, wire_end: Offsets) -> None:
    """Put in place what ``network.six`` are."""
    # RFC 8200 section 3. Payload length 0 with a next header is a jumbogram (RFC 2675) or an offload frame.
    rows, heads = network.six, network.heads
    at, n = network.at[rows], len(rows)
    words = heads.column(0, "V40")[rows]
    words = words.view(">u8").reshape(n, 5).T.astype(np.uint64)
    first = words[0].view(np.int64)
    payload = (first >> 16) & 0xFFFF
    protocol = ((first >> 8) & 0xFF).astype(np.uint8)
    on_wire = wire_end[rows] - at
    offload = (payload == 0) & (protocol != _NO_NEXT)
    jumbo = np.flatnonzero(offload & (protocol == _HOP))
    if len(jumbo):
        payload[jumbo] = jumbo_payload(view, at[jumbo] + 40, end[rows[jumbo]])
        offload[jumbo[payload[jumbo] > 0]] = False
    total = 40 + payload
    over = total > on_wire
    octets = np.where(offload | over, on_wire, total)
    for column, word in zip((*network.source.T, *network.target.T), words[1:], strict=True):
        column[rows] = word
    network.transport[rows] = at + 40
    network.header[rows] = 40
    network.octets[rows] = octets
    network.protocol[rows] = protocol
    network.later[rows] = False
    network.bad[rows] = ((first >> 60) & 15 != 6) | (octets > _MOST_OFFLOAD)
    network.over[rows] = over
    extended = rows[_EXTENSION[protocol]]
    if len(extended):
        _walk_extensions(view, network, extended, np.minimum(end, network.at + network.octets))


def _walk_extensions(view: View, network: Network, rows: Offsets, limit: Offsets) -> None:
    """Move ``protocol``, ``transport`` and ``header`` of ``rows`` past the extension headers that can be read."""
    extended = rows
    for _ in range(_MOST_EXTENSIONS):
        rows = rows[network.transport[rows] + 8 <= limit[rows]]
        if not len(rows):
            break
        at, kind = network.transport[rows], network.protocol[rows]
        units = view.u8[at + 1].astype(np.int64)
        is_fragment = kind == _FRAGMENT
        size = np.where(is_fragment, 8, np.where(kind == _AUTHENTICATION, (units + 2) * 4, (units + 1) * 8))
        network.protocol[rows] = view.u8[at]
        network.transport[rows] += size
        later = is_fragment & (view.u16(at + 2) >= 8)
        network.later[rows] |= later
        rows = rows[_EXTENSION[network.protocol[rows]] & ~later]
    network.header[extended] = network.transport[extended] - network.at[extended]
    # Past the limit nothing is read; the offset must still lie in the buffer.
    network.transport[extended] = np.minimum(network.transport[extended], limit[extended])


def read_transport(view: View, network: Network, end: Offsets) -> tuple[Any, Any, Any, Any]:
    """(source port, target port, TCP flags, transport header octets) where they were captured and belong to the packet."""
    ports, word = _words(view, network)
    room = np.minimum(end, network.at + network.octets) - network.transport
    least = _HEADER.take(network.protocol)
    has_ports = (least > 0) & (room >= 4)
    is_tcp = (network.protocol == _TCP) & (room >= 14)
    whole = None
    if network.later.any():
        # A later fragment carries no transport header: all of it is content.
        whole = ~network.later
        has_ports &= whole
        is_tcp &= whole
    source_port, target_port = (ports >> 16).astype(np.int32), (ports & 0xFFFF).astype(np.int32)
    if len(without := np.flatnonzero(~has_ports)):
        source_port[without] = target_port[without] = -1
    # All ones where there are no flags.
    flags = is_tcp.astype(np.int16) - np.int16(1)
    flags |= (word & 0xFF).view(np.int16)
    np.copyto(least, np.maximum(word >> 10 & 0x3C, 20), where=is_tcp)
    return source_port, target_port, flags, least if whole is None else least * whole


def _words(view: View, network: Network) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """Where the transport header begins: its first four octets, and its 13th and 14th."""
    heads, six = network.heads, network.six
    ports, word = heads.column(20, ">u4").astype(np.uint32), heads.column(32, ">u2").astype(np.uint16)
    moved = network.header != 20
    if len(six):
        ports[six] = heads.column(40, ">u4")[six]
        word[six] = heads.column(52, ">u2")[six]
        moved[six] = network.header[six] != 40
    if len(rows := np.flatnonzero(moved)):
        at = np.minimum(network.transport[rows], len(view.u8) - 14)
        ports[rows], word[rows] = view.u32(at), view.u16(at + 12)
    return ports, word
