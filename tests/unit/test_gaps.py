"""A hole is a gap only when the agent's own word makes it one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.message import Header
from agent.receiving.gaps import Gaps
from agent.store.sequences import Intervals

STREAM = ("db-1", "0" * 32, 1)


def header(sequence: int, low_water: int, *dropped: tuple[int, int]) -> Header:
    """Of one message."""
    return Header(
        schema_version=1, agent_id="db-1", run_id="0" * 32, lane=1, sequence=sequence, low_water=low_water,
        dropped=dropped, rows=1, digest="0" * 64,
    )  # fmt: skip


def taken(*numbers: int) -> dict[tuple[str, str, int], Intervals]:
    """Of the stream."""
    found = Intervals()
    for number in numbers:
        found.add(number)
    return {STREAM: found}


def missing(gaps: Gaps) -> str:
    """Of the stream."""
    return ",".join(said.missing.text() for said in gaps.untold().values())


def test_a_hole_above_the_low_water_mark_is_none() -> None:
    """Batches that the agent still holds may come later."""
    gaps = Gaps({})
    gaps.put(gaps.hear([header(5, 2)], taken(0, 1, 5), begins=False))
    assert missing(gaps) == ""


def test_a_hole_below_it_is_a_gap_until_it_is_filled() -> None:
    """What the agent knows to be delivered and never came is missing; when it comes after all, it no longer is."""
    gaps = Gaps({})
    gaps.put(gaps.hear([header(5, 5)], taken(0, 1, 5), begins=False))
    assert (missing(gaps), gaps.missing()) == ("2-4", 3)
    gaps.put(gaps.hear([header(3, 1)], taken(0, 1, 3, 5), begins=False))
    assert missing(gaps) == "2,4"


def test_what_the_agent_let_go_is_no_gap() -> None:
    """Dropped ranges explain a hole, also when they are told later."""
    gaps = Gaps({})
    gaps.put(gaps.hear([header(9, 9, (2, 4))], taken(0, 1, 6, 9), begins=False))
    assert missing(gaps) == "5,7-8"
    gaps.put(gaps.hear([header(10, 9, (7, 8))], taken(0, 1, 6, 9, 10), begins=False))
    assert missing(gaps) == "5"


def test_what_was_sent_before_the_first_reading_is_not_missing() -> None:
    """A detector that begins in the middle of a run asks for nothing older."""
    gaps = Gaps({})
    gaps.put(gaps.hear([header(50, 48)], taken(50), begins=True))
    assert missing(gaps) == ""
    gaps.put(gaps.hear([header(60, 60)], taken(50, 60), begins=True))
    assert missing(gaps) == "48-49,51-59"


def test_wild_marks_cost_nothing() -> None:
    """A mark of 2^62 is one interval."""
    gaps = Gaps({})
    gaps.put(gaps.hear([header(1, 2**62)], taken(1), begins=False))
    assert missing(gaps) == f"0,2-{2**62 - 1}"


NUMBERS = st.integers(0, 60)


@given(st.lists(st.tuples(NUMBERS, NUMBERS)), st.lists(NUMBERS), st.tuples(NUMBERS, NUMBERS))
def test_intervals_agree_with_a_set(
    ranges: list[tuple[int, int]], out: list[int], asked: tuple[int, int]
) -> None:
    """Ranges put in, numbers taken out, and what is absent of a range: as a set of numbers says."""
    made, plain = Intervals(), set[int]()
    for low, high in ranges:
        low, high = min(low, high), max(low, high)
        made.add_range(low, high)
        plain |= set(range(low, high + 1))
    for number in out:
        assert made.discard(number) == (number in plain)
        plain.discard(number)
    assert Intervals.parse(made.text()) == made
    assert {n for a, b in made for n in range(a, b + 1)} == plain
    first, last = min(asked), max(asked)
    absent = {n for a, b in made.absent(first, last) for n in range(a, b + 1)}
    assert absent == set(range(first, last + 1)) - plain
