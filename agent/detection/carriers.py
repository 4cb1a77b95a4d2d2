"""Which rows of hosts without a store the detector reads: those of hosts that took something from a store.

A host is a carrier from the row on in which a store, or another carrier less than three steps away, sent it something.
Rows are asked in order of arrival, so it does not depend on where batches end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from agent.core.address import Addresses
from agent.detection.keys import Ints

HOPS: Final = 3
CARRIERS: Final = 65_536
"""Addresses that are remembered as carriers."""
_MULTIPLIER: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
Near = Callable[[Ints], tuple[Ints, Ints]]
"""Rows -> those of them that went to another own host, and the address there as :func:`short`."""


def short(addresses: Addresses) -> Ints:
    """One number for each address. Two may share one: a row too many is then read, and told apart later."""
    mixed: Ints = (addresses[:, 0] * _MULTIPLIER ^ addresses[:, 1]).view(np.int64)
    return mixed


class Carriers:
    """The addresses of carriers, and how many steps from a store each is."""

    def __init__(self) -> None:
        self._addresses = np.zeros(0, np.int64)
        self._hops = np.zeros(0, np.int64)
        self.news: list[list[int]] = []
        """Address and steps of those that the last rows brought; for the step's record."""
        self.let_go = 0
        """Addresses that found no place; whoever counts it sets it back."""

    def __len__(self) -> int:
        return len(self._addresses)

    def onward(self, local: Ints, rows: Ints, remote: Ints, near: Near) -> Ints:
        """Which of all rows left a carrier. ``local``: of every row. ``rows`` and ``remote``: those that went from a store
        to another own host, and where to. What is new is remembered."""
        self.news = []
        first = _First(rows, remote)
        reached = []
        for hop in range(1, HOPS + 1):
            first = first.joined(
                np.full(int((self._hops == hop).sum()), -1), self._addresses[self._hops == hop]
            )
            reached.append(first)
            if hop < HOPS:
                first = first.joined(*near(first.after(local)))
        self._learn(reached)
        return reached[-1].after(local)

    def _learn(self, reached: list[_First]) -> None:
        known = np.concatenate([self._addresses, *(one.addresses for one in reached)])
        hops = np.concatenate(
            [self._hops, *(np.full(len(one.addresses), hop + 1) for hop, one in enumerate(reached))]
        )
        order = np.lexsort((hops, known))
        known, hops = known[order], hops[order]
        least = np.flatnonzero(np.concatenate([[True], known[1:] != known[:-1]])) if len(known) else order
        known, hops = known[least], hops[least]
        if len(known) > CARRIERS:
            self.let_go += len(known) - CARRIERS
            kept = np.sort(np.lexsort((known, hops, ~np.isin(known, self._addresses)))[:CARRIERS])
            known, hops = known[kept], hops[kept]
        if not np.array_equal(known, self._addresses) or not np.array_equal(hops, self._hops):
            before = dict(zip(self._addresses.tolist(), self._hops.tolist(), strict=True))
            now = zip(known.tolist(), hops.tolist(), strict=True)
            self.news = [[address, hop] for address, hop in now if before.get(address) != hop]
        self._addresses, self._hops = known, hops

    def take(self, news: list[list[int]]) -> None:
        """Remember what :attr:`news` said; those that are known already change nothing."""
        if not news:
            return
        known = dict(zip(self._addresses.tolist(), self._hops.tolist(), strict=True))
        known.update((address, hop) for address, hop in news)
        addresses = sorted(known)
        self.set_state([addresses, [known[address] for address in addresses]])

    def state(self) -> list[list[int]]:
        """All of it as plain values."""
        return [self._addresses.tolist(), self._hops.tolist()]

    def set_state(self, state: list[list[int]]) -> None:
        """Take back what :meth:`state` gave."""
        self._addresses, self._hops = (np.array(part, np.int64) for part in state)


class _First:
    """Addresses, sorted, and the row in which each was first reached; -1 before all of them."""

    def __init__(self, rows: Ints, addresses: Ints) -> None:
        order = np.lexsort((rows, addresses))
        ordered: Any = addresses[order]
        begins = (
            np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(order) else order
        )
        self.addresses: Ints = ordered[begins]
        self.rows: Ints = rows[order][begins]

    def joined(self, rows: Ints, addresses: Ints) -> _First:
        """These, too."""
        return _First(np.concatenate([self.rows, rows]), np.concatenate([self.addresses, addresses]))

    def after(self, local: Ints) -> Ints:
        """Rows that left one of the addresses after it was reached."""
        if not len(self.addresses):
            return np.zeros(0, np.int64)
        place = np.minimum(np.searchsorted(self.addresses, local), len(self.addresses) - 1)
        hit = (self.addresses[place] == local) & (self.rows[place] < np.arange(len(local)))
        return np.flatnonzero(hit)
