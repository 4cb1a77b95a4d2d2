"""The live view: what leaves, where to, who owns the other end, which cases are open. Drawn with rich, read-only."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.cli.common import place, size, table
from agent.cli.screen import ALARM, BAD, WARN, Column, Screen, is_plain, sparkline
from agent.core.accounts import Account, Amounts
from agent.core.clock import SECOND_NS
from agent.core.finding import Case, Notice, NoticeKind, Severity
from agent.view import SERIES_S, DestinationLine, Reading
from agent.words import shown

STYLE = {
    Severity.INFORMATIONAL: "dim",
    Severity.LOW: "",
    Severity.MEDIUM: WARN,
    Severity.HIGH: BAD,
    Severity.CRITICAL: ALARM,
}
KEYS: Final = {
    "r": "rate",
    "m": "minute",
    "o": "out",
    "i": "in",
    "f": "flows",
    "c": "country",
    "n": "network",
    "w": "owner",
    "s": "store",
}
"""Key -> what it sorts by."""
HELP: Final = "r rate  m minute  o out  i in  f flows  c place  n network  w owner  s store"
SPARK = 20
"""Bars of a row: three seconds each."""


@dataclass
class LiveView:
    """Renders a reading of the program. Show it with :func:`live`; it is drawn anew at each refresh."""

    title: str
    read: Callable[[int, str], Reading]
    """Asked for so many lines, sorted so: :meth:`agent.view.View.read`."""
    account: Callable[[], Account]
    console: Console
    notes: tuple[str, ...] = ()
    cases: dict[str, Case] = field(default_factory=dict)
    events: deque[str] = field(default_factory=lambda: deque(maxlen=4))
    show_cases: bool = True
    sort: str = "rate"
    keyed: bool = True
    """Say which keys there are."""
    leaves: bool = True
    """Whether the key q ends it. Not where people are guarded by it: a stray key must not end that."""

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

    def press(self, key: str) -> bool:
        """A key of the user's: sorts by what it stands for. Returns whether it is the one to leave."""
        self.sort = KEYS.get(key.lower(), self.sort)
        return self.leaves and key in ("q", "Q")

    def __rich__(self) -> RenderableType:
        height = max(self.console.height, 12)
        width = self.console.width
        case_rows = min(len(self.cases), 5) if self.show_cases else 0
        frame = 2 if self.cases else 1
        room = height - 5 - (case_rows + frame if self.show_cases else 0)
        room -= len(self.events) + len(self.notes) + (1 if self.keyed else 0)
        room = max(room, 3)
        reading = self.read(room, self.sort)
        parts: list[RenderableType] = [self._head(reading, width), self._account_line()]
        parts.append(self._destinations(reading, room))
        if self.show_cases:
            parts.append(self._cases(width))
        parts += [
            Text(shown(note, 500), style=WARN, overflow="ellipsis", no_wrap=True)
            for note in (*self.notes, *self.events)
        ]
        if self.keyed:
            by = "place" if self.sort == "country" else self.sort
            said = f"{'q quit' if self.leaves else 'Ctrl-C stop'}  sorted by {by}  {HELP}"
            parts.append(Text(said, style="dim", overflow="ellipsis", no_wrap=True))
        return Group(*parts)

    def _head(self, reading: Reading, width: int) -> RenderableType:
        seconds = max((reading.now_ns - reading.since_ns) // SECOND_NS, 0)
        last = sum(reading.series_out[-10:]) / 10
        first = Text(no_wrap=True, overflow="ellipsis")
        first.append(shown(self.title), "bold")
        first.append(f"  {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}  ", "dim")
        first.append(f"out {size(last)}/s", "bold" if last else "dim")
        first.append(
            f"  total out {size(reading.octets_out)}, in {size(reading.octets_in)}, {reading.flows:,} flows"
        )
        bars = sparkline(reading.series_out, plain=is_plain(self.console))
        said = f"{bars}  last {SERIES_S} s" if width >= SERIES_S + 11 else bars[-width:]
        return Group(first, Text(said, no_wrap=True, overflow="crop"))

    def _account_line(self) -> Text:
        account = self.account()
        gone = sum(account.dropped.values(), Amounts())
        frames = sum(f for f, _ in account.lost_frames.values())
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"captured {size(account.captured.octets_out)} out", "dim")
        if gone or frames:
            reasons = ", ".join([*account.dropped, *account.lost_frames])
            line.append(f"  lost: {size(gone.octets_out)} and {frames:,} frames ({shown(reasons)})", BAD)
        else:
            line.append("  lost: nothing", "dim")
        if account.unobserved:
            seconds = sum(gap.seconds for gap in account.unobserved.values())
            line.append(f"  not observed: {seconds:,.0f} s", BAD)
        if account.reconciled is not None and (share := account.reconciled.unexplained_share_out) is not None:
            line.append(f"  by interfaces in no row: {share:.1%}", BAD if share > 0.01 else "dim")
        if account.residue:
            line.append(f"  NOT EXPLAINED: {account.residue}", BAD)
        return line

    def _destinations(self, reading: Reading, rows: int) -> RenderableType:
        made = table(
            [
                Column("place", least=5),
                Column("network", least=10),
                Column("owner on record", rank=2),
                Column("store", rank=1),
                Column("out/s 10s", right=True),
                Column("1 min", right=True, rank=3),
                Column("out", right=True),
                Column("in", right=True, rank=4),
                Column("flows", right=True, rank=6),
                Column("last minute", rank=5, least=SPARK),
            ]
        )
        made.quiet = True
        now_s = reading.now_ns // SECOND_NS
        for line in reading.destinations[:rows]:
            made.add_row(*self._cells(line, now_s))
        if not reading.destinations:
            return Group(made, Text("nothing has left this host for an external address yet", style="dim"))
        return made

    def _cells(self, line: DestinationLine, now_s: int) -> list[str]:
        rate, minute = line.rate(now_s), line.rate(now_s, SERIES_S)
        series = line.series(now_s)
        step = SERIES_S // SPARK
        bars = [sum(series[i : i + step]) for i in range(0, SERIES_S, step)]
        return [
            place(line.country),
            line.network,
            owner_of(line),
            ", ".join(sorted(line.stores)) or "-",
            size(rate) if rate else "",
            size(minute) if minute else "",
            size(line.octets_out),
            size(line.octets_in),
            f"{line.flows:,}",
            sparkline(bars, plain=is_plain(self.console)),
        ]

    def _cases(self, width: int) -> RenderableType:
        if not self.cases:
            return Text("no case is open", style="dim")
        made = Table.grid(padding=(0, 1))
        for case in sorted(self.cases.values(), key=lambda c: (-c.severity, -c.updated_ns))[:5]:
            made.add_row(
                Text(case.severity.name.lower(), style=STYLE[case.severity], no_wrap=True),
                Text(shown(case.id), no_wrap=True),
                Text(summary_of(case), overflow="ellipsis", no_wrap=True),
                Text(case.state.value, style="dim", no_wrap=True),
            )
        return Panel(
            made,
            title="cases (sekisho cases show ID)",
            title_align="left",
            width=width,
            border_style=max((c.severity, STYLE[c.severity]) for c in self.cases.values())[1] or "dim",
        )


def owner_of(line: DestinationLine) -> str:
    """The owner on record with its country, else who runs the network."""
    return f"{line.owner} ({place(line.owner_country)})" if line.owner else line.provider or "-"


def summary_of(case: Case) -> str:
    """What was observed, in half a line."""
    amount = size(case.traffic.content_octets_out)
    return f"{amount} observed from {shown(case.store.id)} to {shown(case.destination.label)}"


@contextlib.contextmanager
def live(view: LiveView, screen: Screen, leave: threading.Event) -> Iterator[None]:
    """Draw the view once a second, at each key and at each change of the screen's size, until the block ends.

    The key q sets ``leave``.
    """
    from agent.cli.keys import keys

    again, done = threading.Event(), threading.Event()

    def heard(key: str) -> None:
        if view.press(key):
            leave.set()
        again.set()

    def resized(_number: int, _frame: FrameType | None) -> None:
        again.set()

    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGWINCH, signal.signal(signal.SIGWINCH, resized))
        # The keys' block is the outer one: the terminal is itself again only after the screen is.
        stack.enter_context(keys(heard))
        shown_live = stack.enter_context(Live(view, console=screen, screen=True, auto_refresh=False))

        def draw() -> None:
            while not done.is_set():
                shown_live.update(view, refresh=True)
                again.wait(1.0)
                again.clear()

        artist = threading.Thread(target=draw, name="live-view", daemon=True)
        artist.start()
        try:
            yield
        finally:
            done.set()
            again.set()
            artist.join(timeout=2.0)
