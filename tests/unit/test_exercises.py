"""``sekisho simulate SCENARIO``: exercises that say so in every message, and leave the real state alone."""

from __future__ import annotations

import json
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from agent.cli.documents import DOCUMENTS
from agent.cli.exercises import SCENARIOS
from agent.core.finding import Notice
from agent.rehearsal.scenarios import scenarios
from agent.words import render
from tests.tools.forbidden import claims
from tests.tools.program import sekisho

EXPECTED = {
    "bulk": ["HIGH"],
    "trickle": [],
    "neutral-cloud": ["MEDIUM"],
    "many-addresses": ["HIGH"],
    "home-region": ["HIGH"],
    "maintenance": ["HIGH"],
    "quiet-day": [],
}
"""What the shipped rules that are awake tell of each; a trickle over weeks is for rules over 30 days and more."""


def _octets(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _played(home: Path, name: str, *words: str) -> dict[str, Any]:
    outcome = sekisho("simulate", name, "--json", *words, home=home, state_dir=home / "real")
    assert outcome.code == 0, outcome.text
    told: dict[str, Any] = json.loads(outcome.out)
    return told


def _notice(message: dict[str, Any]) -> Notice:
    return Notice.model_validate({k: v for k, v in message.items() if k not in ("exercise", "record", "id")})


def test_help_names_the_scenarios_that_there_are() -> None:
    """The commands and the file agree on ids and titles, and every scenario is told in both languages."""
    assert (
        {one.id: one.title.en for one in scenarios().values()}
        == SCENARIOS
        == {n: SCENARIOS[n] for n in EXPECTED}
    )
    for one in scenarios().values():
        for said in (one.title, one.story, one.ask):
            assert said.ja != said.en
            assert list(claims([(one.id, said.en + said.ja)], assurances=True)) == []


@pytest.mark.parametrize("name", EXPECTED)
def test_what_each_scenario_tells_under_the_shipped_rules(name: str, tmp_path: Path) -> None:
    """Severities as they are told; every message says in data and words, in every length, that it is an exercise."""
    told = _played(tmp_path, name)
    assert set(told) == set(DOCUMENTS[f"simulate {name}"].keys)
    assert told["exercise"] is True
    notices = [_notice(message) for message in told["messages"]]
    assert [n.severity.name for n in notices] == EXPECTED[name]
    for message, notice in zip(told["messages"], notices, strict=True):
        assert (message["exercise"], notice.simulated) == (True, True)
        for language, mark in (("en", "SIMULATED"), ("ja", "模擬")):
            for detail in ("minimal", "title", "full"):
                assert mark in render(notice, language=language, zone=UTC, detail=detail)  # type: ignore[arg-type]
    assert not (tmp_path / "real").exists()


def test_the_real_state_is_the_same_to_the_octet(tmp_path: Path) -> None:
    """Cases, ledger, receipts and archive of a real state are untouched, with and without a folder for the exercise."""
    assert sekisho("replay", "--sample", "--state", tmp_path / "real", "--quiet", home=tmp_path).code == 0
    before = _octets(tmp_path / "real")
    assert before
    assert _played(tmp_path, "bulk")["messages"]
    assert _played(tmp_path, "bulk", "--state", str(tmp_path / "kept"))["messages"]
    assert _octets(tmp_path / "real") == before
    listed = sekisho("cases", "list", "--json", home=tmp_path, state_dir=tmp_path / "kept")
    assert "exercise-store" in listed.out


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    """The real state, or any folder that is not an exercise's, is never played into; the same exercise's may go on."""
    assert sekisho("replay", "--sample", "--state", tmp_path / "real", "--quiet", home=tmp_path).code == 0
    before = _octets(tmp_path / "real")
    for state_dir in ("real", "elsewhere"):
        outcome = sekisho(
            "simulate", "bulk", "--state", tmp_path / "real", home=tmp_path, state_dir=tmp_path / state_dir
        )
        assert (outcome.code, "name another folder with --state" in outcome.err) == (1, True), outcome.text
    assert _octets(tmp_path / "real") == before
    for _ in range(2):
        assert _played(tmp_path, "quiet-day", "--state", str(tmp_path / "kept"))["messages"] == []


def test_ones_own_store_and_a_file_of_messages(tmp_path: Path) -> None:
    """The exercise runs with the stores of the policy; the file holds a line for each message, marked."""
    (tmp_path / "sekisho.yaml").write_text("policy: [policy.yaml]\nlanguage: ja\n")
    (tmp_path / "policy.yaml").write_text(
        "stores:\n  - {id: ehr, categories: [personal_health], recognise: {hosts: [db-1]}}\n"
    )
    outcome = sekisho("simulate", "bulk", "--alerts", tmp_path / "a.jsonl", home=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert outcome.code == 0
    assert [(line["exercise"], line["case"]["store"]["id"]) for line in lines] == [(True, "ehr")]
    assert outcome.out.startswith("【演習】")
    assert "[模擬] [高]" in outcome.out
    assert list(claims([("bulk", outcome.out)], assurances=True)) == []
    other = sekisho("simulate", "bulk", "--store", "her", home=tmp_path)
    assert (other.code, "did you mean" in other.err.lower() or "ehr" in other.err) == (2, True)
