"""Tests that stand beside rules: what they are given, and what they say."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import PolicyError
from agent.core.finding import Severity
from agent.detection.trials import Trial, pieces, trials
from agent.policy.load import load
from agent.policy.model import Policy
from agent.policy.ownership import Ownership
from agent.policy.rule_tests import RuleCase

TODAY = date(2026, 11, 21)
POLICY = """\
stores:
  - {id: ehr, categories: [personal_health], recognise: {hosts: [db-1]}}
  - {id: site, categories: [business_critical], public_service: true, recognise: {hosts: [web-1]}}
destinations:
  - {id: partners, networks: [203.0.113.0/24]}
rules:
  - {id: mine, over: 100 MB, window: 1h, severity: high%s}
"""


def tried(folder: Path, case: dict[str, Any], rule: str = "", ownership: Ownership | None = None) -> Trial:
    file = folder / "policy.yaml"
    file.write_text(POLICY % rule)
    policy = load([file], today=TODAY)
    (mine,) = [(pack, r) for pack, r in policy.rules if r.id == "mine"]
    asked = RuleCase.model_validate({"name": "x", **case})
    found = (mine[0], mine[1].model_copy(update={"tests": (asked,)}))
    (trial,) = trials([found], policy, ownership or Ownership.load())
    return trial


BULK = {"store": "ehr", "sends": "150 MB"}


@pytest.mark.parametrize(
    ("given", "rule", "found", "refusal"),
    [
        ([BULK], "", Severity.HIGH, ""),
        ([{**BULK, "sends": "100 MB"}], "", None, "below"),
        ([{**BULK, "sends": 100_000_001}], "", Severity.HIGH, ""),
        ([{**BULK, "estimated": True}], "", Severity.MEDIUM, ""),
        (
            [{"store": "ehr", "sends": "60 MB"}, {"store": "ehr", "sends": "60 MB", "at": "50m"}],
            "",
            Severity.HIGH,
            "",
        ),
        (
            [{"store": "ehr", "sends": "60 MB"}, {"store": "ehr", "sends": "60 MB", "at": "3h"}],
            "",
            None,
            "below",
        ),
        ([{**BULK, "lasts": "10h"}], "", None, "below"),
        ([BULK], ", stores: [site]", None, "store_not_read"),
        ([BULK], ", initiator: remote", None, "other_initiator"),
        ([{**BULK, "initiator": "remote"}], ", initiator: remote", Severity.HIGH, ""),
        ([BULK], ", destinations: [partners]", None, "not_in_sets"),
        ([{**BULK, "to": {"address": "203.0.113.9"}}], ", destinations: [partners]", Severity.HIGH, ""),
        (
            [{**BULK, "to": {"address": "203.0.113.9"}}],
            ", except_destinations: [partners]",
            None,
            "not_in_sets",
        ),
        (
            [{**BULK, "sends": "1 MB"}, {**BULK, "at": "10d"}],
            ", any_of: {first_seen: true}",
            None,
            "no_further_fact",
        ),
    ],
)
def test_what_rows_give(
    given: list[dict[str, Any]], rule: str, found: Severity | None, refusal: str, tmp_path: Path
) -> None:
    """Rows go through the detector as real ones do; where nothing is found the reason is told."""
    trial = tried(tmp_path, {"given": given, "expect": "none" if found is None else "finding"}, rule)
    assert (trial.severity, trial.refusal, trial.passed) == (found, refusal, True)


@pytest.mark.parametrize(
    ("expect", "passed"),
    [("none", False), ("finding", True), ("high", True), ("medium", False), ("critical", False)],
)
def test_what_is_expected_of_a_finding(expect: str, passed: bool, tmp_path: Path) -> None:
    """`finding` takes any severity, a severity only itself, `none` nothing."""
    assert tried(tmp_path, {"given": [BULK], "expect": expect}).passed is passed


@pytest.mark.parametrize("expect", ["finding", "high"])
def test_nothing_found_fails_what_expects_a_finding(expect: str, tmp_path: Path) -> None:
    """Where nothing is found, only `none` passes."""
    assert not tried(tmp_path, {"given": [{**BULK, "sends": "1 MB"}], "expect": expect}).passed


@pytest.mark.parametrize(
    ("to", "hits", "entity"),
    [
        ({"asn": 64500}, False, "as:64500"),
        ({"asn": 64500, "owner_country": "CN"}, True, "as:64500"),
        ({"asn": 64500, "country": "CN"}, False, "as:64500"),
        ({"owner": "huawei"}, True, "owner:huawei"),
        ({"asn": 136907}, True, "provider:huawei-cloud"),
        ({}, False, "unknown"),
    ],
)
def test_receivers_by_their_facts(to: dict[str, Any], hits: bool, entity: str, tmp_path: Path) -> None:
    """A receiver is known by its AS, provider or owner through the ownership table, or by facts that the test states."""
    rows = {"given": [{**BULK, "to": to}], "expect": "finding"}
    assert tried(tmp_path, rows, ", destinations: [restricted-owners]").passed is hits
    (finding,) = tried(tmp_path, rows).findings
    if entity.startswith("provider"):
        assert finding.entity.partition(":")[0] in ("owner", "provider")
    else:
        assert finding.entity == entity


def test_an_invented_store_holds_what_the_test_says(tmp_path: Path) -> None:
    """A row without a store is of one that holds what the test says, else what the rule asks for first."""
    rule = ", categories: [trade_secret, research]"
    plain = tried(tmp_path, {"given": [{"sends": "150 MB"}], "expect": "finding"}, rule)
    other = tried(tmp_path, {"given": [{"sends": "150 MB", "holds": ["biometric"]}], "expect": "none"}, rule)
    assert (plain.passed, plain.findings[0].store) == (True, "invented-store-trade.secret")
    assert (other.passed, other.refusal) == (True, "store_not_read")


def test_a_long_trickle_is_summed(tmp_path: Path) -> None:
    """Rows that last for weeks are spread evenly, and no octet is lost."""
    case = {"given": [{"store": "ehr", "sends": 30 * 10**9 + 1, "lasts": "30d"}], "expect": "finding"}
    trial = tried(tmp_path, case)
    assert (trial.passed, trial.refusal) == (False, "below")
    assert trial.largest_octets == pytest.approx(30e9 / 720, rel=0.25)
    total = sum(row.octets for row in pieces(0, RuleCase.model_validate({"name": "x", **case}).given[0]))
    assert total == 30 * 10**9 + 1


def test_tests_are_dropped_where_nobody_reads_them(tmp_path: Path) -> None:
    """A policy for a run carries no tests: changing one changes no rule."""
    file = tmp_path / "policy.yaml"
    file.write_text(
        "rules:\n  - id: mine\n    over: 1 GB\n    tests: [{name: t, given: [{sends: 2 GB}], expect: finding}]\n"
    )

    def tests_in(policy: Policy) -> int:
        of_packs = sum(len(rule.tests) for pack in policy.packs for rule in pack.rules)
        return of_packs + sum(len(rule.tests) for _, rule in policy.rules)

    assert tests_in(load([file], today=TODAY)) == 0
    assert tests_in(load([file], today=TODAY, with_tests=True)) > 20


def test_faults_of_a_test_have_their_line(tmp_path: Path) -> None:
    """What a test says wrongly is refused like any other line of the policy."""
    file = tmp_path / "policy.yaml"
    file.write_text(
        "rules:\n  - id: mine\n    over: 1 GB\n    tests:\n      - name: t\n        given:\n"
        "          - {sends: much, to: {asn: 0}}\n        expect: hgih\n"
    )
    with pytest.raises(PolicyError) as raised:
        load([file], today=TODAY)
    assert [str(f).replace(f"{tmp_path}/", "") for f in raised.value.faults] == [
        "policy.yaml:7: rules[0].tests[0].given[0].to.asn: input should be greater than or equal to 1, got `0`",
        "policy.yaml:7: rules[0].tests[0].given[0].sends: expected a size such as 500 MB, 1.5 GB or 2 GiB",
        "policy.yaml:8: rules[0].tests[0].expect: `hgih` is none of the choices (did you mean `high`?)",
    ]


@pytest.mark.parametrize(
    ("rule", "row", "found"),
    [
        (", measure: flows, over: 100", {"flows": 150}, True),
        (", measure: flows, over: 100", {"flows": 100}, False),
        (", measure: octets_in, over: 1 GB", {"receives": "2 GB"}, True),
        (", measure: octets_in, over: 1 GB", {"receives": "1 GB"}, False),
        (", services: [tcp/22], over: 1 MB", {"sends": "2 MB", "service": "tcp/22"}, True),
        (", services: [tcp/22], over: 1 MB", {"sends": "2 MB", "service": "tcp/23"}, False),
        (
            ", services: [tcp/22], over: 1 MB",
            {"sends": "2 MB", "service": "tcp/22", "initiator": "remote"},
            True,
        ),
    ],
)
def test_rows_of_other_measures(rule: str, row: dict[str, Any], found: bool, tmp_path: Path) -> None:
    """A row states flows, octets received and its service, for rules that count or choose by these."""
    file = tmp_path / "policy.yaml"
    file.write_text(f"rules:\n  - {{id: mine, window: 1h{rule}}}\n")
    mine = next(r for _, r in load([file], today=TODAY).rules if r.id == "mine")
    case = RuleCase.model_validate(
        {"name": "x", "given": [{"sends": 0, "lasts": "10m", **row}], "expect": "finding"}
    )
    (trial,) = trials(
        [("operator", mine.model_copy(update={"tests": (case,)}))],
        load([file], today=TODAY),
        Ownership.load(),
    )
    assert trial.passed is found


def test_an_estimate_alone_is_a_note(tmp_path: Path) -> None:
    """Under the floor, persons that are possible by what the register states are noted at the lowest severity."""
    file = tmp_path / "policy.yaml"
    file.write_text(
        "stores:\n  - {id: genome, categories: [human_genomic], recognise: {hosts: [db-9]}, subjects: 5000,\n"
        "     record_octets: [10 kB, 1 GB], records_per_subject: [1, 2], compression: [0.5, 1.1]}\n"
        "rules:\n  - id: mine\n    subjects: {over: 100}\n    over: 100 MB\n    window: 12mo\n    tests:\n"
        "      - {name: possible, given: [{store: genome, sends: 5 MB}], expect: informational}\n"
        "      - {name: fewer, given: [{store: genome, sends: 400 kB}], expect: none}\n"
        "      - {name: over the floor, given: [{store: genome, sends: 200 MB}], expect: medium}\n"
    )
    policy = load([file], today=TODAY, with_tests=True)
    done = trials([(p, r) for p, r in policy.rules if r.id == "mine"], policy, Ownership.load())
    assert [(t.case.name, t.passed) for t in done] == [
        ("possible", True),
        ("fewer", True),
        ("over the floor", True),
    ]
