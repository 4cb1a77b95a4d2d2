"""Where the records of a classic capture begin, found from many places of the buffer at once, without I/O.

A record says how long it is, so records are a chain, and following a chain is what numpy cannot do. But a chain can be
followed from many of its links at once: footholds are guessed two kilobytes apart, every one is followed up to the next,
and only what was reached from the first record, link by link, is believed. A wrong guess so costs time, never a record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.packets.links import Bytes, Offsets

_HEADER: Final = 16
_STEP: Final = 2048
"""Octets from one foothold to the next."""
_WINDOW: Final = 160
"""Octets in which one is looked for: more than a record of headers alone."""
_FEW: Final = 16
"""With fewer footholds still on their way, plain following is cheaper."""
_MOST: Final = 256
"""Records from one foothold to the next beyond which plain following takes over."""
_LARGEST: Final = 0xFFFF
_MENDS: Final = 8
"""One in so many footholds may prove wrong before the rest is left to plain following."""


def records(data: Bytes, filled: int, order: str, fractions: int) -> tuple[Offsets, int, bool]:
    """(offsets of records from 0 on, where the next one begins, whether it paid).

    ``data[:filled]``, 16 octets or more, begins with a record header of 16 octets in byte order ``order`` ("<" or ">");
    ``fractions`` are those of a second. Ends before a record of 65,536 octets or more and where too many guesses are wrong;
    the last record may not be whole.
    """
    sizes = np.ndarray((filled - _HEADER + 1,), order + "u4", data, 8, (1,))
    footholds = _footholds(data, filled, order, fractions)
    walk = _walk(sizes, footholds)
    wrong = np.flatnonzero(walk.last[:-1] != footholds[1:]).tolist()
    if len(wrong) * _MENDS > len(footholds) + _FEW:
        found, after, paid = walk.found[: walk.ends[wrong[0]]], int(walk.last[wrong[0]]), False
    else:
        found, after, paid = *_mended(sizes, footholds, walk, wrong), True
    if walk.large and len(large := np.flatnonzero(sizes[found] > _LARGEST)):
        return found[: large[0]], int(found[large[0]]), paid
    return found, after, paid


def _footholds(data: Bytes, filled: int, order: str, fractions: int) -> Offsets:
    """0, and where else a record header seems to be, ascending: at most one in each step."""
    n = (filled - _WINDOW - _HEADER) // _STEP
    if n < 1:
        return np.zeros(1, np.int64)
    # A header's second begins as the first record's does, and both its lengths are below 2**24.
    second, *zeros = (0, 8, 12) if order == ">" else (3, 11, 15)

    def window(offset: int) -> Bytes:
        return np.ndarray((n, _WINDOW), np.uint8, data, _STEP + offset, (_STEP, 1))

    maybe = window(second) ^ data[second]
    for offset in zeros:
        maybe |= window(offset)
    likely = maybe == 0
    place = likely.argmax(axis=1)
    there = np.flatnonzero(likely[np.arange(n), place])
    at = _STEP * (there + 1) + place[there]
    header = np.ndarray((filled - _HEADER + 1,), f"V{_HEADER}", data, 0, (1,))
    head = header[at].view(order + "u4").reshape(len(at), 4)
    sizes = head[:, 2].astype(np.int64)
    # What no writer writes; a record that does is not lost, it only is no foothold.
    keep = (sizes <= head[:, 3]) & (head[:, 1] < fractions)
    after = np.minimum(at + _HEADER + sizes, len(header) - 1)
    keep &= data[after + second] == data[second]
    return np.concatenate((np.zeros(1, np.int64), at[keep]))


@dataclass(slots=True)
class _Walk:
    """What was met from each foothold on, up to the next."""

    found: Offsets
    ends: Offsets
    """Where in ``found`` what was met from each foothold ends."""
    last: Offsets
    """Where each arrived: at the next foothold, if all is well."""
    large: bool
    """A record of more than ``_LARGEST`` octets is among them, or was met since."""


def _walk(sizes: NDArray[np.uint32], footholds: Offsets) -> _Walk:
    rows, at, bound = np.arange(len(footholds)), footholds, np.append(footholds[1:], len(sizes))
    last, count = footholds.copy(), np.zeros(len(footholds), np.int64)
    steps, largest = [], 0
    for step in range(1, _MOST + 1):
        steps.append((rows, at))
        size = sizes[at]
        largest = max(largest, int(size.max()))
        at = at + size
        at += _HEADER
        on = at < bound
        if step == _MOST or np.count_nonzero(on) < _FEW:
            break
        if not on.all():
            over = np.flatnonzero(~on)
            last[rows[over]], count[rows[over]] = at[over], step
            rows, at, bound = rows.compress(on), at.compress(on), bound.compress(on)
    last[rows], count[rows] = at, step
    ends = np.cumsum(count)
    found = np.empty(int(ends[-1]), np.int64)
    first = ends - count
    for step, (rows, at) in enumerate(steps):
        found[first[rows] + step] = at
    return _Walk(found, ends, last, largest > _LARGEST)


def _mended(
    sizes: NDArray[np.uint32], footholds: Offsets, walk: _Walk, wrong: list[int]
) -> tuple[Offsets, int]:
    """The chain from the first record on, and where it leads; from ``wrong`` the next foothold was not met."""
    parts, done, begin = [], 0, 0
    for index in wrong:
        if index < begin:
            continue
        parts.append(walk.found[done : walk.ends[index]])
        # One by one, until the chain meets a foothold again.
        at, chain = int(walk.last[index]), []
        begin = index + 1
        while True:
            begin += int(np.searchsorted(footholds[begin:], at))
            goal = int(footholds[begin]) if begin < len(footholds) else len(sizes)
            while at < goal:
                chain.append(at)
                size = int(sizes[at])
                walk.large |= size > _LARGEST
                at += _HEADER + size
            if at == goal or begin == len(footholds):
                break
        parts.append(np.array(chain, np.int64))
        if begin == len(footholds):
            return np.concatenate(parts), at
        done = walk.ends[begin - 1]
    parts.append(walk.found[done:])
    return np.concatenate(parts), int(walk.last[-1])
