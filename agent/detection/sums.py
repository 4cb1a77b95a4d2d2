"""The largest sum of any destination in each window of a rule and store, from the detector's rings."""

from __future__ import annotations

from typing import Final

import numpy as np

from agent.detection.cube import Cube, estimated_of
from agent.detection.keys import Bools, Ints, grown
from agent.detection.windows import Ring

UNKNOWN: Final = -1
"""As a sum: no ring holds that time any more."""
MOST_CELLS: Final = 4_000_000
"""Of one table of destinations by buckets; where it would be larger, all destinations are summed as one."""


class WindowSums:
    """Sums at the buckets ``first`` to ``last`` of one ring. Reads the cells once, whoever asks how often."""

    def __init__(self, cube: Cube, ring: Ring, first: int, last: int) -> None:
        self._cube, self._window = cube, ring.window
        self.first, self.last = first, last
        self._low = first - ring.window.n
        self._bucket, self._path, self._amount = ring.cells_between(self._low, last)
        count = cube.paths.count
        pair = cube.pair_of[:count]
        self._store = cube.pairs.columns[1][pair] if count else np.zeros(0, np.int64)
        self._estimated = estimated_of(cube)

    def largest(self, store: str, rule: int) -> tuple[Ints, Bools]:
        """By bucket: the largest sum of a destination that the rule reads, and whether some of it is estimated."""
        count = self._cube.paths.count
        of_path = self._cube.pairs_by(self._cube.watches[rule].group)[:count]
        wanted = self._store == self._cube.names.known(store)
        if self._cube.watches[rule].rule.group_by == "legal_entity":
            wanted = np.isin(of_path, of_path[wanted])  # what counts for one of its stores counts for all
        wanted &= grown(self._cube.rule_reads[rule], count)[:count]
        mine = wanted[self._path]
        if not mine.any():
            width = self.last - self.first + 1
            return np.zeros(width, np.int64), np.zeros(width, bool)
        paths = self._path[mine]
        bucket, amount = self._bucket[mine] - self._low, self._amount[mine]
        pairs, place = np.unique(of_path[paths], return_inverse=True)
        if len(pairs) * (self.last - self._low + 1) > MOST_CELLS:
            place = np.zeros(len(paths), np.int64)
        sums = self._windows(place, bucket, amount).max(axis=0)
        guessed = self._estimated[paths]
        if not guessed.any():
            return sums, np.zeros(len(sums), bool)
        parts = self._windows(np.zeros(int(guessed.sum()), np.int64), bucket[guessed], amount[guessed])
        return sums, parts[0] > 0

    def _windows(self, place: Ints, bucket: Ints, amount: Ints) -> Ints:
        """Shape (places, buckets asked for)."""
        table = np.zeros((int(place.max()) + 1, self.last - self._low + 2), np.int64)
        np.add.at(table, (place, bucket + 1), amount)
        before = np.cumsum(table, axis=1)
        width, n = self.last - self.first + 1, self._window.n
        return np.asarray(before[:, n + 1 : n + 1 + width] - before[:, :width])
