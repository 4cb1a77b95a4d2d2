"""The watermark of many sources: the same as when every source is looked at for every batch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core.clock import SECOND_NS
from agent.detection.sources import BEGINNING, BEHIND_NS, SILENT_NS, Sources

LATENESS_NS = 120 * SECOND_NS


class Plain:
    """The rule as its text says it, row by row."""

    def __init__(self, *, replay: bool) -> None:
        self.watermark, self.replay = BEGINNING, replay
        self.last: dict[str, int] = {}
        self.moved: dict[str, int] = {}

    def observe(self, source: str, ends: list[int], received_ns: int) -> list[int]:
        """The watermark before each row and after the last."""
        others = [
            last
            for name, last in self.last.items()
            if name != source and (self.replay or received_ns - self.moved[name] <= SILENT_NS)
        ]
        self.moved.setdefault(source, received_ns)
        marks, own = [self.watermark], self.last.get(source, BEGINNING)
        foremost = self.watermark + LATENESS_NS
        for end in ends:
            if end > own:
                own = end
                self.last[source], self.moved[source] = end, received_ns
            ahead = max([foremost, own, *others])
            holding = [e for e in (own, *others) if self.replay or e >= ahead - BEHIND_NS]
            least = min(holding) - LATENESS_NS if holding else BEGINNING
            marks.append(max(marks[-1], least))
        self.watermark = marks[-1]
        return marks


TURN = st.tuples(
    st.sampled_from("abcde"),
    st.lists(st.integers(0, 3_000), min_size=1, max_size=3),
    st.integers(-30, 90),
)


@given(st.lists(TURN, max_size=40), st.booleans())
@example([("a", [0], 0), ("b", [2], 0), ("a", [1], -1), ("b", [0], 61)], False)
@example([("a", [1500], 0), ("b", [2000], 30), ("c", [0, 1200], 40)], False)
def test_the_watermark_is_that_of_the_plain_rule(
    turns: list[tuple[str, list[int], int]], replay: bool
) -> None:
    """Sources that fall silent, come back, run behind, and times of receipt that go back change nothing in that; nor do
    rows that are passed by, for nobody asks for the watermark before them.
    """
    made, plain = Sources(LATENESS_NS, replay=replay), Plain(replay=replay)
    passing = Sources(LATENESS_NS, replay=replay)
    received_ns = 10_000 * SECOND_NS
    for name, seconds, step in turns:
        received_ns += step * SECOND_NS
        ends = [s * SECOND_NS for s in seconds]
        before, after = made.observe(name, np.array(ends), np.ones(len(ends), bool), received_ns)
        expected = plain.observe(name, ends, received_ns)
        assert [*before.tolist(), after] == expected
        assert passing.pass_by(name, ends[0], max(ends), received_ns) == after
        assert passing.state() == made.state()
        assert all(a <= b for a, b in pairwise(expected))
