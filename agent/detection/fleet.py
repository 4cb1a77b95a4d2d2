"""What heartbeats tell of each agent: how far its data is whole, which holes it leaves, and what is wrong with it.

No I/O. ``complete_ns`` is the heart of it: the agent's own time up to which everything it had sealed has come. What lies
behind that is a hole until it comes; a stored hole is one that nothing will fill, or that waits for named batches.
Times of a hole are the agent's clock; silence is measured by the broker's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from agent.core.clock import MINUTE_NS, SECOND_NS
from agent.core.heartbeat import Beat, of_account
from agent.detection.coverage import OPEN, UNBOUNDED, Hole
from agent.detection.told import Mark, Stored, lanes_of, lost_of, mark_of, plain, rank, unobserved_of

SILENT_NS: Final = 60 * SECOND_NS
ENDED_NS: Final = 5 * MINUTE_NS
"""An agent that ended in order and does not come back for so long counts as silent."""
MEMORY_NS: Final = 60 * SECOND_NS
"""Rows are sealed at most so long after they ended: what a crash may take from memory."""
PATIENCE_NS: Final = 30 * SECOND_NS
STALE_DAYS: Final = 45
OFFSET_NS: Final = SECOND_NS
OFFSETS: Final = 6
"""Heartbeats of which the least delayed tells the clock's offset."""
JOIN_NS: Final = 2 * MINUTE_NS
"""Holes of one reason that are nearer than this become one."""
MOST_HOLES: Final = 1_000
"""Of one agent; beyond, the oldest become one."""
LIVE: Final = ("talking", "silent", "ended", "never")

Taken = Callable[[str, int, int, int], bool]
"""(run, lane, first, last) -> whether every batch of these was taken or let go by the agent."""


@dataclass
class Known:
    """One agent, or (``never``) a host that is expected and of which none was heard."""

    agent_id: str
    host: str
    state: str = "talking"
    run_id: str = ""
    first_ns: int = 0
    """Before this nobody knew of it."""
    started_ns: int = 0
    heard_ns: int = 0
    """Append time of the last heartbeat."""
    time_ns: int = 0
    """The agent's own time then."""
    complete_ns: int = 0
    mark: Mark | None = None
    """The last heartbeat up to which everything has come."""
    pending: Mark | None = None
    latest: Mark | None = None
    through_ns: int = 0
    """Append time of the first heartbeat by which the agent was through with all of ``pending``; 0 before."""
    low_water: dict[int, int] = field(default_factory=dict)
    let_go: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Lane -> ranges of batches that the agent let go."""
    closing: bool = False
    kept: bool = False
    settings: str = ""
    tier: str = ""
    running: bool = True
    version: str = ""
    policy: str = ""
    account: dict[str, Any] = field(default_factory=dict)
    headed: dict[str, Any] = field(default_factory=dict)
    """The account in the newest batch of the run; newer than ``account`` where more was sealed."""
    spool: dict[str, Any] = field(default_factory=dict)
    databases: dict[str, int] = field(default_factory=dict)
    stores: tuple[str, ...] = ()
    rows_of: tuple[str, ...] = ()
    """Stores of which it has sent rows."""
    offsets: list[int] = field(default_factory=list)
    holes: list[Stored] = field(default_factory=list)
    troubles: dict[str, int] = field(default_factory=dict)
    """Cause -> since when, by the broker's clock."""
    told: set[str] = field(default_factory=set)
    """Causes of which people were told."""
    changed: bool = True
    """Not yet written."""
    moved: bool = True
    """Not yet written, and more than that it was heard."""
    written_ns: int = 0
    """Monotonic time of the last writing."""
    touched: list[tuple[int, int, int]] = field(default_factory=list)
    """Stretches of which something has changed since the last look, with the octets that came for each at most."""

    @property
    def offset_ns(self) -> int:
        """The agent's clock less the broker's, by the heartbeat that was on its way for the shortest time."""
        return max(self.offsets, default=0)

    def tail(self) -> Hole:
        """From where nothing is whole yet."""
        reason = {"talking": "not_yet_complete", "never": "never_heard", "ended": "stopped"}.get(
            self.state, self.state
        )
        return Hole(self.complete_ns, OPEN, reason)

    def all_holes(self) -> Iterator[Hole]:
        """Stored holes and the tail."""
        yield Hole(0, self.first_ns, "not_heard_before")
        yield from (stored.hole() for stored in self.holes)
        yield self.tail()

    # a heartbeat

    def hear(self, beat: Beat, append_ns: int) -> None:
        """Take a heartbeat; one that was heard before, as when the topic is read from its beginning, changes nothing."""
        if append_ns < self.heard_ns or (beat.run_id == self.run_id and self.closing):
            return
        if beat.closing and beat.run_id != self.run_id and self.run_id:
            self._end_of_other_run(beat)
            return
        self.changed = True
        if beat.run_id != self.run_id:
            self.moved = True
            self._begin(beat, append_ns)
        else:
            self._compare(beat)
        self._conditions(beat, append_ns)
        self._copy(beat, append_ns)

    def _begin(self, beat: Beat, append_ns: int) -> None:
        """Another run: between the two lies a hole, unless programs in the kernel went on counting."""
        started_ns = min(beat.started_ns or beat.time_ns, append_ns)
        gap = unobserved_of(beat.account)
        if self.run_id:
            bound = gap[1] if gap is not None else UNBOUNDED
            end_ns = self.time_ns if self.closing else self.time_ns - MEMORY_NS
            went_on = self.kept and gap is None
            reason = "stopped" if self.closing else "restarted"
            hole = Stored(self.complete_ns, started_ns, reason, bound, run=self.run_id, spool=True)
            hole.shrinks_to = OPEN if went_on else max(end_ns, self.complete_ns)
            if self.mark is not None and self.latest is not None:
                begun = self.mark.next
                hole.waits = {
                    lane: (begun.get(lane, 0), upto - 1)
                    for lane, upto in self.latest.next.items()
                    if upto > begun.get(lane, 0)
                }
            self._add(hole)
            if not self.closing and self.settings not in ("", beat.settings):
                self._trouble("settings_changed", append_ns)
        else:  # the first of this agent, and so all that lies before it is not known
            self.first_ns = started_ns
        self.run_id, self.started_ns, self.closing = beat.run_id, started_ns, False
        self.complete_ns, self.pending = started_ns, None
        self.mark = Mark(started_ns, dict.fromkeys((0, 1), 0), 0, 0, append_ns)
        self.offsets, self.headed = [], {}
        lost = lost_of(beat.account)
        if lost:
            self._add(Stored(started_ns, beat.time_ns, "dropped", lost, uncovers=False))

    def _compare(self, beat: Beat) -> None:
        """The same run: what its account lost since the last heartbeat."""
        lost, since_ns = lost_of(beat.account) - lost_of(self.account), self.time_ns - MEMORY_NS
        if lost > 0:
            self._add(Stored(since_ns, beat.time_ns, "dropped", lost, uncovers=False))
        before, now = unobserved_of(self.account) or (0.0, 0), unobserved_of(beat.account)
        if now is not None and now[0] > before[0]:
            bound = UNBOUNDED if now[1] < 0 or before[1] < 0 else now[1] - before[1]
            gap_ns = int((now[0] - before[0]) * SECOND_NS)
            if (
                gap_ns > beat.time_ns - self.started_ns
            ):  # it was before this run, which found it a little late
                self._add(Stored(self.started_ns - gap_ns, self.started_ns, "not_counting", bound))
            else:
                from_ns = max(self.time_ns - gap_ns, self.started_ns)
                self._add(Stored(from_ns, beat.time_ns, "not_counting", bound))
                self._trouble("probe_unloaded", self.heard_ns)
        if self.settings and beat.settings != self.settings:
            self._trouble("settings_changed", self.heard_ns)

    def _end_of_other_run(self, beat: Beat) -> None:
        """The end of an earlier run is told late: it lost nothing of what it had in memory."""
        for hole in self.holes:
            if hole.run == beat.run_id and hole.spool and hole.shrinks_to != OPEN:
                hole.shrinks_to = max(hole.shrinks_to, beat.time_ns)
                self.moved = True

    def _conditions(self, beat: Beat, append_ns: int) -> None:
        """What holds as long as heartbeats say so."""
        since_ns = self.time_ns if self.run_id == beat.run_id and self.time_ns else beat.time_ns
        self.offsets = [*self.offsets, beat.time_ns - append_ns][-OFFSETS:]
        probe = beat.probe
        running = probe is None or probe.running
        holding = {
            "capture_ended": (not running, UNBOUNDED),
            "database_stale": (any(days > STALE_DAYS for days in beat.databases.values()), 0),
            "clock_off": (len(self.offsets) >= 2 and abs(self.offset_ns) > OFFSET_NS, 0),
        }
        for cause, (holds, octets) in holding.items():
            if holds:
                self._add(Stored(since_ns, beat.time_ns, cause, octets))
                self._trouble(cause, append_ns)
            else:
                self._well(cause)
        if probe is not None and self.tier and rank(probe.tier) > rank(self.tier):
            self._trouble("capture_downgraded", append_ns)
        elif probe is not None and self.tier and rank(probe.tier) < rank(self.tier):
            self._well("capture_downgraded")

    def _copy(self, beat: Beat, append_ns: int) -> None:
        self.heard_ns, self.time_ns = max(append_ns, self.heard_ns), beat.time_ns
        self.state, self.closing = "ended" if beat.closing else "talking", beat.closing
        self.host = beat.host or self.host
        self.settings, self.version, self.policy = beat.settings, beat.version, beat.policy
        self.account, self.databases, self.stores = beat.account, beat.databases, beat.stores
        self.spool = {name: beat.spool.get(name, 0) for name in ("records", "octets", "octets_out")}
        self.spool["inherited_left"] = beat.inherited_left()
        if beat.probe is not None:
            self.tier, self.running, self.kept = beat.probe.tier, beat.probe.running, beat.probe.kept
        self.low_water = {lane: said.low_water for lane, said in lanes_of(beat).items()}
        self.let_go = {lane: list(said.dropped) for lane, said in lanes_of(beat).items()}
        for cause in ("silent", "never_heard"):
            self._well(cause)
        told = Mark(
            beat.time_ns,
            {lane: said.next_sequence for lane, said in lanes_of(beat).items()},
            beat.amounts("sealed").octets_out,
            beat.amounts("spool dropped").octets_out,
            append_ns,
        )
        self.latest = told
        if self.pending is None:
            self.pending = told

    @property
    def newest_account(self) -> Mapping[str, Any]:
        """Of heartbeat and batches, the one by which more was sealed."""
        sealed = [of_account(told, "sealed") for told in (self.account, self.headed)]
        later = (sealed[1].flows, sealed[1].octets_out) > (sealed[0].flows, sealed[0].octets_out)
        return self.headed if later else self.account

    # what has come

    def settle(
        self, taken: Taken, low_water: Mapping[int, int], read_to_ns: int, came: Taken | None = None
    ) -> None:
        """Move on as far as batches have come. ``read_to_ns``: up to which append time the topic of rows was read.

        ``came``: as ``taken``, but true of what came and was refused too.
        """
        while self.pending is not None and self.mark is not None:
            spans = {
                lane: (self.mark.next.get(lane, 0), upto - 1)
                for lane, upto in self.pending.next.items()
                if upto > self.mark.next.get(lane, 0)
            }
            missing = {lane: span for lane, span in spans.items() if not taken(self.run_id, lane, *span)}
            if missing and not self._gone(missing, low_water, read_to_ns):
                break
            refused = came is not None and all(
                came(self.run_id, lane, *span) for lane, span in missing.items()
            )
            self._complete(missing, "refused" if refused else "gap")
        self._fill(taken, read_to_ns)

    def _gone(self, missing: Mapping[int, tuple[int, int]], low: Mapping[int, int], read_to_ns: int) -> bool:
        """Whether what is missing will not come any more: the agent is through with it, and so is the reader."""
        assert self.pending is not None
        if any(low.get(lane, 0) <= last for lane, (_, last) in missing.items()):
            self.through_ns = 0
            return False
        if not self.through_ns:
            self.through_ns = (self.latest or self.pending).heard_ns
        return read_to_ns >= self.through_ns + PATIENCE_NS

    def _complete(self, missing: Mapping[int, tuple[int, int]], reason: str) -> None:
        assert self.pending is not None and self.mark is not None
        begin, end = self.mark, self.pending
        came = max(end.sealed - begin.sealed, 0)
        let_go = max(end.spool_dropped - begin.spool_dropped, 0)
        from_ns = max(begin.time_ns - MEMORY_NS, self.started_ns)
        if missing:
            self._add(Stored(from_ns, end.time_ns, reason, came, run=self.run_id, waits=dict(missing)))
        if let_go:
            self._add(Stored(from_ns, end.time_ns, "spool_dropped", let_go))
        self.touched.append((begin.time_ns, end.time_ns, came))
        # A clock that runs years ahead must not vouch for them.
        self.complete_ns = min(end.time_ns, end.heard_ns + OFFSET_NS)
        self.mark, self.changed, self.through_ns = end, True, 0
        latest = self.latest
        self.pending = latest if latest is not None and latest.heard_ns > end.heard_ns else None

    def _fill(self, taken: Taken, read_to_ns: int) -> None:
        """Holes that late data has closed."""
        for hole in list(self.holes):
            came = all(taken(hole.run, lane, *span) for lane, span in hole.waits.items())
            if hole.spool:
                if self.spool.get("inherited_left") or self.latest is None:
                    continue
                hole.emptied_ns = hole.emptied_ns or self.latest.heard_ns
                if came and read_to_ns >= hole.emptied_ns + PATIENCE_NS:
                    self._settle_run(hole)
            elif hole.waits and came:
                self._drop(hole, hole.octets)

    def _settle_run(self, hole: Stored) -> None:
        """All that an earlier run had kept on the disk has come."""
        if hole.shrinks_to >= hole.to_ns:
            self._drop(hole, UNBOUNDED)
            return
        self.touched.append((hole.from_ns, hole.to_ns, UNBOUNDED))
        hole.from_ns = max(hole.from_ns, hole.shrinks_to)
        hole.spool, hole.waits, self.moved = False, {}, True

    # silence

    def pass_time(self, now_ns: int) -> None:
        """``now_ns``: the broker's clock."""
        if self.state == "never":
            self._trouble("never_heard", now_ns)
        elif self.state == "talking" and now_ns - self.heard_ns > SILENT_NS:
            self.state, self.moved = "silent", True
            self._trouble("silent", self.heard_ns + SILENT_NS)
        elif self.state == "ended" and now_ns - self.heard_ns > ENDED_NS:
            self._trouble("silent", self.heard_ns + ENDED_NS)

    def _trouble(self, cause: str, since_ns: int) -> None:
        if cause not in self.troubles:
            self.troubles[cause] = since_ns
            self.told.discard(cause)
            self.moved = True

    def _well(self, cause: str) -> None:
        if self.troubles.pop(cause, None) is not None:
            self.moved = True

    def settled(self, cause: str) -> None:
        """People were told of a thing that happened, and that does not last."""
        self.told.add(cause)
        if cause in MOMENTARY:
            self.troubles.pop(cause, None)
        self.moved = True

    # holes

    def _add(self, hole: Stored) -> None:
        """Keep a hole, joined to one of its kind that lies beside it."""
        if hole.to_ns <= hole.from_ns:
            return
        self.moved = True
        self.touched.append((hole.from_ns, hole.to_ns, 0))
        last = next((h for h in reversed(self.holes) if h.reason == hole.reason), None)
        plain = last is not None and not (hole.waits or hole.spool or last.waits or last.spool)
        if last is not None and plain and hole.from_ns <= last.to_ns + JOIN_NS:
            grows = hole.to_ns - last.from_ns <= 60 * MINUTE_NS or not hole.octets
            if grows:
                last.to_ns = max(last.to_ns, hole.to_ns)
                both = last.octets < 0 or hole.octets < 0
                last.octets = UNBOUNDED if both else last.octets + hole.octets
                return
        self.holes.append(hole)
        if len(self.holes) > MOST_HOLES:
            self._join_oldest()

    def _join_oldest(self) -> None:
        """Make one of the two oldest holes, by worst case: an agent that starts all day long fills no memory."""
        a, b = self.holes[:2]
        octets = UNBOUNDED if a.octets < 0 or b.octets < 0 else a.octets + b.octets
        hull = Stored(
            min(a.from_ns, b.from_ns), max(a.to_ns, b.to_ns), a.reason, octets, a.uncovers or b.uncovers
        )
        self.holes[:2] = [hull]
        self.touched.append((hull.from_ns, hull.to_ns, 0))

    def _drop(self, hole: Stored, came: int) -> None:
        self.holes.remove(hole)
        self.touched.append((hole.from_ns, hole.to_ns, came))
        self.moved = True

    def forget_before(self, time_ns: int) -> None:
        """Let go of holes that no window reaches any more."""
        self.holes = [hole for hole in self.holes if hole.to_ns >= time_ns]

    # state

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values. Shares what does not change with this one."""
        table = {name: getattr(self, name) for name in _KEPT}
        for name in ("mark", "pending", "latest"):
            table[name] = None if table[name] is None else plain(table[name])
        table["holes"] = [plain(hole) for hole in self.holes]
        for name in ("stores", "rows_of", "offsets"):
            table[name] = list(table[name])
        return table | {"told": sorted(self.told), "troubles": dict(self.troubles)}

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Known:
        """Take back what :meth:`as_dict` gave."""
        values = dict(table)
        for name in ("mark", "pending", "latest"):
            values[name] = None if values.get(name) is None else mark_of(values[name])
        values["holes"] = [
            Stored(**{**h, "waits": {int(lane): (a, b) for lane, (a, b) in h["waits"].items()}})
            for h in values["holes"]
        ]
        values["low_water"] = {int(lane): n for lane, n in values["low_water"].items()}
        values["let_go"] = {int(lane): [(a, b) for a, b in spans] for lane, spans in values["let_go"].items()}
        values["told"], values["stores"] = set(values["told"]), tuple(values["stores"])
        values["rows_of"] = tuple(values.get("rows_of", ()))
        known = cls(**values)
        known.changed = known.moved = False
        return known


_KEPT: Final = tuple(
    f.name for f in fields(Known) if f.name not in ("changed", "moved", "written_ns", "touched")
)

MOMENTARY: Final = frozenset(("probe_unloaded", "settings_changed", "capture_downgraded"))
"""Causes that are over once people know of them."""
