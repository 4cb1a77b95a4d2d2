"""The detector as a whole: restarts, clocks, reloads, bounds."""

from __future__ import annotations

import random

import numpy as np
import pytest

from agent.core import address
from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.decision import Decision
from agent.core.errors import StateError
from agent.core.finding import FindingState
from agent.core.flow import Mark
from agent.detection import facts
from agent.detection.detector import Detector
from agent.policy.model import Rule, RuleTest
from tests.tools.recount import Sent
from tests.tools.transfers import GB, MB, T0, Run, pieces, policy, sent, store

STORES = (store("ehr"), store("bank"))
YEARS = 3650 * DAY_NS


def rules(seed: int = 0):
    """Some rules of every kind."""
    return policy(
        Rule(id="five", over=20 * MB, window="5m", quiet="10m"),
        Rule(id="hour", over=60 * MB, window="1h", quiet="2h"),
        Rule(id="day", over=200 * MB, window="24h", any_of=RuleTest(first_seen=True, share_of_store=0.4)),
        Rule(id="month", over=500 * MB, window="30d"),
        stores=STORES,
    )


def rows(seed: int, n: int = 400, host: str = "a", start_ns: int = T0) -> list[Sent]:
    """Rows of six keys, some late, some long, with rests."""
    rng = random.Random(seed)
    out, now = [], start_ns
    for _ in range(n):
        now += int(rng.choice([1, 10, 60, 900 if rng.random() < 0.2 else 5]) * rng.random() * SECOND_NS)
        end = now - int(rng.choice([0, 50, 500]) * rng.random() * SECOND_NS)
        start = end - int(rng.choice([0, 60, 900]) * rng.random() * SECOND_NS)
        who = (rng.choice(["ehr", "bank"]), rng.choice([64500, 64501, 64502]))
        out.append(Sent(*who, start, end, rng.randrange(5 * MB), rng.choice(["local", "remote"]), host))
    return out


def told(decision: Decision) -> tuple:
    """All that a decision says, apart from its own record."""
    return (decision.findings, decision.cases, decision.notices, decision.ledger)


@pytest.mark.parametrize("seed", range(4))
def test_a_restart_at_any_point_changes_nothing(seed):
    """After snapshot and deltas the detector says word for word what an unbroken one says."""
    rng = random.Random(seed)
    whole = Run(Detector(rules(), None))
    broken = Run(Detector(rules(), None))
    snapshot, since = None, 0
    restarts = 0
    for step, piece in enumerate(pieces(rows(seed), rng.choice([1, 7, 30]))):
        received = max(r.end_ns for r in piece) + SECOND_NS
        if step % 5 == 3:
            assert told(whole.heard(whole.detector.tick(received))) == told(
                broken.heard(broken.detector.tick(received))
            )
        if step % 11 == 7 and whole.cases:
            case_id = rng.choice(sorted(whole.cases))
            for made in (whole, broken):
                (made.detector.case_closed if step % 2 else made.detector.case_acknowledged)(case_id)
        assert told(whole.take(piece, received)) == told(broken.take(piece, received))
        if rng.random() < 0.1:
            snapshot, since = broken.detector.snapshot(), len(broken.deltas)
        if rng.random() < 0.2:
            broken.detector = Detector(rules(), None)
            broken.detector.restore(snapshot, broken.deltas[since:])
            restarts += 1
    assert restarts > 1
    assert told(whole.detector.finish()) == told(broken.detector.finish())
    assert whole.detector.snapshot() == broken.detector.snapshot()
    assert len(whole.findings) >= 3


def test_two_runs_of_the_same_input_are_equal_to_the_octet():
    """No clock, no chance: the same snapshot, the same deltas."""
    made = [Run(Detector(rules(), None, replay=True)) for _ in range(2)]
    for piece in pieces(rows(3), 40):
        for one in made:
            one.take(piece)
    assert made[0].deltas == made[1].deltas
    assert made[0].detector.snapshot() == made[1].detector.snapshot()


@pytest.mark.parametrize("years", [YEARS, -YEARS])
def test_a_host_with_a_clock_ten_years_off_changes_no_finding_of_another(years):
    """With it and without it, the others' findings are the same, ids included."""
    good = rows(5, 300)
    alone = Run(Detector(rules(), None))
    both = Run(Detector(rules(), None))
    for number, piece in enumerate(pieces(good, 10)):
        received = max(r.end_ns for r in piece) + SECOND_NS
        alone.take(piece, received)
        if number % 2:
            mad = [Sent("tape", 64999, received + years, received + years, 90 * MB, host="mad")]
            both.take(mad, received)
        both.take(piece, received)
    mine = {i: f for i, f in both.findings.items() if f.store != "tape"}
    assert both.reasons["rows_clock_suspect" if years > 0 else "rows_late"] >= 15
    assert mine == alone.findings
    assert alone.findings


def test_a_clock_that_runs_ahead_counts_at_the_time_of_receipt():
    """Its own rows are found, in the present."""
    made = Run(Detector(policy(Rule(id="bulk", over=GB, window="5m")), None))
    made.take([Sent("ehr", 64500, T0 + YEARS, T0 + YEARS, 2 * GB)], T0)
    assert made.detector.watermark_ns is None
    made.heard(made.detector.tick(T0 + 5 * MINUTE_NS))
    (finding,) = made.findings.values()
    assert (finding.first_bucket_ns, finding.crossed_ns) == (T0, T0)


def test_a_silent_source_holds_nothing_back():
    """After 60 s without rows the others' time counts; time itself when all are silent."""
    detector = Detector(rules(), None)
    detector.take(sent([Sent("ehr", 1, T0, T0, 1, host="a")]), T0)
    detector.take(sent([Sent("ehr", 1, T0, T0, 1, host="b")]), T0)
    detector.take(sent([Sent("ehr", 1, T0, T0 + 50 * SECOND_NS, 1, host="a")]), T0 + 50 * SECOND_NS)
    assert detector.watermark_ns == T0 - 120 * SECOND_NS
    detector.take(sent([Sent("ehr", 1, T0, T0 + 61 * SECOND_NS, 1, host="a")]), T0 + 61 * SECOND_NS)
    assert detector.watermark_ns == T0 - 59 * SECOND_NS
    detector.tick(T0 + 300 * SECOND_NS)
    assert detector.watermark_ns == T0 + 180 * SECOND_NS


def test_a_source_that_returns_with_old_rows_is_late_and_counted():
    """Its backlog moves no watermark back, is marked late, and is found as soon as it has come."""
    made = Run(Detector(policy(Rule(id="bulk", over=GB, window="24h"), stores=STORES), None))
    now = T0 + 2 * HOUR_NS
    made.take([Sent("bank", 1, now, now, 1, host="a")], now)
    watermark = made.detector.watermark_ns
    made.take([Sent("ehr", 64500, T0, T0 + s * SECOND_NS, 300 * MB, host="b") for s in range(5)], now)
    assert made.detector.watermark_ns == watermark
    assert made.reasons["rows_late"] == 5
    assert [f.content_octets_out for f in made.findings.values()] == [1200 * MB]
    later = now + 20 * MINUTE_NS
    made.take([Sent("bank", 1, later, later, 1, host="a")], later)
    (case,) = made.cases.values()
    assert (case.traffic.content_octets_out, case.traffic.late_octets) == (1500 * MB, 1500 * MB)


def test_the_ledger_holds_every_row_of_stores_once():
    """Late, suspect and ordinary rows, by day and network facts; what no store sent is not in it."""
    made = Run(Detector(rules(), None))
    plain = [
        Sent("ehr", 64500, T0, T0, 5),
        Sent("ehr", 64500, T0, T0 + DAY_NS, 7),
        Sent("ehr", 64500, T0, T0, 11),
    ]
    made.take(plain, T0 + DAY_NS, remote_country="DE")
    made.take([Sent("ehr", 64500, T0, T0 + YEARS, 13)], T0 + DAY_NS, remote_country="DE")
    made.take(plain, T0 + DAY_NS, store=None)
    made.take(plain, T0 + DAY_NS, remote_scope="internal")
    made.take(plain, T0 + DAY_NS, marks=int(Mark.SELF))
    made.take(plain, T0 + DAY_NS, marks=int(Mark.TRANSIT))
    made.heard(made.detector.finish())
    day = T0 // DAY_NS
    sums = {
        d: (c, late) for d, c, late in ((r.day, r.content_octets_out, r.late_octets) for r in made.ledger)
    }
    assert sorted(sums) == [day, day + 1]
    total = {
        d: (
            sum(r.content_octets_out for r in made.ledger if r.day == d),
            sum(r.late_octets for r in made.ledger if r.day == d),
        )
        for d in sums
    }
    assert total == {day: (16, 11), day + 1: (20, 0)}
    row = made.ledger[0]
    assert (row.tenant, row.store, row.entity, row.asn, row.as_org, row.country, row.owner) == (
        "default",
        "ehr",
        "as:64500",
        64500,
        "Example 64500",
        "DE",
        "",
    )
    assert (row.categories, row.process, row.initiator, row.vantage) == (
        "personal_health",
        "postgres",
        "local",
        "af_packet:eth0",
    )


def test_a_new_rule_reads_what_the_windows_hold():
    """It finds at the next bucket, and says that its window is older than itself."""
    made = Run(Detector(policy(stores=STORES), None, replay=True))
    made.take([Sent("ehr", 64500, T0, T0, 2 * GB), Sent("ehr", 64500, T0, T0 + HOUR_NS, 1)])
    made.heard(made.detector.set_policy(policy(Rule(id="bulk", over=GB, window="24h"), stores=STORES), None))
    made.take([Sent("bank", 1, T0, T0 + 2 * HOUR_NS, 1)])
    (finding,) = made.findings.values()
    assert (finding.rule, finding.content_octets_out) == ("bulk", 2 * GB)
    assert "rule_newer_than_window" in finding.reasons


def test_a_rule_that_is_gone_closes_its_findings_and_one_that_changes_keeps_its_id():
    """A new version changes the revision; leaving out the rule closes the finding."""
    made = Run(Detector(policy(Rule(id="bulk", over=GB, window="24h")), None, replay=True))
    made.take([Sent("ehr", 64500, T0, T0, 2 * GB)])
    made.heard(made.detector.set_policy(policy(Rule(id="bulk", version=2, over=2 * GB, window="1h")), None))
    made.take([Sent("ehr", 64500, T0, T0 + 60 * SECOND_NS, 6 * GB)])
    made.heard(made.detector.finish())
    (finding,) = made.findings.values()
    assert (finding.rule_version, finding.window, finding.content_octets_out) == ("2", "1h", 8 * GB)
    made.heard(made.detector.set_policy(policy(), None))
    (closed,) = made.findings.values()
    assert (closed.id, closed.state, closed.reasons[-1]) == (finding.id, FindingState.CLOSED, "rule_gone")


def test_a_restart_with_another_policy_changes_to_it():
    """What follows from the change comes with the next decision."""
    made = Run(Detector(policy(Rule(id="bulk", over=GB, window="24h")), None, replay=True))
    made.take([Sent("ehr", 64500, T0, T0, 2 * GB)])
    other = Detector(policy(), None, replay=True)
    other.restore(None, ())
    again = Detector(policy(Rule(id="else", over=GB, window="24h")), None, replay=True)
    again.restore(made.detector.snapshot(), ())
    decision = again.take(sent([Sent("ehr", 64500, T0, T0 + HOUR_NS, 1)]), 0)
    assert sorted((f.rule, f.state.value) for f in decision.findings) == [
        ("bulk", "closed"),
        ("else", "open"),
    ]


def test_state_that_is_not_ours_or_damaged_is_refused():
    """Every byte counts; the message says how to mend it."""
    made = Run(Detector(rules(), None))
    made.take(rows(1, 30))
    snapshot = made.detector.snapshot()
    rng = random.Random(1)
    for bad in (
        b"",
        b"x",
        b"PK\x03\x04" * 9,
        snapshot[:-1],
        snapshot[:3] + b"\x09" + snapshot[4:],
        made.deltas[0],
    ):
        with pytest.raises(StateError):
            Detector(rules(), None).restore(bad, ())
    for _ in range(50):
        at = rng.randrange(len(snapshot))
        damaged = snapshot[:at] + bytes([snapshot[at] ^ 1 << rng.randrange(8)]) + snapshot[at + 1 :]
        with pytest.raises(StateError):
            Detector(rules(), None).restore(damaged, ())
    with pytest.raises(StateError):
        Detector(rules(), None).restore(None, [snapshot])


def scattered(n: int, seed: int):
    """Rows of one store, each to another address, over 60,000 networks."""
    rng = np.random.default_rng(seed)
    batch = sent([Sent("ehr", 64500, T0 + seed * SECOND_NS, T0 + seed * SECOND_NS, 100)] * n)
    remote = address.from_v4(rng.integers(2**24, 2**31, n).astype(np.uint32))
    return batch.with_columns(remote_address=remote, remote_asn=rng.integers(1, 60_000, n))


def test_a_hundred_thousand_destinations_a_second_cost_bounded_memory(monkeypatch):
    """Tables stay under their limits, what is past them is counted, and amounts stay exact."""
    monkeypatch.setattr("agent.detection.cube.PATHS", 5_000)
    monkeypatch.setattr("agent.detection.cube.DETAILS", 6_000)
    monkeypatch.setattr(facts, "ADDRESSES", 20_000)
    made = Run(Detector(rules(), None))
    for second in range(5):
        made.heard(made.detector.take(scattered(100_000, second), T0 + second * SECOND_NS))
    made.heard(made.detector.finish())
    cube, counted = made.detector._cube, made.detector._facts
    assert cube.paths.count <= 5_000 + 2
    assert cube.details.count <= 6_000 + 5_000
    assert counted._keys.count <= 20_000
    assert made.reasons["rows_past_path_limit"] > 100_000
    assert sum(r.content_octets_out for r in made.ledger) == 5 * 100_000 * 100
    assert "other" in {r.entity for r in made.ledger}


def test_the_addresses_that_took_most_survive_the_bound(monkeypatch):
    """One address among many thousands is still the first, and the count stops at a thousand."""
    monkeypatch.setattr(facts, "ADDRESSES", 20_000)
    made = Run(Detector(policy(Rule(id="bulk", over=GB, window="1h")), None))
    for second in range(8):
        batch = scattered(9_000, second).with_columns(remote_asn=np.full(9_000, 64500))
        made.heard(made.detector.take(batch, T0 + second * SECOND_NS))
    made.take([Sent("ehr", 64500, T0, T0 + 9 * SECOND_NS, 2 * GB)])
    (case,) = made.cases.values()
    top = case.destination.addresses
    assert (top[0].value, top[0].content_octets_out, len(top)) == ("203.0.113.7", 2 * GB, 20)
    assert case.destination.address_count == 1_000


def test_a_quiet_tick_gives_nothing_to_commit():
    """An idle host writes nothing, and its last tick comes with the next decision."""
    made = Run(Detector(rules(), None))
    made.take([Sent("ehr", 64500, T0, T0, 1)])
    made.heard(made.detector.tick(T0 + 30 * SECOND_NS))
    said = [made.detector.tick(T0 + s * SECOND_NS) for s in range(31, 300)]
    assert set(map(told, said)) == {((), (), (), ())}
    assert {d.delta for d in said} <= {b"", *(d.delta for d in said if d.ledger)}
    made.take([Sent("ehr", 64500, T0, T0 + 301 * SECOND_NS, 1)])
    again = Detector(rules(), None)
    again.restore(None, made.deltas)
    assert again.watermark_ns == made.detector.watermark_ns
