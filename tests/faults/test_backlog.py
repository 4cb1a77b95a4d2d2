"""A backlog that is sent at a measured pace while live traffic goes on: what is new does not wait behind what is old."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from agent.core.kafka import Connection
from tests.faults.scale import FULL
from tests.tools.brokers import Cluster
from tests.tools.plan import Plan
from tests.tools.road import Facts, Road, whole

Page = Callable[..., None]
BACKLOG = 62_000 if FULL else 400
"""Steps of a thousand rows, 17 KB each in the spool."""
LIVE = 40
PACE = 8_000_000 if FULL else 300_000
LONGEST_S = 1_800.0 if FULL else 300.0


def test_live_rows_overtake_a_backlog(
    broker: Cluster, kafka: Connection, tmp_path: Path, undisturbed: Facts, page: Page
) -> None:
    """Rows that come while a backlog is sent are there before its end; nothing of it is lost or doubled."""
    plan = Plan.of_now(BACKLOG + LIVE, 1000)
    with Road(tmp_path, kafka, plan) as road:
        detector = road.detector()
        broker.brokers[0].kill(signal.SIGKILL)
        agent = road.agent(replay_octets_per_s=PACE)
        road.let(BACKLOG)
        groups = [road.at / "state" / "spool" / name for name in ("group0", "group1")]
        last = f"paced plan {BACKLOG - 1}".encode()
        road.until(
            lambda: any(g.exists() and last in g.read_bytes()[:200] for g in groups),
            "a backlog", agent, detector, seconds=LONGEST_S,
        )  # fmt: skip
        octets = sum(p.stat().st_size for p in (road.at / "state" / "spool").rglob("*.segment"))
        broker.start()
        road.until_delivered(1, agent, detector)
        road.let(plan.steps)
        road.until(lambda: _live(road) == LIVE * plan.rows, "what is new", agent, detector)
        behind = plan.marks - road.recount.rows
        assert behind > 0, "the backlog was through before"
        road.until_delivered(plan.marks, agent, detector, seconds=LONGEST_S)
        road.end()
        assert agent.wait() == 0
        road.until_decided(detector, seconds=LONGEST_S)
        assert detector.stop() == 0
        whole(road)
        assert road.facts() == undisturbed
        page(
            f"backlog of {octets // 10**6} MB sent beside live traffic, {behind:,} rows of it after the last live one",
            road,
        )


def _live(road: Road) -> int:
    return int((road.recount.marks()[:, 0] > BACKLOG * road.plan.rows).sum())
