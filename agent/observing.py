"""From settings to what keeps the coverage of a run that decides in its own process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.config import Settings
from agent.core.finding import Event
from agent.core.stages import TakesCoverage
from agent.covering.covering import Covering
from agent.covering.own import OwnCoverage, SinksOfCoverage
from agent.covering.publishing import Publisher
from agent.deciding import LocalDecide
from agent.policy.model import Policy
from agent.store.coverage import Covered
from agent.store.inputs import Intake


def own_coverage(
    settings: Settings,
    decide: LocalDecide,
    policy: Callable[[], Policy],
    sinks: Sequence[TakesCoverage],
    said: Callable[[], Mapping[str, Any]],
) -> OwnCoverage:
    """What hears the run by ``said``, keeps coverage in the state of ``decide`` and hands it to ``sinks``."""
    covering = Covering(
        decide.state, decide.clock, policy, decide.detector, settings.lateness, only=settings.host
    )
    decide.covering = covering

    def note(covered: Covered) -> None:
        decide.note(Intake(covered=covered))

    def announce(event: Event, covered: Covered) -> None:
        decide.announce(event, Intake(covered=covered))

    taking = [sink for sink in sinks if sink.takes_coverage]
    publisher = Publisher(decide.state, SinksOfCoverage(taking)) if taking else None
    return OwnCoverage(covering, said, note, announce, publisher)
