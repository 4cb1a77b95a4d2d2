"""Replays that are killed and started again until they end, and what they leave behind.

    python -m tests.tools.siege < plan.json        # prints how each child ended, as JSON

A plan is a list of sieges: ``{"arguments": [...], "kills": ["commit.after_ledger:3", "0.25", ...]}``. Each kill is one
child that runs the command line with ``arguments``: a fault point and its pass, or seconds after which a timer ends it.
When the kills are used up a last child runs to its end. Children are forked, so that imports are paid for once.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agent.core import faults
from agent.store import schema

SNAPSHOT_EVERY = 4
"""Commits between two snapshots of the detector, so that snapshots and deltas both take part."""
BATCH_ROWS = 150
"""Rows of a sealed batch, so that a small capture makes many commits."""


def lay(plan: list[dict[str, Any]]) -> list[list[int]]:
    """For each siege how its children ended: the signal as a negative number, or the exit code."""
    return [[_child(siege["arguments"], kill) for kill in (*siege["kills"], "")] for siege in plan]


def _child(arguments: list[str], kill: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _run(arguments, kill)
        except SystemExit as asked:
            sys.stderr.flush()
            os._exit(asked.code if isinstance(asked.code, int) else 1)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _run(arguments: list[str], kill: str) -> None:
    from agent import deciding, pipeline, seal
    from agent.cli import main

    seal.MAX_ROWS = pipeline.GATHER_ROWS = BATCH_ROWS
    deciding.SNAPSHOT_EVERY = SNAPSHOT_EVERY
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    if ":" in kill:
        faults.arm(kill)
    elif kill:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, as kill -9 does
        signal.setitimer(signal.ITIMER_REAL, float(kill))
    main(arguments)


def left_behind(state: Path) -> dict[str, Any]:
    """What two runs over the same data must agree in: bodies of findings and cases, ledger, sequences, notices' keys."""
    engine = sa.create_engine(f"sqlite:///{state}")
    with engine.connect() as connection:

        def rows(table: sa.Table, *names: str) -> list[tuple[Any, ...]]:
            columns = [table.c[name] for name in names] or list(table.c)
            found = connection.execute(sa.select(*columns).order_by(*table.primary_key)).all()
            return [tuple(row) for row in found]

        found = {
            "findings": rows(schema.findings, "id", "revision", "state", "severity", "body"),
            "cases": rows(schema.cases, "id", "revision", "state", "severity", "body"),
            "ledger": rows(schema.ledger),
            "sequences": rows(schema.sequences, "agent_id", "run_id", "lane", "intervals"),
            "notices": sorted(rows(schema.notices, "key", "case_id")),
            "deliveries": sorted(rows(schema.deliveries, "notice", "sink", "state")),
        }
    engine.dispose()
    return found


if __name__ == "__main__":
    for room in ("agent.cli.replaying", "sinks.archive", "sinks.jsonl"):
        importlib.import_module(room)  # before the first fork: what a child imports it pays for itself
    print(json.dumps(lay(json.load(sys.stdin))))
