"""IPv6 jumbograms: the payload length that stands in a hop-by-hop option because it has no room in the header.

RFC 2675. Linux writes the same option into its "BIG TCP" frames (``<net/ipv6.h>``, ``struct hop_jumbo_hdr``).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from collectors.packets.links import Offsets, View

_LEAST: Final = 65_536
"""Octets of payload below which the option is an error (RFC 2675 section 3)."""
_PAD1, _JUMBO = 0, 0xC2


def jumbo_payload(view: View, at: Offsets, limit: Offsets) -> Offsets:
    """Octets behind the IPv6 header as the jumbo option of the hop-by-hop header at ``at`` says; 0 where none does.

    Reads below ``limit`` only. Of a header with several options each is stepped over, one after another.
    """
    payload = np.zeros(len(at), np.int64)
    rows = np.flatnonzero(at + 8 <= limit)
    option = at[rows] + 2
    while len(rows):
        stop = np.minimum(limit[rows], at[rows] + (view.u8[at[rows] + 1].astype(np.int64) + 1) * 8)
        inside = option + 6 <= stop
        rows, option = rows[inside], option[inside]
        kind = view.u8[option]
        found = (kind == _JUMBO) & (view.u8[option + 1] == 4)
        payload[rows[found]] = view.u32(option[found] + 2)
        step = np.where(kind == _PAD1, 1, view.u8[option + 1].astype(np.int64) + 2)
        rows, option = rows[~found], (option + step)[~found]
    payload[payload < _LEAST] = 0
    return payload
