"""The share of octets that left a host and are in no row: told by the agent, and by the detector of all agents."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import figures
from agent.core.accounts import Accounts, Reconciled
from agent.core.clock import DataClock
from agent.deciding import PAST_LIMITS
from agent.detection.fleet import Known
from agent.metrics import Reading
from agent.receiving.stream import Counts
from tests.tools.beats import Beating


def _figures(reading: Reading) -> dict[str, float]:
    return {
        " ".join((name.removeprefix("sekisho_"), *labels)): value
        for name, by in reading.values.items()
        if "unexplained" in name
        for labels, value in by.items()
    }


def _account(*parts: Reconciled) -> Accounts:
    accounts = Accounts()
    for part in parts:
        accounts.reconcile(part)
    return accounts


def _agent(accounts: Accounts) -> dict[str, float]:
    run = SimpleNamespace(
        pipeline=SimpleNamespace(failures={}), collectors={}, accounts=accounts, decide=None
    )
    return _figures(figures.of_agent(cast(Any, run)))


def test_the_agent_tells_its_own_share() -> None:
    """Of this run; nothing where no collector compares, or nothing left."""
    beside = Reconciled(10, 10_000, 6_000, 92, 500, 600, 0)
    assert _agent(_account(beside, Reconciled(10, 0, 0, 0, 200, 0, 0))) == {
        "capture_unexplained_share": pytest.approx(0.3908),
        "capture_unexplained_octets out": 3908,
        "capture_unexplained_octets in": 100,
    }
    assert _agent(_account()) == {}
    assert "capture_unexplained_share" not in _agent(_account(Reconciled(10)))


def _detector(*accounts: dict[str, Any]) -> dict[str, float]:
    agents = {}
    for number, account in enumerate(accounts):
        known = Known(f"a{number}", f"h{number}")
        known.hear(Beating(f"a{number}").beat(10**9, account=account), 10**9)
        agents[known.agent_id] = known
    stream = SimpleNamespace(
        counts=Counts(),
        gaps=SimpleNamespace(missing=lambda: 0),
        agents=SimpleNamespace(covering=SimpleNamespace(agents=agents)),
    )
    run = SimpleNamespace(stream=stream, past_limits=dict.fromkeys(PAST_LIMITS, 0))
    return _figures(figures.DetectorFigures(DataClock(0)).read(cast(Any, run)))


def test_the_detector_tells_that_of_all_agents() -> None:
    """Octets of all over octets of all, the worst one, and how many are over a hundredth; agents that compare nothing are left out."""
    told = [
        _account(Reconciled(10, 1_000, 1_000)).read().as_dict(),
        _account(Reconciled(10, 9_000, 8_000)).read().as_dict(),
        _account().read().as_dict(),
    ]
    assert _detector(*told) == {
        "detect_unexplained_share": pytest.approx(0.1),
        "detect_unexplained_share_most": pytest.approx(1 / 9),
        "detect_unexplained_agents": 1,
    }
    assert _detector(told[2]) == {}


@pytest.mark.parametrize(
    "lie",
    [{"unexplained_out": "x", "interfaces_out": 1}, {"unexplained_out": -1, "interfaces_out": 1}, {}, [], 7],
)
def test_an_agent_that_says_nonsense_is_left_out(lie: object) -> None:
    """Whatever stands in a heartbeat, the page of metrics is served; no share is over 1."""
    assert _detector({"reconciled": lie}) == {}
    assert (
        _detector({"reconciled": {"unexplained_out": 10, "interfaces_out": 1}})["detect_unexplained_share"]
        == 1
    )
