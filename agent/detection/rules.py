"""Rules against paths: which rule reads which rows, and how severe what it finds may be.

A path is everything about a row that a rule may ask for. Each is judged once for each policy, so thirty rules cost
nothing per row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from agent.core.clock import SECOND_NS
from agent.core.finding import OwnerFact, Severity
from agent.detection.estimate import Inputs, inputs_of, over_octets
from agent.detection.kinds import asked_of
from agent.detection.windows import PAIR, WINDOWS, Window
from agent.detection.years import DAYS, year_window
from agent.policy.entity import entity_of, fact_of
from agent.policy.match import OWNER_LINES, Match, restricts
from agent.policy.model import DestinationSet, Override, Policy, Rule, Store
from agent.policy.ownership import Ownership
from agent.policy.rules import CLEARTEXT, YEARS

_LARGEST_QUIET_NS = 24 * 3600 * SECOND_NS
COLUMNS = {"content": "content_octets_out", "flows": "flows", "octets_in": "octets_in"}
"""Columns of a row by what a rule counts."""
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
ALL = "all"
"""The destination of a rule that sums all destinations of a store."""
LEGAL = "legal:"
"""Before the id of a legal entity, where its stores are summed as one."""
_REMEMBERED = 4_096
"""Networks whose judgement is kept for the next path there; then they are forgotten, and judged anew when asked for."""


@dataclass(frozen=True, slots=True)
class PathFact:
    """What one path stands for; empty texts and -1 are unknown."""

    tenant: str
    store: str
    initiator: str
    shared: bool
    """It belongs to its store only by its place."""
    estimated: bool
    country: str
    asn: int
    as_org: str
    provider: str
    owner: str
    owner_country: str
    location_confidence: str
    owner_confidence: str
    override: str
    """The override in force, as JSON."""
    networks: frozenset[str]
    """Destination sets whose networks hold the address, as :func:`networks_key` names them."""
    born_ns: int
    """When it was first seen: staleness of ownership is judged then."""
    relayed: bool = False
    """Another host sent it, of what it had taken from the store."""

    @property
    def network(self) -> tuple[object, ...]:
        """All that rules and the ownership table may ask of the other end."""
        facts = (self.country, self.asn, self.as_org, self.provider, self.owner, self.owner_country)
        return (*facts, self.override, self.networks, self.born_ns // (86_400 * SECOND_NS))


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule reads a path."""

    severity: Severity
    reasons: tuple[str, ...]
    """What lowered it."""
    destinations: tuple[str, ...]
    caps: tuple[tuple[str, Severity], ...] = ()
    """What the facts rest on: words keys, and the most that each allows."""

    def raised(self, to: Severity) -> Hit:
        """The same where the amount is more severe than the rule is by itself."""
        lowered = tuple(reason for reason, cap in self.caps if cap < to)
        return replace(self, severity=min([to, *(cap for _, cap in self.caps)]), reasons=lowered)


@dataclass(frozen=True, slots=True)
class Watch:
    """A rule, ready for use."""

    index: int
    pack: str
    rule: Rule
    window: Window
    quiet_ns: int
    since_ns: int | None
    """When it came by a reload; None if it was there from the start."""

    @property
    def over(self) -> int:
        """Its threshold."""
        return self.rule.over

    @property
    def ring(self) -> str:
        """The ring whose cells it sums."""
        name = self.window.ring or self.window.name
        return name if self.rule.measure == "content" else f"{name}.{self.rule.measure}"

    @property
    def column(self) -> str:
        """The column that it sums."""
        return COLUMNS[self.rule.measure]

    @property
    def rings(self) -> tuple[str, ...]:
        """All rings that it reads: one that compares days reads these, too."""
        return (self.ring, DAYS.name) if self.compares_days else (self.ring,)

    @property
    def compares_days(self) -> bool:
        """Whether it asks for the days of the past."""
        return self.rule.any_of.unusual is not None

    @property
    def counts_ends(self) -> bool:
        """Whether it asks how many destinations there are."""
        return self.rule.any_of.destinations is not None

    @property
    def asks_processes(self) -> bool:
        """Whether it asks when a store's programs were first seen."""
        return self.rule.any_of.first_seen_process

    @property
    def is_yearly(self) -> bool:
        """Whether it sums days, over owners as they are on record today."""
        return self.window.name in YEARS

    @property
    def group(self) -> str:
        """What it sums as one: :data:`PAIR`, or a name that :meth:`Rulebook.group` knows."""
        if self.rule.group_by == "store":
            return "store"
        if self.rule.group_by == "legal_entity":
            return "legal"
        return PAIR

    @property
    def is_tested(self) -> bool:
        """Whether amount alone is not enough."""
        return bool(asked_of(self.rule.any_of))


def networks_key(destinations: DestinationSet) -> str:
    """The name of a set's networks: another id when they change."""
    return " ".join([destinations.id, *sorted(map(str, destinations.networks))])


def services_key(services: tuple[str, ...]) -> str:
    """The name of a rule's services, beside those of networks; no set's id holds a slash."""
    return " ".join(["services", *sorted(set(services))])


def service_codes(services: tuple[str, ...]) -> list[tuple[int, int]]:
    """(protocol number, port) of each."""
    named = [one for name in services for one in (CLEARTEXT if name == "cleartext" else (name,))]
    parts = [one.split("/") for one in named]
    return sorted({(_PROTOCOLS[protocol], int(port)) for protocol, port in parts})


class Rulebook:
    """A policy and an ownership table, asked path by path."""

    def __init__(
        self,
        policy: Policy,
        ownership: Ownership | None,
        lateness_ns: int,
        since: dict[str, int] | None = None,
    ) -> None:
        self.policy = policy
        self.ownership = ownership
        self._stores = {s.id: s for s in policy.stores}
        self._sets = {d.id: d for d in policy.destinations}
        self.watches = tuple(
            Watch(
                i,
                pack,
                rule,
                window := self._window(pack, rule),
                _quiet(rule, window, lateness_ns),
                (since or {}).get(rule.id),
            )
            for i, (pack, rule) in enumerate(policy.rules)
            if rule.enabled
        )
        self.groups = tuple(sorted({w.group for w in self.watches} - {PAIR}))
        """Groupings that rules in force use, beside the one that is always there."""
        self.yearly = tuple((w.pack, w.rule) for w in self.watches if DAYS.name in w.rings)
        """Rules whose paths are kept by day."""

        numbers: dict[tuple[object, ...], int] = {}
        self._asks: dict[int, tuple[int, Rule]] = {}
        """By rule index: a number that rules share which ask the same of the other end, at the same severity."""
        for w in self.watches:
            asked = (
                w.rule.destinations,
                w.rule.except_destinations,
                w.rule.services,
                w.rule.allowed_countries,
                w.rule.severity,
            )
            self._asks[w.index] = (numbers.setdefault(asked, len(numbers)), w.rule)
        self._owners: dict[tuple[object, ...], OwnerFact] = {}
        self._matches: dict[tuple[object, ...], dict[str, Match]] = {}
        self._readers: dict[tuple[str, bool, str, bool], tuple[int, ...]] = {}
        self._hits: dict[tuple[object, ...], dict[int, Hit]] = {}
        """By readers, network and whether sampled: shared by all paths that agree in these."""
        self._alike: dict[tuple[tuple[int, Hit], ...], dict[int, Hit]] = {}
        """Equal hits are one object, however many networks have them."""

    def _window(self, pack: str, rule: Rule) -> Window:
        if rule.window not in YEARS:
            return WINDOWS[rule.window]
        of_pack = next((p.zone for p in self.policy.packs if p.pack == pack), None)
        return year_window(rule.window, rule.zone or of_pack or "UTC")

    def over(self, watch: Watch, store_id: str) -> int:
        """The octets above which a rule finds something of a store: its own, or those that may hold so many persons."""
        if watch.rule.subjects is None:
            return watch.over
        return over_octets(self.inputs(store_id), watch.rule.subjects.over, watch.over)

    def inputs(self, store_id: str) -> Inputs:
        """What an estimate of a store's persons can rest on; of several stores together nothing."""
        return inputs_of(self._stores.get(store_id))

    def group(self, name: str, path: PathFact) -> tuple[str, str, str]:
        """(tenant, store or legal entity, destination) of what a grouping sums as one."""
        if name == "store":
            return path.tenant, path.store, ALL
        store = self._stores.get(path.store)
        legal = legal_entity_of(store) if store is not None else ""
        return path.tenant, LEGAL + legal if legal else path.store, self.entity(path, self.owner(path))

    def store(self, store_id: str) -> Store | None:
        """The register's entry."""
        return self._stores.get(store_id)

    def categories(self, store_id: str) -> tuple[str, ...]:
        """Categories of a store, sorted."""
        store = self._stores.get(store_id)
        return tuple(sorted(store.categories)) if store else ()

    def owner(self, path: PathFact) -> OwnerFact:
        """What is on record of the network at the path's end."""
        network = path.network
        if network not in self._owners:
            _make_room(self._owners)
            self._owners[network] = self._ask(path)
        return self._owners[network]

    def _ask(self, path: PathFact) -> OwnerFact:
        if self.ownership is None:
            return OwnerFact(
                provider=path.provider,
                organisation=path.as_org,
                owner=path.owner,
                owner_id=path.owner,
                owner_country=path.owner_country or None,
            )
        fact = fact_of(
            self.ownership,
            asn=path.asn,
            as_org=path.as_org,
            provider=path.provider,
            owner=path.owner,
            today=datetime.fromtimestamp(path.born_ns // SECOND_NS, UTC).date(),
            override=Override.model_validate_json(path.override) if path.override else None,
        )
        if (
            fact.owner_country is None
            and path.owner_country
            and fact.owner_id == path.owner
            and not fact.mark
        ):
            fact = fact.model_copy(update={"owner_country": path.owner_country})
        return fact

    def entity(self, path: PathFact, owner: OwnerFact) -> str:
        """Who is at the other end: the owner if it is beyond doubt, else the provider, else the network."""
        return entity_of(owner, asn=path.asn, provider=path.provider)

    def is_in(self, set_id: str, path: PathFact, owner: OwnerFact) -> bool:
        """Whether the path's other end belongs to a destination set."""
        return self._match(set_id, path, owner).hit

    def hits(self, path: PathFact, owner: OwnerFact) -> dict[int, Hit]:
        """Rule index -> hit, for every rule that reads this path."""
        who = (path.store, path.shared, path.initiator, path.relayed)
        readers = self._readers.get(who)
        if readers is None:
            readers = self._readers[who] = tuple(w.index for w in self.watches if self._reads(w.rule, path))
        key = (readers, path.estimated, path.network)
        if key not in self._hits:
            known: dict[int, Hit | None] = {}
            found: dict[int, Hit] = {}
            for index in readers:
                asks, rule = self._asks[index]
                if asks not in known:
                    known[asks] = self._hit(rule, path, owner)
                if (hit := known[asks]) is not None:
                    found[index] = hit
            _make_room(self._hits)
            _make_room(self._alike)
            self._hits[key] = self._alike.setdefault(tuple(found.items()), found)
        return self._hits[key]

    def _hit(self, rule: Rule, path: PathFact, owner: OwnerFact) -> Hit | None:
        if any(self._match(name, path, owner).hit for name in rule.except_destinations):
            return None
        matched = {name: self._match(name, path, owner) for name in rule.destinations}
        matched = {name: match for name, match in matched.items() if match.hit}
        if rule.destinations and not matched:
            return None
        if rule.services and services_key(rule.services) not in path.networks:
            return None
        if rule.allowed_countries and not _is_outside(rule, path):
            return None
        caps = _caps(path, owner, tuple(matched.values()))
        return Hit(rule.severity, (), tuple(matched), caps).raised(rule.severity)

    def _reads(self, rule: Rule, path: PathFact) -> bool:
        store = self._stores.get(path.store)
        if store is None or not self.policy.reads(rule, path.store, "same_host" if path.shared else "port"):
            return False
        if path.relayed:
            # What a host sends anywhere may be its own; a rule must say where it may not go.
            return bool(rule.destinations or rule.allowed_countries) and rule.initiator in ("any", "local")
        if rule.initiator != "any":
            return path.initiator == rule.initiator
        return not (store.public_service and path.initiator == "remote")

    def _match(self, set_id: str, path: PathFact, owner: OwnerFact) -> Match:
        known = self._matches.get(path.network)
        if known is None:
            _make_room(self._matches)
            known = self._matches[path.network] = {}
        if set_id not in known:
            known[set_id] = self._matched(set_id, path, owner)
        return known[set_id]

    def _matched(self, set_id: str, path: PathFact, owner: OwnerFact) -> Match:
        destinations = self._sets.get(set_id)
        if destinations is None:
            return Match(False, (), False)
        held = self.ownership.held(owner, destinations) if self.ownership and owner.chain else None
        return restricts(
            destinations,
            owner.provider or path.provider,
            owner.owner_id or path.owner,
            owner.owner_country,
            owner.organised_in,
            path.asn if path.asn >= 0 else None,
            path.country,
            owner.disputed,
            owner.review,
            in_network=bool(destinations.networks) and networks_key(destinations) in path.networks,
            held=held,
        )


def _is_outside(rule: Rule, path: PathFact) -> bool:
    """Whether the place is known well enough, and none of the allowed ones."""
    is_known = path.country and path.location_confidence in ("medium", "high")
    return bool(is_known) and path.country not in rule.allowed_countries


def _make_room(known: dict[Any, Any]) -> None:
    if len(known) >= _REMEMBERED:
        known.clear()


def _caps(path: PathFact, owner: OwnerFact, matches: tuple[Match, ...]) -> tuple[tuple[str, Severity], ...]:
    """What the facts rest on, as words keys, and the highest severity that each allows."""
    by = {line for match in matches for line in match.by} - {"country"}
    caps: list[tuple[str, Severity]] = []
    if by and by <= OWNER_LINES | {"organised_in"}:
        if "K" in (owner.mark, *(match.held.mark for match in matches if match.held)):
            caps.append(("owner_mark_k", Severity.MEDIUM))
        if owner.disputed:
            caps.append(("owner_disputed", Severity.LOW))
        if owner.stale:
            caps.append(("owner_stale", Severity.MEDIUM))
    if matches and all(match.review for match in matches) and not owner.disputed:
        caps.append(("owner_review", Severity.MEDIUM))
    if path.estimated:
        caps.append(("estimated", Severity.MEDIUM))
    return tuple(caps)


def legal_entity_of(store: Store) -> str:
    """The legal entity that holds a store; empty where the register does not say."""
    return store.entity or ""


def _quiet(rule: Rule, window: Window, lateness_ns: int) -> int:
    least = 0 if window.spreads else 2 * window.grain_ns  # days that follow each other are one episode
    return max(rule.quiet or max(window.span_ns, _LARGEST_QUIET_NS), lateness_ns, least)
