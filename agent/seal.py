"""From rows to batches that no longer change: lanes, joining, numbers.

Lane 1 holds the rows of stores, as they are; lane 0 the rest, whose ephemeral port is nulled so that rows alike in
all else join. A batch is sealed at 1,000 rows that are left after joining, or 1 s (lane 1) and 10 s (lane 0) after its
first row; its id is (agent id, run id, lane, sequence). This is the seam to Kafka: what is sealed may be decided here or sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from agent.core.accounts import Accounts, Amounts
from agent.core.clock import MINUTE_NS, SECOND_NS
from agent.core.flow import COLUMNS, BatchHeader, ColumnData, FlowBatch, Kind, Text, concat
from agent.core.grouping import groups

STORE_LANE = 1
OTHER_LANE = 0
MAX_ROWS = 1_000
MAX_AGE_NS = {STORE_LANE: SECOND_NS, OTHER_LANE: 10 * SECOND_NS}
LONGEST_AGE_NS = 30 * SECOND_NS
"""Where so few rows come that batches would be small: what an adaptive sealer lets lane 0 grow to."""
PIECE = 16_384
"""Rows that are enriched and sealed at a time."""
STOPPED = "stopped"
"""Reason, in the account, of rows that were let go because the run was stopped and its data comes again."""

_SUMMED = ("flows", "octets_out", "packets_out", "octets_in", "packets_in", "content_octets_out")
_NOT_KEYS = frozenset(
    (*_SUMMED, "start_ns", "end_ns", "tcp_flags", "end_reason", "source_octets_out", "nat_address")
)


class Sealer:
    """Gathers rows by lane and hands them out as numbered batches. Not thread-safe.

    ``in_step`` is for data whose time is not ours, where no batch grows old: rows of stores, often the few, are then
    handed out before every full batch of the others, or they would come hours behind them and count as late.
    ``adaptive`` lets lane 0 wait longer, up to :data:`LONGEST_AGE_NS`, where its batches are not full by then: what a message
    costs its receiver is much the same for few rows and for many.
    """

    def __init__(
        self,
        header: BatchHeader,
        accounts: Accounts,
        *,
        held_in: str = "batches",
        in_step: bool = False,
        adaptive: bool = False,
    ) -> None:
        self._header = header
        self._in_step, self._adaptive = in_step, adaptive
        self._age_ns = dict(MAX_AGE_NS)
        self._accounts = accounts
        self._held_in = held_in
        self._rows: dict[int, list[FlowBatch]] = {STORE_LANE: [], OTHER_LANE: []}
        self._count = {STORE_LANE: 0, OTHER_LANE: 0}
        self._look_at = MAX_ROWS
        self._since_ns: dict[int, int] = {}
        self._sequence = {STORE_LANE: 0, OTHER_LANE: 0}

    def add(self, batch: FlowBatch, now_ns: int) -> Iterator[FlowBatch]:
        """Take enriched rows; yield the batches that are full because of them."""
        if len(batch):
            of_store = batch["store"] >= 0
            for lane, mask in ((STORE_LANE, of_store), (OTHER_LANE, ~of_store)):
                if mask.any():
                    self._since_ns.setdefault(lane, now_ns)
                    rows = batch if mask.all() else batch.take(mask)
                    self._rows[lane].append(rows)
                    self._count[lane] += len(rows)
        full = {STORE_LANE: self._count[STORE_LANE] >= MAX_ROWS, OTHER_LANE: self._full_when_joined()}
        for lane in (STORE_LANE, OTHER_LANE):
            whole = lane == STORE_LANE and self._in_step and full[OTHER_LANE]
            if full[lane] or whole:
                self._adapt(lane, now_ns)
                yield from self._seal(lane, now_ns, whole=whole)

    def due(self, now_ns: int) -> Iterator[FlowBatch]:
        """Yield the batches whose first row has waited long enough."""
        for lane in (STORE_LANE, OTHER_LANE):
            if self._count[lane] and now_ns - self._since_ns[lane] >= self._age_ns[lane]:
                self._adapt(lane, now_ns)
                yield from self._seal(lane, now_ns, whole=True)

    def flush(self) -> Iterator[FlowBatch]:
        """Yield everything that is still held."""
        for lane in (STORE_LANE, OTHER_LANE):
            yield from self._seal(lane, 0, whole=True)

    def let_go(self) -> None:
        """Forget what is held, as :data:`STOPPED` in the account."""
        for lane, rows in self._rows.items():
            for batch in rows:
                self._accounts.drop(STOPPED, batch, held_in=self._held_in)
            self._rows[lane], self._count[lane] = [], 0
        self._since_ns.clear()

    @property
    def sequences(self) -> Mapping[int, int]:
        """Lane -> number of the next batch."""
        return dict(self._sequence)

    def amounts(self) -> Amounts:
        """What is held and not yet sealed."""
        return sum((b.amounts() for rows in self._rows.values() for b in rows), Amounts())

    def _full_when_joined(self) -> bool:
        """Whether lane 0 holds a batch even after its rows are joined. Joined again only when half a batch has come."""
        if self._count[OTHER_LANE] < self._look_at:
            return False
        self._join()
        return self._count[OTHER_LANE] >= MAX_ROWS

    def _join(self) -> None:
        rows = join_rows(concat(self._rows[OTHER_LANE]))
        self._rows[OTHER_LANE], self._count[OTHER_LANE] = [rows], len(rows)
        self._look_at = max(MAX_ROWS, len(rows) + MAX_ROWS // 2)

    def _seal(self, lane: int, now_ns: int, *, whole: bool) -> Iterator[FlowBatch]:
        if whole and lane == OTHER_LANE and self._count[lane]:
            self._join()
        rows = concat(self._rows[lane])
        full = len(rows) if whole else len(rows) - len(rows) % MAX_ROWS
        self._rows[lane] = [rows.take(slice(full, None)).compact()] if full < len(rows) else []
        self._count[lane] = len(rows) - full
        self._since_ns.pop(lane, None)
        if lane == OTHER_LANE:
            self._look_at = MAX_ROWS
        if self._count[lane]:
            self._since_ns[lane] = now_ns
        out = rows.take(slice(0, full)).compact()
        for start in range(0, full, MAX_ROWS):
            part = out.take(slice(start, min(start + MAX_ROWS, full)))
            self._accounts.seal(part.amounts(), held_in=self._held_in)
            yield part.under(self._numbered(lane, rows.header))

    def _adapt(self, lane: int, now_ns: int) -> None:
        """Set how old the next batch of a lane may grow: older if this one is not full, less old if it was full sooner."""
        if self._adaptive and lane == OTHER_LANE:
            step_ns = MAX_AGE_NS[lane]
            if self._count[lane] < MAX_ROWS:
                self._age_ns[lane] = min(self._age_ns[lane] + step_ns, LONGEST_AGE_NS)
            elif now_ns - self._since_ns[lane] <= self._age_ns[lane] - step_ns:
                self._age_ns[lane] -= step_ns

    def _numbered(self, lane: int, collected: BatchHeader) -> BatchHeader:
        sequence = self._sequence[lane]
        self._sequence[lane] += 1
        return BatchHeader(
            agent_id=self._header.agent_id,
            run_id=self._header.run_id,
            lane=lane,
            sequence=sequence,
            host=self._header.host,
            collector=collected.collector,
            clock_offset_ns=collected.clock_offset_ns,
            versions=collected.versions,
            account=self._accounts.read(),
            position=collected.position,
        )


def in_order(batch: FlowBatch, at_once: int = PIECE) -> Iterator[FlowBatch]:
    """The same rows in an order that depends on nothing but themselves, so that a replay seals equal batches.

    Some at a time: what is made of a hundred thousand rows on their way would else be many times as large as they.
    """
    if len(batch):
        order = _order(batch)
        for start in range(0, len(batch), at_once):
            yield batch.take(order[start : start + at_once])


def _order(batch: FlowBatch) -> NDArray[np.intp]:
    ends = batch["end_ns"]
    order = np.argsort(ends, kind="stable")
    in_time = ends[order]
    same = in_time[1:] == in_time[:-1]
    if same.any():
        tied = np.concatenate([[False], same]) | np.concatenate([same, [False]])
        rows = np.sort(order[tied])
        order[tied] = rows[np.lexsort([key[rows] for key in _sort_keys(batch)])]
    return order


def _sort_keys(batch: FlowBatch) -> list[NDArray[np.generic]]:
    local, remote = batch["local_address"], batch["remote_address"]
    ports = [batch["protocol"], batch["remote_port"], batch["local_port"]]
    return [*ports, remote[:, 1], remote[:, 0], local[:, 1], local[:, 0], batch["start_ns"], batch["end_ns"]]


def join_rows(batch: FlowBatch) -> FlowBatch:
    """Rows of no store with their ephemeral port nulled, those alike within one minute joined, in the order of their
    first rows. Sums stay the same.
    """
    local_port, remote_port = _without_ephemeral(batch)
    batch = batch.with_columns(local_port=local_port, remote_port=remote_port)
    minute = batch["end_ns"] // MINUTE_NS
    order, starts = groups([minute, *_key_columns(batch)])
    if len(starts) == len(batch):
        return batch
    order, starts = _by_first(order, starts)
    sizes = np.diff(np.append(starts, len(order)))
    first = order[starts]
    columns: dict[str, ColumnData] = {name: np.add.reduceat(batch[name][order], starts) for name in _SUMMED}
    columns["start_ns"] = np.minimum.reduceat(batch["start_ns"][order], starts)
    columns["end_ns"] = np.maximum.reduceat(batch["end_ns"][order], starts)
    columns["tcp_flags"] = _joined_flags(batch["tcp_flags"][order], starts)
    alone = sizes == 1
    reason = batch.text("end_reason")
    columns["end_reason"] = Text(_if_equal(reason.codes[order], starts, reason.codes[first]), reason.values)
    columns["source_octets_out"] = np.where(alone, batch["source_octets_out"][first], -1)
    return batch.take(first).with_columns(**columns)


def _by_first(order: NDArray[np.intp], starts: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The same groups, each as it is, ordered by the row that each begins with."""
    sizes = np.diff(np.append(starts, len(order)))
    rank = np.argsort(order[starts], kind="stable")
    sizes, begins = sizes[rank], starts[rank]
    ends = np.cumsum(sizes)
    moved = np.repeat(begins - (ends - sizes), sizes) + np.arange(len(order))
    return order[moved], ends - sizes


def _without_ephemeral(batch: FlowBatch) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    local, remote = batch["local_port"], batch["remote_port"]
    initiator = batch.text("initiator")
    by_local, by_remote = initiator.where("local"), initiator.where("remote")
    unknown = ~by_local & ~by_remote
    by_local = by_local | (unknown & (local >= 32768) & (local > remote))
    by_remote = by_remote | (unknown & (remote >= 32768) & (remote > local))
    return np.where(by_local, -1, local).astype(np.int32), np.where(by_remote, -1, remote).astype(np.int32)


def _key_columns(batch: FlowBatch) -> list[NDArray[np.generic]]:
    keys: list[NDArray[np.generic]] = []
    for column in COLUMNS:
        if column.name in _NOT_KEYS:
            continue
        data = batch[column.name]
        if column.kind is Kind.ADDRESS:
            keys += [data[:, 0], data[:, 1]]
        elif len(data) and (data != data[0]).any():
            keys.append(data)
    return keys


def _joined_flags(flags: NDArray[np.int16], starts: NDArray[np.intp]) -> NDArray[np.int16]:
    known = flags >= 0
    joined = np.bitwise_or.reduceat(np.where(known, flags, 0), starts)
    return np.where(np.logical_or.reduceat(known, starts), joined, -1).astype(np.int16)


def _if_equal(
    codes: NDArray[np.int32], starts: NDArray[np.intp], first: NDArray[np.int32]
) -> NDArray[np.int32]:
    same = (np.minimum.reduceat(codes, starts) == first) & (np.maximum.reduceat(codes, starts) == first)
    return np.where(same, first, -1).astype(np.int32)
