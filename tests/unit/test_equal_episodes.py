"""Live, replay, backtest and restart: the same flows give the same episodes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agent.core.clock import DAY_NS, MINUTE_NS, SECOND_NS
from agent.detection.detector import Detector
from agent.policy.model import Policy, Rule, RuleTest
from agent.policy.ownership import Ownership
from agent.rehearsal import archived, backtest
from tests.tools.archived import file_away
from tests.tools.recount import Found, Sent
from tests.tools.transfers import MB, T0, Run, policy, sent, store

STORES = (store("ehr"), store("bank"))
OWNERS = Ownership.load()
END_NS = T0 + 100 * DAY_NS
"""By then every episode has been quiet for long enough."""
MOST_WAIT_NS = 55 * SECOND_NS
"""A row ends this long before it comes, at most, and is as long at most: nothing lies behind a watermark of two minutes."""


def rules() -> Policy:
    """A rule of every window, and of every further test."""
    return policy(
        Rule(id="five", over=20 * MB, window="5m", quiet="10m"),
        Rule(id="hour", over=60 * MB, window="1h", quiet="2h"),
        Rule(id="day", over=120 * MB, window="24h", any_of=RuleTest(first_seen=True, share_of_store=0.4)),
        Rule(id="in", over=30 * MB, window="24h", initiator="remote"),
        Rule(id="flows", over=40, window="1h", measure="flows"),
        Rule(id="month", over=300 * MB, window="30d"),
        Rule(id="year", over=500 * MB, window="12mo"),
        Rule(id="all", over=200 * MB, window="24h", group_by="store"),
        stores=STORES,
    )


@st.composite
def flows(draw: st.DrawFn) -> list[Sent]:
    """Rows of two hosts, two stores and three networks, at most a minute long, with rests of seconds to days."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    count, rests = (
        draw(st.integers(1, 80)),
        draw(st.sampled_from([(1, 9), (1, 60, 900), (5, 3600, 200_000)])),
    )
    rows, now = [], T0
    for _ in range(count):
        now += int(rng.choice(rests) * rng.random() * SECOND_NS)
        start = now - int(rng.choice([0, 9, 30, 55]) * rng.random() * SECOND_NS)
        octets = int(10 ** rng.uniform(4, 7.9))
        who = (rng.choice(["ehr", "bank"]), rng.choice([64500, 64501, 64502]))
        rows.append(Sent(*who, start, now, octets, rng.choice(["local", "remote"]), rng.choice("ab")))
    return rows


def live(rows: Sequence[Sent], rng: random.Random, *, restarts: bool) -> set[Found]:
    """As agents send: out of order within the grace, a few rows at a time, time passing between; perhaps restarted."""
    coming = sorted((r.end_ns + rng.randrange(MOST_WAIT_NS), n, r) for n, r in enumerate(rows))
    run = Run(Detector(rules(), OWNERS))
    snapshot, since = None, 0
    while coming:
        size = rng.choice([1, 3, 20])
        piece, coming = coming[:size], coming[size:]
        one = [
            (at, row) for at, _, row in piece if row.host == piece[0][2].host and at - piece[0][0] < SECOND_NS
        ]
        coming = sorted([(at, n, row) for at, n, row in piece if (at, row) not in one] + coming)
        run.take([row for _, row in one], one[-1][0])
        if rng.random() < 0.3:
            run.heard(
                run.detector.tick(
                    min(one[-1][0] + rng.randrange(SECOND_NS), *[c[0] for c in coming[:1]] or [END_NS])
                )
            )
        if restarts and rng.random() < 0.2:
            snapshot, since = run.detector.snapshot(), len(run.deltas)
        if restarts and rng.random() < 0.3:
            run.detector = Detector(rules(), OWNERS)
            run.detector.restore(snapshot, run.deltas[since:])
    run.heard(run.detector.finish(END_NS))
    return run.found()


def replayed(rows: Sequence[Sent], size: int) -> set[Found]:
    """In order of time, from one source, with the clock of the data."""
    run = Run(Detector(rules(), OWNERS, replay=True))
    ordered = sorted(rows, key=lambda row: row.end_ns)
    for begin in range(0, len(ordered), size):
        piece = ordered[begin : begin + size]
        run.heard(run.detector.take(sent(piece).with_header(agent_id="one", host="one"), piece[-1].end_ns))
    run.heard(run.detector.finish(END_NS))
    return run.found()


def backtested(rows: Sequence[Sent], folder: Path, rng: random.Random) -> set[Found]:
    """From an archive that was written in another order, in batches of each host."""
    shuffled = list(rows)
    rng.shuffle(shuffled)
    batches = [sent([row for row in shuffled if row.host == host]) for host in {row.host for row in rows}]
    file_away(folder, batches)
    side = backtest.Side(rules(), OWNERS)
    held = archived.Held(T0, END_NS)
    backtest.run(folder, (side,), T0 - DAY_NS, END_NS, held, lambda done, total: None)
    assert held.rows == len(rows)
    run = Run(side.detector)
    run.findings = side.findings
    return run.found()


@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(flows(), st.integers(0, 2**32))
def test_live_replay_backtest_and_restart_give_equal_episodes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Sent], seed: int
) -> None:
    """The set of (rule, store, entity, first bucket, last bucket, octets, state) is the same on every road."""
    rng = random.Random(seed)
    expected = replayed(rows, 10**6)
    assert replayed(rows, rng.choice([1, 7, 50])) == expected
    assert live(rows, rng, restarts=False) == expected
    assert live(rows, rng, restarts=True) == expected
    assert backtested(rows, tmp_path_factory.mktemp("archive"), rng) == expected


def test_the_flows_of_the_property_pass_thresholds() -> None:
    """A busy hour makes findings of most rules, so that equal does not mean that both found nothing."""
    rng = random.Random(1)
    rows = [
        Sent(
            "ehr",
            64500,
            T0 + n * 10 * SECOND_NS,
            T0 + n * 10 * SECOND_NS,
            5 * MB,
            rng.choice(["local", "remote"]),
        )
        for n in range(200)
    ]
    found = replayed(rows, 50)
    assert {rule for rule, *_ in found} == {r.id for _, r in rules().rules}
    assert live(rows, rng, restarts=True) == found
    assert MINUTE_NS < MOST_WAIT_NS * 2 < 2 * MINUTE_NS
