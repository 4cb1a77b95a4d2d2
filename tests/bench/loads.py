"""What is sent while collectors are measured: both ends on one core, first in line there, in a control group that pays."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.bench import database
from tests.bench.charged import Charged
from tests.bench.database import Latencies
from tests.bench.rivals import FIRST
from tests.capture import load
from tests.tools.netns import HOST4, PEER4, Namespace, Pair, wait_for

PORT = 5001
_LINK_HEADER = 14


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a load."""

    amount: float
    """Octets, datagrams, connections or transactions."""
    seconds: float
    cpu_s: float
    """CPU of the load's processes and of the core's thread for late packets (ksoftirqd)."""
    packets: int
    octets: int
    """Frames of the interface both ways, and their octets at the IP layer."""
    p99_us: float | None = None
    """Of the latency of transactions."""

    @property
    def speed(self) -> float:
        """Amount a second."""
        return self.amount / self.seconds

    @property
    def per_cpu(self) -> float:
        """Amount for a second of CPU: what the core would carry if it did nothing else."""
        return self.amount / self.cpu_s


@dataclass(slots=True)
class Loads:
    """The loads between two namespaces. ``watched`` is the group that collectors watch."""

    two: Pair
    folder: Path
    core: int
    watched: Charged
    aside: Charged
    """For the far end, where it shall not be watched."""
    ask: Callable[[int], Latencies] | None = None
    """Runs pgbench, where it is installed."""
    _late: Path = field(init=False)

    def __post_init__(self) -> None:
        self._late = _thread(f"ksoftirqd/{self.core}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that can be run here."""
        return ("tcp", "udp", "churn", *(("pgbench",) if self.ask else ()))

    def run(self, kind: str, seconds: int, *, apart: bool = False) -> Run:
        """Run one; ``apart``: its far end is in the other group."""
        peer = self.aside if apart else self.watched
        packets, octets = self._link()
        cpu_s = self._cpu_s()
        p99_us = None
        begin = time.monotonic()
        if kind == "pgbench":
            assert self.ask is not None
            # Its latency has a long tail; twice the time makes it as steady as the others.
            micros = self.ask(2 * seconds)
            amount, took_s, p99_us = (
                float(len(micros)),
                time.monotonic() - begin,
                float(np.quantile(micros, 0.99)),
            )
        elif kind == "tcp":
            amount, took_s = self._iperf(seconds, peer)
        else:
            names = {"udp": ("udp", "udp-drain"), "churn": ("churn", "churn-serve")}[kind]
            amount, took_s = self._load(*names, seconds, peer)
        cpu_s = self._cpu_s() - cpu_s
        later_packets, later_octets = self._link()
        return Run(amount, took_s, cpu_s, later_packets - packets, later_octets - octets, p99_us)

    def churn_at(self, per_second: int, seconds: int) -> int:
        """Short connections at a steady rate; how many."""
        return int(self._load("churn", "churn-serve", seconds, self.watched, per_second)[0])

    def pinned(self, namespace: Namespace, *words: str, group: Charged | None = None) -> list[str]:
        """A command line of the load."""
        inside = ("nsenter", f"--net=/run/netns/{namespace.name}", "taskset", "-c", str(self.core), *FIRST)
        return (group or self.watched).line(*inside, *words)

    def _cpu_s(self) -> float:
        late = int((self._late / "schedstat").read_text().split()[0]) / 1e9
        return self.watched.cpu().whole_s + self.aside.cpu().whole_s + late

    def _link(self) -> tuple[int, int]:
        (link,) = json.loads(self.two.host.ip("-j", "-s", "link", "show", "h0"))
        ways = link["stats64"]["rx"], link["stats64"]["tx"]
        packets = sum(way["packets"] for way in ways)
        return packets, sum(way["bytes"] for way in ways) - _LINK_HEADER * packets

    def _load(
        self, client: str, server: str, seconds: int, peer: Charged, rate: int = 0
    ) -> tuple[float, float]:
        program = str(load.built(self.folder))
        line = self.pinned(self.two.peer, program, server, PEER4, str(PORT), "600", group=peer)
        serving = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        try:
            assert serving.stdout is not None
            serving.stdout.readline()
            line = self.pinned(self.two.host, program, client, PEER4, str(PORT), str(seconds), str(rate))
            said = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
        finally:
            serving.terminate()
            serving.communicate()
        return float(said["count"]), float(said["seconds"])

    def _iperf(self, seconds: int, peer: Charged) -> tuple[float, float]:
        line = self.pinned(self.two.peer, "iperf3", "-s", "-1", "-i", "0", group=peer)
        serving = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: ":5201 " in self.two.peer.run("ss", "-ltn"), "iperf3 to listen")
            line = self.pinned(self.two.host, "iperf3", "-c", PEER4, "-t", str(seconds), "-i", "0", "-J")
            said = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
        finally:
            serving.terminate()
            serving.wait()
        whole = said["end"]["sum_received"]
        return float(whole["bytes"]), float(whole["seconds"])


def _thread(name: str) -> Path:
    """Of the kernel's own threads, the one of that name."""
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdigit() and (place / "comm").read_text().strip() == name:
                return place
    raise RuntimeError(f"no {name} among the kernel's threads")


@contextlib.contextmanager
def loads(two: Pair, folder: Path, core: int) -> Iterator[Loads]:
    """The loads, with a database at work where one is installed; nothing else moves on the link."""
    _quiet(two)
    with contextlib.closing(Charged("load")) as watched, contextlib.closing(Charged("aside")) as aside:
        made = Loads(two, folder, core, watched, aside)
        with database.serving(two, folder, made.pinned, aside) as ask:
            made.ask = ask
            yield made


def _quiet(two: Pair) -> None:
    """Nothing but the load on the link, and no counters in its way."""
    two.peer.run("nft", "delete", "table", "inet", "truth")
    for mine, end, other, theirs, address in (
        (two.host, "h0", two.peer, "p0", PEER4),
        (two.peer, "p0", two.host, "h0", HOST4),
    ):
        mac = json.loads(other.ip("-j", "link", "show", theirs))[0]["address"]
        mine.ip("neigh", "replace", address, "lladdr", mac, "dev", end, "nud", "permanent")
