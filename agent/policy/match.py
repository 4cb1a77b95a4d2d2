"""Whether a network belongs to a destination set. Place, operator and owner are asked one by one and never mixed.

Called once per distinct network, not per row; only ``networks`` of a set needs the address itself
(:func:`in_networks`, over columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from agent.core.address import Addresses, NetworkSet
from agent.core.finding import OwnerFact
from agent.policy.graph import FLOOR, Held
from agent.policy.model import DestinationSet
from agent.policy.ownership import Ownership

OWNER_LINES = frozenset({"owner", "owner_country", "owner_share"})
"""Lines that rest on who the ultimate owner is, or on what several owners hold together."""


@dataclass(frozen=True, slots=True)
class Match:
    """How a network matches a destination set."""

    hit: bool
    """Whether it belongs to the set."""
    by: tuple[str, ...]
    """Lines that match: owner, owner_country, owner_share, organised_in, provider, asn, network, country. ``country`` is
    told, but alone is no hit."""
    review: bool
    """Something other than the place matches, but the record is disputed or does not decide by itself."""
    held: Held | None = None
    """What ``owner_share`` rests on, where it matches."""


def restricts(
    destinations: DestinationSet,
    provider: str | None,
    owner: str | None,
    owner_country: str | None,
    organised_in: str | None,
    asn: int | None,
    country: str | None,
    disputed: bool = False,
    review: bool = False,
    *,
    in_network: bool = False,
    held: Held | None = None,
) -> Match:
    """How one network matches. ``owner`` is an id. None and empty text are unknown and match nothing.

    Lines on the owner count only if the record is not ``disputed``, and not for ``review`` unless the set says
    ``review_counts``. ``held``: what owners that the set names hold of the holder together; from 50 % on (28 CFR
    202.211(a)(1), mark V) it is the line ``owner_share``, told only where the ultimate owner alone does not match, and no
    hit where disputed stakes are needed to come so far. What the set names itself (provider, AS, network) and where the
    holder is organised stand whatever is said of the owner.
    """
    asked = (
        ("owner", owner, destinations.owners),
        ("owner_country", owner_country, destinations.owner_countries),
        ("organised_in", organised_in, destinations.organised_in),
        ("provider", provider, destinations.providers),
        ("country", country, destinations.countries),
    )
    by = [line for line, value, wanted in asked if value and value in wanted]
    if asn is not None and asn in destinations.asns:
        by.append("asn")
    if in_network:
        by.append("network")
    owner_decides = not disputed and (not review or destinations.review_counts)
    hit = any(line != "country" and (owner_decides or line not in OWNER_LINES) for line in by)
    doubtful = (disputed or review) and any(line != "country" for line in by)
    if held is None or held.possible < FLOOR or OWNER_LINES.intersection(by):
        return Match(hit, tuple(by), doubtful)
    decides = held.share >= FLOOR and owner_decides
    return Match(
        hit or decides, (*by, "owner_share"), doubtful or disputed or review or held.share < FLOOR, held
    )


def matches(
    destinations: DestinationSet,
    fact: OwnerFact,
    *,
    asn: int | None,
    country: str | None,
    in_network: bool = False,
    held: Held | None = None,
) -> Match:
    """:func:`restricts` for an owner fact. A stale fact still counts; the alert says that it is stale."""
    return restricts(
        destinations,
        fact.provider,
        fact.owner_id,
        fact.owner_country,
        fact.organised_in,
        asn,
        country,
        fact.disputed,
        fact.review,
        in_network=in_network,
        held=held,
    )


def on_record(destinations: Sequence[DestinationSet], ownership: Ownership, today: date) -> tuple[int, int]:
    """How many AS numbers on record belong to any of some sets, and how many more are for review only."""
    hits = review = 0
    for row in ownership.rows:
        for asn in row.asns:
            fact = ownership.fact(asn=asn, as_org=None, today=today)
            found = [
                matches(d, fact, asn=asn, country=None, held=ownership.held(fact, d)) for d in destinations
            ]
            hits += any(m.hit for m in found)
            review += any(m.review for m in found) and not any(m.hit for m in found)
    return hits, review


def in_networks(destinations: DestinationSet, addresses: Addresses) -> NDArray[np.bool_]:
    """Where the address lies in a network that the set names. Shape (n,)."""
    if not destinations.networks:
        return np.zeros(len(addresses), bool)
    return NetworkSet(destinations.networks).contains(addresses)
