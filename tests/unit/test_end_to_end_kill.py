"""A whole replay, killed anywhere: what it leaves behind is what an unbroken one leaves behind."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.core.faults import FAULT_POINTS
from agent.core.finding import Notice
from agent.store.flows import read_flows
from tests.tools import spine
from tests.tools.places import ROOT
from tests.tools.siege import BATCH_ROWS, left_behind

HOURS = 2.5
FLOWS_A_MINUTE = 14
PASSES = {"commit": 14, "outbox": 6, "archive.after_journal": 20, "archive": 2}
"""Up to which pass a point of that kind is killed at; an unbroken run has more of each."""
WORKERS = 2
POINTS = [
    point
    for point in FAULT_POINTS
    if not point.startswith(("ebpf.", "spool.", "send.", "detect.", "copy.", "republish.", "coverage."))
]
"""Those that a replay passes."""


@dataclass(frozen=True)
class Place:
    """Where replays of one capture run."""

    folder: Path

    def arguments(self, name: str) -> list[str]:
        """The command line of the replay whose state is in ``name``."""
        sets = {
            "commit_rows": "1",
            "sinks.jsonl.file": str(self.folder / f"{name}.jsonl"),
            "sinks.jsonl.flows": "false",
        }
        return [
            f"--state-dir={self.folder / 'home'}",
            *(f"--set={key}={value}" for key, value in sets.items()),
            "replay",
            "--send",
            str(self.folder / "day.pcap"),
            f"--policy={self.folder / 'policy.yaml'}",
            f"--overrides={self.folder / 'overrides.yaml'}",
            f"--state={self.folder / name}",
            "--quiet",
        ]

    def lay(self, sieges: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
        """Run sieges, name -> kills, some at a time; how the children of each ended."""
        names = [part for n in range(WORKERS) if (part := list(sieges)[n::WORKERS])]
        plans = [[{"arguments": self.arguments(n), "kills": sieges[n]} for n in part] for part in names]
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.tools.siege"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            for _ in plans
        ]
        for process, plan in zip(running, plans, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(plan).encode())
            process.stdin.close()
        ends: dict[str, list[int]] = {}
        for process, part in zip(running, names, strict=True):
            assert process.stdout is not None
            with process.stdout as out:
                ends.update(zip(part, json.loads(out.read()), strict=True))
            assert process.wait(timeout=100) == 0
        return ends

    def left(self, name: str) -> dict[str, Any]:
        """What a replay left in its state, its archive and its sink."""
        lines = (self.folder / f"{name}.jsonl").read_text().splitlines()
        told = [Notice.model_validate({k: v for k, v in json.loads(line).items() if k not in ("record", "id")}) for line in lines]  # fmt: skip
        rows = [row for batch in read_flows(self.folder / name / "archive") for row in batch.rows()]
        return {
            **left_behind(self.folder / name / "state.db"),
            "archive": sorted(map(repr, rows)),
            "told": sorted({(n.id, n.kind.value) for n in told}),
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A capture with jitter that passes midnight, its policy, and the unbroken replay of it in ``unbroken``."""
    made = Place(tmp_path_factory.mktemp("siege"))
    spine.write_policy(made.folder)
    transfers = spine.day(HOURS, FLOWS_A_MINUTE)
    (made.folder / "day.pcap").write_bytes(spine.capture(transfers, jitter_s=1.5))
    assert made.lay({"unbroken": []}) == {"unbroken": [0]}
    return made


def _passes(point: str) -> int:
    return PASSES.get(point, PASSES[point.partition(".")[0]])


def test_the_unbroken_replay_has_something_to_lose(place: Place) -> None:
    """The data passes every rule, for several stores and owners, in many commits."""
    left = place.left("unbroken")
    bodies = [json.loads(row[-1]) for row in left["findings"]]
    assert {b["rule"] for b in bodies} == {"burst", "hourly", "bulk-external", "bulk-restricted-owner"}
    assert {b["store"] for b in bodies} == set(spine.STORES)
    assert len({b["entity"] for b in bodies}) >= 3
    assert {b["state"] for b in bodies} == {"open", "closed"}
    assert len(left["cases"]) >= 3
    assert len(left["archive"]) > 2000
    assert {(key.partition(":")[0]) for key, _ in left["notices"]} == {id_ for id_, _ in left["told"]}


def test_a_replay_killed_at_any_fault_point_ends_as_an_unbroken_one(place: Place) -> None:
    """kill -9 at every point of commit, outbox and archive, at a pass that a seed chooses."""
    seeded = random.Random(2)
    sieges = {point: [f"{point}:{seeded.randint(1, _passes(point))}"] for point in POINTS}
    assert place.lay(sieges) == {point: [-9, 0] for point in POINTS}
    unbroken = place.left("unbroken")
    for point in POINTS:
        assert place.left(point) == unbroken, sieges[point]


def test_a_replay_killed_at_any_time_ends_as_an_unbroken_one(place: Place) -> None:
    """Ended by a timer at times that a seed chooses, again and again, then left to itself."""
    seeded = random.Random(3)
    sieges = {f"time-{n}": [f"{seeded.uniform(0.02, 0.6):.3f}" for _ in range(5)] for n in range(2)}
    ends = place.lay(sieges)
    assert {end[-1] for end in ends.values()} == {0}
    assert {e for end in ends.values() for e in end[:-1]} >= {-14}
    unbroken = place.left("unbroken")
    for name in sieges:
        assert place.left(name) == unbroken, sieges[name]


def test_a_replay_of_the_same_file_again_changes_nothing(place: Place) -> None:
    """The second run counts all of it as known already, whatever the file is called."""
    before = place.left("unbroken")
    copy = place.folder / "copy.pcap"
    copy.write_bytes((place.folder / "day.pcap").read_bytes())
    arguments = [str(copy) if a.endswith("day.pcap") else a for a in place.arguments("unbroken")]
    program = f"from agent import cli, pipeline, seal; seal.MAX_ROWS = pipeline.GATHER_ROWS = {BATCH_ROWS}; cli.main()"
    again = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "octets were already known from an earlier replay" in again.stdout
    assert place.left("unbroken") == before
