"""The truth bench in full: python -m tests.bench.bench_capture [--tier NAME] [--short] [SCENARIO ...]

Needs root. Runs every scenario under every collector that exists, prints a line for each, and without further words
writes docs/capture-accuracy.md. Exit code 1 where a promise was not kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

import tests.capture.scenarios  # noqa: F401  declares them
from tests.bench import marked
from tests.capture.agent import Agent
from tests.capture.judge import VERDICTS, Verdict
from tests.capture.leftovers import sweep
from tests.capture.stage import SCENARIOS, Outcome, Tier, run
from tests.capture.tiers import RESETS, TIERS, TIME_WAIT, here, hindrance

HEAD = """| scenario | family | packets out | octets out: error | packets out: error | octets in: error | content: error | sent again | process right | listener | unknown | wrong |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> int:
    """Run, print, write."""
    args = _arguments()
    if os.geteuid():
        print("left out: it needs root, for it makes network namespaces")
        return 0
    marked.end_in_order()
    sweep()
    tiers = [TIERS[name] for name in args.tier] if args.tier else here()
    kept = True
    texts = [marked.where(), _what_is_sent()]
    for tier in tiers:
        if why := hindrance(tier.name):
            texts.append(f"### {tier.name}\n\nIt cannot run here: {why}")
            continue
        outcomes = _all(tier, args.scenario or list(SCENARIOS), full=not args.short)
        kept &= not any(tier.kept(outcome) for outcome in outcomes)
        texts.append(_section(tier, outcomes))
    if not args.scenario and not args.short and not args.tier:
        marked.write("capture-accuracy.md", "bench_capture", "\n\n".join(texts))
    print("\n\n".join(texts))
    return 0 if kept else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenario", nargs="*", help="only these; nothing is written then")
    parser.add_argument("--tier", action="append", help="only this collector; nothing is written then")
    parser.add_argument("--short", action="store_true", help="the amounts of the test suite; nothing is written then")  # fmt: skip
    return parser.parse_args()


def _all(tier: Tier, names: list[str], *, full: bool) -> list[Outcome]:
    out = []
    with tempfile.TemporaryDirectory(prefix="sekisho-truth-") as folder:
        agent = Agent(Path(folder))
        try:
            for name in names:
                out.append(outcome := run(SCENARIOS[name], tier, agent, Path(folder), full=full))
                mark = "not there" if outcome.absent else tier.kept(outcome) or "kept"
                print(
                    f"{tier.name:10} {name:28} {outcome.seconds:5.1f} s  {mark}", file=sys.stderr, flush=True
                )
        finally:
            agent.close()
    return out


def _section(tier: Tier, outcomes: list[Outcome]) -> str:
    lines = [f"### {tier.name}", "", HEAD]
    notes = []
    for outcome in outcomes:
        for family, verdict in outcome.verdicts.items():
            lines.append(_line(outcome.scenario, family, verdict, outcome.sent[family]))
            if verdict.resets and family in tier.unseen_resets and not verdict.exact:
                notes.append(f"- {outcome.scenario}, IPv{family}: {verdict.resets:,} such resets: {RESETS}.")
            notes += [f"- {outcome.scenario}, IPv{family}: {said}" for said in sorted(set(verdict.wrong))[:3]]
        if outcome.absent:
            lines.append(f"| {outcome.scenario} | | not there: {outcome.absent} | | | | | | | | | |")
        for why in (tier.inexact, tier.headers_missing, tier.nameless):
            if outcome.scenario in why:
                notes.append(f"- {outcome.scenario}: {why[outcome.scenario]}.")
        if outcome.scenario in tier.time_wait:
            notes.append(f"- {outcome.scenario}: {TIME_WAIT}.")
        notes += [f"- {outcome.scenario}, {note}" for note in outcome.notes]
        notes += [f"- {outcome.scenario}: frames lost: {reason} {n:,}" for reason, n in outcome.lost_frames.items() if n]  # fmt: skip
    return "\n".join([*lines, "", *notes])


def _what_is_sent() -> str:
    lines = [f"| {each.name} | {each.says} |" for each in SCENARIOS.values()]
    return "\n".join(["| scenario | what is sent |", "|---|---|", *lines])


def _again(content: int, sent: int) -> str:
    """Content beyond what the senders' calls took, as a share; of the outside of a tunnel it says nothing."""
    again = content - sent
    return f"{100 * again / content:.2g} %" if 0 < again < content // 2 else ""


def _line(name: str, family: int, verdict: Verdict, sent: int) -> str:
    true, error = verdict.true, verdict.error
    whole = sum(verdict.octets_by.values())
    shares = [f"{100 * verdict.octets_by.get(v, 0) / whole:.4g} %" if verdict.octets_by.get(v) else "" for v in VERDICTS]  # fmt: skip
    errors = (
        (error.octets_out, true.octets_out),
        (error.packets_out, true.packets_out),
        (error.octets_in, true.octets_in),
        (error.content_octets_out, true.content_octets_out),
    )
    cells = [
        name,
        f"IPv{family}",
        f"{true.packets_out:,}",
        *(_error(*e) for e in errors),
        _again(true.content_octets_out, sent),
        *shares,
    ]
    return "| " + " | ".join(cells) + " |"


def _error(error: int, true: int) -> str:
    return "0" if error == 0 else f"{error:+,} ({100 * error / true:+.3g} %)" if true else f"{error:+,} of 0"


if __name__ == "__main__":
    sys.exit(main())
