"""Host capture from the kernel's connection tracking table (ctnetlink): what its counters grew by, flow by flow.

Every ``interval`` the whole table is read; between two readings the kernel tells of each entry that leaves it, with its
last counts. What a flow grew by is handed out once, whichever comes first (:mod:`collectors.flowtable.counters`). The
kernel counts only what connection tracking sees, in this network namespace, and only while a rule of the firewall asks
for it: docs/capture.md says what that leaves out. Nothing on the host is changed: what is switched off is said.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Network, IPv6Network
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agent.core.accounts import Accounts
from agent.core.address import NetworkSet, parse
from agent.core.clock import MINUTE_NS, SECOND_NS, Clock
from agent.core.errors import CaptureError
from agent.core.flow import FlowBatch
from agent.core.log import Log
from agent.core.stages import Collector, CollectorSettings, Context
from collectors.flowtable.counters import Counters, Growth
from collectors.host.ctnetlink import Endings, Table, sysctl
from collectors.host.interfaces import HostWatch
from collectors.host.owners import Owners
from collectors.host.tracked import OFFLOADED, Tracked
from collectors.host.tracked_rows import INSIDE, MIDSTREAM, STRANGE, Here, Span, batch

_LOG: Final = Log(part="conntrack")
_NO_ROWS: Final = FlowBatch.empty()
_HELD: Final = "batches"
_TICK_S: Final = 0.2
"""How often ends are read: at 10,000 a second 2,000 wait, and 8 MiB hold some 10,000."""
_BEAT_NS: Final = SECOND_NS * 7 // 10
_REST: Final = 50
"""A reading is followed by a rest of so many times the CPU it took, but for one in every minute."""
_LOOPBACK: Final = IPv4Network("127.0.0.0/8")
_SYSCTL: Final = "net.netfilter.nf_conntrack_"


class Settings(CollectorSettings):
    """Read the kernel's connection tracking table: coarser, and only what it tracks (needs root or CAP_NET_ADMIN)."""

    needs: ClassVar[frozenset[str]] = frozenset({"cap_net_admin"})

    interval: int = Field(
        10,
        ge=1,
        le=60,
        description="Seconds between two readings of the table, and so the longest a row is; divides the minute",
    )
    loopback: bool = Field(False, description="Also keep traffic within the host (interface lo)")
    own_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Further networks that are this host's own, such as those of pods routed through it"
    )
    zones: tuple[int, ...] | Literal["all"] = Field(
        (0,),
        description="Zones of the table that count, or `all`: with Open vSwitch one packet may be tracked in several",
    )
    buffer_mib: int = Field(
        8, ge=1, le=256, description="Memory for word of connections that ended, in MiB: about 1,000 in each"
    )
    max_flows: int = Field(
        1_000_000,
        ge=1000,
        description="Entries remembered (170 octets each); what is beyond is counted when it ends, not before",
    )
    processes: bool = Field(
        True,
        description="Say which process, unit and container each row is of, from the kernel's sockets and /proc",
    )

    def build(self, context: Context) -> Collector:
        """The collector; opens nothing yet."""
        return Conntrack(self, context.accounts, context.clock)

    def hindrance(self) -> str:
        """Why it cannot run here; found by reading the table, and by looking for a datagram to itself in it."""
        try:
            with Endings(1 << 16), Table() as table:
                if sysctl("acct") != 1:
                    return _NO_COUNTERS
                if not _tracked(table) and not any(len(part) for part in table.read()):
                    return _NO_ENTRIES
        except CaptureError as error:
            return str(error)
        return ""

    def shortcomings(self) -> tuple[str, ...]:
        """What it would do without here. Only where it can run at all."""
        out = []
        if sysctl("events") == 0:
            out.append(
                f"{_SYSCTL}events is 0, so a connection that begins and ends between two readings is not counted: "
                f"sudo sysctl -w {_SYSCTL}events=1"
            )
        if sysctl("timestamp") == 0:
            out.append(
                f"{_SYSCTL}timestamp is 0, so a flow's beginning is known to {self.interval} s only: "
                f"sudo sysctl -w {_SYSCTL}timestamp=1"
            )
        with Table() as table:
            families = _tracked(table)
            if len(families) == 1:
                which = "IPv6" if "IPv4" in families else "IPv4"
                out.append(
                    f"{which} is not seen to be tracked, and what is not tracked is not counted: a rule with `ct state` "
                    "in a firewall table of the family inet or ip6 asks for it"
                )
            uncounted = sum(int(np.count_nonzero(~part.counted)) for part in table.read())
        if uncounted:
            out.append(
                f"{uncounted:,} connections are older than {_SYSCTL}acct=1 and are not counted until they begin anew"
            )
        return tuple(out)


_NO_COUNTERS: Final = (
    f"the kernel tracks connections but does not count them ({_SYSCTL}acct is 0): switch it on with "
    f"sudo sysctl -w {_SYSCTL}acct=1, and in a file of /etc/sysctl.d for the next start; it counts connections that begin "
    "from then on"
)
_NO_ENTRIES: Final = (
    "no rule of this network namespace's firewall asks for connection tracking, so nothing is tracked: a rule with "
    "`ct state` does, such as: sudo nft 'add table inet tracked; add chain inet tracked out { type filter hook output "
    "priority 0; }; add rule inet tracked out ct state new counter'"
)


class Conntrack:
    """The collector. ``collect`` works in the network namespace of the thread that runs it."""

    name = "conntrack"
    live = True

    def __init__(self, settings: Settings, accounts: Accounts, clock: Clock) -> None:
        self.not_seen: tuple[str, ...] = (
            "brief_processes" if settings.processes else "processes",
            "untracked",
            "other_namespaces",
            "bypass",
            "local_sockets",
            "before_start",
        )
        self._settings, self._accounts, self._clock = settings, accounts, clock

    def progress(self) -> None:
        """None: there is no end."""
        return

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Rows every ``interval`` and of what ended, a batch at least once a second, until ``stop``; then all that is left.

        Raises :class:`CaptureError` without permission, without the kernel's part, or where nothing is counted.
        """
        settings = self._settings
        with ExitStack() as open_here:
            endings = open_here.enter_context(Endings(settings.buffer_mib << 20))
            table = open_here.enter_context(Table())
            if sysctl("acct") != 1:
                raise CaptureError(_NO_COUNTERS)
            watch = open_here.enter_context(HostWatch())
            owners = open_here.enter_context(Owners(self._clock)) if settings.processes else None
            yield from _Capture(settings, self._accounts, self._clock, endings, table, watch, owners).run(
                stop
            )


class _Capture:
    """One run of the collector over open sockets."""

    def __init__(
        self,
        settings: Settings,
        accounts: Accounts,
        clock: Clock,
        endings: Endings,
        table: Table,
        watch: HostWatch,
        owners: Owners | None,
    ) -> None:
        self._settings, self._accounts, self._clock = settings, accounts, clock
        self._endings, self._table, self._watch, self._owners = endings, table, watch, owners
        self._fill: Callable[[FlowBatch], FlowBatch] = owners.fill if owners else lambda rows: rows
        self._counters = Counters(settings.max_flows)
        self._here = self._look_around()
        self._looked_ns = clock.monotonic_ns()
        """When the last reading of the table ended."""
        self._heard_ns = self._looked_ns
        """When word of ends was last read to its end without a loss."""
        self._cost_ns = 0
        self._seen = {"uncounted": 0, "offloaded": 0}
        """Entries of the last reading."""
        self._said: dict[str, int] = {}

    def run(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """See ``Conntrack.collect``."""
        before = self._begin()
        _LOG.info("capture_started", tier="conntrack", connections_before=before)
        yield _NO_ROWS
        interval_ns = self._settings.interval * SECOND_NS
        done, beat_ns = self._clock.now_ns() // interval_ns, self._clock.monotonic_ns()
        minute = self._clock.now_ns() // MINUTE_NS
        while not stop.is_set():
            if self._watch.changed():
                self._here = self._look_around()
            yield from self._hear()
            lost = self._lost()
            now_ns = self._clock.now_ns()
            rested = self._clock.monotonic_ns() - self._looked_ns >= self._cost_ns * _REST
            due = now_ns // interval_ns != done and (rested or now_ns // MINUTE_NS != minute)
            if due or lost:
                done, minute = now_ns // interval_ns, now_ns // MINUTE_NS
                yield from self._look(forced=False)
            if self._clock.monotonic_ns() - beat_ns >= _BEAT_NS:
                beat_ns = self._clock.monotonic_ns()
                if self._owners:
                    self._owners.traffic()
                yield _NO_ROWS
            to_grid_s = (interval_ns - self._clock.now_ns() % interval_ns) / SECOND_NS
            stop.wait(min(_TICK_S, to_grid_s + 0.001))
        yield from self._look(forced=True)
        yield from self._hear()
        self._lost()

    def _begin(self) -> int:
        """What the table counts already is no news; how many entries that were."""
        self._counters.begin()
        entries = 0
        for part in self._table.read():
            part = self._counted(part)
            entries += len(part)
            self._counters.seen(_keys(self._counters, part), part.counts, self._note(part) | MIDSTREAM)
        self._counters.finish()
        for part in self._endings.read():
            part = self._counted(part)
            self._counters.ended(_keys(self._counters, part), part.counts, self._note(part) | MIDSTREAM)
        self._looked_ns = self._clock.monotonic_ns()
        return entries

    def _look(self, *, forced: bool) -> Iterator[FlowBatch]:
        """Read the whole table."""
        began_ns = time.thread_time_ns()
        self._seen = {"uncounted": 0, "offloaded": 0}
        self._counters.begin()
        for part in self._table.read():
            # An entry that ended while this part was on its way must have ended before it is seen here.
            yield from self._hear()
            self._seen["offloaded"] += int(np.count_nonzero(part.status & OFFLOADED))
            self._seen["uncounted"] += int(np.count_nonzero(~part.counted))
            part = self._counted(part)
            growth = self._counters.seen(_keys(self._counters, part), part.counts, self._note(part))
            yield from self._hand_out(part, growth, self._looked_ns, forced=forced)
            yield _NO_ROWS
        self._counters.finish()
        self._looked_ns = self._clock.monotonic_ns()
        self._cost_ns = time.thread_time_ns() - began_ns
        self._tell()

    def _hear(self) -> Iterator[FlowBatch]:
        """Rows of the entries that left the table since the last call."""
        for part in self._endings.read():
            part = self._counted(part)
            growth = self._counters.ended(_keys(self._counters, part), part.counts, self._note(part))
            yield from self._hand_out(part, growth, self._looked_ns, ended=True)

    def _hand_out(
        self, part: Tracked, growth: Growth, since_ns: int, *, ended: bool = False, forced: bool = False
    ) -> Iterator[FlowBatch]:
        now_ns, steady_ns = self._clock.now_ns(), self._clock.monotonic_ns()
        span = Span(now_ns - (steady_ns - since_ns), now_ns)
        rows, note = batch(
            part, growth, span, vantage="conntrack:host", ended=ended, forced=forced, fill=self._fill
        )
        if not len(rows):
            return
        self._accounts.capture(rows.amounts(), held_in=_HELD)
        strange = note & STRANGE != 0
        inside = (note & INSIDE != 0) & ~strange & (not self._settings.loopback)
        for reason, which in (("other_zone", strange), ("loopback", inside)):
            if which.any():
                self._accounts.exclude(reason, rows.take(which), held_in=_HELD)
        kept = rows.take(~(strange | inside))
        if len(kept):
            yield kept

    def _lost(self) -> int:
        """Count what the kernel had no room to tell; how many ends that were."""
        now_ns = self._clock.monotonic_ns()
        if lost := self._endings.lost():
            self._accounts.lose_frames("endings_lost", lost)
            _LOG.warning(
                "endings_lost",
                connections=lost,
                within_s=round((now_ns - self._heard_ns) / SECOND_NS, 3),
                cost="what they sent since the table was last read is not counted",
                advice="raise conntrack.buffer_mib",
            )
        self._heard_ns = now_ns
        return lost

    def _tell(self) -> None:
        """Say in the log what of the table could not be counted, when it changes for the worse."""
        counters = self._counters
        now = self._seen | {
            "backwards": counters.backwards,
            "gone": counters.gone,
            "waiting": counters.waiting,
        }
        for name, advice in _ADVICE.items():
            if now[name] > self._said.get(name, 0):
                _LOG.warning(f"connections_{name}", connections=now[name], advice=advice)
            self._said[name] = max(now[name], self._said.get(name, 0))

    def _counted(self, part: Tracked) -> Tracked:
        return part if part.counted.all() else part.take(part.counted)

    def _note(self, part: Tracked) -> NDArray[np.int64]:
        return self._here.note(part)

    def _look_around(self) -> Here:
        settings = self._settings
        host = self._watch.read()
        return Here(
            own=NetworkSet((*host.addresses, _LOOPBACK, *settings.own_networks)),
            addresses=NetworkSet((*host.addresses, _LOOPBACK)),
            zones=None if settings.zones == "all" else settings.zones,
        )


_ADVICE: Final = {
    "uncounted": f"they are older than {_SYSCTL}acct=1 and are counted when they begin anew",
    "offloaded": "a flowtable forwards their packets, which count only if it says `counter`",
    "backwards": "another program set their counters to zero; what was counted between is not known",
    "gone": "they left the table without word of it; what they sent since the last reading is not known",
    "waiting": "raise conntrack.max_flows; they are counted when they end",
}


def _keys(counters: Counters, part: Tracked) -> NDArray[np.uint64]:
    """Keys of entries: both ends, protocol and zone as they are first seen, the kernel's id, and when they began."""
    orig = part.orig
    ports = np.where(part.echo >= 0, part.echo, orig.source_port).astype(np.int64) & 0xFFFF
    last = ports << 40 | (orig.target_port.astype(np.int64) & 0xFFFF) << 24 | part.zone << 8 | part.protocol
    ends = np.vstack((orig.source.T, orig.target.T, last.astype(np.uint64)[None]))
    return counters.keys(np.ascontiguousarray(ends), part.identity.astype(np.uint64), part.start_ns)


def _tracked(table: Table) -> frozenset[str]:
    """Of IPv4 and IPv6, where a datagram that this host sends to itself over lo is found in the table."""
    with ExitStack() as held:
        ports = {
            family: port
            for family, address in _SELF.items()
            if (port := _to_itself(held, *address)) is not None
        }
        own = parse([address for _, address in _SELF.values()])
        found = set()
        for part in table.read():
            for (family, _), address in zip(_SELF.items(), own, strict=True):
                same = (part.orig.source == address).all(axis=1) & (part.orig.target == address).all(axis=1)
                if (same & (part.orig.source_port == ports.get(family, -2))).any():
                    found.add(family)
    return frozenset(found)


_SELF: Final = {"IPv4": (socket.AF_INET, "127.0.0.1"), "IPv6": (socket.AF_INET6, "::1")}


def _to_itself(held: ExitStack, family: int, address: str) -> int | None:
    """Send an empty datagram from a socket to itself; its port, None where that cannot be done."""
    try:
        asked = held.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        asked.bind((address, 0))
        asked.sendto(b"", asked.getsockname())
    except OSError:
        return None
    return int(asked.getsockname()[1])
