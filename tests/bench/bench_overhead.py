"""What capture costs: python -m tests.bench.bench_overhead [--rounds 20] [--seconds 1] [--only NAME ...] [--loads ...]

Needs root. Each run with a collector stands between two without; both ends of the load on core 1, the collector on core
0. A ratio is what a second of the load's CPU carries with the collector over what it carries in the runs before and
after: both ends share one core and keep it busy, so that is the speed the core would give if it did nothing else, and
other work on the machine does not touch it. The ratio by the clock stands beside it. Median and bootstrap 95 % interval
of the ratios of all rounds; a ratio whose interval is wider than 0.15 is void. With all its words left out it writes its
tables into docs/capture-accuracy.md. Exit code 1 where a bar was not met.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench import marked, overhead_page
from tests.bench.bpf_stats import Spent, spent, stopwatch
from tests.bench.charged import Charged, Cpu
from tests.bench.loads import Loads, Run, loads
from tests.bench.rivals import Place, Seen, Starter, rivals
from tests.capture.leftovers import sweep
from tests.tools import netns

AGENT_CORE, LOAD_CORE = 0, 1
KINDS = ("tcp", "udp", "churn", "pgbench")
STOPWATCH_RUNS = 3
STEADY_KINDS, STEADY_S = ("udp", "churn"), 10


@dataclass(frozen=True, slots=True)
class Cost:
    """What a collector used under a load that one end of it is watched of, once warm."""

    run: Run
    cpu: Cpu
    """From the start of the load until it had said all that it counted."""
    rss_mib: float
    pss_mib: float
    charged_mib: float | None
    seen: Seen


@dataclass(frozen=True, slots=True)
class Pair:
    """A run with a collector, and the runs before and after it without."""

    before: Run
    run: Run
    after: Run

    def ratio(self, of: Callable[[Run], float]) -> float:
        """With over without."""
        return 2 * of(self.run) / (of(self.before) + of(self.after))


@dataclass(slots=True)
class Found:
    """All that was measured."""

    pairs: dict[tuple[str, str], list[Pair]] = field(default_factory=lambda: defaultdict(list))
    """(load, collector) -> runs with and without."""
    costs: dict[tuple[str, str], list[Cost]] = field(default_factory=lambda: defaultdict(list))
    hooks: dict[tuple[str, str], list[tuple[Run, dict[str, Spent]]]] = field(default_factory=lambda: defaultdict(list))  # fmt: skip
    """(load, collector) -> runs under the kernel's stopwatch, with what each of its programs spent."""
    absent: list[str] = field(default_factory=list)


def main() -> int:
    """Run, print, write."""
    args = _arguments()
    if os.geteuid():
        print("left out: it needs root, for it makes network namespaces")
        return 0
    marked.end_in_order()
    sweep()
    found = Found()
    starters, found.absent = rivals()
    chosen = {name: start for name, start in starters.items() if not args.only or name in args.only}
    with tempfile.TemporaryDirectory(prefix="sekisho-overhead-") as name, netns.pair(offload=True) as two:
        folder = Path(name)
        with loads(two, folder, LOAD_CORE) as load:
            if load.ask is None:
                found.absent.append("pgbench (not installed)")
            kinds = [kind for kind in args.loads or KINDS if kind in load.kinds]
            for number in range(args.rounds):
                # The others stand there for comparison; half as many pairs do for them.
                now = {
                    n: s
                    for n, s in chosen.items()
                    if n == overhead_page.OURS or number % args.others_every == 0 or args.only
                }
                for kind in kinds:
                    _round(load, folder, kind, args.seconds, now, found)
                print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
            for _ in range(args.costs):
                for kind in [kind for kind in STEADY_KINDS if kind in kinds]:
                    for collector, start in chosen.items():
                        found.costs[kind, collector].append(_cost(load, folder, kind, start))
            for kind in kinds:
                _under_the_stopwatch(load, folder, kind, args.seconds, chosen, found)
    text, kept = overhead_page.text(found)
    if not (args.only or args.loads or args.rounds != 20):
        marked.write("capture-accuracy.md", "bench_overhead", text)
    print(text)
    return 0 if kept else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--others-every", type=int, default=2, help="other collectors only in every so many rounds"
    )
    parser.add_argument("--costs", type=int, default=2, help="how often CPU and memory are measured")
    parser.add_argument("--seconds", type=int, default=1, help="length of each load")
    parser.add_argument("--only", nargs="+", help="only these collectors; nothing is written then")
    parser.add_argument("--loads", nargs="+", choices=KINDS, help="only these; nothing is written then")
    return parser.parse_args()


def _round(load: Loads, folder: Path, kind: str, seconds: int, starters: dict[str, Starter], found: Found) -> None:  # fmt: skip
    before = load.run(kind, seconds)
    for name, start in starters.items():
        with (
            contextlib.closing(Charged("collector")) as charged,
            start(Place(load.two.host, folder, AGENT_CORE, charged, load.watched)),
        ):
            run = load.run(kind, seconds)
        after = load.run(kind, seconds)
        found.pairs[kind, name].append(Pair(before, run, after))
        before = after


def _cost(load: Loads, folder: Path, kind: str, start: Starter) -> Cost:
    with (
        contextlib.closing(Charged("collector")) as charged,
        start(Place(load.two.host, folder, AGENT_CORE, charged, load.watched)) as rival,
    ):
        # What it does the first time only is not what it costs.
        warm = load.run(kind, 1, apart=True)
        rival.settle()
        used = charged.cpu()
        run = load.run(kind, STEADY_S, apart=True)
        rss_mib, pss_mib = charged.resident_mib()
        memory_mib = charged.memory_mib()
        rival.settle()
        cpu = charged.cpu() - used
        seen = rival.stop()
        if rival.ends_to_say:
            cpu = charged.cpu() - used
    both = replace(run, packets=run.packets + warm.packets, octets=run.octets + warm.octets)
    return Cost(both, cpu, rss_mib, pss_mib, memory_mib, seen)


def _under_the_stopwatch(load: Loads, folder: Path, kind: str, seconds: int, starters: dict[str, Starter], found: Found) -> None:  # fmt: skip
    """One end watched, as on a real host."""
    for name, start in starters.items():
        for _ in range(STOPWATCH_RUNS):
            with (
                contextlib.closing(Charged("collector")) as charged,
                start(Place(load.two.host, folder, AGENT_CORE, charged, load.watched)) as rival,
            ):
                if not spent(charged.pids()):
                    break
                with stopwatch():
                    before = spent(charged.pids())
                    run = load.run(kind, seconds, apart=True)
                    after = spent(charged.pids())
                rival.stop()
            took = {name: one - before.get(name, Spent(0, 0)) for name, one in after.items()}
            found.hooks[kind, name].append((run, took))


if __name__ == "__main__":
    sys.exit(main())
