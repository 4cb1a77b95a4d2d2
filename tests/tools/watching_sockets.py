"""A live capture in a namespace whose samples of sockets can be waited for, and programs with a user and group of their own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core.accounts import Accounts
from agent.core.clock import Clock
from agent.core.flow import FlowBatch, concat
from agent.core.stages import Context
from collectors import af_packet
from collectors.host.cgroups import mounted
from collectors.host.owners import Owners
from tests.tools.netns import Namespace, Task, wait_for

NOBODY = 65534


class Watched:
    """A collector at work in a namespace."""

    def __init__(self, namespace: Namespace, patch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.owners: list[Owners] = []
        self.batches: list[FlowBatch] = []
        self.stop = threading.Event()
        self.started = threading.Event()

        def made(clock: Clock) -> Owners:
            self.owners.append(Owners(clock))
            return self.owners[-1]

        patch.setattr(af_packet, "Owners", made)
        collector = af_packet.Settings(**settings).build(Context(Accounts(), Path("/nonexistent")))
        self.task = Task(namespace, lambda: self._collect(collector))
        wait_for(lambda: self.started.is_set() or not self.task._thread.is_alive(), "the capture to begin")

    def _collect(self, collector: Any) -> None:
        for batch in collector.collect(self.stop):
            self.batches.append(batch)
            self.started.set()

    def wait_for_sample(self) -> None:
        """Wait until sockets were sampled that were there when this was called."""
        enough = self.owners[0].samples + 2
        wait_for(lambda: self.owners[0].samples >= enough, "two samples of sockets")

    def rows(self) -> list[dict[str, Any]]:
        """Stop it; its rows of TCP and UDP."""
        self.stop.set()
        self.task.result()
        return [row for row in concat(self.batches).rows() if row["protocol"] in (6, 17)]


@contextlib.contextmanager
def watching(namespace: Namespace, patch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Watched]:
    """A capture that is stopped in any case."""
    watched = Watched(namespace, patch, **settings)
    try:
        yield watched
    finally:
        watched.stop.set()
        watched.task.result()


@contextlib.contextmanager
def control_group(path: str) -> Iterator[Path]:
    """A control group of version 2 and its parents; removed at the end. Skips where version 2 is not mounted."""
    root = mounted()
    if root is None:
        pytest.skip("cgroup version 2 is not mounted here")
    made: list[Path] = []
    folder = root
    try:
        for part in path.strip("/").split("/"):
            folder = folder / part
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        yield folder
    finally:
        for folder in reversed(made):
            wait_for(lambda folder=folder: _removed(folder), f"{folder} to be empty")  # type: ignore[misc]


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return not folder.exists()
    return True


@contextlib.contextmanager
def program(
    namespace: Namespace, script: str, *arguments: str, uid: int = 0, group: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Python code that runs in a namespace as a user, in a control group; it ends when its standard input closes.

    Entered once it has printed its first line.
    """
    join = f"echo $$ > {group}/cgroup.procs; " if group else ""
    line = ["nsenter", f"--net=/run/netns/{namespace.name}", "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]  # fmt: skip
    command = ["sh", "-c", join + 'exec "$@"', "sh", *line, sys.executable, "-c", script, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline(), f"the program ended: {process.wait(10)}"
        yield process
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()
