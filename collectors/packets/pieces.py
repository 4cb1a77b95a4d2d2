"""Packets in key order, cut into flows and runs; a run is what goes into one row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collectors.packets.cuts import ANSWERS, FIN_A, GOES_ON, OPENS, Carried, Sorted
from collectors.packets.packet import Packets
from collectors.packets.rows import (
    ACK_A,
    ACK_B,
    BEGAN,
    ENDED_A,
    INTERFACE_SHIFT,
    SYN_A,
    SYN_B,
    pack_ports,
)
from collectors.packets.table import AMOUNTS, END, FLOW, ROW, START, Flags, Numbers, Words


class Piece:
    """Sorted packets and where their keys, flows and runs begin."""

    def __init__(
        self,
        packets: Sorted,
        kind: NDArray[np.int8],
        closed: Flags,
        carried: Carried,
        by_b: Flags,
        order: Numbers,
        old: Numbers,
        active_ns: int,
    ) -> None:
        self.packets, self.kind, self.closed, self.carried = packets, kind, closed, carried
        self.by_b, self.order, self.old = by_b, order, old
        starts = packets.starts
        minute = packets.times // active_ns
        begins = kind != GOES_ON
        begins[1:] |= minute[1:] != minute[:-1]
        # Next to another key the comparison above says nothing: there the row that the key had decides.
        begins[starts] = (kind[starts] != GOES_ON) | (minute[starts] != old[START] // active_ns)
        self.row_begins = begins
        """Where a packet begins a row."""
        run = begins.copy()
        run[starts] = True
        self.run_starts = np.flatnonzero(run)
        self.run_ends = np.append(self.run_starts[1:], len(kind))
        first_of_key = np.zeros(len(kind), bool)
        first_of_key[starts] = True
        heads = first_of_key[self.run_starts]
        self.key_of_run = np.cumsum(heads) - 1
        flow_heads = heads | (kind[self.run_starts] != GOES_ON)
        self.flow_runs = np.flatnonzero(flow_heads)
        """First run of each flow."""
        self.flow_of_run = np.cumsum(flow_heads) - 1
        self.flow_standing: Numbers = np.zeros(0, np.int64)

    def run_of(self, places: Numbers) -> Numbers:
        """The run that each packet is in."""
        return np.asarray(np.searchsorted(self.run_starts, places, "right") - 1)

    def body(self, packets: Packets) -> Numbers:
        """(10, runs): see ``table.BODY``."""
        starts, by_b = self.run_starts, self.by_b
        body = np.empty((10, len(starts)), np.int64)
        body[START] = np.minimum.reduceat(self.packets.times, starts)
        body[END] = np.maximum.reduceat(self.packets.times, starts)
        place = AMOUNTS.start
        for column in (packets.octets, packets.packets, packets.content_octets):
            values = column[self.order]
            from_b = np.add.reduceat(values * by_b, starts)
            np.subtract(np.add.reduceat(values, starts), from_b, out=body[place])
            body[place + 1] = from_b
            place += 2
        facts = np.bitwise_or.reduceat(self.packets.facts, starts)
        interface = packets.interface[self.order[starts]].astype(np.int64) << INTERFACE_SHIFT
        body[ROW] = facts & 0x1FF | interface
        body[ROW] |= (self.kind[starts] != GOES_ON) * BEGAN
        body[FLOW] = self._standing(facts)
        return body

    def newest(self, body: Numbers, last_run: Numbers) -> Numbers:
        """Newest packet of each key's last flow."""
        times = np.maximum.reduceat(body[END], self.flow_runs)[self.flow_of_run[last_run]]
        unbroken = self.kind[self.run_starts[self.flow_runs[self.flow_of_run[last_run]]]] == GOES_ON
        return np.asarray(np.where(unbroken, np.maximum(times, self.carried.last), times))

    def _standing(self, facts: Numbers) -> Numbers:
        """The standing of each run's flow, as known at the end of the run."""
        ends = np.bitwise_or.reduceat(facts, self.flow_runs) // FIN_A & 7
        standing = (self.flow_standing | ends * ENDED_A)[self.flow_of_run]
        for fact, a, b, swap in (
            (OPENS, SYN_A, SYN_B, False),
            (ANSWERS, ACK_A, ACK_B, True),
        ):
            if len(where := np.flatnonzero(self.packets.facts & fact)):
                first = np.full(len(self.flow_runs), len(self.kind))
                first[self.flow_of_run[self.run_of(where[::-1])]] = where[::-1]
                first = first[self.flow_of_run]
                known = (first < self.run_ends) & (standing & (a | b) == 0)
                by_b = self.by_b[np.minimum(first, len(self.kind) - 1)] ^ swap
                standing[known] |= np.where(by_b, b, a)[known]
        return np.asarray(standing)


def keys(packets: Packets) -> tuple[Words, Flags]:
    """Keys of shape (5, n), and whether the packet was sent by end b."""
    n = len(packets)
    source, target = packets.source, packets.target
    source_high, source_low = np.ascontiguousarray(source[:, 0]), np.ascontiguousarray(source[:, 1])
    target_high, target_low = np.ascontiguousarray(target[:, 0]), np.ascontiguousarray(target[:, 1])
    later_port = packets.source_port > packets.target_port
    later_low = (source_low > target_low) | ((source_low == target_low) & later_port)
    by_b = (source_high > target_high) | ((source_high == target_high) & later_low)
    key = np.empty((5, n), np.uint64)
    key[0] = np.where(by_b, target_high, source_high)
    key[1] = np.where(by_b, target_low, source_low)
    key[2] = np.where(by_b, source_high, target_high)
    key[3] = np.where(by_b, source_low, target_low)
    port_a = np.where(by_b, packets.target_port, packets.source_port)
    port_b = np.where(by_b, packets.source_port, packets.target_port)
    key[4] = pack_ports(port_a, port_b, packets.protocol).view(np.uint64)
    return key, by_b


def group(hashes: Words, key: Words) -> tuple[Numbers, Numbers]:
    """Order of packets by key, capture order kept within a key, and where each key starts.

    Sorts the upper hash bits with the packet's number below them, then checks that equal hashes are equal keys.
    """
    n = len(hashes)
    low = np.uint64((1 << n.bit_length()) - 1)
    mixed = (hashes & ~low) | np.arange(n, dtype=np.uint64)
    mixed.sort()
    order = (mixed & low).view(np.int64)
    upper = mixed & ~low
    same = upper[1:] == upper[:-1]
    differs = _differs(key[:, order])
    if (differs & same).any():
        order = np.lexsort((np.arange(n), *key))
        differs = _differs(key[:, order])
    return order, np.concatenate((np.zeros(1, np.int64), np.flatnonzero(differs) + 1))


def _differs(key: Words) -> Flags:
    differs = key[0, 1:] != key[0, :-1]
    for word in key[1:]:
        differs |= word[1:] != word[:-1]
    return np.asarray(differs)
