"""The tables of ``docs/performance.md`` and ``docs/scaling.md``: each stands between two marks and is written by its bench."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.tools.places import ROOT

PAGE = ROOT / "docs/performance.md"
SCALING = ROOT / "docs/scaling.md"
DETECTION = ROOT / "docs/detection.md"


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that was promised, and what was measured of it."""

    what: str
    bar: float
    measured: float
    unit: str = "times"
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the promise is kept."""
        return self.measured <= self.bar if self.at_most else self.measured >= self.bar


@dataclass(frozen=True, slots=True)
class Report:
    """What a bench has to say."""

    name: str
    title: str
    rows: Sequence[Sequence[str]]
    """The first is the head."""
    bars: Sequence[Bar] = ()
    notes: Sequence[str] = ()
    partial: bool = False
    """Something smaller than the promise was measured; it is printed, but not written into the page."""
    page: Path = PAGE

    def text(self) -> str:
        """As Markdown, with commit, date and machine."""
        lines = [f"**{self.title}**", "", *_table(self.rows), ""]
        if self.bars:
            told = [["bar", "promised", "measured", ""]]
            for bar in self.bars:
                sign = "at most" if bar.at_most else "at least"
                told.append(
                    [
                        bar.what,
                        f"{sign} {bar.bar:g} {bar.unit}",
                        f"{bar.measured:.3g} {bar.unit}",
                        "met" if bar.is_met else "**not met**",
                    ]
                )
            lines += [*_table(told), ""]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes), f"- {where()}"])

    def publish(self) -> None:
        """Print it, and put it into the page."""
        print(self.text() + "\n")
        if self.partial:
            return
        page = self.page.read_text(encoding="utf-8")
        begin, end = f"<!-- bench {self.name} -->", "<!-- end -->"
        found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not found.search(page):
            raise SystemExit(f"docs/{self.page.name} has no place marked {begin}; put one there")
        block = f"{begin}\n{self.text()}\n{end}"
        self.page.write_text(found.sub(lambda _: block, page), encoding="utf-8")


def where() -> str:
    """Commit, date and machine."""
    git = ["git", "-C", str(ROOT)]
    commit = _first_line([*git, "describe", "--always"])
    # The pages themselves change with every table.
    pages = [f":!docs/{page.name}" for page in (PAGE, SCALING, DETECTION)]
    if _first_line([*git, "status", "--porcelain", "-uno", "--", ".", *pages]) != "unknown":
        commit += ", changed since"
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"commit {commit}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} x {model}, {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}; load before: {os.getloadavg()[0]:.1f}"
    )


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = rows
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest)]
