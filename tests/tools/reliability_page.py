"""The table of ``docs/reliability.md``: written by ``make fault``, a line for each scenario that ran."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.tools.places import ROOT

PAGE: Final = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"
HEAD: Final = (
    "scenario", "rows sent", "in the topic", "let go, by reason", "residue", "findings", "lost, and its bound", "commit, date",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """What one scenario came to."""

    scenario: str
    sent: int
    delivered: int
    let_go: Mapping[str, int]
    """Reason -> rows, as the agents' accounts say."""
    findings: str
    lost: str

    def cells(self) -> tuple[str, ...]:
        """As the page has them."""
        let_go = ", ".join(f"{reason} {rows:,}" for reason, rows in sorted(self.let_go.items())) or "0"
        now = datetime.now(UTC).date().isoformat()
        return (
            self.scenario, f"{self.sent:,}", f"{self.delivered:,}", let_go, "0", self.findings, self.lost,
            f"{commit()} {now}",
        )  # fmt: skip


def write(lines: Sequence[Line]) -> None:
    """Put these lines into the page in place of those of the same scenarios; the others stay as they were."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = {line.scenario: line.cells() for line in lines}
    known = [
        tuple(c.strip() for c in row.strip("|").split(" | ")) for row in table.splitlines() if "|" in row
    ]
    kept = {cells[0]: cells for cells in known[2:] if len(cells) == len(HEAD)}
    kept |= rows
    told = [HEAD, tuple("---" for _ in HEAD), *kept.values()]
    made = "\n".join(f"| {' | '.join(cells)} |" for cells in told)
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}")


def commit() -> str:
    """That of the tree, with a mark where it was changed since."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=*", "--abbrev=9"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"
