"""The collector under test in a process of its own, told by lines of JSON what to do.

``python -m tests.capture.agent`` reads ``{"collector", "settings", "namespace"}``, captures in a thread of that network
namespace (and in no other namespace than the test's, so that cgroups and /proc are the host's), answers when it
captures, and on ``stop`` writes its rows to ``rows`` (Arrow stream) and says what it spent and lost.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from agent.core.accounts import Accounts
from agent.core.flow import FlowBatch, concat
from agent.core.stages import Context
from agent.core.wire import from_arrow, to_arrow
from tests.tools.netns import Namespace, Task, wait_for
from tests.tools.places import ROOT

SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Watched:
    """What one capture gave."""

    rows: FlowBatch
    lost_frames: dict[str, int]
    user_s: float
    system_s: float
    """CPU of the whole process between start and the order to stop, kernel's share apart."""
    rss_kib: int
    pss_kib: int


class Agent:
    """The other process. Close it; ``start`` and ``stop`` may follow each other as often as wanted.

    ``before`` are words before its command line, such as taskset's; they must become the program themselves (exec).
    """

    def __init__(self, folder: Path, *, before: Sequence[str] = ()) -> None:
        self._rows = folder / f"rows-{id(self)}"
        self.broken = False
        """Whether it failed to answer or to do what it was told."""
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        line = [sys.executable, "-W", "ignore", "-m", "tests.capture.agent"]
        # What it logs goes beside its rows; its answers must come alone.
        self._log = (folder / "agent.log").open("a")
        self._process = subprocess.Popen(
            [*before, *line],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def start(self, namespace: Namespace, collector: str, settings: dict[str, Any]) -> None:
        """Capture from now on. Raises what the collector says where it cannot."""
        self._tell({"namespace": namespace.name, "collector": collector, "settings": settings})

    def stop(self) -> Watched:
        """End the capture; its rows."""
        said = self._tell({"stop": str(self._rows)})
        with pa.ipc.open_stream(self._rows.read_bytes()) as stream:
            rows = concat([from_arrow(batch) for batch in stream])
        self._rows.unlink()
        return Watched(rows, said["lost"], said["user"], said["system"], said["rss"], said["pss"])

    def close(self) -> None:
        """End the process, whatever it does."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _tell(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        broken, self.broken = self.broken, True
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], SECONDS)[0]:
            raise AssertionError(f"no answer to {order} within {SECONDS} s")
        line = self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line or '{"error": "it ended"}')
        if "error" in said:
            raise RuntimeError(f"{order}: {said['error']}")
        self.broken = broken
        return said


class _Capture:
    """One capture inside the other process."""

    def __init__(self, namespace: str, collector: str, settings: dict[str, Any]) -> None:
        self._accounts = Accounts()
        self._stop, self._began = threading.Event(), threading.Event()
        self._batches: list[FlowBatch] = []
        made = importlib.import_module(f"collectors.{collector}").Settings.model_validate(settings)
        self._collector = made.build(Context(accounts=self._accounts, state_dir=Path("/nonexistent")))
        self._used = resource.getrusage(resource.RUSAGE_SELF)
        self._task = Task(Namespace(namespace), self._collect)
        wait_for(lambda: self._began.is_set() or self._task.done, "the capture to begin", SECONDS)
        if self._task.done:
            self._task.result()

    def _collect(self) -> None:
        for batch in self._collector.collect(self._stop):
            if len(batch):
                self._batches.append(batch)
            self._began.set()

    def stop(self, path: Path) -> dict[str, Any]:
        now = resource.getrusage(resource.RUSAGE_SELF)
        memory = _memory()
        self._stop.set()
        self._task.result(SECONDS)
        rows = concat([FlowBatch.empty(), *self._batches])
        account = self._accounts.check().read()
        assert account.in_memory == rows.amounts(), account
        batch = to_arrow(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        lost = {reason: frames for reason, (frames, _octets) in account.lost_frames.items()}
        user, system = now.ru_utime - self._used.ru_utime, now.ru_stime - self._used.ru_stime
        return {"lost": lost, "user": user, "system": system, **memory}


def _memory() -> dict[str, int]:
    found = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        found[name] = int(value)
    return {"rss": found["Rss:"], "pss": found["Pss:"]}


def _obey(lines: Iterator[str], answers: TextIO) -> None:
    capture: _Capture | None = None
    for line in lines:
        order = json.loads(line)
        try:
            if "stop" in order:
                assert capture is not None
                answer = capture.stop(Path(order["stop"]))
            else:
                capture = _Capture(**order)
                answer = {}
        except Exception as error:  # noqa: BLE001  the one who asked is told
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the bench, which closes this process
    alone = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _obey(iter(sys.stdin.readline, ""), alone)
