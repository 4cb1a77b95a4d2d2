"""kill -9 of agent and detector at every named place, and a leader that is paused: nothing lost, doubled or told twice
but where a kill falls between sending an alert and noting it.

The short form takes one place for each boundary; which one, and at which pass, is drawn from ``TESTS_FAULTS_SEED``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.core.faults import FAULT_POINTS
from agent.core.kafka import Connection
from tests.faults.scale import chance, databases, picked
from tests.tools.fleet import Program
from tests.tools.plan import Plan
from tests.tools.road import Facts, Road, ended, whole
from tests.tools.states import Place

Page = Callable[..., None]
AGENT_BOUNDARIES = {
    "after drain": ("send.after_journal",),
    "after append": ("spool.after_append", "send.after_append"),
    "after send": ("send.after_send",),
    "after ack": ("send.after_ack",),
    "after clear": ("spool.after_note",),
}
DETECTOR_BOUNDARIES = {
    "after apply": ("detect.after_apply",),
    "in the commit": tuple(p for p in FAULT_POINTS if p.startswith("commit.") and p != "commit.after_commit"),
    "after commit": ("commit.after_commit",),
    "before outbox": ("outbox.before_send",),
    "in the outbox": ("outbox.after_send", "outbox.after_mark"),
}
ELSEWHERE = ("archive.", "ebpf.", "copy.", "republish.", "coverage.")
"""Places in parts that these two programs do not pass here: tests/unit/test_store_faults.py, tests/live/test_ebpf_kill.py,
tests/kafka/test_archive_role.py, tests/kafka/test_coverage_live.py."""


def test_no_place_is_left_out() -> None:
    """Every named place is one of a boundary here, or is tested elsewhere by its own room."""
    here = {p for each in (AGENT_BOUNDARIES, DETECTOR_BOUNDARIES) for points in each.values() for p in points}
    assert {p for p in FAULT_POINTS if not p.startswith(ELSEWHERE)} == here


def _passes(point: str) -> int:
    """At which pass of a place the program dies: few pass the outbox or a note, which is written once a second."""
    most = 12 if point.startswith(("send.", "spool.after_append")) else 4
    return chance(point).randint(1, 1 if point.startswith("outbox") or point == "spool.after_note" else most)


def _faults(boundaries: dict[str, Sequence[str]]) -> list[str]:
    points = [p for name, points in boundaries.items() for p in picked(name, points)]
    return [f"{point}:{_passes(point)}" for point in points]


def _lives(
    road: Road, start: Callable[[str], Program], faults: Sequence[str], beside: Sequence[Program]
) -> Program:
    """One life for each fault, and one that goes on."""
    for fault in faults:
        program = start(fault)
        road.until(lambda p=program: p.process.poll() is not None, f"death at {fault}", *beside)  # type: ignore[misc]
        assert program.process.returncode == -signal.SIGKILL, program.log.read_text()[-2000:]
    return start("")


@pytest.mark.parametrize("database", databases("sqlite"), indirect=True)
def test_an_agent_killed_at_each_boundary(
    kafka: Connection, tmp_path: Path, database: str | None, undisturbed: Facts, page: Page
) -> None:
    """One agent after another dies between collecting and forgetting; the source keeps what was not yet durable."""
    faults = _faults(AGENT_BOUNDARIES)
    plan = Plan.of_now(40 * len(faults))
    with Road(tmp_path, kafka, plan, database) as road:
        detector = road.detector()
        road.let(plan.steps)
        agent = _lives(road, lambda fault: road.agent(faults=fault, rate=100), faults, [detector])
        road.until_delivered(plan.marks, agent, detector)
        ended(road, agent, detector)
        assert road.facts() == undisturbed
        assert road.told() == {"as:64500": 1, "as:64501": 1}
        page(f"agent killed -9 at {len(faults)} places: {', '.join(faults)}", road)


@pytest.mark.parametrize("database", databases("postgresql"), indirect=True)
def test_a_detector_killed_at_each_boundary(
    kafka: Connection, tmp_path: Path, database: str | None, undisturbed: Facts, page: Page
) -> None:
    """One detector after another dies between reading and telling; each begins where the last commit ended."""
    faults = _faults(DETECTOR_BOUNDARIES)
    plan = Plan.of_now(60 * len(faults))
    with Road(tmp_path, kafka, plan, database) as road:
        agent = road.agent()
        road.let(plan.steps)
        road.until_delivered(plan.marks, agent)
        road.end()
        assert agent.wait() == 0
        detector = _lives(road, lambda fault: road.detector(faults=fault, gather_rows=20), faults, [])
        lives = len(faults) + 1
        road.until(lambda: len(road.logged("detector", "run_started")) == lives, "the last life", detector)
        road.until_decided(detector)
        assert detector.stop() == 0
        whole(road)
        assert road.facts() == undisturbed
        told = road.told()
        assert told.keys() == {"as:64500", "as:64501"}
        assert sum(told.values()) <= 2 + sum(f.startswith("outbox.after_send") for f in faults)
        page(
            f"detector killed -9 at {len(faults)} places: {', '.join(faults)}", road,
            loss="nothing; an alert may come twice, under one id, where the kill falls behind its sending",
        )  # fmt: skip


def test_a_paused_leader_commits_nothing(
    kafka: Connection, tmp_path: Path, postgres_server: object, undisturbed: Facts, page: Page
) -> None:
    """A leader stopped past its lease loses its role to the one that stands by; when it wakes it ends without a commit."""
    url = postgres_server.fresh()  # type: ignore[attr-defined]
    plan = Plan.of_now()
    with Road(tmp_path, kafka, plan, url) as road:
        leader, agent = road.detector("one", lease_s=5), road.agent()
        road.let(30)
        road.until_delivered(30 * plan.rows, agent)
        road.until_decided(leader)
        standby = road.detector("two", lease_s=5)
        road.until(lambda: road.logged("two", "stands_by"), "standing by", standby)
        leader.process.send_signal(signal.SIGSTOP)
        road.let(plan.steps)
        road.until_delivered(plan.marks, agent)
        road.until_decided(standby)
        road.end()
        assert agent.wait() == 0
        assert standby.stop() == 0
        before = Place(url).tables()
        leader.process.send_signal(signal.SIGCONT)
        assert leader.wait() == 1
        said = leader.log.read_text()
        assert "nothing was written" in said or "another sekisho leads now" in said
        assert Place(url).tables() == before
        whole(road)
        assert road.facts() == undisturbed
        page("leader paused past its lease, the standby takes over", road)
