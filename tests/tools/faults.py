"""A small program that can be killed anywhere: numbered fake decisions into the state, numbered batches into the archive.

    python -m tests.tools.faults run state|archive FOLDER          once, honouring SEKISHO_FAULTS
    python -m tests.tools.faults siege state|archive FOLDER POINT:PASS…

A siege makes for each point a child that dies there and a second that goes on, each in a folder named after the
point, and prints as JSON how both ended. The children are forked, so that the imports are paid for once.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agent.core import faults
from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS, DataClock
from agent.core.decision import Decision, LedgerRow
from agent.core.finding import Notice, Severity
from agent.core.flow import BatchHeader, FlowBatch
from agent.core.stages import Context
from agent.store import schema
from agent.store.deliveries import key_of
from agent.store.outbox import Outbox
from agent.store.sequences import BatchId
from agent.store.state import Commit, State
from tests.tools.notices import START_NS, case, destination, finding, notice
from tests.tools.rows import batch_of

STEPS = 24
SEED = 7
SINKS = ("paper", "stone")


class FakeDetector:
    """Decides from a seed, the step's number and what it remembers, so that a bad restore shows in what follows."""

    def __init__(self) -> None:
        self.total = 0
        self.revisions: dict[str, int] = {}

    def take(self, step: int) -> Decision:
        """The decision of one step."""
        seeded = random.Random(f"{SEED}:{step}")
        delta: dict[str, Any] = {
            "octets": seeded.randrange(1, 10**9),
            "entity": f"as:{64496 + seeded.randrange(4)}",
        }
        self._learn(delta)
        entity, revision = delta["entity"], self.revisions[delta["entity"]]
        found = finding(id=f"f-{entity}", entity=entity, revision=revision, content_octets_out=self.total)
        whole = case(
            id=f"2026-1117-{entity[-2:]}",
            revision=revision,
            severity=Severity(1 + revision % 5),
            findings=(found,),
            destination=destination(entity=entity),
            updated_ns=START_NS + step * SECOND_NS,
        )
        told = (notice(case=whole, time_ns=START_NS + step * SECOND_NS),) if seeded.random() < 0.6 else ()
        return Decision(
            findings=(found,),
            cases=(whole,),
            notices=told,
            ledger=tuple(ledger_row(entity, process, self.total) for process in ("rclone", "postgres")),
            delta=json.dumps(delta).encode(),
        )

    def restore(self, snapshot: bytes | None, deltas: tuple[bytes, ...]) -> None:
        """Remember what was learned before."""
        if snapshot is not None:
            self.total, self.revisions = json.loads(snapshot)
        for delta in deltas:
            self._learn(json.loads(delta))

    def snapshot(self) -> bytes:
        """All that is remembered."""
        return json.dumps([self.total, dict(sorted(self.revisions.items()))]).encode()

    def _learn(self, delta: dict[str, Any]) -> None:
        self.total += delta["octets"]
        self.revisions[delta["entity"]] = self.revisions.get(delta["entity"], 0) + 1


class FileSink:
    """Appends the key of each notice to a file."""

    takes_flows, takes_notices = False, True

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._path = name, folder / f"{name}.txt"

    def write_notice(self, told: Notice) -> None:
        """One line."""
        with self._path.open("a") as file:
            file.write(key_of(told) + "\n")

    def write_flows(self, batch: FlowBatch) -> None:
        """Takes none."""

    def flush(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is open."""


def ledger_row(entity: str, process: str = "rclone", octets: int = 1, **changed: Any) -> LedgerRow:
    """One row of store ehr-main on the day of the sample case."""
    facts: dict[str, Any] = {
        "day": START_NS // (86_400 * SECOND_NS),
        "tenant": "default",
        "store": "ehr-main",
        "categories": "personal_health",
        "entity": entity,
        "asn": 64496,
        "as_org": "Example Networks",
        "provider": "example-cloud",
        "owner": "example-holdings",
        "country": "DE",
        "process": process,
        "initiator": "local",
        "vantage": "af_packet:eth0",
        "flows": 1,
        "octets_out": octets + 100,
        "packets_out": 2,
        "octets_in": 3,
        "packets_in": 4,
        "content_octets_out": octets,
        "late_octets": 0,
    }
    return LedgerRow(**(facts | changed))


def batch_id(step: int) -> BatchId:
    """Two lanes, taken in turns."""
    return ("agent", "run", step % 2, step // 2)


def digest(step: int) -> bytes | None:
    """Every third batch came without bytes."""
    return None if step % 3 == 0 else step.to_bytes(32, "big")


def work(detector: FakeDetector, step: int) -> Commit:
    """What one step commits."""
    return Commit(
        batches=((batch_id(step), digest(step)),),
        decision=detector.take(step),
        snapshot=detector.snapshot() if step % 5 == 4 else None,
        position=str(step),
        now_ns=START_NS + step * SECOND_NS,
        notice_sinks=SINKS,
        versions={"policy": str(step // 8)},
    )


def run_state(folder: Path) -> None:
    """From where the last run stopped to the end; the last three batches come once more, as they may."""
    clock = DataClock(START_NS)
    with State.open(folder / "state.db", clock=clock) as state:
        outbox = Outbox(state, {name: FileSink(name, folder) for name in SINKS}, clock)
        detector, restored = FakeDetector(), state.load()
        detector.restore(restored.snapshot, restored.deltas)
        begin = int(restored.position or -1) + 1
        for step in range(max(0, begin - 3), STEPS):
            clock.set(START_NS + step * SECOND_NS)
            if state.taken(batch_id(step), digest(step)) == "new":
                state.commit(work(detector, step))
            for name in SINKS:
                while outbox.step(name):
                    pass


def tables(where: Path | str) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of a state file, or of a database of PostgreSQL, less what two runs may differ in: epoch, leader,
    the time of a delivery, and which records of coverage the topic has by now."""
    if isinstance(where, Path):
        engine = sa.create_engine(f"sqlite:///{where}")
    else:
        engine = sa.create_engine(where.replace("postgresql:", "postgresql+psycopg:"))
    found = {}
    with engine.connect() as connection:
        for table in schema.metadata.sorted_tables:
            if table is schema.leases:
                continue
            columns = [c for c in table.c if c.name not in ("epoch", "done_ns", "sent")]
            rows = connection.execute(sa.select(*columns).order_by(*table.primary_key)).all()
            found[table.name] = [tuple(row) for row in rows]
    engine.dispose()
    return found


def run_archive(folder: Path) -> None:
    """Batches from the last one that was taken for sure to the end; those taken are noted in ``taken.txt``."""
    from sinks.archive import Settings

    noted = folder / "taken.txt"
    begin = len(noted.read_text().split()) if noted.exists() else 0
    clock = DataClock(START_NS)
    sink = Settings(rows_per_file=20, rows_per_group=8, min_free=0).build(
        Context(Accounts(), folder, clock, host="db-1")
    )
    with noted.open("a") as file:
        for step in range(begin, STEPS):
            sink.write_flows(archive_batch(step))
            file.write(f"{step}\n")
            file.flush()
    sink.close()


def archive_batch(step: int) -> FlowBatch:
    """Five rows; ``pid`` tells whose they are."""
    header = BatchHeader(agent_id="agent", run_id="run", lane=1, sequence=step)
    return batch_of([{"pid": step * 5 + i, "end_ns": START_NS + step} for i in range(5)], header)


RUNS: dict[str, Callable[[Path], None]] = {"state": run_state, "archive": run_archive}


def siege(kind: str, folder: Path, points: list[str]) -> Iterator[tuple[str, list[int]]]:
    """For each point: the signal that ended the first child and the exit code of the second."""
    for point in points:
        place = folder / point.replace(":", "-")
        place.mkdir()
        ends = [_child(kind, place, armed) for armed in (point, "")]
        yield (
            point,
            [os.WTERMSIG(ends[0]) if os.WIFSIGNALED(ends[0]) else 0, os.waitstatus_to_exitcode(ends[1])],
        )


def _child(kind: str, place: Path, armed: str) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            faults.arm(armed)
            RUNS[kind](place)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def main(arguments: list[str]) -> None:
    """The two uses of the docstring above."""
    mode, kind, folder, *points = arguments
    if mode == "run":
        RUNS[kind](Path(folder))
    else:
        print(json.dumps(dict(siege(kind, Path(folder), points))))


if __name__ == "__main__":
    main(sys.argv[1:])
