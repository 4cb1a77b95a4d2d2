"""Episodes: when a rule finds, when two findings are one, and when it is over."""

from __future__ import annotations

import random

import pytest

from agent.core.clock import DAY_NS, SECOND_NS
from agent.core.finding import FindingState, finding_id
from agent.detection.detector import Detector
from agent.policy.model import Rule, RuleTest
from tests.tools.recount import Asked, Sent, findings
from tests.tools.transfers import GB, MB, T0, Run, policy, rule_of, run, sent, store

STORES = (store("ehr"), store("bank"))
BUCKET = T0 // (10 * SECOND_NS) * 10 * SECOND_NS


def at(seconds: float, octets: int = MB, **changed) -> Sent:
    """A short row that ends so long after T0."""
    end = T0 + int(seconds * SECOND_NS)
    return Sent(**{"store": "ehr", "asn": 64500, "start_ns": end, "end_ns": end, "octets": octets} | changed)


def busy(seed: int) -> list[Sent]:
    """Rows of six keys, out of order by up to a minute, with rests of minutes, hours and days."""
    rng = random.Random(seed)
    rows, now = [], T0
    for _ in range(rng.choice([40, 400])):
        rest = rng.choice(
            [0.01, 1, 3, 30, 300 if rng.random() < 0.2 else 2, 90_000 if rng.random() < 0.02 else 1]
        )
        now += int(rest * rng.random() * SECOND_NS)
        end = now - int(rng.choice([0, 5, 55]) * rng.random() * SECOND_NS)
        start = end - int(rng.choice([0, 9, 35, 61]) * rng.random() * SECOND_NS)
        who = (rng.choice(["ehr", "bank"]), rng.choice([64500, 64501, 64502]))
        rows.append(Sent(*who, start, end, int(10 ** rng.uniform(3, 8)), rng.choice(["local", "remote"])))
    return rows


def rules_of(seed: int) -> list[Asked]:
    rng = random.Random(seed)
    quiet = [("5m", 150), ("5m", 3600), ("1h", 7200), ("24h", 86_400), ("30d", 30 * 86_400)]
    return [
        Asked(f"r{i}", w, int(10 ** rng.uniform(5, 9)), q * SECOND_NS, rng.choice(["any", "local", "remote"]))
        for i, (w, q) in enumerate(quiet)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_findings_equal_the_recount_whatever_the_batch_size(seed):
    """The set of (key, first, last, octets, state) is the recount's, and ids are the same for every batch size."""
    rows, asked = busy(seed), rules_of(seed)
    expected = findings(rows, asked)
    ids = []
    for size in (1, 13, 10**6):
        made = run(policy(*map(rule_of, asked), stores=STORES), rows, size)
        assert made.found() == expected
        ids.append(sorted(made.findings))
    assert expected
    assert ids[0] == ids[1] == ids[2]


@pytest.mark.parametrize("seed", range(6))
def test_late_and_very_long_rows_give_the_same_findings_whatever_the_batch_size(seed):
    """Rows behind the watermark, and parts of long rows behind it, do not make results depend on batches."""
    rng = random.Random(seed)
    rows = [
        Sent(
            r.store,
            r.asn,
            r.start_ns - (late := rng.choice([0, 0, 0, 200, 3000]) * SECOND_NS),
            r.end_ns - late,
            r.octets,
        )
        if rng.random() < 0.5
        else Sent(r.store, r.asn, r.start_ns - rng.choice([0, 900]) * SECOND_NS, r.end_ns, r.octets)
        for r in busy(seed)
    ]
    rules = policy(*map(rule_of, rules_of(seed + 50)), stores=STORES)
    made = [run(rules, rows, size) for size in (1, 17, 10**6)]
    assert made[0].reasons["rows_late"] > 0
    assert made[0].found() == made[1].found() == made[2].found()
    assert (
        [n.kind for n in made[0].notices]
        == [n.kind for n in made[1].notices]
        == [n.kind for n in made[2].notices]
    )


def test_exactly_the_threshold_is_no_finding_and_one_octet_more_is_one():
    """`over` is strict."""
    rule = Rule(id="bulk", over=GB, window="24h")
    assert run(policy(rule), [at(0, GB)]).findings == {}
    assert len(run(policy(rule), [at(0, GB + 1)]).findings) == 1
    assert len(run(policy(rule), [at(0, GB // 2), at(60, GB // 2), at(90, 1)], 1).findings) == 1


def test_a_finding_opens_at_the_row_that_passes_the_threshold():
    """On arrival, before its bucket is over: provisional, with the row's end as the crossing."""
    made = Run(Detector(policy(Rule(id="bulk", over=3 * MB, window="5m")), None))
    made.take([at(0), at(1), at(2)])
    assert made.findings == {}
    made.take([at(3), at(4), at(5)])
    (finding,) = made.findings.values()
    assert finding.id == finding_id("default", "bulk", ("ehr", "as:64500"), BUCKET)
    assert (finding.crossed_ns, finding.provisional, finding.content_octets_out) == (
        T0 + 3 * SECOND_NS,
        True,
        4 * MB,
    )
    assert (finding.window_from_ns, finding.window_to_ns) == (
        BUCKET - 300 * SECOND_NS,
        BUCKET + 10 * SECOND_NS,
    )


def test_the_window_covers_at_least_its_length():
    """Two rows just under five minutes apart are in one window wherever the buckets' edges lie."""
    rule = Rule(id="bulk", over=MB, window="5m")
    for offset in range(0, 11):
        rows = [at(offset), at(offset + 299.9)]
        assert len(run(policy(rule), rows).findings) == 1, offset
    assert run(policy(rule), [at(0), at(311)]).findings == {}


def test_exceedances_less_than_quiet_apart_are_one_episode():
    """At 59 minutes from bucket to bucket one finding, at 60 two, with a quiet time of one hour."""
    rule = Rule(id="bulk", over=MB, window="5m", quiet="1h")
    last_of_first = 300
    one = run(policy(rule), [at(0, 2 * MB), at(last_of_first + 3590, 2 * MB)])
    two = run(policy(rule), [at(0, 2 * MB), at(last_of_first + 3600, 2 * MB)])
    assert [len(one.findings), len(two.findings)] == [1, 2]
    assert [f.state for f in two.findings.values()] == [FindingState.CLOSED, FindingState.OPEN]


def test_a_finding_closes_when_the_watermark_passes_its_quiet_time():
    """Not before, and by other keys' rows as well as by time."""
    rule = Rule(id="bulk", over=MB, window="5m", quiet="1h")
    made = Run(Detector(policy(rule, stores=STORES), None, replay=True))
    made.take([at(0, 2 * MB)])
    closes_s = 310 + 3600
    made.take([at(closes_s + 119, 1, store="bank")])
    assert [f.state for f in made.findings.values()] == [FindingState.OPEN]
    made.take([at(closes_s + 120, 1, store="bank")])
    (finding,) = made.findings.values()
    assert (finding.state, finding.last_bucket_ns) == (FindingState.CLOSED, BUCKET + 300 * SECOND_NS)


def test_a_late_row_is_found_at_once_in_the_bucket_that_is_open():
    """A late amount over the threshold opens the next bucket that will be evaluated, as its evaluation would."""
    rule = Rule(id="bulk", over=GB, window="1h")
    made = Run(Detector(policy(rule, stores=STORES), None, replay=True))
    made.take([at(0, 1), at(1200, 1)])
    made.take([at(600, 2 * GB)])
    (finding,) = made.findings.values()
    assert (finding.first_bucket_ns, finding.provisional) == (T0 + 1080 * SECOND_NS, True)
    assert (finding.content_octets_out, made.reasons["rows_late"]) == (2 * GB + 1, 1)
    made.take([at(1320, 1, store="bank")])
    (after,) = made.findings.values()
    assert (after.id, after.first_bucket_ns) == (finding.id, finding.first_bucket_ns)


def test_a_late_row_of_a_bucket_that_is_not_over_opens_it():
    """The bucket of its own time is not evaluated yet: it opens that one, and when it passed is its own time."""
    rule = Rule(id="bulk", over=GB, window="24h")
    made = Run(Detector(policy(rule, stores=STORES), None, replay=True))
    made.take([at(0, 1), at(800, 1)])
    made.take([at(600, 2 * GB)])
    (finding,) = made.findings.values()
    assert (finding.first_bucket_ns, finding.crossed_ns) == (T0, T0 + 600 * SECOND_NS)
    assert made.reasons["rows_late"] == 1


def test_a_late_row_that_no_window_reaches_opens_nothing():
    """What is older than the window at the open bucket counts in the ledger alone."""
    rule = Rule(id="bulk", over=GB, window="1h")
    made = Run(Detector(policy(rule, stores=STORES), None, replay=True))
    made.take([at(0, 1), at(2 * 3600, 1)])
    made.take([at(600, 2 * GB)])
    made.take([at(2 * 3600 + 300, 1)])
    assert (made.findings, made.reasons["rows_late"]) == ({}, 1)


def test_a_late_row_extends_an_open_episode_backward_and_keeps_its_id():
    """The first bucket moves, the id does not."""
    rule = Rule(id="bulk", over=GB, window="1h")
    made = Run(Detector(policy(rule, stores=STORES), None, replay=True))
    made.take([at(0, 1), at(1200, 2 * GB), at(1800, 1)])
    (before,) = made.findings.values()
    made.take([at(300, 2 * GB)])
    made.heard(made.detector.finish())
    (after,) = made.findings.values()
    assert after.id == before.id
    assert (before.first_bucket_ns, after.first_bucket_ns) == (T0 + 1200 * SECOND_NS, T0 + 300 * SECOND_NS)
    assert after.content_octets_out == 4 * GB + 2


def test_a_late_row_does_not_reopen_what_is_closed():
    """A closed finding stays as it was told."""
    rule = Rule(id="bulk", over=GB, window="5m", quiet="5m")
    made = Run(Detector(policy(rule, stores=STORES), None, replay=True))
    made.take([at(0, 2 * GB)])
    made.take([at(1500, 1, store="bank")])
    closed = dict(made.findings)
    assert [f.state for f in closed.values()] == [FindingState.CLOSED]
    made.take([at(100, 50 * GB)])
    made.heard(made.detector.finish())
    assert made.findings == closed


def test_two_episodes_that_meet_become_the_older():
    """A provisional finding far ahead joins the older one when the time between fills up."""
    rule = Rule(id="bulk", over=MB, window="5m", quiet="150s")
    made = Run(Detector(policy(rule, stores=STORES), None, replay=True))
    made.take([at(0, 1, store="bank", host="slow")])
    made.take([at(0, 2 * MB), at(2000, 2 * MB)])
    assert len(made.findings) == 2
    older = next(iter(made.findings))
    made.take([at(seconds, 2 * MB) for seconds in range(300, 2000, 300)])
    made.take([at(3 * 3600, 1, store="bank")])
    assert len(made.findings) == 2
    made.take([at(3 * 3600, 1, store="bank", host="slow")])
    merged = [f for f in made.findings.values() if "merged" in f.reasons]
    kept = [f for f in made.findings.values() if "merged" not in f.reasons]
    assert [len(merged), len(kept)] == [1, 1]
    assert (kept[0].id, kept[0].first_bucket_ns, kept[0].last_bucket_ns) == (
        older,
        BUCKET,
        BUCKET + 2300 * SECOND_NS,
    )
    assert [f.id for c in made.cases.values() for f in c.findings] == [older]


def test_first_seen_asks_for_no_earlier_egress_before_the_window():
    """A destination that was sent to before the window is not new; one that was not, is."""
    rule = Rule(id="new", over=GB, window="1h", any_of=RuleTest(first_seen=True))
    old = run(policy(rule), [at(0, 1), at(4000, 2 * GB)])
    new = run(policy(rule), [at(0, 1, asn=64501), at(4000, 2 * GB)])
    assert old.findings == {}
    (finding,) = new.findings.values()
    assert (finding.first_seen, finding.reasons, finding.observed_days) == (
        True,
        ("over_threshold", "first_seen"),
        0,
    )


def test_share_of_store_is_judged_at_the_end_of_buckets():
    """Half of what left the store in the window is enough, less is not; the share is told."""
    rule = Rule(id="most", over=GB, window="1h", any_of=RuleTest(share_of_store=0.5))
    less = run(policy(rule), [at(0, 3 * GB, asn=64501), at(1, 2 * GB)], 1)
    half = run(policy(rule), [at(0, 2 * GB, asn=64501), at(1, 2 * GB), at(2, 2 * GB)], 1)
    assert {f.entity for f in less.findings.values()} == {"as:64501"}
    shares = {f.entity: (f.share_of_store, f.reasons, f.provisional) for f in half.findings.values()}
    assert shares == {"as:64500": (4 / 6, ("over_threshold", "first_seen", "share_of_store"), False)}


@pytest.mark.parametrize("seed", range(4))
def test_shares_and_first_sight_do_not_depend_on_batch_size(seed):
    """The further tests of a rule give the same findings for every batch size."""
    rows = busy(seed + 100)
    tests = [
        RuleTest(first_seen=True),
        RuleTest(share_of_store=0.6),
        RuleTest(first_seen=True, share_of_store=0.4),
    ]
    rules = [
        Rule(id=f"t{i}{w}", over=5 * MB, window=w, quiet="3h", any_of=test)
        for i, test in enumerate(tests)
        for w in ("5m", "1h", "24h")
    ]
    made = [run(policy(*rules, stores=STORES), rows, size) for size in (1, 11, 10**6)]
    assert made[0].found()
    assert made[0].found() == made[1].found() == made[2].found()


def test_initiator_of_a_rule_and_public_services():
    """A rule reads what it asks for; what strangers fetch from a public service counts only where asked for."""
    rows = [at(0, 2 * GB, initiator="remote"), at(1, GB // 2, initiator="local")]
    rules = [Rule(id=i, over=GB, window="1h", initiator=i) for i in ("any", "local", "remote")]
    private = run(policy(*rules), rows)
    public = run(policy(*rules, stores=[store("ehr", public_service=True)]), rows)
    assert {f.rule for f in private.findings.values()} == {"any", "remote"}
    assert {f.rule for f in public.findings.values()} == {"remote"}


def test_a_rest_of_ten_years_ends_one_episode_and_begins_another():
    """An empty decade between two transfers is skipped, closes the first and is seen in no window."""
    rows = [at(0, 2 * GB), at(0, 2 * GB, start_ns=T0 + 3650 * DAY_NS, end_ns=T0 + 3650 * DAY_NS)]
    made = run(policy(Rule(id="bulk", over=GB, window="5m")), rows, 1)
    assert sorted((f.state, f.content_octets_out) for f in made.findings.values()) == [
        (FindingState.CLOSED, 2 * GB),
        (FindingState.OPEN, 2 * GB),
    ]


def test_growth_is_told_when_the_amount_has_doubled():
    """A finding gets no revision for each batch: one for each doubling."""
    made = Run(Detector(policy(Rule(id="bulk", over=GB, window="24h")), None, replay=True))
    revisions = []
    for minute in range(0, 600, 15):
        decision = made.take([at(minute * 60, GB)])
        revisions += [f.content_octets_out // GB for f in decision.findings]
    assert revisions == [2, 4, 8, 16, 32]
    assert len(made.notices) == 1


def test_a_batch_of_no_rows_changes_nothing():
    """An empty batch is taken."""
    detector = Detector(policy(Rule(id="bulk", over=GB, window="24h")), None)
    assert detector.take(sent([]), T0).findings == ()
    assert detector.watermark_ns is None
