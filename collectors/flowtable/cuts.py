"""Where one flow ends and the next begins, for packets that are sorted by key. The rule: docs/flow-rule.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Facts = NDArray[np.int32]

# What a packet is to its flow.
GOES_ON: Final = 0
AFTER_IDLE: Final = 1
"""Begins a flow, because the one before was idle for too long."""
REUSES: Final = 2
"""Begins a flow, because it opens a TCP connection on a key that was closed."""
BEGINS: Final = 3
"""Begins a flow, because its key was not known."""

# Facts of a packet, in one number: bits 0-7 the TCP flags, 8 whether there were any, the rest as here.
HAS_FLAGS: Final = 1 << 8
FIN_A: Final = 1 << 16
FIN_B: Final = 1 << 17
RST: Final = 1 << 18
OPENS: Final = 1 << 19
"""SYN without ACK."""
ANSWERS: Final = 1 << 20
"""SYN with ACK."""
CLOSES: Final = 1 << 21
"""FIN or RST."""


def _facts(flags: int, from_b: int) -> int:
    if flags < 0:
        return 0
    fact = flags | HAS_FLAGS
    if flags & 0x01:
        fact |= (FIN_B if from_b else FIN_A) | CLOSES
    if flags & 0x04:
        fact |= RST | CLOSES
    if flags & 0x02:
        fact |= ANSWERS if flags & 0x10 else OPENS
    return fact


_FACTS: Final[Facts] = np.array([_facts(f, b) for b in (0, 1) for f in range(-1, 256)], np.int32)
"""Facts by ``257 * (sent by end b) + 1 + TCP flags``."""


def facts(flags: NDArray[np.int16], by_b: Flags) -> Facts:
    """What each packet is, by its TCP flags (-1 none; only the lower eight count) and who sent it."""
    if int(flags.max()) > 0xFF:
        flags = np.where(flags > 0, flags & 0xFF, flags)
    index = by_b.astype(np.int16)
    index *= 257
    index += flags
    index += 1
    return np.asarray(_FACTS.take(index))


@dataclass(frozen=True, slots=True)
class Carried:
    """What is known of each key from before, one number per key."""

    fresh: Flags
    """The key holds no flow; the other columns say nothing then."""
    last: Numbers
    clock: Numbers
    closed: Flags
    """The flow carried FIN or RST since its last opening packet. False where fresh."""


@dataclass(frozen=True, slots=True)
class Sorted:
    """Packets sorted by key, in capture order within a key."""

    starts: Numbers
    """First packet of each key."""
    times: Numbers
    clocks: Numbers
    """The newest time seen by the table up to and including this packet."""
    facts: Facts
    span: tuple[int, int] | None = None
    """(oldest, newest) where the packets came in order of time, none older than the clock; ``clocks`` are the times."""

    def ends(self) -> Numbers:
        """One past the last packet of each key."""
        return np.append(self.starts[1:], len(self.times))


def cut(packets: Sorted, carried: Carried, idle_ns: int) -> tuple[NDArray[np.int8], Flags]:
    """What each packet is to its flow, and for each key whether its flow is closed after the last packet."""
    if packets.span:
        kind = _cut_in_order(packets, carried, idle_ns, packets.span)
        return kind, _cut_reuse(packets, carried, kind)
    starts, times = packets.starts, packets.times
    before = _shifted(times, starts, np.where(carried.fresh, times[starts], carried.last))
    back = times < before
    if any_back := bool(back.any()):
        before = _newest(before, starts)
    clock_before = _shifted(
        packets.clocks, starts, np.where(carried.fresh, packets.clocks[starts], carried.clock)
    )
    by_time = times - before >= idle_ns
    over = by_time | ((packets.clocks > clock_before) & (packets.clocks - before >= idle_ns))
    kind = over.astype(np.int8)
    kind[starts[carried.fresh]] = BEGINS
    closed = _cut_reuse(packets, carried, kind)
    if any_back:
        # A cut that is not made by the packet's own time leaves a flow younger than its key's newest time. Where
        # time also ran backwards, the running maximum above is then wrong, so those keys are walked one by one.
        key_of = np.cumsum(_mask(starts, len(times))) - 1
        ran_back, odd_cut = np.zeros(len(starts), bool), np.zeros(len(starts), bool)
        ran_back[key_of[back]] = True
        odd_cut[key_of[(kind == REUSES) | (over & ~by_time)]] = True
        ends = packets.ends()
        for key in np.flatnonzero(ran_back & odd_cut).tolist():
            closed[key] = _walk(packets, carried, idle_ns, kind, key, slice(int(starts[key]), int(ends[key])))
    return kind, closed


def _cut_in_order(packets: Sorted, carried: Carried, idle_ns: int, span: tuple[int, int]) -> NDArray[np.int8]:
    """Cuts by time where time runs forwards: then the clock says nothing that the packets' own times do not."""
    starts, times = packets.starts, packets.times
    at_head = np.where(carried.fresh, BEGINS, times[starts] - carried.last >= idle_ns).astype(np.int8)
    if span[1] - span[0] < idle_ns:
        kind = np.zeros(len(times), np.int8)
    else:
        kind = np.empty(len(times), np.int8)
        np.greater_equal(times[1:] - times[:-1], idle_ns, out=kind[1:].view(bool))
    kind[starts] = at_head
    return kind


def _mask(places: Numbers, n: int) -> Flags:
    mask = np.zeros(n, bool)
    mask[places] = True
    return mask


def _shifted(values: Numbers, starts: Numbers, first: Numbers) -> Numbers:
    out = np.empty_like(values)
    out[1:] = values[:-1]
    out[starts] = first
    return out


def _newest(values: Numbers, starts: Numbers) -> Numbers:
    """Running maximum within each key."""
    least = int(values.min())
    span = int(values.max()) - least + 1
    if span * len(starts) < 1 << 62:
        lift = (np.cumsum(_mask(starts, len(values))) - 1) * span
        return np.asarray(np.maximum.accumulate(values - least + lift) - lift + least)
    out = np.empty_like(values)
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True):
        np.maximum.accumulate(values[start:end], out=out[start:end])
    return out


def _cut_reuse(packets: Sorted, carried: Carried, kind: NDArray[np.int8]) -> Flags:
    """Mark in ``kind`` the packets that open a connection on a closed key; whether each key is closed at its end."""
    closes = packets.facts & CLOSES != 0
    if not (closes.any() or carried.closed.any()):
        return np.zeros(len(packets.starts), bool)
    opens = packets.facts & OPENS != 0
    count = np.concatenate((np.zeros(1, np.int64), np.cumsum(closes)))
    # Each opening packet and each new flow starts the count of FIN and RST anew.
    anew = np.maximum.accumulate(np.where(opens | (kind != GOES_ON), np.arange(len(closes)), -1))

    def closed_before(at: Numbers, key: Numbers) -> Flags:
        start = packets.starts[key]
        since = np.where(at > start, anew[at - 1], -1)
        known = since >= start
        counted = count[at] - count[np.where(known, since, start)]
        return np.asarray((counted > 0) | (~known & carried.closed[key]))

    where = np.flatnonzero(opens & (kind == GOES_ON))
    key = np.searchsorted(packets.starts, where, "right") - 1
    kind[where[closed_before(where, key)]] = REUSES
    return closed_before(packets.ends(), np.arange(len(packets.starts)))


def _walk(
    packets: Sorted, carried: Carried, idle_ns: int, kind: NDArray[np.int8], key: int, part: slice
) -> bool:
    """The rule packet by packet, for one key: fills ``kind`` in ``part`` and returns whether it ends closed."""
    last, seen, closed = int(carried.last[key]), int(carried.clock[key]), bool(carried.closed[key])
    known = not carried.fresh[key]
    kinds = []
    rows = zip(
        packets.times[part].tolist(), packets.clocks[part].tolist(), packets.facts[part].tolist(), strict=True
    )
    for time, clock, facts in rows:
        if not known:
            what, known = BEGINS, True
        elif time - last >= idle_ns or (clock > seen and clock - last >= idle_ns):
            what = AFTER_IDLE
        elif closed and facts & OPENS:
            what = REUSES
        else:
            what = GOES_ON
        last = max(last, time) if what == GOES_ON else time
        closed = bool(facts & CLOSES) or (closed and what == GOES_ON and not facts & OPENS)
        seen = clock
        kinds.append(what)
    kind[part] = kinds
    return closed
