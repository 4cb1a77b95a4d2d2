"""Any octets under any link type: each frame is one packet, or odd, or skipped for one reason; no amount is above the
frame's own; and nothing outside a frame changes what is read in it.

Run by hypothesis in tests/unit/test_decode.py; with atheris: ``python -m tests.fuzz.fuzz_decode``.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from collectors.packets.decode import Decoded, decode
from collectors.packets.links import FAST_LINKS
from tests.fuzz.guided import guided

LINKS = sorted(FAST_LINKS)


def target(octets: bytes) -> None:
    """The first octet picks the link type, the second the size of the frames that the rest is cut into."""
    if len(octets) < 2:
        return
    link, size, rest = LINKS[octets[0] % len(LINKS)], octets[1] % 120 + 1, octets[2:]
    frames = [rest[at : at + size] for at in range(0, len(rest), size)]
    if not frames:
        return
    apart = _decode(frames, link, 0x00)
    _check(apart, frames)
    assert equal(apart, _decode(frames, link, 0xFF))


def _decode(frames: list[bytes], link: int, filling: int) -> Decoded:
    """The frames with 40 octets of filling around each, but nothing behind the last one."""
    between = bytes([filling]) * 40
    data = np.frombuffer(between + between.join(frames), np.uint8)
    captured = np.array([len(frame) for frame in frames], np.int64)
    starts = np.cumsum(captured + 40) - captured
    length = captured + 7
    return decode(data, starts, captured, length, np.arange(len(frames)), link)


def _check(found: Decoded, frames: list[bytes]) -> None:
    packets = found.packets
    rows = np.concatenate([found.order, found.odd])
    assert len(np.unique(rows)) == len(rows)
    assert len(rows) + sum(count for count, _ in found.skipped.values()) == len(frames)
    wire = np.array([len(frame) + 7 for frame in frames])
    assert (packets.octets <= wire[found.order]).all()
    assert (packets.octets >= 20).all()
    assert (packets.content_octets <= packets.octets).all() and (packets.content_octets >= 0).all()
    assert ((packets.source_port >= -1) & (packets.source_port < 65536)).all()
    assert ((packets.source_port < 0) == (packets.target_port < 0)).all()
    assert (packets.tcp_flags[packets.protocol != 6] == -1).all()


def equal(one: Decoded, other: Decoded) -> bool:
    """Whole-value equality, arrays included."""
    return (
        one.skipped == other.skipped
        and one.repaired == other.repaired
        and np.array_equal(one.order, other.order)
        and np.array_equal(one.odd, other.odd)
        and all(
            np.array_equal(getattr(one.packets, f.name), getattr(other.packets, f.name))
            for f in dataclasses.fields(one.packets)
        )
    )


if __name__ == "__main__":
    guided(target)
