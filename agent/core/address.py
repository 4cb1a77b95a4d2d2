"""IP addresses as columns: an (n, 2) array of native uint64, high and low half of the 16 bytes.

IPv4 is v4-mapped (RFC 4291 section 2.5.5.2): high 0, low ``0x0000ffff_aabbccdd``. The null marker is all ones.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Addresses = NDArray[np.uint64]
"""Shape (n, 2), native byte order."""

V4_PREFIX = 0xFFFF << 32
NULL_HALF = 0xFFFF_FFFF_FFFF_FFFF

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def empty(n: int) -> Addresses:
    """``n`` null addresses."""
    return np.full((n, 2), NULL_HALF, np.uint64)


def from_v4(values: NDArray[np.uint32]) -> Addresses:
    """Host-order IPv4 numbers as v4-mapped addresses."""
    out = np.zeros((len(values), 2), np.uint64)
    out[:, 1] = values.astype(np.uint64) | np.uint64(V4_PREFIX)
    return out


def is_v4(addresses: Addresses) -> NDArray[np.bool_]:
    """Where the address is v4-mapped."""
    return np.asarray((addresses[:, 0] == 0) & (addresses[:, 1] >> np.uint64(32) == 0xFFFF))


def is_null(addresses: Addresses) -> NDArray[np.bool_]:
    """Where there is no address."""
    return np.asarray((addresses[:, 0] == NULL_HALF) & (addresses[:, 1] == NULL_HALF))


def number(address: str | ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    """One address as its 128-bit number, IPv4 v4-mapped. Raises ``ValueError`` for text that is no address."""
    parsed = ipaddress.ip_address(address)
    return int(parsed) | (V4_PREFIX if parsed.version == 4 else 0)


def parse(texts: Iterable[str]) -> Addresses:
    """Addresses from their text. Raises ``ValueError`` for text that is no address."""
    numbers = [number(text) for text in texts]
    out = np.empty((len(numbers), 2), np.uint64)
    out[:, 0] = [n >> 64 for n in numbers]
    out[:, 1] = [n & NULL_HALF for n in numbers]
    return out


def text_of(high: int, low: int) -> str | None:
    """One address as text, IPv4 dotted; None for the null marker."""
    if high == NULL_HALF and low == NULL_HALF:
        return None
    if high == 0 and low >> 32 == 0xFFFF:
        return str(ipaddress.IPv4Address(low & 0xFFFF_FFFF))
    return str(ipaddress.IPv6Address(high << 64 | low))


def texts(addresses: Addresses) -> list[str | None]:
    """Each address as text. A Python object per row: for display only."""
    return [text_of(high, low) for high, low in addresses.tolist()]


def span(network: Network) -> tuple[int, int]:
    """First and last 128-bit number of a network, IPv4 v4-mapped."""
    base = V4_PREFIX if network.version == 4 else 0
    return int(network.network_address) | base, int(network.broadcast_address) | base


class NetworkSet:
    """A set of networks with a vectorised membership test. Overlaps are merged."""

    def __init__(self, networks: Sequence[Network | str] = ()) -> None:
        parsed = [ipaddress.ip_network(n) if isinstance(n, str) else n for n in networks]
        self.networks: tuple[Network, ...] = tuple(parsed)
        merged: list[list[int]] = []
        for first, last in sorted(span(n) for n in parsed):
            if merged and first <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], last)
            else:
                merged.append([first, last])
        self._first = [m[0] for m in merged]
        self._last = [m[1] for m in merged]

    def __bool__(self) -> bool:
        return bool(self._first)

    def __contains__(self, address: str) -> bool:
        value = number(address)
        return any(first <= value <= last for first, last in zip(self._first, self._last, strict=True))

    def contains(self, addresses: Addresses) -> NDArray[np.bool_]:
        """Where the address lies in one of the networks."""
        high, low = addresses[:, 0], addresses[:, 1]
        found = np.zeros(len(addresses), bool)
        for first, last in zip(self._first, self._last, strict=True):
            first_high, first_low = np.uint64(first >> 64), np.uint64(first & NULL_HALF)
            last_high, last_low = np.uint64(last >> 64), np.uint64(last & NULL_HALF)
            above = (high > first_high) | ((high == first_high) & (low >= first_low))
            below = (high < last_high) | ((high == last_high) & (low <= last_low))
            found |= above & below
        return found


# IANA special-purpose address registries (RFC 6890 and its updates). Order matters: the first match names the scope.
SPECIAL_SCOPES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loopback", ("127.0.0.0/8", "::1/128")),
    ("link_local", ("169.254.0.0/16", "fe80::/10")),
    ("multicast", ("224.0.0.0/4", "ff00::/8")),
    ("broadcast", ("255.255.255.255/32",)),
    ("unspecified", ("0.0.0.0/8", "::/128")),
    ("private", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")),
    ("shared", ("100.64.0.0/10",)),
    ("reserved", ("240.0.0.0/4", "192.0.0.0/24", "198.18.0.0/15", "100::/64")),
)
"""Scopes that never have a country. ``shared`` is carrier-grade NAT space (RFC 6598).

Documentation networks (RFC 5737, RFC 3849) are left out on purpose: an override file may give them a place.
"""
