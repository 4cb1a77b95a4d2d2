"""What another table of owners would change: networks, the ledger's sums of the past, and what rules would find in it.

Asked before a table is in force; nothing is written. Rules are held against whole UTC days of the ledger: a window of a
day or less against each day, 30 days against the days of 30 days. Further facts that a rule may ask for (first seen,
share of the store) and who opened a flow are not looked at, so it tells where a rule's amount is passed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from agent.core.clock import DAY_NS
from agent.core.finding import OwnerFact
from agent.detection.rules import PathFact, Rulebook
from agent.policy.entity import STATED, Recorded, recorded_entity, recorded_fact
from agent.policy.model import Policy
from agent.policy.ownership import Ownership

Days = Mapping[Recorded, Mapping[int, int]]
"""Content octets of network facts by day since 1970-01-01 UTC."""
_DAYS: Final = {"30d": 30}
"""Days of the windows that are longer than one."""


@dataclass(frozen=True, slots=True)
class NetworkChange:
    """A network of which the tables say something else."""

    asn: int
    organisation: str
    before: OwnerFact
    after: OwnerFact


@dataclass(frozen=True, slots=True)
class PairChange:
    """Traffic of a store whose entity, owner or owner's country becomes another."""

    store: str
    asn: int
    as_org: str
    entity_before: str
    entity_after: str
    country_before: str | None
    country_after: str | None
    first_day: int
    last_day: int
    content_octets_out: int


@dataclass(frozen=True, slots=True)
class Passed:
    """A rule whose amount a store's traffic to an entity passes by one table and not by the other."""

    rule: str
    store: str
    entity: str
    first_day: int
    """The first day on which it does."""
    content_octets_out: int
    """The largest sum of a window."""
    threshold_octets: int


@dataclass(frozen=True, slots=True)
class Difference:
    """All of it; each list with the most octets first."""

    networks: tuple[NetworkChange, ...]
    pairs: tuple[PairChange, ...]
    appear: tuple[Passed, ...]
    vanish: tuple[Passed, ...]


def difference(policy: Policy, before: Ownership, after: Ownership, days: Days, today: date) -> Difference:
    """What ``after`` in place of ``before`` would change over these days."""
    old, new = _passed(policy, before, days, today), _passed(policy, after, days, today)
    return Difference(
        networks=tuple(_networks(before, after, today)),
        pairs=tuple(_pairs(before, after, days, today)),
        appear=_most(found for key, found in new.items() if key not in old),
        vanish=_most(found for key, found in old.items() if key not in new),
    )


def _networks(before: Ownership, after: Ownership, today: date) -> list[NetworkChange]:
    found = []
    for asn in sorted({a for table in (before, after) for row in table.rows for a in row.asns}):
        one, other = (table.fact(asn=asn, as_org=None, today=today) for table in (before, after))
        if one != other:
            found.append(NetworkChange(asn, other.organisation or one.organisation, one, other))
    return found


def _pairs(before: Ownership, after: Ownership, days: Days, today: date) -> list[PairChange]:
    found = []
    for facts, by_day in days.items():
        one, other = (recorded_fact(table, facts, today) for table in (before, after))
        entities = [recorded_entity(table, facts, today) for table in (before, after)]
        if (entities[0], one.owner_country) == (entities[1], other.owner_country):
            continue
        found.append(
            PairChange(
                store=facts.store,
                asn=facts.asn,
                as_org=facts.as_org,
                entity_before=entities[0],
                entity_after=entities[1],
                country_before=one.owner_country,
                country_after=other.owner_country,
                first_day=min(by_day),
                last_day=max(by_day),
                content_octets_out=sum(by_day.values()),
            )
        )
    return sorted(found, key=lambda one: (-one.content_octets_out, one.store, one.asn))


def _passed(
    policy: Policy, ownership: Ownership, days: Days, today: date
) -> dict[tuple[str, str, str], Passed]:
    book = Rulebook(policy, ownership, 0)
    rules = {watch.index: watch for watch in book.watches}
    sums: dict[tuple[int, str, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for facts, by_day in days.items():
        path = _path(facts, today)
        entity = recorded_entity(ownership, facts, today)
        for index in book.hits(path, recorded_fact(ownership, facts, today)):
            for day, octets in by_day.items():
                sums[index, facts.store, entity][day] += octets
    found = {}
    for (index, store, entity), by_day in sums.items():
        watch = rules[index]
        passing = _over(by_day, _DAYS.get(watch.window.name, 1), watch.over)
        if passing:
            name = f"{watch.pack}/{watch.rule.id}"
            first, largest = passing
            found[name, store, entity] = Passed(name, store, entity, first, largest, watch.over)
    return found


def _over(by_day: Mapping[int, int], width: int, over: int) -> tuple[int, int] | None:
    """The first day up to which the sum of ``width`` days is more than ``over``, and the largest such sum."""
    sums = {day: sum(by_day.get(day - back, 0) for back in range(width)) for day in by_day}
    passing = [day for day, total in sums.items() if total > over]
    return (min(passing), max(sums.values())) if passing else None


def _path(facts: Recorded, today: date) -> PathFact:
    days = (today - date(1970, 1, 1)).days
    return PathFact(
        tenant=facts.tenant,
        store=facts.store,
        initiator="local",
        shared=False,
        estimated=False,
        country=facts.country,
        asn=facts.asn,
        as_org=facts.as_org,
        provider=facts.provider.removeprefix(STATED),
        owner=facts.owner.removeprefix(STATED),
        owner_country="",
        location_confidence="",
        owner_confidence="",
        override=f"{facts.provider} {facts.owner}" if STATED in (facts.provider[:1], facts.owner[:1]) else "",
        networks=frozenset(),
        born_ns=days * DAY_NS,
    )


def _most(found: Iterable[Passed]) -> tuple[Passed, ...]:
    return tuple(sorted(found, key=lambda one: (-one.content_octets_out, one.rule, one.store)))
