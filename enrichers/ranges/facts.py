"""What a database's record says about place and network, and which networks have no place at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

import yaml

from agent.core.address import SPECIAL_SCOPES, Network
from agent.core.errors import EnrichError
from agent.core.shipped import shipped
from enrichers.ranges.mmdb import Database, Fact, Reading, Record, flatten, open_database
from enrichers.ranges.table import RangeTable

Kind = Literal["country", "network", "country_witness", "network_witness"]
KINDS: tuple[Kind, ...] = ("country", "network", "country_witness", "network_witness")
"""A witness is a second database of the same sort: it answers beside the first and decides how sure the place is."""
NEEDED: frozenset[Kind] = frozenset({"country", "network"})
"""Those whose absence is worth telling."""

ANYCAST_FILE = Path(__file__).parents[1] / "data" / "anycast.yaml"

DOCUMENTATION: tuple[Network, ...] = tuple(
    ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")
)
"""RFC 5737, RFC 3849, RFC 9637: no database places them, an override may."""

_NO_COUNTRY = frozenset({"AP", "EU", "XX", "ZZ"})
"""Two letters that old databases write for a region or for "unknown"; none is an ISO 3166-1 country."""
_MAX_NAME = 200


def read_country(record: Record) -> tuple[Fact, ...]:
    """(place, registrant's country), ISO 3166-1 alpha-2 or None, of a GeoLite2, GeoIP2, DB-IP or ip-location-db record.

    The registrant's country says where the network's holder is registered, not where the address is.
    """
    if not isinstance(record, dict):
        return None, None
    place = _iso(record.get("country")) or _code(record.get("country_code"))
    return place, _iso(record.get("registered_country"))


def read_network(record: Record) -> tuple[Fact, ...]:
    """(AS number, its organisation) of a GeoLite2-ASN, GeoIP2-ISP, DB-IP, iptoasn or ip-location-db record."""
    if not isinstance(record, dict):
        return None, None
    asn = _number(_first(record, "autonomous_system_number", "asn"))
    if asn is None:
        return None, None
    return asn, _name(
        _first(record, "autonomous_system_organization", "as_name", "as_org", "as_organization")
    )


READINGS: Mapping[Kind, Reading] = {
    "country": Reading({"country": str, "registered": str}, read_country),
    "network": Reading({"asn": int, "as_org": str}, read_network),
    "country_witness": Reading({"witness_country": str, "witness_registered": str}, read_country),
    "network_witness": Reading({"witness_asn": int, "witness_as_org": str}, read_network),
}
EXPECTED: Mapping[Kind, str] = {
    "country": "country.iso_code or country_code",
    "network": "autonomous_system_number",
    "country_witness": "country.iso_code or country_code",
    "network_witness": "autonomous_system_number",
}


def load(kind: Kind, path: Path) -> tuple[Database, RangeTable]:
    """A database and its table. Raises :class:`EnrichError`, also when no record has the facts of that kind."""
    database = open_database(path)
    return database, table_of(kind, database)


def table_of(kind: Kind, database: Database) -> RangeTable:
    """The table of an open database. Raises :class:`EnrichError`, also when no record has the facts of that kind."""
    table = flatten(database, READINGS[kind])
    if not len(table):
        raise EnrichError(
            f"{database.path}: no record in it has {EXPECTED[kind]}; it is no {kind} database, name another file"
        )
    return table


@dataclass(frozen=True, slots=True)
class Placeless:
    """Networks whose addresses have no country."""

    networks: tuple[Network, ...]
    names: tuple[str, ...]
    """``private``, ``documentation`` or ``anycast: Quad9``; one per network."""
    never: tuple[bool, ...]
    """Not even by an override."""
    version: str

    @classmethod
    def read(cls, path: Path = ANYCAST_FILE) -> Placeless:
        """Special-purpose scopes, documentation networks, and the anycast networks of a file. Raises EnrichError."""
        found = [(ip_network(n), scope, True) for scope, networks in SPECIAL_SCOPES for n in networks]
        found += [(n, "documentation", False) for n in DOCUMENTATION]
        try:
            raw = path.read_bytes()
            data = shipped(raw)
            for group in data["groups"]:
                found += [(ip_network(n), f"anycast: {group['name']}", False) for n in group["networks"]]
            checked = data["checked"]
        except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError) as error:
            raise EnrichError(
                f"{path}: not a list of anycast networks: {error}; install sekisho again"
            ) from error
        networks, names, never = zip(*found, strict=True)
        digest = hashlib.sha256(raw).hexdigest()
        return cls(networks, names, never, f"anycast {checked} sha256:{digest[:12]}")


def _first(record: dict[str, Any], *keys: str) -> Any:
    return next((record[k] for k in keys if record.get(k) is not None), None)


def _iso(value: Any) -> str | None:
    return _code(value.get("iso_code")) if isinstance(value, dict) else _code(value)


def _code(value: Any) -> str | None:
    if isinstance(value, str) and re.fullmatch(r"[A-Z]{2}", value) and value not in _NO_COUNTRY:
        return value
    return None


def _number(value: Any) -> int | None:
    if isinstance(value, str) and (match := re.fullmatch(r"(?:AS)?([0-9]{1,10})", value)):
        value = int(match[1])
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 32:
        return value
    return None


def _name(value: Any) -> str | None:
    """A name without control characters: it ends up on people's terminals."""
    if not isinstance(value, str) or not value.strip():
        return None
    text = value if value.isprintable() else "".join(c if c.isprintable() else " " for c in value)
    return text.strip()[:_MAX_NAME] or None
