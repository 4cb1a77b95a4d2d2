"""Memory of `sekisho agent` over half an hour of live traffic, with an outage of Kafka in it (root)

    python -m tests.bench soak [MINUTES]     # 30; a sixth of the time Kafka is away

eBPF capture of about 1,000 short connections a second, half of them rows of a store; tables of countries and networks
loaded; a real broker that is stopped and started again. PSS and RSS every second, from the kernel; what it
holds for good is the lowest look of each ten seconds. At the end every
row is recounted from the topic with plain kafka-python and pyarrow, and held to the account and to nft at the far end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from tests.bench import hosted
from tests.bench.charged import Charged, Cpu
from tests.bench.hosted import Memory, Recounted
from tests.bench.page import SCALING, Bar, Report
from tests.tools import netns, topics
from tests.tools.brokers import Broker, cluster

MINUTES: Final = 30.0
PER_SECOND: Final = 1_000
EVERY_S: Final = 1.0
WARM_S: Final = 300.0
"""Tables are touched and the allocator's pools filled in the first minutes (a sixth of a shorter run)."""
FLOOR_S: Final = 10.0
"""Rows gather for so long before they are sealed and their memory is free again: the lowest look of each is what stays."""
FLAT_MIB_PER_HOUR: Final = 4.0
MOST_MIB: Final = 128.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look."""

    at_s: float
    memory: Memory
    charged_mib: float | None


@dataclass
class Soak:
    """What was seen."""

    seconds: float
    away: tuple[float, float]
    """When Kafka was away: from and to, in seconds since the start."""
    tables: str
    samples: list[Sample] = field(default_factory=list)
    cpu: Cpu | None = None
    beat: Mapping[str, Any] = field(default_factory=dict)
    """The last heartbeat of the run."""
    recount: Recounted | None = None
    truth: Mapping[str, int] = field(default_factory=dict)
    most_spooled: int = 0

    @property
    def warm_s(self) -> float:
        """Where warm-up ends."""
        return min(WARM_S, self.seconds / 6)

    def between(self, begin_s: float, end_s: float) -> list[Sample]:
        """Samples of some of the time."""
        return [s for s in self.samples if begin_s <= s.at_s < end_s]

    @property
    def warm(self) -> list[Sample]:
        """Those after warm-up."""
        return self.between(self.warm_s, self.seconds)

    @property
    def calm(self) -> tuple[list[Sample], list[Sample]]:
        """Those after warm-up with Kafka there: before it was away, and from a minute after it was back."""
        return self.between(self.warm_s, self.away[0]), self.between(
            self.away[1] + min(60, self.seconds / 12), self.seconds
        )


def main(arguments: Sequence[str] = ()) -> bool:
    """Measure, print, write the page. Returns whether a bar was not met."""
    minutes = float(arguments[0]) if arguments else MINUTES
    if hosted.left_out():
        return False
    with tempfile.TemporaryDirectory(prefix="sekisho-soak-") as name:
        seen = soak(Path(name), minutes * 60)
    report = told(seen, partial=minutes < MINUTES)
    report.publish()
    return not all(bar.is_met for bar in report.bars)


def soak(folder: Path, seconds: float) -> Soak:
    """Run it."""
    policy = folder / "policy.yaml"
    policy.write_text(hosted.POLICY)
    home = folder / "agent"
    (home / "state").mkdir(parents=True)
    seen = Soak(seconds, (seconds / 3, seconds / 2), hosted.databases(home / "state"))
    with contextlib.ExitStack() as held:
        two = held.enter_context(netns.pair())
        hosted.routes(two)
        broker = held.enter_context(cluster())
        kafka = topics.connection(broker.bootstrap, f"soak{os.getpid()}", connect_s=5.0, request_s=10.0)
        topics.make(broker.bootstrap, kafka.topics.flows, kafka.topics.agents, kafka.topics.alerts)
        near = held.enter_context(contextlib.closing(Charged("near")))
        far = held.enter_context(contextlib.closing(Charged("far")))
        one = held.enter_context(hosted.agent(home, kafka, near, policy=policy))
        with hosted.churn(two, folder, near, far, PER_SECOND, seconds):
            _watch(seen, one, broker.brokers[0])
        broker.brokers[0].wait()
        two.settle()
        one.stop()
        seen.beat = next(b for b in reversed(hosted.beats(kafka)) if b["closing"])
        seen.recount = hosted.recount(kafka)
        counts = two.counts()
        for name, way in (("octets_out", "in"), ("octets_in", "out")):
            seen.truth = {**seen.truth, name: sum(n for (w, _, _), (_, n) in counts.items() if w == way)}
    return seen


def _watch(seen: Soak, one: hosted.Hosted, broker: Broker) -> None:
    """Look until the time is over; stop the broker and start it when that is due."""
    begun, cpu = time.monotonic(), one.group.cpu()
    due: list[tuple[float, Callable[[], object]]] = [
        (seen.away[0], lambda: broker.kill(signal.SIGTERM)),
        (seen.away[1], broker.start),
    ]
    while (at_s := time.monotonic() - begun) < seen.seconds:
        if due and at_s >= due[0][0]:
            due.pop(0)[1]()
        seen.samples.append(Sample(at_s, hosted.memory(one.group), one.group.memory_mib()))
        if len(seen.samples) % 60 == 0:
            last = seen.samples[-1].memory
            print(
                f"    {at_s / 60:5.1f} min  PSS {last.pss:6.1f}  anonymous {last.anonymous:6.1f}  RSS {last.rss:6.1f} MiB",
                file=sys.stderr,
                flush=True,
            )
        if one.process.poll() is not None:
            raise RuntimeError(f"the agent ended: {one.log.read_text()[-3000:]}")
        spooled = sum(
            f.stat().st_blocks * 512 for f in (one.log.parent / "state/spool").glob("lane*/*") if f.exists()
        )
        seen.most_spooled = max(seen.most_spooled, spooled)
        time.sleep(max(0.0, EVERY_S - (time.monotonic() - begun - at_s)))
    seen.cpu = one.group.cpu() - cpu


def floors(samples: Sequence[Sample], value: Callable[[Sample], float]) -> list[tuple[float, float]]:
    """(seconds, MiB) of the lowest look of each ten seconds. What rises and falls with each batch is a sawtooth, in which
    single looks find any slope; its floor is what a run has come to hold."""
    lowest: dict[int, Sample] = {}
    for one in samples:
        at = int(one.at_s // FLOOR_S)
        if at not in lowest or value(one) < value(lowest[at]):
            lowest[at] = one
    return [(one.at_s, value(one)) for _, one in sorted(lowest.items())]


def slope(phases: Sequence[Sequence[Sample]], value: Callable[[Sample], float]) -> float:
    """MiB an hour: the median of the slopes between all pairs of floors of one phase (Theil and Sen), which a few peaks do
    not move."""
    slopes = []
    for samples in phases:
        found = np.array(floors(samples, value))
        at, what = found[:, 0] / 3600, found[:, 1]
        i, j = np.triu_indices(len(at), 1)
        slopes.append((what[j] - what[i]) / (at[j] - at[i]))
    return float(np.median(np.concatenate(slopes)))


def held(seen: Soak) -> tuple[Bar, ...]:
    """How much memory it may hold, and how little more of it over time."""
    lowest = max(mib for _, mib in floors(seen.warm, lambda s: s.memory.pss))
    middle = median(s.memory.pss for s in seen.warm)
    grown = slope(seen.calm, lambda s: s.memory.anonymous)
    return (
        Bar("PSS, median after warm-up", MOST_MIB, middle, "MiB", at_most=True),
        Bar("PSS, highest of the lowest of each 10 s", MOST_MIB, lowest, "MiB", at_most=True),
        Bar("flat: the lowest of each 10 s grows by", FLAT_MIB_PER_HOUR, grown, "MiB an hour", at_most=True),
    )


def told(seen: Soak, *, partial: bool) -> Report:
    """What came of it, as a table with its bars."""
    assert seen.cpu is not None and seen.recount is not None
    account, found = seen.beat["account"], seen.recount
    residue = sum(abs(n) for name in ("residue", "sealed residue") for n in account[name].values())
    unequal = sum(abs(found.sums[name] - account["acked"][name]) for name in found.sums)
    before, after = (median(s.memory.anonymous for s in phase) for phase in seen.calm)
    rows = [["what", "median", "most", ""]]
    phases = (
        ("warm-up", 0.0, seen.warm_s),
        ("before the outage", seen.warm_s, seen.away[0]),
        ("Kafka away", *seen.away),
        ("from then on", seen.away[1], seen.seconds),
        ("last sixth", seen.seconds * 5 / 6, seen.seconds),
    )
    for what, begin, end in phases:
        part = seen.between(begin, end)
        pss, anonymous = [s.memory.pss for s in part], [s.memory.anonymous for s in part]
        rows.append(
            [
                f"PSS, {what} ({(end - begin) / 60:.1f} min)",
                f"{median(pss):.1f} MiB",
                f"{max(pss):.1f} MiB",
                f"anonymous {median(anonymous):.1f}, most {max(anonymous):.1f}",
            ]
        )
    rss, charged = (
        [s.memory.rss for s in seen.warm],
        [s.charged_mib for s in seen.warm if s.charged_mib is not None],
    )
    rows.append(["RSS, after warm-up", f"{median(rss):.1f} MiB", f"{max(rss):.1f} MiB", ""])
    if charged:
        rows.append(
            [
                "charged with both maps in the kernel",
                f"{median(charged):.1f} MiB",
                f"{max(charged):.1f} MiB",
                "",
            ]
        )
    cpu_s = seen.cpu
    rows.append(
        ["anonymous memory, after the outage beside before it", f"{after - before:+.1f} MiB", "", "medians"]
    )
    rows += [
        ["CPU", f"{100 * cpu_s.whole_s / seen.seconds:.2f} % of a core", "", f"{cpu_s.kernel_share:.0%} of it in the kernel"],
        ["most on the disk, spooled", "", f"{seen.most_spooled / 1e6:.0f} MB", "room set aside included"],
        ["captured", f"{account['captured']['flows'] / seen.seconds:,.0f} flows/s", "", f"{account['captured']['flows']:,} in all"],
        ["recounted from the topic", f"{found.rows:,} rows", "", f"{found.store_rows:,} of the store; {found.batches:,} batches, {found.twice} of them twice"],
        ["beside nft at the far end", *_beside(seen), ""],
    ]  # fmt: skip
    bars = (
        *held(seen),
        Bar("residue of the account", 0, residue, "octets and flows", at_most=True),
        Bar(
            "topic beside what the account says was acknowledged",
            0,
            unequal,
            "octets and flows",
            at_most=True,
        ),
    )
    notes = (
        f"{seen.seconds / 60:g} min, of which Kafka was away from minute {seen.away[0] / 60:g} to {seen.away[1] / 60:g}; "
        f"tables loaded: {seen.tables}; looked at every {EVERY_S:g} s",
        f"what gathers until a batch is sealed comes and goes, so growth is taken from the lowest look of each {FLOOR_S:g} s: the "
        f"median of all slopes between two of these before the outage, or two after it (Theil and Sen), of anonymous memory, for pages of files are shared with whatever else runs; without the first {seen.warm_s / 60:g} min and the minute after "
        f"the outage, whose lasting effect stands apart. Flat is "
        f"at most {FLAT_MIB_PER_HOUR:g} MiB an hour: 2 MiB in half an hour is what the allocator's pools move by themselves",
    )
    return Report(
        "soak",
        f"An agent for {seen.seconds / 60:g} minutes: live eBPF capture, tables, Kafka sink, an outage of {(seen.away[1] - seen.away[0]) / 60:g} minutes",
        rows, bars, notes, partial=partial, page=SCALING,
    )  # fmt: skip


def _beside(seen: Soak) -> tuple[str, str]:
    """How far captured octets are from what nft counted at the far end."""
    captured = seen.beat["account"]["captured"]
    out, in_ = (captured[name] - seen.truth[name] for name in ("octets_out", "octets_in"))
    return f"{out:+,} octets out", f"{in_:+,} octets in"
