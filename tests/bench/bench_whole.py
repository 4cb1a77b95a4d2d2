"""The whole program at a steady 1,000 flows a second: python -m tests.bench.bench_whole (root)

eBPF capture, enrichment with every table, decisions, archive. Writes its part of docs/capture-accuracy.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench import marked
from tests.bench.charged import Charged
from tests.bench.hosted import databases
from tests.bench.loads import Loads, loads
from tests.bench.rivals import Place
from tests.capture.leftovers import sweep
from tests.capture.tiers import EBPF, hindrance
from tests.tools import netns
from tests.tools.netns import Pair, wait_for
from tests.tools.places import ROOT

AGENT_CORE, LOAD_CORE = 0, 1
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
    highest_pss_mib: float
    highest_charged_mib: float | None
    """Memory is looked at every second: the median of the minute, and the most that was seen."""
    tables: str
    """Which country and network databases were loaded."""


def main() -> int:
    """Run, print, write."""
    if os.geteuid():
        print("left out: it needs root, for it makes network namespaces")
        return 0
    marked.end_in_order()
    sweep()
    with tempfile.TemporaryDirectory(prefix="sekisho-whole-") as name, netns.pair(offload=True) as two:
        folder = Path(name)
        with loads(two, folder, LOAD_CORE) as load:
            found = whole(two, folder, AGENT_CORE, load)
    if found is None:
        print("left out: no eBPF here")
        return 0
    text, kept = _page(found)
    marked.write("capture-accuracy.md", "bench_whole", text)
    print(text)
    return 0 if kept else 1


def whole(two: Pair, folder: Path, core: int, load: Loads) -> Whole | None:
    """Measure it; None where eBPF cannot run."""
    if hindrance("ebpf"):
        return None
    state = folder / "state"
    state.mkdir()
    tables = databases(state)
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
            with _memory(charged) as seen:
                flows = load.churn_at(PER_SECOND, SECONDS)
            busy = charged.cpu() - busy
            busy_s = time.monotonic() - began
            rss, pss, held = zip(*seen, strict=True)
            told = [mib for mib in held if mib is not None]
            return Whole(
                flows / busy_s, idle.whole_s / idle_s, busy.whole_s / busy_s, busy.kernel_share,
                median(rss), median(pss), median(told) if told else None,
                max(pss), max(told, default=None), tables,
            )  # fmt: skip


def _page(found: Whole) -> tuple[str, bool]:
    """The part of the page, and whether every bar is met."""
    heavy = max(found.pss_mib, found.charged_mib or 0)
    bars = (
        (f"{PER_SECOND:,} flows/s: at most 2 % of a core", f"{100 * found.share:.2f} %", found.share <= 0.02),
        ("PSS, and memory charged with both maps, median: at most 128 MiB", f"{heavy:.0f} MiB", heavy <= 128),
    )
    rows = (
        ("flows/s", f"{found.flows_a_second:,.0f}"),
        ("CPU, % of a core", f"{100 * found.share:.2f}, {found.kernel_share:.0%} of it in the kernel"),
        ("CPU with no flows, % of a core", f"{100 * found.idle_share:.2f}"),
        ("RSS, MiB", f"{found.rss_mib:.0f}"),
        ("PSS, MiB", f"{found.pss_mib:.0f}, at most {found.highest_pss_mib:.0f}"),
        (
            "charged with both maps, MiB",
            "not counted here"
            if found.charged_mib is None
            else f"{found.charged_mib:.0f}, at most {found.highest_charged_mib:.0f}",
        ),
        ("tables loaded", found.tables),
    )
    lines = [marked.where(), "", "| bar | measured |  |", "|---|---|---|"]
    lines += [f"| {bar} | {said} | {'met' if met else '**not met**'} |" for bar, said, met in bars]
    lines += ["", "| what |  |", "|---|---|"]
    lines += [f"| {what} | {said} |" for what, said in rows]
    return "\n".join(lines), all(met for _, _, met in bars)


@contextlib.contextmanager
def _memory(charged: Charged) -> Iterator[list[tuple[float, float, float | None]]]:
    """RSS, PSS and what is charged, once a second."""
    seen: list[tuple[float, float, float | None]] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append((*charged.resident_mib(), charged.memory_mib()))
            over.wait(1.0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _settings(load: Loads) -> dict[str, object]:
    pins = str(EBPF.settings["pin_dir"])
    return {
        "host": "db-01",
        "policy": [str(ROOT / "deploy/examples/policy.yaml")],
        "archive": True,
        "collectors": {"ebpf": {"cgroup": str(load.watched.folder), "pin_dir": pins}},
    }


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


if __name__ == "__main__":
    raise SystemExit(main())
