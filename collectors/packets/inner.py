"""Packets inside of tunnels, in the place of the outer ones where they can be read beyond doubt.

The rules stand in ``docs/decoding.md``: an inner packet counts by its own IP header, must fit into the outer one and fill
it but for padding, and takes time, interface and direction of its frame. Where that fails the outer packet stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collectors.packets.decode import Decoded, segments
from collectors.packets.links import (
    BAD,
    CUT,
    ETHER,
    ETHERNET,
    IPV4,
    IPV6,
    NOT_IP,
    REASON,
    V4,
    V6,
    Bytes,
    Offsets,
    View,
)
from collectors.packets.packet import Packets
from collectors.packets.tunnels import BY_PROTOCOL, BY_UDP_SOURCE, BY_UDP_TARGET, Tunnel

MOST_NESTED: Final = 8
"""Tunnels within tunnels that are opened; what is deeper counts as the packet found there."""
MOST_PADDING: Final = 64
"""Octets that an outer packet may have behind the inner one: a short Ethernet frame is filled up to 60 octets."""
SNAP: Final = 256
"""Octets of a frame that hold the headers of a tunnel and what is in it."""
_UDP: Final = 17
_LINK: Final = {V4: IPV4, V6: IPV6, ETHER: ETHERNET}

Decode = Callable[..., Decoded]
""":func:`~collectors.packets.decode.decode`, or ``decode_any`` with scapy behind it."""


def decode_inner(
    decode: Decode,
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
    """What ``decode`` gives for the same arguments, each packet replaced by the innermost that can be read in it.

    ``repaired`` also counts outer packets that stay because of what is inside: ``inner_truncated`` (cut by the snapshot
    length), ``inner_undecodable`` and ``inner_length`` (does not fit into the outer packet, which may be a fragment, or
    leaves more of it unexplained than padding). Tunnelled protocols other than IP leave the outer packet uncounted there.
    """
    outer = decode(data, starts, captured, length, time_ns, link, interface, sent)
    found = _opened(decode, outer, data, (starts + captured)[outer.order])
    return found if segment is None else _in_segments(found, segment[outer.order])


def _opened(decode: Decode, found: Decoded, data: Bytes, end: Offsets) -> Decoded:
    """``end``: where the frame of each packet was captured to."""
    rows = np.arange(len(found.packets))
    repaired = dict(found.repaired)
    copied = False
    for _ in range(MOST_NESTED):
        opened = []
        for tunnel, some, skip in list(_tunnels(found, rows)):
            if not copied:
                found, copied = _copy(found), True
            opened += _replace(decode, tunnel, found, some, skip, data, end, repaired)
        if not opened:
            break
        rows = np.concatenate(opened)
    return replace(found, repaired=repaired)


def _tunnels(found: Decoded, rows: Offsets) -> Iterator[tuple[Tunnel, Offsets, int]]:
    """Packets that by protocol or port are tunnels, each at most once, and the octets before the tunnel's own header."""
    packets = found.packets
    rows = rows[found.transport[rows] >= 0]
    protocol = packets.protocol[rows]
    yield from _told(BY_PROTOCOL, protocol, rows, 0)
    udp = rows[protocol == _UDP]
    target = packets.target_port[udp]
    yield from _told(BY_UDP_TARGET, target, udp, 8)
    rest = udp[~np.isin(target, tuple(BY_UDP_TARGET))]
    yield from _told(BY_UDP_SOURCE, packets.source_port[rest], rest, 8)


def _told(
    table: Mapping[int, Tunnel], number: NDArray[Any], rows: Offsets, skip: int
) -> Iterator[tuple[Tunnel, Offsets, int]]:
    if len(rows) and np.isin(number, tuple(table)).any():
        for key, tunnel in table.items():
            some = rows[number == key]
            if len(some):
                yield tunnel, some, skip


def _replace(
    decode: Decode,
    tunnel: Tunnel,
    found: Decoded,
    rows: Offsets,
    skip: int,
    data: Bytes,
    end: Offsets,
    repaired: dict[str, int],
) -> list[Offsets]:
    """Put what is inside of ``rows`` in their place, as far as it can be read: the rows where that was done."""
    view = View(data)
    wire_end = found.network[rows] + found.packets.octets[rows]
    captured_end = np.minimum(end[rows], wire_end)
    kind, at = tunnel.open(view, found.transport[rows] + skip, captured_end)
    kind[(at > captured_end) & (kind != NOT_IP)] = CUT
    for code, reason in REASON.items():
        if code != NOT_IP:
            _count(repaired, "inner_" + reason, int(np.count_nonzero(kind == code)))
    done = []
    for code, link in _LINK.items():
        some = np.flatnonzero(kind == code)
        if not len(some):
            continue
        of, start = rows[some], at[some]
        packets = found.packets
        part = decode(
            data,
            start,
            captured_end[some] - start,
            wire_end[some] - start,
            packets.time_ns[of],
            link,
            packets.interface[of],
            packets.sent[of],
        )
        unknown = len(of) - len(part.order)
        for reason, (frames, _) in part.skipped.items():
            unknown -= frames
            _count(repaired, "inner_" + reason, frames if reason != REASON[NOT_IP] else 0)
        _count(repaired, "inner_" + REASON[BAD], unknown)
        fits = _fits(view, part, wire_end[some[part.order]])
        _count(repaired, "inner_length", len(part.order) - len(fits))
        done.append(_put(found, of[part.order[fits]], part, fits))
    return done


def _fits(view: View, part: Decoded, wire_end: Offsets) -> Offsets:
    """Which inner packets lie in the outer ones and fill them."""
    at, packets = part.network, part.packets
    claimed = np.where(view.u8[at] >> 4 == 4, view.u16(at + 2), 40 + view.u16(at + 4).astype(np.int64))
    rest = wire_end - at - packets.octets
    return np.flatnonzero((claimed <= wire_end - at) & (rest <= MOST_PADDING))


def _put(found: Decoded, rows: Offsets, part: Decoded, index: Offsets) -> Offsets:
    for column in fields(Packets):
        getattr(found.packets, column.name)[rows] = getattr(part.packets, column.name)[index]
    found.network[rows], found.transport[rows] = part.network[index], part.transport[index]
    return rows


def _count(counts: dict[str, int], reason: str, packets: int) -> None:
    if packets:
        counts[reason] = counts.get(reason, 0) + packets


def _copy(found: Decoded) -> Decoded:
    """The same with columns of its own, for the decoder's may be the caller's."""
    packets = Packets(*(getattr(found.packets, column.name).copy() for column in fields(Packets)))
    return replace(found, packets=packets, network=found.network.copy(), transport=found.transport.copy())


def _in_segments(found: Decoded, segment: Offsets) -> Decoded:
    """Offload frames as the packets they become, each with all headers down to the innermost content."""
    packets = found.packets
    count, octets = segments(packets.octets, packets.content_octets, segment)
    return replace(found, packets=replace(packets, packets=count, octets=octets))
