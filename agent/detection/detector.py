"""The detector core: batches, time, policies and people's actions in, decisions out.

No clock, no I/O, no randomness: the same steps in the same order give the same state, whatever the batches' size.
``docs/detection.md`` tells how it works.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from agent.core.clock import DAY_NS, MINUTE_NS, SECOND_NS, when
from agent.core.decision import Decision, LedgerDay, LedgerRow
from agent.core.errors import StateError
from agent.core.finding import Case, HostTold, StoreFact, Traffic
from agent.core.flow import FlowBatch, Text
from agent.detection.admit import LATEST_NS, Step, admit, packed, seen_ns, unpacked
from agent.detection.approved import Approvals
from agent.detection.balances import Columns
from agent.detection.cases import Cases, Key, Ruling, Told
from agent.detection.cube import NOWHERE, Cube
from agent.detection.facts import UNKNOWN, CaseBase, Facts
from agent.detection.findings import Findings
from agent.detection.keys import Ints
from agent.detection.pack import pack, part, unpack
from agent.detection.relay import Relays
from agent.detection.relayed import with_rows
from agent.detection.rules import Rulebook, Watch
from agent.detection.sources import BEGINNING, Sources
from agent.detection.stage2 import Stage2
from agent.detection.sums import WindowSums
from agent.detection.years import DAYS
from agent.policy.entity import Recorded, recorded_entity
from agent.policy.model import Policy
from agent.policy.ownership import Ownership

LEDGER_EVERY_NS: Final = 10 * SECOND_NS
"""Ledger rows are gathered this long (of receipt), so that a key costs the ledger one row and not one per batch;
at most :data:`agent.detection.facts.LEDGER_WAITS` wait."""
MOST_HOST_TOLD: Final = 4096
MOST_HOSTS: Final = 8
"""Keys of which hosts told people by themselves, and how often for one key; the newest are remembered."""
RuleKey = tuple[str, str, str, str]
"""(tenant, rule, store, entity)."""
_OF_LEDGER: Final = {
    "tenant": "tenant",
    "store": "store",
    "initiator": "initiator",
    "remote_as_org": "as_org",
    "remote_provider": "provider",
    "remote_owner": "owner",
    "remote_country": "country",
}
"""Columns of a row by the ledger's names."""
GEO_SOURCES: Final = ("country", "network")
"""Names under which a batch's header tells the versions of what says where an address is."""


class Detector:
    """Windows, findings and cases of one stream of batches. Not thread-safe."""

    def __init__(
        self,
        policy: Policy,
        ownership: Ownership | None,
        *,
        host: str = "",
        lateness_ns: int = 2 * MINUTE_NS,
        simulated: bool = False,
        replay: bool = False,
        comes_back: bool = True,
        most_paths: int | None = None,
    ) -> None:
        """``replay``: the data is the clock. No row is ahead of its receipt, no source is silent, time does not pass.
        Without ``comes_back`` nobody will :meth:`restore` it: decisions have no delta. ``most_paths``: how many networks
        of stores are kept apart; None: as many as a host by itself needs.
        """
        self.most_paths = most_paths
        self._host, self._lateness, self._simulated, self._replay = host, lateness_ns, simulated, replay
        self._comes_back = comes_back
        self._ownership = ownership
        self._owners_version = ownership.version if ownership is not None else ""
        """Of the table by which what was sent has its entities."""
        self._renamed: dict[str, Case] | None = None
        """Cases that go by another entity since the last decision; None where the table of owners is the same."""
        self._set_up(policy, {})
        self._steps: list[Step] = []
        """Steps that go into the next delta."""
        self._owed: Decision | None = None
        """What a restore changed and nobody was told of yet."""

    def _set_up(self, policy: Policy, rule_since: dict[str, int]) -> None:
        self._rule_since = rule_since
        self._sources = Sources(self._lateness, replay=self._replay)
        self._cube = Cube(Rulebook(policy, self._ownership, self._lateness, rule_since), self.most_paths)
        self._approvals = Approvals(self._cube)
        self._facts = Facts(self._cube)
        self._stage2 = Stage2(self._cube)
        self._relays = Relays(self._cube)
        self._cases = Cases(self._told_of, self._host, simulated=self._simulated)
        self._bases: dict[Key, CaseBase] = {}
        self._store_seen: dict[tuple[str, str], int] = {}
        self._versions: dict[str, str] = {}
        self._host_told: dict[RuleKey, list[tuple[HostTold, int]]] = {}
        self._ledger_ns = BEGINNING
        self._newest_ns = BEGINNING
        self._is_filled = False
        """The windows of a year hold what the ledger has."""
        self._filled_to_ns = 0
        """Until when they hold what came from the ledger."""

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._cube.book.policy

    @property
    def watermark_ns(self) -> int | None:
        """Up to which event time all that is expected has come; None before any data."""
        mark = self._sources.watermark
        return mark if mark > BEGINNING else None

    # what happens

    def take(self, batch: FlowBatch, received_ns: int) -> Decision:
        """Take a batch of enriched rows. ``received_ns``: when it was received; in replay it is not looked at."""
        return self.take_all((batch,), received_ns)

    def take_all(self, batches: Sequence[FlowBatch], received_ns: int | Sequence[int]) -> Decision:
        """Take batches together, at least one, of whatever sources, in the order in which they came; ``received_ns``
        of all or of each. Of one source and time: the same as one batch of all their rows with the last one's versions."""
        return self._decided(
            admit(batches, received_ns, self._sources, self._relays.carriers, replay=self._replay)
        )

    def tick(self, now_ns: int) -> Decision:
        """Live: let time pass, so that silent sources hold nothing back. Cheap; its delta is kept for the next decision
        unless something changed."""
        return self._decided(Step("tick", {"now": now_ns}))

    def finish(self, now_ns: int | None = None) -> Decision:
        """The data has ended: evaluate every bucket up to its last row (or to ``now_ns``). Episodes stay open unless
        their quiet has passed by then."""
        return self._decided(Step("finish", {"now": now_ns}))

    @property
    def ledger_since(self) -> int | None:
        """The first day of the ledger that a rule over a year asks for and that was not given yet (:meth:`fill`); None
        where none is. Of a replay the data is all there is."""
        days = self._stage2.rings.get(DAYS.name)
        if days is None or self._is_filled or self._replay:
            return None
        mark = self._sources.watermark
        return max(0, DAYS.low(DAYS.last_due(mark))) if mark > BEGINNING else 0

    def fill(self, rows: Sequence[LedgerDay]) -> Decision:
        """Fill the windows of a year from the ledger, which must hold all that this detector ever gave to it."""
        day = np.array([row.day for row in rows], np.int64)
        amount = np.array([row.content_octets_out for row in rows], np.int64)
        asn = np.array([row.asn for row in rows], np.int64)
        arrays: dict[str, Any] = {"day": day, "amount": amount, "remote_asn": asn}
        texts = {}
        for column, name in _OF_LEDGER.items():
            values = Text.of([getattr(row, name) or None for row in rows])
            arrays[column], texts[column] = values.codes.astype(np.int64), list(values.values)
        return self._decided(Step("fill", {"texts": texts}, arrays))

    def refresh(self) -> Decision:
        """Bring the amounts of open findings and their cases up to date. Nobody is told; people look by themselves."""
        return self._decided(Step("refresh", {}))

    def set_policy(self, policy: Policy, ownership: Ownership | None) -> Decision:
        """Take another policy and ownership table. New and changed rules read what the windows hold; the findings of a
        rule that is gone are closed."""
        if policy == self.policy and ownership is self._ownership:
            return Decision()
        self._ownership = ownership
        return self._decided(self._policy_step(policy))

    @property
    def _ownership_version(self) -> str:
        return self._ownership.version if self._ownership is not None else ""

    def _policy_step(self, policy: Policy) -> Step:
        meta = {"policy": policy.model_dump(mode="json"), "ownership": self._ownership_version}
        return Step("policy", meta)

    def recorded_entity(self, facts: Recorded) -> str:
        """The entity of network facts of the ledger, by the table of owners in force; the one they have where there is
        none."""
        if self._ownership is None:
            return facts.entity
        return recorded_entity(self._ownership, facts, when(max(self._sources.watermark, 0)).date())

    def case_closed(self, case_id: str) -> None:
        """A person closed a case: the next finding of its key opens another."""
        self._apply(Step("closed", {"case": case_id}))

    def case_acknowledged(self, case_id: str) -> None:
        """A person has a case."""
        self._apply(Step("acknowledged", {"case": case_id}))

    def case_reopened(self, case: Case) -> None:
        """A person said that a closed case is not done with."""
        self._apply(Step("reopened", {"case": case.model_dump(mode="json")}))

    def host_told(self, key: RuleKey, told: HostTold, first_bucket_ns: int) -> None:
        """A host told people of a finding by itself: what is found of the same facts goes by the id that it told.
        ``key``: (tenant, rule, store, entity). Told again, it changes nothing.
        """
        if not any(one.id == told.id and one.host == told.host for one, _ in self._host_told.get(key, ())):
            told_as = [*key, told.host, told.id, told.time_ns, first_bucket_ns]
            self._apply(Step("told", {"told": told_as}))

    def _decided(self, step: Step) -> Decision:
        effects = self._apply(step)
        quiet = not (effects.findings or effects.cases or effects.ledger)
        if step.kind == "tick" and quiet and self._owed is None:
            return Decision()
        owed, self._owed = self._owed or Decision(), None
        decision = replace(
            effects,
            findings=(*owed.findings, *effects.findings),
            cases=(*owed.cases, *effects.cases),
            notices=(*owed.notices, *effects.notices),
            reclassified=owed.reclassified or effects.reclassified,
            delta=packed(self._steps) if self._comes_back else b"",
        )
        self._steps = []
        return decision

    # what a step does: the same now and when it is taken again after a restart

    def _apply(self, step: Step) -> Decision:
        if step.kind == "tick" and self._steps and self._steps[-1].kind == "tick":
            self._steps.pop()  # a later tick does all that an earlier one did
        self._steps.append(step)
        reasons: dict[str, int] = dict(step.meta.get("reasons", {}))
        if step.kind == "take":
            rulings = self._take(step)
        elif step.kind == "tick":
            rulings = self._pass_to(self._sources.pass_time(step.meta["now"]))
        elif step.kind == "fill":
            rulings = self._fill(step)
        elif step.kind == "finish":
            rulings = self._finish(step.meta["now"])
        elif step.kind == "refresh":
            findings = self._findings()
            pairs = frozenset(
                t.pair for t in self._stage2.tracks.values() if self._cases.has(self._cube.pair(t.pair))
            )
            now_ns = max(self._sources.watermark, 0)
            self._stage2.tell_open(now_ns, findings.emit, final=False, pairs=pairs)
            rulings = self._ruled(findings)
        elif step.kind == "policy":
            rulings = self._change_policy(step)
        else:
            self._person(step)
            return Decision()
        renamed, reclassified = self._renamed or {}, self._renamed is not None
        self._renamed = None
        cases, notices = self._cases.rule(rulings)
        cases = {**renamed, **cases}
        if step.kind == "refresh":
            cases |= self._cases.refreshed()
        elif step.kind in ("take", "tick") and not self._replay:
            watched, more = self._cases.watch(self._sources.watermark)
            cases, notices = {**cases, **watched}, [*notices, *more]
        self._bases = {key: base for key, base in self._bases.items() if self._cases.has(key)}
        reasons |= self._cube.reasons
        self._cube.reasons.clear()
        return Decision(
            findings=tuple({r.finding.id: r.finding for r in rulings}.values()),
            cases=tuple(cases.values()),
            notices=tuple(notices),
            ledger=self._ledger(step),
            reclassified=reclassified,
            reasons={name: n for name, n in reasons.items() if n},
        )

    def _take(self, step: Step) -> list[Ruling]:
        for tenant, store, first_ns in step.meta["seen"]:
            self._store_seen.setdefault((tenant, store), first_ns)
        self._versions = step.meta["versions"]
        self._relays.take(step)
        return self._sum(step, self._relays.pass_to(step.meta["after"]), step.meta["after"])

    def _sum(self, step: Step, more: Columns | None, after_ns: int) -> list[Ruling]:
        """Count the rows of a step, and what relays make of rows before, up to a watermark."""
        if more is not None:
            step = with_rows(step, more, self._cube.names.values)
        known = self._cube.paths.count
        placed = self._cube.place(step) if step.rows else NOWHERE
        self._facts.add(step, placed)
        findings = self._findings(step.arrays["before_ns"])
        self._stage2.take(step, placed, known, after_ns, findings.emit)
        if step.rows:
            np.minimum.at(self._cube.first_ns, placed.pair, seen_ns(step))
            for pairs in self._cube.groups.values():
                np.minimum.at(self._cube.first_ns, pairs[placed.path], seen_ns(step))
            self._newest_ns = max(self._newest_ns, int(step.arrays["end_ns"].max()))
        return self._ruled(findings)

    def _fill(self, step: Step) -> list[Ruling]:
        paths = self._cube.place_past(step)
        days, waiting, amounts = self._facts.waiting_days()
        self._stage2.fill(
            np.concatenate([step.arrays["day"], days]),
            np.concatenate([paths, waiting]),
            np.concatenate([step.arrays["amount"], amounts]),
            self._sources.watermark,
        )
        self._is_filled = True
        self._filled_to_ns = (int(step.arrays["day"].max(initial=-1)) + 1) * DAY_NS
        return self._ruled(self._findings())

    def _relayed(self, until_ns: int, watermark_ns: int) -> list[Ruling]:
        """What relays make of the minutes that are over."""
        more = self._relays.pass_to(until_ns)
        if more is None:
            return []
        more["before_ns"] = np.minimum(more["before_ns"], watermark_ns)
        return self._sum(Step("take"), more, watermark_ns)

    def _pass_to(self, watermark_ns: int) -> list[Ruling]:
        relayed = self._relayed(watermark_ns, watermark_ns) if watermark_ns > BEGINNING else []
        findings = self._findings()
        if watermark_ns > BEGINNING:
            self._stage2.pass_to(watermark_ns, findings.emit)
        return [*relayed, *self._ruled(findings)]

    def _finish(self, now_ns: int | None) -> list[Ruling]:
        ends = max(self._newest_ns, self._sources.newest_ns) if now_ns is None else now_ns
        relayed: list[Ruling] = []
        if ends > BEGINNING:
            self._sources.watermark = max(self._sources.watermark, ends)
            relayed = self._relayed(LATEST_NS, self._sources.watermark)
        findings = self._findings()
        if ends > BEGINNING:
            self._stage2.pass_to(self._sources.watermark, findings.emit, data_ends_ns=ends)
            self._stage2.tell_open(self._sources.watermark, findings.emit, final=True)
        return [*relayed, *self._ruled(findings)]

    def _change_policy(self, step: Step) -> list[Ruling]:
        policy = Policy.model_validate(step.meta["policy"])
        now_ns = max(self._sources.watermark, 0)
        findings = self._findings()
        self._stage2.close_gone(
            {(name, r.id) for name, r in policy.rules if r.enabled}, now_ns, findings.emit
        )
        before = {(name, rule.id): rule for name, rule in self.policy.rules}
        for name, rule in policy.rules:
            if before.get((name, rule.id)) != rule:
                self._rule_since[rule.id] = now_ns
        read = self._cube.book.yearly
        self._cube.book = Rulebook(policy, self._ownership, self._lateness, self._rule_since)
        version = step.meta.get("ownership", self._owners_version)
        moved: set[int] = set()
        if version != self._owners_version or any(rule not in read for rule in self._cube.book.yearly):
            self._is_filled = False  # paths that no such rule had read are in the ledger only
        if version != self._owners_version:
            self._owners_version = version
            moved = self._reclassify(now_ns, findings)
        self._cube.use(self._cube.book)
        self._relays.use()
        self._cube.join_first_seen()
        self._approvals = Approvals(self._cube)
        self._stage2.rebuild(self._sources.watermark)
        for track in self._stage2.tracks.values():
            for episode in track.episodes if track.pair in moved else ():
                findings.emit(track, episode, "update", now_ns, None, None)
        return self._ruled(findings)

    def _reclassify(self, now_ns: int, findings: Findings) -> set[int]:
        """Another table of owners: what was sent goes to the entities that it names, and open cases go along. Gives the
        pairs to which others moved whole."""
        moved = self._cube.reclassify(now_ns)
        keys = {self._cube.pair(old): self._cube.pair(new) for old, new in moved.items()}
        taken = frozenset(new for new in moved.values() if self._cases.has(self._cube.pair(new)))
        self._stage2.move(moved, taken, now_ns, findings.emit)
        self._facts.move(moved)
        for old, new in keys.items():
            if old in self._bases and new not in self._bases:
                self._bases[new] = self._bases.pop(old)
        self._renamed = self._cases.rename(keys)
        return set(moved.values())

    def _hear_host(self, told: list[Any]) -> None:
        tenant, rule, store, entity, host, finding, time_ns, first_ns = told
        if len(self._host_told) >= MOST_HOST_TOLD:
            self._host_told.pop(next(iter(self._host_told)))
        known = self._host_told.setdefault((tenant, rule, store, entity), [])
        known.append((HostTold(host=host, id=finding, time_ns=time_ns), first_ns))
        del known[:-MOST_HOSTS]

    def _person(self, step: Step) -> None:
        if step.kind == "told":
            self._hear_host(step.meta["told"])
        elif step.kind == "closed":
            self._cases.closed(step.meta["case"])
        elif step.kind == "reopened":
            self._cases.reopened(Case.model_validate(step.meta["case"]))
        else:
            self._cases.acknowledged(step.meta["case"])

    def _ledger(self, step: Step) -> tuple[LedgerRow, ...]:
        now_ns = step.meta.get("received", step.meta.get("now"))
        is_due = now_ns is not None and now_ns - self._ledger_ns >= LEDGER_EVERY_NS
        if step.kind == "finish" or is_due or self._facts.ledger_is_full:
            self._ledger_ns = now_ns if now_ns is not None else self._ledger_ns
            return self._facts.ledger()
        return ()

    def window_sum(self, tenant: str, store: str, entity: str, window: str, bucket: int) -> int | None:
        """Content octets of a key in the buckets ``bucket - n .. bucket`` of a window, over all initiators; None where
        the ring does not hold all of them any more."""
        codes = [np.array([self._cube.names.code(text)], np.int64) for text in (tenant, store, entity)]
        pair = int(self._cube.pairs.ids(codes)[0])
        return self._stage2.window_sum(pair, window, bucket)

    @property
    def watches(self) -> tuple[Watch, ...]:
        """Every rule in force with its window."""
        return self._cube.book.watches

    def sums(self, window: str, first: int, last: int) -> WindowSums:
        """Largest sums at some buckets of a window; of those before :meth:`sums_from` only a part may be held."""
        return WindowSums(self._cube, self._stage2.rings[window], first, last)

    def sums_from(self, window: str) -> int:
        """The first bucket of which the whole window is still held."""
        return self._stage2.rings[window].held_from

    # findings and cases

    def _findings(self, before_ns: Ints | None = None) -> Findings:
        nothing = np.zeros(0, np.int64)
        versions = {**self._versions, "policy": self.policy.version}
        if self.policy.commit:
            versions["policy_commit"] = self.policy.commit
        if self._ownership is not None:
            versions["ownership"] = self._ownership.version
        rows = nothing if before_ns is None else before_ns
        return Findings(
            self._cube,
            self._store_seen,
            rows,
            versions,
            self._simulated,
            told=self._host_told,
            filled_to_ns=self._filled_to_ns,
            approvals=self._approvals,
        )

    def _ruled(self, findings: Findings) -> list[Ruling]:
        """Findings whose severity has changed, or that no approval holds back any more, join the others; all in the
        order of events."""
        for track in self._stage2.tracks.values():
            for episode in track.episodes:
                if findings.severity(track, episode, track.paths)[0] != episode.severity:
                    findings.emit(track, episode, "severity", max(self._sources.watermark, 0), None, None)
                elif episode.approval and self._approvals.holding(track, episode) != episode.approval:
                    findings.emit(track, episode, "approval", max(self._sources.watermark, 0), None, None)
        return findings.rulings()

    def _told_of(self, key: Key, since_ns: int) -> Told:
        codes = [np.array([self._cube.names.code(text)], np.int64) for text in key]
        pair = int(self._cube.pairs.ids(codes)[0])
        if not self._cube.paths_of(pair) and (case := self._cases.open.get(key)) is not None:
            # All of it counts for another entity now.
            return case.store, case.destination, case.traffic, case.approvals
        base = self._bases.get(key)
        if base is None or base.since_ns != since_ns:
            base = self._bases[key] = self._facts.base(pair, since_ns)
        sources = tuple(
            self._versions[name] for name in GEO_SOURCES if self._versions.get(name, "none") != "none"
        )
        destination = self._facts.destination(pair, base, sources)
        traffic = self._facts.traffic(pair, base)
        if relays := self._relays.told(*key, since_ns):
            traffic = traffic.model_copy(update={"relays": relays})
        approvals = self._approvals.beside(pair, traffic.last_ns, self._stage2.rings)
        return self._store_fact(key[1], self._sender(traffic)), destination, traffic, approvals

    def _sender(self, traffic: Traffic) -> str:
        """The host that sent the most; the detector's own where batches name none."""
        named = [share.value for share in traffic.hosts if share.value != UNKNOWN]
        return named[0] if named else self._host

    def _store_fact(self, store_id: str, host: str) -> StoreFact:
        store = self._cube.book.store(store_id)
        if store is None:
            return StoreFact(id=store_id, host=host)
        return StoreFact(
            id=store.id,
            name=store.name,
            categories=self._cube.book.categories(store_id),
            contact=store.contact,
            host=host,
            subjects=store.subjects,
            runbook=store.runbook,
        )

    # state

    def snapshot(self) -> bytes:
        """All state as bytes; :meth:`restore` takes it. Versioned, checksummed, no pickle."""
        cube, cube_arrays = self._cube.state()
        facts, fact_arrays = self._facts.state()
        relays, relay_arrays = self._relays.state()
        meta = {
            "policy": self.policy.model_dump(mode="json"),
            "sources": self._sources.state(),
            "cube": cube,
            "facts": facts,
            "relays": relays,
            "episodes": self._stage2.episodes(),
            "due": {name: ring.due for name, ring in self._stage2.rings.items()},
            "cases": self._cases.state(),
            "bases": [[*key, base.state()] for key, base in self._bases.items() if self._cases.has(key)],
            "store_seen": [[*key, ns] for key, ns in self._store_seen.items()],
            "rule_since": self._rule_since,
            "ownership": self._owners_version,
            "versions": self._versions,
            "host_told": [
                [*key, one.host, one.id, one.time_ns, first_ns]
                for key, known in self._host_told.items()
                for one, first_ns in known
            ],
            "ledger_ns": self._ledger_ns,
            "newest_ns": self._newest_ns,
            "filled": [self._is_filled, self._filled_to_ns],
        }
        arrays = {f"cube.{name}": array for name, array in cube_arrays.items()}
        arrays |= {f"facts.{name}": array for name, array in fact_arrays.items()}
        arrays |= {f"relays.{name}": array for name, array in relay_arrays.items()}
        for name, ring in self._stage2.rings.items():
            arrays |= {f"ring.{name}.{part}": array for part, array in ring.arrays().items()}
        return pack(meta, arrays)

    def restore(self, snapshot: bytes | None, deltas: Iterable[bytes]) -> None:
        """Come to the state of a detector that gave this snapshot and then these deltas.

        If this one was made with another policy than the one in force then, it changes to it afterwards; what follows
        from that comes with the next decision. Raises :class:`StateError` for bytes that are neither.
        """
        policy = self.policy
        if snapshot is not None:
            self._load(snapshot)
        for delta in deltas:
            for step in unpacked(delta) if delta else ():
                if step.kind == "take":
                    self._sources.set_state(step.meta["sources"])
                self._apply(step)
        self._steps = []
        if self.policy != policy or self._owners_version != self._ownership_version:
            self._owed = self._apply(self._policy_step(policy))

    def _load(self, snapshot: bytes) -> None:
        meta, arrays = unpack(snapshot)
        try:
            self._set_up(Policy.model_validate(meta["policy"]), meta["rule_since"])
            self._sources.set_state(meta["sources"])
            self._cube.set_state(meta["cube"], part("cube.", arrays))
            self._facts.set_state(meta["facts"], part("facts.", arrays))
            self._relays.use()
            self._relays.set_state(meta.get("relays", {}), part("relays.", arrays))
            for name, ring in self._stage2.rings.items():
                cells = part(f"ring.{name}.", arrays)
                ring.set_arrays(cells, meta["due"][name], self._cube.pair_of, self._cube.pairs.count)
            self._stage2.rebuild()
            self._stage2.set_episodes(meta["episodes"])
            self._cases.set_state(meta["cases"])
            self._bases = {tuple(entry[:3]): CaseBase.of(entry[3]) for entry in meta["bases"]}
            self._store_seen = {(tenant, store): ns for tenant, store, ns in meta["store_seen"]}
            self._versions = meta["versions"]
            self._owners_version = meta.get("ownership", self._owners_version)
            for told in meta.get("host_told", ()):
                self._hear_host(told)
            self._ledger_ns, self._newest_ns = meta["ledger_ns"], meta["newest_ns"]
            self._is_filled, self._filled_to_ns = meta.get("filled", (False, 0))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise StateError(f"the detector's state does not fit together: {error}") from error
