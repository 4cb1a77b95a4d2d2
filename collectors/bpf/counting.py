"""Reading out what programs at work count, interval by interval, until they are to stop or somebody takes them off.

What the programs count, where and whose it is differs from collector to collector (``atsockets``, ``atguests``). When it
is read, how it is accounted for, how a gap is noticed and how it ends does not.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.accounts import Accounts, Amounts
from agent.core.clock import MINUTE_NS, SECOND_NS, Clock
from agent.core.faults import faultpoint
from agent.core.flow import BatchHeader, FlowBatch, concat
from agent.core.log import Log
from agent.core.stages import Context
from collectors.bpf import rows
from collectors.bpf.epochs import Drained, Epochs
from collectors.bpf.gaps import Diary, Note, boot_id
from collectors.bpf.kept import Kept
from collectors.bpf.programs import Programs
from collectors.bpf.reconcile import Counters, Rows

_NO_ROWS: Final = FlowBatch.empty()
_HELD: Final = "batches"
"""Place name in the account of rows that were handed out."""
_TICK_S: Final = 0.7
_SOON_S: Final = 0.05
_FULL: Final = 0.7
"""Share of the map at which an epoch is ended early."""
_FAST: Final = 0.05
"""Growth of that share within a tick from which on it is looked at more often."""
_LAST_WAIT_S: Final = 30.0
_CHECK_NS: Final = SECOND_NS // 2
"""How often it is asked whether the programs are still in place; always before maps are exchanged."""


@dataclass(frozen=True, slots=True)
class How:
    """What the settings say of counting."""

    keep_on_stop: bool = False
    reader: str = "ebpf"
    """The word that positions begin with; see :class:`agent.core.stages.Keeping`."""
    look_s: float = 60
    """How often there is something to look at between two readings, if more often than by itself."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What one epoch holds."""

    batch: FlowBatch
    inside: NDArray[np.bool_]
    """Which rows stayed within the host, where that is not asked for: left out, and accounted for."""
    passed: Rows
    """What of it the interfaces of :meth:`Counting.counters` have counted too."""


class Counting(ABC):
    """One run over programs at work. Not thread-safe."""

    def __init__(self, stage: Kept, how: How, context: Context, vantage: str, diary: Diary) -> None:
        """``vantage``: that of rows which had no room."""
        self._stage, self._how, self._diary = stage, how, diary
        self._accounts: Accounts = context.accounts
        self._clock: Clock = context.clock
        self._host = context.host
        self._vantage = vantage
        self._log = Log(part=stage.name)
        self._sets: list[Epochs] = []
        self._counted = Amounts()
        """What the kernel has counted, as last told to the account."""
        self._ended_ns = self._clock.monotonic_ns()
        """When the last epoch ended, CLOCK_BOOTTIME."""
        self._handed = Amounts()
        self._stop = threading.Event()
        self._boot_id = boot_id()
        self._counters = Counters({}, 0, 0, 0)
        """As they stood before the last exchange."""
        self._since = Rows()
        """What was counted since, by programs that have been taken off."""
        self._exchanged_ns = 0
        """When they were read, CLOCK_BOOTTIME."""

    @abstractmethod
    def capture(self, drained: Drained, times: rows.Times, *, forced: bool) -> Captured:
        """Rows of an epoch that has some. ``forced``: the capture ends here."""

    @abstractmethod
    def counters(self) -> Counters:
        """What the interfaces themselves have counted until now, as seen from the end whose rows these are."""

    @abstractmethod
    def look(self, now_ns: int) -> None:
        """Whatever is to be looked at between two readings; first before the first one. ``now_ns``: CLOCK_BOOTTIME."""

    def reckon(self, passed: Rows) -> None:
        """Take up what a reading counted."""
        return

    def close_reckoning(self, *, at_end: bool) -> None:
        """Tell how rows and interfaces compare, if it is time."""
        return

    def run(
        self, stop: threading.Event, programs: Programs, older: Sequence[Programs], position: str
    ) -> Generator[FlowBatch, None, bool]:
        """Rows of every interval until ``stop``; then all that is left. Gives whether somebody else took the programs off."""
        self._stop = stop
        self.look(self._clock.monotonic_ns())
        self._begin(programs, older)
        for one in (programs, *older):
            epochs = Epochs(one, self._how.reader)
            epochs.resume(position)
            self._sets.append(epochs)
        self._account()
        for one, epochs in zip(older, self._sets[1:], strict=True):
            if epochs.pending is not None:
                yield from self._hand_out(epochs, epochs.pending, forced=False)
            # Whoever comes next is told one position alone: nothing of the new maps may be durable before.
            if not (yield from self._read_out(one, epochs)):
                return False
        epochs = self._sets[0]
        if epochs.pending is not None:
            yield from self._hand_out(epochs, epochs.pending, forced=False)
        sure_ns = yield from self._watch_traffic(programs, epochs, stop)
        fallen = not stop.is_set()
        if self._how.keep_on_stop and programs.folder is not None and not fallen:
            yield from self._last(epochs, forced=False)
            self._note(programs.instance)
        elif (yield from self._read_out(programs, epochs)):
            if fallen:
                self._note(programs.instance, sure_ns)
            else:
                self._diary.forget()
        else:
            fallen = False
        self._account()
        self.close_reckoning(at_end=True)
        return fallen

    def _begin(self, programs: Programs, older: Sequence[Programs]) -> None:
        """Tell of a gap before this start."""
        self._counters = self.counters()
        wall_ns, boot_ns = self._clock.now_ns(), self._clock.monotonic_ns()
        last = self._diary.last()
        if last is not None and last.instance not in {one.instance for one in (programs, *older)}:
            gap = last.gap(self._counters, wall_ns, boot_ns, self._boot_id)
            self._accounts.unobserve("not_counting", gap)
            self._log.error("not_observed", **gap.as_dict(), advice="see After a crash in docs/capture.md")
        self._note(programs.instance)

    def _note(self, instance: str, sure_ns: int | None = None) -> None:
        """Note that all is durable that was counted until ``sure_ns`` (CLOCK_BOOTTIME; None: now)."""
        wall_ns, boot_ns = self._clock.now_ns(), self._clock.monotonic_ns()
        since = self._since if sure_ns is not None else Rows()
        until_ns = boot_ns if sure_ns is None else sure_ns
        note = Note(
            instance=instance,
            wall_ns=wall_ns - (boot_ns - until_ns),
            boot_ns=until_ns,
            boot_id=self._boot_id,
            counters=self._counters,
            counted_out=since.own_out,
            counted_in=since.own_in,
        )
        self._diary.write(note)

    def _watch_traffic(
        self, programs: Programs, epochs: Epochs, stop: threading.Event
    ) -> Generator[FlowBatch, None, int]:
        """Count until ``stop``, or until a program is found taken off; gives when all of them were last in place."""
        interval_ns = self._stage.interval_ns
        done = self._clock.now_ns() // interval_ns
        calm_s = min(_TICK_S, self._how.look_s)
        told_ns, pause_s, before = 0, calm_s, 0.0
        sure_ns = self._clock.monotonic_ns()
        while not stop.is_set():
            looked_ns, now_ns = self._clock.monotonic_ns(), self._clock.now_ns()
            if interval_ns != self._stage.interval_ns:
                interval_ns = self._stage.interval_ns
                done = now_ns // interval_ns
            self.look(looked_ns)
            fill = epochs.fill()
            is_due = now_ns // interval_ns != done or fill >= _FULL
            fallen = programs.fallen() if is_due or looked_ns >= sure_ns + _CHECK_NS else None
            if fallen:
                self._log.error(
                    "programs_taken_off",
                    programs=list(fallen),
                    advice="another tool did, or what they stood on is gone",
                )
                break
            sure_ns = looked_ns if fallen is not None else sure_ns
            pause_s = _SOON_S if epochs.pending is not None or fill - before > _FAST else calm_s
            before = fill
            self._settle_if_durable(epochs)
            if epochs.pending is None and is_due:
                done, before = now_ns // interval_ns, 0.0
                yield from self._exchange(epochs)
            elif looked_ns - told_ns >= _TICK_S * SECOND_NS:
                told_ns = looked_ns
                self._account()
                yield _NO_ROWS
            to_grid_s = (interval_ns - self._clock.now_ns() % interval_ns) / SECOND_NS
            stop.wait(min(pause_s, to_grid_s + 0.001))
        return sure_ns

    def _exchange(self, epochs: Epochs) -> Iterator[FlowBatch]:
        # Before the maps are exchanged: what a crash may lose is what the interfaces count from here on, or less.
        self._counters, self._exchanged_ns = self.counters(), self._clock.monotonic_ns()
        self.close_reckoning(at_end=False)
        self._since = Rows()
        yield from self._hand_out(epochs, epochs.swap(), forced=False)

    def _settle_if_durable(self, epochs: Epochs) -> bool:
        if epochs.pending is None or not self._stage.is_settled(epochs.position(epochs.pending.number)):
            return False
        epochs.settle()
        if self._exchanged_ns:
            self._note(epochs.instance, self._exchanged_ns)
        return True

    def _read_out(self, programs: Programs, epochs: Epochs) -> Generator[FlowBatch, None, bool]:
        """Take programs off their hooks, hand out all they have counted, and forget them once that is durable; gives
        whether it came to that.
        """
        programs.detach()
        faultpoint("ebpf.after_detach")
        # A packet that was under way when they came off may still reach the map that is then the active one.
        if epochs.pending is not None and not (yield from self._settle(epochs)):
            return False
        for _ in range(2):
            if not (yield from self._last(epochs, forced=True)):
                return False
        faultpoint("ebpf.before_removal")
        programs.remove()
        if any(epochs.unread()):
            self._log.error("kernel_counts_differ", octets=epochs.unread())
        return True

    def _last(self, epochs: Epochs, *, forced: bool) -> Generator[FlowBatch, None, bool]:
        """One more epoch, waited for; gives whether it is durable."""
        if epochs.pending is not None and not (yield from self._settle(epochs)):
            return False
        yield from self._hand_out(epochs, epochs.swap(), forced=forced, late=True)
        return (yield from self._settle(epochs))

    def _settle(self, epochs: Epochs) -> Generator[FlowBatch, None, bool]:
        """Wait until the pending epoch is durable, and empty its map; gives whether it came to that: without an end
        while the program runs, and for a while after it was asked to stop.
        """
        end_ns, pause = 0, threading.Event()
        while epochs.pending is not None and not self._settle_if_durable(epochs):
            now_ns = self._clock.monotonic_ns()
            end_ns = end_ns if self._stop.is_set() and end_ns else now_ns + int(_LAST_WAIT_S * SECOND_NS)
            if now_ns > end_ns:
                self._log.warning("epoch_not_settled", advice="it is read again at the next start, if pinned")
                return False
            pause.wait(_SOON_S / 5)
            yield _NO_ROWS
        return True

    def _hand_out(
        self, epochs: Epochs, drained: Drained, *, forced: bool, late: bool = False
    ) -> Iterator[FlowBatch]:
        number = drained.number
        batch, inside = self._rows(drained, forced, late)
        del drained
        epochs.let_go()
        self._account(batch.amounts())
        if inside.any():
            self._accounts.exclude("loopback", batch.take(inside), held_in=_HELD)
            batch = batch.take(~inside)
        if not len(batch):
            epochs.settle()
            yield _NO_ROWS
            return
        header = BatchHeader(host=self._host, collector=self._stage.name, position=epochs.position(number))
        yield FlowBatch({column.name: data for column, data in batch.columns()}, header)
        if not self._stage.durable:
            self._settle_if_durable(epochs)

    def _rows(self, drained: Drained, forced: bool, late: bool) -> tuple[FlowBatch, NDArray[np.bool_]]:
        """An epoch's rows, and which of them stayed within the host."""
        times = rows.Times(self._clock.now_ns(), self._clock.monotonic_ns())
        parts, inside = [], np.zeros(0, bool)
        if len(drained.keys):
            captured = self.capture(drained, times, forced=forced)
            parts.append(captured.batch)
            inside = captured.inside
            self._add(captured.passed, late)
        if any(drained.over.values()):
            parts.append(self._overflow(drained, times))
            inside = np.append(inside, False)
            self._add(Rows(drained.over["octets_out"], drained.over["octets_in"]), late)
        self._ended_ns = times.boot_ns
        return concat(parts), inside

    def _add(self, passed: Rows, late: bool) -> None:
        self.reckon(passed)
        if late:
            self._since.add(passed)

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
            advice=f"raise {self._stage.name}.map_flows or lower {self._stage.name}.interval",
        )
        return batch

    def _account(self, drained: Amounts | None = None) -> None:
        """Tell the account what the kernel has counted and still holds, and what was read from it just now."""
        self._handed += drained or Amounts()
        left = Amounts(0, *(sum(each) for each in zip(*(e.unread() for e in self._sets), strict=True)))
        counted = left + self._handed
        self._accounts.drain(counted - self._counted, left, drained=drained or Amounts(), held_in=_HELD)
        self._counted = counted
