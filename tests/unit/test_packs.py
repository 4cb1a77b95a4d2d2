"""The packs that come with sekisho."""

from __future__ import annotations

import re
from collections import Counter
from datetime import date
from importlib import resources

from agent.core.finding import Severity
from agent.policy.load import load, shipped_packs
from agent.policy.model import Category, Pack, PackState

COUNTRIES = ("CN", "HK", "MO", "CU", "IR", "KP", "RU", "VE")


def pack(name: str) -> Pack:
    return next(p for _, p in shipped_packs() if p.pack == name)


def test_only_the_operator_pack_is_awake() -> None:
    """Out of the box two packs are there and one of them, which states no law, is awake."""
    policy = load([], today=date(2026, 11, 21))
    assert {p.pack: p.state for p in policy.packs} == {
        "operator": PackState.IN_FORCE,
        "us-dsp": PackState.IN_FORCE,
    }
    assert policy.awake == ("operator",)


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


def test_us_dsp_rule_speaks_of_octets_only() -> None:
    """The pack's one rule is a floor of octets over 30 days at medium severity, and says whose floor it is."""
    dsp = pack("us-dsp")
    (rule,), (countries,) = dsp.rules, dsp.destinations
    assert (dsp.needs_attestation, dsp.valid_from) == (True, date(2025, 4, 8))
    assert (rule.over, rule.window, rule.severity) == (10**8, "30d", Severity.MEDIUM)
    assert "operator's octet floor" in rule.title
    assert set(rule.categories) == {t.category for t in dsp.thresholds}
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


def test_no_pack_passes_judgement() -> None:
    """No word of any shipped title, name or note calls a transfer or a company by a legal conclusion."""
    forbidden = re.compile(
        r"\b(leak|breach|exfiltrat|theft|stolen|violat|illegal|compliant|clean|safe)", re.I
    )
    folder = resources.files("agent.policy")
    texts = [(folder / "ownership.yaml").read_text()] + [f.read_text() for f in (folder / "packs").iterdir()]
    assert [word for text in texts for word in forbidden.findall(text)] == []
