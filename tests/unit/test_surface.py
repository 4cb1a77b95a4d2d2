"""A small form of the grid of hiding tactics: what is found, and what honestly is not."""

from __future__ import annotations

import secrets

import pytest

from tests.tools.surface import is_found, judge_relays, smallest
from tests.tools.tactics import GB, MB, TACTICS, Plan

NOT_FOUND = {
    "registered proxy, no log",
    "rogue replica, out after eight days",
    "responses of a public service",
    "agent off during the transfer",
}
"""By the rules of the shipped pack alone."""


@pytest.mark.parametrize("tactic", TACTICS)
def test_each_tactic_is_found_or_known_not_to_be(tactic):
    """10 GB in a night amid ordinary life, whatever the seed."""
    seed = secrets.randbelow(2**31)
    assert is_found(tactic, "ordinary", Plan(10 * GB, seed=seed)) == (tactic not in NOT_FOUND), seed


@pytest.mark.parametrize("background", ["quiet", "busy"])
def test_a_tactic_is_found_from_some_total_on(background):
    """The shipped rule finds more than 100 MB: not 50, and 200 in every run."""
    totals = (50 * MB, 200 * MB, GB)
    seeds = [secrets.randbelow(2**31) for _ in range(3)]
    found = smallest("dump locally, upload by another process", background, Plan(0), seeds, totals)
    assert found == 200 * MB, seeds


def test_most_relays_that_are_told_were_relays():
    """Of twenty runs, ten with a relay and all with a host that uploads data of its own: at least eight are found, and
    at least half of what is told was one."""
    seed = secrets.randbelow(2**31)
    judged = judge_relays(seed, 20)
    assert judged.planted == 10
    assert (judged.recall >= 0.8, judged.precision >= 0.5) == (True, True), (seed, judged)
