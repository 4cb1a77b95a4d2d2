"""``python -m tests.bench [NAME [NUMBERS]]``: one bench, or all of them in turn."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

APART = {"capture", "overhead", "soak", "surface"}
"""They take half an hour, most of them root: ``make bench-capture`` (another page), ``make soak``; ``surface`` (another page)."""


def main() -> None:
    """Run what was asked for."""
    names = sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py"))
    wanted = sys.argv[1:2] or [name for name in names if name not in APART]
    below = False
    for name in wanted:
        if name not in names:
            raise SystemExit(f"no bench is called {name}; there are: {', '.join(names)}")
        print(f"== {name}", file=sys.stderr, flush=True)
        ended = importlib.import_module(f"tests.bench.bench_{name}").main(sys.argv[2:])
        below |= bool(ended)
    sys.exit(below)


main()
