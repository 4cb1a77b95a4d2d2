"""``sekisho policy backtest``: two policies over the archive, and what the archive does not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli.documents import DOCUMENTS
from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS
from agent.policy.ownership import Ownership
from agent.rehearsal import archived, backtest
from tests.tools.archived import file_away
from tests.tools.policy_files import in_git
from tests.tools.program import Outcome, sekisho
from tests.tools.recount import Asked, Sent
from tests.tools.transfers import MB, T0, policy, rule_of, sent, store

DAY = T0 // DAY_NS * DAY_NS
POLICY = """\
stores:
  - {id: ehr, categories: [personal_health], recognise: {hosts: [%s]}}
rules:
  - {id: mine, over: %s, window: 1h, severity: %s}
  - {id: bulk-external, enabled: false}
"""
RULES = (Asked("hour", "1h", 20 * MB, HOUR_NS), Asked("month", "30d", 100 * MB, DAY_NS))
SPAN = ("--since", "2025-11-20T00:00Z", "--until", "2025-11-25T00:00Z", "--warm-up", "1h")


def rows() -> list[Sent]:
    """30 MB on 21 November and 90 MB on the 23rd, and a row an hour on both days."""
    found = [
        Sent("ehr", 64501, end, end, 1000)
        for day in (0, 2)
        for end in range(DAY + day * DAY_NS + MINUTE_NS, DAY + (day + 1) * DAY_NS, HOUR_NS)
    ]
    for begin, octets in ((T0, 10 * MB), (T0 + 2 * DAY_NS, 30 * MB)):
        found += [
            Sent("ehr", 64500, begin + n * MINUTE_NS, begin + (n + 1) * MINUTE_NS, octets) for n in range(3)
        ]
    return sorted(found, key=lambda row: row.end_ns)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Settings, a policy at 50 MB, another at 20 MB in new.yaml, and an archive with a day missing."""
    (tmp_path / "sekisho.yaml").write_text("host: db-1\npolicy: [policy.yaml]\ntime_zone: UTC\n")
    (tmp_path / "policy.yaml").write_text(POLICY % ("a", "50 MB", "medium"))
    (tmp_path / "new.yaml").write_text(POLICY % ("a", "20 MB", "high"))
    (tmp_path / "other.yaml").write_text(POLICY % ("db-2", "20 MB", "high"))
    file_away(tmp_path / "state" / "archive", [sent(rows())])
    return tmp_path


def backtest_of(home: Path, *words: str, **more: Any) -> Outcome:
    return sekisho("policy", "backtest", *SPAN, *words, home=home, state_dir=home / "state", **more)


def test_what_appears_what_changes_and_what_was_not_observed(home: Path) -> None:
    """A lower threshold finds the smaller transfer too; the days that the archive lacks are named."""
    told = json.loads(backtest_of(home, "--to", "new.yaml", "--json").out)
    assert set(told) == set(DOCUMENTS["policy backtest"].keys)
    assert [(f["rule"], f["entity"], f["content_octets_out"]) for f in told["appear"]] == [
        ("mine", "as:64500", 30 * MB)
    ]
    assert told["vanish"] == []
    assert [(c["old"]["severity"], c["new"]["severity"]) for c in told["changed"]] == [(3, 4)]
    assert told["old"]["cases"] == {"medium": 1}
    assert told["new"]["cases"] == {"high": 1}
    assert [day["day"] for day in told["new"]["days"]] == [
        "2025-11-21",
        "2025-11-22",
        "2025-11-23",
        "2025-11-24",
    ]
    assert sum(day["messages"] for day in told["new"]["days"]) == 4
    assert told["rows"] == told["rows_of_stores"] == len(rows())
    assert told["not_observed"] == [
        {"from_ns": DAY - DAY_NS, "until_ns": DAY},
        {"from_ns": DAY + DAY_NS, "until_ns": DAY + 2 * DAY_NS},
        {"from_ns": DAY + 3 * DAY_NS, "until_ns": DAY + 4 * DAY_NS},
    ]
    assert told["windows_cut"][-1] == {
        "rule": "operator/mine", "window": "1h", "whole_from_ns": DAY + HOUR_NS
    }  # fmt: skip


def test_the_screen_in_english(home: Path) -> None:
    """Each finding is a line; what was not observed is never told as nothing found; exit code 3 where asked for."""
    outcome = backtest_of(home, "--from", "new.yaml", "--to", "policy.yaml", "--exit-code")
    lines = outcome.out.splitlines()
    assert outcome.code == 3
    assert (
        "not observed: 2025-11-22 00:00:00 UTC to 2025-11-23 00:00:00 UTC: the archive holds no row of any host"
        in lines
    )
    assert [line for line in lines if line.startswith("vanishes")] == [
        "vanishes  high  2025-11-21 08:03:00 UTC  operator/mine: ehr to as:64500, 30 MB"
    ]
    assert [line for line in lines if line.startswith("changes")] == [
        "changes   high -> medium  2025-11-23 08:02:00 UTC  operator/mine: ehr to as:64500, 90 MB"
    ]
    assert lines[-2:] == [
        "0 appear, 1 vanish, 1 are in both",
        "Of what was not observed it says nothing, neither that there would be findings nor that there would be none.",
    ]


def test_the_screen_in_japanese_and_the_same_policy_twice(home: Path) -> None:
    """Nothing differs from itself; the words are those of the settings' language."""
    outcome = backtest_of(home, "--to", "policy.yaml", "--exit-code", env={"SEKISHO_LANGUAGE": "ja"})
    assert outcome.code == 0
    assert "新規 0 件、消滅 0 件、両方にあるもの 1 件" in outcome.out
    assert "未観測：" in outcome.out


def test_a_revision_is_a_policy(home: Path) -> None:
    """Both sides may be commits of the work tree that holds the policy."""
    in_git(home, "policy.yaml")
    outcome = backtest_of(home, "--from", "HEAD~1", "--to", "new.yaml")
    assert (outcome.code, "1 appear, 0 vanish, 1 are in both" in outcome.out) == (0, True), outcome.text


def test_stores_are_as_they_were_or_asked_anew(home: Path) -> None:
    """A policy that recognises stores elsewhere finds what rows say, and is told of it; or asks each row anew."""
    stored = json.loads(backtest_of(home, "--to", "other.yaml", "--json").out)
    assert (stored["stores_differ"], len(stored["appear"])) == (True, 1)
    anew = json.loads(
        backtest_of(
            home, "--to", "other.yaml", "--look-up", "today", "--json",
            env={"SEKISHO_ENRICHERS": '{"asset": {}}'},
        ).out
    )  # fmt: skip
    assert (anew["stores_differ"], anew["new"]["findings"]) == (False, 0)
    assert len(anew["vanish"]) == anew["old"]["findings"] == 1


def test_nothing_is_written(home: Path) -> None:
    """The state's folder holds the same octets before and after."""
    before = _octets(home / "state")
    assert backtest_of(home, "--to", "new.yaml").code == 0
    assert _octets(home / "state") == before


def _octets(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_an_archive_it_says_so(home: Path) -> None:
    """Another folder is refused with what to do, and is never taken for a quiet past."""
    outcome = backtest_of(home, "--to", "new.yaml", "--archive", str(home / "none"))
    assert (outcome.code, "there is no archive here" in outcome.err) == (1, True)


def test_pieces_of_a_day_give_what_the_whole_day_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the pieces that memory holds, findings and counts are the same."""
    file_away(tmp_path, [sent(rows()[::2]), sent(rows()[1::2])])
    asked = policy(*(rule_of(a) for a in RULES), stores=(store("ehr"),))

    def found() -> tuple[Any, ...]:
        side, held = backtest.Side(asked, Ownership.load()), archived.Held(DAY, DAY + 4 * DAY_NS)
        backtest.run(tmp_path, (side,), DAY, DAY + 4 * DAY_NS, held, lambda done, total: None)
        keys = sorted((f.id, f.content_octets_out, f.state) for f in side.findings.values())
        return keys, side.cases_by_day(), held.rows, held.missing()

    whole = found()
    monkeypatch.setattr(archived, "PIECE_OCTETS", 1)
    assert found() == whole
    assert len(whole[0]) == 3
