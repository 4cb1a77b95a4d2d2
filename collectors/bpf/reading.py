"""One run over programs at work: their maps are read every ``interval``, handed out as rows, and emptied once durable.

What the programs count and whose it is differs from collector to collector; when it is read, how it is accounted for
and how it ends does not.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from agent.core.accounts import Accounts, Amounts
from agent.core.clock import MINUTE_NS, SECOND_NS, Clock
from agent.core.flow import BatchHeader, FlowBatch, concat
from agent.core.stages import Context
from collectors.bpf import rows
from collectors.bpf.epochs import Drained, Epochs
from collectors.bpf.programs import Programs

_NO_ROWS: Final = FlowBatch.empty()
HELD: Final = "batches"
"""Place name in the account of rows that were handed out."""
_TICK_S: Final = 0.7
_SOON_S: Final = 0.05
_FULL: Final = 0.7
"""Share of the map at which an epoch is ended early."""
_FAST: Final = 0.05
"""Growth of that share within a tick from which on it is looked at more often."""
_LAST_WAIT_S: Final = 30.0


class Kept(Protocol):
    """The collector, as far as its run asks it; see :class:`agent.core.stages.Keeping`."""

    name: str
    durable: bool
    overflowed: Amounts

    def is_settled(self, position: str) -> bool:
        """Whether rows of that position need not be kept any longer."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When maps are read."""

    interval_s: int
    keep_on_stop: bool
    setting: str
    """Where the settings stand, for advice: ``ebpf``."""
    position: str
    """Name that positions begin with."""
    tick_s: float = _TICK_S
    second_ns: int = SECOND_NS


class Reading(ABC):
    """One run. ``capture`` and ``chores`` are the collector's own part."""

    def __init__(self, stage: Kept, pace: Pace, context: Context, vantage: str) -> None:
        """``vantage``: that of rows which had no room."""
        self._stage, self._pace = stage, pace
        self._accounts: Accounts = context.accounts
        self._clock: Clock = context.clock
        self._host = context.host
        self._vantage = vantage
        self._log = structlog.get_logger(stage.name)
        self._sets: list[Epochs] = []
        self._counted = Amounts()
        """What the kernel has counted, as last told to the account."""
        self._ended_ns = self._clock.monotonic_ns()
        """When the last epoch ended, CLOCK_BOOTTIME."""
        self._handed = Amounts()

    @abstractmethod
    def capture(
        self, drained: Drained, times: rows.Times, *, forced: bool
    ) -> tuple[FlowBatch, NDArray[np.bool_]]:
        """Rows of an epoch that has some, and which of them are left out. ``forced``: the capture ends here."""

    def leave_out(self, batch: FlowBatch, left_out: NDArray[np.bool_]) -> FlowBatch:
        """The rows without those that settings leave out; called where there are some."""
        return batch.take(~left_out)

    def chores(self) -> None:
        """Whatever is to be looked at between two readings; called about once a tick."""
        return

    def run(
        self, stop: threading.Event, programs: Programs, older: Sequence[Programs], position: str
    ) -> Iterator[FlowBatch]:
        """Rows every interval, and a batch at least once a second, until ``stop``; then all that is left."""
        self.chores()
        for one in (programs, *older):
            epochs = Epochs(one, self._pace.position)
            epochs.resume(position)
            self._sets.append(epochs)
        self._account()
        for one, epochs in zip(older, self._sets[1:], strict=True):
            yield from self._read_out(one, epochs)
        epochs = self._sets[0]
        if epochs.pending is not None:
            yield from self._hand_out(epochs, epochs.pending, forced=False)
        yield from self._watch_traffic(epochs, stop)
        if self._pace.keep_on_stop and programs.folder is not None:
            yield from self._last(epochs, forced=False)
        else:
            yield from self._read_out(programs, epochs)
        self._account()

    def _watch_traffic(self, epochs: Epochs, stop: threading.Event) -> Iterator[FlowBatch]:
        interval_ns = self._pace.interval_s * self._pace.second_ns
        done = self._clock.now_ns() // interval_ns
        told_ns, pause_s, before = 0, self._pace.tick_s, 0.0
        while not stop.is_set():
            self.chores()
            now_ns = self._clock.now_ns()
            fill = epochs.fill()
            pause_s = _SOON_S if epochs.pending is not None or fill - before > _FAST else self._pace.tick_s
            before = fill
            if epochs.pending is not None and self._stage.is_settled(epochs.position(epochs.pending.number)):
                epochs.settle()
            if epochs.pending is None and (now_ns // interval_ns != done or fill >= _FULL):
                done, before = now_ns // interval_ns, 0.0
                yield from self._hand_out(epochs, epochs.swap(), forced=False)
            elif self._clock.monotonic_ns() - told_ns >= self._pace.tick_s * self._pace.second_ns:
                told_ns = self._clock.monotonic_ns()
                self._account()
                yield _NO_ROWS
            to_grid_s = (interval_ns - self._clock.now_ns() % interval_ns) / SECOND_NS
            stop.wait(min(pause_s, to_grid_s + 0.001))

    def _read_out(self, programs: Programs, epochs: Epochs) -> Iterator[FlowBatch]:
        """Take programs off their hooks, hand out all they have counted, and forget them once that is durable."""
        programs.detach()
        # A packet that was under way when they came off may still reach the map that is then the active one.
        if epochs.pending is not None and not (yield from self._settle(epochs)):
            return
        for _ in range(2):
            if not (yield from self._last(epochs, forced=True)):
                return
        programs.remove()
        if any(epochs.unread()):
            self._log.error("kernel_counts_differ", octets=epochs.unread())

    def _last(self, epochs: Epochs, *, forced: bool) -> Generator[FlowBatch, None, bool]:
        """One more epoch, waited for; gives whether it is durable."""
        if epochs.pending is not None and not (yield from self._settle(epochs)):
            return False
        yield from self._hand_out(epochs, epochs.swap(), forced=forced)
        return (yield from self._settle(epochs))

    def _settle(self, epochs: Epochs) -> Generator[FlowBatch, None, bool]:
        """Wait until the pending epoch is durable, and empty its map; gives whether it came to that."""
        end_ns = self._clock.monotonic_ns() + int(_LAST_WAIT_S * SECOND_NS)
        pause = threading.Event()
        while epochs.pending is not None:
            if self._stage.is_settled(epochs.position(epochs.pending.number)):
                epochs.settle()
                break
            if self._clock.monotonic_ns() > end_ns:
                self._log.warning("epoch_not_settled", advice="it is read again at the next start, if pinned")
                return False
            pause.wait(_SOON_S / 5)
            yield _NO_ROWS
        return True

    def _hand_out(self, epochs: Epochs, drained: Drained, *, forced: bool) -> Iterator[FlowBatch]:
        batch, left_out = self._rows(drained, forced)
        self._account(batch.amounts())
        if left_out.any():
            batch = self.leave_out(batch, left_out)
        if not len(batch):
            epochs.settle()
            yield _NO_ROWS
            return
        header = BatchHeader(
            host=self._host, collector=self._stage.name, position=epochs.position(drained.number)
        )
        yield FlowBatch({column.name: data for column, data in batch.columns()}, header)
        if not self._stage.durable:
            epochs.settle()

    def _rows(self, drained: Drained, forced: bool) -> tuple[FlowBatch, NDArray[np.bool_]]:
        """An epoch's rows, and which of them are left out."""
        times = rows.Times(self._clock.now_ns(), self._clock.monotonic_ns())
        parts, left_out = [], np.zeros(0, bool)
        if len(drained.keys):
            part, left_out = self.capture(drained, times, forced=forced)
            parts.append(part)
        if any(drained.over.values()):
            parts.append(self._overflow(drained, times))
            left_out = np.append(left_out, False)
        self._ended_ns = times.boot_ns
        return concat(parts), left_out

    def _overflow(self, drained: Drained, times: rows.Times) -> FlowBatch:
        start_ns, end_ns = times.wall(np.array([self._ended_ns, times.boot_ns])).tolist()
        # A row never spans a full minute, however long nobody read.
        start_ns = max(start_ns, end_ns - MINUTE_NS + 1)
        batch = rows.overflow(drained.over, start_ns=start_ns, end_ns=end_ns, vantage=self._vantage)
        self._stage.overflowed += batch.amounts()
        self._log.warning(
            "map_overflowed",
            octets_out=drained.over["octets_out"],
            octets_in=drained.over["octets_in"],
            advice=f"raise {self._pace.setting}.map_flows or lower {self._pace.setting}.interval",
        )
        return batch

    def _account(self, drained: Amounts | None = None) -> None:
        """Tell the account what the kernel has counted and still holds, and what was read from it just now."""
        self._handed += drained or Amounts()
        left = Amounts(0, *(sum(each) for each in zip(*(e.unread() for e in self._sets), strict=True)))
        counted = left + self._handed
        self._accounts.drain(counted - self._counted, left, drained=drained or Amounts(), held_in=HELD)
        self._counted = counted
