"""An agent with a collector of its own that a test starts and kills: ``python -m tests.tools.sending_run FOLDER STEPS``.

The collector keeps each step until it is settled, as the eBPF maps do, and goes on behind the position that is durable.
Settings are read from ``FOLDER/sekisho.yaml``. Each row's ``octets_out`` tells its step and its place in it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent import config, logs
from agent.core.accounts import Accounts
from agent.core.flow import BatchHeader, FlowBatch
from agent.core.stages import Collector, Context
from agent.runtime import Runtime
from sinks.kafka import KafkaCarrier
from tests.tools.rows import batch_of

ROWS = 5


class Steps:
    """Hands out ``count`` steps, each after the one before is durable."""

    name = "steps"
    live = False
    not_seen: tuple[str, ...] = ()

    def __init__(self, count: int, accounts: Accounts) -> None:
        self.count, self._accounts = count, accounts
        self._next = 0
        self._settled = threading.Event()

    def resume(self, position: str) -> None:
        """Go on behind a position."""
        self._next = int(position.split(" ")[2]) + 1 if position else 0

    def settled(self, position: str) -> None:
        """That step is durable."""
        self._settled.set()

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Every step that is left."""
        while self._next < self.count and not stop.is_set():
            batch = of_step(self._next)
            self._accounts.capture(batch.amounts(), held_in="batches")
            self._settled.clear()
            yield batch
            while not self._settled.wait(0.1) and not stop.is_set():
                pass
            self._next += 1

    def progress(self) -> tuple[int, int] | None:
        """Of steps."""
        return (self._next, self.count)


def of_step(step: int) -> FlowBatch:
    """The rows of a step, some of a store and some not."""
    rows = [
        {"octets_out": step * 100 + n, "remote_port": 1000 + n, "store": "ehr" if n % 2 else None}
        for n in range(ROWS)
    ]
    return batch_of(rows, BatchHeader(host="db-1", collector="steps", position=f"steps run {step}"))


def marks(steps: int) -> list[int]:
    """``octets_out`` of every row of so many steps."""
    return sorted(step * 100 + n for step in range(steps) for n in range(ROWS))


def main(folder: Path, steps: int) -> None:
    """See the module's text."""
    logs.configure(service=True)
    loaded = config.load(folder / "sekisho.yaml", environ={})
    assert loaded.settings.kafka is not None

    def build(context: Context) -> Mapping[str, Collector]:
        return {"steps": Steps(steps, context.accounts)}

    carrier = KafkaCarrier(loaded.settings.kafka)
    with Runtime(loaded, build_collectors=build, carrier=carrier) as run:
        run.go()
    run.accounts.check()
    assert not run.accounts.read().sealed_residue


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
