"""Findings to cases, cases to notices. One open case for each (tenant, store, destination entity).

People are told when a case opens, when it grows more severe, when another pack joins, and when its traffic has
stopped: at most four times for one transfer. Of the two times between opening and stopping one is held back for the
rise to high, so that the last step to where people are woken is never the silent one. Live, :mod:`agent.detection.watching`
adds what only time shows. A case of medium severity or more is closed by a person only, whatever its traffic does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.core.clock import when
from agent.core.finding import (
    ApprovalFact,
    Case,
    CaseState,
    Destination,
    Finding,
    FindingState,
    Notice,
    NoticeKind,
    Severity,
    StoreFact,
    Traffic,
    TrafficState,
)
from agent.detection.episodes import RECLASSIFIED
from agent.detection.watching import GRAIN_NS, STOPPED_AFTER_NS, Said, due

MERGED: Final = "merged"
"""Reason of a finding that became part of an older one."""

SUBJECTS_POSSIBLE: Final = "subjects_possible"
"""Why a finding is but a note: so many persons are possible, and the octets are under the rule's own number."""
_TIMES_BETWEEN: Final = 2
MOST_RECLASSIFIED: Final = 4096
"""Entities that are remembered as told of after the table of owners changed; the newest."""

Key = tuple[str, str, str]
Told = tuple[StoreFact, Destination, Traffic, tuple[ApprovalFact, ...]]
_TOLD: Final = ("store", "destination", "traffic", "approvals")


@dataclass(frozen=True, slots=True)
class Ruling:
    """A finding of which something changed, and what."""

    finding: Finding
    what: str
    """open, grow, update, close, merge or severity."""
    time_ns: int


class Cases:
    """All cases that are not closed. ``facts`` gives what is told of a key, looking back to a time."""

    def __init__(self, facts: Callable[[Key, int], Told], host: str, *, simulated: bool) -> None:
        self._facts = facts
        self._host = host
        self._simulated = simulated
        self.open: dict[Key, Case] = {}
        self._since: dict[Key, int] = {}
        """From when each case counts: the beginning of the first window that was passed."""
        self._numbers: dict[str, int] = {}
        self._said: dict[Key, Said] = {}
        """What people were told of each case."""
        self._watched = 0
        """How far :meth:`watch` has looked, in whole minutes."""
        self._reclassified: dict[tuple[str, str], None] = {}
        """(tenant, entity) of which people know that it has cases only because the table of owners changed."""

    def has(self, key: Key) -> bool:
        """Whether a case of this key is not closed."""
        return key in self.open

    def rule(self, rulings: list[Ruling]) -> tuple[dict[str, Case], list[Notice]]:
        """Take findings in the order of events; gives the cases that changed (latest only) and the notices."""
        changed: dict[str, Case] = {}
        notices: list[Notice] = []
        for ruling in rulings:
            case, kind = self._take(ruling)
            if case is None:
                continue
            changed[case.id] = case
            if kind is not None:
                notices.append(self._notice(case, kind, ruling.time_ns))
        return changed, notices

    def watch(self, watermark_ns: int) -> tuple[dict[str, Case], list[Notice]]:
        """Live: what only time shows, each minute of the watermark: traffic that has stopped, has doubled, goes on for a
        day, or that nobody takes. Gives the cases that changed and the notices."""
        minute = watermark_ns // GRAIN_NS
        if minute <= self._watched or not self.open:
            return {}, []
        self._watched, now_ns = minute, minute * GRAIN_NS
        changed: dict[str, Case] = {}
        notices: list[Notice] = []
        for key, before in sorted(self.open.items()):
            told = self._fresh(key)
            is_still = now_ns - told["traffic"].last_ns >= STOPPED_AFTER_NS
            state = TrafficState.STOPPED if is_still else _moving(before, told["traffic"])
            after = before.model_copy(update={**told, "traffic_state": state, "updated_ns": now_ns})
            kind = due(before, after, self._said[key], now_ns)
            if kind is None and state is before.traffic_state:
                continue
            self.open[key] = after = after.model_copy(update={"revision": before.revision + 1})
            changed[after.id] = after
            if kind is not None:
                self._said[key].note(kind, after, now_ns)
                notices.append(self._notice(after, kind, now_ns))
        return changed, notices

    def _fresh(self, key: Key) -> dict[str, Any]:
        """What is told of a case's key now."""
        return dict(zip(_TOLD, self._facts(key, self._since[key]), strict=True))

    def refreshed(self) -> dict[str, Case]:
        """Open cases whose traffic has moved since they were last written, brought up to date."""
        changed = {}
        for key, before in self.open.items():
            told = self._fresh(key)
            if told["traffic"] != before.traffic:
                after = before.model_copy(update={**told, "revision": before.revision + 1})
                self.open[key] = changed[after.id] = after
        return changed

    def _take(self, ruling: Ruling) -> tuple[Case | None, NoticeKind | None]:
        finding = ruling.finding
        key = (finding.tenant, finding.store, finding.entity)
        before = self.open.get(key)
        if finding.approval and (before is None or all(f.id != finding.id for f in before.findings)):
            return None, None  # recorded; nobody is told
        if before is None:
            if ruling.what not in (
                "open",
                "grow",
                "approval",
            ):  # what goes on growing after a person closed it is news
                return None, None
            case = self._opened(key, ruling)
            told = None if _is_note(case) else NoticeKind.OPENED
            return case, self._noted(key, case, self._first_of_its_kind(finding, told), ruling.time_ns)
        findings = {f.id: f for f in before.findings} | {finding.id: finding}
        if ruling.what == "merge":
            del findings[finding.id]
        after = self._revised(key, before, tuple(findings.values()), ruling)
        kind = self._worth_telling(key, after, self._kind(before, after, finding), ruling.time_ns)
        kind = self._noted(key, after, self._first_of_its_kind(finding, kind), ruling.time_ns)
        if after.state is CaseState.CLOSED:
            self._forget(key)
        else:
            self.open[key] = after
        return after, kind

    def _opened(self, key: Key, ruling: Ruling) -> Case:
        finding = ruling.finding
        self._since[key] = finding.window_from_ns
        case = Case(
            id=self._number(ruling.time_ns),
            severity=finding.severity,
            tenant=finding.tenant,
            **self._fresh(key),
            findings=(finding,),
            opened_ns=ruling.time_ns,
            updated_ns=ruling.time_ns,
        )
        self.open[key] = case
        self._said[key] = Said(severity=case.severity)
        return case

    def _revised(self, key: Key, before: Case, findings: tuple[Finding, ...], ruling: Ruling) -> Case:
        self._since[key] = min(self._since[key], ruling.finding.window_from_ns)
        told = self._fresh(key)
        severity = max([before.severity, *(f.severity for f in findings)])
        is_over = all(f.state is FindingState.CLOSED for f in findings)
        moving = _moving(before.model_copy(update={"findings": findings}), told["traffic"])
        if ruling.what == "open":
            moving = TrafficState.ONGOING
        return before.model_copy(
            update={
                **told,
                "revision": before.revision + 1,
                "state": CaseState.CLOSED if is_over and severity < Severity.MEDIUM else before.state,
                "traffic_state": TrafficState.STOPPED if is_over else moving,
                "severity": severity,
                "findings": findings,
                "updated_ns": max(before.updated_ns, ruling.time_ns),
            }
        )

    def _kind(self, before: Case, after: Case, finding: Finding) -> NoticeKind | None:
        """Why people are told, if they are."""
        if _is_note(after):
            return None
        if _is_note(before):
            return NoticeKind.OPENED
        was_over, is_over = (c.traffic_state is TrafficState.STOPPED for c in (before, after))
        if is_over and not was_over:
            return NoticeKind.CLOSED
        if was_over and not is_over:
            # What moves again within an episode is what people know of; only a new one is news.
            return NoticeKind.OPENED if len(after.findings) > len(before.findings) else None
        if after.severity > before.severity:
            return NoticeKind.SEVERITY
        return NoticeKind.PACK if finding.pack not in before.packs else None

    def _worth_telling(
        self, key: Key, case: Case, kind: NoticeKind | None, time_ns: int
    ) -> NoticeKind | None:
        """The kind, unless people were told often enough."""
        said = self._said[key]
        if kind is NoticeKind.OPENED:
            said.begin(case)
        if kind is NoticeKind.CLOSED and not said.may_stop(time_ns):
            return None
        if kind not in (NoticeKind.SEVERITY, NoticeKind.PACK):
            return kind
        wakes = case.severity >= Severity.HIGH > said.severity
        held_back = 0 if wakes or said.severity >= Severity.HIGH else 1
        if said.times + held_back >= _TIMES_BETWEEN:
            return None
        said.times, said.severity = said.times + 1, case.severity
        return kind

    def _noted(self, key: Key, case: Case, kind: NoticeKind | None, time_ns: int) -> NoticeKind | None:
        if kind is not None:
            self._said[key].note(kind, case, time_ns)
        return kind

    def _first_of_its_kind(self, finding: Finding, kind: NoticeKind | None) -> NoticeKind | None:
        """Of what was found only because the table of owners changed people are told once for an entity, however many
        stores sent there: the other cases stand in the list."""
        if kind in (None, NoticeKind.CLOSED) or RECLASSIFIED not in finding.reasons:
            return kind
        entity = (finding.tenant, finding.entity)
        if entity in self._reclassified:
            return None
        if len(self._reclassified) >= MOST_RECLASSIFIED:
            del self._reclassified[next(iter(self._reclassified))]
        self._reclassified[entity] = None
        return kind

    def rename(self, keys: Mapping[Key, Key]) -> dict[str, Case]:
        """The table of owners changed: the cases of these keys go by others from now on, and keep their ids. A key that
        has a case already is left alone. Gives the cases that changed; nobody is told of it here."""
        self._reclassified.clear()
        changed = {}
        for old, new in keys.items():
            if old not in self.open or new in self.open:
                continue
            before, since = self.open.pop(old), self._since.pop(old)
            self._said[new], self._since[new] = self._said.pop(old), since
            findings = tuple(f.model_copy(update={"entity": new[2]}) for f in before.findings)
            facts = {**self._fresh(new), "findings": findings}
            self.open[new] = before.model_copy(update={**facts, "revision": before.revision + 1})
            changed[before.id] = self.open[new]
        return changed

    def _notice(self, case: Case, kind: NoticeKind, time_ns: int) -> Notice:
        return Notice(
            kind=kind,
            time_ns=time_ns,
            host=case.store.host or self._host,
            case=case,
            simulated=self._simulated,
        )

    def _number(self, time_ns: int) -> str:
        day = when(time_ns).strftime("%Y-%m%d")
        self._numbers[day] = self._numbers.get(day, 0) + 1
        return f"{day}-{self._numbers[day]:02d}"

    def _forget(self, key: Key) -> None:
        self.open.pop(key, None)
        self._since.pop(key, None)
        self._said.pop(key, None)

    # what people do

    def closed(self, case_id: str) -> None:
        """A person closed it: the next finding of its key opens another."""
        for key in [k for k, case in self.open.items() if case.id == case_id]:
            self._forget(key)

    def reopened(self, case: Case) -> None:
        """A person said that it is not done with: it goes on as it stood, unless another of its key is open by now."""
        key = (case.tenant, case.store.id, case.destination.entity)
        if key in self.open:
            return
        self._since[key] = min(f.window_from_ns for f in case.findings)
        self.open[key] = case.model_copy(update={"state": CaseState.OPEN})
        self._said[key] = Said.of(case)

    def acknowledged(self, case_id: str) -> None:
        """A person has it."""
        for key, case in self.open.items():
            if case.id == case_id and case.state is CaseState.OPEN:
                self.open[key] = case.model_copy(update={"state": CaseState.ACKNOWLEDGED})

    def state(self) -> dict[str, Any]:
        """All of it as plain values."""
        cases = [
            {"case": case.model_dump(mode="json"), "since": self._since[key], "told": self._said[key].state()}
            for key, case in self.open.items()
        ]
        more = {"reclassified": list(self._reclassified), "watched": self._watched}
        return {"cases": cases, "numbers": self._numbers, **more}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self._numbers = state["numbers"]
        self._reclassified = dict.fromkeys(map(tuple, state.get("reclassified", ())))
        self.open, self._since, self._said = {}, {}, {}
        self._watched = state.get("watched", 0)
        for entry in state["cases"]:
            case = Case.model_validate(entry["case"])
            key = (case.tenant, case.store.id, case.destination.entity)
            self.open[key], self._since[key] = case, entry["since"]
            self._said[key] = Said.restored(entry["told"], case)


def _is_note(case: Case) -> bool:
    """Whether it only notes that so many persons are possible: that pages nobody."""
    return case.severity is Severity.INFORMATIONAL and all(
        SUBJECTS_POSSIBLE in f.severity_reasons for f in case.findings
    )


def _moving(case: Case, traffic: Traffic) -> TrafficState:
    """Traffic that has come since makes it move again, as long as any finding is open."""
    is_open = any(f.state is FindingState.OPEN for f in case.findings)
    return TrafficState.ONGOING if is_open and traffic.last_ns > case.traffic.last_ns else case.traffic_state
