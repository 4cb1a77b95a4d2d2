"""Who is at the other end, from the network facts that a row or a day of the ledger keeps.

The table in force decides. What the sender wrote of provider and owner is a witness: it counts only where the table
knows neither the network nor the provider. What an override states stands before both.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

from agent.core.finding import OwnerFact
from agent.policy.model import Override
from agent.policy.ownership import Ownership

STATED: Final = "="
"""Begins a provider or owner of the ledger that an override stated: ``=example-holdings``. No id begins so."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Network facts of some rows of the ledger, whose they are, and the entity that they have there."""

    tenant: str
    store: str
    entity: str
    asn: int
    """-1 is unknown, as are empty texts."""
    as_org: str
    provider: str
    owner: str
    country: str


def fact_of(
    ownership: Ownership,
    *,
    asn: int,
    as_org: str,
    provider: str,
    owner: str,
    today: date,
    override: Override | None = None,
) -> OwnerFact:
    """What is on record of a network; -1 and empty texts are unknown."""
    number = asn if asn >= 0 else None
    known = number is not None and ownership.asn(number) is not None
    named = None if known else provider or None
    decided = known or (named is not None and ownership.provider(named) is not None)
    return ownership.fact(
        asn=number,
        as_org=as_org or None,
        provider=named,
        owner=None if decided else owner or None,
        today=today,
        override=override,
    )


def entity_of(fact: OwnerFact, *, asn: int, provider: str) -> str:
    """The owner if it is beyond doubt, else the provider, else the network; ``unknown`` where nothing is known (-1),
    ``other`` where it was given up for want of room."""
    if fact.owner_id and not fact.disputed and not fact.review:
        return f"owner:{fact.owner_id}"
    if fact.provider or provider:
        return f"provider:{fact.provider or provider}"
    if asn >= 0:
        return f"as:{asn}"
    return "unknown" if asn == -1 else "other"


def stated(value: str, by_override: str | None) -> str:
    """A provider or owner as the ledger keeps it."""
    return f"{STATED}{by_override}" if by_override else value


def recorded_fact(ownership: Ownership, facts: Recorded, today: date) -> OwnerFact:
    """What this table has on record of network facts of the ledger."""
    provider, owner = (
        v.removeprefix(STATED) if v.startswith(STATED) else None for v in (facts.provider, facts.owner)
    )
    if provider is None and owner is None:
        return fact_of(
            ownership,
            asn=facts.asn,
            as_org=facts.as_org,
            provider=facts.provider,
            owner=facts.owner,
            today=today,
        )
    number = facts.asn if facts.asn >= 0 else None
    fact = ownership.fact(
        asn=number, as_org=facts.as_org or None, provider=provider, owner=owner, today=today
    )
    return fact if owner is None else fact.model_copy(update={"disputed": False, "review": False})


def recorded_entity(ownership: Ownership, facts: Recorded, today: date) -> str:
    """The entity of network facts of the ledger by this table, whatever it was by an earlier one."""
    fact = recorded_fact(ownership, facts, today)
    named = entity_of(fact, asn=facts.asn, provider=facts.provider.removeprefix(STATED))
    return "other" if (named, facts.entity) == ("unknown", "other") else named
