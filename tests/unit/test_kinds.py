"""Kinds of rules beyond an amount of octets: what they find, what they leave, and that no cut of batches changes it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS
from agent.core.finding import Severity
from agent.core.flow import Mark
from agent.detection.detector import Detector
from agent.detection.pack import pack, unpack
from agent.policy.model import DestinationSet, Rule, RuleTest
from agent.policy.rules import Unusual
from agent.words.alert import render
from tests.tools.recount import Sent
from tests.tools.transfers import MB, T0, Run, pieces, policy, run, sent, store

BEGIN = datetime(2026, 3, 2, 12, tzinfo=UTC)
"""A Monday."""


def at(days: float) -> int:
    """So many days after :data:`BEGIN`."""
    return int((BEGIN + timedelta(days=days)).timestamp()) * 10**9


def columns(rule: Rule, rows: list[Sent], **more) -> Run:
    """A replay of rows one by one with further columns."""
    made = Run(Detector(policy(rule), None, replay=True))
    for row in rows:
        made.heard(made.detector.take(sent([row], **more), row.end_ns))
    made.heard(made.detector.finish())
    return made


@pytest.mark.parametrize("measure", ["flows", "octets_in"])
def test_a_rule_may_count_flows_or_octets_received(measure):
    """The same numbers in another column give the same episodes."""
    rng, now, rows = random.Random(7), T0, []
    for _ in range(120):
        now += rng.randrange(20 * MINUTE_NS)
        rows.append(
            Sent("ehr", 64500 + rng.randrange(2), now - rng.randrange(30 * 10**9), now, rng.randrange(50))
        )
    rule = Rule(id="many", over=120, window="1h", quiet="1h")
    expected = run(policy(rule), rows).found()
    made = Run(Detector(policy(rule.model_copy(update={"measure": measure})), None, replay=True))
    for row in rows:
        one = Sent(row.store, row.asn, row.start_ns, row.end_ns, 7)
        made.heard(made.detector.take(sent([one], **{measure: row.octets}), row.end_ns))
    made.heard(made.detector.finish())
    assert len(expected) > 2
    assert made.found() == expected
    assert {f.measure for f in made.findings.values()} == {measure}


def test_an_alert_says_what_was_counted():
    """Flows are not told as octets."""
    made = columns(
        Rule(id="many", over=2, measure="flows"), [Sent("ehr", 1, T0 + i, T0 + i, 9) for i in range(4)]
    )
    texts = [render(made.notices[0], language=lang, zone=UTC, detail="full") for lang in ("en", "ja")]
    assert "more than 2 flows in 24 h." in " ".join(texts[0].split())
    assert "2フローを超過" in texts[1]


@pytest.mark.parametrize(
    ("services", "port", "initiator", "protocol", "found"),
    [
        (("tcp/22", "tcp/3389"), 22, "local", 6, 1),
        (("tcp/22", "tcp/3389"), 443, "local", 6, 0),
        (("tcp/22",), 22, "local", 17, 0),
        (("tcp/22",), 22, "remote", 6, 0),
        (("cleartext",), 2575, "local", 6, 1),
        (("cleartext",), 443, "local", 6, 0),
        (("cleartext", "tcp/443"), 443, "local", 6, 1),
    ],
)
def test_a_rule_may_read_some_services_alone(services, port, initiator, protocol, found):
    """By protocol and port of the end that accepted; the payload is never looked at."""
    rule = Rule(id="service", over=MB, services=services)
    rows = [Sent("ehr", 64500, T0, T0, 2 * MB, initiator)]
    assert len(columns(rule, rows, remote_port=port, protocol=protocol).findings) == found


@pytest.mark.parametrize(
    ("country", "confidence", "found"),
    [("JP", "high", 0), ("DE", "high", 1), ("DE", "low", 0), (None, None, 0)],
)
def test_a_list_of_allowed_places_finds_what_is_known_to_be_elsewhere(country, confidence, found):
    """Unknown and doubted places are none."""
    rule = Rule(id="stays", over=MB, allowed_countries=("JP",))
    rows = [Sent("ehr", 64500, T0, T0, 2 * MB)]
    made = columns(rule, rows, remote_country=country, location_confidence=confidence)
    assert len(made.findings) == found


LISTED = DestinationSet(id="listed", asns=(64666,))


def test_access_from_a_listed_origin_to_an_operational_store_is_found_by_its_flows():
    """Tampering and loss (改ざん・滅失) need few octets out: the flows that the other end opened count."""
    rule = Rule(
        id="origin", categories=("ci_operational",), destinations=("listed",), initiator="remote", measure="flows",
        over=0, window="1h", severity=Severity.HIGH,
    )  # fmt: skip
    stores = (store("plc", categories=("ci_operational",)), store("ehr"))
    asks = policy(rule, stores=stores, destinations=(LISTED,))
    rows = [
        Sent("plc", 64666, T0, T0, 10, "remote"), Sent("plc", 64666, T0, T0, 10, "local"),
        Sent("plc", 64500, T0, T0, 10, "remote"), Sent("ehr", 64666, T0, T0, 10, "remote"),
    ]  # fmt: skip
    (finding,) = run(asks, rows).findings.values()
    assert (finding.store, finding.entity, finding.content_octets_out) == ("plc", "as:64666", 1)


RULE = Rule(id="odd", over=MB, window="24h", any_of=RuleTest(unusual=Unusual(times=5, least_days=14)))


def daily(amounts: dict[int, int], usual: int = 10 * MB, days: int = 75) -> list[Sent]:
    """One transfer at noon each day, ``usual`` give or take a little, other amounts on some days."""
    rng = random.Random(3)
    out = []
    for day in range(days):
        octets = amounts.get(day, usual + rng.randrange(-usual // 20, usual // 20 + 1))
        out.append(Sent("ehr", 64500, at(day), at(day), octets))
    return out


@pytest.mark.parametrize(
    ("amounts", "found"),
    [
        ({}, []),
        ({60: 40 * MB}, [60]),
        ({5: 40 * MB}, []),
        ({60: 13 * MB}, []),
        ({4 + 7 * week: 40 * MB for week in range(11)}, []),
        ({4 + 7 * week: 40 * MB for week in range(7)} | {51: 40 * MB}, [51]),
        ({29: 40 * MB, 60: 40 * MB}, [29]),
    ],
    ids=[
        "even",
        "one odd day",
        "cold",
        "within the spread",
        "every Friday",
        "not a Friday",
        "the last of the month",
    ],
)
def test_unusual_is_judged_by_the_stores_own_days(amounts, found):
    """Far above the median of its days, and above every day like it; nothing before there is a past."""
    made = run(policy(RULE), daily(amounts))
    days = sorted((f.crossed_ns - at(0)) // DAY_NS for f in made.findings.values())
    assert days == found
    assert all("unusual" in f.reasons for f in made.findings.values())


def test_a_cold_store_says_that_it_has_no_history():
    """Another test of the rule finds it from minute one."""
    both = RuleTest(unusual=Unusual(), share_of_store=0.5)
    made = run(policy(RULE.model_copy(update={"any_of": both})), daily({}, days=2))
    (finding,) = made.findings.values()
    assert finding.reasons == ("over_threshold", "first_seen", "share_of_store", "no_history_to_compare")


def test_a_neutral_destination_at_home_is_found_by_what_is_unusual_for_the_store():
    """Owner-agnostic bulk: many destinations, none of them listed, are one sum."""
    rule = RULE.model_copy(update={"group_by": "store"})
    rows = daily({})
    rows += [
        Sent("ehr", 64600 + i, at(75) + i * MINUTE_NS, at(75) + i * MINUTE_NS, 4 * MB) for i in range(20)
    ]
    (finding,) = run(policy(rule), rows).findings.values()
    assert (finding.entity, finding.reasons) == ("all", ("over_threshold", "unusual"))


BEACON = Rule(id="beacon", over=20, measure="flows", window="24h", any_of=RuleTest(regular=0.9))


@pytest.mark.parametrize(
    ("gaps", "found"),
    [
        ([15 * MINUTE_NS] * 120, 1),
        ([5 * MINUTE_NS, 7 * MINUTE_NS] * 150, 1),
        ([10 * 10**9] * 120, 0),
        ([HOUR_NS] * 60, 0),
        ([10 * 10**9] * 80 + [15 * MINUTE_NS] * 40, 0),
    ],
    ids=["each quarter", "nearly", "one burst", "too rare", "a burst and a tail"],
)
def test_what_sends_by_the_clock_is_found(gaps, found):
    """Nearly every bucket of the day has a little, of about one size."""
    now, rows = T0, []
    for gap in gaps:
        now += gap
        rows.append(Sent("ehr", 64500, now, now, 300))
    assert len(run(policy(BEACON), rows).findings) == found


def by_program(rule: Rule, rows: list[tuple[Sent, str | None]], **kind) -> Run:
    """A replay of rows, each of a program."""
    made = Run(Detector(policy(rule, **kind), None, replay=True))
    for row, program in rows:
        made.heard(made.detector.take(sent([row], process=program), row.end_ns))
    made.heard(made.detector.finish())
    return made


NEW_PROGRAM = Rule(id="program", over=MB, window="1h", quiet="1h", any_of=RuleTest(first_seen_process=True))


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (("ehr", 64500, "postgres"), ("ehr", 64501, "rclone"), [64501]),
        (("ehr", 64500, "postgres"), ("ehr", 64501, "postgres"), []),
        (("ehr", 64500, "postgres"), ("ehr", 64501, None), []),
        (("img", 64500, "rclone"), ("ehr", 64501, "rclone"), [64501]),
    ],
    ids=["new", "known to another end", "not known", "known of another store"],
)
def test_a_program_that_was_not_seen_sending_from_the_store_is_found(first, second, found):
    """Whatever end it was seen sending to before; what is seen for the first time within the window is new."""
    rows = [
        (Sent(store, asn, at(day), at(day), amount), program)
        for day, amount, (store, asn, program) in ((0, MB // 2, first), (2, 2 * MB, second))
    ]
    made = by_program(NEW_PROGRAM, rows, stores=(store("ehr"), store("img")))
    assert [int(f.entity[3:]) for f in made.findings.values()] == found
    assert all(
        f.reasons == ("over_threshold", "first_seen", "first_seen_process") for f in made.findings.values()
    )


@pytest.mark.parametrize("seed", range(3))
def test_no_cut_of_batches_changes_which_program_is_new(seed):
    """Also amid rows that come late, and over a restart at any point."""
    rng, rule = random.Random(seed), NEW_PROGRAM.model_copy(update={"window": "5m", "over": 900})
    rows = []
    for i in range(400):
        late = rng.random() < 0.1
        end = T0 + i * 20 * 10**9 - (rng.randrange(30) * MINUTE_NS if late else 0)
        program = None if rng.random() < 0.1 else f"program-{rng.randrange(2 + i // 20)}"
        rows.append((Sent("ehr", 64500 + rng.randrange(3), end, end, rng.randrange(600)), program))

    def found(size: int, restarts: bool = False) -> set:
        made = Run(Detector(policy(rule), None, replay=True))
        for low in range(0, len(rows), size):
            part = rows[low : low + size]
            batch = sent([row for row, _ in part], process=[program for _, program in part])
            made.heard(made.detector.take(batch, 0))
            if restarts and rng.random() < 0.3:
                kept = made.detector.snapshot()
                made.detector = Detector(policy(rule), None, replay=True)
                made.detector.restore(kept, ())
        made.heard(made.detector.finish())
        return made.found()

    expected = found(1)
    assert len(expected) > 2
    assert found(13) == found(400) == found(7, restarts=True) == expected


def test_a_snapshot_of_an_older_version_knows_its_programs():
    """What it counted of a program was seen before; nothing is new because the program was brought up to date."""
    made = by_program(NEW_PROGRAM, [(Sent("ehr", 64500, at(0), at(0), 9), "postgres")])
    meta, arrays = unpack(made.detector.snapshot())
    older = pack(meta, {k: v for k, v in arrays.items() if k not in ("cube.processes", "cube.process_ns")})
    made.detector = Detector(policy(NEW_PROGRAM), None, replay=True)
    made.detector.restore(older, ())
    for second, program in enumerate(("postgres", "rclone")):
        now = at(1) + second * DAY_NS
        made.heard(made.detector.take(sent([Sent("ehr", 64501, now, now, 2 * MB)], process=program), now))
    made.heard(made.detector.finish())
    assert [(f.crossed_ns - at(0)) // DAY_NS for f in made.findings.values()] == [2]


@pytest.mark.parametrize(("asns", "amount", "found"), [(4, 10, 1), (3, 10, 0), (4, 0, 0)])
def test_a_store_that_sends_to_many_ends_is_found(asns, amount, found):
    """More than so many, each with something sent; the same end twice is one."""
    rule = Rule(id="many", over=5, window="1h", group_by="store", any_of=RuleTest(destinations=3))
    rows = [Sent("ehr", 64500 + i % asns, T0 + i, T0 + i, amount if i else 9) for i in range(2 * asns)]
    made = run(policy(rule), rows)
    assert [f.reasons[-1] for f in made.findings.values()] == ["destinations"] * found


STEPS = ({"over": 10 * MB, "severity": "high"}, {"over": 100 * MB, "severity": "critical"})


@pytest.mark.parametrize(("octets", "severity"), [(2, 3), (10, 3), (11, 4), (101, 5)])
@pytest.mark.parametrize("rows", [1, 7])
def test_more_is_more_severe(octets, severity, rows):
    """Over each step the severity rises, in one row or in many; people are told of the rise."""
    rule = Rule(id="steps", over=MB, window="1h", steps=STEPS)
    parts = [octets * MB // rows + (octets * MB % rows if i == 0 else 0) for i in range(rows)]
    made = run(
        policy(rule),
        [Sent("ehr", 64500, T0 + i * MINUTE_NS, T0 + i * MINUTE_NS, n) for i, n in enumerate(parts)],
    )
    (finding,) = made.findings.values()
    assert (finding.content_octets_out, int(finding.severity)) == (octets * MB, severity)
    assert max(int(c.severity) for c in made.cases.values()) == severity


def test_doubts_hold_a_step_back():
    """An amount that was multiplied up from samples is medium at most, however large; the finding says why."""
    rule = Rule(id="steps", over=MB, window="1h", severity=Severity.LOW, steps=STEPS)
    made = columns(rule, [Sent("ehr", 64500, T0, T0, 200 * MB)], marks=int(Mark.ESTIMATED))
    (finding,) = made.findings.values()
    assert (finding.severity, finding.severity_reasons) == (Severity.MEDIUM, ("estimated",))


def every_kind():
    """A rule of each kind."""
    return policy(
        RULE.model_copy(update={"any_of": RuleTest(unusual=Unusual(times=1, least_days=7))}),
        RULE.model_copy(update={"id": "whole", "group_by": "store"}),
        BEACON.model_copy(update={"any_of": RuleTest(regular=0.04), "over": 4}),
        Rule(id="flows", over=1, measure="flows", window="1h", quiet="1h"),
        Rule(id="in", over=60, measure="octets_in", window="5m", quiet="1h"),
        NEW_PROGRAM.model_copy(update={"window": "5m"}),
        Rule(id="ends", over=9, window="1h", quiet="1h", group_by="store", any_of=RuleTest(destinations=1)),
        Rule(id="steps", over=MB, window="1h", quiet="1h", steps=({"over": 4 * MB, "severity": "high"},)),
        Rule(id="web", over=MB, services=("tcp/443",), window="1h", quiet="1h"),
    )


def mixed(seed: int) -> list[Sent]:
    """Ninety days of rows, some long, with rests and odd days."""
    rng, now, out = random.Random(seed), at(0), []
    for day in range(60):
        for _ in range(rng.randrange(1, 12)):
            now = max(now, at(day)) + rng.randrange(2 * HOUR_NS)
            big = 30 if rng.random() < 0.03 else 1
            out.append(
                Sent(
                    "ehr",
                    64500 + rng.randrange(2),
                    now - rng.randrange(90) * 10**9,
                    now,
                    big * rng.randrange(MB),
                )
            )
    return out


@pytest.mark.parametrize("seed", range(2))
def test_no_cut_of_batches_changes_what_any_kind_finds(seed):
    """Batches of 1, 13 and all rows, and a restart at any point: the same findings."""
    rows = mixed(seed)
    found = [run(every_kind(), rows, size).found() for size in (1, 13, 10_000)]
    assert found[0] == found[1] == found[2]
    assert {f[0] for f in found[0]} >= {"odd", "whole", "beacon", "flows", "in", "web", "ends", "steps"}
    rng, broken, snapshot, since = (
        random.Random(seed),
        Run(Detector(every_kind(), None, replay=True)),
        None,
        0,
    )
    for piece in pieces(rows, 13):
        broken.take(piece)
        if rng.random() < 0.3:
            snapshot, since = broken.detector.snapshot(), len(broken.deltas)
        if rng.random() < 0.3:
            broken.detector = Detector(every_kind(), None, replay=True)
            broken.detector.restore(snapshot, broken.deltas[since:])
    broken.heard(broken.detector.finish())
    assert broken.found() == found[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"measure": "flows", "window": "12mo"},
        {"measure": "flows", "subjects": {"over": 1}},
        {"window": "1h", "any_of": {"unusual": {}}},
        {"services": ["tcp/0"]},
        {"services": ["ssh"]},
        {"any_of": {"destinations": 3}},
        {"steps": [{"over": 1, "severity": "high"}]},
        {"steps": [{"over": 9, "severity": "medium"}]},
        {"steps": [{"over": 9, "severity": "high"}, {"over": 8, "severity": "critical"}]},
        {"zone": "Asia/Edo", "window": "calendar_year"},
    ],
)
def test_what_does_not_fit_together_is_refused(wrong):
    """A rule that could never say what it seems to is no rule."""
    with pytest.raises(ValidationError):
        Rule.model_validate({"id": "wrong", "over": 1, **wrong})
