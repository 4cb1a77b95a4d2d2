"""People's commands beside a running program read the state wherever it is kept: a file, or PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from agent.cli.completing import case_ids
from agent.core.clock import DataClock
from agent.core.decision import Decision
from agent.core.finding import StoreFact
from agent.store.state import Commit, State
from tests.tools.notices import START_NS, case
from tests.tools.program import sekisho
from tests.tools.states import Place

ID = "2026-1117-07"


@pytest.fixture
def home(place: Place, tmp_path: Path) -> Path:
    """A folder with settings that name the state, which holds one case."""
    with place.open(DataClock(START_NS)) as state:
        _put(state)
    where = f"detect: {{database: '{place.where}'}}" if isinstance(place.where, str) else ""
    (tmp_path / "sekisho.yaml").write_text(f"state_dir: {tmp_path}\n{where}\n")
    return tmp_path


def _put(state: State) -> None:
    one = case(id=ID, store=StoreFact(id="ehr-main"))
    state.commit(Commit(decision=Decision(cases=(one,)), position="", now_ns=START_NS))


def test_cases_are_read_and_acted_on(home: Path) -> None:
    """Listed, acknowledged, shown with what was done, closed; the list of open ones is empty afterwards."""

    def run(*words: str) -> list[dict[str, Any]]:
        done = sekisho("cases", *words, "--json", home=home, state_dir=home)
        assert done.code == 0, done.text
        return (
            [json.loads(done.out)]
            if done.out.startswith("{\n")
            else [*map(json.loads, done.out.splitlines())]
        )

    assert [c["id"] for c in run("list", "--open")] == [ID]
    assert [a["case_id"] for a in run("ack", "2026", "--as", "ann", "--note", "looking")] == [ID]
    (shown,) = run("show", ID)
    assert [(a["kind"], a["who"], a["note"]) for a in shown["actions"]] == [("ack", "ann", "looking")]
    run("close", ID, "--verdict", "expected", "--note", "planned", "--as", "ben")
    assert run("list", "--open") == []
    assert [c["state"] for c in run("list")] == ["closed"]


def test_a_shell_offers_the_ids_of_cases(home: Path) -> None:
    """Those of the same state."""
    context = click.Context(click.Command("sekisho"))
    context.params = {"config_file": str(home / "sekisho.yaml")}
    assert [item.value for item in case_ids(context, click.Argument(["case_id"]), "2026")] == [ID]


def test_tokens_are_made_and_listed(home: Path) -> None:
    """`sekisho enrolment` writes into the same state."""
    made = json.loads(sekisho("enrolment", "token", "--json", home=home, state_dir=home).out)
    listed = json.loads(sekisho("enrolment", "list", "--json", home=home, state_dir=home).out)
    assert [token["id"] for token in listed["tokens"]] == [made["id"]]
