"""An archive of the rows that a test gives, written by the sink itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from agent.core.accounts import Accounts
from agent.core.clock import DataClock
from agent.core.flow import FlowBatch
from agent.core.stages import Context
from sinks.archive import Settings


def file_away(folder: Path, batches: Iterable[FlowBatch], *, host: str = "db-1") -> Path:
    """Write batches into an archive in ``folder``, in the order given; gives the folder."""
    clock = DataClock(0)
    sink = Settings(min_free=0, keep_days=10_000, directory=folder).build(
        Context(Accounts(), folder, clock, host=host)
    )
    for number, batch in enumerate(batches):
        clock.set(max(clock.now_ns(), int(batch["end_ns"].max())))
        header = replace(batch.header, run_id="0123456789abcdef", lane=1, sequence=number)
        sink.write_flows(batch.under(header))
    sink.close()
    return folder
