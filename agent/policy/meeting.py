"""Which stores may be in one place, found by keys: a register of 100,000 stores is never compared pair by pair.

Every place has keys under which it is *kept* and keys under which others are *asked* for: ``a`` meets ``b`` exactly if a
key asked by ``b`` is one kept by ``a``. That is :meth:`agent.policy.recognition.Recognition.meets`, which the tests hold
it to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import Addresses, is_v4
from agent.core.grouping import distinct
from agent.policy.recognition import Recognition
from agent.policy.registers import Category, Store

PlaceKey = tuple[str, Any]
_V4: Final = 0xFFFF_FFFF


@dataclass(frozen=True)
class Places:
    """What must be known of all places of a register to make the keys of one."""

    networks: frozenset[tuple[int, int, int]]
    """(IP version, prefix length, first address) of every network."""
    lengths: tuple[tuple[int, int], ...]
    """(IP version, prefix length) that occur."""
    beginnings: frozenset[str]
    """Beginnings of pods' names, those that end in ``*``."""
    longest: int
    """Of the beginnings."""

    @classmethod
    def of(cls, places: Iterable[Recognition]) -> Places:
        """Of all places of a register."""
        networks: set[tuple[int, int, int]] = set()
        beginnings: set[str] = set()
        for place in places:
            networks.update((n.version, n.prefixlen, int(n.network_address)) for n in place.addresses)
            beginnings.update(pod[:-1] for pod in place.pods if pod.endswith("*"))
        lengths = tuple(sorted({(version, length) for version, length, _ in networks}))
        return cls(frozenset(networks), lengths, frozenset(beginnings), max(map(len, beginnings), default=0))

    def kept(self, place: Recognition) -> Iterator[PlaceKey]:
        """Keys under which a place is found."""
        for host in place.places:
            yield "host", host
            yield "label", host.partition(".")[0]
        for network in place.addresses:
            yield "network", (network.version, network.prefixlen, int(network.network_address))
            for around in self._around(network.version, network.prefixlen, int(network.network_address)):
                yield "within", around
        for pod in place.pods:
            yield "pod", pod
            for beginning in self._beginnings(pod.removesuffix("*")):
                yield "pods within", beginning

    def asked(self, place: Recognition) -> Iterator[PlaceKey]:
        """Keys under which what meets a place is kept."""
        for host in place.places:
            yield from host_keys(host)
        for network in place.addresses:
            key = (network.version, network.prefixlen, int(network.network_address))
            yield "within", key
            for around in self._around(*key):
                yield "network", around
        for pod in place.pods:
            yield "pod", pod
            yield from (("pod", beginning + "*") for beginning in self._beginnings(pod.removesuffix("*")))
            if pod.endswith("*"):
                yield "pods within", pod[:-1]

    def at_addresses(self, addresses: Addresses) -> Iterator[PlaceKey]:
        """Keys under which places are kept that hold any of some addresses, shape (n, 2); IPv4 v4-mapped."""
        high, low = addresses[:, 0], addresses[:, 1]
        v4 = low[is_v4(addresses)] & np.uint64(_V4)
        for version, length in self.lengths:
            firsts = self._firsts[version, length]
            if version == 4:
                for first in _among(v4 & _mask(length, 32), firsts):
                    yield "network", (4, length, first)
            elif length <= 64:
                for first in _among(high & _mask(length, 64), firsts):
                    yield "network", (6, length, first << 64)
            else:
                masked = addresses[np.isin(high, firsts)]
                masked[:, 1] &= _mask(length - 64, 64)
                for upper, lower in np.unique(masked, axis=0).tolist():
                    if (key := (6, length, upper << 64 | lower)) in self.networks:
                        yield "network", key

    @cached_property
    def _firsts(self) -> dict[tuple[int, int], NDArray[np.uint64]]:
        """By version and length: the first addresses of networks, sorted; of IPv6 their upper halves."""
        found: dict[tuple[int, int], set[int]] = {lengths: set() for lengths in self.lengths}
        for version, length, first in self.networks:
            found[version, length].add(first if version == 4 else first >> 64)
        return {lengths: np.array(sorted(firsts), np.uint64) for lengths, firsts in found.items()}

    def at_pod(self, pod: str) -> Iterator[PlaceKey]:
        """Keys under which places are kept that hold a pod."""
        yield "pod", pod
        yield from (("pod", beginning + "*") for beginning in self._beginnings(pod))

    def _around(self, version: int, length: int, first: int) -> Iterator[tuple[int, int, int]]:
        """Networks of the register that hold this one, itself too if it is there."""
        most = 32 if version == 4 else 128
        for its_version, its_length in self.lengths:
            if its_version == version and its_length <= length:
                key = (version, its_length, first >> (most - its_length) << (most - its_length))
                if key in self.networks:
                    yield key

    def _beginnings(self, name: str) -> Iterator[str]:
        """Beginnings of the register that this name has, itself too."""
        for length in range(min(len(name), self.longest) + 1):
            if name[:length] in self.beginnings:
                yield name[:length]


def _mask(length: int, bits: int) -> np.uint64:
    """The upper ``length`` of so many bits."""
    return np.uint64((1 << bits) - (1 << (bits - length)))


def _among(values: NDArray[np.uint64], sorted_ones: NDArray[np.uint64]) -> list[int]:
    """Those that stand among the sorted ones, each once."""
    once = distinct(values)
    at = np.minimum(np.searchsorted(sorted_ones, once), len(sorted_ones) - 1)
    found: list[int] = once[sorted_ones[at] == once].tolist()
    return found


class StoreIndex:
    """Stores by id and by place, for questions that are asked of each of 100,000."""

    def __init__(self, stores: tuple[Store, ...]) -> None:
        self.stores = stores
        self.by_id = {store.id: store for store in reversed(stores)}
        self.places = Places.of(store.recognise for store in stores)
        self._kept: dict[PlaceKey, list[int]] = {}
        for number, store in enumerate(stores):
            for key in set(self.places.kept(store.recognise)):
                self._kept.setdefault(key, []).append(number)
        self._reached: dict[tuple[Sequence[str], Sequence[Category]], frozenset[PlaceKey]] = {}

    def numbers(self, keys: Iterable[PlaceKey]) -> set[int]:
        """Which of ``stores`` have their places kept under any of these keys."""
        return {number for key in keys for number in self._kept.get(key, ())}

    def kept_under(self, keys: Iterable[PlaceKey]) -> list[Store]:
        """Those stores, in file order."""
        return [self.stores[number] for number in sorted(self.numbers(keys))]

    def meeting(self, store: Store) -> list[Store]:
        """Stores that may be in one place with this one, itself too, in file order."""
        return self.kept_under(self.places.asked(store.recognise))

    def on_host(self, host: str) -> list[Store]:
        """Stores that name this host, in file order; ``this`` for those that name the reporting one."""
        return self.kept_under(host_keys(host.lower()))

    def reaches(self, stores: Sequence[str], categories: Sequence[Category], store: Store) -> bool:
        """Whether any store that is :func:`selected <selects>` may be in one place with this one."""
        asked = (stores, categories)
        if asked not in self._reached:
            chosen = [s for s in self.stores if selects(stores, categories, s)]
            self._reached[asked] = frozenset(key for s in chosen for key in self.places.kept(s.recognise))
        return any(key in self._reached[asked] for key in self.places.asked(store.recognise))


def host_keys(host: str) -> Iterator[PlaceKey]:
    """Keys under which places are kept that name a host, in lower case."""
    label = host.partition(".")[0]
    if label == host:
        yield "label", host
    else:
        yield "host", host
        yield "host", label


def selects(stores: Sequence[str], categories: Sequence[Category], store: Store) -> bool:
    """Whether these ids of stores or groups, and these categories, mean the store. None named means all."""
    by_id = not stores or store.id in stores or any(group in stores for group in store.groups)
    return by_id and (not categories or bool(set(categories) & set(store.categories)))
