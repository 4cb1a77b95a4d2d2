"""People's commands beside a running program read the state wherever it is kept: a file, or PostgreSQL."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import pytest

from agent.cli.completing import case_ids
from agent.core.clock import DAY_NS, DataClock
from agent.core.decision import Decision, LedgerRow
from agent.core.finding import StoreFact
from agent.store.state import Commit, State
from tests.tools.forbidden import claims
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
    run("assign", ID, "--to", "ben", "--by", "ann")
    run("comment", ID, "--note", "the vendor calls back", "--by", "ben")
    (closed,) = run("close", ID, "--verdict", "expected", "--note", "planned", "--as", "ben")
    assert (closed["verdict"], closed["proposal"]) == ("expected", None)
    assert run("list", "--open") == []
    run("reopen", ID, "--note", "another host", "--by", "ann")
    assert [(c["state"], c["traffic_state"], c["assigned_to"]) for c in run("list", "--open")] == [
        ("open", "ongoing", "ben")
    ]
    run("close", ID, "--verdict", "unexpected", "--note", "stopped by us", "--by", "ann")
    (shown,) = run("show", ID)
    assert [a["kind"] for a in shown["actions"]] == ["ack", "assign", "comment", "close", "reopen", "close"]
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


APPROVAL = """\
stores:
  - {id: ehr-main, categories: [personal_health], recognise: {addresses: [192.0.2.1]}}
approvals:
  - {id: backup, stores: [ehr-main], destination: {asns: [64500]}, basis: contract, approver: A. Person,
     cap: 1 GB, valid_from: 2024-01-01, valid_to: 2024-12-31}
"""


def test_approvals_are_listed_and_proposed(home: Path, place: Place) -> None:
    """One that ended is due; a sweep writes a file that no program takes for policy, and never over another."""
    (home / "policy.yaml").write_text(APPROVAL)
    with (home / "sekisho.yaml").open("a") as settings:
        settings.write(f"policy: [{home / 'policy.yaml'}]\n")
    now_ns = time.time_ns()
    day = now_ns // DAY_NS
    row = LedgerRow(
        *(day, "default", "ehr-main", "personal_health", "as:64501", 64501, "Example", "", "", "DE"),
        *("restic", "local", "ebpf", 1, 4040, 4, 40, 1, 4000, 0),
    )
    with place.open(DataClock(now_ns)) as state:
        state.commit(Commit(decision=Decision(ledger=(row,)), position="", now_ns=now_ns))

    def run(*words: str) -> Any:
        return sekisho("approvals", *words, home=home, state_dir=home)

    listed = json.loads(run("list", "--due", "--json").out)
    assert (listed["id"], listed["used_at_most"], listed["due"]) == ("backup", 0, ["ended"])
    swept = json.loads(run("sweep", "--json").out)
    assert [pair["entity"] for pair in swept["pairs"]] == ["as:64501"]
    written = Path(swept["file"])
    assert (written.parent, written.name.endswith(".yaml.proposed")) == (home, True)
    assert "cap: 6000" in written.read_text()
    again = run("sweep")
    assert (again.code, "is there already" in again.text) == (2, True)
    refused = run("sweep", "--output", str(home / "more.yaml"))
    assert (refused.code, (home / "more.yaml").exists()) == (2, False)
    for words in (("list",), ("sweep", "--dry-run")):
        said = run(*words)
        assert said.code == 0
        assert list(claims([(words[0], said.text)], assurances=True)) == []
