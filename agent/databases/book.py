"""Every fact about one address with its source and date: what ``sekisho who`` shows.

The same rules as the enrichers', asked of single records instead of flattened tables, so that it starts at once.
"""

from __future__ import annotations

from datetime import date
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from agent.core.address import Addresses, parse
from agent.core.finding import Confidence, OwnerFact
from agent.core.flow import Text
from agent.databases.terms import default
from agent.policy.model import Override, Policy
from agent.policy.ownership import Ownership
from enrichers import geo, owner
from enrichers.ranges import SIX_TO_FOUR, Database, RangeTable, from_networks, look_up, open_database
from enrichers.ranges.clouds import bits, words
from enrichers.ranges.facts import KINDS, READINGS, Kind, Placeless
from enrichers.ranges.lists import AddressList
from enrichers.ranges.places import location_confidence, placed
from enrichers.ranges.sources import Sources


class Witness(BaseModel):
    """What one database says of the address, before any override."""

    model_config = ConfigDict(frozen=True)

    source: str
    """Name, day and hash."""
    lineage: str | None = None
    """Who first gathered what it says, as the settings or our record have it: two of one lineage are one witness."""
    prefix: str
    """The network that its record stands for."""
    country: str | None = None
    registered_country: str | None = None
    asn: int | None = None
    as_org: str | None = None


class Listing(BaseModel):
    """What one published list says of the address."""

    model_config = ConfigDict(frozen=True)

    source: str
    """Name, day and hash."""
    origin: str = ""
    """Where the list is from, as the settings or its head say."""
    provider: str | None = None
    region: str | None = None
    service: str | None = None
    flags: tuple[str, ...] = ()


class AddressFacts(BaseModel):
    """What holds of one address. Place, network, operator and owner are separate facts; unknown is None."""

    model_config = ConfigDict(frozen=True)

    address: str
    special: str | None = None
    """``private``, ``documentation``, ``anycast: Quad9``: why it has no country."""
    special_source: str = ""
    country: str | None = None
    location_confidence: Confidence = Confidence.NONE
    asn: int | None = None
    as_org: str | None = None
    cloud: str | None = None
    """Provider that itself lists the address among its ranges."""
    cloud_region: str | None = None
    cloud_service: str | None = None
    flags: tuple[str, ...] = ()
    """What kind of address it is: ``anycast``, ``cdn``, ``hosting``, ``vpn``, ``tor``, ``relay``."""
    listings: tuple[Listing, ...] = ()
    """What each list says, also where another one decided."""
    owner: OwnerFact = OwnerFact()
    owner_confidence: Confidence = Confidence.NONE
    ownership: str = ""
    """Version of the ownership table."""
    override: Override | None = None
    witnesses: dict[Kind, Witness] = {}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.model_dump(mode="json")


class AddressBook:
    """Answers for single addresses from the databases in place, the policy's overrides and the ownership table."""

    def __init__(
        self,
        databases: dict[Kind, Database],
        overrides: tuple[Override, ...],
        ownership: Ownership,
        placeless: Placeless,
        *,
        sources: Sources | None = None,
        cache: Path | None = None,
    ) -> None:
        self._databases = databases
        self._sources = sources or Sources({})
        paths = {part: self._sources.path(part) for part in self._sources.lists}
        self._lists = {part: self._sources.open_list(part) for part, path in paths.items() if path.exists()}
        self._cache = cache
        self._overrides = overrides
        self._ownership = ownership
        self._placeless = placeless
        self._scopes = from_networks(placeless.networks, {}, (SIX_TO_FOUR,))
        self._by_prefix = from_networks([o.network for o in overrides], {}, (SIX_TO_FOUR,))

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        policy: Policy | None,
        ownership: Ownership,
        settings: geo.Settings | None = None,
        cache: Path | None = None,
    ) -> AddressBook:
        """The book over the databases and lists that the settings of ``geo`` name, by default those of a folder.

        One that is not there is left out. Tables of lists are kept in ``cache``. Raises :class:`EnrichError` for a
        file that is no database, or a list with a fault.
        """
        sources = (settings or geo.Settings()).sources(directory)
        paths = {kind: sources.databases[kind] for kind in KINDS}
        found = {kind: open_database(path) for kind, path in paths.items() if path.exists()}
        overrides = policy.overrides if policy else ()
        return cls(found, overrides, ownership, Placeless.read(), sources=sources, cache=cache)

    @property
    def attribution(self) -> str:
        """What the databases' makers ask to be shown; empty if nothing."""
        names = [d.name for d in self._databases.values()] + [d.name for d in self._lists.values()]
        asked = [default().terms_of(name).attribution for name in names]
        return "; ".join(dict.fromkeys(a for a in asked if a))

    def who(self, address: str, *, today: date) -> AddressFacts:
        """Every fact about an address. Raises ``ValueError`` for text that is none, :class:`EnrichError` for a broken record."""
        parsed = ip_address(address)
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
            parsed = parsed.ipv4_mapped
        witnesses = {kind: self._witness(kind, parsed) for kind in self._databases}
        one = parse([str(parsed)])
        two = self._sources.independent({str(k): d for k, d in self._databases.items()})
        listed = self._listing(self._lists, one, "") if self._lists else None
        only = _only(parsed, witnesses, listed)
        table = placed(only, self._placeless, self._overrides, independent=two)
        row = table.find(one)
        said = {name: _value(table.take(name, row)) for name in table.rows}
        scope = int(self._scopes.find(one)[0])
        index = int(self._by_prefix.find(one)[0])
        override = self._overrides[index] if index >= 0 else None
        fact, owner_confidence = owner.judged(
            self._ownership,
            asn=said["asn"],
            as_org=said["as_org"],
            witness_asn=said["asn_witness"],
            cloud=said["cloud"],
            region=said["cloud_region"],
            override=override,
            today=today,
        )
        return AddressFacts(
            address=str(parsed),
            special=self._placeless.names[scope] if scope >= 0 else None,
            special_source=self._source_of(scope),
            country=said["country"],
            location_confidence=location_confidence(table, one)[0],
            asn=said["asn"],
            as_org=said["as_org"],
            cloud=said["cloud"],
            cloud_region=said["cloud_region"],
            cloud_service=said["cloud_service"],
            flags=tuple(said["flags"].split("+")) if said["flags"] else (),
            listings=self._listings(one),
            owner=fact,
            owner_confidence=owner_confidence,
            ownership=self._ownership.version,
            override=override,
            witnesses=witnesses,
        )

    def _listings(self, one: Addresses) -> tuple[Listing, ...]:
        """What each list says of an address, those left out that do not name it."""
        each = [self._listing({part: found}, one, part) for part, found in self._lists.items()]
        return tuple(found for found in each if found.provider or found.flags)

    def _listing(self, lists: dict[str, AddressList], one: Addresses, part: str) -> Listing:
        table = self._sources.listed(lists, self._cache)
        row = table.find(one)
        said = {name: _value(table.take(name, row)) for name in table.rows}
        flags = words(said["flags"] or 0)
        return Listing(
            source=lists[part].version if part else "",
            origin=lists[part].source if part else "",
            provider=said["cloud"],
            region=said["cloud_region"],
            service=said["cloud_service"],
            flags=tuple(flags.split("+")) if flags else (),
        )

    def _witness(self, kind: Kind, address: IPv4Address | IPv6Address) -> Witness:
        database = self._databases[kind]
        record, length = look_up(database, str(address))
        names = ("asn", "as_org") if kind.startswith("network") else ("country", "registered_country")
        facts = dict(zip(names, READINGS[kind].read(record), strict=True))
        prefix = str(ip_network((address, length), strict=False))
        known = self._sources.lineage(kind, database)
        told = {"source": database.version, "lineage": known.name if known else None, "prefix": prefix}
        return Witness.model_validate({**told, **facts})

    def _source_of(self, scope: int) -> str:
        if scope < 0:
            return ""
        name, network = self._placeless.names[scope], self._placeless.networks[scope]
        if name.startswith("anycast"):
            return f"{network}; {self._placeless.version}, not verified"
        return f"{network}; IANA special-purpose address registry"


def _only(
    address: IPv4Address | IPv6Address, witnesses: dict[Kind, Witness], listed: Listing | None
) -> RangeTable:
    """A table that knows this one address, as the table of all sources would."""
    nothing = Witness(source="", prefix="")
    place, net, second, other = (witnesses.get(kind, nothing) for kind in KINDS)
    said = listed or Listing(source="")
    return from_networks(
        [ip_network(address)],
        {
            "country": Text.of([place.country]),
            "registered": Text.of([place.registered_country]),
            "witness_country": Text.of([second.country]),
            "asn": np.array([net.asn or -1], np.int64),
            "as_org": Text.of([net.as_org]),
            "witness_asn": np.array([other.asn or -1], np.int64),
            "cloud": Text.of([said.provider]),
            "cloud_region": Text.of([said.region]),
            "cloud_service": Text.of([said.service]),
            "flags": np.array([bits(said.flags) or -1], np.int64),
        },
    )


def _value(column: Any) -> Any:
    """The one value of a column; None for null."""
    if isinstance(column, Text):
        return column.decode()[0]
    number = int(column[0])
    return number if number >= 0 else None
