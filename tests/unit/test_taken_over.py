"""A run whose state another one took over ends; it does not try its commit for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.accounts import Accounts
from agent.core.clock import DataClock
from agent.core.errors import TakenOverError
from agent.core.finding import Event
from agent.deciding import LocalDecide
from agent.detection.detector import Detector
from agent.policy.model import Policy
from agent.store.state import State
from tests.tools.notices import START_NS


def test_a_commit_after_a_takeover_is_not_tried_again(tmp_path: Path) -> None:
    """The refusal by the fencing epoch goes up at once, though nobody has asked the run to stop."""
    clock, path = DataClock(START_NS), tmp_path / "state.db"
    state = State.open(path, clock=clock)
    decide = LocalDecide(Detector(Policy(), None), state, Accounts(), clock, "db-1")
    decide.announce(Event(name="policy_reloaded"))
    path.with_name("state.db.lock").unlink()
    with state, State.open(path, clock=clock), pytest.raises(TakenOverError, match="nothing was written"):
        decide.announce(Event(name="policy_reloaded"))
