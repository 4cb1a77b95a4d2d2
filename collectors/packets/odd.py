"""Frames that the fast path does not know: scapy finds where their outermost IP header begins, the fast path reads it.

So PPP, 802.11, Ethernet within MPLS and whatever else scapy can take apart is counted by the same rules as the rest
(``docs/decoding.md``). Dear: some 0.2 ms a frame, a thousand times the fast path. scapy itself is imported at the first
odd frame (0.3 s, 40 MB).
"""

from __future__ import annotations

import functools
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collectors.packets.decode import Decoded, add_skipped, decode
from collectors.packets.links import RAW, Bytes, Offsets
from collectors.packets.packet import concat

NFLOG: Final = 239
ODD_LINKS: Final[Mapping[int, str]] = {
    9: "PPP",
    50: "PPP in HDLC framing",
    51: "PPPoE session",
    105: "802.11",
    119: "802.11 with Prism header",
    127: "802.11 with radiotap header",
    192: "802.11 with PPI header",
    204: "PPP with direction",
    219: "MPLS",
    NFLOG: "NFLOG (by own code)",
}
"""Link types that are tested with captures of their own; whatever else scapy knows is tried as well."""
LINKS_WITHOUT_IP: Final[Mapping[int, str]] = {
    187: "Bluetooth HCI",
    189: "USB (Linux)",
    201: "Bluetooth HCI with direction",
    220: "USB (Linux, padded)",
    227: "CAN bus",
    231: "D-Bus",
    249: "USBPcap",
    253: "netlink",
    271: "vsock",
}
_LOOK: Final = 512
"""Octets of a frame that scapy is given: a link header is never longer, and the rest would only be copied."""
_NOT_IP: Final = -1
_UNKNOWN: Final = -2


def decode_odd(
    data: Bytes,
    starts: Offsets,
    captured: Offsets,
    length: Offsets,
    time_ns: Offsets,
    link: int,
    interface: NDArray[np.int32] | int = -1,
    sent: NDArray[np.int8] | None = None,
    *,
    which: Offsets,
) -> Decoded:
    """Packets of the frames ``which`` of a chunk, as :func:`~collectors.packets.decode.decode` would give them.

    ``odd`` of the answer is empty: what scapy cannot read either is ``skipped`` as ``undecodable``. A Python object per
    layer of every frame.
    """
    find = _finder(link)
    frames = [
        data[s : s + min(c, _LOOK)].tobytes()
        for s, c in zip(starts[which].tolist(), captured[which].tolist(), strict=True)
    ]
    found = np.array([find(frame) for frame in frames], np.int64)
    rows = np.flatnonzero(found >= 0)
    index = which[rows]
    inner = decode(
        data,
        starts[index] + found[rows],
        captured[index] - found[rows],
        np.maximum(length[index], captured[index]) - found[rows],
        time_ns[index],
        RAW,
        interface if isinstance(interface, int) else interface[index],
        sent if sent is None else sent[index],
    )
    skipped: dict[str, tuple[int, int]] = {}
    add_skipped(skipped, inner.skipped)
    for code, reason in ((_NOT_IP, "not_ip"), (_UNKNOWN, "undecodable")):
        lost = which[found == code]
        if len(lost):
            add_skipped(skipped, {reason: (len(lost), int(length[lost].sum()))})
    return replace(inner, order=index[inner.order], odd=np.zeros(0, np.int64), skipped=skipped)


def decode_any(
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
    """:func:`~collectors.packets.decode.decode`, with scapy for what that leaves; packets in the order of the frames.

    ``odd`` of the answer names the frames that scapy was given.
    """
    fast = decode(data, starts, captured, length, time_ns, link, interface, sent, segment)
    if not len(fast.odd):
        return fast
    slow = decode_odd(data, starts, captured, length, time_ns, link, interface, sent, which=fast.odd)
    return merge([fast, slow], odd=fast.odd)


def merge(parts: list[Decoded], *, odd: Offsets) -> Decoded:
    """Parts that were decoded from the same frames, as one, in the order of the frames."""
    order = np.concatenate([part.order for part in parts])
    rank = np.argsort(order, kind="stable")
    skipped: dict[str, tuple[int, int]] = {}
    repaired: dict[str, int] = {}
    for part in parts:
        add_skipped(skipped, part.skipped)
        for reason, packets in part.repaired.items():
            repaired[reason] = repaired.get(reason, 0) + packets
    return Decoded(
        concat([part.packets for part in parts]).take(rank),
        order[rank],
        odd,
        skipped,
        repaired,
        np.concatenate([part.network for part in parts])[rank],
        np.concatenate([part.transport for part in parts])[rank],
    )


def _finder(link: int) -> Callable[[bytes], int]:
    """Says where in a frame of this link type its outermost IP header begins, or one of the codes above."""
    if link == NFLOG:
        return _in_nflog
    if link in LINKS_WITHOUT_IP:
        return lambda frame: _NOT_IP
    layer = _scapy().get(link)
    if layer is None:
        return lambda frame: _UNKNOWN
    return functools.partial(_in_layers, layer)


def _in_nflog(frame: bytes) -> int:
    """LINKTYPE_NFLOG: a family, then attributes of (length, type) in the capturing host's order; the payload is 9."""
    if len(frame) < 4:
        return _UNKNOWN
    if frame[0] not in (2, 10):
        return _NOT_IP
    at = 4
    while at + 4 <= len(frame):
        for order in "<>":
            size, kind = struct.unpack_from(order + "HH", frame, at)
            if kind < 256:
                break
        if kind == 9:
            return at + 4
        at += max(4, size + 3 & ~3)
    return _UNKNOWN


def _in_layers(outermost: Any, frame: bytes) -> int:
    try:
        layer = outermost(frame)
    except Exception:  # noqa: BLE001  scapy raises whatever it stumbles over in hostile octets
        return _UNKNOWN
    at = 0
    while layer:
        name = layer.__class__.__name__
        if name in ("IP", "IPv6"):
            head = bytes(layer.original[:20])
            # A layer that rewrites its octets before it reads them (an FCS in front) moves what follows.
            found = at if frame.startswith(head, at) else frame.find(head)
            return found if found >= 0 else _UNKNOWN
        if name in _CARRIES_NO_IP or (name.startswith("Dot11") and getattr(layer, "type", 2) != 2):
            return _NOT_IP
        at += len(layer.raw_packet_cache or b"")
        layer = layer.payload
    return _UNKNOWN


_CARRIES_NO_IP: Final = frozenset(
    ("ARP", "STP", "EAPOL", "LLTD", "PPPoED", "PPP_LCP", "PPP_IPCP", "PPP_CCP", "PPP_ECP", "PPP_PAP", "PPP_CHAP", "Dot11Beacon")
)  # fmt: skip


@functools.cache
def _scapy() -> dict[int, Any]:
    """Link type -> scapy's outermost layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import logging

        # Before its first import: scapy warns about routes and interfaces while it loads.
        logging.getLogger("scapy").setLevel(logging.CRITICAL)
        import scapy.contrib.mpls
        import scapy.contrib.ppi_geotag
        import scapy.layers.dot11
        import scapy.layers.eap
        import scapy.layers.inet
        import scapy.layers.inet6
        import scapy.layers.l2
        import scapy.layers.ppp
        from scapy.config import conf

    from scapy.packet import bind_layers

    # RFC 3032 section 4: PPP's number for MPLS, which scapy does not know.
    bind_layers(scapy.layers.ppp.PPP, scapy.contrib.mpls.MPLS, proto=0x0281)
    known = dict(conf.l2types.num2layer)
    known[219] = scapy.contrib.mpls.MPLS
    return known
