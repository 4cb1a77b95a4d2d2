"""Every fact about one address with its source and date: what ``sekisho who`` shows.

The same rules as the enrichers', asked of single records instead of flattened tables, so that it starts at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from agent.core.address import parse
from agent.core.finding import Confidence, OwnerFact
from agent.core.flow import Text
from agent.databases.shelf import Shelf
from agent.databases.terms import default
from agent.policy.model import Override, Policy
from agent.policy.ownership import Ownership
from enrichers import geo, owner
from enrichers.ranges import SIX_TO_FOUR, Database, RangeTable, from_networks, look_up, open_database
from enrichers.ranges.facts import KINDS, READINGS, Kind, Placeless

_MARKS = {
    "V": "original document read",
    "V2": "secondary source",
    "N": "news or other text",
    "S": "set of state-owned networks, 2021",
    "K": "not verified",
    "O": "override",
}


class Witness(BaseModel):
    """What one database says of the address, before any override."""

    model_config = ConfigDict(frozen=True)

    source: str
    """Name, day and hash."""
    prefix: str
    """The network that its record stands for."""
    country: str | None = None
    registered_country: str | None = None
    asn: int | None = None
    as_org: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One fact as a person reads it."""

    what: str
    value: str
    source: str = ""


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
    owner: OwnerFact = OwnerFact()
    owner_confidence: Confidence = Confidence.NONE
    ownership: str = ""
    """Version of the ownership table."""
    override: Override | None = None
    witnesses: dict[Kind, Witness] = {}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.model_dump(mode="json")

    def lines(self) -> Iterator[Line]:
        """The facts in the order in which a person asks for them."""
        if self.special:
            yield Line("special", self.special, self.special_source)
        if self.override:
            yield Line(
                "override", _stated(self.override), _dated(self.override.source, self.override.checked)
            )
        yield self._place()
        yield self._network()
        yield self._operator()
        yield self._owner()

    def _place(self) -> Line:
        witness = self.witnesses.get("country")
        said = _said(witness, witness.country or "nothing") if witness else "no country database"
        if witness and witness.registered_country and witness.registered_country != witness.country:
            said += f"; its network's holder is registered in {witness.registered_country}"
        if self.override and self.override.country and self.country:
            said = f"{_dated(self.override.source, self.override.checked)}; {said}"
        value = f"{self.country} (confidence {self.location_confidence.value})" if self.country else "unknown"
        if not self.country and self.special:
            value = f"none: {self.special}"
        elif not self.country and self.override and self.override.anycast:
            value = "none: anycast"
        return Line("place", value, said)

    def _network(self) -> Line:
        witness = self.witnesses.get("network")
        told = None if witness is None else f"AS{witness.asn}" if witness.asn else "nothing"
        said = _said(witness, told) if witness and told else "no network database"
        if self.override and (self.override.asn or self.override.as_org):
            said = f"{_dated(self.override.source, self.override.checked)}; {said}"
        if self.asn is None:
            return Line("network", self.as_org or "unknown", said)
        return Line("network", f"AS{self.asn} {self.as_org or ''}".rstrip(), said)

    def _operator(self) -> Line:
        fact = self.owner
        if not fact.provider:
            return Line("operator", "not on record", self.ownership)
        value = fact.provider_name or fact.provider
        if fact.organisation:
            value += f" ({fact.organisation})"
        if fact.organised_in:
            value += f", organised in {fact.organised_in}"
        return Line("operator", value, self.ownership)

    def _owner(self) -> Line:
        fact = self.owner
        if not fact.owner and not fact.owner_country:
            return Line("owner", "not on record", self.ownership)
        value = f"{fact.owner or 'unnamed'}, {fact.owner_country or 'country not on record'}"
        value += f", {fact.share}" if fact.share else ""
        flags = [name for name in ("disputed", "review", "stale") if getattr(fact, name)]
        value += f" (confidence {self.owner_confidence.value}{''.join(f', {flag}' for flag in flags)})"
        parts = [fact.source, f"checked {fact.checked}" if fact.checked else ""]
        parts += [
            f"mark {fact.mark}: {_MARKS.get(fact.mark, '')}" if fact.mark else "",
            *fact.designations,
            fact.note,
        ]
        return Line("owner", value, "; ".join(p for p in parts if p))


class AddressBook:
    """Answers for single addresses from the databases in place, the policy's overrides and the ownership table."""

    def __init__(
        self,
        databases: dict[Kind, Database],
        overrides: tuple[Override, ...],
        ownership: Ownership,
        placeless: Placeless,
    ) -> None:
        self._databases = databases
        self._overrides = overrides
        self._ownership = ownership
        self._placeless = placeless
        self._scopes = from_networks(placeless.networks, {}, (SIX_TO_FOUR,))
        self._by_prefix = from_networks([o.network for o in overrides], {}, (SIX_TO_FOUR,))

    @classmethod
    def open(cls, directory: Path, *, policy: Policy | None, ownership: Ownership) -> AddressBook:
        """The book over the databases of a folder; one that is not there is left out.

        Raises :class:`EnrichError` for a file that is no database.
        """
        shelf = Shelf(directory)
        found = {kind: open_database(shelf.path(kind)) for kind in KINDS if shelf.path(kind).exists()}
        return cls(found, policy.overrides if policy else (), ownership, Placeless.read())

    @property
    def attribution(self) -> str:
        """What the databases' makers ask to be shown; empty if nothing."""
        asked = [default().terms_of(d.name).attribution for d in self._databases.values()]
        return "; ".join(dict.fromkeys(a for a in asked if a))

    def who(self, address: str, *, today: date) -> AddressFacts:
        """Every fact about an address. Raises ``ValueError`` for text that is none, :class:`EnrichError` for a broken record."""
        parsed = ip_address(address)
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
            parsed = parsed.ipv4_mapped
        witnesses = {kind: self._witness(kind, parsed) for kind in self._databases}
        table = geo.placed(_only(parsed, witnesses), self._placeless, self._overrides)
        one = parse([str(parsed)])
        row = table.find(one)
        country, as_org = (table.take(name, row) for name in ("country", "as_org"))
        asn = int(np.asarray(table.take("asn", row))[0])
        scope = int(self._scopes.find(one)[0])
        index = int(self._by_prefix.find(one)[0])
        override = self._overrides[index] if index >= 0 else None
        fact = self._ownership.fact(
            asn=asn if asn >= 0 else None, as_org=_text(as_org), today=today, override=override
        )
        return AddressFacts(
            address=str(parsed),
            special=self._placeless.names[scope] if scope >= 0 else None,
            special_source=self._source_of(scope),
            country=_text(country),
            location_confidence=geo.location_confidence(table, one)[0],
            asn=asn if asn >= 0 else None,
            as_org=_text(as_org),
            owner=fact,
            owner_confidence=owner.confidence(fact),
            ownership=self._ownership.version,
            override=override,
            witnesses=witnesses,
        )

    def _witness(self, kind: Kind, address: IPv4Address | IPv6Address) -> Witness:
        database = self._databases[kind]
        record, length = look_up(database, str(address))
        facts = dict(zip(READINGS[kind].kinds, READINGS[kind].read(record), strict=True))
        if "registered" in facts:
            facts["registered_country"] = facts.pop("registered")
        prefix = str(ip_network((address, length), strict=False))
        return Witness.model_validate({"source": database.version, "prefix": prefix, **facts})

    def _source_of(self, scope: int) -> str:
        if scope < 0:
            return ""
        name, network = self._placeless.names[scope], self._placeless.networks[scope]
        if name.startswith("anycast"):
            return f"{network}; {self._placeless.version}, not verified"
        return f"{network}; IANA special-purpose address registry"


def _only(address: IPv4Address | IPv6Address, witnesses: dict[Kind, Witness]) -> RangeTable:
    """A table that knows this one address, as the databases' table would."""
    place, net = witnesses.get("country"), witnesses.get("network")
    return from_networks(
        [ip_network(address)],
        {
            "country": Text.of([place.country if place else None]),
            "registered": Text.of([place.registered_country if place else None]),
            "asn": np.array([net.asn if net and net.asn else -1], np.int64),
            "as_org": Text.of([net.as_org if net else None]),
        },
    )


def _text(column: Any) -> str | None:
    return column.decode()[0] if isinstance(column, Text) else None


def _said(witness: Witness, what: str) -> str:
    return f"{witness.source} says {what} for {witness.prefix}"


def _dated(source: str, checked: date | None) -> str:
    return f"{source}, checked {checked}" if checked else source


def _stated(override: Override) -> str:
    skip = {"network", "source", "checked", "note"}
    stated = override.model_dump(mode="json", exclude=skip, exclude_none=True, exclude_defaults=True)
    parts = [f"{name.replace('_', ' ')} {value}" for name, value in stated.items()]
    return f"{override.network}: {', '.join(parts) or 'nothing'}" + (
        f"; {override.note}" if override.note else ""
    )
