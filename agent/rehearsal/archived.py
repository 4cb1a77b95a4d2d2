"""The archive in order of time, a piece of it in memory, with what it does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from agent.core.clock import DAY_NS, HOUR_NS
from agent.core.flow import FlowBatch
from agent.store.asking import Question
from agent.store.flows import Progress, ask, octets_by_day

PIECE_OCTETS: Final = 16 * 2**20
"""Of files of a day: a day that holds more is read in pieces of time."""
MOST_PIECES: Final = 288
"""Of a day: 5 minutes each."""


@dataclass
class Held:
    """What the archive holds of [from, until), found while it is read."""

    from_ns: int
    until_ns: int
    rows: int = 0
    rows_of_stores: int = 0
    """As it names the stores."""
    _hours: set[int] = field(default_factory=set)

    def see(self, batch: FlowBatch) -> None:
        """Take note of rows."""
        self.rows += len(batch)
        self.rows_of_stores += int((batch["store"] >= 0).sum())
        self._hours.update(np.unique(batch["end_ns"] // HOUR_NS).tolist())

    @property
    def hours(self) -> int:
        """UTC hours that were asked for, begun ones too."""
        return -(-self.until_ns // HOUR_NS) - self.from_ns // HOUR_NS

    @property
    def first_ns(self) -> int | None:
        """Begin of the first hour of which there are rows; None if there are none."""
        return min(self._hours) * HOUR_NS if self._hours else None

    def missing(self) -> list[tuple[int, int]]:
        """[from, until) of UTC hours in a row of which no row of any host is held: these were not observed, or nothing at
        all was sent and received in them."""
        found: list[tuple[int, int]] = []
        for hour in range(self.from_ns // HOUR_NS, -(-self.until_ns // HOUR_NS)):
            if hour in self._hours:
                continue
            begin, end = max(hour * HOUR_NS, self.from_ns), min((hour + 1) * HOUR_NS, self.until_ns)
            if found and found[-1][1] == begin:
                begin = found.pop()[0]
            found.append((begin, end))
        return found


def pieces(
    directory: Path,
    from_ns: int,
    until_ns: int,
    columns: frozenset[str],
    progress: Progress,
) -> Iterator[tuple[int, Iterator[FlowBatch]]]:
    """(end, rows) of pieces of time, oldest first; rows of one piece in no order, and to be read before the next.

    Raises :class:`~agent.core.errors.StateError` for a folder that holds no archive or a file that cannot be read.
    """
    whole = Question(from_ns, until_ns)
    days = sorted((day, octets) for day, octets in octets_by_day(directory, whole).items())
    total, before = sum(octets for _, octets in days), 0
    for day, octets in days:
        count = min(MOST_PIECES, max(1, -(-octets // PIECE_OCTETS)))
        for number in range(count):
            begin, end = (day * DAY_NS + DAY_NS * n // count for n in (number, number + 1))
            question = replace(whole, since_ns=max(begin, from_ns), until_ns=min(end, until_ns))
            progress(before + octets * number // count, total)
            if (question.since_ns or 0) < (question.until_ns or 0):
                yield end, ask(directory, question, columns=columns)
        before += octets
