"""Ordinary life: 30 days x 50 stores of 20 kinds with the traps of a data centre. What is innocent must stay quiet.

A new seed each time; ``python -m tests.bench ordinary SEED`` repeats a run. Writes its table into docs/detection.md.
"""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from tests.bench.page import Bar, Report
from tests.tools.ordinary import KINDS, Life, Lived, live
from tests.tools.places import ROOT

DAYS = 30


def main(numbers: list[str]) -> bool:
    """Run it, print it, put it into the page; whether a bar is not met."""
    seed = int(numbers[0]) if numbers else secrets.randbelow(2**31)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sekisho-") as folder:
        lived = {}
        for approvals in (True, False):
            life = Life(seed)
            lived[approvals] = live(life, life.policy(Path(folder), approvals=approvals), DAYS)
        life = Life(seed)
        traps = {sent.trap for day in range(DAYS) for sent in life.day(day)}
    with_them = lived[True]
    report = Report(
        "ordinary",
        f"Ordinary life, {DAYS} days of {with_them.store_days // DAYS} stores of {len(KINDS)} kinds, seed {seed}",
        [
            ["", "store-days", "rows", "high", "medium", "medium in 10 store-days", "most from"],
            _row("known transfers approved", with_them),
            _row("no approval at all", lived[False]),
        ],
        [
            Bar("cases at high, approved", 0, _high(with_them), "cases", at_most=True),
            Bar("cases at high, no approval", 0, _high(lived[False]), "cases", at_most=True),
            Bar("cases at medium, approved", 1, _medium(with_them), "in 10 store-days", at_most=True),
        ],
        (
            "No past: every receiver is new on the first day. A person closes each case in the night after it was opened, "
            "so what comes again is another case.",
            f"Traps: {'; '.join(sorted(traps))}.",
            "Not in it, for they are decided before the rules and tested there: several vantages of one flow, clocks that "
            "are wrong, addresses that move between machines, silent hosts, maintenance.",
        ),
        page=ROOT / "docs/detection.md",
    )
    report.publish()
    return any(not bar.is_met for bar in report.bars)


def _row(name: str, lived: Lived) -> list[str]:
    most = ", ".join(
        f"{rule.partition('/')[2]} to {entity} ({n})" for _, rule, entity, n in lived.largest[:3]
    )
    return [
        name,
        f"{lived.store_days:,}",
        f"{lived.rows:,}",
        f"{_high(lived):g}",
        f"{lived.cases['medium']}",
        f"{_medium(lived):.2f}",
        most or "none",
    ]


def _high(lived: Lived) -> float:
    return float(lived.cases["high"] + lived.cases["critical"])


def _medium(lived: Lived) -> float:
    return 10 * lived.cases["medium"] / lived.store_days
