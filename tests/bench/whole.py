"""The whole program at a steady 1,000 flows a second: eBPF capture, enrichment with every table, decisions, archive."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.charged import Charged
from tests.bench.loads import Loads
from tests.bench.rivals import Place
from tests.capture.tiers import EBPF, hindrance
from tests.tools.netns import Pair, wait_for
from tests.tools.places import ROOT

PER_SECOND = 1_000
SECONDS = 60
_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Whole:
    """What it cost in the minute."""

    flows_a_second: float
    idle_share: float
    """Of a core, with no flows at all."""
    share: float
    """Of a core, at that many flows; user and system."""
    kernel_share: float
    """System's part of that."""
    rss_mib: float
    pss_mib: float
    charged_mib: float | None
    tables: str
    """Which country and network databases were loaded."""


def whole(two: Pair, folder: Path, core: int, load: Loads) -> Whole | None:
    """Measure it; None where eBPF cannot run."""
    if hindrance("ebpf"):
        return None
    state = folder / "state"
    state.mkdir()
    tables = _databases(state)
    with EBPF.around(), contextlib.closing(Charged("program")) as charged:
        settings = folder / "sekisho.yaml"
        settings.write_text(json.dumps(_settings(load)))
        line = (
            sys.executable,
            "-m",
            "agent.cli",
            "-c",
            str(settings),
            "--state-dir",
            str(state),
            "up",
            "--plain",
        )
        with _running(
            Place(two.host, folder, core, charged, load.watched).line(*line), folder / "program.log"
        ):
            idle, began = charged.cpu(), time.monotonic()
            time.sleep(SECONDS / 3)
            idle = charged.cpu() - idle
            idle_s = time.monotonic() - began
            busy, began = charged.cpu(), time.monotonic()
            flows = load.churn_at(PER_SECOND, SECONDS)
            busy = charged.cpu() - busy
            busy_s = time.monotonic() - began
            rss_mib, pss_mib = charged.resident_mib()
            return Whole(
                flows / busy_s, idle.whole_s / idle_s, busy.whole_s / busy_s, busy.kernel_share,
                rss_mib, pss_mib, charged.memory_mib(), tables,
            )  # fmt: skip


def _settings(load: Loads) -> dict[str, object]:
    pins = str(EBPF.settings["pin_dir"])
    return {
        "host": "db-01",
        "policy": [str(ROOT / "deploy/examples/policy.yaml")],
        "archive": True,
        "collectors": {"ebpf": {"cgroup": str(load.watched.folder), "pin_dir": pins}},
    }


def _databases(state: Path) -> str:
    """Lay the installed databases where the program looks, installing them once; what came of it."""
    cache = ROOT / ".cache"
    line = (sys.executable, "-m", "agent.cli", "--state-dir", str(cache), "db", "install", "--if-missing")
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or not (cache / "databases").is_dir():
        return "none, for they could not be installed"
    (state / "databases").symlink_to(cache / "databases")
    return "country and network"


@contextlib.contextmanager
def _running(line: list[str], log: Path) -> Iterator[None]:
    """The program, from when it captures."""
    with log.open("w") as file:
        process = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        wait_for(
            lambda: process.poll() is not None or "capture_started" in log.read_text(),
            "the program",
            _START_S,
        )
        if process.poll() is not None:
            raise RuntimeError(f"the program ended: {log.read_text()}")
        yield
    finally:
        process.terminate()
        process.wait(60)
