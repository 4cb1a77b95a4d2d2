"""Ctrl-C at any moment of a replay: it ends in order, leaves nothing half-written, and the next one goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent.cli import cli, main
from tests.tools.captures import classic
from tests.tools.program import (
    SECONDS,
    Outcome,
    command,
    environment,
    fit_to_be_seen,
    sekisho,
)
from tests.tools.truth import write_pcap

POLICY = "stores: [{id: ehr, categories: [personal_health], recognise: {addresses: [10.0.0.0/16]}}]\n"


def start(folder: Path, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    """A replay that runs."""
    line = command("replay", "--json", *arguments, state_dir=folder / "state")
    return subprocess.Popen(
        line, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
    )


def ended(running: subprocess.Popen[bytes]) -> Outcome:
    """How it ended."""
    out, err = running.communicate(timeout=SECONDS)
    outcome = Outcome(running.returncode, out.decode(), err.decode())
    fit_to_be_seen(outcome)
    return outcome


def archived(folder: Path, state: str) -> str:
    """What the archive holds, by store."""
    return sekisho(
        "flows",
        "--since",
        "2000-01-01",
        "--archive",
        f"{state}/archive",
        "--by",
        "store",
        "--json",
        home=folder,
    ).out


def test_a_replay_interrupted_again_and_again_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    """SIGINT at four moments, sometimes twice: 130 or done, no temporary file, and at last the same archive and cases."""
    write_pcap(tmp_path / "big.pcap", packets=300_000, sessions=20_000)
    (tmp_path / "policy.yaml").write_text(POLICY)
    begun = time.monotonic()
    whole = ended(start(tmp_path, "--policy", "policy.yaml", "--state", "whole", "big.pcap"))
    took = time.monotonic() - begun
    seeded = random.Random(os.environ.get("TESTS_SEED", "7"))
    for moment in range(4):
        running = start(tmp_path, "--policy", "policy.yaml", "--state", "broken", "big.pcap")
        time.sleep(0.15 + (took - 0.15) * (moment + seeded.random()) / 4)
        running.send_signal(signal.SIGINT)
        if moment % 2:
            time.sleep(seeded.random() / 10)
            running.send_signal(signal.SIGINT)
        outcome = ended(running)
        assert outcome.code in (0, 130, -signal.SIGINT), outcome.text
        left = [file.name for file in (tmp_path / "broken").rglob("*.tmp")]
        assert outcome.code == -signal.SIGINT or left == []
    last = ended(start(tmp_path, "--policy", "policy.yaml", "--state", "broken", "big.pcap"))
    assert (whole.code, last.code) == (0, 0)
    assert archived(tmp_path, "broken") == archived(tmp_path, "whole") != ""
    assert json.loads(last.out)["cases"] == json.loads(whole.out)["cases"]
    assert list((tmp_path / "broken").rglob("*.tmp")) == []


@pytest.mark.parametrize("source", ["fifo", "-"])
def test_a_pipe_that_nobody_writes_to_is_left_at_the_first_ctrl_c(tmp_path: Path, source: str) -> None:
    """Waiting for a named pipe, or for standard input after half a record, ends in order at the first signal."""
    os.mkfifo(tmp_path / "fifo")
    reader, writer = os.pipe()
    os.write(writer, classic([bytes(60)])[:50])
    running = start(tmp_path, source, stdin=reader)
    os.close(reader)
    assert running.stderr
    in_vain = threading.Timer(SECONDS, running.kill)
    in_vain.start()
    # Said just before the collectors start: there are no databases here.
    assert any(b"database_missing" in line for line in running.stderr)
    running.send_signal(signal.SIGINT)
    outcome = ended(running)
    in_vain.cancel()
    os.close(writer)
    assert (outcome.code, json.loads(outcome.out)["complete"]) == (130, False), outcome.text


def test_an_interrupt_wrapped_by_whoever_it_hit_is_still_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while a class is being made arrives as a RuntimeError caused by it: exit code 130, not a defect."""

    def invoke(*_args: Any, **_more: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("Error calling __set_name__") from error

    monkeypatch.setattr(cli, "main", invoke)
    with pytest.raises(SystemExit) as ended_with:
        main([])
    assert (ended_with.value.code, capsys.readouterr().err) == (130, "sekisho: interrupted\n")


def test_an_interrupt_before_the_program_is_loaded_shows_no_traceback(tmp_path: Path) -> None:
    """Ctrl-C while the command loads what it is made of: it ends as by that signal, without a word."""
    code = "import os, signal, sys\nclass Watch:\n  def find_spec(self, name, *rest):\n"
    code += "    if name == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
    code += "sys.meta_path.insert(0, Watch())\nimport agent.start\nagent.start.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_while_a_library_loads_is_said_without_it(tmp_path: Path) -> None:
    """Ctrl-C in the middle of loading yaml leaves half of it behind: what is said then needs no other half."""
    half = "import sys, types; sys.modules['yaml'] = types.ModuleType('yaml')\n"
    half += "import agent.cli as c\ndef stop(**_): raise KeyboardInterrupt\nc.cli.main = stop; c.main()"
    done = subprocess.run(
        [sys.executable, "-c", half], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "sekisho: interrupted\n")


def test_an_interrupt_in_made_up_code_ends_with_130_too(tmp_path: Path) -> None:
    """Ctrl-C that hits code which a library made up and runs, as every dataclass does: 130, never a death by signal."""
    made_up = "import agent.cli as c; c.cli.main = lambda **_: exec('raise KeyboardInterrupt'); c.main()"
    done = subprocess.run(
        [sys.executable, "-c", made_up],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "sekisho: interrupted\n")
