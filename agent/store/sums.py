"""Sums of flows by columns and times, with how they went over time. Memory is bounded by the number of groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.core.address import texts
from agent.core.clock import SECOND_NS, when
from agent.core.errors import StateError
from agent.core.flow import BY_NAME, FlowBatch, Kind
from agent.core.grouping import groups

AMOUNTS = ("octets_out", "octets_in", "packets_out", "packets_in", "content_octets_out", "flows")
MOST_GROUPS = 500_000
"""More would not fit into memory for certain, and nobody reads them."""
MOST_SERIES = 2_000
"""Groups of which the course over time is kept."""
POINTS = 64
"""Points of a course at most; it has at least half as many once it spans so many seconds."""
_QUARTER_S = 900
"""No zone's offset changes within a quarter of an hour."""

BUCKETS: Mapping[str, Callable[[datetime], datetime]] = {
    "minute": lambda t: t.replace(second=0, microsecond=0),
    "hour": lambda t: t.replace(minute=0, second=0, microsecond=0),
    "day": lambda t: t.replace(hour=0, minute=0, second=0, microsecond=0),
}
"""What times are grouped by, as people's clocks in their zone have them."""


@dataclass(frozen=True, slots=True)
class Total:
    """What all rows of a group add up to."""

    key: tuple[Any, ...]
    rows: int
    amounts: Mapping[str, int]
    first_ns: int
    """Earliest start of a row."""
    last_ns: int
    """Latest end."""
    series: tuple[int, ...] | None
    """Octets out over the time of all groups, oldest first; None where it was not kept."""
    series_from_ns: int
    """Where the first point begins."""
    series_step_ns: int


class Sums:
    """Adds batches up. ``names`` are columns of the schema or names of :data:`BUCKETS`; times are in ``zone``."""

    def __init__(self, names: Sequence[str], zone: tzinfo | None = None) -> None:
        self.names = tuple(names)
        self._zone = zone
        self._index: dict[tuple[Any, ...], int] = {}
        self._sums = np.zeros((64, len(AMOUNTS) + 1), np.int64)
        self._times = _no_times(64)
        self._course = _Course()

    def add(self, batch: FlowBatch) -> None:
        """Add a batch. Raises :class:`StateError` if there are too many groups."""
        if not len(batch):
            return
        buckets = {name: self._buckets(batch, name) for name in self.names if name in BUCKETS}
        order, starts = groups(
            [c for name in self.names for c in _columns(batch, name, buckets)] or [_one(batch)]
        )
        first = order[starts]
        place = np.array([self._place(key) for key in self._keys(batch, first, buckets)], np.int64)
        # Several groups of a batch may have one place: a dictionary may hold a text twice.
        for column, name in enumerate(AMOUNTS):
            np.add.at(self._sums[:, column], place, np.add.reduceat(batch[name][order], starts))
        lengths = np.diff(np.append(starts, len(batch)))
        np.add.at(self._sums[:, -1], place, lengths)
        np.minimum.at(self._times[:, 0], place, np.minimum.reduceat(batch["start_ns"][order], starts))
        np.maximum.at(self._times[:, 1], place, np.maximum.reduceat(batch["end_ns"][order], starts))
        seconds = batch["end_ns"][order] // SECOND_NS
        self._course.add(np.repeat(place, lengths), seconds, batch["octets_out"][order])

    def groups(self) -> list[Total]:
        """Every group, most octets out first."""
        order = np.argsort(-self._sums[: len(self._index), 0], kind="stable")
        keys = list(self._index)
        return [self._total(keys[i], i) for i in order.tolist()]

    def total(self) -> Total:
        """All groups together."""
        n = len(self._index)
        sums = self._sums[:n].sum(axis=0).tolist()
        times = (int(self._times[:n, 0].min()), int(self._times[:n, 1].max())) if n else (0, 0)
        amounts = dict(zip(AMOUNTS, sums, strict=False))
        return Total((), sums[-1], amounts, *times, self._course.of(None), *self._course.scale)

    def _total(self, key: tuple[Any, ...], i: int) -> Total:
        *amounts, rows = self._sums[i].tolist()
        first, last = self._times[i].tolist()
        return Total(
            key,
            rows,
            dict(zip(AMOUNTS, amounts, strict=True)),
            first,
            last,
            self._course.of(i),
            *self._course.scale,
        )

    def _place(self, key: tuple[Any, ...]) -> int:
        place = self._index.get(key)
        if place is None:
            place = self._index[key] = len(self._index)
            if place >= MOST_GROUPS:
                raise StateError(
                    f"more than {MOST_GROUPS:,} different values of {', '.join(self.names)}; "
                    "group by less, ask for a shorter time, or filter"
                )
            if place >= len(self._sums):
                self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
                self._times = np.concatenate([self._times, _no_times(len(self._times))])
        return place

    def _buckets(self, batch: FlowBatch, name: str) -> tuple[NDArray[np.int64], list[str]]:
        """The bucket of each row as a number, and what each number stands for."""
        step = 60 if name == "minute" else _QUARTER_S
        distinct, inverse = np.unique(batch["end_ns"] // (step * SECOND_NS), return_inverse=True)
        texts = [self._bucket(name, number * step * SECOND_NS) for number in distinct.tolist()]
        known = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        return np.array([known[text] for text in texts], np.int64)[inverse.reshape(-1)], list(known)

    def _bucket(self, name: str, time_ns: int) -> str:
        return BUCKETS[name](when(time_ns, self._zone)).isoformat(timespec="minutes")

    def _keys(self, batch: FlowBatch, first: NDArray[np.intp], buckets: _Buckets) -> list[tuple[Any, ...]]:
        """The key of each group, from its first row."""
        values: dict[str, list[Any]] = {}
        for name in self.names:
            if name in buckets:
                codes, texts = buckets[name]
                values[name] = [texts[code] for code in codes[first].tolist()]
            else:
                values[name] = _plain(batch, name, first)
        return list(zip(*(values[name] for name in self.names), strict=True)) or [()] * len(first)


class _Course:
    """Octets over time for each group, in buckets that grow as the time does: powers of two in seconds."""

    def __init__(self) -> None:
        self._width = 1
        self._base: int | None = None
        self._points = np.zeros((64, POINTS), np.int64)
        self._all = np.zeros(POINTS, np.int64)

    def add(self, place: NDArray[np.int64], seconds: NDArray[np.int64], octets: NDArray[np.int64]) -> None:
        """Add octets of groups ``place`` at these seconds."""
        self._make_room(int(seconds.min()), int(seconds.max()))
        assert self._base is not None
        at = seconds // self._width - self._base
        np.add.at(self._all, at, octets)
        kept = place < MOST_SERIES
        top = int(place[kept].max(initial=-1)) + 1
        while top > len(self._points):
            self._points = np.concatenate([self._points, np.zeros_like(self._points)])
        np.add.at(self._points, (place[kept], at[kept]), octets[kept])

    def of(self, place: int | None) -> tuple[int, ...] | None:
        """The course of one group, or of all (None), over the time that any group has."""
        if place is not None and place >= MOST_SERIES:
            return None
        used = np.flatnonzero(self._all)
        if not len(used):
            return ()
        row = self._all if place is None else self._points[place]
        return tuple(row[used[0] : used[-1] + 1].tolist())

    @property
    def scale(self) -> tuple[int, int]:
        """Where the first point that :meth:`of` gives begins, and the length of each; nanoseconds."""
        used = np.flatnonzero(self._all)
        start = ((self._base or 0) + (int(used[0]) if len(used) else 0)) * self._width
        return start * SECOND_NS, self._width * SECOND_NS

    def _make_room(self, first: int, last: int) -> None:
        if self._base is None:
            self._base = first // self._width
        had = np.flatnonzero(self._all)
        if len(had):
            first = min(first, (self._base + int(had[0])) * self._width)
            last = max(last, (self._base + int(had[-1])) * self._width)
        width = self._width
        while last // width - first // width >= POINTS:
            width *= 2
        base = first // width
        if width == self._width and base == self._base:
            return
        old = (np.arange(POINTS) + self._base) * self._width // width - base
        keep = (old >= 0) & (old < POINTS)
        self._all = _moved(self._all[None, :], old, keep)[0]
        self._points = _moved(self._points, old, keep)
        self._width, self._base = width, base


def _moved(points: NDArray[np.int64], to: NDArray[np.int64], keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    made = np.zeros_like(points)
    np.add.at(made.T, to[keep], points.T[keep])
    return made


def _no_times(n: int) -> NDArray[np.int64]:
    return np.tile(np.array([2**62, 0], np.int64), (n, 1))


_Buckets = Mapping[str, tuple[NDArray[np.int64], list[str]]]


def _columns(batch: FlowBatch, name: str, buckets: _Buckets) -> list[NDArray[Any]]:
    """Columns of numbers that are equal where the values are."""
    if name in buckets:
        return [buckets[name][0]]
    data = batch[name]
    return [data[:, 0], data[:, 1]] if data.ndim == 2 else [data]


def _one(batch: FlowBatch) -> NDArray[Any]:
    return np.zeros(len(batch), np.int64)


def _plain(batch: FlowBatch, name: str, rows: NDArray[np.intp]) -> list[Any]:
    """The values of some rows as plain Python, null as None."""
    column = BY_NAME[name]
    if column.kind is Kind.TEXT:
        return batch.text(name).take(rows).decode()
    if column.kind is Kind.ADDRESS:
        return texts(batch[name][rows])
    values = batch[name][rows].tolist()
    return [None if v == column.marker else v for v in values] if column.null else values
