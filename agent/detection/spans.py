"""Which override, and which sets' networks, an address lies in: sorted bounds, one binary search for a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.core.address import NULL_HALF, Addresses, Network, span
from agent.detection.keys import Ints


@dataclass(frozen=True, slots=True)
class Spans:
    """Disjoint spans of addresses, each with a number; the longest prefix wins."""

    high: Addresses
    low: Addresses
    value: Ints
    """Of the addresses from this bound to the next; -1 for none."""

    @classmethod
    def of(cls, networks: Sequence[tuple[Network, int]]) -> Spans:
        """From networks and their numbers. Of equal networks the first wins."""
        bounds: list[tuple[int, int]] = [(0, -1)]
        open_ends: list[tuple[int, int]] = []
        placed = {span(network): value for network, value in reversed(networks)}
        for (first, last), value in sorted(placed.items(), key=lambda item: (item[0][0], -item[0][1])):
            _close(open_ends, bounds, first)
            bounds.append((first, value))
            open_ends.append((last, value))
        _close(open_ends, bounds, 1 << 128)
        ends = {first: value for first, value in bounds if first < 1 << 128}
        firsts = sorted(ends)
        return cls(
            np.array([f >> 64 for f in firsts], np.uint64),
            np.array([f & NULL_HALF for f in firsts], np.uint64),
            np.array([ends[f] for f in firsts], np.int64),
        )

    def values(self, addresses: Addresses) -> Ints:
        """The number of each address. Shape (n,)."""
        if len(self.value) == 1:
            return np.full(len(addresses), self.value[0], np.int64)
        left = np.zeros(len(addresses), np.int64)
        right = np.full(len(addresses), len(self.value), np.int64)
        high, low = addresses[:, 0], addresses[:, 1]
        for _ in range(len(self.value).bit_length()):
            middle = np.minimum((left + right) // 2, len(self.value) - 1)
            h, lo = self.high[middle], self.low[middle]
            behind = (h < high) | ((h == high) & (lo <= low))
            left = np.where(behind & (left < right), middle + 1, left)
            right = np.where(behind, right, np.minimum(right, middle))
        return self.value[left - 1]


def _close(open_ends: list[tuple[int, int]], bounds: list[tuple[int, int]], before: int) -> None:
    """End the networks that end before ``before``: what holds after them is the network around them."""
    while open_ends and open_ends[-1][0] < before:
        last, _ = open_ends.pop()
        bounds.append((last + 1, open_ends[-1][1] if open_ends else -1))
