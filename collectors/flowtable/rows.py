"""Closed rows of the flow table, and how they become a FlowBatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.accounts import Amounts
from agent.core.address import Addresses
from agent.core.flow import FlowBatch, Mark, Text
from collectors.flowtable.table import (
    CONTENT_A,
    CONTENT_B,
    END,
    FLOW,
    OCTETS_A,
    OCTETS_B,
    PACKETS_A,
    PACKETS_B,
    ROW,
    START,
    Flags,
    Numbers,
)

# A flow's standing.
AS_A: Final = 1 << 0
"""Gives a row with end a as the local one."""
AS_B: Final = 1 << 1
TRANSIT: Final = 1 << 2
FIRST_B: Final = 1 << 3
"""End b sent the first packet."""
BEGUN: Final = 1 << 4
"""So long after the table's first packet that the flow cannot have begun before it."""
SYN_A: Final = 1 << 5
"""End a sent the flow's first pure SYN."""
SYN_B: Final = 1 << 6
ACK_A: Final = 1 << 7
"""End a received the flow's first SYN-ACK."""
ACK_B: Final = 1 << 8
ENDED_A: Final = 1 << 9
"""End a sent a FIN."""
ENDED_B: Final = 1 << 10
RESET: Final = 1 << 11
CLOSED: Final = 1 << 12
"""FIN or RST since the last pure SYN."""

# A row's standing: bits 0-8 as in cuts.FACTS, then these, then the interface.
BEGAN: Final = 1 << 9
"""The flow began in this row."""
INTERFACE_SHIFT: Final = 16

REASONS: Final = ("idle", "active", "end", "forced", "resources")
IDLE, ACTIVE, FINISHED, FORCED, RESOURCES = range(5)

_TCP = 6


@dataclass(frozen=True, slots=True)
class Rows:
    """k rows that may no longer change."""

    key: NDArray[np.uint64]
    """(k, 5): see ``table.KEY``."""
    body: Numbers
    """(10, k): see ``table.BODY``."""
    reason: NDArray[np.int32]
    """Codes of ``REASONS``."""

    def take(self, index: NDArray[Any]) -> Rows:
        """Rows by index or mask."""
        return Rows(self.key[index], self.body[:, index], self.reason[index])


def join(parts: Sequence[Rows]) -> Rows:
    """Rows one after another."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Rows(np.zeros((0, 5), np.uint64), np.zeros((10, 0), np.int64), np.zeros(0, np.int32))
    return Rows(
        np.concatenate([p.key for p in parts]),
        np.concatenate([p.body for p in parts], axis=1),
        np.concatenate([p.reason for p in parts]),
    )


def pack_ports(port_a: NDArray[np.int32], port_b: NDArray[np.int32], protocol: NDArray[np.uint8]) -> Numbers:
    """Ports (-1 for none) and protocol as one word of a key."""
    packed = port_a.astype(np.int64)
    packed += 1
    packed <<= 17
    packed += port_b
    packed += 1
    packed <<= 8
    packed |= protocol
    return packed


def finished(flow: Numbers) -> Flags:
    """Where FIN from both ends or RST was seen."""
    both = ENDED_A | ENDED_B
    return np.asarray((flow & both == both) | (flow & RESET != 0))


def amounts(body: Numbers) -> Amounts:
    """What the rows of a body hold, as the rows of a batch will: a flow between two local ends counts at each."""
    flow = body[FLOW]
    as_a, as_b = flow & AS_A != 0, flow & AS_B != 0
    began = body[ROW] & BEGAN != 0
    by_a, by_b = body[OCTETS_A], body[OCTETS_B]
    return Amounts(
        int((began & as_a).sum() + (began & as_b).sum()),
        int(by_a[as_a].sum() + by_b[as_b].sum()),
        int(by_b[as_a].sum() + by_a[as_b].sum()),
    )


def batch(rows: Rows, *, vantage: str, interfaces: Sequence[str]) -> FlowBatch:
    """The rows as a FlowBatch, one per local end, sorted by end, start, then key, whatever the table's hash."""
    flow = rows.body[FLOW]
    at_a, at_b = np.flatnonzero(flow & AS_A), np.flatnonzero(flow & AS_B)
    mirrored = np.zeros(len(at_a) + len(at_b), bool)
    mirrored[len(at_a) :] = True
    index = np.concatenate((at_a, at_b))
    order = _order(rows, index, mirrored)
    index, mirrored = index[order], mirrored[order]
    return _columns(rows.take(index), mirrored, vantage, tuple(interfaces))


def _order(rows: Rows, index: Numbers, mirrored: Flags) -> Numbers:
    end = rows.body[END, index]
    order = np.argsort(end, kind="stable")
    in_order = end[order]
    equal = in_order[1:] == in_order[:-1]
    if equal.any():
        tied = np.zeros(len(order), bool)
        tied[1:] = equal
        tied[:-1] |= equal
        some = order[tied]
        words = rows.key[index[some]].T
        order[tied] = some[np.lexsort([mirrored[some], *words, rows.body[START, index[some]], end[some]])]
    return np.asarray(order)


def _columns(rows: Rows, mirrored: Flags, vantage: str, interfaces: tuple[str, ...]) -> FlowBatch:
    n = len(mirrored)
    body, flow, row = rows.body, rows.body[FLOW], rows.body[ROW]
    ports = rows.key[:, 4].astype(np.int64)
    port_a, port_b = (ports >> 25) - 1, (ports >> 8 & 0x1FFFF) - 1
    protocol = ports & 0xFF
    opener = _opener(flow, protocol, port_a, port_b)
    opener[mirrored] *= -1
    initiator = np.where(opener == 0, -1, np.where(opener > 0, 0, 1)).astype(np.int32)
    tcp = protocol == _TCP
    midstream = tcp & (flow & (SYN_A | SYN_B | ACK_A | ACK_B) == 0)
    marks = np.where(flow & TRANSIT, int(Mark.TRANSIT), 0) | np.where(midstream, int(Mark.MIDSTREAM), 0)

    def side(first: int, second: int) -> Numbers:
        return np.asarray(np.where(mirrored, body[second], body[first]))

    def address(first: slice, second: slice) -> Addresses:
        return np.where(mirrored[:, None], rows.key[:, second], rows.key[:, first])

    a, b = slice(0, 2), slice(2, 4)
    return FlowBatch.build(
        n,
        {
            "local_address": address(a, b),
            "remote_address": address(b, a),
            "local_port": np.where(mirrored, port_b, port_a),
            "remote_port": np.where(mirrored, port_a, port_b),
            "protocol": protocol,
            "initiator": Text(initiator, ("local", "remote")),
            "interface": Text((row >> INTERFACE_SHIFT).astype(np.int32), interfaces),
            "flows": (row & BEGAN != 0).astype(np.int64),
            "octets_out": side(OCTETS_A, OCTETS_B),
            "packets_out": side(PACKETS_A, PACKETS_B),
            "octets_in": side(OCTETS_B, OCTETS_A),
            "packets_in": side(PACKETS_B, PACKETS_A),
            "content_octets_out": side(CONTENT_A, CONTENT_B),
            "start_ns": body[START],
            "end_ns": body[END],
            "tcp_flags": np.where(row & 0x100, row & 0xFF, -1),
            "end_reason": Text(rows.reason, REASONS),
            "vantage": Text.full(n, vantage),
            "marks": marks,
        },
    )


def _opener(flow: Numbers, protocol: Numbers, port_a: Numbers, port_b: Numbers) -> Numbers:
    """Who opened each flow: 1 end a, -1 end b, 0 unknown."""
    low_a, low_b = port_a < 1024, port_b < 1024
    one_low = low_a ^ low_b
    higher_a = np.where(one_low, low_b, (port_a >= 32768) & (port_b < 32768))
    higher_b = np.where(one_low, low_a, (port_b >= 32768) & (port_a < 32768))
    has_ports = (port_a >= 0) & (port_b >= 0)
    guess = np.where(has_ports, higher_a.astype(np.int64) - higher_b, 0)
    first = np.where(flow & FIRST_B, -1, 1)
    other = np.where((protocol != _TCP) & (flow & BEGUN != 0), first, guess)
    answered = np.where(flow & ACK_A, 1, np.where(flow & ACK_B, -1, other))
    return np.where(flow & SYN_A, 1, np.where(flow & SYN_B, -1, answered))
