"""What virtual machines and pods behind this host's interfaces send: traffic that is only forwarded here.

Programs on each tap or veth (``collectors/bpf/tc.bpf.c``) count what comes in from the guest and what leaves to it. A row's
local end is the guest's. Off until the settings say which interfaces, on which legal basis, and who approved it: other
people's communications may be among it (docs/privacy.md). What is counted, and how never twice: docs/capture.md.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self, cast

from pydantic import AfterValidator, Field

from agent.core.clock import when
from agent.core.errors import CaptureError, ConfigError, Fault
from agent.core.flow import FlowBatch
from agent.core.log import Log
from agent.core.stages import Collector, Context
from collectors.bpf.atguests import AtGuests
from collectors.bpf.counting import How
from collectors.bpf.gaps import Diary
from collectors.bpf.hooks import Way, has_tcx
from collectors.bpf.kept import Kept, KeptSettings
from collectors.bpf.ondevices import OnDevices, Wish
from collectors.bpf.programs import taken_over
from collectors.bpf.refusal import require_libbpf
from collectors.host.interfaces import Host, HostWatch, Interface
from collectors.host.processes import may_see_others

_LOG: Final = Log(part="tc")
_TICK_S: Final = 0.2
"""How soon an interface that appears is watched."""
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


class Settings(KeptSettings):
    """Count what virtual machines and pods send through this host (needs a legal basis and an approval; root)."""

    needs: ClassVar[frozenset[str]] = frozenset({"cap_bpf", "cap_net_admin"})
    tier = "tc"
    rights = "CAP_BPF and CAP_NET_ADMIN"
    kernel = "Linux 5.8 or newer with CONFIG_NET_CLS_BPF or, from 6.6, CONFIG_NET_XGRESS"

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
    attach: Literal["auto", "tcx", "clsact"] = Field(
        "auto",
        description="Hook of the interfaces: tcx where the kernel has it (6.6), else a clsact filter",
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
            self.load("tc")
            self.way()
        except CaptureError as error:
            return str(error)
        except OSError as error:
            return str(self.plain(error))
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
        if told := self.without_pins():
            out.append(told)
        return tuple(out)

    def ending(self) -> Self:
        """See :class:`KeptSettings`: what was counted was allowed then, so that nobody need allow it again."""
        return cast(Self, _Ending(**self.model_dump()))

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


class _Ending(Settings):
    """Settings under which nothing is watched any more."""

    def build(self, context: Context) -> Collector:
        """The collector."""
        return Tc(self, context)

    def chosen(self, host: Host) -> Iterator[tuple[Interface, str]]:
        """None."""
        return iter(())


class Tc(Kept):
    """The collector. Interfaces are those of the network namespace of the thread that runs ``collect``."""

    name = "tc"
    not_seen: tuple[str, ...] = ("other_interfaces", "in_guests", "bypass", "before_start")

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._settings = settings

    def scope(self) -> Mapping[str, str]:
        """See :class:`agent.core.stages.Scoped`."""
        return {f"tc_scope/{self._settings.instance}": self._settings.scope()}

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Rows every ``interval``, and a batch at least once a second, until ``stop``; then all that is left.

        Raises :class:`CaptureError` where the kernel or its rights do not allow it.
        """
        require_libbpf(self._settings.libbpf, self.name)
        diary = Diary(self._context.state_dir / f"tc-{self._settings.instance}.json", self.name)
        put_back = False
        while (yield from self._count(stop, diary, put_back)):
            put_back = True

    def _count(self, stop: threading.Event, diary: Diary, put_back: bool) -> Generator[FlowBatch, None, bool]:
        """Count until ``stop``, or until somebody else took a program off an interface: gives whether it was that."""
        settings = self._settings
        with ExitStack() as held:
            pins = settings.open_pins(held)
            self.pinned = pins is not None
            try:
                way = settings.way()
                scope = f"{settings.scope()} {_netns()}"
                wish = Wish(settings.map_flows, settings.own_sockets == "count", way, scope)
                programs, older = held.enter_context(
                    taken_over(
                        pins, OnDevices.adopt, lambda p: p.fits(wish), lambda: OnDevices.make(wish, pins)
                    )
                )
            except OSError as error:
                raise settings.plain(error) from error
            watch = held.enter_context(HostWatch())
            _LOG.info(
                "programs_put_back" if put_back else "capture_started",
                tier="tc",
                attach=way.value,
                pinned=pins is not None,
                scope=json.loads(settings.scope()),
            )
            how = How(reader=f"tc/{settings.instance}", look_s=_TICK_S)
            counting = AtGuests(self, how, self._context, programs, way, watch, diary, settings.chosen)
            try:
                return (yield from counting.run(stop, programs, older, self._position))
            except PermissionError as error:
                raise settings.plain(error) from error


def _netns() -> int:
    """What tells the calling thread's network namespace from others while it lives: its inode."""
    return Path("/proc/thread-self/ns/net").stat().st_ino
