"""Processes that send: started in a namespace, a cgroup and a user, and known by what the kernel said of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.capture.judge import Actor
from tests.tools.netns import Namespace

PROGRAM = Path(__file__).with_name("senders.py")
SECONDS = 60.0
_numbers = itertools.count()


class Cgroups:
    """A folder of this run's own below the mount of cgroup v2; nothing at all where there is no such mount."""

    def __init__(self) -> None:
        self.mount = next(
            (Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()
             if line.split()[2] == "cgroup2"), None
        )  # fmt: skip
        self._name = f"sekisho-truth-{os.getpid()}-{next(_numbers)}"
        self._made: list[Path] = []

    def root(self) -> str:
        """The folder of all of this run's cgroups. Raises where there is no cgroup v2."""
        assert self.mount is not None, "no cgroup v2 is mounted"
        self.path("client")
        return f"{self.mount}/{self._name}"

    def path(self, name: str) -> str | None:
        """The path of a cgroup below the mount, made where it is not there."""
        if self.mount is None:
            return None
        folder = self.mount / self._name / name
        for each in (folder.parent, folder):
            if each not in self._made:
                each.mkdir(exist_ok=True)
                self._made.append(each)
        return f"/{self._name}/{name}"

    def procs(self, name: str) -> str | None:
        """The file that a process joins it by."""
        path = self.path(name)
        return None if path is None else f"{self.mount}{path}/cgroup.procs"

    def remove(self) -> None:
        """Remove what was made; whoever is still in there goes back to the top first."""
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    (self.mount / "cgroup.procs").write_text(pid)  # type: ignore[operator]
            with contextlib.suppress(OSError):
                folder.rmdir()


def actor_of(pid: int, cgroup: str | None = None) -> Actor:
    """What the kernel says of a process now."""
    place = Path(f"/proc/{pid}")
    uid = next(line.split()[1] for line in (place / "status").read_text().splitlines() if line[:4] == "Uid:")
    return Actor(pid, (place / "comm").read_text().strip(), str((place / "exe").readlink()), int(uid), cgroup)


class Sender:
    """A job of :mod:`tests.capture.senders` in a process of its own. Close it."""

    def __init__(
        self, job: str, namespace: Namespace, cgroups: Cgroups, *, group: str, uid: int = 0, **given: Any
    ) -> None:
        what = {"net": f"/run/netns/{namespace.name}", "cgroup": cgroups.procs(group), "uid": uid, **given}
        self._process = subprocess.Popen(
            [sys.executable, "-E", "-s", "-S", str(PROGRAM), job, json.dumps(what)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        self._job = job
        self._open = True
        self.pid = int(self._listen()["pid"])
        self.actor = actor_of(self.pid, cgroups.path(group))

    def step(self) -> dict[str, Any]:
        """Let it go on; what it says next."""
        self.go()
        return self._listen()

    def go(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def said(self) -> dict[str, Any]:
        """What it says next."""
        return self._listen()

    def actors(self, pids: list[int]) -> tuple[Actor, ...]:
        """Its children, which differ from it in nothing but the number."""
        return tuple(replace(self.actor, pid=pid) for pid in pids)

    def close(self) -> None:
        """End it; what it held open is closed by that."""
        if not self._open:
            return
        self._open = False
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _listen(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], SECONDS)[0]:
            self._process.kill()
            raise AssertionError(f"{self._job} said nothing for {SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._job} ended with {self._process.wait(5)}")
        said: dict[str, Any] = json.loads(line)
        return said


@contextlib.contextmanager
def program(namespace: Namespace, cgroups: Cgroups, group: str, *line: str) -> Iterator[subprocess.Popen[str]]:  # fmt: skip
    """A real program in a namespace and a cgroup; ended at the end."""
    join = f"echo $$ > {cgroups.procs(group)}; " if cgroups.mount else ""
    inside = ["nsenter", f"--net=/run/netns/{namespace.name}", *line]
    process = subprocess.Popen(
        ["sh", "-c", f'{join}exec "$@"', "sh", *inside],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
