"""What operators write down: stores, own sites, destinations, rules; and the packs and overrides we join to them.

pydantic models, read by :mod:`agent.policy.load`, exported as JSON Schema by ``sekisho policy schema``. Unknown keys
are refused. Every description below is what a person sees in the schema and in ``sekisho init``'s comments.
"""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints

from agent.core.finding import Severity
from agent.policy.networks import NetworkField

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "pi": 2**50}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgtp]i?)?\s*(?:b|bytes?|octets?)?\s*$", re.IGNORECASE)
_SPAN = re.compile(r"^\s*(\d+)\s*(s|m|h|d)\s*$")
_SPAN_NS = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_MOST_DAYS = 36_500
_MOST_OCTETS = 10**18


def octets(value: Any) -> int:
    """A size such as ``500 MB`` or ``2 GiB`` (decimal unless the unit has an i) as octets. Raises ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.match(value)):
        unit = (match[2] or "").lower()
        exact = float(match[1]) * (_BINARY.get(unit) or _DECIMAL[unit])
        size = int(min(exact, 2 * _MOST_OCTETS))
    else:
        raise ValueError("expected a size such as 500 MB, 1.5 GB or 2 GiB")
    if size < 0:
        raise ValueError("a size is not negative")
    if size > _MOST_OCTETS:
        raise ValueError("a size is at most 1000 PB")
    return size


def duration_ns(value: Any) -> int:
    """A span such as ``90s``, ``5m``, ``24h`` or ``30d`` as nanoseconds. Raises ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool):
        span_ns = value
    elif isinstance(value, str) and (match := _SPAN.match(value)):
        span_ns = int(match[1][:20]) * _SPAN_NS[match[2]]
    else:
        raise ValueError("expected a span such as 90s, 5m, 24h or 30d")
    if span_ns < 0:
        raise ValueError("a span is not negative")
    if span_ns > _MOST_DAYS * _SPAN_NS["d"]:
        raise ValueError(f"a span is at most {_MOST_DAYS}d")
    return span_ns


def _severity(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return Severity[value.upper()]
        except KeyError:
            raise ValueError("expected informational, low, medium, high or critical") from None
    return value


def _country(value: Any) -> Any:
    if value is False:  # YAML 1.1 reads an unquoted NO as false
        return "NO"
    return value.strip().upper() if isinstance(value, str) else value


Octets = Annotated[
    int,
    BeforeValidator(octets, json_schema_input_type=int | str),
    Field(ge=0, description="A size: 500 MB, 2 GiB"),
]
DurationNs = Annotated[
    int,
    BeforeValidator(duration_ns, json_schema_input_type=str),
    Field(gt=0, description="A span: 90s, 5m, 24h, 30d"),
]
SeverityName = Annotated[
    Severity,
    BeforeValidator(
        _severity, json_schema_input_type=Literal["informational", "low", "medium", "high", "critical"]
    ),
    PlainSerializer(lambda s: s.name.lower(), return_type=str),
]
Country = Annotated[
    str,
    BeforeValidator(_country),
    StringConstraints(pattern=r"^[A-Z]{2}$"),
    Field(description="ISO 3166-1 alpha-2"),
]
Id = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$"),
    Field(description="lower case letters, digits, . _ -"),
]
AddressField = IPv4Address | IPv6Address
PortField = Annotated[int, Field(ge=1, le=65535)]
ExecutableField = Annotated[
    str,
    StringConstraints(pattern=r"^/.+$"),
    Field(description="a whole path such as /usr/sbin/mysqld; a bare name goes under `processes`"),
]
UnitField = Annotated[
    str,
    StringConstraints(pattern=r"^[^/\s]+\.(service|scope)$"),
    Field(description="a unit such as postgresql.service or postgresql@*.service"),
]

THIS_HOST = "this"
"""Stands for the reporting host in ``hosts``."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Category(StrEnum):
    """What a store holds, in the words of the rules and laws that the packs cite."""

    HUMAN_GENOMIC = "human_genomic"
    HUMAN_EPIGENOMIC = "human_epigenomic"
    HUMAN_PROTEOMIC = "human_proteomic"
    HUMAN_TRANSCRIPTOMIC = "human_transcriptomic"
    BIOMETRIC = "biometric"
    PRECISE_GEOLOCATION = "precise_geolocation"
    PERSONAL_HEALTH = "personal_health"
    PERSONAL_FINANCIAL = "personal_financial"
    COVERED_IDENTIFIERS = "covered_identifiers"
    GOV_LOCATION = "gov_location"
    GOV_MARKETED = "gov_marketed"
    SPECIAL_CARE = "special_care"
    PERSONAL_GENERAL = "personal_general"
    PROPERTY_DAMAGE_RISK = "property_damage_risk"
    CI_OPERATIONAL = "ci_operational"
    BUSINESS_CRITICAL = "business_critical"
    TRADE_SECRET = "trade_secret"  # noqa: S105  a category, no password
    CONTROLLED_TECHNOLOGY = "controlled_technology"
    PATENT_SECRECY = "patent_secrecy"
    MOBILITY = "mobility"
    RESIDENT = "resident"
    RESEARCH = "research"


class Recognition(_Entry):
    """How traffic of a store is told from other traffic; at least one line is needed.

    ``hosts``, ``addresses`` and ``pods`` say where the store is; without any of them it is on the reporting host.
    Everything that leaves that place counts for the store. The other lines only say what is nearer to it.
    """

    hosts: tuple[str, ...] = Field(
        (), description="Host names whose every egress counts; `this` is the reporting host"
    )
    addresses: tuple[NetworkField, ...] = Field((), description="Local addresses or networks of the store")
    ports: tuple[PortField, ...] = Field((), description="Local ports that the store listens on")
    processes: tuple[str, ...] = Field((), description="Process names, such as postgres")
    executables: tuple[ExecutableField, ...] = Field(
        (), description="Whole paths of executables; * for any part"
    )
    units: tuple[UnitField, ...] = Field((), description="systemd units; * for any part")
    containers: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(
        (), description="Container ids or their beginnings"
    )
    pods: tuple[str, ...] = Field(
        (), description="Kubernetes pods, namespace/name; * at the end matches any ending"
    )

    def is_empty(self) -> bool:
        """Nothing is named, so nothing would match."""
        return not any(getattr(self, name) for name in type(self).model_fields)

    @property
    def places(self) -> tuple[str, ...]:
        """Host names of the store in lower case; ``this`` alone if no place at all is named."""
        named = self.hosts or self.addresses or self.pods
        return tuple(h.lower() for h in self.hosts) if named else (THIS_HOST,)

    def is_on(self, host: str) -> bool:
        """Whether it names this host, or ``this``."""
        return any(place == THIS_HOST or same_host(place, host.lower()) for place in self.places)

    def meets(self, other: Recognition) -> bool:
        """Whether the two may be in one place: a common host name, pod, or overlapping addresses."""
        return (
            any(same_host(a, b) for a in self.places for b in other.places)
            or any(a.version == b.version and a.overlaps(b) for a in self.addresses for b in other.addresses)
            or any(_pods_meet(a, b) for a in self.pods for b in other.pods)
        )


def same_host(a: str, b: str) -> bool:
    """Whether two names in lower case may mean one host: equal, or one is short and equals the other's first label."""
    if a == b:
        return True
    if "." in a and "." in b:
        return False
    return a.partition(".")[0] == b.partition(".")[0]


def _pods_meet(a: str, b: str) -> bool:
    short, long = sorted((a.removesuffix("*"), b.removesuffix("*")), key=len)
    return a == b or (
        (a if a.startswith(short) and len(short) < len(long) else b).endswith("*") and long.startswith(short)
    )


class Store(_Entry):
    """A place where sensitive data rests: a database, a bucket, a file server."""

    id: Id
    name: str = Field("", description="What people call it")
    categories: tuple[Category, ...] = Field(min_length=1, description="What it holds")
    recognise: Recognition
    holder: Literal["private", "public"] = "private"
    contact: str = Field("", description="Whom to ring, as people say it: team, extension")
    runbook: str = Field("", description="Link or path to what to do")
    subjects: int | None = Field(None, ge=0, description="Persons whose data it holds, as its owner states")
    copy_of: Id | None = Field(None, description="The store that this one is a copy of")
    public_service: bool = Field(False, description="Answers strangers by purpose, such as a public web site")


class Site(_Entry):
    """Own networks. An address in one of them is internal and never a destination."""

    id: Id
    networks: tuple[NetworkField, ...] = Field(min_length=1)


class DestinationSet(_Entry):
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


WindowName = Literal["5m", "1h", "24h", "30d"]


class RuleTest(_Entry):
    """Further facts, one of which must hold (when any is given) for a rule to find."""

    first_seen: bool = Field(
        False, description="No earlier egress of this store to this destination is on record"
    )
    share_of_store: float | None = Field(
        None, gt=0, le=1, description="Part of the store's whole egress in the window"
    )


class Rule(_Entry):
    """Over this many content octets, from these stores, to these destinations, within this window: a finding."""

    id: Id
    version: int = Field(1, ge=1)
    title: str = ""
    enabled: bool = True
    stores: tuple[Id, ...] = Field((), description="Store ids; none means all")
    categories: tuple[Category, ...] = Field((), description="Any of these; none means all")
    destinations: tuple[Id, ...] = Field((), description="Destination sets; none means every external end")
    except_destinations: tuple[Id, ...] = ()
    initiator: Literal["local", "remote", "any"] = "any"
    over: Octets = Field(description="Content octets sent in the window; the finding is for strictly more")
    window: WindowName = "24h"
    any_of: RuleTest = RuleTest()
    quiet: DurationNs | None = Field(
        None, description="Exceedances less than this apart are one episode; default max(window, 24h)"
    )
    severity: SeverityName = Severity.MEDIUM
    tests: tuple[dict[str, Any], ...] = ()


class PackState(StrEnum):
    """Where a regime stands."""

    IN_FORCE = "in_force"
    ENACTED_NOT_IN_FORCE = "enacted_not_in_force"
    PROPOSAL = "proposal"
    HISTORIC = "historic"


class Source(_Entry):
    """What a fact rests on. Marks: V rule text read, V2 secondary source, K not verified."""

    cite: str
    read: date | None = None
    mark: Literal["V", "V2", "N", "S", "K"]


class CategoryThreshold(_Entry):
    """A regime's own threshold; counts people or devices, so traffic alone can never pass it. None: no number in the text."""

    category: Category
    over: int | None = Field(None, ge=0, description="Strictly more than this many; 0: any number")
    unit: Literal["us_person", "us_device", "person", "record", "byte"] = "person"
    cite: str = Field("", description="Section that gives the number")
    mark: Literal["V", "V2", "N", "S", "K"] = "K"


class Attestation(_Entry):
    """A person states that a legal entity is bound by a regime."""

    pack: Id
    entity: str = Field(min_length=1, description="Legal entity that is bound")
    by: str = Field(min_length=1, description="Who says so")
    on: date


class Pack(_Entry):
    """One regime's rules. Asleep until attested, except the operator's own."""

    pack: Id
    version: str
    title: str
    state: PackState
    kind: Literal["detect", "report", "inventory"] = "detect"
    valid_from: date | None = None
    valid_to: date | None = None
    needs_attestation: bool = True
    notes: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    thresholds: tuple[CategoryThreshold, ...] = ()
    destinations: tuple[DestinationSet, ...] = ()
    rules: tuple[Rule, ...] = ()


class Override(_Entry):
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


class ExpectedHost(_Entry):
    """A host that the detector expects to hear from; one of which it hears nothing is told."""

    host: str = Field(min_length=1, max_length=255, description="Its name, as its agent says it")
    no_agent: str = Field("", description="Why it has no agent; its stores are then never told as observed")
    note: str = ""


class PolicyFile(_Entry):
    """One policy file. Several are joined; ids must be unique over all of them."""

    version: Literal[1] = 1
    tenant: Id = "default"
    sites: tuple[Site, ...] = ()
    stores: tuple[Store, ...] = ()
    destinations: tuple[DestinationSet, ...] = ()
    rules: tuple[Rule, ...] = ()
    overrides: tuple[Override, ...] = ()
    attestations: tuple[Attestation, ...] = ()
    expected_hosts: tuple[ExpectedHost, ...] = Field(
        (), description="Hosts that the detector expects to hear from; may stand in a file of its own"
    )


class Policy(_Entry):
    """All policy files joined, checked against each other, with the packs that are awake."""

    tenant: str = "default"
    sites: tuple[Site, ...] = ()
    stores: tuple[Store, ...] = ()
    destinations: tuple[DestinationSet, ...] = ()
    rules: tuple[tuple[str, Rule], ...] = Field(
        (), description="(pack id, rule): enabled rules of awake packs"
    )
    overrides: tuple[Override, ...] = ()
    packs: tuple[Pack, ...] = Field((), description="Every known pack")
    awake: tuple[str, ...] = Field((), description="Ids of the packs that are awake")
    expected_hosts: tuple[ExpectedHost, ...] = ()
    version: str = Field("", description="sha256 of everything that was read, first 12 hex digits")

    def store(self, store_id: str) -> Store | None:
        """The store of that id."""
        return next((s for s in self.stores if s.id == store_id), None)

    def sharing(self, store_id: str) -> tuple[str, ...]:
        """Other stores that may be in the same place, in file order.

        A row that belongs to a store only by its place (``same_host``, ``same_pod``) is given to the first of them.
        """
        store = self.store(store_id)
        if store is None:
            return ()
        return tuple(
            other.id for other in self.stores if other is not store and other.recognise.meets(store.recognise)
        )

    def reads(self, rule: Rule, store_id: str, basis: str | None = None) -> bool:
        """Whether the rule reads rows of this store.

        With ``basis`` ``same_host`` or ``same_pod`` also if it reads another store of the same place: such a row may
        be any one's, but carries one id. Without ``basis`` the answer is for rows of any basis, so the wider one.
        """
        store = self.store(store_id)
        if store is None:
            return False
        if _selects(rule, store):
            return True
        if basis is not None and basis not in ("same_host", "same_pod"):
            return False
        return any(_selects(rule, s) for s in self.stores if s.id in self.sharing(store_id))

    def destination(self, set_id: str) -> DestinationSet | None:
        """The destination set of that id."""
        return next((d for d in self.destinations if d.id == set_id), None)


def _selects(rule: Rule, store: Store) -> bool:
    by_id = not rule.stores or store.id in rule.stores
    return by_id and (not rule.categories or bool(set(rule.categories) & set(store.categories)))
