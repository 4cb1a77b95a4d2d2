"""While Kafka is away, the host of a store still tells people: a few rules over its own sealed rows.

The rules are those of the detector, judged by the detector's own code, so that a finding has the id that the detector
gives the same facts later; what was told travels in the header of every further batch, and the detector goes on under
that id. It is one host's view: it knows no other host, and no history before this run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from agent.core.clock import DAY_NS, MINUTE_NS, SECOND_NS, Clock
from agent.core.decision import Decision, LedgerRow
from agent.core.finding import Case, Finding, FindingState, Notice, NoticeKind, Severity, finding_id
from agent.core.flow import FlowBatch
from agent.core.log import Log
from agent.core.message import MOST_ALERTED, Alerted
from agent.detection.admit import Step
from agent.detection.detector import Detector
from agent.policy.model import Policy
from agent.policy.ownership import Ownership
from agent.seal import STORE_LANE

FEED_NS: Final = 5 * SECOND_NS
"""Rows are judged together, which costs a third of judging each batch by itself."""
CALM_NS: Final = 10 * SECOND_NS
"""The same while Kafka takes rows: nobody could be told anyway."""
FEED_BATCHES: Final = 20
LEEWAY_NS: Final = 2 * MINUTE_NS
"""A finding so long before Kafka went away may not have come to the detector."""
WINDOWS: Final = ("5m", "1h", "24h")
MOST_RULES: Final = 16
MOST_PENDING: Final = 1000
"""Findings that are remembered, so that each is told once."""
_FILE: Final = "tripwire.json"
_LOG: Final = Log(part="tripwire")
_KEPT: Final = TypeAdapter(tuple[Alerted, ...])

Tell = Callable[[Notice], bool]
Key = tuple[str, str, str]
"""(tenant, store, entity) of a case."""


def local_rules(policy: Policy) -> Policy:
    """The policy with the rules that one host can judge: of its own stores, over windows of up to a day, the first few."""
    rules = [
        (pack, rule)
        for pack, rule in policy.rules
        if rule.enabled and rule.window in WINDOWS and any(policy.reads(rule, s.id) for s in policy.stores)
    ]
    return policy.model_copy(update={"rules": tuple(rules[:MOST_RULES])})


class LocalDetector(Detector):
    """A detector of this host's rows alone."""

    def __init__(self, policy: Policy, ownership: Ownership | None, **more: Any) -> None:
        super().__init__(local_rules(policy), ownership, **more)

    def set_policy(self, policy: Policy, ownership: Ownership | None) -> Decision:
        """Take another policy."""
        return super().set_policy(local_rules(policy), ownership)

    def _ledger(self, step: Step) -> tuple[LedgerRow, ...]:
        """There is none here."""
        del step
        self._facts.skip_ledger()
        return ()

    def _decided(self, step: Step) -> Decision:
        """Nothing is kept for a restart, so no delta is packed."""
        effects = self._apply(step)
        self._steps.clear()
        return effects


@dataclass(slots=True)
class _Open:
    """A finding that is open here."""

    finding: Finding
    since_ns: int
    """Monotonic, when it was found."""
    bucket_ns: int
    """Its first bucket as it was found: what its id is made of."""
    told_as: int = 0
    """Severity that people were told; 0: nothing."""


@dataclass
class Tripwire:
    """Judges sealed batches of stores, and tells when nobody else can. Not thread-safe: for the thread that seals."""

    detector: Detector
    clock: Clock
    after_ns: int
    """How long Kafka must be away."""
    host: str
    folder: Path
    """Where what was told is remembered."""
    not_seen: tuple[str, ...] = ()
    _queued: list[FlowBatch] = field(default_factory=list)
    _fed_ns: int = 0
    _open: dict[str, _Open] = field(default_factory=dict)
    _cases: dict[Key, Case] = field(default_factory=dict)
    _alerted: tuple[Alerted, ...] = ()
    _acknowledged: int = -1
    _well_ns: int = 0
    """Monotonic, when Kafka last took something, or nothing waited for it."""

    def __post_init__(self) -> None:
        self._well_ns = self._fed_ns = self.clock.monotonic_ns()
        try:
            self._alerted = _KEPT.validate_json((self.folder / _FILE).read_bytes())[-MOST_ALERTED:]
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            _LOG.warning("tripwire_memory_not_read", reason=str(error)[:300], cost="people may be told twice")

    @property
    def alerted(self) -> tuple[Alerted, ...]:
        """What this host told, the newest; for the headers of batches."""
        return self._alerted

    def see(self, batches: Sequence[FlowBatch]) -> None:
        """Take sealed batches; those without rows of stores are not looked at."""
        self._queued += [batch for batch in batches if batch.header.lane == STORE_LANE]

    def turn(self, now_ns: int, acknowledged: int, nothing_waits: bool, *, tell: Tell) -> None:
        """Judge what came; tell what is over its threshold once Kafka has been away for long enough.

        ``acknowledged``: batches that Kafka took so far.
        """
        here_ns = self.clock.monotonic_ns()
        if nothing_waits or acknowledged != self._acknowledged:
            self._well_ns, self._acknowledged = here_ns, acknowledged
            self._forget_old(now_ns)
        every_ns = CALM_NS if here_ns - self._well_ns < FEED_NS else FEED_NS
        if here_ns - self._fed_ns >= every_ns or len(self._queued) >= FEED_BATCHES:
            self._fed_ns = here_ns
            self._judge(now_ns, here_ns)
        if here_ns - self._well_ns >= self.after_ns:
            self._tell_due(now_ns, tell)

    def _forget_old(self, now_ns: int) -> None:
        """What was told a day ago, and Kafka takes rows: the detector has had word of it many times."""
        young = tuple(one for one in self._alerted if now_ns - one.told_ns < DAY_NS)
        if young != self._alerted:
            self._alerted = young
            self._remember()

    def _judge(self, now_ns: int, here_ns: int) -> None:
        queued, self._queued = self._queued, []
        if queued:
            self._hear(self.detector.take_all(queued, now_ns), here_ns)
        self._hear(self.detector.tick(now_ns), here_ns)

    def _hear(self, decision: Decision, here_ns: int) -> None:
        for finding in decision.findings:
            if finding.state is not FindingState.OPEN:
                self._open.pop(finding.id, None)
            elif finding.id in self._open:
                self._open[finding.id].finding = finding
            else:
                told = any(one.id == finding.id for one in self._alerted)
                self._open[finding.id] = _Open(
                    finding, here_ns, finding.first_bucket_ns, int(finding.severity) if told else 0
                )
        for case in decision.cases:
            self._cases[case.tenant, case.store.id, case.destination.entity] = case
        while len(self._open) > MOST_PENDING:
            self._open.pop(next(iter(self._open)))
        while len(self._cases) > MOST_PENDING:
            self._cases.pop(next(iter(self._cases)))

    def _tell_due(self, now_ns: int, tell: Tell) -> None:
        since_ns = self._well_ns - LEEWAY_NS
        due: dict[Key, list[_Open]] = {}
        for one in self._open.values():
            if one.since_ns >= since_ns and one.finding.severity > one.told_as:
                due.setdefault((one.finding.tenant, one.finding.store, one.finding.entity), []).append(one)
        if not due:
            return
        self._hear(self.detector.refresh(), self.clock.monotonic_ns())
        for key, news in due.items():
            case = self._cases.get(key)
            mine = [one for one in self._open.values() if _key(one.finding) == key]
            told_as = max((one.told_as for one in mine), default=0)
            highest = max(one.finding.severity for one in news)
            if case is None or highest <= told_as or tell(self._notice(case, mine, told_as, now_ns)):
                self._told(news, now_ns)

    def _notice(self, case: Case, found: Sequence[_Open], told_as: int, now_ns: int) -> Notice:
        first = min((one.finding for one in found), key=lambda f: (f.crossed_ns, f.id))
        local = case.model_copy(
            update={
                "id": f"local-{first.id[:16]}",
                "local_view": True,
                "severity": Severity(max(one.finding.severity for one in found)),
                "not_seen": self.not_seen,
            }
        )
        kind = NoticeKind.SEVERITY if told_as else NoticeKind.OPENED
        return Notice(kind=kind, time_ns=now_ns, host=self.host, case=local)

    def _told(self, news: Sequence[_Open], now_ns: int) -> None:
        known = {one.id: one for one in self._alerted}
        for one in news:
            finding = one.finding
            one.told_as = int(finding.severity)
            group = (finding.store, finding.entity)
            if finding_id(finding.tenant, finding.rule, group, one.bucket_ns) != finding.id:
                continue  # the detector would not believe it
            known[finding.id] = Alerted(
                id=finding.id,
                tenant=finding.tenant,
                rule=finding.rule,
                store=finding.store,
                entity=finding.entity,
                first_bucket_ns=one.bucket_ns,
                told_ns=now_ns,
            )
        self._alerted = tuple(known.values())[-MOST_ALERTED:]
        self._remember()

    def _remember(self) -> None:
        path = self.folder / _FILE
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps([one.model_dump() for one in self._alerted]))
            temporary.replace(path)
        except OSError as error:
            _LOG.warning(
                "tripwire_memory_not_written", reason=error.strerror, cost="people may be told twice"
            )


def _key(finding: Finding) -> Key:
    return (finding.tenant, finding.store, finding.entity)
