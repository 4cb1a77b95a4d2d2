"""One identity in two places: what is told apart, and what is no conflict though it looks a little like one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.clock import DAY_NS, MINUTE_NS, SECOND_NS
from agent.core.message import Header
from agent.receiving.conflicts import MARGIN_NS, Told, Twins
from tests.tools.notices import START_NS

A, B = "a" * 32, "b" * 32


def header(run: str, host: str = "db-1", agent: str = "x") -> Header:
    """Of a batch."""
    fields = {"schema_version": 1, "agent_id": agent, "run_id": run, "lane": 1, "sequence": 0, "low_water": 0}
    return Header.model_validate({**fields, "rows": 1, "digest": "0" * 64, "host": host})


def test_an_image_copied_with_its_agent_shows_within_two_minutes() -> None:
    """Two hosts that send in turns under one identity: the names of both are told."""
    twins = Twins()
    found = []
    for second in range(0, 120, 10):
        now = START_NS + second * SECOND_NS
        found.append(twins.hear(header(A, "db-1"), now - SECOND_NS, now))
        found.append(twins.hear(header(B, "db-2"), now - SECOND_NS, now + SECOND_NS))
    assert set(found) == {(), ("db-1", "db-2")}


@given(st.lists(st.integers(1, 900), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_restarts_of_one_host_never_look_like_two(lengths: list[int], random: object) -> None:
    """Runs one after the other, each with a backlog of any age that the next one sends: nothing is told."""
    del random
    twins, now = Twins(), START_NS
    kept: list[tuple[str, int]] = []
    for number, length in enumerate(lengths):
        run = f"{number:032x}"
        for step in range(length // 10 + 1):
            now += 10 * SECOND_NS
            assert twins.hear(header(run), now - SECOND_NS, now) == ()
            for old_run, end in kept:
                assert twins.hear(header(old_run), end, now + SECOND_NS) == ()
            kept = []
            if step % 3 == 0:
                kept.append((run, now - SECOND_NS // 2))


def test_a_backlog_and_a_wrong_clock_say_nothing() -> None:
    """Rows that came long after they ended, or before, cannot tell who was at work when."""
    twins = Twins()
    now = START_NS
    assert twins.hear(header(A), now, now) == ()
    assert twins.hear(header(B), now + SECOND_NS, now + 2 * SECOND_NS) == ()
    later = now + 10 * MINUTE_NS
    assert twins.hear(header(A), later - 5 * MINUTE_NS, later) == ()
    assert twins.hear(header(A), later + DAY_NS, later) == ()
    assert twins.hear(header(A), now + SECOND_NS + MARGIN_NS, later) == ()


def test_the_same_is_told_once_a_day() -> None:
    """For each agent and cause."""
    told = Told()
    assert [told.is_news("agent_copied", "x", n * DAY_NS // 2) for n in range(4)] == [
        True,
        False,
        True,
        False,
    ]
    assert told.is_news("identity_conflict", "x", 0)
    assert told.is_news("agent_copied", "y", 0)
