"""docs/policy.md and docs/registers.md show what really happens."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from agent.core.errors import PolicyError
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
    assert (len(EXAMPLES), len(FAULTY)) == (9, 12)
    registers = (Approval, ApprovedEnd, Forwarder, LegalEntity, Site)
    keys = {k for m in (Store, Recognition, DestinationSet, Rule, *registers) for k in m.model_fields}
    assert {k for k in keys | {*Category, *EntityRole, *ForwarderRole} if f"`{k}`" not in PAGE} == set()
