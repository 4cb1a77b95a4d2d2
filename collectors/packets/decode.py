"""Frames to packets, a chunk at a time: numpy gathers on the capture buffer, no Python object per frame.

Knows Ethernet (with up to two VLAN tags), Linux cooked v1 and v2, raw IP and BSD loopback, then IPv4, IPv6 with its
extension headers, fragments, and the ports and flags of TCP, UDP, UDP-Lite, SCTP and DCCP. What it does not know it
names in ``Decoded.odd``, for :mod:`collectors.packets.odd`. The rules of counting stand in ``docs/decoding.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import V4_PREFIX
from collectors.packets.links import BAD, CUT, LINKS, ODD, REASON, V4, V6, Bytes, Offsets, View
from collectors.packets.packet import Packets, concat

CHUNK: Final = 16_384
"""Frames decoded at once: their columns stay in the cache (a whole file at once is three times slower)."""
PAD: Final = 128
"""Octets of a buffer that must follow the start of every frame; a shorter buffer is copied first."""

_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _NO_NEXT, _OPTIONS = 0, 43, 44, 51, 59, 60
_EXTENSION: Final = np.zeros(256, bool)
_EXTENSION[[_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _OPTIONS]] = True
_MOST_EXTENSIONS: Final = 16
_MOST_OFFLOAD: Final = 1 << 20
"""Octets of an offload frame that are believed; Linux makes none above 524,280 (GSO_MAX_SIZE, <linux/netdevice.h>)."""
_TCP: Final = 6
_HEADER: Final = np.zeros(256, np.int64)
_HEADER[[_TCP, 17, 33, 132, 136]] = 20, 8, 12, 12, 8
"""Least transport header in octets by protocol: TCP, UDP, DCCP, SCTP, UDP-Lite. The others count as all content."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a chunk of frames: each is a packet, odd, or skipped."""

    packets: Packets
    order: Offsets
    """Index of each packet's frame in the input."""
    odd: Offsets
    """Indices of the frames that the fast path does not know."""
    skipped: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Reason -> (frames, octets on the wire): ``not_ip``, ``truncated`` (cut before the IP header's end) and
    ``undecodable`` (an IP header that contradicts itself)."""
    repaired: Mapping[str, int] = field(default_factory=dict)
    """Packets counted although their header is wrong: ``length_over_wire`` claim more octets than the frame had."""


@dataclass(slots=True)
class _Network:
    """IP layer of some frames. ``at`` and ``transport`` are offsets into the buffer."""

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


def decode(
    data: Bytes,
    starts: Offsets,
    captured: Offsets,
    length: Offsets,
    time_ns: Offsets,
    link: int,
    interface: NDArray[np.int32] | int = -1,
    sent: NDArray[np.int8] | None = None,
    segment: Offsets | None = None,
) -> Decoded:
    """Packets of the frames ``data[starts[i] : starts[i] + captured[i]]``, in the order given.

    ``length`` is the frame's octets on the wire (the larger of it and ``captured`` is taken), ``time_ns`` UTC, ``link`` a
    LINKTYPE_ number. ``sent`` wins over what the link layer tells. ``segment`` is the content octets of each packet that
    an offload frame becomes (``gso_size`` of ``struct virtio_net_hdr``), 0 for others. Reads nothing beyond ``captured`` that it
    believes; does not change or keep ``data``. Any octets are good input; raises ``ValueError`` only where a frame does not
    lie in ``data``.
    """
    n = len(starts)
    if n == 0:
        return Decoded(_no_packets(), np.zeros(0, np.int64), np.zeros(0, np.int64))
    if int((starts + captured).max()) > len(data) or int(starts.min()) < 0 or int(captured.min()) < 0:
        raise ValueError("a frame does not lie in the buffer")
    if link not in LINKS:
        return Decoded(_no_packets(), np.zeros(0, np.int64), np.arange(n))
    view, starts = _padded(data, starts, captured)
    parts = []
    for first in range(0, n, CHUNK):
        rows = slice(first, first + CHUNK)
        part = _decode(
            view,
            starts[rows],
            captured[rows],
            length[rows],
            time_ns[rows],
            link,
            interface if isinstance(interface, int) else interface[rows],
            sent if sent is None else sent[rows],
            segment if segment is None else segment[rows],
        )
        parts.append((first, part))
    return parts[0][1] if len(parts) == 1 else _joined(parts)


def _padded(data: Bytes, starts: Offsets, captured: Offsets) -> tuple[View, Offsets]:
    need = max(int(starts.max()) + PAD, int((starts + captured).max()) + 16)
    if need <= len(data):
        return View(data), starts
    first = int(starts.min())
    return View(np.concatenate([data[first:], np.zeros(PAD, np.uint8)])), starts - first


def _decode(
    view: View,
    starts: Offsets,
    captured: Offsets,
    length: Offsets,
    time_ns: Offsets,
    link: int,
    interface: NDArray[np.int32] | int,
    sent: NDArray[np.int8] | None,
    segment: Offsets | None,
) -> Decoded:
    n = len(starts)
    length = np.maximum(length, captured)
    end, wire_end = starts + captured, starts + length
    kind, at, direction = LINKS[link](view, starts, end)
    kind[at > end] = CUT
    four, six = kind == V4, kind == V6
    kind[four & (at + 20 > end)] = CUT
    kind[six & (at + 40 > end)] = CUT
    network = _network(view, kind, at, end, wire_end)
    kind[network.bad] = BAD
    good = (kind == V4) | (kind == V6)
    source_port, target_port, flags, header = _transport(view, network, end)
    octets = network.octets
    content = np.maximum(octets - network.header - header, 0)
    packets = np.ones(n, np.int64)
    if segment is not None:
        packets, octets = _segments(octets, content, segment)
    if sent is None:
        sent = np.full(n, -1, np.int8) if direction is None else direction
    all_packets = Packets(
        time_ns=time_ns,
        source=network.source,
        target=network.target,
        source_port=source_port,
        target_port=target_port,
        protocol=network.protocol,
        octets=octets,
        content_octets=content,
        packets=packets,
        tcp_flags=flags,
        sent=sent,
        interface=np.full(n, interface, np.int32) if isinstance(interface, int) else interface,
    )
    over = int(np.count_nonzero(network.over & good)) if network.over.any() else 0
    repaired = {"length_over_wire": over} if over else {}
    if good.all():
        return Decoded(all_packets, np.arange(n), np.zeros(0, np.int64), {}, repaired)
    order = np.flatnonzero(good)
    return Decoded(
        all_packets.take(order), order, np.flatnonzero(kind == ODD), _skipped(kind, length), repaired
    )


def _skipped(kind: NDArray[np.uint8], length: Offsets) -> dict[str, tuple[int, int]]:
    found = {}
    for code, reason in REASON.items():
        rows = kind == code
        if frames := int(np.count_nonzero(rows)):
            found[reason] = (frames, int(length[rows].sum()))
    return found


def _network(view: View, kind: NDArray[np.uint8], at: Offsets, end: Offsets, wire_end: Offsets) -> _Network:
    """IP layer of every frame; of frames that carry none the values mean nothing."""
    n = len(at)
    four, six = np.flatnonzero(kind == V4), np.flatnonzero(kind == V6)
    if len(four) == n:
        return _ipv4(view, at, wire_end)
    if len(six) == n:
        return _ipv6(view, at, end, wire_end)
    whole = _Network(
        at=at,
        transport=at.copy(),
        header=np.zeros(n, np.int64),
        octets=np.zeros(n, np.int64),
        protocol=np.zeros(n, np.uint8),
        later=np.zeros(n, bool),
        bad=np.zeros(n, bool),
        over=np.zeros(n, bool),
        source=np.zeros((n, 2), np.uint64),
        target=np.zeros((n, 2), np.uint64),
    )
    for rows, part in (
        (four, _ipv4(view, at[four], wire_end[four])),
        (six, _ipv6(view, at[six], end[six], wire_end[six])),
    ):
        for name in ("transport", "header", "octets", "protocol", "later", "bad", "over", "source", "target"):
            getattr(whole, name)[rows] = getattr(part, name)
    return whole


def _ipv4(view: View, at: Offsets, wire_end: Offsets) -> _Network:
    # RFC 791: version, header length, -, total length, identification, flags and fragment offset, in one read.
    first = view.u64(at).view(np.int64)
    header = (first >> 54) & 0x3C
    total = (first >> 32) & 0xFFFF
    on_wire = wire_end - at
    bad = ((first >> 60) & 15 != 4) | (header < 20) | ((total < header) & (total != 0))
    over = total > on_wire
    offload = total == 0
    bad |= offload & (on_wire > _MOST_OFFLOAD)
    octets = np.where(offload | over, on_wire, total)
    ends = view.u64(at + 12)
    source, target = np.zeros((len(at), 2), np.uint64), np.zeros((len(at), 2), np.uint64)
    source[:, 1] = (ends >> np.uint64(32)) | np.uint64(V4_PREFIX)
    target[:, 1] = (ends & np.uint64(0xFFFF_FFFF)) | np.uint64(V4_PREFIX)
    return _Network(
        at=at,
        transport=at + header,
        header=header,
        octets=octets,
        protocol=view.u8[at + 9],
        later=(first & 0x1FFF) != 0,
        bad=bad,
        over=over,
        source=source,
        target=target,
    )


def _ipv6(view: View, at: Offsets, end: Offsets, wire_end: Offsets) -> _Network:
    # RFC 8200 section 3. Payload length 0 with a next header is a jumbogram (RFC 2675) or an offload frame.
    n = len(at)
    first = view.u64(at).view(np.int64)
    payload = (first >> 16) & 0xFFFF
    protocol = ((first >> 8) & 0xFF).astype(np.uint8)
    on_wire = wire_end - at
    total = 40 + payload
    over = total > on_wire
    offload = (payload == 0) & (protocol != _NO_NEXT)
    octets = np.where(offload | over, on_wire, total)
    source, target = np.empty((n, 2), np.uint64), np.empty((n, 2), np.uint64)
    source[:, 0], source[:, 1] = view.u64(at + 8), view.u64(at + 16)
    target[:, 0], target[:, 1] = view.u64(at + 24), view.u64(at + 32)
    network = _Network(
        at=at,
        transport=at + 40,
        header=np.full(n, 40, np.int64),
        octets=octets,
        protocol=protocol,
        later=np.zeros(n, bool),
        bad=((first >> 60) & 15 != 6) | (offload & (on_wire > _MOST_OFFLOAD)),
        over=over,
        source=source,
        target=target,
    )
    rows = np.flatnonzero(_EXTENSION[protocol])
    if len(rows):
        _walk_extensions(view, network, rows, np.minimum(end, at + octets))
    return network


def _walk_extensions(view: View, network: _Network, rows: Offsets, limit: Offsets) -> None:
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


def _transport(view: View, network: _Network, end: Offsets) -> tuple[Any, Any, Any, Offsets]:
    """(source port, target port, TCP flags, transport header octets) where they were captured and belong to the packet."""
    at = network.transport
    room = np.minimum(end, network.at + network.octets) - at
    least = _HEADER[network.protocol]
    whole = ~network.later
    has_ports = (least > 0) & (room >= 4) & whole
    ports = view.u32(at)
    source_port = np.where(has_ports, (ports >> np.uint32(16)).astype(np.int32), np.int32(-1))
    target_port = np.where(has_ports, (ports & np.uint32(0xFFFF)).astype(np.int32), np.int32(-1))
    is_tcp = (network.protocol == _TCP) & (room >= 14) & whole
    word = view.u16(at + 12)
    flags = np.where(is_tcp, (word & np.uint16(0xFF)).astype(np.int16), np.int16(-1))
    header = np.where(is_tcp, np.maximum(word >> np.uint16(10) & np.uint16(0x3C), np.uint16(20)), least)
    # A later fragment carries no transport header: all of it is content.
    return source_port, target_port, flags, header * whole


def _segments(octets: Offsets, content: Offsets, segment: Offsets) -> tuple[Offsets, Offsets]:
    """(packets, octets) of offload frames once cut up: each packet repeats the headers."""
    size = np.where(segment > 0, segment, np.maximum(content, 1))
    packets = np.maximum(-(-content // size), 1)
    return packets, octets + (packets - 1) * (octets - content)


def _joined(parts: list[tuple[int, Decoded]]) -> Decoded:
    skipped: dict[str, tuple[int, int]] = {}
    repaired: dict[str, int] = {}
    for _, part in parts:
        add_skipped(skipped, part.skipped)
        for reason, packets in part.repaired.items():
            repaired[reason] = repaired.get(reason, 0) + packets
    return Decoded(
        concat([part.packets for _, part in parts]),
        np.concatenate([part.order + first for first, part in parts]),
        np.concatenate([part.odd + first for first, part in parts]),
        skipped,
        repaired,
    )


def add_skipped(total: dict[str, tuple[int, int]], more: Mapping[str, tuple[int, int]]) -> None:
    """Add (frames, octets) by reason to ``total``."""
    for reason, (frames, octets) in more.items():
        had = total.get(reason, (0, 0))
        total[reason] = (had[0] + frames, had[1] + octets)


def _no_packets() -> Packets:
    number, pair = np.zeros(0, np.int64), np.zeros((0, 2), np.uint64)
    port = np.zeros(0, np.int32)
    return Packets(
        time_ns=number,
        source=pair,
        target=pair,
        source_port=port,
        target_port=port,
        protocol=np.zeros(0, np.uint8),
        octets=number,
        content_octets=number,
        packets=number,
        tcp_flags=np.zeros(0, np.int16),
        sent=np.zeros(0, np.int8),
        interface=port,
    )
