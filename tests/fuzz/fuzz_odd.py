"""Any octets under any link type that scapy knows: each frame is one packet or skipped for one reason, and nothing is raised.

Run by hypothesis in tests/unit/test_decode.py; with atheris: ``python -m tests.fuzz.fuzz_odd``.
"""

from __future__ import annotations

import numpy as np

from collectors.packets.odd import NFLOG, decode_any
from tests.fuzz.guided import guided

LINKS = (1, 9, 50, 51, 105, 119, 127, 204, 219, NFLOG, 271, 999)
"""Ethernet, PPP in four forms, 802.11 in three, MPLS, NFLOG, one without IP and one that nobody knows."""


def target(octets: bytes) -> None:
    """The first octet picks the link type, the second the size of the frames that the rest is cut into."""
    if len(octets) < 3:
        return
    link, size, rest = LINKS[octets[0] % len(LINKS)], octets[1] % 120 + 1, octets[2:]
    starts = np.arange(0, len(rest), size)
    captured = np.minimum(len(rest) - starts, size)
    data = np.frombuffer(rest, np.uint8)
    found = decode_any(data, starts, captured, captured, np.zeros(len(starts), np.int64), link)
    assert len(np.unique(found.order)) == len(found.order) == len(found.packets)
    assert len(found.packets) + sum(count for count, _ in found.skipped.values()) == len(starts)
    assert (found.packets.octets <= captured[found.order]).all()


if __name__ == "__main__":
    guided(target)
