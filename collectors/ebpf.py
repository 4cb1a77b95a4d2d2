"""Host capture in the kernel: what every process and container of this host sends and receives, exactly and by whom.

Programs at the root control group count each packet at its socket (``collectors/bpf/flow.bpf.c``); here their maps are
read every ``interval``, and become rows. Nothing is done per packet outside the kernel. What was counted survives this
process, pinned in the BPF file system: see docs/capture.md.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import Field

from agent.core.accounts import Accounts, Amounts
from agent.core.clock import MINUTE_NS, SECOND_NS, Clock
from agent.core.errors import CaptureError
from agent.core.flow import BatchHeader, FlowBatch, Text, concat
from agent.core.stages import Collector, CollectorSettings, Context
from collectors.bpf import libbpf, rows
from collectors.bpf.epochs import Drained, Epochs
from collectors.bpf.known import Known
from collectors.bpf.merge import Flows, merge
from collectors.bpf.owning import Owning
from collectors.bpf.pins import LINK, Pins
from collectors.bpf.programs import POLITE, Programs, Wish, at_work, back_fill, hooks_for, image
from collectors.bpf.roots import Root, watched
from collectors.flowtable.table import KeyHash
from collectors.host.cgroups import Groups
from collectors.host.interfaces import HostWatch

_LOG: Final = structlog.get_logger("ebpf")
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


class Settings(CollectorSettings):
    """Count in the kernel, with the process of every flow (needs root or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)."""

    needs: ClassVar[frozenset[str]] = frozenset({"cap_bpf", "cap_net_admin", "cap_perfmon"})

    cgroup: Path | None = Field(
        None,
        description="Folder of the control group (version 2) to watch, with all below it; none is the whole host",
    )
    interval: int = Field(
        10,
        ge=1,
        le=60,
        description="Seconds between two readings, and so the longest a row is; divides the minute",
    )
    map_flows: int = Field(
        131_072,
        ge=1024,
        le=4_194_304,
        description="Flows that one reading may hold (200 octets each when used, twice); what has no room is summed in one row",
    )
    loopback: bool = Field(False, description="Also keep traffic within the host (interface lo)")
    pin: bool = Field(
        True, description="Keep counting in the kernel if this program is killed, until it starts again"
    )
    pin_dir: Path = Field(
        Path("/sys/fs/bpf/sekisho"), description="Folder in a BPF file system in which that is kept"
    )
    instance: str = Field(
        "agent", pattern="^[a-z0-9_-]+$", description="Name below pin_dir; each agent of a host needs its own"
    )
    libbpf: Path | None = Field(
        None,
        description="File of libbpf.so.1; none is the one in the package, if it has one, else the system's",
    )
    keep_on_stop: bool = Field(
        False, description="Keep counting after an orderly stop too, for a restart that misses nothing"
    )

    def build(self, context: Context) -> Collector:
        """The collector; opens nothing yet."""
        return Ebpf(self, context)

    def hindrance(self) -> str:
        """Why it cannot run here; found by loading the programs."""
        try:
            with watched(self.cgroup):
                _require_libbpf(self.libbpf)
                try:
                    libbpf.Object(image("flow")).close()
                except OSError as error:
                    raise _plain(error) from error
        except CaptureError as error:
            return str(error)
        return ""

    def shortcomings(self) -> tuple[str, ...]:
        """What it would do without here. Only where it can run at all."""
        out = []
        with watched(self.cgroup) as root:
            if hooks_for(root.folder, _pinned_hooks(self.pin_dir / self.instance))[1]:
                out.append(
                    "another tool's programs stand on this host's connect and sendmsg hooks, so ours are left out: a "
                    "socket that one process makes and another uses is shown with the first"
                )
        if not Path("/sys/kernel/btf/vmlinux").exists():
            out.append(
                "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF), so sockets older than the agent have no process"
            )
        if self.pin:
            try:
                Pins.open(self.pin_dir / self.instance).close()
            except (OSError, CaptureError) as error:
                out.append(f"counts do not survive a crash of the agent: {error}")
        return tuple(out)


class Ebpf:
    """The collector. Interface names are those of the network namespace of the thread that runs ``collect``."""

    name = "ebpf"
    live = True
    not_seen: tuple[str, ...] = ("forwarded", "raw_frames", "bypass", "local_sockets", "before_start")

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._position = ""
        self._settled = ""
        self.durable = False
        """Whether somebody tells when rows are durable; else they are whoever's who took them."""
        self.overflowed = Amounts()
        """What had no room in the map, in this run."""
        self.pinned = False

    def progress(self) -> None:
        """None: there is no end."""
        return

    def resume(self, position: str) -> None:
        """See :class:`agent.core.stages.Keeping`."""
        self._position, self.durable = position, True

    def settled(self, position: str) -> None:
        """See :class:`agent.core.stages.Keeping`."""
        self._settled = position

    def is_settled(self, position: str) -> bool:
        """Whether rows of that position need not be kept any longer."""
        return not self.durable or self._settled == position

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Rows every ``interval``, and a batch at least once a second, until ``stop``; then all that is left.

        Raises :class:`CaptureError` where the kernel or its rights do not allow it.
        """
        settings = self._settings
        _require_libbpf(settings.libbpf)
        with ExitStack() as held:
            root = held.enter_context(watched(settings.cgroup))
            pins = self._open_pins(held)
            try:
                hooks, left_out = hooks_for(root.folder, _pinned_hooks(settings.pin_dir / settings.instance))
                wish = Wish(root.folder, settings.map_flows, hooks)
                programs, older = held.enter_context(at_work(wish, pins))
            except OSError as error:
                raise _plain(error) from error
            if left_out:
                _LOG.warning(
                    "hooks_left_out", hooks=list(left_out), reason="another tool's programs are there"
                )
            back_filled = _back_filled(programs)
            watch = held.enter_context(HostWatch())
            _LOG.info("capture_started", tier="ebpf", cgroup=root.name, pinned=pins is not None)
            capture = _Capture(self, settings, self._context, root, back_filled, watch)
            yield from capture.run(stop, programs, older, self._position)

    def _open_pins(self, held: ExitStack) -> Pins | None:
        settings = self._settings
        if not settings.pin:
            return None
        try:
            pins = Pins.open(settings.pin_dir / settings.instance)
        except OSError as error:
            folder = settings.pin_dir / settings.instance
            _LOG.warning(
                "maps_not_pinned",
                reason=str(error)
                if error.errno is None
                else f"{folder}: {error.strerror}; another user's agent may have made it (sekisho agent --detach, as that user)",
                cost="what is counted and not read is lost if the agent is killed",
            )
            return None
        held.callback(pins.close)
        self.pinned = True
        return pins


class _Capture:
    """One run of the collector over programs at work."""

    def __init__(
        self,
        stage: Ebpf,
        settings: Settings,
        context: Context,
        root: Root,
        back_filled: bool,
        watch: HostWatch,
    ) -> None:
        self._stage, self._settings = stage, settings
        self._accounts: Accounts = context.accounts
        self._clock: Clock = context.clock
        self._host = context.host
        self._vantage = f"ebpf:{root.name}"
        self._owning = Owning(Groups(root.mount), back_filled=back_filled)
        self._watch = watch
        self._names: dict[int, str] = {}
        self._netns = _netns_cookie()
        self._hasher, self._known = KeyHash(), Known()
        self._sets: list[Epochs] = []
        self._counted = Amounts()
        """What the kernel has counted, as last told to the account."""
        self._ended_ns = self._clock.monotonic_ns()
        """When the last epoch ended, CLOCK_BOOTTIME."""
        self._handed = Amounts()

    def run(
        self, stop: threading.Event, programs: Programs, older: Sequence[Programs], position: str
    ) -> Iterator[FlowBatch]:
        """See ``Ebpf.collect``."""
        self._look()
        for one in (programs, *older):
            epochs = Epochs(one)
            epochs.resume(position)
            self._sets.append(epochs)
        self._account()
        for one, epochs in zip(older, self._sets[1:], strict=True):
            yield from self._read_out(one, epochs)
        epochs = self._sets[0]
        if epochs.pending is not None:
            yield from self._hand_out(epochs, epochs.pending, forced=False)
        yield from self._watch_traffic(epochs, stop)
        if self._settings.keep_on_stop and programs.folder is not None:
            yield from self._last(epochs, forced=False)
        else:
            yield from self._read_out(programs, epochs)
        self._account()

    def _watch_traffic(self, epochs: Epochs, stop: threading.Event) -> Iterator[FlowBatch]:
        interval_ns = self._settings.interval * SECOND_NS
        done = self._clock.now_ns() // interval_ns
        told_ns, pause_s, before = 0, _TICK_S, 0.0
        while not stop.is_set():
            now_ns = self._clock.now_ns()
            fill = epochs.fill()
            pause_s = _SOON_S if epochs.pending is not None or fill - before > _FAST else _TICK_S
            before = fill
            if epochs.pending is not None and self._stage.is_settled(epochs.position(epochs.pending.number)):
                epochs.settle()
            if epochs.pending is None and (now_ns // interval_ns != done or fill >= _FULL):
                done, before = now_ns // interval_ns, 0.0
                yield from self._hand_out(epochs, epochs.swap(), forced=False)
            elif self._clock.monotonic_ns() - told_ns >= _TICK_S * SECOND_NS:
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
            _LOG.error("kernel_counts_differ", octets=epochs.unread())

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
                _LOG.warning("epoch_not_settled", advice="it is read again at the next start, if pinned")
                return False
            pause.wait(_SOON_S / 5)
            yield _NO_ROWS
        return True

    def _hand_out(self, epochs: Epochs, drained: Drained, *, forced: bool) -> Iterator[FlowBatch]:
        batch, inside = self._rows(drained, forced)
        self._account(batch.amounts())
        batch = self._without_loopback(batch, inside)
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
        """An epoch's rows, and which of them stayed within the host."""
        if self._watch.changed():
            self._look()
        times = rows.Times(self._clock.now_ns(), self._clock.monotonic_ns())
        parts, inside = [], np.zeros(0, bool)
        if len(drained.keys):
            flows = merge(drained.keys, drained.values, self._hasher)
            inside = flows.owner["ifindex"] == _LOOPBACK_INDEX
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
            inside = np.append(inside, False)
        self._ended_ns = times.boot_ns
        return concat(parts), inside

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
        if self._settings.loopback or not inside.any():
            return batch
        self._accounts.exclude("loopback", batch.take(inside), held_in=_HELD)
        return batch.take(~inside)


def _require_libbpf(named: Path | None) -> None:
    libbpf.use(named)
    if not (lacking := libbpf.missing()):
        return
    advice = (
        "correct or leave out ebpf.libbpf"
        if named
        else "install it (Debian, Ubuntu 24.04: libbpf1; Fedora, RHEL 9: libbpf), version 1.0 or newer; for hosts that "
        "have none (Ubuntu 22.04, RHEL 8) build the package with `make libbpf wheel`, or name a file (ebpf.libbpf)"
    )
    raise CaptureError(f"libbpf cannot be used: {lacking}. To mend it: {advice}")


def _plain(error: OSError) -> CaptureError:
    """What a refusal of the kernel means."""
    if error.errno in (errno.EPERM, errno.EACCES):
        advice = (
            "run as root (sudo), or give the service CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON "
            "(AmbientCapabilities in its unit); a user namespace or lockdown may forbid it altogether"
        )
    elif error.errno in (errno.ENOMEM, errno.E2BIG):
        advice = "the maps have no room: lower ebpf.map_flows, or raise the service's MemoryMax (or RLIMIT_MEMLOCK)"
    else:
        advice = "this kernel lacks a part: Linux 5.11 or newer with CONFIG_CGROUP_BPF has all of them"
    return CaptureError(f"the kernel did not take the eBPF programs: {error.strerror}; {advice}")


def _pinned_hooks(folder: Path) -> dict[str, int]:
    """How many programs of our own stand on each hook that other tools use too, kept from an earlier run."""
    try:
        return {name: len(list(folder.glob(f"*/{LINK}{name}"))) for name in POLITE}
    except PermissionError:
        return dict.fromkeys(POLITE, 0)  # another user's folder: nothing in it is ours to take over


def _back_filled(programs: Programs) -> bool:
    """Stamp the sockets that are older than the programs; whether that could be done."""
    try:
        stamped = back_fill(programs.maps["sekisho_owners"])
    except OSError as error:
        _LOG.warning("older_sockets_unattributed", reason=error.strerror)
        return False
    _LOG.info("older_sockets_stamped", sockets=stamped)
    return True


def _netns_cookie() -> int:
    """The cookie of this thread's network namespace; 0 where the kernel does not tell (before 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            return int(struct.unpack("=Q", asked.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])
        except OSError:
            return 0
