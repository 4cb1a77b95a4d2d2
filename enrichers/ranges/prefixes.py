"""Many CIDR blocks as columns, and the intervals of their longest matches: a million of them in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from socket import AF_INET, AF_INET6, inet_pton

import numpy as np
from numpy.typing import NDArray

from agent.core.address import NULL_HALF, Network
from agent.core.grouping import distinct

_U64 = NDArray[np.uint64]
_V4_MAPPED = bytes(10) + b"\xff\xff"


class PrefixError(ValueError):
    """A text that is no address and no CIDR block; ``index`` says which of them."""

    def __init__(self, index: int, reason: str) -> None:
        self.index = index
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Prefixes:
    """CIDR blocks. IPv4, also v4-mapped and v4-compatible, is held as its number in ``low`` and 0 in ``high``."""

    v4: NDArray[np.bool_]
    high: _U64
    low: _U64
    """First address; shape (n,) all."""
    length: NDArray[np.int16]
    """0 to 32 for IPv4, else 0 to 128."""

    def __len__(self) -> int:
        return len(self.v4)

    @classmethod
    def of(cls, networks: Sequence[Network]) -> Prefixes:
        """From ``ipaddress`` networks. One Python object per block: for hundreds, not for millions."""
        length = [n.prefixlen + (96 if isinstance(n, IPv4Network) else 0) for n in networks]
        first = [
            int(n.network_address) | (0xFFFF << 32 if isinstance(n, IPv4Network) else 0) for n in networks
        ]
        high = np.array([f >> 64 for f in first], np.uint64)
        low = np.array([f & NULL_HALF for f in first], np.uint64)
        return cls._folded(high, low, np.array(length, np.int16))

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Prefixes:
        """From addresses (one each) and CIDR blocks. Raises :class:`PrefixError` for the first that is neither.

        A block with host bits set is refused: it may mean the address or the block.
        """
        packed: list[bytes] = []
        lengths: list[int] = []
        for index, text in enumerate(texts):
            head, slash, tail = text.partition("/")
            try:
                if ":" in head:
                    packed.append(inet_pton(AF_INET6, head))
                    bits, more = 128, 0
                else:
                    packed.append(_V4_MAPPED + inet_pton(AF_INET, head))
                    bits, more = 32, 96
            except (OSError, ValueError):
                raise PrefixError(
                    index, f"{text[:60]!r} is no address and no network such as 192.0.2.0/24"
                ) from None
            if not slash:
                lengths.append(128)
                continue
            if not (tail.isascii() and tail.isdigit() and len(tail) <= 3 and int(tail) <= bits):
                raise PrefixError(index, f"{text[:60]!r}: expected a prefix length from 0 to {bits}")
            lengths.append(int(tail) + more)
        halves = np.frombuffer(b"".join(packed), ">u8").astype(np.uint64).reshape(-1, 2)
        length = np.array(lengths, np.int16)
        high, low = halves[:, 0].copy(), halves[:, 1].copy()
        if len(wrong := np.flatnonzero((high & ~_mask(length)) | (low & ~_mask(length - 64)))):
            at = int(wrong[0])
            raise PrefixError(at, f"{texts[at][:60]!r} has host bits set; write the network's first address")
        return cls._folded(high, low, length)

    @classmethod
    def _folded(cls, high: _U64, low: _U64, length: NDArray[np.int16]) -> Prefixes:
        upper = low >> np.uint64(32)
        v4 = (length >= 96) & (high == 0) & ((upper == 0) | (upper == 0xFFFF))
        low = np.where(v4, low & np.uint64(0xFFFF_FFFF), low)
        return cls(v4, high, low, np.where(v4, length - 96, length).astype(np.int16))

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Prefixes:
        """Some of them."""
        return Prefixes(self.v4[index], self.high[index], self.low[index], self.length[index])

    @classmethod
    def concat(cls, parts: Sequence[Prefixes]) -> Prefixes:
        """One after another."""
        if not parts:
            return cls.of(())
        columns = zip(*((p.v4, p.high, p.low, p.length) for p in parts), strict=True)
        return cls(*(np.concatenate(c) for c in columns))


def longest(prefixes: Prefixes, rows: NDArray[np.int32], *, v4: bool) -> tuple[_U64, _U64, NDArray[np.int32]]:
    """Sorted starts (high, low) from 0 on without a gap, and the row of the longest prefix there; -1 for none.

    Of equal prefixes the first wins. Prefixes of one length are equal or disjoint, so each length is painted at once,
    the short ones first.
    """
    pick = prefixes.v4 == v4
    part, row = prefixes.take(pick), rows[pick]
    length = part.length + 96 if v4 else part.length
    end_high, end_low, beyond = _end(part.high, part.low, length)
    if v4:
        beyond = end_low > 0xFFFF_FFFF
    zero = np.zeros(1, np.uint64)
    high = np.concatenate([zero, part.high, end_high[~beyond]])
    low = np.concatenate([zero, part.low, end_low[~beyond]])
    order = np.argsort(low, kind="stable") if v4 else np.lexsort((low, high))
    high, low = high[order], low[order]
    new = np.ones(len(high), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    number = np.empty(len(high), np.int64)
    number[order] = np.cumsum(new) - 1
    total = int(number.max()) + 1
    n = len(part)
    first, after = number[1 : n + 1], np.full(n, total)
    after[~beyond] = number[n + 1 :]
    found = np.full(total, -1, np.int32)
    for bits in distinct(length).tolist():
        same = np.flatnonzero(length == bits)
        begin, index = np.unique(first[same], return_index=True)
        spans = after[same[index]] - begin
        offset = np.cumsum(spans) - spans
        found[np.repeat(begin - offset, spans) + np.arange(int(spans.sum()))] = np.repeat(
            row[same[index]], spans
        )
    return high[new], low[new], found


def _mask(length: NDArray[np.int16]) -> _U64:
    """A 64-bit mask of that many leading ones; below 0 none, above 64 all."""
    shift = np.clip(64 - length.astype(np.int64), 0, 64).astype(np.uint64)
    full = np.uint64(NULL_HALF)
    return np.where(shift >= 64, np.uint64(0), full << np.minimum(shift, np.uint64(63)))


def _end(high: _U64, low: _U64, length: NDArray[np.int16]) -> tuple[_U64, _U64, NDArray[np.bool_]]:
    """First address behind each prefix, and where there is none because the prefix ends with the last address."""
    wide = length <= 64
    one = np.uint64(1)
    bits = np.where(wide, 64 - length, 128 - length).astype(np.uint64)
    size = np.where(bits >= 64, np.uint64(0), one << np.minimum(bits, np.uint64(63)))
    end_low = np.where(wide, low, low + size)
    carry = ~wide & (end_low == 0)
    end_high = np.where(wide, high + size, high + carry.astype(np.uint64))
    beyond = (wide | carry) & (end_high == 0)
    return end_high, end_low, beyond
