"""docs/policy.md and docs/registers.md show what really happens."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from agent.core.errors import PolicyError
from agent.detection.trials import trials
from agent.policy.load import load
from agent.policy.model import (
    Approval,
    ApprovedEnd,
    Category,
    DestinationSet,
    EntityRole,
    Forwarder,
    ForwarderRole,
    LegalEntity,
    Recognition,
    Rule,
    Site,
    Store,
)
from agent.policy.ownership import Ownership
from agent.policy.rule_tests import Given, Receiver

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("policy.md", "registers.md"))
TODAY = date(2026, 11, 21)
BODY = r"((?:(?!```).)*)```\n"
FAULTY = re.findall(f"```yaml\n{BODY}```text\n{BODY}", PAGE, re.S)
EXAMPLES: list[str] = re.findall(f"```yaml\n{BODY}(?!```text)", PAGE, re.S)


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_load(text: str, tmp_path: Path) -> None:
    """Every example of the page loads without a fault."""
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    assert len(load([file], today=TODAY).version) == 12


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    """The rule that the page shows with its tests passes them, and they are every kind of row that it explains."""
    (text,) = [example for example in EXAMPLES if "tests:" in example]
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    policy = load([file], today=TODAY, with_tests=True)
    done = list(trials([(p, r) for p, r in policy.rules if r.id == "lab-abroad"], policy, Ownership.load()))
    assert [(trial.case.expect, trial.passed) for trial in done] == [("high", True), ("none", True)]


def test_the_pack_of_the_page_loads_and_passes(tmp_path: Path) -> None:
    """The pack that docs/packs.md shows loads, is awake, and its rule passes its test."""
    page = (Path(__file__).parents[2] / "docs/packs.md").read_text(encoding="utf-8")
    (text,) = re.findall(f"```yaml\n{BODY}", page, re.S)
    file = tmp_path / "pack.yaml"
    file.write_text(text)
    policy = load([file], today=TODAY, with_tests=True)
    done = list(trials([(p, r) for p, r in policy.rules if p == "our-contracts"], policy, Ownership.load()))
    assert [trial.passed for trial in done] == [True]


@pytest.mark.parametrize("ending", ["csv"])
def test_override_file_example_loads(ending: str, tmp_path: Path) -> None:
    """The CSV example is one override."""
    file = tmp_path / f"overrides.{ending}"
    file.write_text(re.findall(r"```csv\n(.*?)```", PAGE, re.S)[0])
    assert [str(o.network) for o in load([], overrides=[file], today=TODAY).overrides] == ["198.51.100.0/24"]


@pytest.mark.parametrize(("text", "said"), FAULTY)
def test_faults_look_as_shown(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fault of the page is reported in just these words."""
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(text)
    with pytest.raises(PolicyError) as raised:
        load([Path("policy.yaml")], today=TODAY)
    assert sorted(str(raised.value).splitlines()) == sorted(said.splitlines())


def test_page_is_whole() -> None:
    """The pages show examples and faults, and name every key, category and role."""
    assert len(EXAMPLES) >= 12
    assert len(FAULTY) >= 12
    registers = (Approval, ApprovedEnd, Forwarder, LegalEntity, Site)
    keys = {
        k
        for m in (Store, Recognition, DestinationSet, Rule, Given, Receiver, *registers)
        for k in m.model_fields
    }
    assert {k for k in keys | {*Category, *EntityRole, *ForwarderRole} if f"`{k}`" not in PAGE} == set()
