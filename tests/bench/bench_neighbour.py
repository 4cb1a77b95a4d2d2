"""What an agent's spool costs a database beside it: pgbench alone, and beside an agent that spools 5,000 rows a second

    python -m tests.bench neighbour [SECONDS [TURNS]]     # 60 s, 3 turns

PostgreSQL with fsync, TPC-B-like, scale 10, two clients, on the file system of the spool. `sekisho agent` as a process of its
own with rows that are known, four of five of a store; Kafka is away, so all of it stays in the spool. ``spool.sync`` takes
turns: never, seconds (the default), always. Needs PostgreSQL's programs with pgbench (Debian: postgresql).
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from agent.core.kafka import Connection
from tests.bench.page import SCALING, Report
from tests.tools import postgres
from tests.tools.fleet import Program, until
from tests.tools.plan import Plan
from tests.tools.postgres import Server
from tests.tools.road import Road

SECONDS: Final = 60
TURNS: Final = 3
ROWS: Final = 5_000
STEPS: Final = 10
"""A second."""
SCALE: Final = 10
CLIENTS: Final = 2
ALONE: Final = "alone"
SIDES: Final = {
    ALONE: "pgbench alone",
    "never": "beside an agent, `spool.sync: never`",
    "seconds": "beside an agent, `spool.sync: seconds` (the default)",
    "always": "beside an agent, `spool.sync: always`",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of pgbench."""

    tps: float
    mean_ms: float
    p99_ms: float
    rows: float
    """That the agent spooled meanwhile, a second."""
    agent_cpu: float
    """Of a core."""


FIGURES: Final[tuple[tuple[Callable[[Turn], float], str], ...]] = (
    (lambda turn: turn.tps, ""),
    (lambda turn: turn.mean_ms, " ms"),
    (lambda turn: turn.p99_ms, " ms"),
)


def main(arguments: Sequence[str] = ()) -> bool:
    """Measure, print, write the page."""
    seconds = int(arguments[0]) if arguments else SECONDS
    turns = int(arguments[1]) if len(arguments) > 1 else TURNS
    took: dict[str, list[Turn]] = {side: [] for side in SIDES}
    with (
        tempfile.TemporaryDirectory(prefix="sekisho-neighbour-") as name,
        postgres.serving(durable=True) as server,
    ):
        database = server.fresh()
        server.run("pgbench", "-i", "-q", "-s", str(SCALE), database)
        for turn in range(turns):
            for side in SIDES:
                took[side].append(_turn(server, database, Path(name) / f"{side}{turn}", side, seconds))
                print(f"    {side:8s} {took[side][-1].tps:8.0f} tps", file=sys.stderr, flush=True)
    told(took, seconds, turns, partial=seconds < SECONDS or turns < TURNS).publish()
    return False


def _turn(server: Server, database: str, folder: Path, side: str, seconds: int) -> Turn:
    """pgbench once, with that neighbour."""
    nobody = Connection(servers=("127.0.0.1:9",), connect_s=5.0, request_s=5.0)
    with contextlib.ExitStack() as held:
        agent, begun, cpu_s = None, 0, 0.0
        if side != ALONE:
            road = held.enter_context(
                Road(folder, nobody, Plan.of_now((seconds + 120) * STEPS, ROWS // STEPS))
            )
            road.let(10**9)
            agent = road.agent(keeping=False, rate=float(STEPS), sync=side)
            until(lambda: _begun(road) > 3 * STEPS, "rows in the spool", agent)
            begun, cpu_s = _begun(road), _cpu_s(agent)
        at = time.monotonic()
        latencies = _pgbench(server, database, seconds)
        took_s = time.monotonic() - at
        rows = share = 0.0
        if agent is not None:
            rows = (_begun(road) - begun) * (ROWS // STEPS) / took_s
            share = (_cpu_s(agent) - cpu_s) / took_s
    return Turn(
        len(latencies) / took_s, float(latencies.mean()), float(np.quantile(latencies, 0.99)), rows, share
    )


def _pgbench(server: Server, database: str, seconds: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Latencies of all transactions in milliseconds."""
    prefix = server.folder / "latency"
    for old in server.folder.glob("latency*"):
        old.unlink()
    words = ("-n", "-c", str(CLIENTS), "-j", str(CLIENTS), "-T", str(seconds), "-l", f"--log-prefix={prefix}")
    server.run("pgbench", *words, database)
    # client, transaction, microseconds, ...
    return np.concatenate([np.loadtxt(log, usecols=2) for log in server.folder.glob("latency*")]) / 1000


def _begun(road: Road) -> int:
    """Steps that the source has handed out; it writes the file anew for each."""
    while True:
        with contextlib.suppress(ValueError):
            return road.begun


def _cpu_s(program: Program) -> float:
    fields = Path(f"/proc/{program.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def told(took: dict[str, list[Turn]], seconds: int, turns: int, *, partial: bool) -> Report:
    """What came of it, as a table."""
    rows = [["pgbench", "transactions/s", "", "mean latency", "", "p99", "", "the agent"]]
    base = took[ALONE]
    for side, runs in took.items():
        row = [SIDES[side]]
        for value, unit in FIGURES:
            # Turn by turn: what else the machine does changes slower than the turns.
            change = median(value(own) / value(alone) for own, alone in zip(runs, base, strict=True)) - 1
            row += [f"{median(map(value, runs)):,.2f}{unit}" if unit else f"{median(map(value, runs)):,.0f}"]
            row += ["" if side == ALONE else f"{100 * change:+.1f} %"]
        cpu = f"{median(t.rows for t in runs):,.0f} rows/s, {100 * median(t.agent_cpu for t in runs):.1f} % of a core"
        rows.append([*row, "" if side == ALONE else cpu])
    spread = [t.tps / median(t.tps for t in base) - 1 for t in base]
    notes = (
        f"TPC-B-like, scale {SCALE}, {CLIENTS} clients, {seconds} s, {turns} turns; changes are medians of the turns; "
        f"alone, the turns differ by {100 * min(spread):+.1f} to {100 * max(spread):+.1f} %",
        "database and spool on one file system; Kafka away; the agent's CPU counts too, for the machine has two cores",
    )
    return Report("neighbour", "A database beside an agent that spools 5,000 rows a second", rows, (), notes,
                  partial=partial, page=SCALING)  # fmt: skip
