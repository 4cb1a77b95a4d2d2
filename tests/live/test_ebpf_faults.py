"""eBPF capture when the host turns against it: each fault has a clear message, a lower tier, or a gap that is counted."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.core.clock import SECOND_NS, SystemClock
from agent.core.errors import CaptureError
from collectors.bpf import libbpf, programs, roots
from collectors.host.cgroups import mounted
from tests.tools import hosting, netns
from tests.tools.bpf_capture import capturing, take_off
from tests.tools.hosting import Group
from tests.tools.netns import PEER4, Pair, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
]

SEND = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[2])): s.sendto(bytes(100), (sys.argv[1], 10000 + n % int(sys.argv[3])))
"""
OCTETS = 128


@pytest.fixture
def here(two: Pair) -> Iterator[Group]:
    with hosting.group(two.host) as made:
        yield made


@pytest.mark.parametrize("pin", [False, True])
def test_programs_that_another_tool_took_off_are_put_back(
    two: Pair, here: Group, tmp_path: Path, pin: bool
) -> None:
    """Noticed within a second: what they had counted is kept, they count again, and the time between is a gap."""
    with hosting.bpf_folder() as pins, capturing(here, pin=pin, pin_dir=pins, state_dir=tmp_path) as capture:
        here.run(SEND, PEER4, 100, 1)
        assert take_off(here.folder) == len((*programs.ALWAYS, *programs.POLITE))
        wait_for(lambda: "not_counting" in capture.accounts.read().unobserved, "the gap to be counted")
        here.run(SEND, PEER4, 50, 1)
        two.settle()
        rows = capture.rows()
    assert sum(row["packets_out"] for row in rows) == 150
    gap = capture.accounts.read().unobserved["not_counting"]
    assert 0 < gap.seconds < 20
    assert gap.octets_out_at_most is not None


def test_what_passed_while_programs_were_off_is_bounded_by_the_interfaces(
    two: Pair, here: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packets that nobody counted lie within the gap's bound, and what was counted before does not widen it much."""
    held = threading.Event()
    fallen = programs.Programs.fallen

    def late(self: programs.Programs) -> tuple[str, ...]:
        held.wait(20)
        return fallen(self)

    with capturing(here, state_dir=tmp_path, interval=60) as capture:
        here.run(SEND, PEER4, 1000, 1)
        monkeypatch.setattr(programs.Programs, "fallen", late)
        take_off(here.folder)
        here.run(SEND, PEER4, 70, 1)
        two.settle()
        held.set()
        wait_for(lambda: "not_counting" in capture.accounts.read().unobserved, "the gap to be counted")
        rows = capture.rows()
    assert sum(row["packets_out"] for row in rows) == 1000
    most = capture.accounts.read().unobserved["not_counting"].octets_out_at_most
    assert most is not None
    assert 70 * OCTETS <= most < 70 * OCTETS + 1000


AGENT = """
import json, sys, threading
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
from pathlib import Path
from agent.core.accounts import Accounts
from agent.core.errors import CaptureError
from agent.core.stages import Context
from collectors.ebpf import Settings
accounts, stop, packets = Accounts(), threading.Event(), 0
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
settings = Settings(**json.loads(sys.argv[1]))
try:
    for n, batch in enumerate(settings.build(Context(accounts=accounts, state_dir=Path(sys.argv[2]))).collect(stop)):
        if not n: print("ready", flush=True)
        packets += int(batch["packets_out"].sum())
        if packets: print(packets, flush=True)
except CaptureError as error: print("refused:", error, flush=True)
else: print(json.dumps({"packets": packets} | {k: v.as_dict() for k, v in accounts.read().unobserved.items()}), flush=True)
"""


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    """No agent outlives its test, also where that fails."""
    yield
    for running in _started:
        running.kill()
        running.communicate()
    _started.clear()


@dataclass
class Agent:
    """The collector in a process of its own, so that it can be killed."""

    running: subprocess.Popen[str]

    def line(self) -> str:
        """What it says next."""
        assert self.running.stdout is not None
        return self.running.stdout.readline().strip()

    def ready(self) -> None:
        """Wait until it counts."""
        assert self.line() == "ready"

    def end(self) -> Any:
        """Stop it in order; its last word."""
        said, _ = self.running.communicate("\n", timeout=30)
        return json.loads(said.splitlines()[-1])

    def kill(self) -> None:
        """Without any warning."""
        self.running.send_signal(signal.SIGKILL)
        self.running.communicate()


def agent(group: Group, state: Path, **settings: Any) -> Agent:
    given = {"cgroup": str(group.folder), "interval": 1} | settings
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    running = hosting.start_in(group.space, AGENT, json.dumps(given), str(state), **pipes)
    _started.append(running)
    return Agent(running)


def test_a_crash_without_pins_is_a_gap_bounded_by_the_interfaces(
    two: Pair, here: Group, tmp_path: Path
) -> None:
    """Killed where nothing can be pinned: the next start knows since when, and that no more passed than was on the wire."""
    first = agent(here, tmp_path, pin_dir=str(tmp_path), interval=60)
    first.ready()
    here.run(SEND, PEER4, 300, 1)
    two.settle()
    first.kill()
    second = agent(here, tmp_path, pin_dir=str(tmp_path), interval=60)
    second.ready()
    told = second.end()
    most = told["not_counting"]["octets_out_at_most"]
    assert told["packets"] == 0
    assert 300 * OCTETS <= most < 300 * OCTETS + 2000
    assert told["not_counting"]["seconds"] > 0
    third = agent(here, tmp_path, pin_dir=str(tmp_path))
    third.ready()
    assert third.end() == {"packets": 0}, "an orderly stop is no gap"


def test_pins_that_are_gone_after_a_crash_are_a_gap(two: Pair, here: Group, tmp_path: Path) -> None:
    """The BPF file system unmounted: counting goes on; killed then, the next start counts a gap instead of nothing."""
    with hosting.bpf_folder() as pins:
        first = agent(here, tmp_path, pin_dir=str(pins))
        first.ready()
        netns.run("umount", "-l", str(pins.parent))
        here.run(SEND, PEER4, 40, 1)
        two.settle()
        assert first.line() == "40"
        first.kill()
        netns.run("mount", "-t", "bpf", "bpf", str(pins.parent))
        second = agent(here, tmp_path, pin_dir=str(pins))
        second.ready()
        assert "not_counting" in second.end()


def test_a_second_agent_is_refused(here: Group, tmp_path: Path) -> None:
    """Two agents at once on the same maps: the second ends with a sentence that names the setting; the first counts on."""
    with hosting.bpf_folder() as pins:
        first = agent(here, tmp_path / "a", pin_dir=str(pins))
        first.ready()
        second = agent(here, tmp_path / "b", pin_dir=str(pins))
        said = second.line()
        second.running.communicate("\n")
        here.run(SEND, PEER4, 5, 1)
        assert first.end()["packets"] == 5
    assert said.startswith("refused: another agent counts with")
    assert "ebpf.instance" in said


def test_a_watched_group_that_is_removed_ends_the_capture_with_what_it_counted(
    two: Pair, tmp_path: Path
) -> None:
    """The control group of the settings deleted while it is watched: its rows are handed out, then it says what is gone."""
    with hosting.group(two.host) as keep:
        folder = keep.folder / "below"
        folder.mkdir()
        watched = Group(folder, two.host)
        with (
            pytest.raises(CaptureError, match=r"ebpf\.cgroup"),
            capturing(watched, state_dir=tmp_path) as capture,
        ):
            watched.run(SEND, PEER4, 20, 1)
            wait_for(lambda: not (folder / "cgroup.procs").read_text(), "the group to be empty")
            folder.rmdir()
            wait_for(lambda: capture.task.done, "the capture to end")
        assert capture.packets() == 20


def test_groups_below_that_come_and_go_are_counted_and_named(two: Pair, here: Group) -> None:
    """Control groups made and removed between two readings: every packet is counted; those that lived a second are named."""
    with capturing(here, interval=60) as capture:
        for n in range(3):
            folder = here.folder / f"docker-{n:064x}.scope"
            folder.mkdir()
            below = Group(folder, two.host)
            running = below.start(SEND + "sys.stdin.readline()", PEER4, 10, 1)
            seen = len(capture.batches)
            wait_for(lambda seen=seen: len(capture.batches) > seen + 2, "two ticks")  # type: ignore[misc]
            running.communicate("\n")
            wait_for(lambda folder=folder: not (folder / "cgroup.procs").read_text(), "the group to be empty")  # type: ignore[misc]
            folder.rmdir()
        two.settle()
        rows = capture.rows()
    assert sum(row["packets_out"] for row in rows) == 30
    assert {row["container"] for row in rows} == {f"{n:064x}" for n in range(3)}


def test_a_network_namespace_that_goes_away_takes_no_row_with_it(here: Group) -> None:
    """What a namespace sent before it was removed is in the rows, and the capture goes on."""
    with capturing(here) as capture:
        with netns.pair() as gone:
            Group(here.folder, gone.host).run(SEND, PEER4, 25, 1)
        wait_for(lambda: capture.packets() == 25, "the rows")
        rows = capture.rows()
    assert sum(row["octets_out"] for row in rows) == 25 * OCTETS


class Stepping(SystemClock):
    """The host's clock, set by somebody."""

    step_ns = 0

    def now_ns(self) -> int:
        """As :class:`SystemClock`, with the step."""
        return super().now_ns() + self.step_ns


def test_a_clock_step_loses_and_doubles_nothing(two: Pair, here: Group) -> None:
    """The clock set back and ahead by an hour: every packet is counted once, and no row ends before it begins or lies ahead."""
    clock = Stepping()
    with capturing(here, clock=clock) as capture:
        for step_s in (0, -3600, 7200):
            clock.step_ns = step_s * SECOND_NS
            here.run(SEND, PEER4, 100, 5)
            sent = capture.packets()
            wait_for(lambda sent=sent: capture.packets() > sent or capture.packets() == 300, "a reading")  # type: ignore[misc]
        two.settle()
        rows = capture.rows()
    assert sum(row["packets_out"] for row in rows) == 300
    assert all(row["start_ns"] <= row["end_ns"] for row in rows)
    assert max(row["end_ns"] for row in rows) <= clock.now_ns()


def test_an_interface_that_vanishes_takes_no_row_with_it(two: Pair, here: Group) -> None:
    """The interface deleted while the host is watched: what went over it is counted, and the capture goes on."""
    netns.join(two, "h1", "p1")
    netns.address(two.host, "h1", "198.51.100.1", "2001:db8:1::1")
    with capturing(here) as capture:
        here.run(SEND, "198.51.100.2", 5, 1)  # nobody answers there: they wait for ARP, and reach no wire
        here.run(SEND, PEER4, 30, 1)
        two.host.ip("link", "del", "h1")
        here.run(SEND, PEER4, 12, 1)
        two.settle()
        rows = capture.rows()
    assert sum(row["packets_out"] for row in rows if row["remote_address"] == PEER4) == 42
    assert {row["interface"] for row in rows if row["remote_address"] == PEER4} == {"h0"}


def test_without_btf_older_sockets_are_unattributed_and_the_rest_goes_on(
    two: Pair, here: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without BTF: sockets older than the agent say unattributed, not kernel; younger ones have their process."""

    def refused(_owners: int) -> int:
        raise OSError(errno.EINVAL, "bpf_object__load: Invalid argument (libbpf: kernel BTF is missing)")

    monkeypatch.setattr("collectors.bpf.programs.back_fill", refused)
    monkeypatch.setattr("collectors.ebpf.back_fill", refused)
    old = here.start("s = socket.socket(2, 2); print('open', flush=True); sys.stdin.readline(); s.send(b'x') if s.connect_ex((sys.argv[1], 9)) else s.send(b'y')", PEER4)  # fmt: skip
    older = here.start(OLD, PEER4)
    for one in (old, older):
        assert one.stdout is not None
        assert one.stdout.readline() == "open\n"
    with capturing(here) as capture:
        older.communicate("\n", timeout=20)
        old.communicate("\n", timeout=20)
        rows = capture.rows()
    told = {(row["remote_port"], row["pid"], row["attribution"]) for row in rows}
    assert told == {(8, None, "unattributed"), (9, old.pid, "process")}


OLD = """
s = socket.socket(2, 2); s.connect((sys.argv[1], 8)); print("open", flush=True); sys.stdin.readline(); s.send(b"x")
"""


def test_control_groups_of_version_1_alone_are_no_hindrance_to_root(
    two: Pair, here: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 2 not mounted anywhere: it is mounted for this process alone, and everything is counted."""
    monkeypatch.setattr(roots, "mounted", lambda: None)
    before = Path("/proc/self/mounts").read_text()
    mine = "192.0.2.204"
    two.host.ip("addr", "add", f"{mine}/24", "dev", "h0")
    with capturing(here, cgroup=None) as capture:
        here.run(
            f"s = socket.socket(2, 2); s.bind(('{mine}', 0)); s.sendto(bytes(100), (sys.argv[1], 9))", PEER4
        )
        rows = [row for row in capture.rows() if row["local_address"] == mine]
    assert [(row["octets_out"], row["cgroup"]) for row in rows] == [(OCTETS, here.path)]
    assert Path("/proc/self/mounts").read_text() == before


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_control_groups_of_version_1_alone_and_no_right_to_mount_is_said() -> None:
    """Where mounting is refused, the sentence holds the command that mends it."""
    code = """
from collectors.bpf import roots
roots.mounted = lambda: None
from collectors.ebpf import Settings
print(Settings().hindrance())
"""
    rights = "-all,+bpf,+net_admin,+perfmon,+dac_read_search"
    done = subprocess.run(
        ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={rights}", f"--ambient-caps={rights}",
         f"--bounding-set={rights}", sys.executable, "-c", code),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "mount -t cgroup2" in done.stdout


def test_a_missing_libbpf_is_said_with_the_package_to_install() -> None:
    """Without the library: one sentence, no trace, for check and for the run alike."""
    code = """
import threading
from pathlib import Path
from collectors.bpf import libbpf
libbpf._LIBRARY = "libbpf-none.so.1"
from agent.core.accounts import Accounts
from agent.core.errors import CaptureError
from agent.core.stages import Context
from collectors.ebpf import Settings
print(Settings().hindrance())
try: next(iter(Settings().build(Context(accounts=Accounts(), state_dir=Path("/nonexistent"))).collect(threading.Event())))
except CaptureError as error: print(error)
"""
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == second
    assert "libbpf-none.so.1" in first
    assert "libbpf1" in first
