"""Any octets as tunnels: as many packets as without looking inside, none larger than its outer one, at most one reason
for each that stays outer, and nothing outside a frame changes what is read in it.

Run by hypothesis in tests/unit/test_decode_tunnels.py; with atheris: ``python -m tests.fuzz.fuzz_tunnels``.
"""

from __future__ import annotations

import functools
import struct

import numpy as np

from collectors.packets.decode import Decoded, decode
from collectors.packets.inner import decode_inner
from collectors.packets.tunnels import BY_PROTOCOL, BY_UDP_TARGET
from tests.fuzz.fuzz_decode import equal
from tests.fuzz.guided import guided

_PROTOCOLS, _PORTS = sorted(BY_PROTOCOL), sorted(BY_UDP_TARGET)
_MAC = bytes(12) + b"\x08\0"


def target(octets: bytes) -> None:
    """The first octet picks the tunnel (0: none, the rest is a frame), the second the size of what it is cut into."""
    if len(octets) < 3:
        return
    kind, size, rest = octets[0], octets[1] or 256, octets[2:]
    frames = [_wrapped(kind, rest[at : at + size]) for at in range(0, len(rest), size)]
    outer, inner = _decode(decode, frames, 0), _decode(_inner, frames, 0)
    assert np.array_equal(inner.order, outer.order)
    assert inner.skipped == outer.skipped
    assert (inner.packets.octets <= outer.packets.octets).all()
    assert (inner.packets.octets >= 20).all()
    assert (inner.packets.content_octets <= inner.packets.octets).all()
    assert sum(n for reason, n in inner.repaired.items() if reason.startswith("inner_")) <= len(frames)
    assert equal(inner, _decode(_inner, frames, 0xFF))


_inner = functools.partial(decode_inner, decode)


def _wrapped(kind: int, payload: bytes) -> bytes:
    """The payload behind an outer header of the kind."""
    if not kind:
        return payload
    if kind % 2:
        protocol, head = _PROTOCOLS[kind % len(_PROTOCOLS)], b""
    else:
        port = _PORTS[kind // 2 % len(_PORTS)]
        protocol, head = 17, struct.pack(">HHHH", 40_000, port, 8 + len(payload), 0)
    total = 20 + len(head) + len(payload)
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, total, 0, 0, 64, protocol, 0, 0xC0000201, 0xC0000202)
    return _MAC + ip + head + payload


def _decode(how: object, frames: list[bytes], filling: int) -> Decoded:
    """The frames with 40 octets of filling around each, but nothing behind the last one."""
    between = bytes([filling]) * 40
    data = np.frombuffer(between + between.join(frames), np.uint8)
    captured = np.array([len(frame) for frame in frames], np.int64)
    starts = np.cumsum(captured + 40) - captured
    return how(data, starts, captured, captured, np.arange(len(frames)), 1)  # type: ignore[operator,no-any-return]


if __name__ == "__main__":
    guided(target)
