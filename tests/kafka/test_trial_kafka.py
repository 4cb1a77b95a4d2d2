"""Apache Kafka as ``make kafka-up`` starts it and ``make kafka-down`` ends it."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.places import ROOT
from tests.tools.program import sekisho

KAFKA = [sys.executable, "-m", "tests.tools.trial_kafka"]


@pytest.fixture
def port() -> int:
    """One that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """For its files; whatever a test leaves running is stopped."""
    yield tmp_path / "trial"
    trial("down", tmp_path / "trial")


def trial(what: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """As make calls it."""
    line = [*KAFKA, what, "--folder", str(folder), *more]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def listens(port: int) -> bool:
    """Whether somebody answers there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_it_runs_with_its_topics_until_it_is_ended(folder: Path, port: int, tmp_path: Path) -> None:
    """Up: every topic stands. Up again: refused. Down: port and files are gone. Down again: nothing to do."""
    begun = trial("up", folder, "--port", str(port))
    assert begun.returncode == 0, begun.stderr
    assert f"export SEKISHO_KAFKA__SERVERS=127.0.0.1:{port}" in begun.stdout
    looked = sekisho(f"--set=kafka.servers=127.0.0.1:{port}", "kafka", "check", home=tmp_path)
    assert (looked.code, re.findall(r"missing|is not there", looked.out)) == (0, []), looked.text
    again = trial("up", folder, "--port", str(port))
    assert (again.returncode, "runs already" in again.stderr) == (1, True)
    ended = trial("down", folder)
    assert (ended.returncode, ended.stdout) == (0, "stopped; its data is removed\n")
    assert (listens(port), folder.exists()) == (False, False)
    assert trial("down", folder).stdout == "no trial's Kafka was running\n"


def test_a_port_that_another_has_is_named(folder: Path) -> None:
    """Refused in one sentence that says how to choose another; nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = trial("up", folder, "--port", str(port))
    said = f"127.0.0.1:{port} is taken; choose another port: make kafka-up KAFKA_PORT=19092\n"
    assert (refused.returncode, refused.stderr) == (1, said)
    assert not folder.exists()


def test_make_calls_it(port: int) -> None:
    """What make would run is this program with this port."""
    for what, more in (("up", f" --port {port}"), ("down", "")):
        line = ["make", "-n", "-o", ".venv/.ready", f"kafka-{what}", f"KAFKA_PORT={port}"]
        said = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert said.strip() == f".venv/bin/python -m tests.tools.trial_kafka {what}{more}"
