"""Adds store, basis, tenant and remote_scope: what a flow has to do with what the policy protects.

Every store is tried; the nearest basis wins, in the order of :data:`BASES`, and within one basis the store that
stands first in the policy. So a row that two stores of one host share by nothing but the host goes to the first of
them, always the same one; :meth:`agent.policy.model.Policy.sharing` names the others, and
:meth:`~agent.policy.model.Policy.reads` lets their rules see it. Rows of a ``public_service`` are given to their store
like any other: whether a stranger's download counts is the rules' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import SPECIAL_SCOPES, V4_PREFIX, Addresses, Network, NetworkSet, is_v4, span
from agent.core.finding import Event
from agent.core.flow import FlowBatch, Mark, Text
from agent.core.stages import Context, EnricherSettings
from agent.policy.meeting import PlaceKey, host_keys
from agent.policy.model import THIS_HOST, Policy, Recognition, Store, same_host

BASES: Final = ("process", "port", "unit", "container", "same_pod", "same_host", "copy_of")
"""Why a row belongs to a store, nearest first."""

COMM_LENGTH: Final = 15
"""Longest process name that Linux reports (TASK_COMM_LEN less its end mark)."""

MOST_HOSTS: Final = 10_000
"""Hosts whose stores are remembered."""

Rows = NDArray[np.bool_]


class Settings(EnricherSettings):
    """Nothing to set: it answers from the policy in force."""

    def build(self, context: Context) -> Asset:
        """The enricher for the context's policy; without one every row is of no store."""
        policy = context.policy if context.policy is not None else Policy()
        return Asset(policy, context.host)


class Asset:
    """Tells stores' rows from others, and own addresses from foreign ones."""

    name = "asset"
    reads = frozenset(
        {
            "local_address",
            "remote_address",
            "local_port",
            "initiator",
            "process",
            "executable",
            "unit",
            "container",
            "pod",
            "attribution",
            "marks",
        }
    )
    adds = frozenset({"store", "basis", "tenant", "remote_scope"})

    def __init__(self, policy: Policy, host: str) -> None:
        self._policy = policy
        self._host = host
        self._scopes = Scopes([network for site in policy.sites for network in site.networks])
        origins = [_origin(policy, store) for store in policy.stores]
        codes = {name: code for code, name in enumerate(dict.fromkeys(origins))}
        self._ids = tuple(codes)
        self._index = policy.index
        self._codes = {s.id: codes[origin] for s, origin in zip(policy.stores, origins, strict=True)}
        self._watched: dict[str, _Watched] = {}
        self._on_host: dict[str, frozenset[int]] = {}

    def enrich(self, batch: FlowBatch) -> FlowBatch:
        """The same rows with store, basis, tenant and remote_scope."""
        store, basis = self._attribute(batch)
        return batch.with_columns(
            store=Text(store, self._ids),
            basis=Text(basis, BASES),
            tenant=Text.full(len(batch), self._policy.tenant),
            remote_scope=self._scopes.of(batch["remote_address"]),
        )

    def reload(self) -> bool:
        """Never changes: another policy is another enricher."""
        return False

    def troubles(self, now_ns: int) -> tuple[Event, ...]:
        """None: what it answers from is read whole, or not at all."""
        return ()

    def versions(self) -> Mapping[str, str]:
        """The policy's."""
        return {"policy": self._policy.version}

    def _attribute(self, batch: FlowBatch) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Codes into the store ids and into ``BASES`` for each row; -1 for none."""
        n = len(batch)
        store, basis = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
        best = np.full(n, len(BASES), np.int8)
        # A row in transit has no local end, so it left no store.
        best[(batch["marks"] & np.uint16(Mark.TRANSIT)) != 0] = -1
        host = (batch.header.host or self._host).lower()
        for near in self._near(batch, host):
            watched = self._watched.get(near.id)
            if watched is None:
                watched = self._watched[near.id] = _Watched.of(near, self._codes[near.id])
            for rank, rows in watched.claims(batch, host, self._host.lower()):
                better = rows & (rank < best)
                store[better], basis[better], best[better] = watched.code, rank, rank
        return store, basis

    def _near(self, batch: FlowBatch, host: str) -> Iterator[Store]:
        """Stores that some row may be in the place of, in the policy's order: of 100,000 a batch meets a few."""
        found = self._on_host.get(host)
        if found is None:
            keys = [*host_keys(host)]
            if same_host(self._host.lower(), host):
                keys += host_keys(THIS_HOST)
            if len(self._on_host) >= MOST_HOSTS:
                self._on_host.clear()
            found = self._on_host[host] = frozenset(self._index.numbers(keys))
        places = self._index.places
        elsewhere: set[PlaceKey] = set()
        if places.networks:
            elsewhere.update(places.at_addresses(batch["local_address"]))
        for pod in batch.text("pod").values:
            elsewhere.update(places.at_pod(pod))
        return (self._index.stores[n] for n in sorted(found | self._index.numbers(elsewhere)))


@dataclass(frozen=True, slots=True)
class _Watched:
    """One store, ready to be looked for."""

    code: int
    is_copy: bool
    recognise: Recognition
    hosts: tuple[str, ...]
    addresses: NetworkSet
    ports: NDArray[np.int32]

    @classmethod
    def of(cls, store: Store, code: int) -> _Watched:
        known = store.recognise
        ports = np.array(known.ports, np.int32)
        return cls(code, store.copy_of is not None, known, known.places, NetworkSet(known.addresses), ports)

    def claims(self, batch: FlowBatch, host: str, this: str) -> Iterator[tuple[int, Rows]]:
        """(rank of the basis, rows that belong to the store by it)."""
        on_host = any(same_host(this if name == THIS_HOST else name, host) for name in self.hosts)
        # A virtual machine is a host of its own, though its traffic is seen on this one.
        at_host = on_host & ~(batch.text("attribution").where("interface") & (batch["pod"] < 0))
        if self.addresses and not at_host.all():
            at_host |= self.addresses.contains(batch["local_address"])
        in_pod = _named(batch.text("pod"), self.recognise.pods, _is_pod)
        here = at_host | in_pod
        if not here.any():
            return
        for basis, rows in self._near(batch):
            yield self._rank(basis), here & rows
        yield self._rank("same_pod"), in_pod
        yield self._rank("same_host"), at_host

    def _near(self, batch: FlowBatch) -> Iterator[tuple[str, Rows]]:
        known = self.recognise
        if known.processes or known.executables:
            process = _named(batch.text("process"), known.processes, _is_process)
            yield "process", process | _named(batch.text("executable"), known.executables, fnmatchcase)
        if known.ports:
            # Only what was accepted: the same number on a flow opened from here is an accident.
            accepted = ~batch.text("initiator").where("local")
            yield "port", accepted & np.isin(batch["local_port"], self.ports)
        if known.units:
            yield "unit", _named(batch.text("unit"), known.units, fnmatchcase)
        if known.containers:
            yield "container", _named(batch.text("container"), known.containers, str.startswith)

    def _rank(self, basis: str) -> int:
        return BASES.index("copy_of" if self.is_copy else basis)


class Scopes:
    """Which kind of address: internal (own sites), a special-purpose one, or external."""

    def __init__(self, own: Sequence[Network]) -> None:
        named = [
            ("internal", NetworkSet(own)),
            *((name, NetworkSet(texts)) for name, texts in SPECIAL_SCOPES),
        ]
        self._named = tuple((name, networks) for name, networks in named if networks)
        self._values = (*(name for name, _ in self._named), "external")
        spans = [span(network) for _, networks in self._named for network in networks.networks]
        v4 = [(a & 0xFFFF_FFFF, b & 0xFFFF_FFFF) for a, b in spans if a >> 32 == V4_PREFIX >> 32]
        edges = sorted({0, *(a for a, _ in v4), *(b + 1 for _, b in v4 if b < 0xFFFF_FFFF)})
        self._v4_edges = np.array(edges, np.uint64)
        probes = np.zeros((len(edges), 2), np.uint64)
        probes[:, 1] = self._v4_edges | np.uint64(V4_PREFIX)
        self._v4_codes = self._asked(probes)

    def of(self, addresses: Addresses) -> Text:
        """The scope of each address: IPv4 by one search among all edges, the rest network by network."""
        v4 = is_v4(addresses)
        low = addresses[:, 1] & np.uint64(0xFFFF_FFFF)
        codes = self._v4_codes[np.searchsorted(self._v4_edges, low, side="right") - 1]
        if not v4.all():
            codes[~v4] = self._asked(addresses[~v4])
        return Text(codes, self._values)

    def _asked(self, addresses: Addresses) -> NDArray[np.int32]:
        codes = np.full(len(addresses), len(self._named), np.int32)
        for code in range(len(self._named) - 1, -1, -1):
            codes[self._named[code][1].contains(addresses)] = code
        return codes


def _origin(policy: Policy, store: Store) -> str:
    """The store that this one's rows count for: the original at the end of ``copy_of``."""
    seen = {store.id}
    while store.copy_of is not None and store.copy_of not in seen:
        following = policy.store(store.copy_of)
        if following is None:
            break
        seen.add(following.id)
        store = following
    return store.id


def _named(text: Text, wanted: Sequence[str], same: Callable[[str, str], bool]) -> Rows:
    """Rows whose text is one of the wanted ones, asked once per distinct text."""
    if not wanted or not text.values:
        return np.zeros(len(text), bool)
    # The last place answers for code -1, which is null.
    found = [any(same(value, name) for name in wanted) for value in text.values]
    return np.array([*found, False])[text.codes]


def _is_process(value: str, name: str) -> bool:
    return value == name or value == name[:COMM_LENGTH]


def _is_pod(value: str, name: str) -> bool:
    return value.startswith(name[:-1]) if name.endswith("*") else value == name
