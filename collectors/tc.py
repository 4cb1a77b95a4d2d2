"""What virtual machines and pods behind this host's interfaces send: traffic that is only forwarded here.

Programs on each tap or veth (``collectors/bpf/tc.bpf.c``) count what comes in from the guest and what leaves to it. A row's
local end is the guest's. Off until the settings say which interfaces, on which legal basis, and who approved it: other
people's communications may be among it (docs/privacy.md). What is counted, and how never twice: docs/capture.md.
"""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from agent.core.accounts import Amounts
from agent.core.clock import SECOND_NS, when
from agent.core.errors import CaptureError, ConfigError, Fault
from agent.core.flow import FlowBatch
from agent.core.stages import Collector, CollectorSettings, Context
from collectors.bpf import forwarded, libbpf, rows
from collectors.bpf.epochs import Drained
from collectors.bpf.hooks import Way, has_tcx
from collectors.bpf.known import Known
from collectors.bpf.ondevices import OnDevices, Wish
from collectors.bpf.pins import Pins
from collectors.bpf.programs import image, taken_over
from collectors.bpf.reading import Pace, Reading
from collectors.bpf.refused import plain, require_libbpf
from collectors.flowtable.table import KeyHash
from collectors.host.guests import Guest, Guests
from collectors.host.interfaces import Host, HostWatch, Interface, passed
from collectors.host.processes import may_see_others

_LOG: Final = structlog.get_logger("tc")
_TICK_S: Final = 0.2
"""How soon an interface that appears is watched."""
_MOST_TOLD: Final = 1000
_MOST_PATIENCE_NS: Final = 300 * SECOND_NS
_GUEST_KINDS: Final = ("tun", "veth", "netkit")
_SHARED_KINDS: Final = ("veth", "netkit")
"""Their other end is in this kernel, and so are the sockets behind it."""
_NOT_YET: Final = (
    "tc counts traffic of virtual machines and pods, which may be other people's communications (secrecy of "
    "communications: Japan's Telecommunications Business Act, art. 4; in the EU Directive 2002/58/EC, art. 5). "
    "So it is off until its settings say what was allowed, why and by whom; missing: "
)
_ADVICE: Final = "docs/privacy.md says what to settle first"


def _stripped(text: str) -> str:
    return " ".join(text.split())


_Line = Annotated[str, AfterValidator(_stripped)]


class Settings(CollectorSettings):
    """Count what virtual machines and pods send through this host (needs a legal basis and an approval; root)."""

    needs: ClassVar[frozenset[str]] = frozenset({"cap_bpf", "cap_net_admin"})

    interfaces: tuple[_Line, ...] = Field(
        (),
        max_length=64,
        description="Names or patterns (vnet*) of taps and veths that may be watched; a bridge stands for those at its ports",
    )
    legal_basis: _Line = Field(
        "", max_length=300, description="Why this traffic may be counted, in your own words"
    )
    approved_by: _Line = Field("", max_length=100, description="The person who allowed it")
    approved_on: date | None = Field(None, description="Day on which it was allowed, such as 2026-04-01")
    own_sockets: Literal["leave", "count"] = Field(
        "leave",
        description="Traffic of this kernel's own sockets, in whatever container: left to ebpf, or (where ebpf does not run) counted here",
    )
    interval: int = Field(10, ge=1, le=60, description="Seconds between two readings; divides the minute")
    map_flows: int = Field(
        131_072, ge=1024, le=4_194_304, description="Flows that one reading may hold, as in ebpf"
    )
    attach: Literal["auto", "tcx", "clsact"] = Field(
        "auto",
        description="Hook of the interfaces: tcx where the kernel has it (6.6), else a clsact filter",
    )
    pin: bool = Field(
        True, description="Keep counting in the kernel if this program is killed, until it starts again"
    )
    pin_dir: Path = Field(
        Path("/sys/fs/bpf/sekisho"), description="Folder in a BPF file system in which that is kept"
    )
    instance: str = Field(
        "guests",
        pattern="^[a-z0-9_-]+$",
        description="Name below pin_dir; each such collector of a host needs its own",
    )

    def build(self, context: Context) -> Collector:
        """The collector; opens nothing yet. Raises :class:`ConfigError` where scope, basis or approval are missing."""
        if lacking := self.not_yet(when(context.clock.now_ns()).date()):
            raise ConfigError(Fault("collectors.tc", 0, lacking, _ADVICE))
        return Tc(self, context)

    def not_yet(self, today: date) -> str:
        """Why it may not run yet; empty if scope, legal basis and approval are there."""
        asked = ("interfaces", "legal_basis", "approved_by", "approved_on")
        missing = [name for name in asked if not getattr(self, name)]
        if missing:
            return _NOT_YET + ", ".join(missing)
        if self.approved_on is not None and self.approved_on > today:
            return f"tc was approved for {self.approved_on}, which has not come yet"
        return ""

    def scope(self) -> str:
        """What was allowed, as one line of JSON."""
        names = {"interfaces", "own_sockets", "legal_basis", "approved_by", "approved_on"}
        return json.dumps(self.model_dump(mode="json", include=names), sort_keys=True, ensure_ascii=False)

    def hindrance(self) -> str:
        """Why it cannot run here: by its settings, or found by loading the programs."""
        if lacking := self.not_yet(date.max):
            return f"{lacking} ({_ADVICE})"
        try:
            require_libbpf()
            try:
                libbpf.Object(image("tc")).close()
                self.way()
            except OSError as error:
                raise _plain(error) from error
        except CaptureError as error:
            return str(error)
        return ""

    def shortcomings(self) -> tuple[str, ...]:
        """What it would do without here. Only where it can run at all."""
        out = []
        with HostWatch() as watch:
            if not any(self.chosen(watch.read())):
                out.append(
                    f"no tap or veth here is named by {', '.join(self.interfaces)} now; those that appear are watched"
                )
        if self.way() is Way.CLSACT:
            out.append(
                "programs go into filters of a clsact qdisc (the kernel has no tcx, which Linux 6.6 brought, or settings "
                "ask for it): an agent that is killed leaves them there, until it starts again or `tc qdisc del` undoes them"
            )
        if not may_see_others():
            out.append(
                "other users' processes cannot be seen (CAP_SYS_PTRACE), so pods, and machines without libvirt, have no name"
            )
        if self.pin:
            try:
                Pins.open(self.pin_dir / self.instance).close()
            except (OSError, CaptureError) as error:
                out.append(f"counts do not survive a crash of the agent: {error}")
        return tuple(out)

    def way(self) -> Way:
        """How programs are put on interfaces here. Raises ``OSError``."""
        if self.attach != "auto":
            return Way(self.attach)
        return Way.TCX if has_tcx() else Way.CLSACT

    def chosen(self, host: Host) -> Iterator[tuple[Interface, str]]:
        """(interface that the scope names, why it is not watched all the same; empty if it is)."""
        for interface in host.interfaces.values():
            master = host.interfaces.get(interface.master)
            by_bridge = master is not None and master.kind == "bridge" and self._names(master)
            if self._names(interface) and interface.kind not in (*_GUEST_KINDS, "bridge"):
                if interface.name in self.interfaces:
                    yield interface, "it leads to no guest: taps, veths and bridges of them are watched"
            elif interface.kind in _GUEST_KINDS and (by_bridge or self._names(interface)):
                left = self.own_sockets == "leave" and interface.kind in _SHARED_KINDS
                why = (
                    "its other end is in this kernel, whose sockets tier ebpf counts; set tc.own_sockets: count where "
                    "ebpf does not run"
                )
                yield interface, why if left else ""

    def _names(self, interface: Interface) -> bool:
        return any(fnmatchcase(interface.name, pattern) for pattern in self.interfaces)


class Tc:
    """The collector. Interfaces are those of the network namespace of the thread that runs ``collect``."""

    name = "tc"
    live = True
    not_seen: tuple[str, ...] = ("other_interfaces", "in_guests", "bypass", "before_start")

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._position = ""
        self._settled = ""
        self.durable = False
        """Whether somebody tells when rows are durable; else they are whoever's who took them."""
        self.overflowed = Amounts()
        """What had no room in the map, in this run."""

    def progress(self) -> None:
        """None: there is no end."""
        return

    def scope(self) -> Mapping[str, str]:
        """See :class:`agent.core.stages.Scoped`."""
        return {f"tc_scope/{self._settings.instance}": self._settings.scope()}

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
        require_libbpf()
        with ExitStack() as held:
            pins = self._open_pins(held)
            try:
                way = settings.way()
                wish = Wish(
                    settings.map_flows, settings.own_sockets == "count", way, f"{settings.scope()} {_netns()}"
                )
                programs, older = held.enter_context(
                    taken_over(
                        pins, OnDevices.adopt, lambda p: p.fits(wish), lambda: OnDevices.make(wish, pins)
                    )
                )
            except OSError as error:
                raise _plain(error) from error
            watch = held.enter_context(HostWatch())
            capture = _Capture(self, settings, self._context, programs, way, watch)
            _LOG.info(
                "capture_started",
                tier="tc",
                attach=way.value,
                pinned=pins is not None,
                scope=json.loads(settings.scope()),
            )
            yield from capture.run(stop, programs, older, self._position)

    def _open_pins(self, held: ExitStack) -> Pins | None:
        settings = self._settings
        if not settings.pin:
            return None
        try:
            pins = Pins.open(settings.pin_dir / settings.instance)
        except OSError as error:
            _LOG.warning(
                "maps_not_pinned",
                reason=str(error),
                cost="what is counted and not read is lost if the agent is killed",
            )
            return None
        held.callback(pins.close)
        return pins


class _Capture(Reading):
    """One run of the collector over programs at work."""

    def __init__(
        self,
        stage: Tc,
        settings: Settings,
        context: Context,
        programs: OnDevices,
        way: Way,
        watch: HostWatch,
    ) -> None:
        pace = Pace(settings.interval, False, "tc", f"tc/{settings.instance}", _TICK_S, SECOND_NS)
        super().__init__(stage, pace, context, "tc")
        self._settings, self._programs, self._way, self._watch = settings, programs, way, watch
        self._names: dict[int, str] = {}
        self._guests: dict[int, Guest] = {}
        self._who = Guests()
        self._watched: dict[int, Interface] = {}
        self._asked_ns, self._patience_ns = 0, 0
        self._told: set[str] = set()
        self._hasher, self._known = KeyHash(), Known()
        self._is_first_look = True
        self.chores()

    def chores(self) -> None:
        """Take up interfaces that appeared, let go of those that are gone."""
        if self._is_first_look or self._watch.changed():
            self._look()
            self._is_first_look = False

    def _look(self) -> None:
        host = self._watch.read()
        wanted: dict[int, Interface] = {}
        for interface, why_not in self._settings.chosen(host):
            if why_not:
                self._tell("interface_not_watched", why_not, interface=interface.name, reason=why_not)
            else:
                wanted[interface.index] = interface
        for index in self._programs.watched - wanted.keys():
            self._programs.unwatch(index)
            reason = "the scope does not name it" if index in host.interfaces else "it is gone"
            _LOG.info("interface_released", interface=self._names.get(index, str(index)), reason=reason)
        self._watched = wanted
        self._names |= {index: interface.name for index, interface in wanted.items()}
        fresh = wanted.keys() - self._programs.watched
        for index in fresh:
            self._take_up(wanted[index])
        self._ask_who(now=bool(fresh) or self._is_first_look)

    def _take_up(self, interface: Interface) -> None:
        try:
            self._programs.watch(interface, self._way)
        except OSError as error:
            self._programs.unwatch(interface.index)
            if error.errno in (errno.EPERM, errno.EACCES):
                raise _plain(error) from error
            if error.errno != errno.ENODEV:
                self._tell(
                    "interface_not_watched",
                    interface.name,
                    interface=interface.name,
                    reason=f"{error}; another tool's filter may be in the place of ours (tc filter show dev …)",
                )
            return
        missed = passed(interface.index) if not self._is_first_look else None
        frames = missed.packets_in + missed.packets_out if missed else 0
        if missed and frames:
            # At most so many: some may have been counted already.
            self._accounts.lose_frames("before_watched", frames, missed.octets_in + missed.octets_out)
        _LOG.info("interface_watched", interface=interface.name, frames_before=frames)

    def _ask_who(self, *, now: bool = False) -> None:
        """Ask who is behind interfaces of which that is not known; less and less often, for it costs a look at every process."""
        unknown = [i for i in self._watched.values() if not self._guests.get(i.index, Guest()).known]
        if now:
            self._patience_ns = 0
        if unknown and (now or self._clock.monotonic_ns() - self._asked_ns >= self._patience_ns):
            self._guests |= self._who.of(unknown)
            self._asked_ns = self._clock.monotonic_ns()
            self._patience_ns = min(2 * self._patience_ns + SECOND_NS, _MOST_PATIENCE_NS)

    def _tell(self, event: str, fact: str, **detail: str) -> None:
        """Warn once of each fact: many interfaces may share one."""
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        if f"{event} {fact}" not in self._told:
            self._told.add(f"{event} {fact}")
            _LOG.warning(event, **detail)

    def _look_for_others(self) -> None:
        for index, interface in self._watched.items():
            if names := self._programs.before(index):
                self._tell(
                    "programs_before_ours",
                    f"{index} {names}",
                    interface=interface.name,
                    programs=", ".join(names),
                    cost="what they drop or redirect is not counted; start the agent after that tool",
                )

    def capture(
        self, drained: Drained, times: rows.Times, *, forced: bool
    ) -> tuple[FlowBatch, NDArray[np.bool_]]:
        """See :class:`Reading`."""
        self._look_for_others()
        self._ask_who()
        flows = forwarded.flows(drained.keys, drained.values, self._hasher)
        batch = rows.batch(
            flows,
            self._known.take(flows),
            times=times,
            vantage="tc",
            interface=forwarded.named(flows, self._names),
            owners=forwarded.owners(flows, self._guests),
            forced=forced,
        ).with_columns(vantage=forwarded.named(flows, self._names, "tc:"))
        self._forget()
        return batch, np.zeros(len(batch), bool)

    def _forget(self) -> None:
        """Interfaces that are gone, once their last rows are out."""
        for index in self._names.keys() - self._watched.keys():
            del self._names[index]
            self._guests.pop(index, None)


def _netns() -> int:
    """What tells the calling thread's network namespace from others while it lives: its inode."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


def _plain(error: OSError) -> CaptureError:
    return plain(
        error,
        collector="tc",
        rights="CAP_BPF and CAP_NET_ADMIN",
        kernel="Linux 5.8 or newer with CONFIG_NET_CLS_BPF or, from 6.6, CONFIG_NET_XGRESS",
    )
