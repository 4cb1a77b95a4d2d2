"""eBPF capture and memory: maps that are refused, rows that get none while it counts, and what all of it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors.bpf import libbpf
from collectors.host.cgroups import mounted
from tests.tools import hosting
from tests.tools.hosting import Group
from tests.tools.netns import PEER4, Pair, wait_for
from tests.tools.places import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
]

MIB = 1 << 20
FAN = """
s = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
for n in range(int(sys.argv[2])): s[n % 4].sendto(bytes(100), (sys.argv[1], 1024 + n // 4 % int(sys.argv[3])))
"""
COUNT = """
import json, sys, threading
from pathlib import Path
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
from agent.core.accounts import Accounts
from agent.core.errors import CaptureError
from agent.core.stages import Context
from collectors.ebpf import Settings
open(sys.argv[3], "w").write("0")
stop, sums = threading.Event(), [0, 0]
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
settings = Settings(cgroup=sys.argv[1], pin=False, interval=60, map_flows=int(sys.argv[2]))
try:
    for n, batch in enumerate(settings.build(Context(accounts=Accounts(), state_dir=Path("/nonexistent"))).collect(stop)):
        if not n: print("ready", flush=True)
        without = batch["protocol"] == 255
        for at, rows in enumerate((~without, without)): sums[at] += int(batch["packets_out"][rows].sum())
except CaptureError as error: print(error)
else: print(json.dumps(sums))
"""


@pytest.fixture
def here(two: Pair) -> Iterator[Group]:
    with hosting.group(two.host) as made:
        yield made


class Memory:
    """A control group (version 1 or 2) of the test's own with a limit of memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def limit(self, octets: int) -> None:
        """No more than that from now on."""
        old = self.folder / "memory.limit_in_bytes"
        (old if old.exists() else self.folder / "memory.max").write_text(str(octets))

    def used(self) -> int:
        """Octets now, the kernel's share included."""
        old = self.folder / "memory.usage_in_bytes"
        return int((old if old.exists() else self.folder / "memory.current").read_text())


@pytest.fixture
def memory() -> Iterator[Memory]:
    old = Path("/sys/fs/cgroup/memory")
    mount = mounted()
    root = old if old.is_dir() else mount
    assert root is not None
    folder = root / f"sekisho-test-memory-{os.getpid()}"
    folder.mkdir()
    yield Memory(folder)
    wait_for(lambda: not (folder / "cgroup.procs").read_text(), "the test's programs to end")
    folder.rmdir()


def counting(group: Group, memory: Memory, map_flows: int) -> subprocess.Popen[str]:
    """The collector, with all that it and its maps take accounted to that group."""
    return subprocess.Popen(
        (sys.executable, "-c", COUNT, str(group.folder), str(map_flows), str(memory.folder / "cgroup.procs")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_maps_that_get_no_memory_are_refused_in_words(here: Group, memory: Memory) -> None:
    """Maps larger than the service's limit: one sentence says which settings to change, and nothing is killed."""
    memory.limit(96 * MIB)
    with counting(here, memory, 4_194_304) as refused:
        said, _ = refused.communicate(timeout=30)
    assert refused.returncode == 0
    assert "ebpf.map_flows" in said
    assert "MemoryMax" in said


def test_rows_that_get_no_memory_are_in_the_overflow_exactly(two: Pair, here: Group, memory: Memory) -> None:
    """The limit reached while it counts: all packets pass, and those that got no row are in the overflow's."""
    with counting(here, memory, 131_072) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "ready\n"
        # The maps stay with the group in which they were made; the agent itself need not be short of memory here.
        (memory.folder.parent / "cgroup.procs").write_text(str(agent.pid))
        memory.limit(memory.used() + MIB)
        here.run(FAN, PEER4, 60_000, 15_000)
        two.settle()
        memory.limit(1 << 40)
        said, _ = agent.communicate("\n", timeout=60)
    with_row, without = json.loads(said.splitlines()[-1])
    assert two.counts()["in", "ip", 17][0] == 60_000
    assert with_row + without == 60_000
    assert without > 0
