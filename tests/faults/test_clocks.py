"""Clocks that step on agent and detector: every octet is counted once. What steps is the wall clock as the process sees it
(``time.time`` and ``time.time_ns``); monotonic time goes on, as when a host's clock is set. The broker's clock is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.kafka import Connection
from tests.faults.scale import FULL
from tests.faults.test_credentials import SOON
from tests.tools import topics
from tests.tools.brokers import Cluster
from tests.tools.plan import Plan
from tests.tools.road import Facts, Road, ended, whole

Page = Callable[..., None]
STEPS = (3 * 3600, -3 * 3600) if FULL else (3 * 3600,)
STEPPED = """
import pathlib, time
def stepped(told, unit, file=pathlib.Path(FILE)):
    return lambda: told() + int(file.read_text()) * unit
time.time_ns, time.time = stepped(time.time_ns, 10**9), stepped(time.time, 1)
"""


class Wall:
    """The wall clock of one child process."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        self.step(0)
        self.code = f"FILE = {str(self._file)!r}\n{STEPPED}"

    def step(self, seconds: int) -> None:
        """Set it so many seconds off."""
        temporary = self._file.with_suffix(".new")
        temporary.write_text(str(seconds))
        temporary.replace(self._file)


@pytest.mark.parametrize("step", STEPS)
def test_the_clock_of_an_agent_steps(
    kafka: Connection, tmp_path: Path, undisturbed: Facts, page: Page, step: int
) -> None:
    """The agent holds its line and says so; rows, account and findings are as without the step."""
    plan, wall = Plan.of_now(), Wall(tmp_path)
    with Road(tmp_path / "road", kafka, plan) as road:
        detector, agent = road.detector(), road.agent(code=wall.code)
        road.let(20)
        road.until_delivered(20 * plan.rows, agent, detector)
        wall.step(step)
        road.let(40)
        road.until_delivered(40 * plan.rows, agent, detector)
        wall.step(0)
        road.let(plan.steps)
        road.until_delivered(plan.marks, agent, detector)
        ended(road, agent, detector)
        assert road.facts() == undisturbed
        page(f"agent's clock steps by {step // 3600:+} h and back", road)


@pytest.mark.parametrize("step", STEPS)
def test_the_clock_of_a_detector_steps(
    kafka: Connection, tmp_path: Path, undisturbed: Facts, page: Page, step: int
) -> None:
    """Rows do not become late or early by it: their time is the agents', their receipt the broker's."""
    plan, wall = Plan.of_now(), Wall(tmp_path)
    with Road(tmp_path / "road", kafka, plan) as road:
        detector, agent = road.detector(code=wall.code), road.agent()
        road.let(20)
        road.until_delivered(20 * plan.rows, agent, detector)
        road.until_decided(agent, detector)
        wall.step(step)
        idle = time.monotonic()
        road.until(lambda: time.monotonic() - idle > 3, "some ticks of that time", agent, detector)
        road.let(plan.steps)
        road.until_delivered(plan.marks, agent, detector)
        road.end()
        assert agent.wait() == 0
        road.until_decided(detector)
        wall.step(0)
        assert detector.stop() == 0
        whole(road)
        assert road.facts() == undisturbed
        page(f"detector's clock steps by {step // 3600:+} h and back", road)


def test_a_broker_that_refuses_the_clock_of_an_agent(
    broker: Cluster, prefix: str, tmp_path: Path, undisturbed: Facts, page: Page
) -> None:
    """A topic that keeps the producer's time refuses one that is hours ahead: rows wait until the clock is right."""
    kafka = topics.connection(broker.bootstrap, prefix, connect_s=3.0, request_s=5.0)
    topics.make(broker.bootstrap, *kafka.topics.model_dump().values())
    plan, wall = Plan.of_now(), Wall(tmp_path)
    with Road(tmp_path / "road", kafka, plan) as road:
        detector, agent = road.detector(), road.agent(code=SOON + wall.code)
        road.let(20)
        road.until_delivered(20 * plan.rows, agent, detector)
        wall.step(3 * 3600)
        road.let(plan.steps)
        road.until(lambda: _told_why(road), "word of the clock", agent, detector)
        wall.step(0)
        road.until_delivered(plan.marks, agent, detector)
        ended(road, agent, detector)
        assert road.facts() == undisturbed
        page("the broker refuses the agent's clock, which is 3 h ahead", road)


def _told_why(road: Road) -> bool:
    return any("clock" in str(line.get("reason")) for line in road.logged("agent", "kafka_not_reached"))
