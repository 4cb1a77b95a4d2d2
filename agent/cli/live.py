"""The live view: what leaves, where to, who owns the other end, which cases are open. Drawn with rich, read-only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.cli.common import place, size, table
from agent.core.accounts import Account, Amounts
from agent.core.clock import SECOND_NS
from agent.core.finding import Case, Notice, NoticeKind, Severity
from agent.view import DestinationLine, Reading
from agent.words import shown

BARS = "▁▂▃▄▅▆▇█"
STYLE = {
    Severity.INFORMATIONAL: "dim",
    Severity.LOW: "cyan",
    Severity.MEDIUM: "yellow",
    Severity.HIGH: "red",
    Severity.CRITICAL: "bold red",
}


def sparkline(values: tuple[int, ...]) -> str:
    """One character per value, the largest being a full bar; nothing is a space, so that silence looks like silence."""
    top = max(values, default=0)
    if not top:
        return " " * len(values)
    return "".join(BARS[min(7, v * 8 // (top + 1))] if v else " " for v in values)


@dataclass
class LiveView:
    """Renders a reading of the program. Give it to ``rich.live.Live``; it draws itself anew at each refresh."""

    title: str
    read: Callable[[], Reading]
    account: Callable[[], Account]
    console: Console
    notes: tuple[str, ...] = ()
    cases: dict[str, Case] = field(default_factory=dict)
    events: deque[str] = field(default_factory=lambda: deque(maxlen=4))
    show_cases: bool = True

    def hear(self, notice: Notice) -> None:
        """Take up a notice: a case's news, or an event of sekisho's own."""
        if notice.case is not None:
            self.cases[notice.case.id] = notice.case
        elif notice.event is not None and notice.kind is NoticeKind.EVENT:
            detail = ", ".join(f"{k} {shown(str(v))}" for k, v in notice.event.detail.items())
            self.events.append(f"{notice.event.name}: {detail}")

    def update(self, cases: tuple[Case, ...]) -> None:
        """Take up changed cases."""
        for case in cases:
            self.cases[case.id] = case

    def __rich__(self) -> RenderableType:
        reading = self.read()
        height = max(self.console.height, 12)
        width = self.console.width
        parts: list[RenderableType] = [self._head(reading, width), self._account_line()]
        case_rows = min(len(self.cases), 5) if self.show_cases else 0
        room = height - 7 - (case_rows + 3 if self.show_cases else 0) - len(self.events) - len(self.notes)
        parts.append(self._destinations(reading, max(room, 3), width))
        if self.show_cases:
            parts.append(self._cases(width))
        parts += [
            Text(note, style="yellow", overflow="ellipsis", no_wrap=True)
            for note in (*self.notes, *self.events)
        ]
        return Group(*parts)

    def _head(self, reading: Reading, width: int) -> RenderableType:
        seconds = max((reading.now_ns - reading.since_ns) // SECOND_NS, 0)
        last = sum(reading.series_out[-10:]) / 10
        first = Text(no_wrap=True, overflow="ellipsis")
        first.append(self.title, "bold")
        first.append(f"  {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}  ", "dim")
        first.append(f"out {size(last)}/s", "bold green" if last else "dim")
        first.append(
            f"  total out {size(reading.octets_out)}, in {size(reading.octets_in)}, {reading.flows:,} flows"
        )
        if width < 70:
            return first
        return Group(first, Text(f"{sparkline(reading.series_out)}  last 60 s", style="green", no_wrap=True))

    def _account_line(self) -> Text:
        account = self.account()
        gone = sum(account.dropped.values(), Amounts())
        frames = sum(f for f, _ in account.lost_frames.values())
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"captured {size(account.captured.octets_out)} out", "dim")
        if gone or frames:
            reasons = ", ".join([*account.dropped, *account.lost_frames])
            line.append(f"  lost: {size(gone.octets_out)} and {frames:,} frames ({reasons})", "bold red")
        else:
            line.append("  lost: nothing", "dim")
        if account.residue:
            line.append(f"  NOT EXPLAINED: {account.residue}", "bold red")
        return line

    def _destinations(self, reading: Reading, rows: int, width: int) -> RenderableType:
        wide = width >= 100
        columns: list[str | tuple[str, str]] = ["place", "network"]
        columns += ["owner on record"] if width >= 70 else []
        columns += ["store"] if wide else []
        columns += [("out/s", "right"), ("out", "right")]
        columns += [("in", "right")] if wide else []
        made: Table = table(columns)
        for column in made.columns:
            column.no_wrap = True
            column.overflow = "ellipsis"
        now_s = reading.now_ns // SECOND_NS
        for line in reading.destinations[:rows]:
            made.add_row(*self._cells(line, now_s, width))
        if not reading.destinations:
            return Group(made, Text("nothing has left this host for an external address yet", style="dim"))
        return made

    @staticmethod
    def _cells(line: DestinationLine, now_s: int, width: int) -> list[str]:
        rate = line.rate(now_s)
        owner = f"{line.owner} ({place(line.owner_country)})" if line.owner else line.provider or "-"
        cells = [place(line.country), line.network]
        cells += [owner] if width >= 70 else []
        cells += [", ".join(sorted(line.stores)) or "-"] if width >= 100 else []
        cells += [size(rate) if rate else "", size(line.octets_out)]
        cells += [size(line.octets_in)] if width >= 100 else []
        return cells

    def _cases(self, width: int) -> RenderableType:
        if not self.cases:
            return Text("no case is open", style="dim")
        made = Table.grid(padding=(0, 1))
        for case in sorted(self.cases.values(), key=lambda c: (-c.severity, -c.updated_ns))[:5]:
            made.add_row(
                Text(case.severity.name.lower(), style=STYLE[case.severity]),
                case.id,
                Text(
                    f"{size(case.traffic.content_octets_out)} observed from {case.store.id} to {shown(case.destination.label)}",
                    overflow="ellipsis",
                    no_wrap=True,
                ),
                Text(case.state.value, style="dim"),
            )
        return Panel(
            made,
            title="cases (sekisho cases show ID)",
            title_align="left",
            width=width,
            border_style="yellow",
        )
