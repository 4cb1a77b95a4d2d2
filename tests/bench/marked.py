"""Tables that benches write into docs/, each between markers of its own."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

DOCS = Path(__file__).parents[2] / "docs"


def write(page: str, name: str, text: str) -> None:
    """Put ``text`` between the markers ``<!-- name -->`` and ``<!-- /name -->`` of a page in docs/."""
    path = DOCS / page
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    old = path.read_text()
    head, rest = old.split(begin)
    path.write_text(head + begin + text.strip() + "\n" + end + rest.split(end, 1)[1])


def end_in_order() -> None:
    """Let Ctrl-C and SIGTERM end the bench through its clean-up, also where a shell started it with Ctrl-C ignored.

    The clean-up itself is not to be disturbed: a second Ctrl-C does nothing (SIGQUIT still ends it).
    """

    def end(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        signal.default_int_handler(number, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def where() -> str:
    """One line: commit, date, kernel, machine."""
    folder = DOCS.parent
    commit = _said("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD") or "no commit"
    if _said(
        "git", "-C", str(folder), "status", "--porcelain", "--", "agent", "collectors", "enrichers", "tests"
    ):
        commit += " with changes"
    names = {line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")}  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"Commit {commit}, {datetime.now(UTC):%Y-%m-%d}, Linux {platform.release()} {platform.machine()}, "
        f"{os.cpu_count()} cores ({', '.join(sorted(names)) or 'unnamed'}), {memory:.0f} GiB, "
        f"Python {platform.python_version()}."
    )


def _said(*line: str) -> str:
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
