"""Killed anywhere, restarted, nothing is lost and nothing is doubled."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agent.core import faults
from agent.core.faults import FAULT_POINTS
from agent.store import schema
from agent.store.flows import read_flows
from tests.tools.faults import SINKS, STEPS, run_archive, run_state, tables
from tests.tools.places import ROOT


def _points(prefix: str, passes: int, most: int) -> list[str]:
    """Each point of a part of the program at its first pass and at some that a seed chooses."""
    seeded = random.Random(prefix)
    return [
        f"{name}:{number}"
        for name in FAULT_POINTS
        if name.startswith(prefix)
        for number in [1, *sorted(seeded.sample(range(2, most + 1), passes))]
    ]


def _siege(kind: str, folder: Path, points: list[str]) -> dict[str, list[int]]:
    command = [sys.executable, "-m", "tests.tools.faults", "siege", kind, str(folder), *points]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_state_killed_at_any_fault_point_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    """kill -9 at every step of commit and delivery, then a restart, gives the tables of a run that was never killed."""
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    run_state(unbroken)
    expected = tables(unbroken / "state.db")
    keys = [row[1] for row in expected["notices"]]
    points = [*_points("commit.", 1, STEPS), *_points("outbox.", 1, len(keys))]
    ends = _siege("state", tmp_path, points)
    assert ends == {point: [9, 0] for point in points}
    for point in points:
        folder = tmp_path / point.replace(":", "-")
        assert tables(folder / "state.db") == expected, point
        for sink in SINKS:
            sent = Counter((folder / f"{sink}.txt").read_text().split())
            assert sorted(sent) == sorted(keys), point
            assert sorted(sent.values())[-2:] in ([1, 1], [1, 2]), point


def test_an_archive_killed_at_any_fault_point_keeps_every_row_once(tmp_path: Path) -> None:
    """kill -9 at every step of archiving, then a restart, leaves each row in exactly one Parquet file.

    The batch that was being taken when the program died is handed over twice: it was journalled and not yet noted.
    """
    points = [*_points("archive.after_journal", 2, STEPS), *_points("archive.after_p", 1, 4)]
    points += [*_points("archive.after_r", 1, 4), *_points("archive.after_u", 1, 4)]
    ends = _siege("archive", tmp_path, points)
    assert ends == {point: [9, 0] for point in points}
    for point in points:
        folder = tmp_path / point.replace(":", "-") / "archive"
        rows = Counter(pid for batch in read_flows(folder, columns=["pid"]) for pid in batch["pid"].tolist())
        assert sorted(rows) == list(range(STEPS * 5)), point
        assert set(rows.values()) == {1}, point
        assert not list(folder.rglob(".*")), point


def test_an_unbroken_archive_keeps_every_row_once(tmp_path: Path) -> None:
    """Without a kill no row comes twice."""
    run_archive(tmp_path)
    rows = [pid for batch in read_flows(tmp_path / "archive") for pid in batch["pid"].tolist()]
    assert sorted(rows) == list(range(STEPS * 5))


def test_the_environment_arms_a_fault_point(tmp_path: Path) -> None:
    """SEKISHO_FAULTS kills a program that knows nothing of it, at the pass it names."""
    command = [sys.executable, "-m", "tests.tools.faults", "run", "state", str(tmp_path)]
    environment = {**os.environ, "SEKISHO_FAULTS": "commit.after_commit:3"}
    died = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False)
    assert died.returncode == -9
    assert tables(tmp_path / "state.db")["head"][0][1:3] == (schema.SCHEMA_VERSION, 3)


def test_an_unknown_fault_point_is_refused() -> None:
    """A name that is not listed is an error, both when armed and when passed."""
    with pytest.raises(ValueError, match="no fault point"):
        faults.arm("commit.nowhere")
    faults.arm("commit.after_fence:99")
    try:
        with pytest.raises(ValueError, match="missing in FAULT_POINTS"):
            faults.faultpoint("commit.nowhere")
    finally:
        faults.arm("")
