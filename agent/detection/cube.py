"""Stage 1: rows to keys. A row's path is all that a rule may ask of it; its detail is all that a person may ask.

    pair    (tenant, store, destination entity)           what findings and cases are about
    path    pair and network facts, initiator, ...        what rules read, the key of the windows
    detail  path and basis, process, vantage, service, local address    what facts and the ledger are made of

Every table is bounded. Past the limit a path loses its AS and place (its entity is then ``other`` unless an owner or
provider is known), a detail loses all but its path; both are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import NetworkSet
from agent.core.clock import DAY_NS
from agent.core.finding import OwnerFact
from agent.core.grouping import distinct
from agent.detection.admit import Step
from agent.detection.keys import NONE, Bools, Ints, Keys, Names, grown
from agent.detection.programs import Programs
from agent.detection.rules import Hit, PathFact, Rulebook, networks_key, service_codes, services_key
from agent.detection.spans import Spans
from agent.detection.windows import PAIR, WINDOWS

PATHS: Final = 65_536
DETAILS: Final = 262_144
UNBOUNDED: Final = 2**31 - 1
PAST_LIMIT: Final = ("flows", "octets_out", "octets_in")
"""What is counted of rows past the limit of paths, beside the rows."""
RELAY: Final = "relay"
"""Basis of what another host sent on of what it took from the store."""
RELAYED: Final = 2
"""In place of 1 for a row that belongs to its store only by its place."""
COLLAPSED: Final = -2
"""In place of an AS number past the limit."""
NEVER_NS: Final = 2**62
PATH: Final = (
    "tenant",
    "store",
    "initiator",
    "shared",
    "estimated",
    "remote_country",
    "remote_asn",
    "remote_as_org",
    "remote_provider",
    "remote_owner",
    "remote_owner_country",
    "location_confidence",
    "owner_confidence",
    "override",
    "sets",
)
"""Columns of a path's key."""
_NUMBERS: Final = frozenset(("shared", "estimated", "remote_asn", "sets"))
_LOST_PAST_LIMIT: Final = ("remote_country", "remote_as_org", "location_confidence", "owner_confidence")
SERVICE_PORTS: Final = 2**17


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the rows of a step belong. Each shape (n,)."""

    path: Ints
    pair: Ints
    detail: Ints
    known_details: int = 0
    """How many details there were before."""


_Reading = tuple[tuple[tuple[str, frozenset[int]], ...], tuple[str, ...]]
"""Rules by their grouping, and rings that hold but what their rules read."""
NOWHERE: Final = Placed(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
"""No rows."""


_DETAIL: Final = 8
"""Path, basis, process, vantage, service, both halves of the local address, host."""


@dataclass
class Cube:
    """The keys, and what is known of each."""

    book: Rulebook
    most_paths: int | None = None
    """The limit of paths; of details it is four times as much. None: :data:`PATHS` and :data:`DETAILS`."""
    names: Names = field(default_factory=Names)
    pairs: Keys = field(default_factory=lambda: Keys(3, UNBOUNDED))
    paths: Keys = field(default_factory=lambda: Keys(len(PATH), UNBOUNDED))
    details: Keys = field(default_factory=lambda: Keys(_DETAIL, UNBOUNDED))
    pair_of: Ints = field(default_factory=lambda: np.zeros(1024, np.int64))
    """By path."""
    first_ns: Ints = field(default_factory=lambda: np.full(1024, NEVER_NS, np.int64))
    """By pair: when it was first seen."""
    programs: Programs = field(default_factory=Programs)
    set_keys: list[str] = field(default_factory=list)
    """Destination sets with networks that were ever in force; a path's ``sets`` has a bit for each."""
    born_ns: Ints = field(default_factory=lambda: np.zeros(1024, np.int64))
    """By path: when it was first seen."""
    hits: list[Mapping[int, Hit]] = field(default_factory=list)
    """By path; paths that the same rules read alike share one."""
    moved_ns: dict[int, int] = field(default_factory=dict)
    """By pair: when another ownership table gave it traffic that had been another's."""
    reasons: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._bound()
        self.use(self.book)

    def _bound(self) -> None:
        self.paths.limit = PATHS if self.most_paths is None else self.most_paths
        self.details.limit = DETAILS if self.most_paths is None else DETAILS // PATHS * self.most_paths

    def use(self, book: Rulebook) -> None:
        """Judge all paths by another rulebook."""
        self.book = book
        codes = [(o.network, self.names.code(o.model_dump_json())) for o in book.policy.overrides]
        self._overrides = Spans.of(codes)
        self._nets: list[tuple[int, NetworkSet]] = []
        for destinations in book.policy.destinations:
            if destinations.networks and (bit := self._bit(networks_key(destinations))) is not None:
                self._nets.append((bit, NetworkSet(destinations.networks)))
        self._services: list[tuple[int, Ints]] = []
        """Bit of a path's ``sets``, and the services that set it."""
        for services in sorted({w.rule.services for w in book.watches if w.rule.services}):
            if (bit := self._bit(services_key(services))) is not None:
                codes_of = [number * SERVICE_PORTS + port for number, port in service_codes(services)]
                self._services.append((bit, np.array(codes_of, np.int64)))
        self._rule_sets: dict[frozenset[int], frozenset[int]] = {}
        self._read_by: dict[tuple[int, ...], _Reading] = {}
        self.watches = {w.index: w for w in book.watches}
        self.groups: dict[str, Ints] = {name: np.zeros(len(self.pair_of), np.int64) for name in book.groups}
        self.ring_reads: dict[str, Bools] = {
            ring: np.zeros(len(self.pair_of), bool)
            for w in book.watches
            for ring in w.rings
            if ring not in WINDOWS
        }
        """By ring that holds but the paths that its rules read, and path."""
        self._group(range(self.paths.count))
        self.hits = [self._judged(path) for path in range(self.paths.count)]
        self.rule_reads = {w.index: np.zeros(len(self.pair_of), bool) for w in book.watches}
        self.pair_rules: list[frozenset[int]] = [frozenset()] * self.pairs.count
        for path, hits in enumerate(self.hits):
            self._note_hits(path, hits)

    def reclassify(self, now_ns: int) -> dict[int, int]:
        """Give each path to the entity that the rulebook in force names. Old pair -> new pair, of those that moved
        whole; of a pair that moved in part the rest stays where it is. Call :meth:`use` afterwards."""
        count = self.paths.count
        if not count:
            return {}
        before, codes = self.pair_of[:count].copy(), []
        for path in range(count):
            fact = self.fact(path)
            entity = self.book.entity(fact, self.book.owner(fact))
            codes.append(tuple(map(self.names.code, (fact.tenant, fact.store, entity))))
        after = self.pairs.ids(list(np.array(codes, np.int64).T))
        self.pair_of[:count] = after
        self.first_ns = grown(self.first_ns, self.pairs.count, NEVER_NS)
        moved = np.flatnonzero(after != before)
        np.minimum.at(self.first_ns, after[moved], self.born_ns[moved])
        self.moved_ns |= dict.fromkeys(after[moved].tolist(), now_ns)
        stays = set(before[after == before].tolist())
        targets: dict[int, set[int]] = {}
        for old, new in zip(before[moved].tolist(), after[moved].tolist(), strict=True):
            targets.setdefault(old, set()).add(new)
        return {old: new.pop() for old, new in targets.items() if len(new) == 1 and old not in stays}

    def place(self, step: Step) -> Placed:
        """Paths, pairs and details of a step's rows; gives numbers to new ones."""
        columns = self.columns(step)
        path = self._paths([columns[name] for name in PATH], step.arrays["end_ns"], step)
        if self.names.refused:
            self._count("texts_past_limit", self.names.refused)
            self.names.refused = 0
        pair = self.pair_of[path]
        self.first_ns = grown(self.first_ns, self.pairs.count, NEVER_NS)
        local = step.arrays["local"].view(np.int64)
        detail = [
            columns["basis"],
            columns["process"],
            columns["vantage"],
            columns["service"],
        ]
        known = self.details.count
        ids = self._details([path, *detail, local[:, 0], local[:, 1], columns["host"]])
        self.programs.learn(known, *self._programs_of(known))
        on_time = ~step.late
        self.programs.see(ids[on_time], step.arrays["end_ns"][on_time])
        return Placed(path, pair, ids, known)

    def columns(self, step: Step) -> dict[str, Ints]:
        """Of a step's rows all that paths and details are made of, by name, as numbers."""
        columns = {name: self.names.codes(step.text(name)) for name in step.meta["texts"]}
        columns |= {name: step.arrays[name] for name in ("remote_asn", "estimated")}
        columns.setdefault(
            "host", np.full(step.rows, NONE, np.int64)
        )  # of a step that an older version packed
        shared = [self.names.code(b) for b in ("same_host", "same_pod")]
        columns["shared"] = np.isin(columns["basis"], shared).astype(np.int64)
        if (relay := self.names.known(RELAY)) >= 0:
            columns["shared"][columns["basis"] == relay] = RELAYED
        columns["override"] = self._overrides.values(step.arrays["remote"])
        columns["service"] = self._service(step, columns["initiator"])
        columns["sets"] = self._sets(step, columns["service"])
        return columns

    def pair(self, pair: int) -> tuple[str, str, str]:
        """(tenant, store, entity) of a pair."""
        tenant, store, entity = map(self.names.text, self.pairs.columns[:, pair].tolist())
        return tenant, store, entity

    def owner(self, path: int) -> OwnerFact:
        """What is on record of the network at a path's end."""
        return self.book.owner(self.fact(path))

    def initiators(self, paths: Ints) -> Ints:
        """Codes of who opened the flows of some paths."""
        codes: Ints = self.paths.columns[PATH.index("initiator"), paths]
        return codes

    def left_on(self, paths: Iterable[int], ports: Sequence[int]) -> bool:
        """Whether all that is known of some paths left on these local ports, on flows that the other end opened."""
        wanted = np.zeros(self.paths.count, bool)
        wanted[list(paths)] = True
        path, service = self.details.columns[0], self.details.columns[4]
        mine = wanted[path]
        by_remote = self.initiators(path[mine]) == self.names.known("remote")
        on_port = (service[mine] >= 0) & np.isin(service[mine] % SERVICE_PORTS, ports)
        return bool((by_remote & on_port).all()) and len(distinct(path[mine])) == int(wanted.sum())

    def paths_of(self, pair: int) -> list[int]:
        """Paths of a pair, in whatever grouping."""
        return [int(p) for p in np.flatnonzero(self.members(pair))]

    def _paths(self, key: list[Ints], ends: Ints, step: Step | None = None) -> Ints:
        known = self.paths.count
        ids = self.paths.ids(key)
        if len(full := np.flatnonzero(ids < 0)):
            self._count("rows_past_path_limit", len(full))
            if step is not None:
                for name in PAST_LIMIT:
                    self._count(f"{name}_past_path_limit", int(step.arrays[name][full].sum()))
            lost = {PATH.index(name): NONE for name in _LOST_PAST_LIMIT} | {
                PATH.index("remote_asn"): COLLAPSED
            }
            rest = [
                np.full(len(full), lost[i], np.int64) if i in lost else column[full]
                for i, column in enumerate(key)
            ]
            self.paths.limit = UNBOUNDED
            ids[full] = self.paths.ids(rest)
            self._bound()
        if self.paths.count > known:
            new, first = np.unique(ids, return_index=True)
            self._learn(known, ends[first[new >= known]].tolist())
        return ids

    def _learn(self, known: int, born_ns: list[int]) -> None:
        """Paths from ``known`` on are new; each was born then."""
        codes: list[tuple[int, ...]] = []
        self.born_ns = grown(self.born_ns, self.paths.count)
        self.born_ns[known : self.paths.count] = born_ns
        for path in range(known, self.paths.count):
            fact = self.fact(path)
            entity = self.book.entity(fact, self.book.owner(fact))
            codes.append(tuple(map(self.names.code, (fact.tenant, fact.store, entity))))
            self.hits.append(self.book.hits(fact, self.book.owner(fact)))
        self.pair_of = grown(self.pair_of, self.paths.count)
        self.pair_of[known : self.paths.count] = self.pairs.ids(list(np.array(codes, np.int64).T))
        self._group(range(known, self.paths.count))
        for path in range(known, self.paths.count):
            self._note_hits(path, self.hits[path])

    def _judged(self, path: int) -> Mapping[int, Hit]:
        fact = self.fact(path)
        return self.book.hits(fact, self.book.owner(fact))

    def _group(self, paths: range) -> None:
        """Pairs of some paths in the groupings that rules in force use, beside their own."""
        for name in self.groups:
            pairs = self.groups[name] = grown(self.groups[name], self.paths.count)
            keys = [self.book.group(name, self.fact(path)) for path in paths]
            codes = np.array([tuple(map(self.names.code, key)) for key in keys], np.int64).reshape(-1, 3)
            pairs[paths.start : paths.stop] = self.pairs.ids(list(codes.T)) if len(codes) else 0

    def join_first_seen(self) -> None:
        """After other rules came: pairs of their groupings were first seen when any that they join was."""
        count = self.paths.count
        self.first_ns = grown(self.first_ns, self.pairs.count, NEVER_NS)
        for pairs in self.groups.values():
            np.minimum.at(self.first_ns, pairs[:count], self.first_ns[self.pair_of[:count]])

    def place_past(self, step: Step) -> Ints:
        """Paths of the ledger's rows in a step, shape (n,). What the ledger does not hold is unknown of them: the
        address, and so the destination sets that name networks; how far to trust place and owner; sampling."""
        n = len(step.arrays["day"])
        nothing, zero = np.full(n, NONE, np.int64), np.zeros(n, np.int64)
        columns = {name: zero if name in _NUMBERS else nothing for name in PATH}
        columns |= {name: self.names.codes(step.text(name)) for name in step.meta["texts"]}
        columns["remote_asn"] = step.arrays["remote_asn"]
        paths = self._paths([columns[name] for name in PATH], (step.arrays["day"] + 1) * DAY_NS - 1)
        self.first_ns = grown(self.first_ns, self.pairs.count, NEVER_NS)
        for pairs in (self.pair_of, *self.groups.values()):
            np.minimum.at(self.first_ns, pairs[paths], step.arrays["day"] * DAY_NS)
        return paths

    def pairs_by(self, group: str) -> Ints:
        """Pairs by path in a grouping."""
        return self.pair_of if group == PAIR else self.groups[group]

    def members(self, pair: int) -> Bools:
        """By path: whether it belongs to a pair, in whatever grouping."""
        count = self.paths.count
        mask = self.pair_of[:count] == pair
        for pairs in self.groups.values():
            mask |= pairs[:count] == pair
        return np.asarray(mask)

    def _note_hits(self, path: int, hits: Mapping[int, Hit]) -> None:
        known = tuple(hits)
        for rule in known:
            reads = self.rule_reads[rule] = grown(self.rule_reads[rule], path + 1)
            reads[path] = True
        if known not in self._read_by:
            self._read_by[known] = self._reading(known)
        by_group, rings = self._read_by[known]
        for ring in rings:
            of_ring = self.ring_reads[ring] = grown(self.ring_reads[ring], path + 1)
            of_ring[path] = True
        for group, rules in by_group:
            pair = int(self.pairs_by(group)[path])
            while len(self.pair_rules) <= pair:
                self.pair_rules.append(frozenset())
            joined = self.pair_rules[pair] | rules
            self.pair_rules[pair] = self._rule_sets.setdefault(joined, joined)

    def _reading(self, rules: tuple[int, ...]) -> _Reading:
        """What some rules read: most paths are read by the same ones as others are."""
        watches = [self.watches[rule] for rule in rules]
        groups = sorted({w.group for w in watches})
        by_group = tuple((g, frozenset(w.index for w in watches if w.group == g)) for g in groups)
        return by_group, tuple(sorted({r for w in watches for r in w.rings if r in self.ring_reads}))

    def fact(self, path: int) -> PathFact:
        """What a path stands for. Made anew each time: of most paths nobody asks twice."""
        return self.fact_of(self.paths.columns[:, path].tolist(), int(self.born_ns[path]))

    def fact_of(self, columns: Sequence[int], born_ns: int) -> PathFact:
        """What a path of these columns (:data:`PATH`) would stand for."""
        key = dict(zip(PATH, columns, strict=True))
        text = {name: self.names.text(code) for name, code in key.items() if name not in _NUMBERS}
        return PathFact(
            tenant=text["tenant"],
            store=text["store"],
            initiator=text["initiator"],
            shared=key["shared"] == 1,
            relayed=key["shared"] == RELAYED,
            estimated=bool(key["estimated"]),
            country=text["remote_country"],
            asn=key["remote_asn"],
            as_org=text["remote_as_org"],
            provider=text["remote_provider"],
            owner=text["remote_owner"],
            owner_country=text["remote_owner_country"],
            location_confidence=text["location_confidence"],
            owner_confidence=text["owner_confidence"],
            override=text["override"],
            networks=frozenset(k for bit, k in enumerate(self.set_keys) if key["sets"] >> bit & 1),
            born_ns=born_ns,
        )

    def _details(self, key: list[Ints]) -> Ints:
        ids = self.details.ids(key)
        if len(full := np.flatnonzero(ids < 0)):
            self._count("rows_past_detail_limit", len(full))
            self.details.limit = UNBOUNDED
            nothing = np.full(len(full), NONE, np.int64)
            ids[full] = self.details.ids([key[0][full], *[nothing] * (len(key) - 1)])
            self._bound()
        return ids

    def _programs_of(self, known: int) -> tuple[Ints, Ints, Ints]:
        """Codes of tenant, store and process of the details from ``known`` on."""
        path, process = self.details.columns[0, known:], self.details.columns[2, known:]
        return self.paths.columns[0, path], self.paths.columns[1, path], process

    def _service(self, step: Step, initiator: Ints) -> Ints:
        """protocol and port of the end that accepted; -1 where its port or the initiator is not known."""
        by_local = initiator == self.names.code("local")
        port = np.where(by_local, step.arrays["remote_port"], step.arrays["local_port"])
        known = (port >= 0) & (by_local | (initiator == self.names.code("remote")))
        return np.where(known, step.arrays["protocol"] * SERVICE_PORTS + port, NONE)

    def _sets(self, step: Step, service: Ints) -> Ints:
        bits = np.zeros(step.rows, np.int64)
        for bit, codes in self._services:
            bits |= np.isin(service, codes).astype(np.int64) << bit
        for bit, networks in self._nets:
            bits |= networks.contains(step.arrays["remote"]).astype(np.int64) << bit
        return bits

    def _bit(self, key: str) -> int | None:
        if key not in self.set_keys:
            if len(self.set_keys) >= 62:
                self._count("destination_sets_past_limit", 1)
                return None
            self.set_keys.append(key)
        return self.set_keys.index(key)

    def _count(self, reason: str, n: int) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + n

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All of it as plain values and arrays."""
        moved = list(self.moved_ns.items())
        meta = {"names": self.names.values, "sets": self.set_keys, "moved": moved}
        return meta, {
            "pairs": self.pairs.columns,
            "paths": self.paths.columns,
            "details": self.details.columns,
            "pair_of": self.pair_of[: self.paths.count],
            "first_ns": self.first_ns[: self.pairs.count],
            "born_ns": self.born_ns[: self.paths.count],
            **self.programs.state(),
        }

    def set_state(self, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`state` gave."""
        self.names = Names(meta["names"])
        self.set_keys = list(meta["sets"])
        self.moved_ns = dict(meta.get("moved", ()))
        self.pairs = Keys.of(arrays["pairs"], UNBOUNDED)
        self.paths = Keys.of(arrays["paths"], UNBOUNDED)
        details = arrays["details"]
        if len(details) < _DETAIL:  # of an older version, which did not tell hosts apart
            details = np.vstack([details, np.full((1, details.shape[1]), NONE, np.int64)])
        self.details = Keys.of(details, UNBOUNDED)
        self._bound()
        self.programs.set_state(arrays, *self._programs_of(0))
        self.pair_of = grown(arrays["pair_of"], 1024)
        self.first_ns = grown(arrays["first_ns"], 1024, NEVER_NS)
        self.born_ns = grown(arrays["born_ns"], 1024)
        self.use(self.book)


def estimated_of(cube: Cube) -> NDArray[np.bool_]:
    """By path: whether its amounts are multiplied up from samples."""
    column = cube.paths.columns[PATH.index("estimated")]
    return np.asarray(column[: cube.paths.count] > 0)
