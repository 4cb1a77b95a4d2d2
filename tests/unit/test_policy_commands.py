"""``sekisho policy test | explain | diff`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli.documents import DOCUMENTS
from tests.tools.policy_files import OWN_PACK, git
from tests.tools.program import sekisho

POLICY = """\
stores:
  - {id: ehr, categories: [personal_health], recognise: {ports: [5432]}, subjects: 180000}
rules:
  - id: mine
    title: Bulk of mine
    categories: [personal_health]
    over: 10 MB
    tests:
      - {name: twenty, given: [{sends: 20 MB}], expect: medium}
      - {name: nine, given: [{sends: 9 MB}], expect: %s}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with settings and a policy whose tests pass."""
    (tmp_path / "sekisho.yaml").write_text("policy: [policy.yaml]\n")
    (tmp_path / "policy.yaml").write_text(POLICY % "none")
    return tmp_path


def test_tests_that_pass(home: Path) -> None:
    """Own and shipped rules are tried, asleep or awake; exit code 0."""
    outcome = sekisho("policy", "test", home=home)
    lines = outcome.out.splitlines()
    assert outcome.code == 0
    assert "pass  operator/mine: twenty" in lines
    assert any(line.startswith("pass  us-dsp/us-dsp-octet-floor:") for line in lines)
    assert not [line for line in lines if line.startswith("fail")]
    assert lines[-1].endswith("tests passed; 0 rules have none")


def test_a_test_that_fails_says_why(home: Path) -> None:
    """What was expected, what was found, and the reason; exit code 1."""
    (home / "policy.yaml").write_text(POLICY % "high")
    outcome = sekisho("policy", "test", "--rule", "mine", home=home)
    assert (outcome.code, outcome.out.splitlines()) == (
        1,
        [
            "pass  operator/mine: twenty",
            "fail  operator/mine: nine",
            "  expected high, found nothing",
            "  the largest sum within 24 h was 9 MB, and the rule asks for more than 10 MB",
            "1 of 2 tests passed; 0 rules have none",
        ],
    )


def test_a_finding_that_nobody_expects_is_told(home: Path) -> None:
    """A finding in place of another is told with its severity, amount, receiver and what lowered it."""
    (home / "policy.yaml").write_text(
        "rules:\n  - id: mine\n    over: 10 MB\n    severity: high\n    tests:\n"
        "      - {name: sampled, given: [{sends: 20 MB, estimated: true, to: {asn: 64500}}], expect: high}\n"
    )
    outcome = sekisho("policy", "test", "--rule", "mine", home=home)
    assert outcome.out.splitlines()[1:3] == [
        "  expected high, found medium",
        "  medium: 20 MB to as:64500 within 24 h (over_threshold, first_seen, estimated)",
    ]


def test_tests_in_json_and_in_japanese(home: Path) -> None:
    """`--json` holds every test; the screen speaks the language of the settings."""
    told = json.loads(sekisho("policy", "test", "--rule", "mine", "--json", home=home).out)
    assert told["untested"] == []
    assert told["tests"][0] == {
        "pack": "operator",
        "rule": "mine",
        "name": "twenty",
        "passed": True,
        "expected": "medium",
        "found": "medium",
        "why": ["over_threshold", "first_seen"],
        "largest_octets": 20_000_000,
    }
    said = sekisho("policy", "test", "--rule", "mine", home=home, env={"SEKISHO_LANGUAGE": "ja"}).out
    assert said.splitlines()[-1] == "テスト 2 件中 2 件が合格。テストのない規則は 0 件"


def test_strict_asks_for_tests_of_what_is_awake(home: Path) -> None:
    """With --strict a rule in force without a test fails; a shipped rule that was changed has none of its own."""
    (home / "policy.yaml").write_text(
        "rules: [{id: bulk-external, over: 5 GB}, {id: jp-ucpa-bulk, over: 1 GB}]\n"
    )
    outcome = sekisho("policy", "test", "--strict", home=home)
    assert (outcome.code, "no test: operator/bulk-external" in outcome.out.splitlines()) == (1, True)
    assert "no test: jp-ucpa/jp-ucpa-bulk" not in outcome.out.splitlines()  # asleep
    assert sekisho("policy", "test", home=home).code == 0


def test_faults_come_before_tests(home: Path) -> None:
    """A policy with a fault is not tried: the fault is told with its line, exit code 1."""
    (home / "policy.yaml").write_text("rules:\n  - {id: mine, over: lots}\n")
    outcome = sekisho("policy", "test", home=home)
    assert (outcome.code, outcome.out) == (1, "")
    assert "policy.yaml:2: rules[0].over: expected a size" in outcome.err


def test_a_rule_in_plain_words(home: Path) -> None:
    """What it watches, when it finds, which stores of yours, why it is awake."""
    lines = sekisho("policy", "explain", "operator/mine", home=home).out.splitlines()
    assert lines == [
        "rule operator/mine v1: Bulk of mine",
        "awake: the operator's own, needs no attestation",
        "watches: stores that hold personal health data",
        "of your stores: ehr",
        "finds when: more than 10 MB of content octets goes out from one store to one receiver within 24 h",
        "to: every external end",
        "severity: medium at most; lower where the owner on record is not verified, disputed, old or for review, or where"
        " amounts are estimates",
        "2 tests stand beside it",
    ]


OWNERS = """\
version: 1
updated: 2025-11-01
owners:
  - {id: example-buyer, name: Example Buyer, country: CN, mark: V, source: filing, checked: 2025-11-01}
stakes:
  - {of: hgc, by: example-buyer, share: 100, mark: V, source: filing, checked: 2025-11-01}
  - {of: hgc, by: i-squared-capital, share: 100, to: 2025-10, mark: V, source: filing, checked: 2025-11-01}
"""


def test_rules_are_told_and_tried_by_the_owners_in_force(home: Path) -> None:
    """A file of one's own counts: the network that it gives to another owner is in the set, and the rule finds it."""
    asked = ("policy", "explain", "sold", "--json")
    (home / "policy.yaml").write_text(
        POLICY % "none" + "  - id: sold\n    destinations: [mine]\n    over: 10 MB\n    tests:\n"
        "      - {name: to it, given: [{sends: 20 MB, to: {asn: 9304}}], expect: medium}\n"
        "destinations:\n  - {id: mine, owners: [example-buyer]}\n"
    )
    before = json.loads(sekisho(*asked, home=home).out)["owners"]
    assert sekisho("policy", "test", "--rule", "sold", home=home).code == 1
    (home / "owners.yaml").write_text(OWNERS)
    (home / "sekisho.yaml").write_text("policy: [policy.yaml]\nownership: [owners.yaml]\n")
    after = json.loads(sekisho(*asked, home=home).out)["owners"]
    assert (before["networks"], before["review"]) == (0, 0)
    assert after["networks"] > 0
    assert sekisho("policy", "test", "--rule", "sold", home=home).code == 0
    said = sekisho("policy", "explain", "sold", home=home).out
    assert (
        f"on record in these sets: {after['networks']} networks, 0 more for review ({after['version']})"
        in said
    )


def test_a_rule_of_a_regime_tells_its_numbers_and_what_is_missing(home: Path) -> None:
    """A regime's numbers stand with section and mark; what an estimate of persons lacks is named store by store."""
    text = sekisho("policy", "explain", "us-dsp-octet-floor", home=home).out
    assert "asleep: no person has attested that a legal entity is bound (`attestations:`)" in text
    assert (
        "  personal health data: more than 10,000 US persons [28 CFR 202.205; mark V, rule text read]" in text
    )
    (line,) = [line for line in text.splitlines() if line.startswith("for an estimate of persons, store ehr")]
    assert "bytes per record (record_octets)" in line
    assert "persons held (subjects)" not in line


@pytest.mark.parametrize(
    ("language", "said"),
    [
        (
            "en",
            [
                "asleep: no person has attested that a legal entity is bound (`attestations:`)",
                "  Provision to a third party in any foreign country needs consent or an equivalent, with information."
                " [APPI art 28; mark K: not verified]",
                "  appi.preliminary: Preliminary report, to the commission's electronic system",
            ],
        ),
        (
            "ja",
            [
                "無効：対象法人である旨の申告（`attestations:`）がない",
                "  外国にある第三者への提供には、同意またはこれに準ずるものと情報提供が必要。 ［APPI art 28；区分 K：未確認］",
                "  appi.preliminary：速報（提出先：個人情報保護委員会の電子システム）",
            ],
        ),
    ],
)
def test_a_pack_in_both_languages(language: str, said: list[str], home: Path) -> None:
    """A pack is told whole in English and Japanese, each fact with section and mark."""
    lines = sekisho("policy", "explain", "jp-appi", "--language", language, home=home).out.splitlines()
    assert [line for line in said if line not in lines] == []


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "nis2.early_warning: ends 2026-11-23 00:00:00 UTC; 24 hours"),
        ("ja", "2026-11-23 00:00:00 UTC まで"),
    ],
)
def test_clocks_of_a_pack_are_counted_from_a_time(language: str, said: str, home: Path) -> None:
    """With --from, each clock with its end and its basis, in words and as JSON; a rule has none."""
    asked = ("policy", "explain", "eu-nis2", "--from", "2026-11-22T00:00Z")
    (home / "sekisho.yaml").write_text("policy: [policy.yaml]\ntime_zone: UTC\n")
    assert said in sekisho(*asked, "--language", language, home=home).out
    due = json.loads(sekisho(*asked, "--json", home=home).out)["due"]
    assert {(d["report"], d["ends"], d["zone"]) for d in due} >= {
        ("nis2.early_warning", "2026-11-23T00:00:00+00:00", "UTC"),
        ("nis2.notification", "2026-11-25T00:00:00+00:00", "UTC"),
    }
    assert sekisho("policy", "explain", "mine", "--from", "now", home=home).code == 2


def test_an_attested_pack_says_who_attested_it(home: Path) -> None:
    """An awake pack names the entity, the person and the day."""
    with (home / "policy.yaml").open("a") as file:
        file.write(
            "attestations: [{pack: jp-appi, entity: Example Hospital, by: A. Person, on: 2026-11-02}]\n"
        )
    lines = sekisho("policy", "explain", "jp-appi", home=home).out.splitlines()
    assert lines[1] == "awake: attested for Example Hospital (by A. Person, 2026-11-02)"


def test_all_packs_and_why(home: Path) -> None:
    """Without a name every pack is listed, awake ones first, with why."""
    lines = sekisho("policy", "explain", home=home).out.splitlines()
    assert lines[:3] == [
        "operator: The operator's own rules",
        "  state: in force; kind: detect (its rules may find)",
        "  awake: the operator's own, needs no attestation",
    ]
    assert len(lines) == 3 * 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("explain", "us-dps"), "no rule and no pack is called us-dps; did you mean `us-dsp`?"),
        (("test", "--rule", "bulk-extrnal"), "no rule is called bulk-extrnal; did you mean `bulk-external`?"),
    ],
)
def test_a_name_that_is_not_there(arguments: tuple[str, ...], said: str, home: Path) -> None:
    """An unknown name is wrong usage, answered with the nearest."""
    outcome = sekisho("policy", *arguments, home=home)
    assert (outcome.code, said in outcome.err) == (2, True), outcome.err


def test_differences_of_files(home: Path) -> None:
    """Two files: what is added, removed and changed, in words; exit code 3 where it is asked for."""
    (home / "new.yaml").write_text((POLICY % "none").replace("over: 10 MB", "over: 20 MB"))
    outcome = sekisho("policy", "diff", "policy.yaml", "new.yaml", "--exit-code", home=home)
    assert (outcome.code, outcome.out.splitlines()) == (
        3,
        [
            "changed  rule operator/mine",
            "  over: 10000000 -> 20000000",
            "0 added, 0 removed, 1 changed",
        ],
    )
    same = sekisho("policy", "diff", "policy.yaml", "policy.yaml", "--exit-code", home=home)
    assert (same.code, "no difference" in same.out) == (0, True)


def test_differences_since_a_revision(home: Path) -> None:
    """A git revision stands for the settings' files as they stood; own packs that wake are told."""
    git(home, "init", "-q")
    git(home, "add", "policy.yaml", "sekisho.yaml")
    git(home, "commit", "-q", "-m", "first")
    (home / "pack.yaml").write_text(OWN_PACK)
    (home / "sekisho.yaml").write_text("policy: [policy.yaml, pack.yaml]\n")
    told = json.loads(sekisho("policy", "diff", "HEAD", "--json", home=home).out)
    assert [(d["kind"], d["id"], d["what"]) for d in told["differences"]] == [
        ("rules", "our-contracts/lab-results", "added"),
        ("packs", "our-contracts", "added"),
    ]
    assert (told["wakes"], told["falls_asleep"]) == (["our-contracts"], [])
    assert "pack our-contracts wakes" in sekisho("policy", "diff", "HEAD", home=home).out.splitlines()


def test_what_is_neither_file_nor_revision(home: Path) -> None:
    """A name that is neither is an error that says what was expected."""
    git(home, "init", "-q")
    outcome = sekisho("policy", "diff", "nothing", home=home)
    assert outcome.code == 1
    assert "nothing: is no file and no git revision (name a file, a folder, or a commit" in outcome.err


def test_schema_of_packs(home: Path) -> None:
    """`policy schema --pack` prints that of a pack."""
    made = json.loads(sekisho("policy", "schema", "--pack", home=home).out)
    assert (made["title"], "thresholds" in made["properties"]) == ("sekisho pack", True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("test",),
        ("explain",),
        ("explain", "us-dsp"),
        ("explain", "mine"),
        ("diff", "policy.yaml", "policy.yaml"),
    ],
)
def test_keys_of_json_are_those_of_the_documentation(arguments: tuple[str, ...], home: Path) -> None:
    """Not one key more or less than docs/cli.md promises."""
    told = json.loads(sekisho("policy", *arguments, "--json", home=home).out)
    assert set(told) == set(DOCUMENTS[f"policy {arguments[0]}"].keys)
