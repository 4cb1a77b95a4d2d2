"""The tables of what capture costs, and the bars it is held to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tests.bench import marked
from tests.bench.bpf_stats import Spent
from tests.bench.loads import Run

if TYPE_CHECKING:
    from tests.bench.bench_overhead import Cost, Found

WIDEST = 0.15
OURS = "ebpf"
_SAYS = {
    "tcp": ("one TCP stream (iperf3)", "octets"),
    "udp": ("64-octet datagrams", "datagrams"),
    "churn": ("short TCP connections, 200 octets there, 1,000 back", "connections"),
    "pgbench": ("pgbench -S, one client", "transactions"),
}
Interval = tuple[float, float, float]
"""Median, lower and upper bound."""


def interval(ratios: Sequence[float]) -> Interval:
    """Median and the bootstrap 95 % interval of the median, the same every time for the same ratios."""
    values = np.array(ratios)
    drawn = np.random.default_rng(1).choice(values, (10_000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(np.median(values)), float(low), float(high)


_METHOD = f"""Each run of 1 s with a collector stands between two without, all of them in turn, eBPF in every round.
Both ends of the load share one core, the collector has the other, and they go before everything else on the machine. Both
ends are watched, so all costs stand twice in the ratio; of pgbench (runs of 2 s) only the database's.

- **Ratio**: what a second of the load's CPU carried with the collector, over what it carried in the runs before and after.
  Both ends keep their one core busy, so this is its speed with other work on the machine taken out. *By the clock* is the
  plain ratio of the speeds, which other work does touch. *Void*: the interval is wider than {WIDEST}.
- **CPU**: of the collector's processes, user and system, under 10 s of load with one end watched, from its start until the
  collector had said all it counted; once warm. What is done inside the load's own system calls (eBPF programs, copies
  into a ring) is in the ratio, and of eBPF in its own table.
- **Charged**: what the kernel charges its memory group, less what it can take back at once (inactive page cache): pages,
  page cache in use, BPF maps (not the rings of packet sockets).
- **Counted/true**: packets of the interface's counter, both ways.
- **Settings of the others**: softflowd, pmacctd and tcpdump as their manuals run them on one interface; netobserv-ebpf-agent
  on one interface with a table of our size, flows as lines of JSON after 1 s (sooner than its 5 s, or it would say nothing in
  a run), told that the kernel is an old one, for it refuses to start where kprobes are missing."""


def text(found: Found) -> tuple[str, bool]:
    """The section, and whether every bar was met."""
    bars, kept = _bars(found)
    parts = [marked.where(), _METHOD, bars, _speeds(found), _costs(found), _hooks(found)]
    if found.absent:
        parts.append(f"Not there: {', '.join(found.absent)}.")
    return "\n\n".join(part for part in parts if part), kept


def _by_cpu(found: Found, kind: str, name: str) -> Interval:
    return interval([pair.ratio(lambda run: run.per_cpu) for pair in found.pairs[kind, name]])


def _shown(which: Interval) -> tuple[str, str]:
    middle, low, high = which
    return f"{middle:.3f}", f"{low:.3f}..{high:.3f}" + (" void" if high - low > WIDEST else "")


def _table(*heads: str) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _kinds(found: Found) -> list[str]:
    return [kind for kind in _SAYS if any(kind == k for k, _ in found.pairs)]


def _speeds(found: Found) -> str:
    lines = _table("load", "collector", "pairs", "ratio", "95 % interval", "by the clock", "95 % interval")
    for kind in _kinds(found):
        says, unit = _SAYS[kind]
        runs = [
            r
            for (k, _), pairs in found.pairs.items()
            if k == kind
            for p in pairs
            for r in (p.before, p.after)
        ]
        low, middle, high = np.quantile([run.speed for run in runs], (0, 0.5, 1)).tolist()
        lines.append(
            _row(says, f"none: {middle:,.0f} {unit}/s [{low:,.0f}..{high:,.0f}]", "", "1", "", "1", "")
        )
        for (k, name), pairs in found.pairs.items():
            if k == kind:
                clock = interval([pair.ratio(lambda run: run.speed) for pair in pairs])
                shown = (*_shown(_by_cpu(found, kind, name)), *_shown(clock))
                lines.append(_row(kind, name, str(len(pairs)), *shown))
    late = {name: pairs for (k, name), pairs in found.pairs.items() if k == "pgbench"}
    if late:
        lines += ["", *_table("pgbench", "p99 of latency: with/without", "95 % interval", "p99 with, µs")]
    for name, pairs in late.items():
        micros = statistics.median(_p99(pair.run) for pair in pairs)
        lines.append(_row(name, *_shown(_late(found, name)), f"{micros:.0f}"))
    return "\n".join(lines)


def _late(found: Found, name: str) -> Interval:
    return interval([pair.ratio(_p99) for pair in found.pairs["pgbench", name]])


def _p99(run: Run) -> float:
    assert run.p99_us is not None
    return run.p99_us


def _costs(found: Found) -> str:
    lines = _table("load", "collector", "CPU, % of a core", "kernel share", "CPU ns for each", "RSS MiB", "PSS MiB", "charged MiB", "counted/true")  # fmt: skip
    for (kind, name), runs in found.costs.items():
        shares = [one.seen.packets / one.run.packets for one in runs]
        charged = [one.charged_mib for one in runs if one.charged_mib is not None]
        each = ", ".join(f"{1e9 * one.cpu.whole_s / one.run.amount:,.0f}" for one in runs)
        lines.append(
            _row(
                f"{kind}: {_SAYS[kind][1]}",
                name,
                f"{100 * statistics.median(one.cpu.whole_s / one.run.seconds for one in runs):.2f}",
                f"{statistics.median(one.cpu.kernel_share for one in runs):.0%}",
                f"{_cpu_ns(runs):,.0f} [{each}]",
                f"{statistics.median(one.rss_mib for one in runs):.0f}",
                f"{statistics.median(one.pss_mib for one in runs):.0f}",
                f"{statistics.median(charged):.0f}" if charged else "",
                f"{statistics.median(shares):.4f} [{min(shares):.4f}..{max(shares):.4f}]",
            )
        )
    return "\n".join(lines) if found.costs else ""


def _figures(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cpu_ns(runs: list[Cost]) -> float:
    """The collector's CPU for one datagram or connection."""
    return 1e9 * statistics.median(one.cpu.whole_s / one.run.amount for one in runs)


def _hooks(found: Found) -> str:
    if not found.hooks:
        return ""
    lines = [
        "Inside the kernel, one end watched as on a real host (BPF_ENABLE_STATS, whose own cost is in the figures):",
        "",
        *_table("load", "collector", "ns per run of each program", "ns per unit of the load"),
    ]
    for (kind, name), runs in found.hooks.items():
        each = ", ".join(f"{program} {ns:.0f}" for program, ns in _each_run(runs).items())
        lines.append(_row(f"{kind}, per {_SAYS[kind][1]}", name, each, _figures(_a_unit(runs))))
    return "\n".join(lines)


def _each_run(runs: list[tuple[Run, dict[str, Spent]]]) -> dict[str, float]:
    """Median ns per run, by program."""
    names = dict.fromkeys(name for _, took in runs for name, one in took.items() if one.runs)
    return {
        name: statistics.median(took[name].ns / took[name].runs for _, took in runs if name in took and took[name].runs)
        for name in names
    }  # fmt: skip


def _a_unit(runs: list[tuple[Run, dict[str, Spent]]]) -> float:
    return statistics.median(sum(one.ns for one in took.values()) / run.amount for run, took in runs)


def _bars(found: Found) -> tuple[str, bool]:
    rows = [*_speed_bars(found), *_cpu_bars(found), *_hook_bars(found)]
    lines = _table("bar", "measured", "")
    lines += [_row(says, measured, {True: "met", False: "**not met**", None: "void"}[met]) for says, measured, met in rows]  # fmt: skip
    return ("\n".join(lines) if rows else ""), not any(met is False for _, _, met in rows)


Bar = tuple[str, str, bool | None]


def _speed_bars(found: Found) -> list[Bar]:
    rows: list[Bar] = []
    for kind, least in (("tcp", 0.93), ("churn", 0.72)):
        if (kind, OURS) in found.pairs:
            which = _by_cpu(found, kind, OURS)
            met = which[1] >= least if which[2] - which[1] <= WIDEST else None
            rows.append(
                (f"{_SAYS[kind][0]}: lower bound of the ratio ≥ {least}", " in ".join(_shown(which)), met)
            )
    if ("pgbench", OURS) in found.pairs:
        which = _late(found, OURS)
        met = which[0] <= 1.05 if which[2] - which[1] <= WIDEST else None
        rows.append(("pgbench: p99 latency with/without, median ≤ 1.05", " in ".join(_shown(which)), met))
    return rows


def _cpu_bars(found: Found) -> list[Bar]:
    rows: list[Bar] = []
    for kind in ("udp", "churn"):
        for other, share in (("softflowd", 1.0), ("pmacctd", 0.25)):
            if {(kind, OURS), (kind, other)} <= found.costs.keys():
                mine, its = (_cpu_ns(found.costs[kind, name]) for name in (OURS, other))
                says = (
                    f"{_SAYS[kind][0]}: CPU ≤ {other}'s"
                    if share == 1
                    else f"{_SAYS[kind][0]}: CPU ≤ a quarter of {other}'s"
                )
                rows.append((says, f"{mine:,.0f} ns against {its:,.0f} ns for each", mine <= share * its))
    return rows


def _hook_bars(found: Found) -> list[Bar]:
    rows: list[Bar] = []
    if runs := found.hooks.get(("udp", OURS)):
        ns = _each_run(runs).get("sekisho_egress", float("nan"))
        rows.append(("in the kernel ≤ 260 ns for a packet out", f"{ns:.0f} ns", ns <= 260))
    if runs := found.hooks.get(("churn", OURS)):
        us = _a_unit(runs) / 1e3
        rows.append(("in the kernel ≤ 7 µs for a short connection", f"{us:.1f} µs", us <= 7))
    return rows
