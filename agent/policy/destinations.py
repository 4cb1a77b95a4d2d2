"""Remote ends: the sets that rules name, and what an operator knows better than the databases about one network."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import Field

from agent.policy.networks import NetworkField
from agent.policy.values import Country, Entry, Id


class DestinationSet(Entry):
    """Remote ends that rules name together. An end belongs to the set when any line matches it.

    Place, network, operator and owner are four separate facts: `countries` asks where the address is,
    `owner_countries` where the ultimate owner's head office is.
    """

    id: Id
    name: str = ""
    owners: tuple[str, ...] = Field((), description="Ultimate owners, by id of ownership.yaml")
    owner_countries: tuple[Country, ...] = ()
    organised_in: tuple[Country, ...] = Field((), description="Countries in which the operator is organised")
    providers: tuple[str, ...] = ()
    asns: tuple[Annotated[int, Field(ge=1, le=4294967295)], ...] = ()
    countries: tuple[Country, ...] = Field(
        (), description="Where the address is; alone it never opens a case"
    )
    networks: tuple[NetworkField, ...] = ()
    review_counts: bool = Field(
        False,
        description="An owner on record counts although its row says `review`; a disputed one never does",
    )
    note: str = Field("", description="Why these, and from where")


class Override(Entry):
    """What an operator knows better than the databases about one network. Wins over all of them; longest prefix first."""

    network: NetworkField
    country: Country | None = None
    asn: Annotated[int, Field(ge=1, le=4294967295)] | None = None
    as_org: str | None = None
    provider: str | None = None
    owner: str | None = None
    owner_country: Country | None = None
    organised_in: Country | None = None
    anycast: bool = False
    source: str = Field("override", description="Who says so")
    checked: date | None = None
    note: str = ""
