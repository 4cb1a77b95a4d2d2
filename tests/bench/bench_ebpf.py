"""What the eBPF tier costs: nanoseconds in the kernel for each packet and connection, memory when its maps are full, and
the CPU of capture, enrichment, detection and archive together at 1,000 new flows a second. Root.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.config import default_state_dir
from collectors.bpf import libbpf
from collectors.bpf.programs import ALWAYS, POLITE, Programs, Wish
from tests.bench.page import Bar, Report
from tests.tools import hosting, netns
from tests.tools.hosting import Group
from tests.tools.netns import PEER4, Pair, Task, wait_for
from tests.tools.places import ROOT

REPEATS = 5
PACKETS, CONNECTIONS = 200_000, 5_000
FLOWS, SECONDS = 1_000, 40
FULL = 131_072
_STATS_RUN_TIME = 0

DATAGRAMS = """
s = socket.socket(2, 2); s.connect((sys.argv[1], 5001)); data = bytes(64)
for _ in range(int(sys.argv[2])): s.send(data)
"""
CHURN = """
for _ in range(int(sys.argv[2])):
    with socket.create_connection((sys.argv[1], int(sys.argv[3]))) as s:
        s.sendall(bytes(200)); s.shutdown(1)
        while s.recv(4096): pass
"""
STEADY = """
s = [socket.socket(2, 2) for _ in range(8)]; began = time.monotonic(); n = 0
while n < int(sys.argv[2]) * int(sys.argv[3]):
    s[n % 8].sendto(bytes(100), (sys.argv[1], 1024 + n // 8 % 60000)); n += 1
    if n % 50 == 0: time.sleep(max(began + n / int(sys.argv[2]) - time.monotonic(), 0))
"""
FILL = """
s = [socket.socket(2, 2) for _ in range(4)]
for n in range(int(sys.argv[2])): s[n % 4].sendto(bytes(20), (sys.argv[1], 1024 + n // 4))
"""


class _Program(ctypes.Structure):
    """The first fields of ``struct bpf_prog_info`` (linux/bpf.h)."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("lengths", ctypes.c_uint32 * 2),
        ("pointers", ctypes.c_uint64 * 2),
        ("load_time", ctypes.c_uint64),
        ("uid", ctypes.c_uint32),
        ("maps", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("more", ctypes.c_uint8 * 112),
        ("run_time_ns", ctypes.c_uint64),
        ("run_count", ctypes.c_uint64),
    ]


assert _Program.run_time_ns.offset == 192


def _ran(programs: Programs) -> dict[str, tuple[int, int]]:
    """Program -> (ns, runs) so far."""
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    out = {}
    for name, link in programs.links.items():
        told, size = libbpf.LinkInfo(), ctypes.c_uint32(ctypes.sizeof(libbpf.LinkInfo))
        library.bpf_obj_get_info_by_fd(link, ctypes.byref(told), ctypes.byref(size))
        fd = library.bpf_prog_get_fd_by_id(told.program)
        info, size = _Program(), ctypes.c_uint32(ctypes.sizeof(_Program))
        library.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
        os.close(fd)
        out[name] = (info.run_time_ns, info.run_count)
    return out


@contextlib.contextmanager
def _peer_serves(two: Pair, port: int = 5002) -> Iterator[None]:
    """A sink for datagrams and a server for short connections."""
    import socket

    stop, ready = threading.Event(), threading.Event()

    def serve() -> None:
        with socket.create_server((PEER4, port), backlog=1000) as server:
            server.settimeout(0.2)
            ready.set()
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    link = server.accept()[0]
                    with link:
                        link.settimeout(5)
                        while link.recv(4096):
                            pass
                        link.sendall(bytes(1000))

    sink = two.peer.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sink.bind((PEER4, 5001))
    task = Task(two.peer, serve)
    wait_for(ready.is_set, "the server")
    try:
        yield
    finally:
        stop.set()
        task.result()
        sink.close()


def _in_kernel(here: Group, two: Pair) -> tuple[list[float], list[float]]:
    """(ns for each packet sent, ns for each short connection, both of one end), one figure a round."""
    packet, connection = [], []
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    stats = library.bpf_enable_stats(_STATS_RUN_TIME)
    if stats < 0:
        raise SystemExit("the kernel does not measure BPF programs (BPF_ENABLE_STATS)")
    programs = Programs.load(Wish(here.folder, FULL, (*ALWAYS, *POLITE)), None)
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        # Other work on the machine evicts what the programs need from the CPU's caches.
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        # A port of its own for each round, or the client searches long for one of its own that does not wait yet.
        for port in range(5002, 5002 + REPEATS):
            with _peer_serves(two, port):
                before = _ran(programs)
                here.run(DATAGRAMS, PEER4, PACKETS)
                after = _ran(programs)
                ns, runs = (
                    a - b for a, b in zip(after["sekisho_egress"], before["sekisho_egress"], strict=True)
                )
                assert runs >= PACKETS
                packet.append(ns / runs)
                before = after
                here.run(CHURN, PEER4, CONNECTIONS, port)
                after = _ran(programs)
                connection.append(sum(after[name][0] - before[name][0] for name in after) / CONNECTIONS)
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        programs.close()
        os.close(stats)
    return packet, connection


class _Memory:
    """A control group in which all that the agent and its maps take is counted."""

    def __init__(self) -> None:
        self.folder = Path("/sys/fs/cgroup/memory") / f"sekisho-bench-{os.getpid()}"
        self.folder.mkdir()

    def anonymous_and_kernel_mib(self) -> float:
        """All but the file cache."""
        cache = {
            k: int(v)
            for k, v in (line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        }
        return (int((self.folder / "memory.usage_in_bytes").read_text()) - cache["cache"]) / 2**20


def _start(two: Pair, here: Group, folder: Path, memory: _Memory) -> subprocess.Popen[str]:
    state = folder / "state"
    state.mkdir()
    databases = default_state_dir() / "databases"
    if databases.is_dir():
        (state / "databases").symlink_to(databases)
    (folder / "sekisho.yaml").write_text(
        f"version: 1\nstate_dir: {state}\ncollectors:\n  ebpf: {{cgroup: {here.folder}, pin: false}}\n"
    )
    code = "import sys; open(sys.argv.pop(1), 'w').write('0')\nfrom agent.cli import main; main()"
    with (folder / "log").open("w") as log:
        agent = hosting.start_in(
            two.host, code, memory.folder / "cgroup.procs", f"--config={folder / 'sekisho.yaml'}", "up", "--plain",
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    wait_for(
        lambda: "capture_started" in (folder / "log").read_text() or agent.poll() is not None, "the agent"
    )
    if agent.poll() is not None:
        raise SystemExit((folder / "log").read_text())
    return agent


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _whole_agent(two: Pair, here: Group, folder: Path) -> tuple[float, list[tuple[float, float]]]:
    """(share of a core at 1,000 new flows a second, (PSS, control group's MiB) before it, after it and with full maps)."""
    memory = _Memory()
    agent = _start(two, here, folder, memory)
    try:
        time.sleep(12)  # over the first reading: imports and first rows are no part of the steady share
        idle = _pss_mib(agent.pid), memory.anonymous_and_kernel_mib()
        before, began = _cpu_s(agent.pid), time.monotonic()
        here.run(STEADY, PEER4, FLOWS, SECONDS)
        share = (_cpu_s(agent.pid) - before) / (time.monotonic() - began)
        steady = _pss_mib(agent.pid), memory.anonymous_and_kernel_mib()
        pss = group = 0.0
        filled = here.start(FILL + FILL, PEER4, FULL - 1000)
        while filled.poll() is None:
            pss, group = max(pss, _pss_mib(agent.pid)), max(group, memory.anonymous_and_kernel_mib())
            time.sleep(0.2)
        filled.communicate()
        end = time.monotonic() + 12
        while time.monotonic() < end:
            pss, group = max(pss, _pss_mib(agent.pid)), max(group, memory.anonymous_and_kernel_mib())
            time.sleep(0.2)
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(60)
        memory.folder.rmdir()
    return share, [idle, steady, (pss, group)]


def main(arguments: Sequence[str] = ()) -> int:
    """Measure, print, write; 1 if a promise is not kept."""
    argparse.ArgumentParser(prog="python -m tests.bench ebpf", description=__doc__).parse_args(
        list(arguments)
    )
    if os.geteuid():
        print("left out: it needs root, for it makes network namespaces and loads programs", file=sys.stderr)
        return 0
    with netns.pair() as two, hosting.group(two.host) as here:
        packet, connection = _in_kernel(here, two)
        with tempfile.TemporaryDirectory(prefix="sekisho-ebpf-") as name:
            share, memory = _whole_agent(two, here, Path(name))

    def told(figures: Sequence[float]) -> str:
        return f"{statistics.median(figures):,.0f} ns ({min(figures):,.0f} to {max(figures):,.0f})"

    bars = (
        Bar("a packet sent, in the kernel", 260, statistics.median(packet), "ns", at_most=True),
        Bar("a short connection, in the kernel", 7, statistics.median(connection) / 1000, "us", at_most=True),
        Bar(
            "capture, enrichment, detection and archive at 1,000 new flows/s",
            2,
            share * 100,
            "% of a core",
            at_most=True,
        ),
        Bar("PSS at 1,000 new flows/s", 128, memory[1][0], "MiB", at_most=True),
        Bar("control group then, with both maps", 128, memory[1][1], "MiB", at_most=True),
    )
    report = Report(
        "ebpf",
        "What the eBPF tier costs",
        (
            ("what", "median (least to most)"),
            (f"a datagram of 64 octets sent, {PACKETS:,} in a round", told(packet)),
            (f"a connection of 200 octets there and 1,000 back, all programs of one end, {CONNECTIONS:,} in a round", told(connection)),
            ("PSS and control group, idle", "{:.0f} and {:.0f} MiB".format(*memory[0])),
            (f"PSS and control group, {FLOWS:,} new flows a second", "{:.0f} and {:.0f} MiB".format(*memory[1])),
            (f"PSS and control group, {FULL - 1000:,} flows in one reading, twice", "{:.0f} and {:.0f} MiB".format(*memory[2])),
        ),
        bars,
        (
            f"In the kernel: time of the programs as the kernel counts it (BPF_ENABLE_STATS), its own reading of the clock "
            f"included; {REPEATS} rounds, both ends first in line for the CPU (nice -20).",
            f"CPU: user and system of `sekisho up --plain` over {SECONDS} s, after its start; databases "
            + ("installed." if (default_state_dir() / "databases").is_dir() else "not installed."),
            f"Memory: {FULL - 1000:,} flows twice, into both maps; the most that was seen, looking every 0.2 s. The control "
            "group holds the process and the kernel's maps, without the file cache.",
        ),
    )  # fmt: skip
    report.publish()
    return int(not all(bar.is_met for bar in bars))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
