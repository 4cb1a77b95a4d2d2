"""Which batches are missing. A hole among the numbers of a stream is a gap only once the agent's own low-water mark has
passed it and no range that the agent let go explains it: batches may come in any order, and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from agent.core.message import Header
from agent.store.inputs import Said
from agent.store.sequences import Intervals, Stream

MOST_PIECES: Final = 4096
"""Intervals of dropped or missing batches kept of one stream; more than an honest agent has."""


class Gaps:
    """What streams told of themselves. Not thread-safe."""

    def __init__(self, said: Mapping[Stream, Said]) -> None:
        self._said: dict[Stream, Said] = {}
        self._untold: dict[Stream, Said] = {}
        """Of them, those of which people are to be told: looked for at each turn, and hardly any among ten thousand."""
        self.put(said)

    def hear(
        self, headers: Iterable[Header], taken: Mapping[Stream, Intervals], *, begins: bool
    ) -> dict[Stream, Said]:
        """What changes with these messages, which are in ``taken`` already; for :meth:`put` once it is committed.

        ``begins``: nothing was ever read before, so that what a stream sent until now is not missing.
        """
        changed: dict[Stream, Said] = {}
        lowest: dict[Stream, int] = {}
        for header in headers:
            stream = header.batch_id[:3]
            if stream not in changed:
                known = self._said.get(stream)
                changed[stream] = known.copy() if known else Said(low_water=-1 if begins else 0)
                lowest[stream] = changed[stream].low_water
            said = changed[stream]
            if lowest[stream] < 0:
                lowest[stream] = min(header.low_water, header.sequence)
            said.low_water = max(said.low_water, header.low_water)
            for first, last in header.dropped:
                if first <= last and said.dropped.pieces < MOST_PIECES:
                    said.dropped.add_range(first, last)
        for stream, said in changed.items():
            self._update(said, lowest[stream], taken[stream])
        return {stream: said for stream, said in changed.items() if not _equal(said, self._said.get(stream))}

    def put(self, changed: Mapping[Stream, Said]) -> None:
        """These are committed."""
        self._said.update(changed)
        for stream, said in changed.items():
            if len(said.missing) > said.told:
                self._untold[stream] = said
            else:
                self._untold.pop(stream, None)

    def untold(self) -> dict[Stream, Said]:
        """Streams of which more is missing than people were told."""
        return dict(self._untold)

    def missing(self) -> int:
        """Batches that are missing, of all streams."""
        return sum(len(said.missing) for said in self._said.values())

    def _update(self, said: Said, since: int, taken: Intervals) -> None:
        before, said.missing = said.missing, Intervals()
        spans = [*before, *(((since, said.low_water - 1),) if said.low_water > since else ())]
        for first, last in spans:
            for a, b in taken.absent(first, last):
                for low, high in said.dropped.absent(a, b):
                    if said.missing.pieces < MOST_PIECES:
                        said.missing.add_range(low, high)
        said.told = min(said.told, len(said.missing))


def _equal(said: Said, known: Said | None) -> bool:
    return known is not None and said == known
