"""What a command does not load: each of these is a tenth of the start or more, and not needed there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tools import mmdb
from tests.tools.places import ROOT
from tests.tools.truth import write_pcap

LOADED = """
import sys
from agent.cli import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert not end.code, end.code
print(*[name for name in sys.argv[1].split(",") if name in sys.modules], file=sys.stderr)
"""
ALWAYS = ("structlog", "rich", "numpy.ma", "scapy", "pyarrow", "multiprocessing.pool")
HEAVY = ("numpy", "pydantic", "sqlalchemy", "yaml", "asyncio", "ssl", "maxminddb", "zstandard")


def loaded(folder: Path, names: tuple[str, ...], *command: str) -> list[str]:
    """Which of the modules a command has loaded once it ends."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADED, ",".join(names), *command],
        env=environment, cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize("command", [("--help",), ("replay", "--help"), ("--version",)])
def test_help_loads_nothing_heavy(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Help and version load neither numbers, models, databases nor what draws or logs."""
    assert loaded(tmp_path, ALWAYS + HEAVY, *command) == []


def test_a_replay_loads_neither_what_draws_nor_what_logs(tmp_path: Path) -> None:
    """A replay that has nothing to draw or to tell loads no rich, no structlog, no masked arrays and no Arrow."""
    write_pcap(tmp_path / "a.pcap", packets=100, sessions=10)
    databases = tmp_path / "home/databases"
    databases.mkdir(parents=True)
    mmdb.write(databases / "country.mmdb", mmdb.COUNTRIES, built_s=int(time.time()))
    mmdb.write(databases / "network.mmdb", mmdb.NETWORKS, built_s=int(time.time()))
    command = ("--state-dir", str(tmp_path / "home"), "replay", str(tmp_path / "a.pcap"), "--json")
    assert loaded(tmp_path, ALWAYS, *command) == []
