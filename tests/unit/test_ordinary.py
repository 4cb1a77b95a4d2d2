"""Ordinary life in small: what is innocent stays quiet, and the same life does not hide what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tools.ordinary import GB, KINDS, Life, Sent, live


def test_four_days_of_every_kind_of_store_stay_quiet(tmp_path: Path) -> None:
    """20 stores of 20 kinds: no case at high, at most 1 at medium in 10 store-days."""
    life = Life(20261101, stores=20)
    lived = live(life, life.policy(tmp_path, approvals=True), 4)
    assert set(life.kinds) == set(KINDS)
    assert lived.cases["high"] + lived.cases["critical"] == 0
    assert lived.cases["medium"] * 10 <= lived.store_days == 80
    assert lived.rows > 100_000


def test_the_same_life_does_not_hide_a_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 GB from one store to an owner on the list, amid everything else, are one case at high."""
    life = Life(20261101, stores=20)
    whole = life.day

    def day(number: int) -> list[Sent]:
        found = whole(number)
        one = next(s for s in found if s.trap == "backup" and s.host == life.hosts[3])
        return (
            [*found, replace(one, to="maker", out=3.0 * GB, begin_s=40_000.0, lasts_s=3000.0)]
            if number == 1
            else found
        )

    monkeypatch.setattr(life, "day", day)
    lived = live(life, life.policy(tmp_path, approvals=True), 2)
    assert lived.cases["high"] == 1
    assert ("high", "operator/bulk-restricted-owner") in {
        (severity, rule) for severity, rule, *_ in lived.largest
    }


def test_equal_seeds_give_equal_days() -> None:
    """Everything follows from the seed, and another seed is another life."""
    assert Life(1).day(3) == Life(1).day(3)
    assert Life(1).day(3) != Life(2).day(3)
