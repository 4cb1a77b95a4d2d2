"""systemd as PID 1 in a container made of this host's own /usr, so that tests see a unit do what it does on a host.

Everything else in it is empty and in memory; it has its own process, mount and control group namespaces, a BPF file
system of its own, and the network namespace it is given. Needs root, systemd and systemd-nspawn.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import agent
from collectors.host.cgroups import mounted
from tests.tools.netns import Namespace, wait_for
from tests.tools.places import ROOT

_counter = itertools.count()
_START = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
_BPF = "mountpoint -q /sys/fs/bpf || mount -t bpf -o mode=0700 bpf /sys/fs/bpf"
"""As PID 1 does it on a host; here the folder would be missing."""
_SHIM = """#!/bin/sh
export PYTHONHOME=/opt/python PYTHONPATH=/opt/code:/opt/site LD_LIBRARY_PATH=/opt/python/lib
exec /opt/python/bin/{python} -m agent.cli "$@"
"""


@dataclass(frozen=True, slots=True)
class Booted:
    """A running systemd."""

    leader: int
    """Its PID 1, as this host numbers it."""

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root; how it ended."""
        line = ("nsenter", "-t", str(self.leader), "-a", *command)
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)

    def run(self, *command: str) -> str:
        """Run a command in it as root; its output. Fails with what it said where it fails."""
        done = self.ask(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def as_service(self, *command: str, user: str = "nobody") -> str:
        """Run a program as a unit of its own; its output."""
        return self.run("systemd-run", "-q", "--wait", "--pipe", f"-pUser={user}", *command)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).strip()

    def journal(self, unit: str) -> str:
        """What a unit has said."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)


@contextlib.contextmanager
def booted(space: Namespace) -> Iterator[Booted]:
    """Boot it in a network namespace, with the program installed as docs/deploy.md says; killed at the end."""
    mount = mounted()
    assert mount is not None
    group = mount / f"sekisho-boot-{os.getpid()}-{next(_counter)}"
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sekisho-boot-")))
        group.mkdir()
        stack.callback(_remove, group)
        line = [
            "sh", "-c", _START, str(group), "systemd-nspawn", "--quiet", "--boot", "--directory=/",
            "--volatile=yes", "--register=no", "--keep-unit", "--capability=all", "--console=pipe",
            "--system-call-filter=bpf", f"--machine=sekisho-{os.getpid()}",
            f"--network-namespace-path=/run/netns/{space.name}", *_installed(work), "systemd.unit=basic.target",
        ]  # fmt: skip
        environ = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with (work / "console").open("w+") as console:
            nspawn = subprocess.Popen(
                line, env=environ, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
            )
            stack.callback(_end, nspawn)
            made = _when_up(nspawn, work / "console")
            made.run("sh", "-ec", _BPF)
            yield made


def _installed(work: Path) -> Iterator[str]:
    """The program at /opt/sekisho: what pip would put there stands in for it, from where these tests run."""
    home = work / "sekisho"
    (home / "bin").mkdir(parents=True)
    shim = home / "bin" / "sekisho"
    shim.write_text(_SHIM.format(python=f"python{sys.version_info.major}.{sys.version_info.minor}"))
    shim.chmod(0o755)
    shutil.copytree(ROOT / "deploy" / "systemd", home / "share" / "sekisho" / "systemd")
    work.chmod(0o755)
    yield f"--bind-ro={home}:/opt/sekisho"
    yield f"--bind-ro={sys.base_prefix}:/opt/python"
    yield f"--bind-ro={Path(np.__file__).parents[1]}:/opt/site"
    yield f"--bind-ro={Path(str(agent.__file__)).parents[1]}:/opt/code"


def _when_up(nspawn: subprocess.Popen[bytes], console: Path) -> Booted:
    """Its first child is a passing one: who is PID 1 shows only once systemd answers."""
    up: list[Booted] = []

    def answers() -> bool:
        assert nspawn.poll() is None, console.read_text()
        for child in _children(nspawn.pid):
            made = Booted(child)
            if made.ask("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"):
                up.append(made)
        return bool(up)

    wait_for(answers, "systemd to boot", 60)
    return up[0]


def _children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    """Its first process takes all others with it."""
    for child in _children(nspawn.pid):
        os.kill(child, signal.SIGKILL)
    nspawn.wait(30)


def _remove(group: Path) -> None:
    wait_for(lambda: not any(f.read_text() for f in group.rglob("cgroup.procs")), "the container to end")
    for folder in sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True):
        folder.rmdir()
    group.rmdir()
