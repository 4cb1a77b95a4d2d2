"""What every bench measures with: whole processes on one core, sides taking turns, medians of their CPU time."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.tools.places import ROOT

REPEATS = 5
CORE = max(os.sched_getaffinity(0))
ENVIRONMENT: Mapping[str, str] = {
    **{name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ},
    "LC_ALL": "C.UTF-8",
    # First-touch memory is dear on virtual machines: without these a run's time says more of the allocator than of
    # the program. The same for every side.
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 26),
    "PYTHONPATH": str(ROOT),
    "PYTHONPYCACHEPREFIX": str(ROOT / ".cache/bench/bytecode"),
}
"""Of every side. An installed program has its bytecode at hand, so ours has too, from the second run on."""
_SAMPLE_S = 0.01


@dataclass(frozen=True, slots=True)
class Used:
    """What one process and its children took."""

    seconds: float
    """CPU, user and system."""
    anonymous_mib: float
    """Most anonymous memory of the process and its children that was seen, looking every 10 ms."""
    out: str
    """Standard output and standard error."""


@dataclass(frozen=True, slots=True)
class Side:
    """One program of a comparison."""

    name: str
    command: Sequence[str]
    """``{fresh}`` stands for a new folder in each run."""
    check: Callable[[Used, Path], str] = lambda _used, _fresh: ""
    """What is wrong with a run's result, in words; empty if it is exact."""
    settings: str = ""
    """Version and how it was called, for the table."""


@dataclass(slots=True)
class Took:
    """All runs of a side."""

    side: Side
    seconds: list[float] = field(default_factory=list)
    anonymous_mib: float = 0.0
    wrong: str = ""

    @property
    def median(self) -> float:
        """Median of CPU seconds."""
        return statistics.median(self.seconds)


def once(command: Sequence[str], folder: Path) -> Used:
    """Run a process on the bench's core to its end. Raises ``SystemExit`` if it fails."""
    said = folder / "said"
    with said.open("wb") as file:
        process = subprocess.Popen(
            ["taskset", "-c", str(CORE), *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(ENVIRONMENT),
        )
        ended = threading.Event()
        seen = [0]
        watcher = threading.Thread(target=_watch, args=(process.pid, ended, seen))
        watcher.start()
        _, status, used = os.wait4(process.pid, 0)
        ended.set()
        watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    out = said.read_text(errors="replace")
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} ended with {process.returncode}:\n{out[-2000:]}")
    return Used(used.ru_utime + used.ru_stime, seen[0] / 1024, out)


def _watch(pid: int, ended: threading.Event, seen: list[int]) -> None:
    while not ended.wait(_SAMPLE_S):
        seen[0] = max(seen[0], _anonymous_kib(pid))


def _anonymous_kib(pid: int) -> int:
    """Of a process and all that it started; 0 of one that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    mine = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")]
    return sum(mine) + sum(_anonymous_kib(int(child)) for child in children)


def in_turns(sides: Sequence[Side], folder: Path, repeats: int = REPEATS) -> dict[str, Took]:
    """Every side ``repeats`` times, taking turns; results are checked in every run."""
    took = {side.name: Took(side) for side in sides}
    for turn in range(repeats):
        for side in sides:
            fresh = folder / f"{side.name.replace(' ', '-').replace('/', '-')}-{turn}"
            fresh.mkdir(parents=True)
            used = once([word.replace("{fresh}", str(fresh)) for word in side.command], fresh)
            entry = took[side.name]
            entry.seconds.append(used.seconds)
            entry.anonymous_mib = max(entry.anonymous_mib, used.anonymous_mib)
            entry.wrong = side.check(used, fresh) or entry.wrong
            print(f"    {side.name:22s} {used.seconds:7.2f} s {entry.wrong}", file=sys.stderr, flush=True)
    return took
