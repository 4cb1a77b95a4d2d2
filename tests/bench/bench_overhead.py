"""What capture costs: python -m tests.bench.bench_overhead [--rounds 20] [--seconds 1] [--only NAME ...] [--loads ...]

Needs root. Throughput with a collector over the mean of the runs without before and after it; both ends of the load on
core 1, the collector on core 0. The same by the CPU that the load's processes used, which other work on the machine
does not touch. Median and bootstrap 95 % interval of the ratios of all rounds; a ratio whose interval is wider than 0.15
is void. With all its words left out it writes its table into docs/capture-accuracy.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench import database, marked
from tests.bench.rivals import Seen, Starter, Used, rivals, used
from tests.capture import load
from tests.tools import netns
from tests.tools.netns import HOST4, PEER4, Namespace, Pair, wait_for

AGENT_CORE, LOAD_CORE = 0, 1
WIDEST = 0.15
PORT = 5001
_LINK_HEADER = 14


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a load: its speed, and what the interface carried."""

    speed: float
    per_cpu: float
    """Speed over the CPU seconds of the load's own processes."""
    packets: int
    octets: int
    used: Used | None = None
    seen: Seen | None = None


@dataclass(slots=True)
class Result:
    """Every pair of one collector under one load."""

    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


def main() -> int:
    """Run, print, write."""
    args = _arguments()
    if os.geteuid():
        print("left out: it needs root, for it makes network namespaces")
        return 0
    marked.end_in_order()
    found, absent = rivals()
    chosen = {name: start for name, start in found.items() if not args.only or name in args.only}
    results: dict[tuple[str, str], Result] = defaultdict(Result)
    speeds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="sekisho-overhead-") as name, netns.pair(offload=True) as two:
        folder = Path(name)
        _quiet(two)
        loads: dict[str, Callable[[], float]] = {
            "tcp": lambda: _iperf(two, args.seconds),
            "udp": lambda: _load(two, folder, "udp", "udp-drain", args.seconds),
            "churn": lambda: _load(two, folder, "churn", "churn-serve", args.seconds),
        }
        with database.serving(two, folder, LOAD_CORE) as ask:
            if ask is None:
                absent.append("pgbench")
            else:
                loads["pgbench"] = lambda: ask(args.seconds)
            for round_number in range(args.rounds):
                for kind in args.loads or loads:
                    _round(two, folder, kind, loads[kind], chosen, results, speeds)
                print(f"round {round_number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    text = _text(args, results, speeds, absent)
    if not (args.only or args.loads or args.rounds != 20):
        marked.write("capture-accuracy.md", "bench_overhead", text)
    print(text)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=1, help="length of each load")
    parser.add_argument("--only", nargs="+", help="only these collectors; nothing is written then")
    parser.add_argument("--loads", nargs="+", choices=("tcp", "udp", "churn", "pgbench"), help="only these; nothing is written then")  # fmt: skip
    return parser.parse_args()


def _quiet(two: Pair) -> None:
    """Nothing but the load on the link, and no counters in its way."""
    two.peer.run("nft", "delete", "table", "inet", "truth")
    for mine, end, other, theirs, address in (
        (two.host, "h0", two.peer, "p0", PEER4),
        (two.peer, "p0", two.host, "h0", HOST4),
    ):
        mac = json.loads(other.ip("-j", "link", "show", theirs))[0]["address"]
        mine.ip("neigh", "replace", address, "lladdr", mac, "dev", end, "nud", "permanent")


def _round(
    two: Pair,
    folder: Path,
    kind: str,
    work: Callable[[], float],
    starters: dict[str, Starter],
    results: dict[tuple[str, str], Result],
    speeds: dict[str, list[float]],
) -> None:
    before = _measure(two, work)
    speeds[kind].append(before.speed)
    for name, start in starters.items():
        with start(two.host, folder, AGENT_CORE) as rival:
            at_start = used(rival.pid)
            run = _measure(two, work)
            # Let it take what still waits for it, as it would in its own time.
            time.sleep(0.3)
            now = used(rival.pid)
            seen = rival.stop()
        after = _measure(two, work)
        speeds[kind].append(after.speed)
        cost = Used(now.cpu_s - at_start.cpu_s, now.kernel_share, now.rss_mib, now.pss_mib)
        result = results[kind, name]
        result.ratios.append(2 * run.speed / (before.speed + after.speed))
        result.cpu_ratios.append(2 * run.per_cpu / (before.per_cpu + after.per_cpu))
        result.runs.append(replace(run, used=cost, seen=seen))
        before = after


def _measure(two: Pair, work: Callable[[], float]) -> Run:
    packets, octets = _link(two.host)
    cpu = _cpu_of_ended()
    speed = work()
    cpu = _cpu_of_ended() - cpu
    later_packets, later_octets = _link(two.host)
    return Run(speed, speed / cpu, later_packets - packets, later_octets - octets)


def _cpu_of_ended() -> float:
    """CPU seconds of all children that have ended: of the load, for collectors are ended elsewhere."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _link(namespace: Namespace) -> tuple[int, int]:
    """Frames and their octets at the IP layer, both ways, by the interface's counters."""
    (link,) = json.loads(namespace.ip("-j", "-s", "link", "show", "h0"))
    ways = link["stats64"]["rx"], link["stats64"]["tx"]
    packets = sum(way["packets"] for way in ways)
    return packets, sum(way["bytes"] for way in ways) - _LINK_HEADER * packets


def _pinned(namespace: Namespace, *line: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{namespace.name}", "taskset", "-c", str(LOAD_CORE), *line]


def _load(two: Pair, folder: Path, client: str, server: str, seconds: int) -> float:
    """Datagrams or connections a second."""
    program = str(load.built(folder))
    serving = subprocess.Popen(_pinned(two.peer, program, server, PEER4, str(PORT), "60"), stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert serving.stdout is not None
        serving.stdout.readline()
        line = _pinned(two.host, program, client, PEER4, str(PORT), str(seconds))
        said = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    finally:
        serving.terminate()
        serving.communicate()
    return float(said["rate"])


def _iperf(two: Pair, seconds: int) -> float:
    """Octets a second of one TCP connection."""
    serving = subprocess.Popen(_pinned(two.peer, "iperf3", "-s", "-1", "-i", "0"), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: ":5201 " in two.peer.run("ss", "-ltn"), "iperf3 to listen")
        line = _pinned(two.host, "iperf3", "-c", PEER4, "-t", str(seconds), "-i", "0", "-J")
        said = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    finally:
        serving.terminate()
        serving.wait()
    return float(said["end"]["sum_received"]["bits_per_second"]) / 8


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Median and the bootstrap 95 % interval of the median, the same every time for the same ratios."""
    values = np.array(ratios)
    drawn = np.random.default_rng(1).choice(values, (10_000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(np.median(values)), float(low), float(high)


_SAYS = {
    "tcp": ("one TCP stream (iperf3)", "octets/s"),
    "udp": ("64-octet datagrams", "datagrams/s"),
    "churn": ("short TCP connections, 200 octets there, 1,000 back", "connections/s"),
    "pgbench": ("pgbench -S: 1 / p99 of the latency", "1/s"),
}


def _text(args: argparse.Namespace, results: dict[tuple[str, str], Result], speeds: dict[str, list[float]], absent: list[str]) -> str:  # fmt: skip
    lines = [
        marked.where(),
        "",
        f"{args.rounds} interleaved rounds of {args.seconds} s; both ends of the load on one core, the collector on the other.",
        f"Void: the interval is wider than {WIDEST}. CPU: seconds of user and system in a run of {args.seconds} s, the kernel's "
        "share apart. Counted/true: packets of the interface's counter, both ways; of the TCP stream octets at the IP layer, "
        "which are more where offload frames count as the packets they become, each with its headers.",
        "",
        "| load | collector | speed with/without: median | 95 % interval | by CPU of the load: median | 95 % interval | CPU s | kernel share | RSS MiB | PSS MiB | counted/true |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, (says, unit) in _SAYS.items():
        if kind in speeds:
            spread = [round(q) for q in np.quantile(speeds[kind], (0, 0.5, 1)).tolist()]
            lines.append(f"| {says} | none: {spread[1]:,} {unit} [{spread[0]:,}..{spread[2]:,}] | 1 | | 1 | | | | | | |")  # fmt: skip
        lines += [_line(kind, name, result) for (k, name), result in results.items() if k == kind]
    if absent:
        lines += ["", f"Not installed here: {', '.join(absent)}."]
    return "\n".join(lines)


def _line(kind: str, name: str, result: Result) -> str:
    by_clock = interval(result.ratios)
    # The server that pgbench asks does not end with it, so its CPU is not known here.
    by_cpu = None if kind == "pgbench" else interval(result.cpu_ratios)
    costs = [run.used for run in result.runs if run.used is not None]
    shares = [_share(kind, run) for run in result.runs]
    cells = (
        kind,
        name,
        *_shown(by_clock),
        *(("", "") if by_cpu is None else _shown(by_cpu)),
        f"{statistics.median(c.cpu_s for c in costs):.3f}",
        f"{statistics.median(c.kernel_share for c in costs):.0%}",
        f"{statistics.median(c.rss_mib for c in costs):.0f}",
        f"{statistics.median(c.pss_mib for c in costs):.0f}",
        f"{statistics.median(shares):.4f} [{min(shares):.4f}..{max(shares):.4f}]",
    )
    return "| " + " | ".join(cells) + " |"


def _shown(found: tuple[float, float, float]) -> tuple[str, str]:
    middle, low, high = found
    return f"{middle:.2f}", f"{low:.2f}..{high:.2f}" + (" void" if high - low > WIDEST else "")


def _share(kind: str, run: Run) -> float:
    assert run.seen is not None
    if kind in ("tcp", "pgbench") and run.seen.octets is not None:
        return run.seen.octets / run.octets
    return run.seen.packets / run.packets


if __name__ == "__main__":
    sys.exit(main())
