"""What is kept: commits of the state and rows of the archive.

    python -m tests.bench store [COMMITS BATCHES]

A commit holds one batch id, ten ledger rows and 500 octets of delta, with a snapshot of 20 kB each 256; a batch holds
1,000 rows of a busy host. Of commits wall time counts, for they wait for the disk.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from agent.core.accounts import Accounts
from agent.core.address import from_v4
from agent.core.clock import SystemClock
from agent.core.decision import Decision
from agent.core.flow import BatchHeader, FlowBatch, Text
from agent.core.stages import Context
from agent.store.flows import read_flows
from agent.store.state import Commit, State
from sinks.archive import Settings
from tests.bench.inputs import CACHE
from tests.bench.measure import REPEATS
from tests.bench.page import Report
from tests.tools.faults import ledger_row

ROWS = 1_000


def rows_of_a_host(sequence: int, random: np.random.Generator) -> FlowBatch:
    """Mostly numbers that do not repeat, so that compression is not flattered."""

    def texts(distinct: int, name: str) -> Text:
        return Text(
            random.integers(0, distinct, ROWS).astype(np.int32), tuple(f"{name}-{i}" for i in range(distinct))
        )

    octets = random.lognormal(9, 2, ROWS).astype(np.int64)
    end_ns = time.time_ns() - random.integers(0, 10**9, ROWS)
    return FlowBatch.build(
        ROWS,
        {
            "local_address": from_v4(np.full(ROWS, 0xC0000201, np.uint32)),
            "remote_address": from_v4((0xCB007100 + random.zipf(1.3, ROWS) % 250).astype(np.uint32)),
            "local_port": random.integers(30_000, 60_000, ROWS),
            "remote_port": random.choice([443, 80, 53, 5432], ROWS),
            "protocol": np.full(ROWS, 6),
            "initiator": texts(2, "end"),
            "flows": np.ones(ROWS, np.int64),
            "octets_out": octets,
            "packets_out": octets // 1000 + 1,
            "octets_in": octets // 7,
            "packets_in": octets // 3000 + 1,
            "content_octets_out": octets - octets // 20,
            "start_ns": end_ns - random.integers(0, 60 * 10**9, ROWS),
            "end_ns": end_ns,
            "tcp_flags": np.full(ROWS, 27),
            "process": texts(20, "process"),
            "pid": random.integers(1, 30_000, ROWS),
            "executable": texts(20, "/usr/bin/process"),
            "remote_country": texts(30, "c"),
            "remote_asn": random.integers(64_496, 64_511, ROWS),
            "remote_as_org": texts(15, "Example Networks"),
            "remote_owner": texts(10, "Example Holdings"),
            "store": texts(2, "store"),
            "vantage": Text.full(ROWS, "af_packet:eth0"),
        },
        BatchHeader("agent", "run", 1, sequence, host="db-1"),
    )


def state(folder: Path, commits: int) -> float:
    """Commits in a second of wall time, one after another, each synced."""
    with State.open(folder / "state.db", clock=SystemClock()) as opened:
        begin = time.perf_counter()
        for n in range(commits):
            ledger = tuple(ledger_row(f"as:{64496 + (n + i) % 40}") for i in range(10))
            opened.commit(
                Commit(
                    batches=((("agent", "run", 0, n), None),),
                    decision=Decision(ledger=ledger, delta=b"x" * 500),
                    snapshot=b"x" * 20_000 if n % 256 == 0 else None,
                    position=str(n),
                    now_ns=time.time_ns(),
                )
            )
        return commits / (time.perf_counter() - begin)


def archive(folder: Path, batches: list[FlowBatch]) -> tuple[float, float, float]:
    """(rows in a second of CPU from journal to Parquet, octets a row, rows in a second of CPU read back)."""
    sink = Settings(min_free=0).build(Context(Accounts(), folder, host="db-1"))
    begin = time.process_time()
    for batch in batches:
        sink.write_flows(batch)
    sink.close()
    spent = time.process_time() - begin
    rows = len(batches) * ROWS
    size = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    begin = time.process_time()
    read = sum(map(len, read_flows(folder / "archive")))
    reading = time.process_time() - begin
    if read != rows:
        raise SystemExit(f"wrong: {read:,} rows were read of {rows:,}")
    return rows / spent, size / rows, rows / reading


def main(arguments: list[str]) -> None:
    """The table of what is kept."""
    commits, count = (*map(int, arguments), *(2000, 600)[len(arguments) :])
    random = np.random.default_rng(1)
    batches = [rows_of_a_host(n, random) for n in range(count)]
    took: list[tuple[float, float, float, float]] = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            took.append((state(Path(made), commits), *archive(Path(made), batches)))
    middle = [statistics.median(column) for column in zip(*took, strict=True)]
    rows = [
        ["what", "measured"],
        ["commits of the state, each synced to this disk (wall time)", f"{middle[0]:,.0f} /s"],
        ["rows into the archive, journal and Parquet (CPU)", f"{middle[1]:,.0f} /s"],
        ["octets of a row in the archive", f"{middle[2]:.1f}"],
        ["rows read back (CPU)", f"{middle[3]:,.0f} /s"],
    ]
    title = f"{commits:,} commits; {count:,} batches of {ROWS:,} rows, {REPEATS} runs; rows counted"
    Report("store", title, rows, partial=bool(arguments)).publish()
