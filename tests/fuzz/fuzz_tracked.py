"""Any octets as messages of the connection tracking table: each gives one row, no message changes what is read of another,
and splitting a datagram never looks beyond its end.

Run by hypothesis in tests/unit/test_tracked.py; with atheris: ``python -m tests.fuzz.fuzz_tracked``.
"""

from __future__ import annotations

import numpy as np

from collectors.host.ctnetlink import _split
from collectors.host.tracked import HEAD, Tracked, parse
from tests.fuzz.guided import guided


def target(octets: bytes) -> None:
    """The first octet is the size of the messages that the rest is cut into; the rest is split as a datagram too."""
    if len(octets) < 2:
        return
    size, rest = HEAD + octets[0], octets[1:]
    messages = [rest[at : at + size].ljust(HEAD, b"\0") for at in range(0, len(rest), size)]
    table = _read(messages, 0)
    assert len(table) == len(messages)
    assert _equal(table, _read(messages, 0xFF))
    starts: list[int] = []
    # What lies behind the datagram in the buffer is the remains of another.
    _split(bytearray(rest + b"\xff" * 64), 0, len(rest), 0x100, starts)
    assert all(at + HEAD <= len(rest) for at in starts)


def _read(messages: list[bytes], filling: int) -> Tracked:
    between = bytes([filling]) * 40
    sizes = np.array([len(one) for one in messages], np.int64)
    starts = np.cumsum(sizes + 40) - sizes
    return parse(between + between.join(messages) + between, starts, starts + sizes)


def _equal(one: Tracked, other: Tracked) -> bool:
    for name in one.__slots__:
        first, second = getattr(one, name), getattr(other, name)
        parts = [(first, second)] if name not in ("orig", "reply") else []
        parts += [(getattr(first, n), getattr(second, n)) for n in getattr(first, "__slots__", ())]
        if not all(np.array_equal(a, b) for a, b in parts):
            return False
    return True


if __name__ == "__main__":
    guided(target)
