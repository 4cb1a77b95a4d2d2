"""Agents that are copies of one another, and hosts that are set back: rows of each life count, and each counts once."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from agent.core.kafka import Connection
from tests.faults.test_disks import AWAY
from tests.tools.plan import Plan
from tests.tools.road import Facts, Road, lost, whole

Page = Callable[..., None]


def test_a_snapshot_of_a_virtual_machine_is_restored(
    kafka: Connection, tmp_path: Path, undisturbed: Facts, page: Page
) -> None:
    """The disk is set back to a moment with rows in the spool: those come a second time, under the same ids, and count
    once; what the host does from then on is new. The source hands out nothing twice, as no network does.
    """
    plan = Plan.of_now()
    with Road(tmp_path, kafka, plan) as road:
        away = kafka.model_copy(update=AWAY)
        detector, first = road.detector(), road.agent(keeping=False, kafka=away)
        road.let(20)
        road.until(lambda: _kept(road) >= 20 * plan.rows * 4 // 5, "rows in the spool", first)
        first.process.kill()
        first.process.wait()
        state = road.at / "state"
        shutil.copytree(state, tmp_path / "snapshot")
        second = road.agent(keeping=False)
        road.let(40)
        road.until(lambda: _has(road, 20, 40, of_store=True), "the second life", second, detector)
        road.end()
        assert second.wait() == 0
        shutil.rmtree(state)
        shutil.copytree(tmp_path / "snapshot", state)
        third = road.agent(keeping=False)
        road.let(plan.steps)
        road.until(lambda: _has(road, 40, plan.steps, of_store=True), "the third life", third, detector)
        road.end()
        assert third.wait() == 0
        road.until_decided(detector)
        assert detector.stop() == 0
        gone = lost(road)
        of_store = plan.of_store()
        assert not any(of_store[(m - 1) % plan.rows] or (m - 1) // plan.rows >= 20 for m in gone)
        assert road.recount.records > len(road.recount.digests), "nothing came twice"
        facts = road.facts()
        assert facts == undisturbed
        page(
            "snapshot of a virtual machine restored", road,
            loss=f"{len(gone):,} rows of no store that the killed first life held in memory (10 to 30 s at most)",
        )  # fmt: skip


def test_two_hosts_from_one_golden_image(
    kafka: Connection, tmp_path: Path, undisturbed: Facts, page: Page
) -> None:
    """Key and id are the same on both, their runs are not: each row of both counts, none takes another's place."""
    plan = Plan.of_now()
    with Road(tmp_path, kafka, plan) as road:
        image = road.agent()
        road.let(10)
        road.until_delivered(10 * plan.rows, image)
        road.end()
        assert image.wait() == 0
        twin = Road(tmp_path, kafka, plan, name="twin")
        shutil.copytree(road.at / "state", twin.at / "state")
        for spool in (road, twin):
            shutil.rmtree(spool.at / "state" / "spool")
            (spool.at / "begun").write_text("10")
        (twin.at / "begun").write_text("35")
        with twin:
            detector = road.detector()
            one, other = road.agent(keeping=False), twin.agent(keeping=False, host="db-2")
            road.let(35)
            twin.let(plan.steps)
            road.until(
                lambda: _has(road, 10, plan.steps, of_store=True), "rows of both", one, other, detector
            )
            road.end()
            twin.end()
            assert (one.wait(), other.wait()) == (0, 0)
        road.until(lambda: road.recount.rows >= plan.marks, "the rest", detector)
        road.until_decided(detector)
        assert detector.stop() == 0
        whole(road)
        hosts = Counter(beat["host"] for beat in road.beats() if beat["closing"])
        agents = {beat["agent_id"] for beat in road.beats()}
        assert len(agents) == 1 and hosts.keys() == {"db-1", "db-2"}
        assert road.facts() == undisturbed
        page("two hosts from one golden image", road)


def test_an_agent_that_takes_the_id_of_another(
    kafka: Connection, tmp_path: Path, undisturbed: Facts, page: Page
) -> None:
    """Its key is another: nothing of it is decided, all of it is kept aside, and people are told."""
    plan = Plan.of_now()
    with Road(tmp_path, kafka, plan) as road:
        detector, agent = road.detector(), road.agent()
        road.let(30)
        road.until_delivered(30 * plan.rows, agent, detector)
        road.until_decided(agent, detector)
        thief = Road(tmp_path, kafka, plan, name="thief")
        (thief.at / "state").mkdir(parents=True)
        shutil.copyfile(road.at / "state" / "agent-id", thief.at / "state" / "agent-id")
        with thief:
            false = thief.agent(keeping=False)
            thief.let(10)
            road.until(lambda: road.recount.records >= 60 + 2, "its rows", false, detector)
            thief.end()
            assert false.wait() == 0
        road.let(plan.steps)
        road.until(lambda: road.recount.records >= 120 + 2, "the rest", agent, detector)
        road.end()
        assert agent.wait() == 0
        road.until_decided(detector)
        assert detector.stop() == 0
        assert road.facts() == undisturbed
        assert "identity_conflict" in road.events()
        page(
            "an agent under the id of another, with a key of its own",
            road,
            loss="what the false one sent is kept aside",
        )


def _kept(road: Road) -> int:
    """Rows that stand in the spool of an agent that cannot send, as far as its files tell: of stores."""
    from agent.core.message import Message
    from agent.spool.segments import SegmentReader

    rows = 0
    for path in sorted((road.at / "state" / "spool" / "lane1").glob("*.segment")):
        reader = SegmentReader(path)
        try:
            rows += sum(json.loads(Message.unpack(r.body).header)["rows"] for r in reader.records())
        finally:
            reader.close()
    return rows


def _has(road: Road, first: int, last: int, *, of_store: bool) -> bool:
    """Whether the topic has the rows of these steps."""
    wanted = [
        step * road.plan.rows + place + 1
        for step in range(first, last)
        for place, mine in enumerate(road.plan.of_store())
        if mine or not of_store
    ]
    return set(wanted) <= set(road.recount.marks()[:, 0].tolist())
