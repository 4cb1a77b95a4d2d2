"""An agent that lives until it is stopped or killed: ``python -m tests.tools.living_run FOLDER SINCE_S``.

Its collector brings a row of a store five times a second. It beats every second, and says that it has watched for
``SINCE_S`` seconds before its first start, so that windows of minutes need no minutes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent import config, logs
from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS
from agent.core.flow import BatchHeader, FlowBatch
from agent.core.stages import Collector, Context
from agent.runtime import Runtime
from agent.sending import carrying
from sinks.kafka import KafkaCarrier
from tests.tools.fleet import now_ns
from tests.tools.rows import batch_of


class Living:
    """Rows without an end."""

    name = "ebpf"
    live = True
    not_seen: tuple[str, ...] = ()

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """A row of a store five times a second."""
        while not stop.wait(0.2):
            end = now_ns()
            row = {
                "octets_out": 1000, "content_octets_out": 960, "store": "patients", "tenant": "example",
                "basis": "same_host", "remote_scope": "external", "remote_asn": 64500, "initiator": "local",
                "start_ns": end - SECOND_NS // 10, "end_ns": end,
            }  # fmt: skip
            batch = batch_of([row], BatchHeader(host="db-1", collector="ebpf"))
            self._accounts.capture(batch.amounts(), held_in="batches")
            yield batch

    def progress(self) -> tuple[int, int] | None:
        """No end."""
        return None


def main(folder: Path, since_s: int) -> None:
    """See the module's text."""
    logs.configure(service=True)
    carrying.HEARTBEAT_NS = SECOND_NS  # type: ignore[misc]
    loaded = config.load(folder / "sekisho.yaml", environ={})
    assert loaded.settings.kafka is not None

    def build(context: Context) -> Mapping[str, Collector]:
        return {"ebpf": Living(context.accounts)}

    with Runtime(loaded, build_collectors=build, carrier=KafkaCarrier(loaded.settings.kafka)) as run:
        run._started_ns -= since_s * SECOND_NS
        run.go()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
