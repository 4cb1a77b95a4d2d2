"""From a capture to finished flow records on one core, beside the tools people would use instead.

    python -m tests.bench pcap [PACKETS SESSIONS REPEATS]     # 2,000,000 packets of 50,000 and of 1,000,000 one-way flows

Ours is one process from the start of the interpreter to the last record: both directions in one, timeouts and flags
done. A session is two one-way flows; peers that count one-way are held to twice the sessions.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bench.inputs import CACHE, capture
from tests.bench.measure import REPEATS, Side, Took, Used, in_turns
from tests.bench.page import Bar, Report
from tests.bench.peers import peers
from tests.tools.truth import LOCAL, Truth

OURS = """
from agent.core import process
process.prepare()  # as the command line does before anything else
import sys, threading
from pathlib import Path
from agent.core.accounts import Accounts
from agent.core.stages import Context
from collectors.pcap import Settings
collector = Settings(files=(Path(sys.argv[1]),), local=sys.argv[2:]).build(Context(Accounts(), Path(".")))
flows = octets = packets = 0
for batch in collector.collect(threading.Event()):
    flows += int(batch["flows"].sum())
    octets += int(batch["octets_out"].sum() + batch["octets_in"].sum())
    packets += int(batch["packets_out"].sum() + batch["packets_in"].sum())
print(flows, octets, packets)
"""
FEW = {"softflowd -6": 0.55, "nfpcapd": 0.75, "argus": 1.2, "pmacctd": 2.5, "nfstream": 6.0}
MANY = {"softflowd -6": 1.05, "nfpcapd": 1.6, "argus": 2.2, "pmacctd": 2.2}
GOALS = {25_000: (("softflowd -6",), 1.0), 500_000: (tuple(MANY), 2.0)}
BARS = {25_000: FEW, 500_000: MANY}


def ours(file: Path, truth: Truth) -> Side:
    """Our side: capture to records."""

    def check(used: Used, _fresh: Path) -> str:
        told = tuple(map(int, used.out.split()))
        true = (truth.sessions, truth.octets, truth.packets)
        if told != true:
            raise SystemExit(f"wrong: {told} instead of {true}")
        return ""

    return Side("sekisho", [sys.executable, "-c", OURS, str(file), *LOCAL], check, "this commit")


def main(arguments: list[str]) -> None:
    """One table for each number of flows."""
    if arguments:
        packets, sessions, repeats = (*map(int, arguments), *(2_000_000, 25_000, REPEATS)[len(arguments) :])
        _compare(packets, sessions, repeats, partial=True)
        return
    for sessions in BARS:
        _compare(2_000_000, sessions, REPEATS, partial=False)


def _compare(packets: int, sessions: int, repeats: int, *, partial: bool) -> None:
    file, truth = capture(packets, sessions)
    there, missing = peers(file, truth)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        took = in_turns([ours(file, truth), *there], Path(folder), repeats)
    mine = took["sekisho"]
    rows = [["tool", "CPU s", "M packets/s", "sekisho is", "anonymous MiB", "totals", "version, settings"]]
    rows += [_row(entry, mine, packets) for entry in took.values()]
    Report(
        f"pcap-{sessions}",
        f"{packets:,} packets of {2 * sessions:,} one-way flows, {file.stat().st_size >> 20} MiB, snap length 96, {repeats} runs",
        rows,
        _bars(took, sessions),
        missing,
        partial,
    ).publish()


def _row(entry: Took, mine: Took, packets: int) -> list[str]:
    ratio = "" if entry is mine else f"{entry.median / mine.median:.2f} x as fast"
    return [
        entry.side.name,
        f"{entry.median:.2f}",
        f"{packets / entry.median / 1e6:.2f}",
        ratio,
        f"{entry.anonymous_mib:.0f}",
        f"**wrong**: {entry.wrong}" if entry.wrong else "exact",
        entry.side.settings,
    ]


def _bars(took: dict[str, Took], sessions: int) -> list[Bar]:
    mine = took["sekisho"]
    ratio = {name: entry.median / mine.median for name, entry in took.items()}
    bars = [Bar(f"speed of {n}", bar, ratio[n]) for n, bar in BARS.get(sessions, {}).items() if n in ratio]
    names, goal = GOALS.get(sessions, ((), 0.0))
    bars += [Bar(f"goal: speed of {n}", goal, ratio[n]) for n in names if n in ratio]
    if sessions == 25_000:
        bars.append(Bar("anonymous memory", 80, mine.anonymous_mib * 2**20 / 1e6, "MB", at_most=True))
    if sessions == 500_000:
        each = mine.anonymous_mib * 2**20 / sessions
        bars.append(Bar("anonymous memory of the whole process by flow", 400, each, "octets", at_most=True))
    return bars
