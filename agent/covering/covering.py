"""What was observed, kept up by the detector: agents' heartbeats in, coverage, receipts and events out.

Nothing here reads or commits by itself: the detector's road hands in what was read and decided, and commits what
:meth:`Covering.turn` gives. Events are grouped by cause: whatever number of agents falls silent together, people are told
once, with the number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agent.core.accounts import Amounts
from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS, Clock
from agent.core.finding import Event
from agent.core.flow import FlowBatch
from agent.core.heartbeat import Beat
from agent.covering.causes import Causes
from agent.covering.receipts import Receipts
from agent.detection import coverage
from agent.detection.coverage import OPEN, Hole, Holes
from agent.detection.detector import Detector
from agent.detection.fleet import Known
from agent.policy.model import ExpectedHost, Policy, same_host
from agent.store.coverage import Covered, CoveredHours, Maintained, RunKey
from agent.store.sequences import Intervals, Stream
from agent.store.state import State

LOOK_NS: Final = 2 * SECOND_NS
FLUSH_NS: Final = 10 * SECOND_NS
REST_NS: Final = 60 * SECOND_NS
"""Of an agent that was only heard, so often is written that it was."""
OUTAGE_NS: Final = 90 * SECOND_NS
"""Agents have so long to be heard again after Kafka was away."""
KEEP_NS: Final = 40 * DAY_NS
"""Holes and silent agents are remembered so long; the longest window is 30 days."""
EXPECTED_NS: Final = 2 * MINUTE_NS
"""A host that is expected has so long to be heard after the detector's start."""
NEVER: Final = "never "
"""What the id of a host begins with of which no agent was ever heard; no agent's id has a space."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one look gave: to be committed, then told to :meth:`Covering.committed`."""

    covered: Covered
    events: tuple[Event, ...] = ()

    def __bool__(self) -> bool:
        return self.covered != Covered() or bool(self.events)


@dataclass
class Covering:
    """Agents and coverage of one detector. Not thread-safe."""

    state: State
    clock: Clock
    policy: Callable[[], Policy]
    detector: Detector
    lateness_ns: int = 2 * MINUTE_NS
    dead_of: Callable[[Stream], Intervals] = lambda _stream: Intervals()
    """Batches of a stream that came and were refused."""
    only: str = ""
    """The one host that is watched; empty: every host that the policy expects."""
    agents: dict[str, Known] = field(default_factory=dict)
    taken: dict[RunKey, Amounts] = field(default_factory=dict)
    _broker: tuple[int, int] | None = None
    """Append time of the newest record that was read as it came, and the monotonic time of then."""
    _quiet_until_ns: int = 0
    _looked_ns: int = 0
    _flushed_ns: int = 0
    _hours: dict[str, CoveredHours] = field(default_factory=dict)
    _hour: int = -1
    """The last hour that was closed."""
    _made: int = 0
    _rows_of: dict[str, set[str]] = field(default_factory=dict)
    _upkeep: list[Maintained] = field(default_factory=list)
    _gone: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        kept = self.state.coverage
        self.agents = {agent: Known.of(body) for agent, body in kept.agents().items()}
        self.taken, self._made = kept.taken(), kept.made()
        for one in kept.hours():
            self._hours[one.host] = one
            self._hour = max(self._hour, one.to_hour)
        self._began_ns = self.clock.monotonic_ns()
        self.causes = Causes(self.stores_on)
        self.receipts = Receipts(self.state, self.detector, self.lateness_ns)

    # in

    def hear(self, beat: Beat, append_ns: int, *, live: bool) -> None:
        """Take a heartbeat whose signature was found good. ``live``: it was read as it came."""
        if live:
            self._broker = (append_ns, self.clock.monotonic_ns())
        known = self.agents.get(beat.agent_id)
        if known is None:
            known = self.agents[beat.agent_id] = Known(beat.agent_id, beat.host)
        known.hear(beat, append_ns)

    def interrupted(self) -> None:
        """Kafka is away: that an agent is silent says nothing now, and for a while after."""
        self._quiet_until_ns = self.clock.monotonic_ns() + OUTAGE_NS

    def count(
        self, batches: Sequence[FlowBatch], accounts: Sequence[Mapping[str, Any] | None] = ()
    ) -> Covered:
        """What the commit of these batches changes in the sums of their runs; ``accounts``: those in their headers."""
        for batch, account in zip(batches, accounts, strict=False):
            known = self.agents.get(batch.header.agent_id)
            if known is not None and account and known.run_id == batch.header.run_id:
                known.headed, known.changed = dict(account), True
        sums: dict[RunKey, Amounts] = {}
        for batch in batches:
            key = (batch.header.agent_id, batch.header.run_id)
            sums[key] = sums.get(key, self.taken.get(key, Amounts())) + batch.amounts()
            if stores := batch.text("store").values:
                self._rows_of.setdefault(batch.header.agent_id, set()).update(stores)
        return Covered(taken=sums)

    def counted(self, covered: Covered) -> None:
        """That is committed."""
        self.taken.update(covered.taken)

    # time

    def broker_ns(self) -> int:
        """The broker's clock now, as far as known; this host's where nothing was heard yet."""
        if self._broker is None:
            return self.clock.now_ns()
        append_ns, at_ns = self._broker
        return append_ns + self.clock.monotonic_ns() - at_ns

    def turn(self, taken_of: Callable[[Stream], Intervals], *, read_to_ns: int, live: bool) -> Turn | None:
        """Look at everything, every two seconds; None in between.

        ``read_to_ns``: up to which append time rows were read and decided; ``live``: no heartbeat waits at the brokers.
        """
        mono_ns = self.clock.monotonic_ns()
        if mono_ns - self._looked_ns < LOOK_NS:
            return None
        self._looked_ns = mono_ns
        now_ns = self.broker_ns()
        self._settle(taken_of, read_to_ns)
        events: list[Event] = []
        self._upkeep = self.state.coverage.maintenance(now_ns - KEEP_NS)
        if live and mono_ns >= self._quiet_until_ns:
            self._expect(now_ns, mono_ns)
            for known in self.agents.values():
                known.pass_time(now_ns)
            events = self.causes.tell(
                self.agents.values(), mono_ns, lambda host: self._is_maintained(host, now_ns)
            )
        hours = self._close_hours(now_ns) if live else []
        again = self._again(now_ns)
        for stores, from_ns, to_ns, came in self._touched():
            self.receipts.touch(stores, from_ns, to_ns, came)
        receipts = self.receipts.turn(self.policy(), self.holes_of_store, now_ns, all_read=live)
        # Not both in one commit: what grows now would be rewritten from what it was.
        rows, over = ([], []) if receipts else self.receipts.again(self.holes_of_store, now_ns)
        numbered, self._made = self.receipts.numbered([*receipts, *rows], self._made)
        covered = Covered(
            agents=self._dirty(mono_ns, force=bool(events)),
            gone=tuple(self._gone),
            hours=tuple(self._numbered_hours([*hours, *again[0]])),
            receipts=tuple(numbered),
            hours_over=tuple(again[1]),
            receipts_over=tuple(over),
        )
        return Turn(covered, tuple(events))

    def committed(self, turn: Turn) -> None:
        """All of a turn is durable."""
        self._gone = [agent for agent in self._gone if agent not in turn.covered.gone]
        for agent in turn.covered.agents:
            if agent in self.agents:
                self.agents[agent].changed = self.agents[agent].moved = False

    # agents

    def _settle(self, taken_of: Callable[[Stream], Intervals], read_to_ns: int) -> None:
        for agent, stores in self._rows_of.items():
            if (known := self.agents.get(agent)) and not stores <= set(known.rows_of):
                known.rows_of = tuple(sorted({*known.rows_of, *stores}))
                known.moved = True
        for known in self.agents.values():
            waits = known.pending is not None or any(h.waits or h.spool for h in known.holes)
            if known.state != "never" and waits:
                self._settle_one(known, taken_of, read_to_ns)

    def _settle_one(self, known: Known, taken_of: Callable[[Stream], Intervals], read_to_ns: int) -> None:
        sets: dict[tuple[str, int], Intervals] = {}

        def has(run: str, lane: int, first: int, last: int) -> bool:
            key = (run, lane)
            if key not in sets:
                sets[key] = taken_of((known.agent_id, run, lane)).copy()
                for a, b in known.let_go.get(lane, ()) if run == known.run_id else ():
                    sets[key].add_range(a, b)
            return next(sets[key].absent(first, last), None) is None

        def came(run: str, lane: int, first: int, last: int) -> bool:
            dead = self.dead_of((known.agent_id, run, lane))
            return all(has(run, lane, a, b) for a, b in dead.absent(first, last))

        known.settle(has, known.low_water, read_to_ns, came)

    def _expect(self, now_ns: int, mono_ns: int) -> None:
        """Hosts of the inventory of which nothing was ever heard."""
        expected = {h.host.lower() for h in self._expected() if not h.no_agent}
        heard = [k.host.lower() for k in self.agents.values() if k.state != "never"]
        short = {name.partition(".")[0] for name in heard}
        full = set(heard)
        missing = {
            host
            for host in expected
            if host not in full
            and not (host.partition(".")[0] in short and any(same_host(host, name) for name in full))
        }
        for host in missing - {k.host for k in self.agents.values() if k.state == "never"}:
            if mono_ns - self._began_ns >= EXPECTED_NS:
                made = Known(NEVER + host, host, state="never", heard_ns=now_ns)
                self.agents[made.agent_id] = made
        for known in [k for k in self.agents.values() if k.state == "never" and k.host not in missing]:
            del self.agents[known.agent_id]
            self._gone.append(known.agent_id)

    def _expected(self) -> list[ExpectedHost]:
        hosts = self.policy().expected_hosts
        return [h for h in hosts if not self.only or same_host(h.host, self.only)]

    def _dirty(self, mono_ns: int, *, force: bool) -> dict[str, dict[str, Any]]:
        if not force and mono_ns - self._flushed_ns < FLUSH_NS:
            return {}
        self._flushed_ns = mono_ns
        return self._written(mono_ns, REST_NS)

    def _written(self, mono_ns: int, rest_ns: int) -> dict[str, dict[str, Any]]:
        """Agents of which more has changed than that they were heard, and the others now and then."""
        found = {}
        for agent, known in self.agents.items():
            if known.moved or (known.changed and mono_ns - known.written_ns >= rest_ns):
                found[agent] = known.as_dict()
                known.written_ns = mono_ns
        return found

    def ending(self) -> Covered:
        """What is not written yet of the agents, at the end of the run."""
        return Covered(agents=self._written(self.clock.monotonic_ns(), 0), gone=tuple(self._gone))

    # hosts and stores

    def _is_maintained(self, host: str, now_ns: int) -> bool:
        return any(one.holds(host, now_ns - SECOND_NS, now_ns) for one in self._upkeep)

    def stores_on(self, known: Known) -> set[str]:
        """Stores that may be on a host: see :func:`stores_on`."""
        return stores_on(self.policy(), known)

    def holes_of(self, host: str, members: Iterable[Known]) -> Holes:
        """All holes of a host. Of several agents there the one heard last says how far its data is whole."""
        ordered = sorted(members, key=lambda known: known.heard_ns)
        holes = [hole.hole() for known in ordered for hole in known.holes]
        if ordered:
            holes += [ordered[-1].tail(), Hole(0, min(k.first_ns for k in ordered), "not_heard_before")]
        reason = next((h.no_agent for h in self.policy().expected_hosts if h.host.lower() == host), "")
        if reason or not ordered:
            holes.append(Hole(0, OPEN, "no_agent" if reason else "never_heard"))
        return Holes(holes)

    def holes_of_store(self, store: str) -> list[Holes]:
        """Holes of every host on which a store may be."""
        by_host: dict[str, list[Known]] = {}
        for known in self.agents.values():
            if store in self.stores_on(known):
                by_host.setdefault(known.host.lower(), []).append(known)
        entry = self.policy().store(store)
        for place in entry.recognise.places if entry else ():
            if place != "this" and not any(same_host(place, host) for host in by_host):
                by_host[place] = []
        return [self.holes_of(host, members) for host, members in by_host.items()]

    # hours

    def _close_hours(self, now_ns: int) -> list[CoveredHours]:
        """Hours of every host that are over now."""
        last = (now_ns - self.lateness_ns) // HOUR_NS - 1
        if self._hour < 0:
            self._hour = now_ns // HOUR_NS - 1  # what was before the first look is nobody's hour
        if last <= self._hour:
            return []
        fresh: list[CoveredHours] = []
        for host, members in self._hosts().items():
            fresh += self._hours_of(host, members, self._hour + 1, last, self._hours.get(host))
        self._hour = last
        for known in list(self.agents.values()):
            known.forget_before(now_ns - KEEP_NS)
            if known.state != "never" and now_ns - known.heard_ns > KEEP_NS:
                del self.agents[known.agent_id]
                self._gone.append(known.agent_id)
        return fresh

    def _hours_of(
        self, host: str, members: list[Known], first: int, last: int, before: CoveredHours | None
    ) -> list[CoveredHours]:
        found = coverage.hours(self.holes_of(host, members), first, last)
        out: list[CoveredHours] = []
        for hour, covered_s, lost, reasons in zip(
            found.hour.tolist(), found.covered_s.tolist(), found.lost.tolist(), found.reasons, strict=True
        ):
            from_ns = hour * HOUR_NS
            if any(one.holds(host, from_ns, from_ns + HOUR_NS) for one in self._upkeep):
                reasons = tuple(sorted({*reasons, "maintenance"}))
            value = (covered_s, lost, reasons)
            last_row = out[-1] if out else before
            same = last_row is not None and value == (last_row.covered_s, last_row.lost, last_row.reasons)
            if last_row is not None and same and last_row.to_hour == hour - 1:
                grown = CoveredHours(host, last_row.from_hour, hour, *value)
                out = [*out[:-1], grown] if out else [grown]
            else:
                out.append(CoveredHours(host, hour, hour, *value))
        return out

    def _hosts(self) -> dict[str, list[Known]]:
        by_host: dict[str, list[Known]] = {}
        for known in self.agents.values():
            by_host.setdefault(known.host.lower(), []).append(known)
        for expected in self._expected():
            by_host.setdefault(expected.host.lower(), [])
        return by_host

    def _again(self, now_ns: int) -> tuple[list[CoveredHours], list[tuple[str, int, int]]]:
        """Hours that were closed and of which something has changed since."""
        hosts: dict[str, tuple[int, int]] = {}
        for known in self.agents.values():
            for from_ns, to_ns, _ in known.touched:
                first = max(from_ns, now_ns - KEEP_NS) // HOUR_NS
                last = min(to_ns // HOUR_NS, self._hour)
                if first <= last:
                    low, high = hosts.get(known.host.lower(), (first, last))
                    hosts[known.host.lower()] = (min(low, first), max(high, last))
        fresh: list[CoveredHours] = []
        over: list[tuple[str, int, int]] = []
        members = self._hosts() if hosts else {}
        for host, (first, last) in hosts.items():
            rows = [r for r in self.state.coverage.hours(host, first - 1) if r.from_hour <= last + 1]
            if not rows:
                continue
            low, high = min(r.from_hour for r in rows), max(r.to_hour for r in rows)
            made = self._hours_of(host, members.get(host, []), low, high, None)
            before = [(r.from_hour, r.to_hour, r.covered_s, r.lost, r.reasons) for r in rows]
            if before == [(r.from_hour, r.to_hour, r.covered_s, r.lost, r.reasons) for r in made]:
                continue
            over.append((host, low, high))
            fresh += made
        return fresh, over

    def _touched(self) -> list[tuple[set[str], int, int, int]]:
        """(stores, from, to, octets that came at most) of all that has changed since the last look."""
        found = []
        for known in self.agents.values():
            if known.touched:
                stores = self.stores_on(known)
                found += [(stores, *span) for span in known.touched]
                known.touched = []
        return found

    def _numbered_hours(self, rows: Iterable[CoveredHours]) -> Iterator[CoveredHours]:
        for row in rows:
            self._made += 1
            numbered = CoveredHours(
                row.host, row.from_hour, row.to_hour, row.covered_s, row.lost, row.reasons, self._made
            )
            known = self._hours.get(row.host)
            if known is None or row.to_hour >= known.to_hour:
                self._hours[row.host] = numbered
            yield numbered


def stores_on(policy: Policy, known: Known) -> set[str]:
    """Stores that may be on a host: by this policy, by the agent's, and by the rows that came."""
    named = {store.id for store in policy.index.on_host(known.host)}
    return named | set(known.stores) | set(known.rows_of)
