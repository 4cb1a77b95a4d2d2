"""Events about agents, grouped by cause: whatever number of hosts one thing befalls, people are told once, with the number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.core.clock import MINUTE_NS, SECOND_NS
from agent.core.finding import Event, Severity
from agent.detection.fleet import Known

GROUP_NS: Final = 15 * SECOND_NS
"""What falls ill within so long is told together."""
TELL_EVERY_NS: Final = 10 * MINUTE_NS
"""What falls ill later for the same cause is told so long after, at the soonest."""
NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Cause:
    """How people are told of one cause."""

    event: str
    severity: Severity
    with_store: Severity


CAUSES: Final[Mapping[str, Cause]] = {
    "silent": Cause("agents_silent", Severity.MEDIUM, Severity.HIGH),
    "never_heard": Cause("hosts_never_heard", Severity.MEDIUM, Severity.HIGH),
    "probe_unloaded": Cause("probe_unloaded", Severity.HIGH, Severity.HIGH),
    "capture_ended": Cause("capture_stopped", Severity.HIGH, Severity.HIGH),
    "settings_changed": Cause("settings_changed", Severity.MEDIUM, Severity.HIGH),
    "capture_downgraded": Cause("capture_downgraded", Severity.MEDIUM, Severity.HIGH),
    "database_stale": Cause("databases_stale", Severity.LOW, Severity.LOW),
    "clock_off": Cause("clocks_off", Severity.MEDIUM, Severity.MEDIUM),
}


@dataclass
class Causes:
    """What people were told of each cause. Not thread-safe."""

    stores_on: Callable[[Known], set[str]]
    _noticed_ns: dict[str, int] = field(default_factory=dict)
    _told_ns: dict[str, int] = field(default_factory=dict)
    _returned: set[str] = field(default_factory=set)

    def tell(self, agents: Collection[Known], mono_ns: int, is_quiet: Callable[[str], bool]) -> list[Event]:
        """One event for each cause that has new hosts; those of hosts in maintenance (``is_quiet``) are passed over."""
        return [*self._new(agents, mono_ns, is_quiet), *self._back(agents, mono_ns)]

    def _new(
        self, agents: Collection[Known], mono_ns: int, is_quiet: Callable[[str], bool]
    ) -> Iterator[Event]:
        for cause, how in CAUSES.items():
            fresh = [k for k in agents if cause in k.troubles and cause not in k.told]
            quiet = [k for k in fresh if is_quiet(k.host)]
            for known in quiet:
                known.settled(cause)
            fresh = [k for k in fresh if cause not in k.told and cause in k.troubles]
            if not fresh:
                self._noticed_ns.pop(cause, None)
                continue
            since_ns = self._noticed_ns.setdefault(cause, mono_ns)
            before_ns = self._told_ns.get(cause)
            lately = before_ns is not None and mono_ns - before_ns < TELL_EVERY_NS
            if mono_ns - since_ns < GROUP_NS or lately:
                continue
            self._told_ns[cause] = mono_ns
            del self._noticed_ns[cause]
            yield self._event(cause, how, fresh, agents)
            for known in fresh:
                known.settled(cause)

    def _event(self, cause: str, how: Cause, fresh: Sequence[Known], agents: Collection[Known]) -> Event:
        stores = sorted({store for known in fresh for store in self.stores_on(known)})
        in_all = sum(cause in known.troubles for known in agents)
        detail: dict[str, str | int] = {
            "hosts": len(fresh),
            "first_hosts": ", ".join(sorted(known.host for known in fresh)[:NAMED]),
            "of": sum(known.state != "never" for known in agents),
        }
        if in_all > len(fresh):
            detail["in_all"] = in_all
        if stores:
            detail["stores"] = ", ".join(stores[:NAMED])
        if cause == "silent" and len(fresh) >= 3 and 2 * len(fresh) > int(detail["of"]):
            detail["likely_cause"] = "kafka_or_network"
        if cause == "capture_downgraded":
            detail["tiers"] = ", ".join(sorted({known.tier for known in fresh}))
        severity = how.with_store if stores else how.severity
        return Event(name=how.event, severity=severity, detail=detail)

    def _back(self, agents: Collection[Known], mono_ns: int) -> Iterator[Event]:
        """Agents of whose silence people were told, and that are heard again: told when all are, or every ten minutes."""
        waits = 0
        for known in agents:
            over = known.told - known.troubles.keys()
            waits += "silent" in known.told and "silent" in known.troubles
            if over:
                known.told -= over
                known.moved = True
                if over & {"silent", "never_heard"}:
                    self._returned.add(known.host)
        lately = mono_ns - self._told_ns.get("returned", -TELL_EVERY_NS) < TELL_EVERY_NS
        if self._returned and (not waits or not lately):
            self._told_ns["returned"] = mono_ns
            hosts, self._returned = sorted(self._returned), set()
            yield Event(
                name="agents_returned",
                severity=Severity.INFORMATIONAL,
                detail={"hosts": len(hosts), "first_hosts": ", ".join(hosts[:NAMED]), "still_silent": waits},
            )
