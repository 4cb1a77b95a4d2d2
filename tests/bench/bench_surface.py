"""The smallest total that the detector finds nine times in ten, by tactic; and how far relays can be trusted.

    python -m tests.bench surface [--full] [--seed N] [--runs N]

Coarse: one day in three kinds of ordinary life, thirty days in the busiest. ``--full``: 1, 7, 30 and 90 days, 1 to 1,000
streams, all three kinds of life. The seed is new each time and printed. Writes the tables of ``docs/detection.md``.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence

from tests.bench.page import DETECTION, Report
from tests.tools.surface import SURE, TOTALS, judge_relays, smallest
from tests.tools.tactics import BACKGROUNDS, GB, MB, TACTICS, Plan

FEW_TOTALS = tuple(total for total in TOTALS if total not in (200 * MB, 2 * GB, 20 * GB))
MANY_WAYS = "many streams, many addresses, one owner"


def main(arguments: Sequence[str]) -> int:
    """Run the grid, print it, and write it into the page."""
    asked = argparse.ArgumentParser(prog="python -m tests.bench surface")
    asked.add_argument("--full", action="store_true", help="the whole grid: hours")
    asked.add_argument("--seed", type=int, default=None, help="repeat a run")
    asked.add_argument("--relays", action="store_true", help="only judge relays")
    asked.add_argument("--runs", type=int, default=0, help="of relays judged; default 60, with --full 400")
    given = asked.parse_args(arguments)
    seed = secrets.randbelow(2**31) if given.seed is None else given.seed
    print(f"seed {seed}", file=sys.stderr)
    if not given.relays:
        _grid(seed, full=given.full)
    _relays(seed, given.runs or (400 if given.full else 60))
    return 0


def _grid(seed: int, *, full: bool) -> None:
    days = (1, 7, 30, 90) if full else (1, 30)
    seeds = [seed + n for n in range(20 if full else 5)]
    cells = [(d, b) for d in days for b in BACKGROUNDS if full or d == 1 or b == "busy"]
    rows = [["tactic", *(f"{d} {'day' if d == 1 else 'days'}, {b}" for d, b in cells)]]
    done, whole = 0, len(TACTICS) * len(cells)
    for tactic in TACTICS:
        found = []
        for day, background in cells:
            streams = (1, 1000) if full and tactic == MANY_WAYS else (50,)
            totals = TOTALS if full else FEW_TOTALS
            each = [smallest(tactic, background, Plan(0, day, n), seeds, totals) for n in streams]
            found.append(_size(0 if 0 in each else max(each)))
            done += 1
            _progress(done, whole, tactic)
        rows.append([tactic, *found])
    notes = [
        f"The smallest of {_size(TOTALS[0])} to {_size(TOTALS[-1])} that people are told of in {SURE:.0%} of "
        f"{len(seeds)} runs; *not found*: none of these. Smaller totals were not tried.",
        "In busy life the hosts between send the owner a little of their own, which may count with it.",
        "Rules: the pack `operator` as shipped, and two more: 500 MB in 12 months to a restricted owner, and "
        "100 MB in 24 h of several stores together.",
        f"Seed {seed}; `python -m tests.bench surface{' --full' if full else ''}`.",
    ]
    Report("surface", "Smallest total found", rows, notes=notes, page=DETECTION).publish()


def _relays(seed: int, runs: int) -> None:
    judged = judge_relays(seed, runs)
    rows = [
        ["", "of", "part"],
        [
            "planted relays that were told (recall)",
            f"{judged.found} of {judged.planted}",
            f"{judged.recall:.2f}",
        ],
        [
            "told as matched that were planted (precision)",
            f"{judged.told_rightly} of {judged.told}",
            f"{judged.precision:.2f}",
        ],
    ]
    notes = [
        f"{runs} runs, every other with a relay of 200 MB to 100 GB; in all of them another host takes from the store and "
        "sends the restricted owner data of its own, a hundredth to ten times as much: where that happens to fit in "
        "volume and time, it is told, for flows show no more.",
        f"Seed {seed}; `python -m tests.bench surface --relays --runs {runs}`.",
    ]
    Report("relays", "Relays told", rows, notes=notes, page=DETECTION).publish()


def _size(octets: int) -> str:
    if not octets:
        return "not found"
    return f"{octets / GB:g} GB" if octets >= GB else f"{octets / MB:g} MB"


def _progress(done: int, whole: int, what: str) -> None:
    bar = "#" * (done * 30 // whole)
    print(
        f"\r[{bar:<30}] {done}/{whole} {what:<50.50}",
        end="\n" if done == whole else "",
        file=sys.stderr,
        flush=True,
    )
