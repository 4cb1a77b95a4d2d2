"""Approved transfers beside what was sent: how much of each is used, which pairs nobody has approved yet, and the
narrowest approval that would have held a case back.

All of it reads the ledger, which counts by UTC day: an amount of a window that begins within a day is an upper bound.
Nothing is approved here; what is proposed is a text that a person completes and commits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Literal

from agent.core.clock import DAY_NS
from agent.core.finding import Case, Finding, FindingState
from agent.policy.approvals import MOST_ID, PROVISIONAL_DAYS, Approval, ApprovedEnd
from agent.policy.meeting import selects
from agent.policy.model import Policy
from agent.store.cases import Action
from agent.store.state import State

CLOSED_DAYS: Final = 90
"""How long the approval that a closed case proposes would stand."""
MOST_PROCESSES: Final = 8
TODO: Final = "TODO"
"""Stands where a person must say something; the policy refuses it."""
_EPOCH: Final = date(1970, 1, 1)
_BY: Final = ("day", "store", "entity", "asn", "provider", "owner", "initiator", "process")
_DAYS_BACK: Final = {"5m": 0, "1h": 0, "24h": 1, "30d": 30, "12mo": 366, "calendar_year": 366}
"""UTC days before today that a window may touch."""
_NO_END: Final = re.compile(r"(?!(?:owner|provider|as):)")


@dataclass(frozen=True, slots=True)
class Sent:
    """What a store sent to one network on one UTC day, by one process and initiator."""

    day: int
    store: str
    entity: str
    asn: int
    provider: str
    owner: str
    initiator: str
    process: str
    octets: int
    """Content."""


@dataclass(frozen=True, slots=True)
class Use:
    """An approval, and how it stands today."""

    approval: Approval
    used_at_most: int | None
    """Content octets on the UTC days that its window may touch; None for one that names networks, of which the ledger
    does not know."""
    overrun: bool
    """More than its cap left in a window that is not over yet."""
    ends_in_days: int
    """Negative: it has ended."""
    due: tuple[str, ...]
    """Why a person should look: ``review``, ``ending``, ``ended``, ``overrun``."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """A transfer that might be approved, as it was seen."""

    store: str
    entity: str
    processes: tuple[str, ...]
    """Empty where one is not known, or there are too many: any."""
    initiator: Literal["local", "remote", "any"]
    largest_day: int
    days: int
    """Days on which something was sent."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found: what might be approved, and how many pairs were left out for what reason."""

    pairs: tuple[Proposed, ...]
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class HeldBack:
    """How often an approval would have held back what was found of its pair, had it stood."""

    findings: int
    held: int
    days: int
    over_cap: int
    """Days on which more than its cap left."""


def uses(policy: Policy, state: State, today: date) -> list[Use]:
    """Every approval as it stands, those that a person should look at first."""
    since = max((_DAYS_BACK[a.window] for a in policy.approvals), default=0)
    sent = _sent(state, _number(today) - since) if policy.approvals else []
    rules = {a.cap_id for a in policy.approvals}
    over = {f.rule for f in state.cases.findings_of(rules=rules) if f.state is FindingState.OPEN}
    found = [_use(a, policy, sent, today, overrun=a.cap_id in over) for a in policy.approvals]
    return sorted(found, key=lambda use: (not use.due, use.ends_in_days, use.approval.id))


def sweep(policy: Policy, state: State, today: date, days: int) -> Swept:
    """Pairs that the ledger saw within so many days, and that no approval covers and no case speaks of."""
    left_out: Counter[str] = Counter()
    cases = {(case.store.id, case.destination.entity) for case in state.cases.list_cases()}
    known = {store.id for store in policy.stores}
    pairs: dict[tuple[str, str], list[Sent]] = {}
    for row in _sent(state, _number(today) - days + 1):
        if row.octets:
            pairs.setdefault((row.store, row.entity), []).append(row)
    found = []
    for (store, entity), rows in sorted(pairs.items()):
        if (store, entity) in cases:
            left_out["case"] += 1
        elif store not in known:
            left_out["store"] += 1
        elif _NO_END.match(entity):
            left_out["end"] += 1
        elif any(_covers(a, policy, store, rows, today) for a in policy.approvals):
            left_out["approved"] += 1
        else:
            found.append(_proposed(store, entity, rows))
    return Swept(tuple(found), dict(left_out))


def provisional(pairs: Sequence[Proposed], taken: Collection[str], today: date) -> list[Approval]:
    """An approval for each pair: 30 days, 1.5 times the largest day seen. The approver is yet to be named."""
    ids = set(taken)
    return [
        Approval.model_construct(
            id=_id(f"day0-{pair.store}-{pair.entity}", ids),
            stores=(pair.store,),
            destination=ApprovedEnd(entity=pair.entity),
            processes=pair.processes,
            initiator=pair.initiator,
            basis=TODO,
            approver=TODO,
            cap=_raised(pair.largest_day),
            window="24h",
            valid_from=today,
            valid_to=today + timedelta(days=PROVISIONAL_DAYS),
            provisional=True,
            note=f"seen on {pair.days} days, {pair.largest_day} content octets on the largest",
        )
        for pair in pairs
    ]


def narrowest(
    case: Case, action: Action, state: State, taken: Collection[str]
) -> tuple[Approval, HeldBack] | None:
    """The narrowest approval that would have held a case back, and how often it would have done so in what the state
    keeps; None where its destination is not known, or none of its traffic is in the ledger."""
    store, entity = case.store.id, case.destination.entity
    if _NO_END.match(entity):
        return None
    rows = [r for r in _sent(state, 0, store=store, entity=entity) if r.octets]
    first, last = (t // DAY_NS for t in (case.traffic.first_ns, case.traffic.last_ns))
    own = [r for r in rows if first <= r.day <= last]
    if not own:
        return None
    seen, today = _proposed(store, entity, own), _EPOCH + timedelta(days=action.time_ns // DAY_NS)
    peaks = [
        f.content_octets_out
        for f in case.findings
        if f.window in ("5m", "1h", "24h") and f.measure == "content"
    ]
    approval = Approval(
        id=_id(f"case-{case.id}", set(taken)),
        stores=(store,),
        destination=ApprovedEnd(entity=entity),
        processes=seen.processes,
        initiator=seen.initiator,
        basis=action.note,
        approver=action.who,
        approved_on=today,
        cap=max(seen.largest_day, *peaks, 1),
        window="24h",
        valid_from=today,
        valid_to=today + timedelta(days=CLOSED_DAYS),
        ticket="",
        note=f"case {case.id}, closed as expected",
    )
    return approval, _held_back(approval, rows, state.cases.findings_of(store=store))


def _held_back(approval: Approval, rows: Sequence[Sent], findings: Iterable[Finding]) -> HeldBack:
    entity = approval.destination.entity
    of_pair = [f for f in findings if f.entity == entity]
    days: Counter[int] = Counter()
    outside = set()
    for row in rows:
        days[row.day] += row.octets
        if not _is_of(approval, row):
            outside.add(row.day)
    over = {day for day, octets in days.items() if octets > approval.cap}
    held = sum(_days_of(f).isdisjoint(over | outside) for f in of_pair)
    return HeldBack(len(of_pair), held, len(days), len(over))


def _days_of(finding: Finding) -> set[int]:
    return set(range(finding.window_from_ns // DAY_NS, finding.last_bucket_ns // DAY_NS + 1))


def _use(approval: Approval, policy: Policy, sent: Sequence[Sent], today: date, *, overrun: bool) -> Use:
    used: int | None = None
    if not approval.destination.networks:
        since = _number(today) - _DAYS_BACK[approval.window]
        stores = {s.id for s in policy.stores if selects(approval.stores, (), s)}
        used = sum(
            row.octets
            for row in sent
            if row.day >= since
            and row.store in stores
            and approval.initiator in ("any", row.initiator)
            and _reaches(approval.destination, row)
        )
    reasons = approval.due(today)
    if overrun:
        reasons = ("overrun", *reasons)
    return Use(approval, used, overrun, (approval.valid_to - today).days, reasons)


def _covers(approval: Approval, policy: Policy, store_id: str, rows: Sequence[Sent], today: date) -> bool:
    store = policy.store(store_id)
    is_for = store is not None and selects(approval.stores, (), store) and approval.holds_on(today)
    return is_for and all(_is_of(approval, row) and _reaches(approval.destination, row) for row in rows)


def _is_of(approval: Approval, row: Sent) -> bool:
    """Whether initiator and process are ones that it names."""
    return approval.initiator in ("any", row.initiator) and (
        not approval.processes or row.process in approval.processes
    )


def _reaches(end: ApprovedEnd, row: Sent) -> bool:
    """Whether an end that names no networks holds a network of the ledger."""
    aim = end.as_set("end")
    kind, _, name = row.entity.partition(":")
    return (
        row.entity == end.entity
        or row.asn in aim.asns
        or row.provider in aim.providers
        or row.owner in aim.owners
        or (kind == "owner" and name in aim.owners)
        or (kind == "provider" and name in aim.providers)
    )


def _proposed(store: str, entity: str, rows: Sequence[Sent]) -> Proposed:
    days: Counter[int] = Counter()
    for row in rows:
        days[row.day] += row.octets
    processes = sorted({row.process for row in rows})
    are_known = all(name not in ("", "?") for name in processes) and len(processes) <= MOST_PROCESSES
    sides = {row.initiator for row in rows}
    side: Literal["local", "remote", "any"] = "any"
    if sides == {"local"}:
        side = "local"
    elif sides == {"remote"}:
        side = "remote"
    processes_named = tuple(processes) if are_known else ()
    return Proposed(store, entity, processes_named, side, max(days.values()), len(days))


def _sent(state: State, since_day: int, *, store: str | None = None, entity: str | None = None) -> list[Sent]:
    sums = state.ledger.sums(_BY, since_day=since_day, store=store, entity=entity)
    found: list[Sent] = []
    for row in sums:
        day, its_store, its_entity, asn, provider, owner, initiator, process = row.key
        named = (str(its_store), str(its_entity), int(asn), str(provider), str(owner))
        found.append(Sent(int(day), *named, str(initiator), str(process), row.content_octets_out))
    return found


def _id(wanted: str, taken: set[str]) -> str:
    """A new id of small letters, digits and hyphens, remembered as taken."""
    plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")[:MOST_ID].rstrip("-")
    name, number = plain, 2
    while name in taken:
        end = f"-{number}"
        name, number = plain[: MOST_ID - len(end)].rstrip("-") + end, number + 1
    taken.add(name)
    return name


def _raised(octets: int) -> int:
    return -(-octets * 3 // 2)


def _number(day: date) -> int:
    return (day - _EPOCH).days
