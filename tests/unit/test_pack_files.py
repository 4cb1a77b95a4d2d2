"""Packs of an operator's own: read with the policy, and refused with file and line where they say too much or too little."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import jsonschema
import pytest
import yaml

from agent.core.errors import PolicyError
from agent.policy.load import load, pack_schema, shipped_packs
from agent.policy.model import Policy
from agent.policy.packfiles import standing
from tests.tools.policy_files import OWN_PACK

TODAY = date(2026, 11, 21)
HEAD = "pack: mine\nversion: '1'\ntitle: Mine\nstate: in_force\nsources: [{cite: a text, mark: V}]\n"


def loaded(folder: Path, *texts: str, policy: str = "") -> Policy:
    packs = folder / "packs"
    packs.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (packs / f"{number}.yaml").write_text(text, encoding="utf-8")
    files = [packs]
    if policy:
        (folder / "policy.yaml").write_text(policy)
        files.append(folder / "policy.yaml")
    return load(files, today=TODAY, with_tests=True)


def faults_of(folder: Path, *texts: str) -> list[str]:
    with pytest.raises(PolicyError) as raised:
        loaded(folder, *texts)
    return [str(f).replace(f"{folder}/packs/", "") for f in raised.value.faults]


def test_own_pack_in_a_folder(tmp_path: Path) -> None:
    """A file with `pack:` at its top is a pack: awake without an attestation only if it says so, its rules in force."""
    policy = loaded(tmp_path, OWN_PACK)
    assert policy.awake == ("operator", "our-contracts")
    assert [rule.id for pack, rule in policy.rules if pack == "our-contracts"] == ["lab-results"]
    asleep = loaded(tmp_path, OWN_PACK.replace("needs_attestation: false\n", ""))
    assert asleep.awake == ("operator",)


def test_own_pack_is_part_of_the_version_and_of_what_is_stored(tmp_path: Path) -> None:
    """The policy's version changes with a pack, and a policy with packs comes back whole from JSON."""
    first, second = loaded(tmp_path, OWN_PACK), loaded(tmp_path, OWN_PACK + "# a remark\n")
    assert first.version != second.version
    assert Policy.model_validate_json(first.model_dump_json()) == first


def test_a_rule_of_an_own_pack_is_changed_by_its_id(tmp_path: Path) -> None:
    """The policy changes a rule of an own pack as it changes a shipped one; tests of the rule as it was do not stay."""
    policy = loaded(tmp_path, OWN_PACK, policy="rules: [{id: lab-results, over: 30 MB}]\n")
    (rule,) = [rule for pack, rule in policy.rules if pack == "our-contracts"]
    assert (rule.over, rule.categories, rule.tests) == (30_000_000, ("personal_health",), ())


def test_a_newer_pack_stands_in_a_shipped_ones_place(tmp_path: Path) -> None:
    """With `replaces` of the shipped version an own file takes the place of a pack; else it is one id too many."""
    text = HEAD.replace("mine", "us-icts").replace("'1'", "'2'")
    policy = loaded(tmp_path, text + 'replaces: "2026.11.1"\n')
    assert [p.version for p in policy.packs if p.pack == "us-icts"] == ["2"]
    place = "packs/us-icts.yaml:3"
    assert faults_of(tmp_path, text) == [
        f"0.yaml:1: pack `us-icts` is given twice, first at {place}"
        " (give it another id, or say `replaces: 2026.11.1`)"
    ]
    assert faults_of(tmp_path, text + 'replaces: "2025.1"\n') == [
        f"0.yaml:6: it stands in for version `2025.1`, and `2026.11.1` is the one shipped ({place})"
        " (read what has changed there, then say `replaces: 2026.11.1`)"
    ]
    assert faults_of(tmp_path, text.replace("us-icts", "us-ict") + 'replaces: "1"\n') == [
        "0.yaml:6: there is no shipped pack `us-ict` to replace (did you mean `us-icts`?)"
    ]


def test_two_own_packs_with_one_id(tmp_path: Path) -> None:
    """Two packs, rules, sets or reports with one id are refused, with the place of both."""
    assert faults_of(tmp_path, HEAD, HEAD) == [
        "1.yaml:1: pack `mine` is given twice, first at 0.yaml:1 (rename or remove one)"
    ]
    clash = OWN_PACK.replace("lab-results", "bulk-external")
    assert faults_of(tmp_path, clash) == [
        "0.yaml:8: rule `bulk-external` stands in pack `operator` (packs/operator.yaml) already (give it another id)"
    ]


FAULTS = {
    "no sources": (
        HEAD.replace("sources: [{cite: a text, mark: V}]\n", ""),
        ["1: `sources` is missing (it says: texts that it was written from)"],
    ),
    "empty sources": (
        HEAD.replace("[{cite: a text, mark: V}]", "[]"),
        ["5: sources: is empty (give at least one)"],
    ),
    "K told as law": (
        HEAD
        + "facts:\n  - {id: a, says: A, cite: art 1, mark: V}\n  - {id: b, says: B, cite: art 2, mark: K}\n",
        [
            "8: `art 2` has mark K (not verified) and would be told as law in force"
            " (read the text and mark it V, or add `unverified: shown`)"
        ],
    ),
    "K clock": (
        HEAD
        + "reports:\n  - id: mine.report\n    title: R\n    to: T\n    deadlines:\n"
        + "      - {starts: awareness, within: 72 hours, cite: art 3, mark: K}\n",
        [
            "11: `art 3` has mark K (not verified) and would be told as law in force"
            " (read the text and mark it V, or add `unverified: shown`)"
        ],
    ),
    "verified and not": (
        HEAD + "facts: [{id: a, says: A, cite: art 1, mark: V, unverified: shown}]\n",
        ["6: is told as not verified, and its mark is V (remove one)"],
    ),
    "number without its section": (
        HEAD + "thresholds: [{category: biometric, over: 10, mark: V}]\n",
        ["6: thresholds[0]: `cite` is missing (it says: section that says it, such as 28 CFR 202.205)"],
    ),
    "two numbers": (
        HEAD + "thresholds: [{category: biometric, over: 10, at_least: 11, cite: art 1, mark: V}]\n",
        ["6: thresholds[0]: holds both `over` and `at_least` (keep the one that the text says)"],
    ),
    "a category that does not exist": (
        HEAD + "thresholds: [{category: biometrics, over: 10, cite: art 1, mark: V}]\n",
        ["6: thresholds[0].category: `biometrics` is none of the choices (did you mean `biometric`?)"],
    ),
    "read in the future": (
        HEAD.replace("mark: V", "mark: V, read: 2027-01-01"),
        ["5: the date 2027-01-01 lies ahead (say when it was read)"],
    ),
    "in force in the future": (
        HEAD + "valid_from: 2027-01-01\n",
        ["6: is `in_force` and begins on 2027-01-01, which lies ahead (say `enacted_not_in_force`)"],
    ),
    "in force in the past": (
        HEAD + "valid_to: 2025-01-01\n",
        ["6: is `in_force` and ended on 2025-01-01 (say `state: historic`)"],
    ),
    "ends before it begins": (
        HEAD.replace("in_force", "historic") + "valid_from: 2025-02-01\nvalid_to: 2025-01-01\n",
        ["7: ends on 2025-01-01, before it begins on 2025-02-01 (correct one)"],
    ),
    "historic without an end": (
        HEAD.replace("in_force", "historic"),
        ["4: is `historic` and has not ended (give the day with `valid_to`)"],
    ),
    "a report pack with rules": (
        HEAD + "kind: report\nrules: [{id: r, over: 1 GB}]\n",
        ["7: a pack of kind `report` never alerts, and holds rules (say `kind: detect`, or remove them)"],
    ),
    "a proposal that pages": (
        HEAD.replace("in_force", "proposal") + "rules: [{id: r, over: 1 GB, severity: high}]\n",
        ["6: rule `r` of a regime that is not in force finds at `high` (say `severity: low` or less)"],
    ),
    "a set of another pack": (
        HEAD + "rules: [{id: r, over: 1 GB, destinations: [restricted-owner]}]\n",
        [
            "6: rule `r` names destination set `restricted-owner`, which is not in this pack"
            " (did you mean `restricted-owners`?)"
        ],
    ),
    "an exemption without an end": (
        HEAD
        + "exemptions: [{id: e, says: E, cite: art 1, mark: V, needs: [approver, reason, store, destination, cap]}]\n",
        [
            "6: exemptions[0]: an exemption without expires has no end or no bounds"
            " (`needs` holds all of: approver, reason, store, destination, cap, expires)"
        ],
    ),
    "duties without an attestation": (
        HEAD
        + "needs_attestation: false\nthresholds: [{category: biometric, over: 1, cite: art 1, mark: V}]\n",
        ["6: is awake without an attestation, and holds duties (say `needs_attestation: true`)"],
    ),
    "calendar years in no zone": (
        HEAD + "windows: [{kind: calendar_year, cite: art 1, mark: V}]\n",
        ["6: counts calendar years in no zone (add `zone: Asia/Tokyo` or the like)"],
    ),
    "no such zone": (
        HEAD + "zone: Asia/Tokio\n",
        ["6: zone: no such time zone; expected a name such as Asia/Tokyo or UTC"],
    ),
    "a rolling window of no length": (
        HEAD + "windows: [{kind: rolling, cite: art 1, mark: V}]\n",
        [
            "6: windows[0]: `length` and the kind `rolling` do not fit"
            " (rolling and recurring windows have a length such as P12M, others none)"
        ],
    ),
    "a clock of no report": (
        HEAD
        + "reports:\n  - id: mine.final\n    title: F\n    to: T\n    deadlines:\n"
        + "      - {starts: submission, of: mine.frist, within: 1 month, only_if: open, cite: art 1, mark: V}\n",
        [
            "11: `open` is none of the pack's words (add it under `words:`)",
            "11: a clock that starts at the submission of a report names one of this pack (did you mean `mine.final`?)",
        ],
    ),
    "a fact twice": (
        HEAD + "facts:\n  - {id: a, says: A, cite: x, mark: V}\n  - {id: a, says: B, cite: y, mark: V}\n",
        ["8: `a` is given twice (rename one)"],
    ),
    "a test without rows": (
        HEAD + "rules: [{id: r, over: 1 GB, tests: [{name: t, given: [], expect: none}]}]\n",
        ["6: rules[0].tests[0].given: is empty (give at least one)"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_a_pack(name: str, tmp_path: Path) -> None:
    """Each fault is refused with its line, what was expected, and how to mend it."""
    text, said = FAULTS[name]
    assert faults_of(tmp_path, text) == [f"0.yaml:{line}" for line in said]


def test_all_faults_of_all_packs_at_once(tmp_path: Path) -> None:
    """Faults of several packs, and of one pack several, are told in one run."""
    found = faults_of(
        tmp_path, FAULTS["K told as law"][0] + "valid_to: 2020-01-01\n", FAULTS["two numbers"][0]
    )
    assert [line.partition(": ")[0] for line in found] == ["0.yaml:8", "0.yaml:9", "1.yaml:6"]


def test_k_is_loaded_where_it_says_so_or_is_no_duty(tmp_path: Path) -> None:
    """Mark K loads with `unverified: shown`, and in a proposal, which binds nobody."""
    fact = "facts: [{id: a, says: A, cite: art 1, mark: K%s}]\n"
    shown = loaded(tmp_path, HEAD + fact % ", unverified: shown")
    proposal = loaded(tmp_path, HEAD.replace("in_force", "proposal") + fact % "")
    marks = [next(p for p in policy.packs if p.pack == "mine").facts[0].mark for policy in (shown, proposal)]
    assert marks == ["K", "K"]


@pytest.mark.parametrize(
    ("pack", "today", "why"),
    [
        ("operator", TODAY, "always"),
        ("jp-appi", TODAY, "not_attested"),
        ("jp-cyber", date(2026, 9, 30), "not_begun"),
        ("de-9b", TODAY, "historic"),
    ],
)
def test_why_a_pack_sleeps(pack: str, today: date, why: str) -> None:
    """A pack says why it is awake or asleep."""
    found = next(p for _, p in shipped_packs() if p.pack == pack)
    assert standing(found, (), today).why == why


def test_schema_of_a_pack_takes_every_shipped_one() -> None:
    """The JSON Schema of packs takes each shipped file as it stands, and refuses an unknown key."""
    made = pack_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    for document, _ in shipped_packs():
        plain = yaml.safe_load(yaml.safe_dump(_dated(document.data)))
        jsonschema.validate(plain, made)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**plain, "sauces": []}, made)


def _dated(value: object) -> object:
    """Dates as JSON has them."""
    if isinstance(value, dict):
        return {key: _dated(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_dated(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value
