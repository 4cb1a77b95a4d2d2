"""The command line from capture to answer: the bundled sample, its archive, several files, stopping."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.cli import main
from tests.tools import spine
from tests.tools.places import ROOT

NOTHING = {"flows": 0, "octets_out": 0, "octets_in": 0}
SAMPLE = Path(str(resources.files("agent"))) / "sample"


def _sekisho(*arguments: str | Path, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == code


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which no settings lie, and a state folder of its own. Logs are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEKISHO_STATE_DIR", str(tmp_path / "home"))
    yield tmp_path
    structlog.reset_defaults()


def test_the_sample_is_one_case_and_its_account_is_whole(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`replay --sample --json`: one case of high severity; captured equals decided, nothing is unexplained."""
    _sekisho("replay", "--sample", "--json")
    told = json.loads(capsys.readouterr().out)
    (case,) = told["cases"]
    assert (case["severity"], case["state"], case["destination"]["owner"]["owner"]) == (4, "open", "example-holdings")  # fmt: skip
    account = told["account"]
    assert account["captured"] == account["decided"] != NOTHING
    assert account["residue"] == account["sealed residue"] == account["in memory"] == NOTHING
    assert (account["lost_frames"], told["complete"], told["faults"]) == ({}, True, {})
    assert [p.name for p in (home / "home").iterdir()] == ["agent-id"]


def test_the_archive_of_a_replay_holds_what_the_account_says(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`replay --state` archives in that folder and not in that of `up`; `flows` sums to the octets of the account."""
    arguments = [
        SAMPLE / "sample.pcap.gz",
        f"--policy={SAMPLE / 'policy.yaml'}",
        f"--overrides={SAMPLE / 'overrides.yaml'}",
        "--host=db-01",
    ]
    _sekisho("replay", *arguments, "--state=kept", "--json")
    account = json.loads(capsys.readouterr().out)["account"]
    for _ in range(2):
        _sekisho(
            "flows",
            "--archive=kept/archive",
            "--since=2026-11-20",
            "--until=2026-11-23",
            "--by=owner",
            "--json",
        )
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        sums = {name: sum(row[name] for row in rows) for name in NOTHING}
        assert sums == account["captured"]
        _sekisho("replay", *arguments, "--state=kept", "--quiet")
        capsys.readouterr()
    assert not (home / "home/archive").exists()


def _findings(home: Path, capsys: pytest.CaptureFixture[str], *files: Path) -> set[tuple[Any, ...]]:
    _sekisho(
        "replay",
        *files,
        f"--policy={home / 'policy.yaml'}",
        f"--overrides={home / 'overrides.yaml'}",
        "--json",
    )
    cases = json.loads(capsys.readouterr().out)["cases"]
    names = ("id", "rule", "store", "entity", "first_bucket_ns", "last_bucket_ns", "content_octets_out")
    return {tuple(f[name] for name in names) for case in cases for f in case["findings"]}


def test_captures_of_the_same_hours_are_one_stream(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that overlap in time find together what they find alone, in whatever order they are named."""
    spine.write_policy(home)
    transfers = spine.day(1.5, 6, seed=5)
    alone = set()
    files = []
    for number, local in enumerate(spine.STORES.values()):
        part = [replace(t, start_s=t.start_s + 300 * number) for t in transfers if t.local == local]
        part.append(spine.Transfer(local, "192.0.2.1", 9000.0, 1.0, 10))  # all end at one time
        files.append(home / f"{number}.pcap")
        files[-1].write_bytes(spine.capture(part))
        alone |= _findings(home, capsys, files[-1])
    assert len({store for _, _, store, *_ in alone}) == 3
    for order in (files, files[::-1]):
        assert _findings(home, capsys, *order) == alone


def test_one_state_takes_one_view_of_a_capture(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same capture under another policy would count twice in one state: refused, with what to do."""
    policy, overrides = spine.write_policy(home)
    capture = home / "a.pcap"
    capture.write_bytes(spine.capture(spine.day(0.2, 5)))
    arguments = [
        "replay",
        capture,
        f"--policy={policy}",
        f"--overrides={overrides}",
        "--state=kept",
        "--quiet",
    ]
    _sekisho(*arguments)
    policy.write_text(policy.read_text().replace("over: 8 MB", "over: 9 MB"))
    capsys.readouterr()
    _sekisho(*arguments, code=1)
    said = capsys.readouterr().err
    assert "kept: holds a replay of the same files under another policy" in said
    assert "name another folder with --state" in said


def test_an_interrupted_replay_says_so_and_goes_on(home: Path) -> None:
    """Ctrl-C while data still comes: exit code 130, nothing half decided; the next run of that state takes it up."""
    policy, overrides = spine.write_policy(home)
    octets = spine.capture(spine.day(1, 10))
    pipe = home / "pipe"
    os.mkfifo(pipe)
    program = [sys.executable, "-m", "agent.cli", "replay", "pipe", f"--policy={policy}"]
    with subprocess.Popen(
        [*program, f"--overrides={overrides}", "--state=kept", "--json"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        with contextlib.suppress(BrokenPipeError), pipe.open("wb") as writer:
            writer.write(octets[: len(octets) // 2])
            writer.flush()
            running.send_signal(signal.SIGINT)
            writer.write(octets[len(octets) // 2 :])
        out, err = running.communicate(timeout=60)
    told = json.loads(out)
    assert (running.returncode, told["complete"], told["cases"]) == (130, False, []), err
    assert told["account"]["residue"] == NOTHING
    assert told["account"]["decided"] == NOTHING


def test_a_replay_sends_to_the_sinks_of_the_settings_only_when_asked(tmp_path: Path) -> None:
    """Old traffic pages nobody: a sink of the settings hears of the case with --send alone."""
    told = tmp_path / "told.jsonl"
    base = [
        sys.executable,
        "-m",
        "agent.cli",
        "--state-dir",
        str(tmp_path / "s"),
        "--set",
        f"sinks.jsonl.file={told}",
    ]
    heard = []
    folder = resources.files("agent") / "sample"
    files = [
        "--policy",
        f"{folder}/policy.yaml",
        "--overrides",
        f"{folder}/overrides.yaml",
        "--host",
        "db-01",
    ]
    for flags in ([], ["--send"]):
        command = [*base, "replay", "--quiet", *flags, *files, f"{folder}/sample.pcap.gz"]
        subprocess.run(command, capture_output=True, check=True)
        heard.append(told.is_file() and '"opened"' in told.read_text())
    assert heard == [False, True]
