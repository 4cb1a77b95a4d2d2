"""Frames to packets, a chunk at a time: numpy gathers on the capture buffer, no Python object per frame.

Knows Ethernet (with up to two VLAN tags), Linux cooked v1 and v2, raw IP and BSD loopback, then IPv4, IPv6 with its
extension headers, fragments, and the ports and flags of TCP, UDP, UDP-Lite, SCTP and DCCP. What it does not know it
names in ``Decoded.odd``, for :mod:`collectors.packets.odd`. The rules of counting stand in ``docs/decoding.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.packets.links import BAD, CUT, LINKS, ODD, REASON, V4, V6, Bytes, Offsets, View
from collectors.packets.network import REACH, read_network, read_transport
from collectors.packets.packet import Packets, concat

CHUNK: Final = 32_768
"""Frames decoded at once: a few columns stay in the cache (a whole file at once is three times slower)."""
PAD: Final = 128
"""Octets of a buffer that must follow the start of every frame, and nearly as many its end; a shorter one is copied first."""


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
    network: Offsets = field(default_factory=lambda: np.zeros(0, np.int64))
    """Where each packet's IP header begins in ``data``; of a merge of several buffers there are none."""
    transport: Offsets = field(default_factory=lambda: np.zeros(0, np.int64))
    """Where what follows the IP header and its extension headers begins; -1 in later fragments."""


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
    view, placed = _padded(data, starts, captured)
    moved = int(starts[0] - placed[0])
    parts = []
    for first in range(0, n, CHUNK):
        rows = slice(first, first + CHUNK)
        part = _decode(
            view,
            placed[rows],
            captured[rows],
            length[rows],
            time_ns[rows],
            link,
            interface if isinstance(interface, int) else interface[rows],
            sent if sent is None else sent[rows],
            segment if segment is None else segment[rows],
            moved,
        )
        parts.append((first, part))
    return parts[0][1] if len(parts) == 1 else _joined(parts)


def _padded(data: Bytes, starts: Offsets, captured: Offsets) -> tuple[View, Offsets]:
    need = max(int(starts.max()) + PAD, int((starts + captured).max()) + 16 + REACH)
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
    moved: int,
) -> Decoded:
    n = len(starts)
    length = np.maximum(length, captured)
    end, wire_end = starts + captured, starts + length
    kind, at, direction = LINKS[link](view, starts, end)
    kind[at > end] = CUT
    four, six = kind == V4, kind == V6
    kind[four & (at + 20 > end)] = CUT
    kind[six & (at + 40 > end)] = CUT
    network = read_network(view, kind, at, end, wire_end)
    good = (kind == V4) | (kind == V6)
    kind[good & network.bad] = BAD
    good &= ~network.bad
    source_port, target_port, flags, header = read_transport(view, network, end)
    octets = network.octets
    content = np.maximum(octets - network.header - header, 0)
    packets = np.ones(n, np.int64)
    if segment is not None:
        packets, octets = segments(octets, content, segment)
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
    at, transport = network.at + moved, network.transport + moved
    if network.later.any():
        transport[network.later] = -1
    if good.all():
        return Decoded(all_packets, np.arange(n), np.zeros(0, np.int64), {}, repaired, at, transport)
    order = np.flatnonzero(good)
    return Decoded(
        all_packets.take(order),
        order,
        np.flatnonzero(kind == ODD),
        _skipped(kind, length),
        repaired,
        at[order],
        transport[order],
    )


def _skipped(kind: NDArray[np.uint8], length: Offsets) -> dict[str, tuple[int, int]]:
    found = {}
    for code, reason in REASON.items():
        rows = kind == code
        if frames := int(np.count_nonzero(rows)):
            found[reason] = (frames, int(length[rows].sum()))
    return found


def segments(octets: Offsets, content: Offsets, segment: Offsets) -> tuple[Offsets, Offsets]:
    """(packets, octets) of offload frames once cut up into ``segment`` octets of content each, with all headers repeated."""
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
        np.concatenate([part.network for _, part in parts]),
        np.concatenate([part.transport for _, part in parts]),
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
