"""Interval sets of batch sequences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.store.sequences import Intervals, Sequences

NUMBERS = st.lists(st.integers(0, 60), max_size=80)


@given(NUMBERS)
def test_an_interval_set_is_a_set(numbers: list[int]) -> None:
    """Adding says whether a number was new; membership, size, intervals and holes are those of a plain set."""
    intervals, plain = Intervals(), set()
    for number in numbers:
        assert intervals.add(number) is (number not in plain)
        plain.add(number)
    assert [n for n in range(62) if n in intervals] == sorted(plain)
    assert len(intervals) == len(plain)
    inside = [n for first, last in intervals for n in range(first, last + 1)]
    outside = [n for first, last in intervals.holes() for n in range(first, last + 1)]
    assert inside == sorted(plain)
    assert outside == [n for n in range(max(plain, default=0)) if n not in plain]
    ends = [end for interval in intervals for end in interval]
    assert all(b - a > 1 for a, b in zip(ends[1::2], ends[2::2], strict=False))


@given(NUMBERS)
def test_an_interval_set_survives_its_text(numbers: list[int]) -> None:
    """What was written as text is read back the same."""
    intervals = Intervals()
    for number in numbers:
        intervals.add(number)
    assert Intervals.parse(intervals.text()) == intervals


def test_intervals_are_written_as_people_write_them() -> None:
    """Runs as first-last, single numbers alone."""
    intervals = Intervals()
    for number in (0, 1, 2, 5, 8, 7):
        intervals.add(number)
    assert intervals.text() == "0-2,5,7-8"


@pytest.mark.parametrize("text", ["3-1", "0-4,5", "7,3", "a", "1--2"])
def test_a_damaged_text_is_refused(text: str) -> None:
    """Intervals that are reversed, touching, out of order or no numbers are an error, not a guess."""
    with pytest.raises(ValueError, match=r"intervals|invalid literal"):
        Intervals.parse(text)


def test_streams_do_not_mix() -> None:
    """A sequence belongs to its agent, run and lane only; a set handed out is a copy."""
    taken = Sequences({("a", "r", 0): Intervals.parse("0-3")})
    taken.of(("a", "r", 0)).add(9)
    assert [("a", "r", 0, 3) in taken, ("a", "r", 1, 3) in taken, ("a", "r", 0, 9) in taken] == [
        True,
        False,
        False,
    ]
