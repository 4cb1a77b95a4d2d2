"""JSON for programs: each command gives the keys that docs/cli.md promises, and nothing else on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli.documents import DOCUMENTS
from agent.core.flow import COLUMNS
from tests.tools.program import sekisho

SINCE = ("--since", "2026-11-01")
RUNS = {
    "check": ["check", "--json"],
    "db verify": ["db", "verify", "--json"],
    "replay": ["replay", "--sample", "--json"],
    "cases list": ["cases", "list", "--json"],
    "cases ack": ["cases", "ack", "2026", "--json"],
    "cases close": ["cases", "close", "2026", "--verdict", "expected", "--note", "a test", "--json"],
    "init": ["init", "--dir", "made", "--json"],
    "cases show": ["cases", "show", "2026", "--json"],
    "flows": ["flows", *SINCE, "--total", "--json"],
    "policy check": ["policy", "check", "--json"],
    "assets suggest": ["assets", "suggest", "--json"],
    "enrolment token": ["enrolment", "token", "--json"],
    "enrolment list": ["enrolment", "list", "--json"],
    "agent tripwire test": ["agent", "tripwire", "test", "--json"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the state that a replay of the sample leaves."""
    home = tmp_path_factory.mktemp("json")
    assert sekisho("replay", "--sample", "--state", home / "state", "--quiet", home=home).code == 0
    return home


@pytest.mark.parametrize("name", RUNS)
def test_keys_are_those_of_the_documentation(name: str, home: Path) -> None:
    """Not one key more or less than documented."""
    outcome = sekisho(*RUNS[name], home=home)
    told = json.loads(outcome.out)
    for document in told if isinstance(told, list) else [told]:
        assert set(document) == set(DOCUMENTS[name].keys)


def test_an_address_has_the_documented_keys(home: Path) -> None:
    """`who --json` holds at least the documented keys; a line for each address."""
    lines = sekisho("who", "--json", "192.0.2.1", "2001:db8::1", home=home).out.splitlines()
    assert [json.loads(line)["address"] for line in lines] == ["192.0.2.1", "2001:db8::1"]
    assert set(DOCUMENTS["who"].keys) <= set(json.loads(lines[0]))


def test_rows_have_the_columns_of_the_schema(home: Path) -> None:
    """`flows --json` gives every row of the archive with every column; --limit cuts."""
    lines = sekisho("flows", *SINCE, "--json", home=home).out.splitlines()
    assert [list(json.loads(line)) for line in lines] == [[c.name for c in COLUMNS]] * 4
    assert len(sekisho("flows", *SINCE, "--json", "--limit", "3", home=home).out.splitlines()) == 3


def test_settings_stand_under_their_names(home: Path) -> None:
    """`config show --json` is a flat document; --origin says where each value comes from."""
    plain = json.loads(sekisho("--set", "language=ja", "config", "show", "--json", home=home).out)
    origin = json.loads(
        sekisho("--set", "language=ja", "config", "show", "--json", "--origin", home=home).out
    )
    assert plain["language"] == "ja"
    assert origin["language"] == {"value": "ja", "origin": "--set language"}


def test_errors_stay_on_standard_error(tmp_path: Path) -> None:
    """A command that fails under --json prints no half document: standard output is empty, the exit code right."""
    for arguments in (
        ["cases", "list"],
        ["flows"],
        ["policy", "check", "none.yaml"],
        ["replay", "none.pcap"],
    ):
        outcome = sekisho(*arguments, "--json", home=tmp_path)
        assert outcome.code == 1, outcome.text
        assert outcome.said, outcome.text
        assert outcome.out == "" or json.loads(outcome.out)["faults"], outcome.out


def test_settings_of_init_leave_the_way_of_watching_to_the_host(tmp_path: Path) -> None:
    """`init` names no collector, for that would end the choosing of the best that runs."""
    assert sekisho("init", "--dir", "made", home=tmp_path).code == 0
    show = sekisho("-c", "made/sekisho.yaml", "config", "show", "--origin", "--json", home=tmp_path)
    origins = {name: row["origin"] for name, row in json.loads(show.out).items()}
    assert {origin for name, origin in origins.items() if name.startswith("collectors.")} == {"default"}
    assert origins["policy"].endswith("sekisho.yaml:5")
