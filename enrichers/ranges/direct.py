"""IPv4 by direct index: one read per address, for tables that are asked much."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ASKED_BEFORE = 1 << 18
"""Addresses that a table must have been asked for at one go (see :meth:`Direct.rest`) before its direct index is built: it takes 64 MiB and some 0.1 s."""
INTERVALS_BEFORE = 4_096
"""A table of fewer intervals lies in the cache whole, and searching it costs as little."""

_BLOCKS = 1 << 24
_MIXED = -2


class Direct:
    """The answer of every /24, ``_MIXED`` where its addresses have several and the intervals decide."""

    __slots__ = ("_asked", "_block_row")

    def __init__(self) -> None:
        self._asked = 0
        self._block_row: NDArray[np.int32] | None = None

    @property
    def octets(self) -> int:
        """Memory held."""
        return 0 if self._block_row is None else self._block_row.nbytes

    def rest(self) -> None:
        """Begin to count anew: what is asked slowly, for months, needs no index."""
        self._asked = 0

    def find(
        self, start: NDArray[np.uint32], row: NDArray[np.int32], numbers: NDArray[np.uint32]
    ) -> NDArray[np.int32]:
        """The row of each IPv4 number, given the sorted starts of all intervals and their rows."""
        if self._block_row is None:
            self._asked += len(numbers)
            if self._asked < ASKED_BEFORE or len(start) < INTERVALS_BEFORE:
                return row[np.searchsorted(start, numbers, "right") - 1]
            self._block_row = blocks(start, row)
        found = self._block_row.take((numbers >> np.uint32(8)).astype(np.intp))
        if len(mixed := np.flatnonzero(found == _MIXED)):
            found[mixed] = row[np.searchsorted(start, numbers[mixed], "right") - 1]
        return found


def blocks(start: NDArray[np.uint32], row: NDArray[np.int32]) -> NDArray[np.int32]:
    """The row of each of the 2**24 /24 blocks, shape (2**24,); ``_MIXED`` where an interval begins inside."""
    block = start >> np.uint32(8)
    inside = (start & np.uint32(0xFF)) != 0
    # The last interval that begins in a block goes on behind it, until the next block in which one begins.
    last = np.append(block[1:] != block[:-1], True)
    first = block[last].astype(np.int64)
    spans = np.diff(np.append(first, _BLOCKS))
    found = np.repeat(row[last], spans).astype(np.int32)
    found[block[inside]] = _MIXED
    return found
