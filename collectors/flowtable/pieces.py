"""Packets in key order, cut into flows and runs; a run is what goes into one row."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collectors.flowtable.cuts import ANSWERS, FIN_A, GOES_ON, OPENS, Carried, Facts, Sorted
from collectors.flowtable.rows import (
    ACK_A,
    ACK_B,
    BEGAN,
    ENDED_A,
    INTERFACE_SHIFT,
    SYN_A,
    SYN_B,
    pack_ports,
)
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
    Words,
)
from collectors.packets.packet import Packets

_HALF: Final = 1 << 31
_LOWER: Final = (1 << 32) - 1


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
        self.row_begins = begins = self._row_begins(active_ns)
        """Where a packet begins a row."""
        run = begins.copy()
        run[starts] = True
        self.run_starts = np.flatnonzero(run)
        self.run_ends = np.append(self.run_starts[1:], len(kind))
        self.one_each = len(self.run_starts) == len(starts)
        """Every key has one run."""
        if self.one_each:
            self.key_of_run = self.flow_runs = self.flow_of_run = np.arange(len(starts))
        else:
            first_of_key = np.zeros(len(kind), bool)
            first_of_key[starts] = True
            heads = first_of_key[self.run_starts]
            self.key_of_run = np.cumsum(heads) - 1
            flow_heads = heads | (kind[self.run_starts] != GOES_ON)
            self.flow_runs = np.flatnonzero(flow_heads)
            """First run of each flow."""
            self.flow_of_run = np.cumsum(flow_heads) - 1
        self.flow_standing: Numbers = np.zeros(0, np.int64)

    def _row_begins(self, active_ns: int) -> Flags:
        starts, times, kind = self.packets.starts, self.packets.times, self.kind
        span = self.packets.span
        begins = kind != GOES_ON
        if span is None or span[0] // active_ns != span[1] // active_ns:
            minute = times // active_ns
            begins[1:] |= minute[1:] != minute[:-1]
        # Next to another key the comparison above says nothing: there the row that the key had decides.
        old_minute = self.old[START] // active_ns
        begins[starts] = (kind[starts] != GOES_ON) | (times[starts] // active_ns != old_minute)
        return np.asarray(begins)

    def run_of(self, places: Numbers) -> Numbers:
        """The run that each packet is in."""
        return np.asarray(np.searchsorted(self.run_starts, places, "right") - 1)

    def body(self, packets: Packets) -> Numbers:
        """(10, runs): see ``table.BODY``."""
        starts, times = self.run_starts, self.packets.times
        body = np.empty((10, len(starts)), np.int64)
        if self.packets.span:
            times.take(starts, out=body[START])
            times.take(self.run_ends - 1, out=body[END])
        else:
            body[START] = np.minimum.reduceat(times, starts)
            body[END] = np.maximum.reduceat(times, starts)
        self._amounts(packets, body)
        facts = np.bitwise_or.reduceat(self.packets.facts, starts)
        interface = packets.interface[self.order[starts]].astype(np.int64) << INTERFACE_SHIFT
        body[ROW] = facts & 0x1FF | interface
        body[ROW] |= (self.kind[starts] != GOES_ON) * BEGAN
        body[FLOW] = self._standing(facts)
        return body

    def _amounts(self, packets: Packets, body: Numbers) -> None:
        octets, content = packets.octets, packets.content_octets
        if int(octets.sum()) < _HALF and int(content.sum()) < _HALF:
            # Two sums in one number: as much work as one.
            both = octets << 32
            both |= content
            from_a, from_b = self._by_sender(both)
            body[OCTETS_A], body[OCTETS_B] = from_a >> 32, from_b >> 32
            body[CONTENT_A], body[CONTENT_B] = from_a & _LOWER, from_b & _LOWER
        else:
            body[OCTETS_A], body[OCTETS_B] = self._by_sender(octets)
            body[CONTENT_A], body[CONTENT_B] = self._by_sender(content)
        if int(packets.packets.max()) == 1:
            from_b = self._sums(self.by_b)
            np.subtract(self.run_ends - self.run_starts, from_b, out=body[PACKETS_A])
            body[PACKETS_B] = from_b
        else:
            body[PACKETS_A], body[PACKETS_B] = self._by_sender(packets.packets)

    def _by_sender(self, column: Numbers) -> tuple[Numbers, Numbers]:
        """Sums of each run: sent by end a, sent by end b."""
        values = column.take(self.order)
        total = self._sums(values)
        values *= self.by_b
        from_b = self._sums(values)
        return total - from_b, from_b

    def _sums(self, values: NDArray[np.int64] | Flags) -> Numbers:
        """Sum of each run. (Differences of running sums are four times faster than ``reduceat``.)"""
        ends = np.cumsum(values, dtype=np.int64).take(self.run_ends - 1)
        ends[1:] -= ends[:-1].copy()
        return ends

    def newest(self, body: Numbers, last_run: Numbers) -> Numbers:
        """Newest packet of each key's last flow."""
        if self.one_each:
            kept = self.kind[self.run_starts] == GOES_ON
            return np.asarray(np.where(kept, np.maximum(body[END], self.carried.last), body[END]))
        times = np.maximum.reduceat(body[END], self.flow_runs)[self.flow_of_run[last_run]]
        unbroken = self.kind[self.run_starts[self.flow_runs[self.flow_of_run[last_run]]]] == GOES_ON
        return np.asarray(np.where(unbroken, np.maximum(times, self.carried.last), times))

    def _standing(self, facts: Facts) -> Numbers:
        """The standing of each run's flow, as known at the end of the run."""
        ends = np.bitwise_or.reduceat(facts, self.flow_runs) // FIN_A & 7
        standing = (self.flow_standing | ends * ENDED_A)[self.flow_of_run]
        for fact, a, b, swap in (
            (OPENS, SYN_A, SYN_B, False),
            (ANSWERS, ACK_A, ACK_B, True),
        ):
            if len(where := self._with(facts, fact)):
                first = np.full(len(self.flow_runs), len(self.kind))
                first[self.flow_of_run[self.run_of(where[::-1])]] = where[::-1]
                first = first[self.flow_of_run]
                known = (first < self.run_ends) & (standing & (a | b) == 0)
                by_b = self.by_b[np.minimum(first, len(self.kind) - 1)] ^ swap
                standing[known] |= np.where(by_b, b, a)[known]
        return np.asarray(standing)

    def _with(self, facts: Facts, fact: int) -> Numbers:
        """Packets that have the fact; ``facts`` are those of the runs."""
        if not (facts & fact).any():
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.packets.facts & fact != 0)


def keys(packets: Packets) -> tuple[Words, Flags]:
    """Keys of shape (5, n), and whether the packet was sent by end b."""
    # Addresses column by column, whatever their layout.
    source_high, source_low = np.ascontiguousarray(packets.source.T)
    target_high, target_low = np.ascontiguousarray(packets.target.T)
    by_b = (source_low == target_low) & (packets.source_port > packets.target_port)
    by_b |= source_low > target_low
    by_b &= source_high == target_high
    by_b |= source_high > target_high
    swaps = -by_b.astype(np.int64)
    narrow = swaps.astype(np.int32)
    key = np.empty((5, len(packets)), np.uint64)
    _ordered(source_high, target_high, swaps.view(np.uint64), key[0], key[2])
    _ordered(source_low, target_low, swaps.view(np.uint64), key[1], key[3])
    ports = np.empty((2, len(packets)), np.int32)
    _ordered(packets.source_port, packets.target_port, narrow, ports[0], ports[1])
    key[4] = pack_ports(ports[0], ports[1], packets.protocol).view(np.uint64)
    return key, by_b


def _ordered(source: NDArray[Any], target: NDArray[Any], swaps: NDArray[Any], a: Any, b: Any) -> None:
    """Fill ``a`` and ``b`` with source and target, the other way round where ``swaps`` is all ones instead of 0."""
    np.bitwise_xor(source, target, out=b)
    np.bitwise_and(b, swaps, out=a)
    np.bitwise_xor(a, source, out=a)
    np.bitwise_xor(a, target, out=b)
    np.bitwise_xor(b, source, out=b)


def group(hashes: Words, key: Words) -> tuple[Numbers, Numbers]:
    """Order of packets by key, capture order kept within a key, and where each key starts.

    Sorts by 16 bits of the hash, for which numpy counts instead of comparing (seven times faster than sorting whole
    hashes), and by all of it where several hashes share those; then checks that equal hashes are equal keys.
    """
    near = (hashes >> np.uint64(48)).astype(np.uint16)
    order = np.argsort(near, kind="stable")
    near, whole = near.take(order), hashes.take(order)
    mixed = whole[1:] != whole[:-1]
    mixed &= near[1:] == near[:-1]
    if mixed.any():
        shared = np.zeros(1 << 16, bool)
        shared[near[1:][mixed]] = True
        rows = np.flatnonzero(shared.take(near))
        again = rows[np.lexsort((whole[rows], near[rows]))]
        order[rows], whole[rows] = order[again], whole[again]
    differs = _differs(key.take(order, axis=1))
    if (differs & (whole[1:] == whole[:-1])).any():
        order = np.lexsort((np.arange(len(hashes)), *key))
        differs = _differs(key.take(order, axis=1))
    return order, np.concatenate((np.zeros(1, np.int64), np.flatnonzero(differs) + 1))


def _differs(key: Words) -> Flags:
    differs = key[0, 1:] != key[0, :-1]
    for word in key[1:]:
        differs |= word[1:] != word[:-1]
    return np.asarray(differs)
