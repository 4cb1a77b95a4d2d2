"""Host capture in the kernel: what every process and container of this host sends and receives, exactly and by whom.

Programs at the root control group count each packet at its socket (``collectors/bpf/flow.bpf.c``); here their maps are
read every ``interval``, and become rows. Nothing is done per packet outside the kernel. What was counted survives this
process, pinned in the BPF file system: see docs/capture.md.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import Field

from agent.core.accounts import Amounts
from agent.core.clock import SECOND_NS
from agent.core.errors import CaptureError
from agent.core.flow import FlowBatch, Text
from agent.core.stages import Collector, CollectorSettings, Context
from collectors.bpf import libbpf, rows
from collectors.bpf.epochs import Drained
from collectors.bpf.known import Known
from collectors.bpf.merge import Flows, merge
from collectors.bpf.owning import Owning
from collectors.bpf.pins import LINK, Pins
from collectors.bpf.programs import POLITE, Programs, Wish, at_work, back_fill, hooks_for, image
from collectors.bpf.reading import HELD, Pace, Reading
from collectors.bpf.refused import plain
from collectors.bpf.roots import Root, watched
from collectors.flowtable.table import KeyHash
from collectors.host.cgroups import Groups
from collectors.host.interfaces import HostWatch

_LOG: Final = structlog.get_logger("ebpf")
_LOOPBACK_INDEX: Final = 1
"""``lo`` has this index in every network namespace (LOOPBACK_IFINDEX, include/net/flow.h)."""
_TICK_S: Final = 0.7
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


class _Capture(Reading):
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
        vantage = f"ebpf:{root.name}"
        pace = Pace(settings.interval, settings.keep_on_stop, "ebpf", "ebpf", _TICK_S, SECOND_NS)
        super().__init__(stage, pace, context, vantage)
        self._settings = settings
        self._owning = Owning(Groups(root.mount), back_filled=back_filled)
        self._watch = watch
        self._names: dict[int, str] = {}
        self._netns = _netns_cookie()
        self._hasher, self._known = KeyHash(), Known()
        self._look()

    def capture(
        self, drained: Drained, times: rows.Times, *, forced: bool
    ) -> tuple[FlowBatch, NDArray[np.bool_]]:
        """See :class:`Reading`; what stayed within the host is left out, unless asked for."""
        if self._watch.changed():
            self._look()
        flows = merge(drained.keys, drained.values, self._hasher)
        batch = rows.batch(
            flows,
            self._known.take(flows),
            times=times,
            vantage=self._vantage,
            interface=self._interface(flows),
            owners=self._owning.columns(flows, times.boot_ns),
            forced=forced,
        )
        return batch, (flows.owner["ifindex"] == _LOOPBACK_INDEX) & (not self._settings.loopback)

    def leave_out(self, batch: FlowBatch, left_out: NDArray[np.bool_]) -> FlowBatch:
        """Count what stayed within the host as excluded."""
        self._accounts.exclude("loopback", batch.take(left_out), held_in=HELD)
        return batch.take(~left_out)

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
    return plain(
        error,
        collector="ebpf",
        rights="CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        kernel="Linux 5.11 or newer with CONFIG_CGROUP_BPF",
    )


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
