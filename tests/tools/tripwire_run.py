"""A whole agent on the host of a store, but for its capture: ``python -m tests.tools.tripwire_run FOLDER``.

Its collector hands out a row twice a second, as a transfer goes on: small ones, and from when ``FOLDER/bulk`` exists
those of a bulk transfer. Settings are read from ``FOLDER/sekisho.yaml``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent import config, logs
from agent.core.accounts import Accounts
from agent.core.flow import BatchHeader, FlowBatch
from agent.core.stages import Collector, Context
from agent.runtime import Runtime
from sinks.kafka import KafkaCarrier
from tests.tools.rows import batch_of

SMALL, BULK = 1_000, 20_000_000
EVERY_S = 0.5


class Transfer:
    """Rows of now."""

    name = "transfer"
    live = True
    not_seen: tuple[str, ...] = ()

    def __init__(self, folder: Path, accounts: Accounts) -> None:
        self._bulk, self._accounts = folder / "bulk", accounts

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Until it is stopped."""
        while not stop.wait(EVERY_S):
            content, now_ns = BULK if self._bulk.exists() else SMALL, time.time_ns()
            row = {
                "local_address": "192.0.2.11", "remote_address": "203.0.113.77",
                "octets_out": content + 4_000, "content_octets_out": content, "packets_out": content // 1_000,
                "start_ns": now_ns - int(EVERY_S * 1e9), "end_ns": now_ns, "initiator": "local",
                "process": "rclone", "vantage": "ebpf:cgroup",
            }  # fmt: skip
            batch = batch_of([row], BatchHeader(host="db-1", collector="transfer"))
            self._accounts.capture(batch.amounts(), held_in="batches")
            yield batch

    def progress(self) -> tuple[int, int] | None:
        """It has no end."""
        return None


def main(folder: Path) -> None:
    """See the module's text."""
    logs.configure(service=True)
    loaded = config.load(folder / "sekisho.yaml", environ={})
    assert loaded.settings.kafka is not None

    def build(context: Context) -> Mapping[str, Collector]:
        return {"transfer": Transfer(folder, context.accounts)}

    with Runtime(loaded, build_collectors=build, carrier=KafkaCarrier(loaded.settings.kafka)) as run:
        run.go()
    run.accounts.check()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
