"""The detector's whole road: from the broker's bytes to the committed transaction, signatures checked.

A real broker holds messages of 1,000 enriched rows, sealed and signed by several agents; 5 % of the rows are of a store.
Counted is the CPU time (user and system) of this process alone: fetching, unpacking, checking, deciding, committing to
SQLite with its syncs. The ledger's sum is checked against the generator's.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core.accounts import Accounts
from agent.core.clock import SystemClock
from agent.core.flow import BatchHeader
from agent.core.kafka import Connection
from agent.core.message import seal
from agent.deciding import LocalDecide
from agent.detection.detector import Detector
from agent.receiving.checking import Checker
from agent.receiving.gaps import Gaps
from agent.receiving.stream import MessageStream
from agent.sending.identity import Identity
from agent.store.state import State
from collectors.kafka import Reader
from sinks.dead_letters import DeadLetters
from tests.bench.bench_detector import BATCH, STORE_SHARE, Rows, policy
from tests.bench.measure import REPEATS
from tests.bench.page import Bar, Report
from tests.tools.brokers import cluster
from tests.tools.fleet import FLOWS, Sender, make_topics

AGENTS = 50
GATHERED = 50_000


def fill(bootstrap: list[str], rows: Rows) -> int:
    """Send all rows; how many octets of messages that were."""
    sender = Sender(bootstrap)
    keys = [Identity(Ed25519PrivateKey.generate()) for _ in range(AGENTS)]
    octets = 0
    for number, batch in enumerate(rows.batches()):
        agent, sequence = number % AGENTS, number // AGENTS
        header = BatchHeader(f"agent-{agent}", f"{agent:032x}", 0, sequence, f"host-{agent}", "ebpf")
        key = keys[agent]
        message = seal(batch.under(header), key.sign, low_water=sequence, key=key.public)
        octets += len(message.value)
        sender.send(header.agent_id, message)
    sender.flush()
    sender.close()
    return octets


def drain(bootstrap: list[str], rows: Rows, folder: Path) -> tuple[float, MessageStream]:
    """The whole topic through a new detector; CPU seconds."""
    connection = Connection(servers=tuple(bootstrap))
    clock, accounts, stop = SystemClock(), Accounts(), threading.Event()
    with State.open(folder / "state.db", clock=clock) as state:
        decide = LocalDecide(Detector(policy(), None), state, accounts, clock, "bench", stop=stop)
        decide.restore()
        reader = Reader(connection, FLOWS, "bench")
        reader.begin({})
        stream = MessageStream(
            reader, DeadLetters(connection, "bench"), Checker({}), Gaps({}), decide, [], accounts, clock, GATHERED,
            begins=True, stop=stop,
        )  # fmt: skip
        stream.between = lambda: stop.set() if stream.counts.rows >= rows.n else None
        begin = time.process_time()
        stream.run()
        seconds = time.process_time() - begin
        assert stream.counts.rows == rows.n and not stream.counts.dead and not stream.counts.duplicates
        assert stream.gaps.missing() == 0
    with State.open(folder / "state.db", clock=clock) as state:
        decided = Detector(policy(), None)
        restored = state.load()
        decided.restore(restored.snapshot, restored.deltas)
        told = sum(row.content_octets_out for row in state.ledger.rows())
        told += sum(row.content_octets_out for row in decided.finish().ledger)
    if told != int(rows.octets[rows.of_store].sum()):
        raise SystemExit(f"wrong: {told}")
    return seconds, stream


def main(arguments: list[str]) -> None:
    """The table of the whole road."""
    n = int(float(arguments[0]) * 1e6) if arguments else 3_000_000
    rows = Rows(n)
    took: list[float] = []
    with cluster() as broker:
        make_topics(broker.bootstrap)
        octets = fill(broker.bootstrap, rows)
        for _ in range(REPEATS):
            with tempfile.TemporaryDirectory() as folder:
                seconds, _ = drain(broker.bootstrap, rows, Path(folder))
            took.append(seconds)
            print(f"    {n / seconds / 1e6:.2f} M rows/s", file=sys.stderr)
    rate = n / statistics.median(took) / 1e6
    table = [
        ["what", "M rows/s of CPU"],
        ["from the broker's bytes to the committed transaction", f"{rate:.2f}"],
    ]
    bars = [Bar("whole road", 0.7, rate, "M rows/s"), Bar("goal: whole road", 1.5, rate, "M rows/s")]
    title = (
        f"{n:,} rows in messages of {BATCH:,} ({octets / n:.0f} octets a row before compression) of {AGENTS} agents, "
        f"{STORE_SHARE:.0%} of a store, thirty rules, {REPEATS} runs; sums exact"
    )
    Report("detect", title, table, bars, partial=bool(arguments)).publish()


if __name__ == "__main__":
    main(sys.argv[1:])
