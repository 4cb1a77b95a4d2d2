"""The whole road of ``sekisho replay`` as a process, beside softflowd and tcpdump in the same run.

    python -m tests.bench.bench_replay [PACKETS] [SESSIONS] [REPEATS]      # 2000000 25000 3

CPU seconds (user + system) and most memory of whole processes, start of the interpreter included, the sides taking turns; medians. Ours
does all of it: flows, places and owners, stores, sealing, windows, ledger in SQLite, view; with ``--state`` also the
Parquet archive. The peers read the same capture: softflowd makes flows, tcpdump only copies packets. Ours is checked
against the generator's truth. Databases are read where ``make test`` installed them.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.tools.places import DATABASES, ROOT
from tests.tools.truth import LOCAL, Truth

POLICY = """
version: 1
stores:
  - {id: bench, categories: [personal_health], recognise: {addresses: [10.0.0.0/11]}}
"""
"""A quarter or so of the sessions are a store's."""


def measure(command: Sequence[str], folder: Path) -> tuple[float, int, str]:
    """(CPU seconds, MiB at most, standard output) of a process."""
    out = folder / "out"
    with out.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL, cwd=folder)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss >> 10, out.read_text(errors="replace")


def make(file: Path, packets: int, sessions: int) -> Truth:
    """The capture, made by a process of its own: a child's most memory counts that of its parent at the fork."""
    command = [sys.executable, "-m", "tests.tools.truth", str(file), str(packets), str(sessions)]
    return Truth(**json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout))


def check(out: str, truth: Truth) -> None:
    """What ours says against what is true."""
    account = json.loads(out)["account"]
    told = tuple(account["decided"][name] for name in ("flows", "octets_out", "octets_in"))
    if told != (truth.sessions, truth.octets_out, truth.octets_in):
        raise SystemExit(f"wrong: {told} instead of {truth}")


def main(packets: int = 2_000_000, sessions: int = 25_000, repeats: int = 3) -> None:
    """Make the capture, let the sides take turns, print medians and ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "bench.pcap"
        truth = make(file, packets, sessions)
        (folder / "policy.yaml").write_text(POLICY)
        if DATABASES is not None:
            shutil.copytree(DATABASES, folder / "home/databases")
        ours = [
            *(sys.executable, "-m", "agent.cli", "--state-dir", str(folder / "home"), "replay", str(file)),
            *(f"--local={network}" for network in LOCAL),
            f"--policy={folder / 'policy.yaml'}",
        ]
        sides = {
            "sekisho replay --quiet": [*ours, "--quiet"],
            "sekisho replay --state": [*ours, "--json", "--state", "{fresh}"],
            "softflowd -6": ["softflowd", "-6", "-d", "-m", "1000000", "-r", str(file)],
            "tcpdump -w": ["tcpdump", "-r", str(file), "-w", "/dev/null"],
        }
        sides = {side: command for side, command in sides.items() if shutil.which(command[0])}
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
        )
        took: dict[str, list[float]] = {side: [] for side in sides}
        memory: dict[str, int] = {}
        for turn in range(repeats):
            for side, command in sides.items():
                words = [word.replace("{fresh}", str(folder / f"state-{turn}")) for word in command]
                seconds, memory[side], out = measure(words, folder)
                took[side].append(seconds)
                if "--json" in command:
                    check(out, truth)
        tables = "with databases" if DATABASES is not None else "without databases"
        print(
            f"{packets} packets, {sessions} flows, {file.stat().st_size >> 20} MiB, {tables}; {repeats} runs; exact"
        )
        seconds_of = {side: statistics.median(seconds) for side, seconds in took.items()}
        for side, seconds in seconds_of.items():
            ratio = seconds / seconds_of["sekisho replay --quiet"]
            print(
                f"  {side:24s} {seconds:6.2f} s of CPU {packets / seconds / 1e6:7.2f} M packets/s {memory[side]:5d} MiB"
                f"   {ratio:5.2f} times the CPU of replay --quiet"
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
