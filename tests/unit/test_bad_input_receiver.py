"""A receiver of alerts that is down, or cuts its answer off: nothing is lost, and each alert arrives once it is up."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.core.clock import SECOND_NS
from agent.core.flow import FlowBatch
from agent.store.outbox import SinkStatus
from tests.tools.rows import batch_of
from tests.tools.watching import SteppingClock, Watching, watching

POLICY = "stores: [{id: ehr, categories: [personal_health], recognise: {addresses: [192.0.2.1]}}]\n"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nthank"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthank"


class Receiver:
    """Answers each request in the way that is set, and keeps what it was sent."""

    def __init__(self, port: int, answer: bytes) -> None:
        self.answer = answer
        self.asked = 0
        self.taken: list[dict[str, Any]] = []
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                length = 0
                while (line := stream.readline()) not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                content = stream.read(length)
                self.asked += 1
                if self.answer is WHOLE:
                    self.taken.append(json.loads(content))
                connection.sendall(self.answer)

    def close(self) -> None:
        """Be down."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@contextmanager
def receiver(port: int, answer: bytes) -> Iterator[Receiver]:
    """A receiver that is up; 0 is any free port."""
    made = Receiver(port, answer)
    try:
        yield made
    finally:
        made.close()


def bulk() -> FlowBatch:
    """Two gigabytes that leave the store now."""
    end_ns = time.time_ns()
    row = {"start_ns": end_ns - SECOND_NS, "end_ns": end_ns, "initiator": "local"}
    return batch_of([row | {"octets_out": 2_000_000_520, "content_octets_out": 2_000_000_000}])


def status(watch: Watching) -> SinkStatus:
    """How the webhook stands."""
    return watch.run.outbox.status()["webhook"]


def test_alerts_outlive_a_receiver_that_is_down_or_cuts_its_answers_and_a_restart(tmp_path: Path) -> None:
    """Down, then answering 200 without the whole body, then a restart: the notice waits and is delivered once."""
    with receiver(0, WHOLE) as free:
        port = free.port
    (tmp_path / "policy.yaml").write_text(POLICY)
    sinks = {"webhook": {"url": f"http://127.0.0.1:{port}/hook"}}
    settings = {"policy": [tmp_path / "policy.yaml"], "sinks": sinks}
    clock = SteppingClock()
    with watching(tmp_path / "state", clock=clock, settings=settings) as watch:
        watch.bring(bulk())
        watch.until(lambda: watch.cases, "a case")
        watch.until(lambda: "cannot connect" in status(watch).last_error, "the failed delivery")
        assert (
            status(watch).last_error == f"webhook http://127.0.0.1:{port}: cannot connect: Connection refused"
        )
        with receiver(port, CUT) as cutting:
            watch.until(lambda: cutting.asked, "a further try", passing_ns=SECOND_NS)
            watch.until(lambda: "cut off" in status(watch).last_error, "the answer to be refused")
        waiting = status(watch).waiting
        assert (waiting > 0, status(watch).sent) == (True, 0)
    with receiver(port, WHOLE) as up, watching(tmp_path / "state", clock=clock, settings=settings) as watch:
        watch.until(lambda: not status(watch).waiting, "every notice to be delivered", passing_ns=SECOND_NS)
    cases = [said["case_id"] for said in up.taken if said["kind"] == "opened"]
    assert len(cases) == 1
    assert len({said["id"] for said in up.taken}) == len(up.taken) >= waiting
