"""The one road: collect, enrich, seal, decide, write. Bounded queues; whoever is slow holds back whoever is before it.

Each collector runs in a thread of its own and feeds one bounded queue; one worker takes rows from there, enriches,
seals and decides them, so that order is kept and the detector needs no lock. A live collector that is held back
loses frames in the kernel's ring, where they are counted.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from agent import logs
from agent.core.accounts import Accounts, Amounts
from agent.core.clock import DAY_NS, SECOND_NS, STEP_NS, Clock
from agent.core.errors import AccountError, SekishoError, SinkError
from agent.core.flow import FlowBatch, Mark, concat
from agent.core.stages import Collector, Enricher, Keeping, Scoped, Sink
from agent.seal import PIECE, STOPPED, Sealer, in_order

QUEUE_BATCHES = 32
QUEUE_ROWS = 2_048
"""A batch of more rows takes the place of several."""
GATHER_ROWS = PIECE
"""Rows of batches that are no live collector's, to go through the stages together; what is larger goes by itself."""
LEAVE_S = 2.0
"""How long a run that has failed waits for its collectors."""
FLUSH_EVERY_NS = 10 * SECOND_NS
"""What power loss may cost the sinks of flows, at most."""
LONGEST_WAY_NS = DAY_NS
"""No row of a live collector takes so long to come here, however long the state was locked or full."""
HELD_IN = "batches"
"""The place of memory, in the account, where rows are between collector and sealing."""
SETTLE_ROWS = 50_000
"""Sealed rows that are decided and committed together, at most (and what one batch adds)."""


class _Waiting(queue.Queue[tuple[str, FlowBatch | None]]):
    """Batches between collectors and worker. What bounds it is their rows, so that it holds as much of large ones."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._places = 0

    def _qsize(self) -> int:
        return self._places

    def _put(self, item: tuple[str, FlowBatch | None]) -> None:
        super()._put(item)
        self._places += _places(item)

    def _get(self) -> tuple[str, FlowBatch | None]:
        item: tuple[str, FlowBatch | None] = super()._get()
        self._places -= _places(item)
        return item


def _places(item: tuple[str, FlowBatch | None]) -> int:
    return 1 if item[1] is None else 1 + len(item[1]) // QUEUE_ROWS


class Decide(Protocol):
    """What becomes of sealed batches."""

    def take(self, batches: Sequence[FlowBatch], received_ns: int) -> None:
        """Decide and commit sealed batches, in order; on return their effect is durable."""

    def tick(self, now_ns: int) -> None:
        """Let time pass where no rows come."""

    def finish(self) -> None:
        """The data has ended."""


@dataclass
class Pipeline:
    """Joins stages and runs them. One run each."""

    collectors: Mapping[str, Collector]
    enrichers: Sequence[Enricher]
    sealer: Sealer
    decide: Decide
    flow_sinks: Sequence[Sink]
    accounts: Accounts
    clock: Clock
    observe: Callable[[Sequence[FlowBatch]], None] = lambda _batches: None
    """Sees what was decided together, for a live view."""
    between: Callable[[], None] = lambda: None
    """Called by the worker between two batches and while idle: reloads and other chores."""
    started: Callable[[], None] = lambda: None
    """Called once when every collector has its thread, before any row is taken."""
    turned: Callable[[str], None] = lambda _collector: None
    """Called by the worker when it is through with what a collector brought (empty: nothing came)."""
    settle_rows: int = SETTLE_ROWS
    comes_again: bool = False
    """Whoever stops this run brings the same data again from the beginning: what is held is then let go, undecided, so
    that batches of the same number hold the same rows in both runs."""
    sent: bool = False
    """What is sealed is sent and decided elsewhere: the sender keeps the second line of the account."""
    stop: threading.Event = field(default_factory=threading.Event)
    failures: dict[str, SekishoError] = field(default_factory=dict)
    """Collector name -> why it ended early."""
    unwritten: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Sink name -> rows that it did not take, and what it said last. They are decided all the same."""
    _gathered: list[FlowBatch] = field(default_factory=list)
    """Rows that are no live collector's, until there are enough of them to be worth the way."""
    _rows: int = 0
    """How many these are."""
    _pending: list[FlowBatch] = field(default_factory=list)
    _pending_amounts: Amounts = field(default_factory=Amounts)

    def __post_init__(self) -> None:
        scoped = [c for c in self.collectors.values() if isinstance(c, Scoped)]
        self._keeping = {name: c for name, c in self.collectors.items() if isinstance(c, Keeping)}
        self._scope = {name: text for collector in scoped for name, text in collector.scope().items()}

    @property
    def _live(self) -> bool:
        return all(collector.live for collector in self.collectors.values())

    def run(self) -> None:
        """Run until every collector has ended, or ``stop`` is set and all rows are through.

        Raises the first error that the worker cannot go on after (:class:`StateError`, :class:`AccountError`).
        Collectors' errors are in ``failures``: what they brought before is not lost.
        """
        rows = _Waiting(QUEUE_BATCHES)
        broken = threading.Event()
        threads = [
            threading.Thread(
                target=self._collect,
                args=(name, collector, rows, broken),
                name=f"collect-{name}",
                daemon=True,  # one that waits for a pipe nobody writes to must not outlive a second Ctrl-C
            )
            for name, collector in self.collectors.items()
        ]
        for thread in threads:
            thread.start()
        try:
            self.started()
            self._work(rows, running=len(threads))
        except BaseException:
            self.stop.set()
            broken.set()
            raise
        finally:
            for thread in threads:
                thread.join(LEAVE_S if broken.is_set() else None)

    def _collect(
        self,
        name: str,
        collector: Collector,
        rows: queue.Queue[tuple[str, FlowBatch | None]],
        broken: threading.Event,
    ) -> None:
        def put(item: tuple[str, FlowBatch | None]) -> bool:
            while not broken.is_set():
                try:
                    rows.put(item, timeout=0.5)
                    return True
                except queue.Full:
                    continue
            return False

        try:
            for batch in collector.collect(self.stop):
                if not put((name, batch)):
                    return
        except SekishoError as error:
            self.failures[name] = error
            logs.get("pipeline").error("collector_ended", collector=name, reason=str(error))
        except Exception as error:  # noqa: BLE001  this thread's outermost edge: nothing may vanish with it
            self.failures[name] = SekishoError(f"{name} stopped by a defect of ours: {error!r}")
            logs.get("pipeline").exception("collector_crashed", collector=name)
        finally:
            put((name, None))

    def _work(self, rows: queue.Queue[tuple[str, FlowBatch | None]], running: int) -> None:
        last_tick_ns = last_flush_ns = self.clock.monotonic_ns()
        while running:
            try:
                name, batch = rows.get(timeout=1.0)
            except queue.Empty:
                name, batch = "", FlowBatch.empty()
            if batch is None:
                running -= 1
                continue
            keeper = self._keeping.get(name)
            if keeper is not None and batch.header.position:
                self._through_whole(batch, keeper)
            elif self._live:
                self._through(batch)
            else:
                self._through_many(batch)
            if self._live:
                now_ns = self.clock.monotonic_ns()
                self._gather(self.sealer.due(now_ns))
                if rows.empty():
                    self._settle()
                if now_ns - last_tick_ns >= SECOND_NS:
                    last_tick_ns = now_ns
                    self.decide.tick(self.clock.now_ns())
                if now_ns - last_flush_ns >= FLUSH_EVERY_NS:
                    last_flush_ns = now_ns
                    self._flush()
            self.between()
            self.turned(name)
        if self._is_cut:
            self._let_go()
        else:
            self._through_gathered()
            self._gather(self.sealer.flush())
            self._settle()
            self.decide.finish()
        self._flush()
        self._check_empty()

    @property
    def _is_cut(self) -> bool:
        return self.comes_again and self.stop.is_set()

    def _let_go(self) -> None:
        """Forget what is held, with an account of it."""
        for batch in self._gathered:
            self.accounts.drop(STOPPED, batch, held_in=HELD_IN)
        self._gathered, self._rows = [], 0
        self.sealer.let_go()
        for batch in self._pending:
            self.accounts.bury(STOPPED, batch)
        self._pending.clear()
        self.accounts.wait(Amounts())

    def _suspected(self, batch: FlowBatch) -> FlowBatch:
        """The rows with those marked that end well after they came, or long before: the clock that stamped them is wrong."""
        now_ns = self.clock.now_ns()
        suspect = (batch["end_ns"] > now_ns + STEP_NS) | (batch["end_ns"] < now_ns - LONGEST_WAY_NS)
        if not suspect.any():
            return batch
        marks = batch["marks"] | np.where(suspect, np.uint16(Mark.CLOCK_SUSPECT), np.uint16(0))
        return batch.with_columns(marks=marks)

    def _through_many(self, batch: FlowBatch) -> None:
        """Take rows that nobody waits for, many at a time: what a stage costs is much the same for few rows and for many."""
        if not len(batch):
            return
        before = self._gathered[-1] if self._gathered else batch
        if self._rows + len(batch) > GATHER_ROWS or _source(before) != _source(batch):
            self._through_gathered()
        self._gathered.append(batch)
        self._rows += len(batch)
        if self._rows >= GATHER_ROWS:
            self._through_gathered()

    def _through_gathered(self) -> None:
        batches, self._gathered, self._rows = self._gathered, [], 0
        if batches:
            self._through(concat(batches).under(batches[-1].header))

    def _through(self, batch: FlowBatch) -> None:
        if not len(batch):
            return
        if self._live:
            batch = self._suspected(batch)
        if self._is_cut:
            self.accounts.drop(STOPPED, batch, held_in=HELD_IN)
            return
        for piece in in_order(batch):
            self._gather(self.sealer.add(self._enriched(piece), self.clock.monotonic_ns()))

    def _through_whole(self, batch: FlowBatch, keeper: Keeping) -> None:
        """Take rows of one position so that they are decided and committed in one step, and tell their collector."""
        self._settle()
        self._pend(self.sealer.flush())
        if len(batch):
            batch = self._suspected(batch) if self._live else batch
            for piece in in_order(batch):
                self._pend(self.sealer.add(self._enriched(piece), self.clock.monotonic_ns()))
            self._pend(self.sealer.flush())
        self._settle()
        keeper.settled(batch.header.position)

    def _enriched(self, batch: FlowBatch) -> FlowBatch:
        versions: dict[str, str] = self._scope | dict(batch.header.versions)
        for enricher in self.enrichers:
            richer = enricher.enrich(batch)
            if len(richer) != len(batch) or richer.amounts() != batch.amounts():
                raise AccountError(
                    f"enricher {enricher.name} changed {batch.amounts()} into {richer.amounts()}"
                )
            batch = richer
            versions |= enricher.versions()
        return batch.with_header(versions=versions)

    def _gather(self, sealed: Iterable[FlowBatch]) -> None:
        for batch in sealed:
            self._pend((batch,))
            if sum(map(len, self._pending)) >= self.settle_rows:
                self._settle()

    def _pend(self, sealed: Iterable[FlowBatch]) -> None:
        for batch in sealed:
            self._pending.append(batch)
            self._pending_amounts += batch.amounts()
            self.accounts.wait(self._pending_amounts)

    def _settle(self) -> None:
        """Decide and commit what is sealed, then hand it to the sinks."""
        if not self._pending:
            return
        batches, self._pending = self._pending, []
        amounts, self._pending_amounts = self._pending_amounts, Amounts()
        self.decide.take(batches, self._received_ns(batches))
        if not self.sent:
            self.accounts.decide(amounts)
        self.accounts.wait(Amounts())
        self.observe(batches)
        for batch in batches:
            for sink in self.flow_sinks:
                self._write(sink, batch)

    def _received_ns(self, batches: Sequence[FlowBatch]) -> int:
        if self._live:
            return self.clock.now_ns()
        return max(int(np.max(b["end_ns"])) for b in batches if len(b))

    def _write(self, sink: Sink, batch: FlowBatch) -> None:
        try:
            sink.write_flows(batch)
        except SinkError as error:
            logs.get("pipeline").warning(
                "flows_not_written", sink=sink.name, rows=len(batch), reason=str(error)
            )
            rows, _ = self.unwritten.get(sink.name, (0, ""))
            self.unwritten[sink.name] = (rows + len(batch), str(error))

    def _flush(self) -> None:
        for sink in self.flow_sinks:
            try:
                sink.flush()
            except SinkError as error:
                logs.get("pipeline").warning("sink_not_flushed", sink=sink.name, reason=str(error))

    def _check_empty(self) -> None:
        account = self.accounts.read()
        if account.in_memory or account.waiting:
            raise AccountError(
                f"rows are missing at the end of the run: {account.in_memory}, {account.waiting}"
            )
        self.accounts.check()


def _source(batch: FlowBatch) -> tuple[object, ...]:
    """What the headers of batches must share that become one."""
    header = batch.header
    return (header.host, header.collector, header.clock_offset_ns, header.versions)


def newest(kept: str, told: Sequence[str]) -> str:
    """The newest position of each collector, a line each: ``kept`` with those of ``told`` in their places.

    Positions of collectors whose source keeps what it handed out (:class:`agent.core.stages.Keeping`) are three words,
    the first of them the collector; of all others the last one stays.
    """
    lines = {}
    for position in (*kept.splitlines(), *(" ".join(each.splitlines()) for each in told)):
        words = position.split(" ")
        lines[words[0] if len(words) == 3 and words[2].isdecimal() else ""] = position
    return "\n".join(lines.values())
