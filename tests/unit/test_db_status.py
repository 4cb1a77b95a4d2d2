"""`db status`: all that is answered from, installed or named in the settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent import databases
from agent.core.clock import DataClock
from enrichers.geo import Settings
from tests.tools.program import sekisho

LIST = "# name: tor-exits\n# date: 2026-11-20\n# source: a project\n# licence: CC0\n192.0.2.1\n"
NOW_NS = 1_795_219_200 * 10**9  # 2026-11-21


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings that name a list, a broken list and provider ranges, none of them installed."""
    (tmp_path / "exits.txt").write_text(LIST)
    (tmp_path / "broken.txt.gz").write_bytes(b"\x1f\x8bbroken")
    (tmp_path / "ranges.csv").write_text("# name: own\ncidr,provider\n192.0.2.0/24,aws\n")
    path = tmp_path / "sekisho.yaml"
    path.write_text(
        "enrichers:\n  geo:\n    providers: ranges.csv\n    lists:\n"
        "      - {file: exits.txt, flags: [tor]}\n      - {file: broken.txt.gz, name: broken}\n"
    )
    return path


def test_lists_of_the_settings_stand_beside_what_is_installed(tmp_path: Path, settings: Path) -> None:
    """Version, age, hash, source and licence of each; a fault of one hides none of the others."""
    outcome = sekisho("-c", settings, "db", "status", "--json", home=tmp_path)
    rows = {row["name"]: row for row in json.loads(outcome.out)}
    assert (outcome.code, sorted(rows)) == (1, ["broken", "own", "tor-exits"])
    exits = rows["tor-exits"]
    assert (exits["kind"], exits["version"], exits["source"], exits["licence"]) == (
        "list", "2026-11-20", "a project", "CC0",
    )  # fmt: skip
    assert (exits["named_in"], exits["installed_ns"], exits["sha256_ok"], exits["fault"]) == (
        "settings", None, None, "",
    )  # fmt: skip
    assert (rows["own"]["kind"], rows["own"]["version"]) == ("providers", "undated")
    assert "its gzip is broken" in rows["broken"]["fault"]
    text = sekisho("-c", settings, "db", "status", home=tmp_path)
    for said in (
        "tor-exits",
        "2026-11-20",
        exits["sha256"][:12],
        "its gzip is broken",
        "no database is installed",
    ):
        assert said in text.out


def test_age_and_lineage(tmp_path: Path) -> None:
    """Whole days since it was built; the lineage that the settings declare wins over the one on record."""
    (tmp_path / "exits.txt").write_text(LIST)
    given = Settings.model_validate(
        {"lists": [{"file": tmp_path / "exits.txt"}], "country": tmp_path / "none.mmdb"}
    )
    rows = {
        row.kind: row for row in databases.in_force(tmp_path / "databases", given, clock=DataClock(NOW_NS))
    }
    assert (rows["list"].age_days, rows["list"].lineage) == (1, None)
    assert "none.mmdb" in rows["country"].fault


@pytest.mark.geodata
def test_installed_ones_have_their_lineage(tmp_path: Path) -> None:
    """The default's databases are on record as DB-IP's; the settings may declare another."""
    from tests.tools.places import DATABASES

    assert DATABASES is not None
    rows = {row.kind: row for row in databases.in_force(DATABASES, None)}
    assert (rows["country"].lineage, rows["country"].named_in, rows["country"].sha256_ok) == (
        "DB-IP",
        "installed",
        True,
    )
    told = Settings.model_validate({"lineages": {"country": "ours"}})
    assert {row.kind: row for row in databases.in_force(DATABASES, told)}["country"].lineage == "ours"
