"""Reading out what programs at work count, interval by interval, until they are to stop or somebody takes them off."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.core.accounts import Accounts, Amounts
from agent.core.address import Addresses, parse
from agent.core.clock import MINUTE_NS, SECOND_NS, Clock
from agent.core.faults import faultpoint
from agent.core.flow import BatchHeader, FlowBatch, Text, concat
from agent.core.log import Log
from agent.core.stages import Context
from collectors.bpf import rows
from collectors.bpf.epochs import Drained, Epochs
from collectors.bpf.gaps import Diary, Note, boot_id
from collectors.bpf.known import Known
from collectors.bpf.merge import Flows, merge
from collectors.bpf.owning import Owning
from collectors.bpf.programs import Programs
from collectors.bpf.reconcile import Counters, Reckoning, Rows
from collectors.bpf.roots import Root
from collectors.flowtable.table import KeyHash
from collectors.host.cgroups import Groups
from collectors.host.interfaces import HostWatch

_LOG: Final = Log(part="ebpf")
_NO_ROWS: Final = FlowBatch.empty()
_HELD: Final = "batches"
"""Place name in the account of rows that were handed out."""
_LOOPBACK_INDEX: Final = 1
"""``lo`` has this index in every network namespace (LOOPBACK_IFINDEX, include/net/flow.h)."""
_TICK_S: Final = 0.7
_SOON_S: Final = 0.05
_FULL: Final = 0.7
"""Share of the map at which an epoch is ended early."""
_FAST: Final = 0.05
"""Growth of that share within a tick from which on it is looked at more often."""
_LAST_WAIT_S: Final = 30.0
_SO_NETNS_COOKIE: Final = 71


@dataclass(frozen=True, slots=True)
class How:
    """What the settings say of counting."""

    interval_ns: int
    loopback: bool
    keep_on_stop: bool


class Keeper(Protocol):
    """Who is told of rows, and knows which are durable."""

    name: str
    durable: bool
    overflowed: Amounts

    def is_settled(self, position: str) -> bool:
        """Whether rows of that position need not be kept any longer."""


class Counting:
    """One run over programs at work. Not thread-safe."""

    def __init__(
        self,
        stage: Keeper,
        how: How,
        context: Context,
        root: Root,
        back_filled: bool,
        watch: HostWatch,
        diary: Diary,
    ) -> None:
        self._stage, self._how = stage, how
        self._accounts: Accounts = context.accounts
        self._clock: Clock = context.clock
        self._host = context.host
        self._vantage = f"ebpf:{root.name}"
        self._owning = Owning(Groups(root.mount), back_filled=back_filled)
        self._watch, self._diary = watch, diary
        self._names: dict[int, str] = {}
        self._netns = _netns_cookie()
        self._hasher, self._known = KeyHash(), Known()
        self._sets: list[Epochs] = []
        self._counted = Amounts()
        """What the kernel has counted, as last told to the account."""
        self._ended_ns = self._clock.monotonic_ns()
        """When the last epoch ended, CLOCK_BOOTTIME."""
        self._handed = Amounts()
        self._stop = threading.Event()
        self._boot_id = boot_id()
        self._is_whole = root.name == "/"
        self._reckoning: Reckoning | None = None
        self._counters = Counters({}, 0, 0, 0)
        """As they stood before the last exchange."""
        self._since = Rows()
        """What was counted since, by programs that have been taken off."""
        self._exchanged_ns = 0
        """When they were read, CLOCK_BOOTTIME."""
        self._outward: frozenset[int] = frozenset()
        self._addresses: Addresses = np.zeros((0, 2), np.uint64)

    def run(
        self, stop: threading.Event, programs: Programs, older: Sequence[Programs], position: str
    ) -> Generator[FlowBatch, None, bool]:
        """Rows of every interval until ``stop``; then all that is left. Gives whether somebody else took the programs off."""
        self._stop = stop
        self._look()
        self._begin(programs, older)
        for one in (programs, *older):
            epochs = Epochs(one)
            epochs.resume(position)
            self._sets.append(epochs)
        self._account()
        for one, epochs in zip(older, self._sets[1:], strict=True):
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
        self._reckon(at_end=True)
        return fallen

    def _begin(self, programs: Programs, older: Sequence[Programs]) -> None:
        """Tell of a gap before this start, and begin to compare with the interfaces."""
        self._counters = self._read_counters()
        wall_ns, boot_ns = self._clock.now_ns(), self._clock.monotonic_ns()
        last = self._diary.last()
        if last is not None and last.instance not in {one.instance for one in (programs, *older)}:
            gap = last.gap(self._counters, wall_ns, boot_ns, self._boot_id)
            self._accounts.unobserve("not_counting", gap)
            _LOG.error("not_observed", **gap.as_dict(), advice="see After a crash in docs/capture.md")
        if self._is_whole:
            self._reckoning = Reckoning(self._counters, wall_ns, boot_ns)
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

    def _read_counters(self) -> Counters:
        host = self._watch.read()
        self._outward = host.outward()
        self._addresses = parse([str(network.network_address) for network in host.addresses])
        return Counters.read(host)

    def _reckon(self, *, at_end: bool = False) -> None:
        wall_ns = self._clock.now_ns()
        if self._reckoning is None or not (at_end or self._reckoning.due(wall_ns)):
            return
        told = self._reckoning.close(self._read_counters(), wall_ns, self._clock.monotonic_ns())
        self._accounts.reconcile(told)
        _LOG.info("rows_beside_interfaces", **told.as_dict())

    def _watch_traffic(
        self, programs: Programs, epochs: Epochs, stop: threading.Event
    ) -> Generator[FlowBatch, None, int]:
        """Count until ``stop``, or until a program is found taken off; gives when all of them were last in place."""
        interval_ns = self._how.interval_ns
        done = self._clock.now_ns() // interval_ns
        told_ns, pause_s, before = 0, _TICK_S, 0.0
        sure_ns = self._clock.monotonic_ns()
        while not stop.is_set():
            looked_ns, now_ns = self._clock.monotonic_ns(), self._clock.now_ns()
            if fallen := programs.fallen():
                _LOG.error(
                    "programs_taken_off",
                    programs=list(fallen),
                    advice="another tool did, or their group is gone",
                )
                break
            sure_ns = looked_ns
            self._owning.look(looked_ns)
            fill = epochs.fill()
            pause_s = _SOON_S if epochs.pending is not None or fill - before > _FAST else _TICK_S
            before = fill
            self._settle_if_durable(epochs)
            if epochs.pending is None and (now_ns // interval_ns != done or fill >= _FULL):
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
        self._counters, self._exchanged_ns = self._read_counters(), self._clock.monotonic_ns()
        self._reckon()
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
            _LOG.error("kernel_counts_differ", octets=epochs.unread())
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
                _LOG.warning("epoch_not_settled", advice="it is read again at the next start, if pinned")
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
        batch = self._without_loopback(batch, inside)
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
        if self._watch.changed():
            self._look()
        times = rows.Times(self._clock.now_ns(), self._clock.monotonic_ns())
        parts, inside = [], np.zeros(0, bool)
        if len(drained.keys):
            flows = merge(drained.keys, drained.values, self._hasher)
            inside = flows.owner["ifindex"] == _LOOPBACK_INDEX
            self._reckon_in(flows, late)
            parts.append(
                rows.batch(
                    flows,
                    self._known.take(flows),
                    times=times,
                    vantage=self._vantage,
                    interface=self._interface(flows),
                    owners=self._owning.columns(flows, times.boot_ns),
                    forced=forced,
                )
            )
        if any(drained.over.values()):
            parts.append(self._overflow(drained, times))
            self._add(Rows(drained.over["octets_out"], drained.over["octets_in"]), late)
            inside = np.append(inside, False)
        self._ended_ns = times.boot_ns
        return concat(parts), inside

    def _reckon_in(self, flows: Flows, late: bool) -> None:
        """Take up what passed the uplinks. The kernel's own packets have no namespace: their address tells."""
        netns, ifindex = flows.owner["netns"], flows.owner["ifindex"]
        here = netns == self._netns
        unsaid = (netns == 0) | (self._netns == 0)
        if unsaid.any():
            by_address = [(flows.local == address).all(axis=1) for address in self._addresses]
            here = np.where(unsaid, np.any(by_address, axis=0) if by_address else False, here)
        own = here & np.isin(ifindex, list(self._outward))
        others = ~here & (ifindex != _LOOPBACK_INDEX)

        def total(name: str, rows_: NDArray[np.bool_]) -> int:
            return int(flows.sums[name][rows_].sum())

        apart = ("octets_out", "octets_in", "packets_out", "packets_in")
        self._add(
            Rows(total("octets_out", own), total("octets_in", own), *(total(name, others) for name in apart)),
            late,
        )

    def _add(self, passed: Rows, late: bool) -> None:
        if self._reckoning is not None:
            self._reckoning.add(passed)
        if late:
            self._since.add(passed)

    def _overflow(self, drained: Drained, times: rows.Times) -> FlowBatch:
        start_ns, end_ns = times.wall(np.array([self._ended_ns, times.boot_ns])).tolist()
        # A row never spans a full minute, however long nobody read.
        start_ns = max(start_ns, end_ns - MINUTE_NS + 1)
        batch = rows.overflow(drained.over, start_ns=start_ns, end_ns=end_ns, vantage=self._vantage)
        self._stage.overflowed += batch.amounts()
        _LOG.warning(
            "map_overflowed",
            octets_out=drained.over["octets_out"],
            octets_in=drained.over["octets_in"],
            advice="raise ebpf.map_flows or lower ebpf.interval",
        )
        return batch

    def _interface(self, flows: Flows) -> Text:
        """Names where the socket is in our own network namespace; an index means nothing elsewhere."""
        here = flows.owner["netns"] == self._netns if self._netns else np.zeros(len(flows), bool)
        indexes, which = np.unique(flows.owner["ifindex"], return_inverse=True)
        names = [self._names.get(index) for index in indexes.tolist()]
        values = tuple(dict.fromkeys(name for name in names if name))
        codes = np.array([values.index(name) if name else -1 for name in names], np.int32)
        return Text(np.where(here, codes[which], -1).astype(np.int32), values)

    def _look(self) -> None:
        self._names = {i.index: i.name for i in self._watch.read().interfaces.values()}
        self._names.setdefault(_LOOPBACK_INDEX, "lo")

    def _account(self, drained: Amounts | None = None) -> None:
        """Tell the account what the kernel has counted and still holds, and what was read from it just now."""
        self._handed += drained or Amounts()
        left = Amounts(0, *(sum(each) for each in zip(*(e.unread() for e in self._sets), strict=True)))
        counted = left + self._handed
        self._accounts.drain(counted - self._counted, left, drained=drained or Amounts(), held_in=_HELD)
        self._counted = counted

    def _without_loopback(self, batch: FlowBatch, inside: NDArray[np.bool_]) -> FlowBatch:
        if self._how.loopback or not inside.any():
            return batch
        self._accounts.exclude("loopback", batch.take(inside), held_in=_HELD)
        return batch.take(~inside)


def _netns_cookie() -> int:
    """The cookie of this thread's network namespace; 0 where the kernel does not tell (before 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            return int(struct.unpack("=Q", asked.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])
        except OSError:
            return 0
