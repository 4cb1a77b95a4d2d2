"""Windows of a year: their days, their findings, and a past that follows the owners on record."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.clock import DAY_NS, HOUR_NS, SECOND_NS
from agent.core.decision import LedgerDay
from agent.core.finding import Finding
from agent.detection.detector import Detector
from agent.detection.years import year_window
from agent.policy.model import DestinationSet, Pack, PackState, Policy, Rule, Source
from agent.policy.ownership import Ownership
from tests.tools import recount
from tests.tools.recount import Sent
from tests.tools.transfers import MB, Run, pieces, policy, run, sent, store

EPOCH = date(1970, 1, 1)
ZONES = ("UTC", "Asia/Tokyo", "America/New_York")
WINDOWS = [("12mo", "UTC"), *(("calendar_year", zone) for zone in ZONES)]
STORES = (store("ehr"), store("bank"))


def number(text: str) -> int:
    """Days since 1970 of a date."""
    return (date.fromisoformat(text) - EPOCH).days


@pytest.mark.parametrize(
    ("today", "first"),
    [
        ("2026-11-21", "2025-11-22"),
        ("2024-02-29", "2023-03-01"),
        ("2025-02-28", "2024-02-29"),
        ("2025-03-01", "2024-03-02"),
        ("2024-02-28", "2023-03-01"),
    ],
)
def test_twelve_months_begin_on_the_day_after_the_same_date_one_year_before(today, first):
    """Of 29 February that is 28 February."""
    assert year_window("12mo", "UTC").low(number(today)) == number(first)


@pytest.mark.parametrize(
    ("zone", "today", "first"),
    [
        ("UTC", "2026-01-01", "2026-01-01"),
        ("Asia/Tokyo", "2025-12-31", "2024-12-31"),
        ("Asia/Tokyo", "2026-01-01", "2025-12-31"),
        ("America/New_York", "2026-01-01", "2025-01-01"),
        ("America/New_York", "2026-01-02", "2026-01-01"),
    ],
)
def test_a_calendar_year_begins_with_the_utc_day_that_holds_its_first_moment(zone, today, first):
    """A day that holds the turn counts for both years."""
    assert year_window("calendar_year", zone).low(number(today)) == number(first)


@given(st.sampled_from(WINDOWS), st.integers(0, 60_000))
def test_a_day_counts_from_itself_to_the_day_before_it_is_gone(which, day):
    """``gone`` is the first day whose window begins later, and ``low`` never falls."""
    window = year_window(*which)
    gone = window.gone(day)
    assert window.low(gone) > day >= window.low(gone - 1)
    assert window.low(day) <= day
    assert window.low(day) <= window.low(day + 1)


def of_years(seed: int, days: int = 900, n: int = 250) -> list[Sent]:
    """Rows of four keys over more than two years, in order, with rests."""
    rng = random.Random(seed)
    start = number("2023-12-20") * DAY_NS
    ends = sorted(start + rng.randrange(days * DAY_NS) for _ in range(n))
    out = []
    for end in ends:
        length = int(rng.choice([0, 1, 100]) * rng.random() * SECOND_NS)
        who = (rng.choice(["ehr", "bank"]), rng.choice([64500, 64501]))
        out.append(Sent(*who, end - length, end, rng.randrange(1, 5 * MB)))
    return out


def asked(window: str, zone: str, **more) -> Rule:
    """A rule over a year."""
    return Rule(id="year", over=60 * MB, window=window, zone=zone, **more)


def recounted(rows: list[Sent], window: str, zone: str) -> set:
    """The findings of the rule, by the plain recount."""
    found = set()
    ends = recount.day_of(max(r.end_ns for r in rows))
    for key in {r.key for r in rows}:
        days = defaultdict(int)
        for row in rows:
            if row.key == key:
                days[recount.day_of(row.end_ns)] += row.octets
        for first, last, peak in recount.year_episodes(days, window, zone, 60 * MB, ends):
            found.add((*key, first, last, peak))
    return found


def told(findings) -> set:
    """What the detector found, as the recount says it."""
    return {
        (
            f.store,
            f.entity,
            recount.day_of(f.first_bucket_ns),
            recount.day_of(f.last_bucket_ns),
            f.content_octets_out,
        )
        for f in findings
    }


@pytest.mark.parametrize("size", [1, 13, 1000])
@pytest.mark.parametrize(("window", "zone"), WINDOWS)
def test_findings_over_a_year_equal_a_plain_recount(window, zone, size):
    """Whatever the size of batches, over leap days and turns of the year."""
    rows = of_years(size + len(zone))
    made = run(policy(asked(window, zone), stores=STORES), rows, size)
    expected = recounted(rows, window, zone)
    assert told(made.findings.values()) == expected
    assert len(expected) >= 3


def test_the_zone_of_a_calendar_year_is_the_packs_unless_the_rule_has_one():
    """What is sent at 16:00 UTC on 31 December belongs to the next year in Tokyo."""
    at = number("2025-12-31") * DAY_NS + 16 * HOUR_NS
    rows = [Sent("ehr", 64500, at, at, 40 * MB), Sent("ehr", 64500, at + DAY_NS, at + DAY_NS, 40 * MB)]
    rule = Rule(id="year", over=60 * MB, window="calendar_year")

    def found(of_pack: str, **more) -> int:
        pack = Pack(
            pack="jp",
            version="1",
            title={"en": "jp", "ja": "jp"},
            state=PackState.IN_FORCE,
            zone=of_pack,
            sources=(Source(cite="a text", mark="V"),),
        )
        asks = policy(("jp", rule.model_copy(update=more))).model_copy(update={"packs": (pack,)})
        return len(run(asks, rows).findings)

    assert (found("UTC"), found("Asia/Tokyo"), found("UTC", zone="Asia/Tokyo")) == (0, 1, 1)


def every_kind() -> Policy:
    """Rules over a year in all groupings, beside shorter ones."""
    return policy(
        asked("12mo", "UTC"),
        asked("calendar_year", "Asia/Tokyo").model_copy(update={"id": "calendar"}),
        asked("12mo", "UTC", group_by="store").model_copy(update={"id": "all", "over": 150 * MB}),
        Rule(id="month", over=8 * MB, window="30d", quiet="5d"),
        Rule(id="whole", over=12 * MB, window="30d", quiet="5d", group_by="store"),
        stores=STORES,
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_restart_at_any_point_changes_nothing_over_a_year(seed):
    """After snapshot and deltas the detector says word for word what an unbroken one says."""
    rng = random.Random(seed)
    whole, broken = Run(Detector(every_kind(), None)), Run(Detector(every_kind(), None))
    snapshot, since = None, 0
    for made in (whole, broken):
        made.heard(made.detector.fill([past("ehr", "2023-12-01", 20 * MB)]))
    for piece in pieces(of_years(seed), 9):
        assert whole.take(piece) == broken.take(piece)
        if rng.random() < 0.2:
            snapshot, since = broken.detector.snapshot(), len(broken.deltas)
        if rng.random() < 0.3:
            broken.detector = Detector(every_kind(), None)
            broken.detector.restore(snapshot, broken.deltas[since:])
    assert whole.detector.finish() == broken.detector.finish()
    assert whole.detector.snapshot() == broken.detector.snapshot()
    assert {f.rule for f in whole.findings.values()} == {"year", "calendar", "all", "month", "whole"}


def past(of: str, day: str, octets: int, asn: int = 64500) -> LedgerDay:
    """A day of the ledger."""
    return LedgerDay(number(day), "default", of, "local", asn, f"Example {asn}", "", "", "", octets)


def days_of(ledger) -> list[LedgerDay]:
    """What the ledger says of days, from its rows."""
    sums: dict[tuple, int] = defaultdict(int)
    for r in ledger:
        key = (r.day, r.tenant, r.store, r.initiator, r.asn, r.as_org, r.provider, r.owner, r.country)
        sums[key] += r.content_octets_out
    return [LedgerDay(*key, octets) for key, octets in sorted(sums.items())]


def plain(finding: Finding) -> Finding:
    """A finding without what is told of where its sums came from, and how often it was told."""
    gone = {"reasons": (), "versions": {}, "revision": 1}
    return finding.model_copy(update=gone)


@pytest.mark.parametrize("seed", range(4))
def test_a_rule_that_comes_later_is_filled_from_the_ledger(seed):
    """Its sums are then those of a rule that was always there, what still waits for the ledger included."""
    rows = of_years(seed, days=300)
    begins, later = rows[:200], rows[200:]
    rule = asked("12mo", "UTC").model_copy(update={"over": 10**9})
    always = Run(Detector(policy(rule, stores=STORES), None))
    late = Run(Detector(policy(stores=STORES), None))
    always.heard(always.detector.fill([]))
    for piece in pieces(begins, 7):
        always.take(piece)
        late.take(piece)
    assert late.detector.ledger_since is None
    late.heard(late.detector.set_policy(policy(rule, stores=STORES), None))
    since = late.detector.ledger_since
    assert since is not None
    late.heard(late.detector.fill([d for d in days_of(late.ledger) if d.day >= since]))
    assert late.detector.ledger_since is None
    keys = ("ehr", 64500), ("ehr", 64501), ("bank", 64500), ("bank", 64501)

    def sums(made: Run) -> list[int]:
        today = begins[-1].end_ns // DAY_NS
        return [
            made.detector.window_sum("default", who, f"as:{asn}", "days", today) or 0 for who, asn in keys
        ]

    assert sums(always) == sums(late)
    assert sum(sums(late)) == sum(r.octets for r in begins)
    for made in (always, late):
        made.heard(
            made.detector.set_policy(policy(rule.model_copy(update={"over": 60 * MB}), stores=STORES), None)
        )
        made.heard(made.detector.fill(days_of(made.ledger)))
        for piece in pieces(later, 7):
            made.take(piece)
        made.heard(made.detector.finish())
    assert always.findings
    assert {i: plain(f) for i, f in always.findings.items()} == {
        i: plain(f) for i, f in late.findings.items()
    }


def table(tmp_path, owner: str) -> Ownership:
    """An ownership table in which AS64500 belongs to ``owner``."""
    path = tmp_path / f"{owner}.yaml"
    path.write_text(
        "version: 1\nupdated: 2026-11-01\nowners:\n"
        + "".join(
            f"  - {{id: {name}, name: {name.title()}, country: {country}, mark: V, source: s, checked: 2026-11-01}}\n"
            for name, country in (("alpha", "CN"), ("beta", "DE"))
            if name == owner or name == "beta"
        )
        + "networks:\n"
        + f"  - {{asns: [64500], provider: one, provider_name: One, organisation: One, owner: {owner}}}\n"
        + "  - {asns: [64501], provider: two, provider_name: Two, organisation: Two, owner: beta}\n"
    )
    return Ownership.load(path)


LISTED = DestinationSet(id="listed", owner_countries=("CN",))


def test_a_corrected_owner_resums_the_past_of_a_year(tmp_path):
    """Octets sent under the old record count for the owner on record today, and for no other."""
    rule = Rule(id="year", over=60 * MB, window="12mo", destinations=("listed",))
    asks = policy(rule, destinations=(LISTED,))
    day = number("2026-01-10") * DAY_NS
    rows = [Sent("ehr", 64500, day + i * 30 * DAY_NS, day + i * 30 * DAY_NS, 25 * MB) for i in range(4)]
    made = Run(Detector(asks, table(tmp_path, "beta")))
    made.heard(made.detector.fill([]))
    for row in rows[:3]:
        made.take([row], remote_owner="beta", remote_provider="one", remote_owner_country="DE")
    assert not made.findings
    corrected = table(tmp_path, "alpha")
    made.heard(made.detector.set_policy(asks.model_copy(update={"version": "2"}), corrected))
    made.heard(made.detector.fill(days_of(made.ledger)))
    made.take(rows[3:], remote_owner="alpha", remote_provider="one", remote_owner_country="CN")
    (finding,) = made.findings.values()
    assert (finding.entity, finding.content_octets_out) == ("owner:alpha", 100 * MB)
    assert "filled_from_ledger" in finding.reasons
    (case,) = made.cases.values()
    assert case.destination.entity == "owner:alpha"


def test_one_changed_edge_changes_the_sum_of_a_replay(tmp_path):
    """The same archive, another table: the past transfer counts for another owner."""
    rule = Rule(id="year", over=60 * MB, window="12mo")
    day = number("2026-01-10") * DAY_NS
    rows = [Sent("ehr", 64500 + i % 2, day + i * DAY_NS, day + i * DAY_NS, 25 * MB) for i in range(6)]

    def found(owner: str) -> dict[str, int]:
        made = Run(Detector(policy(rule), table(tmp_path, owner), replay=True))
        for row in rows:
            made.heard(
                made.detector.take(
                    sent([row], remote_owner="beta", remote_provider=("one", "two")[row.asn % 2]), row.end_ns
                )
            )
        made.heard(made.detector.finish())
        return {f.entity: f.content_octets_out for f in made.findings.values()}

    assert found("beta") == {"owner:beta": 150 * MB}
    assert found("alpha") == {"owner:alpha": 75 * MB, "owner:beta": 75 * MB}


def test_a_rule_may_sum_all_destinations_of_a_store():
    """Many destinations under the threshold each are one finding, with what went to all of them."""
    day = number("2026-01-10") * DAY_NS
    rows = [Sent("ehr", 64500 + i, day + i * HOUR_NS, day + i * HOUR_NS, 10 * MB) for i in range(8)]
    made = run(policy(Rule(id="all", over=60 * MB, window="24h", group_by="store")), rows)
    (finding,) = made.findings.values()
    assert (finding.store, finding.entity, finding.content_octets_out) == ("ehr", "all", 80 * MB)
    (case,) = made.cases.values()
    assert (case.destination.label, len(case.destination.networks)) == ("all destinations", 8)
    assert case.traffic.content_octets_out == 80 * MB


def test_late_days_count_in_the_year_but_open_nothing_by_themselves():
    """A row of five days ago is in the next day's sum."""
    day = number("2026-01-10") * DAY_NS
    made = Run(Detector(policy(asked("12mo", "UTC")), None))
    made.heard(made.detector.fill([]))
    made.take([Sent("ehr", 64500, day, day, 30 * MB)])
    made.take([Sent("ehr", 64500, day - 5 * DAY_NS, day - 5 * DAY_NS, 40 * MB)], day)
    assert not made.findings
    made.take([Sent("ehr", 64500, day + 2 * DAY_NS, day + 2 * DAY_NS, 1)])
    made.heard(made.detector.finish())
    (finding,) = made.findings.values()
    assert (finding.first_bucket_ns, finding.content_octets_out) == (day, 70 * MB + 1)
