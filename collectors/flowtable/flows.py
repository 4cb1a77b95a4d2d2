"""The flow table: packets in, rows of flows out. The rule in plain words: docs/flow-rule.md.

Packets are taken a piece at a time. Each piece is sorted by key, cut into runs (one run is one row, or goes on with
the row that the key had), summed per run, and merged into the table. No Python object is made per packet or flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.core.accounts import Accounts, Amounts
from agent.core.address import Addresses
from agent.core.clock import SECOND_NS
from agent.core.flow import FlowBatch, concat
from collectors.flowtable import rows as rowlib
from collectors.flowtable.cuts import (
    AFTER_IDLE,
    GOES_ON,
    REUSES,
    Carried,
    Sorted,
    cut,
    facts,
)
from collectors.flowtable.pieces import Piece, group, keys
from collectors.flowtable.rows import ACTIVE, FINISHED, FORCED, IDLE, RESOURCES, Rows
from collectors.flowtable.table import (
    AMOUNTS,
    BODY,
    CLOCK,
    END,
    FLOW,
    KEY,
    ROW,
    START,
    Flags,
    KeyHash,
    Numbers,
    Slots,
    Words,
)
from collectors.packets.packet import Packets

LocalTest = Callable[[Addresses], NDArray[np.bool_]]
"""Where an address is the reporting side's own."""

HELD = "flow_table"
"""Place name in the account of what the table holds."""
HANDED_OUT = "batches"
"""Place name in the account of rows that were handed out."""

_PIECE = 1 << 15
"""Packets taken at once: a few columns fit the cache, and numpy's fixed cost is not felt (half as many: a fifth slower)."""
_LONG_AGO = -(1 << 62)
_NO_ROWS = FlowBatch.empty()


class FlowTable:
    """Keeps flows by (ends, ports, protocol) and gives out their rows when they are over. Not thread-safe.

    ``local`` says which end is the reporting side's; ``vantage`` and ``interfaces`` (texts for ``Packets.interface``)
    go into the rows; above ``max_flows`` the longest idle tenth is given out early. ``seed`` is for tests: the hash
    is secret otherwise. Times must lie within 2**62 ns of the epoch (years 1823 to 2116).
    """

    def __init__(
        self,
        *,
        local: LocalTest,
        vantage: str,
        interfaces: Sequence[str],
        accounts: Accounts,
        idle_ns: int = 15 * SECOND_NS,
        active_ns: int = 60 * SECOND_NS,
        max_flows: int = 1_000_000,
        seed: int | None = None,
    ) -> None:
        self._local = local
        self._vantage = vantage
        self._interfaces = interfaces
        self._accounts = accounts
        self._idle_ns, self._active_ns = idle_ns, active_ns
        self._max_flows = max_flows
        self._hash = KeyHash(seed)
        self._slots = Slots()
        self._held = Amounts()
        self._clock = _LONG_AGO
        self._swept = _LONG_AGO
        self._first: int | None = None
        self.evicted = 0
        """Flows that were given out early because the table was full."""

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Octets of memory set aside for flows."""
        return self._slots.nbytes

    def amounts(self) -> Amounts:
        """What is held."""
        return self._held

    def add(self, packets: Packets) -> FlowBatch:
        """Take packets in capture order; the rows that ended because of them, oldest end first.

        Counts them as captured and as held in ``HELD``, and moves what it gives out to ``HANDED_OUT``.
        """
        closed: list[Rows] = []
        for at in range(0, len(packets), _PIECE):
            piece = packets if len(packets) <= _PIECE else packets.take(slice(at, at + _PIECE))
            closed += self._take(piece)
            if self._clock - self._swept >= SECOND_NS:
                closed += self._sweep()
            closed += self._evict()
        return self._hand_out(closed)

    def expire(self, now_ns: int) -> FlowBatch:
        """Rows of the flows that are idle at ``now_ns``, a time that no packet still to come is older than.

        A younger packet of such a flow would have begun a new flow anyway. Rows of flows that go on are closed by
        their first packet of the next minute.
        """
        return self._hand_out(self._leave(self._slots.older(now_ns - self._idle_ns), IDLE))

    def flush(self) -> FlowBatch:
        """Everything that is held: flows that are idle by now as such, the others as forced."""
        return concat(list(self.drain()))

    def drain(self) -> Iterator[FlowBatch]:
        """What :meth:`flush` gives, some rows at a time: as columns a row takes several times its place in the table."""
        slots, cells = self._slots.live(), self._slots.cells
        slots = slots[np.lexsort([*cells[slots, KEY].T[::-1], self._slots.last[slots]])]
        for at in range(0, len(slots), _PIECE):
            some = slots[at : at + _PIECE]
            idle = self._slots.last[some] <= self._clock - self._idle_ns
            idle &= cells[some, CLOCK] < self._clock
            yield self._hand_out(self._leave(some[idle], IDLE) + self._leave(some[~idle], FORCED))
        self._slots, self._swept = Slots(), self._clock

    def _take(self, packets: Packets) -> list[Rows]:
        if self._first is None:
            self._first = int(packets.time_ns[0])
        clock, span = self._tick(packets.time_ns)
        key, from_b = keys(packets)
        hashes = self._hash(key)
        order, starts = group(hashes, key)
        heads = order[starts]
        ends = key.take(heads, axis=1)
        slots, fresh, cells = self._slots.upsert(hashes.take(heads), np.ascontiguousarray(ends.T))
        old = np.ascontiguousarray(cells[:, CLOCK : BODY.stop].T)
        carried = Carried(
            fresh, self._slots.last[slots], old[0], ~fresh & (old[1 + FLOW] & rowlib.CLOSED != 0)
        )
        times = packets.time_ns.take(order)
        ready = Sorted(
            starts,
            times,
            times if span else clock.take(order),
            facts(packets.tcp_flags, from_b).take(order),
            span,
        )
        kind, closed = cut(ready, carried, self._idle_ns)
        piece = Piece(ready, kind, closed, carried, from_b.take(order), order, old[1:], self._active_ns)
        self._begin(piece, ends)
        return self._merge(piece, packets, slots, cells)

    def _tick(self, times: Numbers) -> tuple[Numbers, tuple[int, int] | None]:
        """The clock at each packet; and (oldest, newest) if they are in order and not older than the clock was."""
        first, last = int(times[0]), int(times[-1])
        if first >= self._clock and (times[1:] >= times[:-1]).all():
            self._clock = last
            return times, (first, last)
        clock = np.maximum.accumulate(times)
        np.maximum(clock, self._clock, out=clock)
        self._clock = int(clock[-1])
        return clock, None

    def _begin(self, piece: Piece, ends: Words) -> None:
        """Work out the standing of every flow of the piece, new ones from their first packet; ``ends`` are the keys."""
        key_of_flow = piece.key_of_run[piece.flow_runs]
        first = piece.run_starts[piece.flow_runs]
        new = piece.kind[first] != GOES_ON
        asked = np.zeros(ends.shape[1], bool)
        asked[key_of_flow[new]] = True
        asked = np.flatnonzero(asked)
        side = np.zeros(ends.shape[1], np.int64)
        some = ends.take(asked, axis=1)
        local_a, local_b = self._local(some[0:2].T), self._local(some[2:4].T)
        side[asked] = local_a * rowlib.AS_A | local_b * rowlib.AS_B
        standing = side[key_of_flow]
        by_b = piece.by_b[first]
        neither = standing == 0
        standing[neither] = rowlib.TRANSIT | np.where(by_b[neither], rowlib.AS_B, rowlib.AS_A)
        standing |= by_b * rowlib.FIRST_B
        standing |= (piece.packets.times[first] - (self._first or 0) >= self._idle_ns) * rowlib.BEGUN
        piece.flow_standing = np.where(new, standing, piece.old[FLOW, key_of_flow])

    def _merge(self, piece: Piece, packets: Packets, slots: Numbers, cells: Numbers) -> list[Rows]:
        """Sum the runs, give out those that are over, put each key's last one into the table.

        ``cells`` are the keys' rows of the table as they were; they are used up.
        """
        body = piece.body(packets)
        captured = rowlib.amounts(body)
        self._accounts.capture(captured, held_in=HELD)
        self._held += captured
        first_run = piece.run_of(piece.packets.starts)
        last_run = np.append(first_run[1:], body.shape[1]) - 1
        kept = ~piece.carried.fresh
        goes_on = kept & ~piece.row_begins[piece.packets.starts]
        key = cells[:, KEY].view(np.uint64)
        out: list[Rows] = []
        if (over := np.flatnonzero(kept & ~goes_on)).size:
            reason = _reason(piece.kind[piece.packets.starts[over]], piece.old[FLOW, over])
            out.append(Rows(key[over], piece.old[:, over], reason))
        if piece.one_each:
            _go_on_each(body, piece.old, goes_on)
        else:
            _go_on(body, first_run, piece.old, goes_on)
        leaves = np.ones(body.shape[1], bool)
        leaves[last_run] = False
        if (over := np.flatnonzero(leaves)).size:
            reason = _reason(piece.kind[piece.run_starts[over + 1]], body[FLOW, over])
            out.append(Rows(key[piece.key_of_run[over]], body[:, over], reason))
        self._slots.last[slots] = piece.newest(body, last_run)
        cells[:, CLOCK] = piece.packets.clocks[piece.packets.ends() - 1]
        cells[:, BODY] = (body if piece.one_each else body.take(last_run, axis=1)).T
        cells[:, BODY.start + FLOW] |= piece.closed * rowlib.CLOSED
        self._slots.write(slots, cells)
        return out

    def _sweep(self) -> list[Rows]:
        """Rows of flows that the clock has left behind since their last packet."""
        self._swept = self._clock
        idle = self._slots.older(self._clock - self._idle_ns)
        return self._leave(idle[self._slots.cells[idle, CLOCK] < self._clock], IDLE)

    def _evict(self) -> list[Rows]:
        if len(self._slots) <= self._max_flows:
            return []
        many = len(self._slots) - self._max_flows + self._max_flows // 10
        live = self._slots.live()
        oldest = live[np.argpartition(self._slots.last[live], many - 1)[:many]]
        self.evicted += many
        return self._leave(oldest, RESOURCES)

    def _leave(self, slots: Numbers, reason: int) -> list[Rows]:
        if not len(slots):
            return []
        cells = self._slots.cells[slots]
        body = np.ascontiguousarray(cells[:, BODY].T)
        reasons = np.full(len(slots), reason, np.int32)
        if reason != RESOURCES:
            reasons[rowlib.finished(body[FLOW])] = FINISHED
        self._slots.remove(slots)
        return [Rows(np.ascontiguousarray(cells[:, KEY]).view(np.uint64), body, reasons)]

    def _hand_out(self, closed: list[Rows]) -> FlowBatch:
        if not closed:
            return _NO_ROWS
        rows = rowlib.join(closed)
        amounts = rowlib.amounts(rows.body)
        batch = rowlib.batch(rows, vantage=self._vantage, interfaces=self._interfaces)
        self._held -= amounts
        self._accounts.move(HELD, HANDED_OUT, amounts)
        return batch


def _go_on(body: Numbers, first_run: Numbers, old: Numbers, goes_on: Flags) -> None:
    """Add the rows that keys had to their first runs, in place, where those go on with them."""
    into, source = first_run[goes_on], old if goes_on.all() else old.compress(goes_on, axis=1)
    for column in range(AMOUNTS.start, AMOUNTS.stop):
        body[column][into] += source[column]
    body[START][into] = np.minimum(body[START][into], source[START])
    body[END][into] = np.maximum(body[END][into], source[END])
    body[ROW][into] = source[ROW] | (body[ROW][into] & 0x1FF)


def _go_on_each(body: Numbers, old: Numbers, goes_on: Flags) -> None:
    """:func:`_go_on` where each key has one run. What ``old`` holds of other keys may be anything."""
    body[AMOUNTS] += old[AMOUNTS] * goes_on
    np.minimum(body[START], old[START], out=body[START], where=goes_on)
    np.maximum(body[END], old[END], out=body[END], where=goes_on)
    body[ROW] = np.where(goes_on, old[ROW] | (body[ROW] & 0x1FF), body[ROW])


def _reason(kind: NDArray[np.int8], flow: Numbers) -> NDArray[np.int32]:
    """Why a row ended that was ended by a packet of this kind."""
    over = np.where(rowlib.finished(flow), FINISHED, IDLE)
    reason = np.where(kind == AFTER_IDLE, over, np.where(kind == REUSES, FINISHED, ACTIVE))
    return reason.astype(np.int32)
