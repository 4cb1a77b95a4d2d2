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

    @property
    def newest_ns(self) -> int:
        """The largest end of all sources; :data:`BEGINNING` without data."""
        return max(self._last.values(), default=BEGINNING)

    def observe(self, source: str, ends: Ints, trusted: Bools, received_ns: int) -> tuple[Ints, int]:
        """Take the ends of a batch's rows in order of arrival.

        Gives the watermark just before each row, shape (n,), and after the last. Rows that are not ``trusted`` move
        nothing.
        """
        first = self._last.get(source, BEGINNING)
        running = np.maximum.accumulate(np.where(trusted, ends, BEGINNING)) if len(ends) else ends
        running = np.maximum(running, first)
        last = int(running[-1]) if len(running) else first
        self._moved.setdefault(source, received_ns)
        if last > first:
            self._last[source] = last
            self._moved[source] = received_ns
        marks = np.maximum.accumulate(np.append([self.watermark], self._least(source, running, received_ns)))
        self.watermark = int(marks[-1])
        return marks[:-1], self.watermark

    def pass_time(self, now_ns: int) -> int:
        """Live, without rows: silent sources let go; when none is left, time itself moves the watermark."""
        if self._moved and not self._replay:
            target = min(self._holding(now_ns), default=now_ns)
            self.watermark = max(self.watermark, target - self._lateness)
        return self.watermark

    def _least(self, source: str, running: Ints, received_ns: int) -> Ints:
        """The watermark that the sources would give after each row, on its own: may lie behind the one in force."""
        others = np.array(self._heard(received_ns, leaving_out=source), np.int64)
        if self._replay:
            return np.minimum(running, others[0] if len(others) else NO_SOURCE) - self._lateness
        foremost = np.maximum(running, max(self._foremost, others[-1] if len(others) else BEGINNING))
        least = np.where(running >= foremost - BEHIND_NS, running, NO_SOURCE)
        if len(others):
            place = np.searchsorted(others, foremost - BEHIND_NS)
            holder = np.append(others, NO_SOURCE)[place]
            least = np.minimum(least, holder)
        return np.where(least == NO_SOURCE, BEGINNING, least) - self._lateness

    @property
    def _foremost(self) -> int:
        """The largest end that the watermark vouches for."""
        return self.watermark + self._lateness

    def _heard(self, received_ns: int, *, leaving_out: str = "") -> list[int]:
        """Largest ends of the sources that are not silent, least first."""
        return sorted(
            last
            for name, last in self._last.items()
            if name != leaving_out and (self._replay or received_ns - self._moved[name] <= SILENT_NS)
        )

    def _holding(self, received_ns: int) -> list[int]:
        """Those of them that are not far behind."""
        ends = self._heard(received_ns)
        foremost = max([self._foremost, *ends])
        return [end for end in ends if end >= foremost - BEHIND_NS]

    def state(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"watermark": self.watermark, "last": self._last, "moved": self._moved}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self.watermark, self._last, self._moved = state["watermark"], state["last"], state["moved"]
