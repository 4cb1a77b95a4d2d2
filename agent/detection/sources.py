"""The watermark: up to which event time all that is expected has come.

A source's own watermark is the largest end it has sent less the allowed lateness; the detector's is the least of the
sources that hold it, and never goes back. Live, a source holds it unless it is

- silent: its largest end has not moved for 60 s of receipt (it sends nothing, or its clock stands or was set back), or
- far behind: more than 15 min behind the foremost (a spool being emptied, a clock that starts in 1970).

Their rows are late, and lateness loses nothing. A source that is new or returns does not move the watermark back; it
holds it where it is until it has caught up. A row that ends over five minutes after its receipt moves nothing, so a
clock that runs years ahead holds and moves nobody. In replay the data is the clock: no source is silent or behind.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from agent.core.clock import MINUTE_NS, SECOND_NS
from agent.detection.keys import Bools, Ints

SILENT_NS: Final = 60 * SECOND_NS
BEHIND_NS: Final = 15 * MINUTE_NS
SUSPECT_NS: Final = 5 * MINUTE_NS
BEGINNING: Final = -(2**62)
"""A watermark before any data."""
NO_SOURCE: Final = 2**62
"""The least of no sources."""


class Sources:
    """What each source has sent, and the watermark that follows."""

    def __init__(self, lateness_ns: int, *, replay: bool) -> None:
        self.watermark = BEGINNING
        self._lateness = lateness_ns
        self._replay = replay
        self._last: dict[str, int] = {}
        self._moved: dict[str, int] = {}
        self._order: _Order | None = None
        """Largest ends of the sources that are not silent at ``_asked_ns``, least first; None: to be made anew."""
        self._asked_ns = BEGINNING
        self._talking: dict[str, int] = {}
        """Their names and when they moved."""
        self._oldest: list[tuple[int, str]] = []
        """The same as a heap, longest ago first, with entries that hold no more: times of receipt may go back."""

    @property
    def newest_ns(self) -> int:
        """The largest end of all sources; :data:`BEGINNING` without data."""
        return max(self._last.values(), default=BEGINNING)

    def observe(self, source: str, ends: Ints, trusted: Bools, received_ns: int) -> tuple[Ints, int]:
        """Take the ends of a batch's rows in order of arrival.

        Gives the watermark just before each row, shape (n,), and after the last. Rows that are not ``trusted`` move
        nothing.
        """
        others = self._others(source, received_ns)
        first = self._last.get(source, BEGINNING)
        running = np.maximum.accumulate(np.where(trusted, ends, BEGINNING)) if len(ends) else ends
        running = np.maximum(running, first)
        marks = np.maximum.accumulate(np.append([self.watermark], self._least(others, running)))
        self.watermark = int(marks[-1])
        self._join(source, received_ns, int(running[-1]) if len(running) else first)
        return marks[:-1], self.watermark

    def pass_by(self, source: str, begin_ns: int, newest_ns: int, received_ns: int) -> int:
        """As :meth:`observe` for rows before which nobody asks for the watermark; gives the one after the last.

        ``begin_ns``: the end of the first row, ``newest_ns``: the largest end of those that are trusted;
        :data:`BEGINNING` where the first, or none, is so. What a row gives grows along the rows, but for the step at which the
        source is no longer far behind: so the first row and the last give the most.
        """
        others = self._others(source, received_ns)
        known = self._last.get(source, BEGINNING)
        first, last = max(known, begin_ns), max(known, newest_ns)
        marks = [self._least_of_one(others, running) for running in {first, last}]
        self.watermark = max(self.watermark, *marks)
        self._join(source, received_ns, last)
        return self.watermark

    def pass_time(self, now_ns: int) -> int:
        """Live, without rows: silent sources let go; when none is left, time itself moves the watermark."""
        if self._moved and not self._replay:
            target = min(self._holding(now_ns), default=now_ns)
            self.watermark = max(self.watermark, target - self._lateness)
        return self.watermark

    def _least(self, others: Ints, running: Ints) -> Ints:
        """The watermark that the sources would give after each row, on its own: may lie behind the one in force."""
        if self._replay:
            return np.minimum(running, others[0] if len(others) else NO_SOURCE) - self._lateness
        foremost = np.maximum(running, max(self._foremost, int(others[-1]) if len(others) else BEGINNING))
        least = np.where(running >= foremost - BEHIND_NS, running, NO_SOURCE)
        if len(others):
            place = np.searchsorted(others, foremost - BEHIND_NS)
            holder = np.append(others, NO_SOURCE)[place]
            least = np.minimum(least, holder)
        return np.where(least == NO_SOURCE, BEGINNING, least) - self._lateness

    def _least_of_one(self, others: Ints, running: int) -> int:
        """:meth:`_least` of one row."""
        if self._replay:
            return min(running, int(others[0]) if len(others) else NO_SOURCE) - self._lateness
        foremost = max(running, self._foremost, int(others[-1]) if len(others) else BEGINNING)
        least = running if running >= foremost - BEHIND_NS else NO_SOURCE
        if (place := int(others.searchsorted(foremost - BEHIND_NS))) < len(others):
            least = min(least, int(others[place]))
        return (BEGINNING if least == NO_SOURCE else least) - self._lateness

    def _others(self, source: str, received_ns: int) -> Ints:
        """Largest ends of the sources that are not silent, but for one; least first. Made anew only where the time of
        receipt goes back: of ten thousand sources that takes longer than all else of a batch."""
        if self._order is None or received_ns < self._asked_ns:
            held = sorted(
                (moved, name)
                for name, moved in self._moved.items()
                if name in self._last and (self._replay or received_ns - moved <= SILENT_NS)
            )
            self._talking = {name: moved for moved, name in held}
            self._oldest = held
            self._order = _Order([self._last[name] for name in self._talking])
        self._asked_ns = received_ns
        order = self._order
        while self._oldest and received_ns - self._oldest[0][0] > SILENT_NS and not self._replay:
            moved, name = heapq.heappop(self._oldest)
            if self._talking.get(name) == moved:
                del self._talking[name]
                order.remove(self._last[name])
        if source in self._talking:
            order.remove(self._last[source])
        return order.values

    def _join(self, source: str, received_ns: int, last_ns: int) -> None:
        """Put a source, whose largest end is now ``last_ns``, into its place among the others."""
        assert self._order is not None
        self._moved.setdefault(source, received_ns)
        if last_ns > self._last.get(source, BEGINNING):
            self._last[source] = last_ns
            self._moved[source] = received_ns
        moved = self._moved[source]
        heard = source in self._last and (self._replay or received_ns - moved <= SILENT_NS)
        if heard:
            self._order.add(self._last[source])
            if self._talking.get(source) != moved and not self._replay:
                heapq.heappush(self._oldest, (moved, source))
            self._talking[source] = moved
        else:
            self._talking.pop(source, None)

    @property
    def _foremost(self) -> int:
        """The largest end that the watermark vouches for."""
        return self.watermark + self._lateness

    def _heard(self, received_ns: int) -> list[int]:
        """Largest ends of the sources that are not silent, least first."""
        return sorted(
            last
            for name, last in self._last.items()
            if self._replay or received_ns - self._moved[name] <= SILENT_NS
        )

    def _holding(self, received_ns: int) -> list[int]:
        """Those of them that are not far behind."""
        ends = self._heard(received_ns)
        foremost = max([self._foremost, *ends])
        return [end for end in ends if end >= foremost - BEHIND_NS]

    def state(self, of: Iterable[str] | None = None) -> dict[str, Any]:
        """All of it as plain values, or what of it some sources may have changed."""
        last, moved = self._last, self._moved
        if of is not None:
            names = [name for name in of if name in moved]
            last = {name: last[name] for name in names if name in last}
            moved = {name: moved[name] for name in names}
        return {"watermark": self.watermark, "last": last, "moved": moved}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave; of sources that it does not name nothing changes."""
        self.watermark = state["watermark"]
        self._last.update(state["last"])
        self._moved.update(state["moved"])
        self._order = None


class _Order:
    """Sorted numbers, put in and taken out in place: of ten thousand a copy costs more than the step."""

    def __init__(self, values: list[int]) -> None:
        self._held = np.sort(np.array(values, np.int64))
        self._count = len(values)

    @property
    def values(self) -> Ints:
        """All of them, least first, until the next change."""
        return self._held[: self._count]

    def remove(self, value: int) -> None:
        """Take out one that equals ``value``."""
        at = int(self.values.searchsorted(value))
        self._held[at : self._count - 1] = self._held[at + 1 : self._count]
        self._count -= 1

    def add(self, value: int) -> None:
        """Put one in."""
        if self._count == len(self._held):
            self._held = np.append(self._held, np.zeros(self._count + 16, np.int64))
        at = int(self.values.searchsorted(value))
        self._held[at + 1 : self._count + 1] = self._held[at : self._count]
        self._held[at] = value
        self._count += 1
