"""The packs that come with sekisho."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent.core.finding import Severity
from agent.detection.trials import trials
from agent.policy.clocks import Deadline
from agent.policy.load import load, shipped_packs
from agent.policy.model import Category, Pack
from agent.policy.ownership import Ownership
from agent.policy.packfiles import between, pack_faults
from agent.words import regime_phrases, regimes

TODAY = date(2026, 11, 21)
CASES = [(p.pack, r.id, c.name) for _, p in shipped_packs() for r in p.rules for c in r.tests]
COUNTRIES = ("CN", "HK", "MO", "CU", "IR", "KP", "RU", "VE")


def pack(name: str) -> Pack:
    return next(p for _, p in shipped_packs() if p.pack == name)


STATES = {
    "operator": ("in_force", "detect"),
    "us-dsp": ("in_force", "detect"),
    "us-icts": ("in_force", "inventory"),
    "eu-nis2": ("in_force", "report"),
    "eu-gdpr": ("in_force", "report"),
    "de-kritis": ("in_force", "report"),
    "de-9b": ("historic", "inventory"),
    "au-soci": ("in_force", "report"),
    "jp-appi": ("in_force", "report"),
    "jp-cyber": ("in_force", "report"),
    "jp-ci": ("in_force", "detect"),
    "jp-ci-medical": ("enacted_not_in_force", "detect"),
    "jp-data-proposal": ("proposal", "detect"),
    "jp-fefa": ("in_force", "detect"),
    "jp-ucpa": ("in_force", "detect"),
    "jp-patent": ("in_force", "detect"),
}


def test_every_regime_has_its_pack_and_only_the_operators_is_awake() -> None:
    """Out of the box each regime of the sources has a pack, and the one that is awake states no law."""
    policy = load([], today=TODAY)
    assert {p.pack: (p.state.value, p.kind) for p in policy.packs} == STATES
    assert policy.awake == ("operator",)
    assert {pack for pack, _ in policy.rules} == {"operator"}


@pytest.mark.parametrize("name", STATES)
def test_no_pack_has_a_fault(name: str) -> None:
    """The shipped packs are held to what an operator's own are held to."""
    faults = [f for d, p in shipped_packs() if p.pack == name for f in pack_faults(d, p, TODAY)]
    assert [*map(str, faults), *map(str, between(shipped_packs()))] == []


def test_every_attested_pack_wakes_but_the_historic_one(tmp_path: Path) -> None:
    """With every regime attested all are awake but history; those of report and inventory add no rule."""
    bound = [name for name, (state, _) in STATES.items() if state != "historic" and name != "operator"]
    file = tmp_path / "policy.yaml"
    lines = [f"  - {{pack: {name}, entity: E, by: A. Person, on: 2026-11-02}}\n" for name in bound]
    file.write_text("attestations:\n" + "".join(lines))
    policy = load([file], today=TODAY)
    assert set(policy.awake) == {*bound, "operator"}
    assert {pack for pack, _ in policy.rules} == {n for n, (_, kind) in STATES.items() if kind == "detect"}


def test_what_is_not_verified_says_so() -> None:
    """Every fact with mark K of a regime in force is told as not verified, in both languages."""
    open_facts = {
        pack.pack: {f.id for f in (*pack.facts, *pack.retention) if f.mark == "K"}
        for _, pack in shipped_packs()
    }
    assert open_facts["us-dsp"] == set()
    assert open_facts["jp-ucpa"] == {"tests", "records", "term"}
    for language, said in (("en", "mark K: not verified"), ("ja", "区分 K：未確認")):
        say = regime_phrases(language)
        told = [
            regimes.fact(f, say)
            for _, p in shipped_packs()
            for f in (*p.facts, *p.retention)
            if f.mark == "K"
        ]
        assert len(told) > 10
        assert [line for line in told if said not in line] == []


def test_clocks_of_reports() -> None:
    """Deadlines as the texts have them: what starts each, how long, with which mark."""
    clocks = {
        (r.id, d.starts, d.within, d.only_if, d.mark)
        for _, p in shipped_packs()
        for r in p.reports
        for d in r.deadlines
    }
    expected = {
        ("us_dsp.rejected", "rejection", "14 days", "", "V"),
        ("us_dsp.annual_cloud", "year_end", "03-01", "", "V"),
        ("nis2.early_warning", "awareness", "24 hours", "", "V"),
        ("nis2.notification", "awareness", "72 hours", "", "V"),
        ("nis2.notification", "awareness", "24 hours", "trust_service_provider", "V"),
        ("gdpr.art33", "awareness", "72 hours", "", "V"),
        ("de.final", "handling", "not_set", "ongoing", "V"),
        ("de.registry", "change", "14 days", "", "V"),
        ("de.registry", "change", "3 months", "digital_infrastructure", "V"),
        ("soci.critical", "awareness", "12 hours", "part_2b_applies", "V"),
        ("soci.critical", "oral_report", "84 hours", "part_2b_applies", "V"),
        ("soci.other", "awareness", "72 hours", "part_2b_applies", "V2"),
        ("soci.register", "change", "30 days", "", "V2"),
        ("appi.preliminary", "awareness", "promptly", "", "V"),
        ("appi.final", "awareness", "60 days", "improper_purpose", "V"),
        ("cyberjp.prompt", "awareness", "promptly", "", "V2"),
        ("cyberjp.report", "awareness", "30 days", "", "V2"),
    }
    assert expected <= clocks
    assert len(clocks) == 34


@pytest.mark.parametrize(
    ("within", "days", "start", "zone", "ends"),
    [
        ("72 hours", "not_stated", "2026-03-28T12:00+00:00", "Europe/Berlin", "2026-03-31T14:00:00+02:00"),
        ("60 days", "calendar", "2026-11-21T16:00+00:00", "Asia/Tokyo", "2027-01-21T23:59:59+09:00"),
        ("3 days", "business", "2026-11-19T00:00+00:00", "UTC", "2026-11-24T23:59:59+00:00"),
        ("1 day", "business", "2026-11-21T00:00+00:00", "UTC", "2026-11-23T23:59:59+00:00"),
        ("1 month", "calendar", "2027-01-31T10:00+00:00", "UTC", "2027-02-28T23:59:59+00:00"),
        ("3 months", "calendar", "2026-11-30T10:00+00:00", "UTC", "2027-02-28T23:59:59+00:00"),
        ("1 year", "calendar", "2028-02-29T10:00+00:00", "UTC", "2029-02-28T23:59:59+00:00"),
        ("03-01", "not_stated", "2026-01-15T10:00+00:00", "UTC", "2027-03-01T23:59:59+00:00"),
        ("promptly", "not_stated", "2026-01-15T10:00+00:00", "UTC", None),
        ("not_set", "not_stated", "2026-01-15T10:00+00:00", "UTC", None),
    ],
)
def test_a_clock_is_counted_in_its_zone(
    within: str, days: str, start: str, zone: str, ends: str | None
) -> None:
    """Hours run through a change of the clocks; days, months and years end with the last day there."""
    clock = Deadline.model_validate(
        {"starts": "awareness", "within": within, "days": days, "cite": "a text", "mark": "K"}
    )
    found = clock.ends(datetime.fromisoformat(start), ZoneInfo(zone))
    assert (found.isoformat() if found else None) == ends


def test_corrections_of_the_texts_are_in() -> None:
    """Venezuela is no country of us-icts and Macau a set of its own; public bodies count from 100; no number in a proposal."""
    sets = {d.id: d for _, p in shipped_packs() for d in p.destinations}
    assert sets["us-icts-adversaries"].owner_countries == ("CN", "HK", "CU", "IR", "KP", "RU")
    assert sets["us-icts-macau"].owner_countries == ("MO",)
    appi = {(t.category.value, t.over, t.at_least, t.only_if) for t in pack("jp-appi").thresholds}
    assert ("personal_general", 100, None, "public_body") in appi
    assert {(t.over, t.at_least) for t in pack("jp-data-proposal").thresholds} == {(None, None)}
    assert {w.id for w in pack("de-kritis").words if w.sleeps} == {"dora", "telecom", "energy", "telematics"}
    assert [e.id for e in pack("us-dsp").exemptions if "28 CFR 202.1104" in e.keeps] == [
        "official_business",
        "financial_services",
        "corporate_group",
        "federal_law",
        "regulatory_approval",
    ]


def test_an_exception_keeps_a_pack_asleep(tmp_path: Path) -> None:
    """An entity that is attested with a word that takes it out of the regime does not wake it; another one does."""
    file = tmp_path / "policy.yaml"
    bank = "attestations:\n  - {pack: de-kritis, entity: Bank, by: A, on: 2026-11-02, words: [dora]}\n"
    file.write_text(bank)
    assert load([file], today=TODAY).awake == ("operator",)
    file.write_text(
        bank + "  - {pack: de-kritis, entity: Centre, by: A, on: 2026-11-02, words: [critical_facility]}\n"
    )
    assert load([file], today=TODAY).awake == ("de-kritis", "operator")


@pytest.mark.parametrize(("name", "rule", "case"), CASES, ids=[f"{r}: {c}" for _, r, c in CASES])
def test_shipped_rules_pass_their_tests(name: str, rule: str, case: str) -> None:
    """Every test that stands beside a shipped rule holds, through the detector itself."""
    policy = load([], today=TODAY, with_tests=True)
    (found,) = [r for p in policy.packs for r in p.rules if r.id == rule]
    only = found.model_copy(update={"tests": tuple(t for t in found.tests if t.name == case)})
    (trial,) = trials([(name, only)], policy, Ownership.load())
    assert trial.passed, (trial.severity, trial.refusal, trial.largest_octets)


def test_every_shipped_rule_has_tests_of_both_kinds() -> None:
    """Each shipped rule shows what it finds and what it leaves alone."""
    for _, found in shipped_packs():
        for rule in found.rules:
            kinds = {case.expect == "none" for case in rule.tests}
            assert kinds == {True, False}, rule.id


def test_rules_of_the_operator_pack() -> None:
    """One bulk rule that asks for no owner, one for owners on the list."""
    rules = {r.id: r for r in pack("operator").rules}
    bulk, restricted = rules["bulk-external"], rules["bulk-restricted-owner"]
    assert (bulk.over, bulk.window, bulk.severity, bulk.destinations) == (10**9, "24h", Severity.MEDIUM, ())
    assert (bulk.any_of.first_seen, bulk.any_of.share_of_store) == (True, 0.5)
    assert (restricted.over, restricted.window, restricted.severity) == (10**8, "24h", Severity.HIGH)
    assert restricted.destinations == ("restricted-owners",)
    (owners,) = pack("operator").destinations
    assert (owners.owner_countries, owners.countries, owners.organised_in) == (COUNTRIES, (), ())
    assert "no statement of law" in owners.note


def test_thresholds_of_us_dsp() -> None:
    """The numbers of 28 CFR 202.205 and .222, each with its section and mark."""
    found = {t.category: (t.over, t.unit, t.cite, t.mark) for t in pack("us-dsp").thresholds}
    bulk, gov = ("28 CFR 202.205", "V"), ("28 CFR 202.222", "V")
    assert found == {
        Category.HUMAN_GENOMIC: (100, "us_person", *bulk),
        Category.HUMAN_EPIGENOMIC: (1000, "us_person", *bulk),
        Category.HUMAN_PROTEOMIC: (1000, "us_person", *bulk),
        Category.HUMAN_TRANSCRIPTOMIC: (1000, "us_person", *bulk),
        Category.BIOMETRIC: (1000, "us_person", *bulk),
        Category.PRECISE_GEOLOCATION: (1000, "us_device", *bulk),
        Category.PERSONAL_HEALTH: (10_000, "us_person", *bulk),
        Category.PERSONAL_FINANCIAL: (10_000, "us_person", *bulk),
        Category.COVERED_IDENTIFIERS: (100_000, "us_person", *bulk),
        Category.GOV_LOCATION: (0, "us_device", *gov),
        Category.GOV_MARKETED: (0, "us_person", *gov),
    }


def test_rules_of_us_dsp() -> None:
    """An octet floor over 30 days, and the numbers of 202.205 over twelve months; all at medium, all say whose floor it is."""
    dsp = pack("us-dsp")
    floor, *years = dsp.rules
    (countries,) = dsp.destinations
    assert (dsp.needs_attestation, dsp.valid_from) == (True, date(2025, 4, 8))
    assert (floor.over, floor.window, floor.severity) == (10**8, "30d", Severity.MEDIUM)
    assert set(floor.categories) == {t.category for t in dsp.thresholds}
    assert {"operator's octet floor" in rule.title for rule in dsp.rules} == {True}
    assert {(rule.over, rule.window, rule.severity) for rule in years} == {(10**8, "12mo", Severity.MEDIUM)}
    asked = {(c, rule.subjects.over) for rule in years if rule.subjects for c in rule.categories}
    assert asked == {(t.category, t.over) for t in dsp.thresholds if t.over}
    assert (countries.owner_countries, countries.organised_in) == (COUNTRIES, COUNTRIES)


def test_ids_are_unique_over_all_packs() -> None:
    """No two packs share the id of a rule or a destination set, since both are changed by id alone."""
    ids = [("rule", r.id) for _, p in shipped_packs() for r in p.rules]
    ids += [("set", d.id) for _, p in shipped_packs() for d in p.destinations]
    assert set(Counter(ids).values()) == {1}


def test_each_pack_stands_in_a_file_of_its_name() -> None:
    """packs/x.yaml holds pack x, and its rules name only its own sets."""
    for document, found in shipped_packs():
        assert document.name == f"packs/{found.pack}.yaml"
        named = {name for rule in found.rules for name in rule.destinations}
        assert named <= {d.id for d in found.destinations}
