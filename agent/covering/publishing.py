"""The thread that sends coverage and receipts to their topic: what is committed and not sent yet, in the order it was made.

A row is marked as sent after the brokers have it. A program killed between the two sends it again with the same id and
number; one killed before sends it later. Nothing is sent that is not committed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from agent import logs
from agent.core.clock import HOUR_NS
from agent.core.errors import SinkError, StateError
from agent.core.faults import faultpoint
from agent.store.coverage import CoveredHours, Receipt
from agent.store.state import State

LOOK_S: Final = 5.0
AT_ONCE: Final = 500
LONGEST_WAIT_S: Final = 60.0
UNBOUNDED: Final = -1


class Topic(Protocol):
    """Takes records."""

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Deliver all. Raises :class:`SinkError`."""

    def close(self) -> None:
        """Let go of the connection."""


@dataclass
class Publisher:
    """Sends what is unsent."""

    state: State
    topic: Topic
    sent: int = 0
    last_error: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to send."""
        self._thread = threading.Thread(target=self._run, name="coverage", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is not sent is sent by the next run."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(LONGEST_WAIT_S)
        self.topic.close()

    def step(self) -> int:
        """Send what is unsent, at most so many; how many it was. Raises :class:`SinkError`, :class:`StateError`."""
        rows = self.state.coverage.unsent(AT_ONCE)
        if rows:
            self.topic.send([record_of(row) for row in rows])
            faultpoint("coverage.after_send")
            self.state.coverage.sent(rows)
            self.sent += len(rows)
        return len(rows)

    def _run(self) -> None:
        wait_s = LOOK_S
        while not self._stop.wait(wait_s):
            try:
                while self.step() == AT_ONCE and not self._stop.is_set():
                    pass
                wait_s, self.last_error = LOOK_S, ""
            except (SinkError, StateError) as error:
                if str(error) != self.last_error:
                    logs.get("coverage").warning("coverage_not_sent", reason=str(error), kept="in the state")
                wait_s, self.last_error = min(wait_s * 2, LONGEST_WAIT_S), str(error)
            except Exception as error:  # noqa: BLE001  this thread's outermost edge: one that dies sends nothing
                logs.get("coverage").exception("coverage_crashed")
                wait_s, self.last_error = LONGEST_WAIT_S, repr(error)


def record_of(row: CoveredHours | Receipt) -> dict[str, Any]:
    """A row as the topic has it. Lost octets that nothing bounds are null."""
    table = asdict(row)
    table["lost"] = None if row.lost == UNBOUNDED else row.lost
    if isinstance(row, CoveredHours):
        hours = row.to_hour - row.from_hour + 1
        table |= {"from_ns": row.from_hour * HOUR_NS, "to_ns": (row.to_hour + 1) * HOUR_NS, "hours": hours}
        del table["from_hour"], table["to_hour"]
        return {"kind": "hours", "id": row.id, **table}
    return {"kind": "receipt", "id": row.id, **table}
