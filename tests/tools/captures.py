"""Captures octet by octet: classic pcap and pcapng blocks, right and wrong, as tests need them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from tests.tools.truth import BEGIN_S


def classic(
    frames: Sequence[bytes],
    *,
    link: int = 1,
    order: str = "<",
    magic: int = 0xA1B2C3D4,
    snap: int = 262_144,
    times: Iterable[tuple[int, int]] | None = None,
    lengths: Sequence[int] | None = None,
) -> bytes:
    """A classic capture of given frames; ``times`` are (seconds, fraction), a second apart unless given."""
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, link)]
    clock = list(times) if times is not None else [(BEGIN_S + i, 0) for i in range(len(frames))]
    extra = b"\0" * 8 if magic == 0xA1B2CD34 else b""
    for i, (frame, (seconds, fraction)) in enumerate(zip(frames, clock, strict=True)):
        length = lengths[i] if lengths else len(frame)
        out.append(struct.pack(order + "IIII", seconds, fraction, len(frame), length) + extra + frame)
    return b"".join(out)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block."""
    body += b"\0" * (-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def option(code: int, value: bytes, order: str = "<") -> bytes:
    """A pcapng option."""
    return struct.pack(order + "HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def section(order: str = "<") -> bytes:
    """A pcapng section header."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int = 1, options: bytes = b"", order: str = "<", snap: int = 0) -> bytes:
    """A pcapng interface description."""
    return block(1, struct.pack(order + "HHI", link, 0, snap) + options, order)


def enhanced(
    frame: bytes,
    ticks: int,
    number: int = 0,
    options: bytes = b"",
    order: str = "<",
    length: int | None = None,
) -> bytes:
    """A pcapng enhanced packet of interface ``number``."""
    wire = len(frame) if length is None else length
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFF_FFFF, len(frame), wire)
    return block(6, head + frame + b"\0" * (-len(frame) % 4) + options, order)
