"""Two policies over the same past: the detector itself, once with each, over rows of the archive in order of time.

Rows go to both in the same pieces, so what differs comes from the policies alone. Nothing is written and nobody is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from agent.core.clock import DAY_NS, MINUTE_NS
from agent.core.decision import Decision
from agent.core.finding import Case, Finding, NoticeKind, Severity
from agent.core.flow import BatchHeader, FlowBatch, concat
from agent.core.stages import Enricher
from agent.detection.admit import AMOUNTS, NUMBERS, TEXTS
from agent.detection.detector import Detector
from agent.policy.model import Policy
from agent.policy.ownership import Ownership
from agent.rehearsal.archived import Held, pieces
from agent.store.flows import Progress

COLUMNS: Final = frozenset(
    {*TEXTS, *NUMBERS, *AMOUNTS, "local_address", "remote_address", "remote_scope", "start_ns", "end_ns"}
    | {"marks", "agent_host"}
)
"""What the detector reads of a row."""
ROWS_AT_ONCE: Final = 50_000
_HEADER: Final = BatchHeader(agent_id="backtest")


@dataclass
class Side:
    """One policy and all that it gave."""

    policy: Policy
    ownership: Ownership
    enrichers: Sequence[Enricher] = ()
    """Asked of each row anew; none: the rows' own answers stand, also whose store a row is."""
    host: str = ""
    """Of rows that name none."""
    counts_from_ns: int = 0
    """What ended or was told before is not counted: it is there so that the windows have a past."""
    lateness_ns: int = 2 * MINUTE_NS
    findings: dict[str, Finding] = field(default_factory=dict)
    opened: dict[str, tuple[int, Severity]] = field(default_factory=dict)
    """Case -> when it was opened, and its highest severity."""
    told: Counter[int] = field(default_factory=Counter)
    """Day since 1970 -> notices of cases that people would have had."""
    _waiting: list[FlowBatch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.detector = Detector(self.policy, self.ownership, lateness_ns=self.lateness_ns, replay=True)

    def gather(self, batch: FlowBatch) -> None:
        """Take rows of the piece at hand, whatever their order; only those of stores are kept."""
        for rows in self._enriched(batch):
            inside = rows["store"] >= 0
            if inside.any():
                self._waiting.append(rows.take(inside & rows.text("remote_scope").where("external")))

    def decide(self) -> None:
        """Decide what was gathered, in order of time."""
        waiting = [rows for rows in self._waiting if len(rows)]
        self._waiting = []
        if not waiting:
            return
        rows = concat(waiting).under(_HEADER)
        # Rows of one end in an order of their own, so that it is not that of the files that decides.
        order = np.lexsort((rows["start_ns"], rows["content_octets_out"], rows["end_ns"]))
        for begin in range(0, len(rows), ROWS_AT_ONCE):
            part = rows.take(order[begin : begin + ROWS_AT_ONCE]).compact()
            self._hear(self.detector.take(part, int(part["end_ns"][-1])))

    def finish(self, until_ns: int) -> None:
        """The data has ended there."""
        self._hear(self.detector.finish(until_ns))
        self.findings = {
            name: one for name, one in self.findings.items() if one.last_bucket_ns >= self.counts_from_ns
        }

    def _enriched(self, batch: FlowBatch) -> Iterator[FlowBatch]:
        if not self.enrichers:
            yield batch
            return
        hosts = batch.text("agent_host")
        for code in np.unique(hosts.codes).tolist():
            host = hosts.values[code] if code >= 0 else self.host
            rows = batch.take(hosts.codes == code).with_header(host=host)
            for enricher in self.enrichers:
                rows = enricher.enrich(rows)
            yield rows

    def _hear(self, decision: Decision) -> None:
        self.findings |= {one.id: one for one in decision.findings}
        for merged in [one.id for one in decision.findings if "merged" in one.reasons]:
            del self.findings[merged]
        for notice in decision.notices:
            if notice.case is None or notice.time_ns < self.counts_from_ns:
                continue
            self.told[notice.time_ns // DAY_NS] += 1
            if notice.kind is NoticeKind.OPENED:
                self.opened[notice.case.id] = (notice.time_ns, notice.case.severity)
        for case in decision.cases:
            self._raise(case)

    def _raise(self, case: Case) -> None:
        if case.id in self.opened:
            opened, severity = self.opened[case.id]
            self.opened[case.id] = (opened, max(severity, case.severity))

    def cases_by_day(self) -> Mapping[int, int]:
        """Day since 1970 -> cases opened on it."""
        return Counter(opened // DAY_NS for opened, _ in self.opened.values())

    def cases_by_severity(self) -> Mapping[str, int]:
        """Severity -> cases opened."""
        return Counter(severity.name.lower() for _, severity in self.opened.values())


@dataclass(frozen=True, slots=True)
class Short:
    """A rule whose window reaches further back than what is held, so that its sums before a moment lack something."""

    rule: str
    window: str
    whole_from_ns: int


@dataclass(frozen=True)
class Compared:
    """What the one policy finds in the past and the other does not."""

    appear: tuple[Finding, ...]
    vanish: tuple[Finding, ...]
    both: tuple[tuple[Finding, Finding], ...]
    """(old, new) of the same rule, store and destination at overlapping times."""

    @property
    def changed(self) -> tuple[tuple[Finding, Finding], ...]:
        """Those of both whose severity differs."""
        return tuple((old, new) for old, new in self.both if old.severity != new.severity)


def run(
    directory: Path,
    sides: Sequence[Side],
    from_ns: int,
    until_ns: int,
    held: Held,
    progress: Progress,
) -> None:
    """Run the archive's rows of [from, until) through every side. Blocks; memory holds one piece of time.

    Raises :class:`~agent.core.errors.StateError` for a folder that holds no archive or a file that cannot be read.
    """
    columns = COLUMNS.union(*(e.reads for side in sides for e in side.enrichers))
    for _, batches in pieces(directory, from_ns, until_ns, columns, progress):
        for batch in batches:
            held.see(batch)
            for side in sides:
                side.gather(batch)
        for side in sides:
            side.decide()
    for side in sides:
        side.finish(until_ns)


def compare(old: Side, new: Side) -> Compared:
    """What appears and vanishes with the new one, by time."""
    left: dict[tuple[str, ...], list[Finding]] = {_key(one): [] for one in old.findings.values()}
    for one in old.findings.values():
        left[_key(one)].append(one)
    appear, both = [], []
    for one in sorted(new.findings.values(), key=_when):
        met = [other for other in left.get(_key(one), []) if _overlap(one, other)]
        if not met:
            appear.append(one)
        both += [(other, one) for other in met]
    matched = {other.id for other, _ in both}
    vanish = [one for one in sorted(old.findings.values(), key=_when) if one.id not in matched]
    return Compared(tuple(appear), tuple(vanish), tuple(both))


def short(side: Side, first_ns: int | None, from_ns: int) -> list[Short]:
    """Rules of a side whose sums at ``from_ns`` would need rows from before ``first_ns``, the first that are held."""
    first = from_ns if first_ns is None else first_ns
    found = {
        (watch.pack, watch.rule.id): Short(
            f"{watch.pack}/{watch.rule.id}", watch.window.name, first + watch.window.span_ns
        )
        for watch in side.detector.watches
        if first + watch.window.span_ns > from_ns
    }
    return [found[key] for key in sorted(found)]


def _key(one: Finding) -> tuple[str, ...]:
    return (one.tenant, one.pack, one.rule, one.store, one.entity)


def _when(one: Finding) -> tuple[int, str]:
    return (one.first_bucket_ns, one.id)


def _overlap(one: Finding, other: Finding) -> bool:
    return one.first_bucket_ns <= other.last_bucket_ns and other.first_bucket_ns <= one.last_bucket_ns
