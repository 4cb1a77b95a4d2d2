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
    walk = _walk(data, len(sizes), order, footholds)
    wrong = np.flatnonzero(walk.last[:-1] != footholds[1:]).tolist()
    if len(wrong) * _MENDS > len(footholds) + _FEW:
        found, after, paid = walk.found[: walk.ends[wrong[0]]], int(walk.last[wrong[0]]), False
    else:
        found, after, paid = *_mended(sizes, footholds, walk, wrong), True
    # Two octets of a size were followed: behind a record that needs more of them, what was followed means nothing.
    third, fourth = (10, 11) if order == "<" else (9, 8)
    large = data[third:].take(found)
    large |= data[fourth:].take(found)
    if large.any():
        first = int(np.flatnonzero(large)[0])
        return found[:first], int(found[first]), paid
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


@dataclass(frozen=True, slots=True)
class _Walk:
    """What was met from each foothold on, up to the next."""

    found: Offsets
    ends: Offsets
    """Where in ``found`` what was met from each foothold ends."""
    last: Offsets
    """Where each arrived: at the next foothold, if all is well."""


def _walk(data: Bytes, places: int, order: str, footholds: Offsets) -> _Walk:
    """Follow the records by the lower two octets of their sizes; ``places`` is where none begins any more."""
    rows, at, bound = np.arange(len(footholds)), footholds, np.append(footholds[1:], places)
    last, count = footholds.copy(), np.zeros(len(footholds), np.int64)
    low, high = (data[8:], data[9:]) if order == "<" else (data[11:], data[10:])
    steps = []
    for step in range(1, _MOST + 1):
        steps.append((rows, at))
        size = high.take(at).astype(np.int64)
        size <<= 8
        size += _HEADER
        size += low.take(at)
        at = at + size
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
    return _Walk(found, ends, last)


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
                at += _HEADER + int(sizes[at])
            if at == goal or begin == len(footholds):
                break
        parts.append(np.array(chain, np.int64))
        if begin == len(footholds):
            return np.concatenate(parts), at
        done = walk.ends[begin - 1]
    parts.append(walk.found[done:])
    return np.concatenate(parts), int(walk.last[-1])
