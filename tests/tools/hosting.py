"""Programs in a control group and a network namespace of the test's own, so that eBPF tests see nobody else's traffic."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collectors.host.cgroups import mounted
from tests.tools.netns import Namespace, run, wait_for

_counter = itertools.count()
_ENTER = """
import ctypes, json, os, socket, struct, sys, time
group, space, code = sys.argv[1:4]
if group: open(group + "/cgroup.procs", "w").write(str(os.getpid()))
if ctypes.CDLL(None).setns(os.open("/run/netns/" + space, os.O_RDONLY), 0x40000000): raise OSError("setns")
sys.argv = sys.argv[3:]
exec(code)
"""


@dataclass(frozen=True, slots=True)
class Group:
    """A control group (version 2) of the test's own, and the namespace its programs work in."""

    folder: Path
    space: Namespace

    @property
    def path(self) -> str:
        """As the schema names it."""
        mount = mounted()
        assert mount is not None
        return f"/{self.folder.relative_to(mount)}"

    def start(self, code: str, *arguments: object, **more: Any) -> subprocess.Popen[str]:
        """Start Python code in it; ``arguments`` are ``sys.argv[1:]``."""
        line = [sys.executable, "-c", _ENTER, str(self.folder), self.space.name, code, *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(line, text=True, **(pipes | more))

    def run(self, code: str, *arguments: object) -> tuple[int, Any]:
        """Run it to its end; its process id, and what it printed as JSON (None: nothing)."""
        started = self.start(code, *arguments)
        said, _ = started.communicate(timeout=60)
        assert started.returncode == 0, said
        return started.pid, json.loads(said) if said.strip() else None


def start_in(space: Namespace, code: str, *arguments: object, **more: Any) -> subprocess.Popen[str]:
    """Start Python code in a namespace; unlike ``ip netns exec`` this leaves /sys with its control groups alone."""
    line = [sys.executable, "-c", _ENTER, "", space.name, code, *map(str, arguments)]
    return subprocess.Popen(line, text=True, **more)


@contextlib.contextmanager
def group(space: Namespace) -> Iterator[Group]:
    """A fresh control group; removed at the end, with whatever still runs in it."""
    mount = mounted()
    assert mount is not None
    folder = mount / f"sekisho-test-{os.getpid()}-{next(_counter)}"
    folder.mkdir()
    try:
        yield Group(folder, space)
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        wait_for(lambda: not (folder / "cgroup.procs").read_text(), "the test's programs to end")
        folder.rmdir()


@contextlib.contextmanager
def bpf_folder() -> Iterator[Path]:
    """A BPF file system of the test's own; unmounted at the end, which undoes every pin."""
    with tempfile.TemporaryDirectory() as place:
        run("mount", "-t", "bpf", "bpf", place)
        try:
            yield Path(place) / "sekisho"
        finally:
            run("umount", place)
