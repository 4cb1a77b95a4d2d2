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

from rich.cells import cell_len
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
from agent.view import OTHERS, SERIES_S, DestinationLine, Reading
from agent.words import Phrases, shown

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
    say: Phrases
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
            named = self.say.named("event", notice.event.name)
            detail = ", ".join(f"{k} {shown(str(v))}" for k, v in notice.event.detail.items())
            self.events.append(self.say("event_detail", key=named, value=detail) if detail else named)

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
            parts.append(Text(self._keys(width), style="dim", overflow="ellipsis", no_wrap=True))
        return Group(*parts)

    def _keys(self, width: int) -> str:
        """Which keys there are, in brackets the one that it is sorted by; on a narrow screen without their words."""
        end = self.say("live.quit" if self.leaves else "live.stop")
        words = {key: f"{key} {self.say(f'key.{by}')}" for key, by in KEYS.items()}
        said = f"{end}  {self._marked(words)}"
        return said if cell_len(said) <= width else f"{end}  {self._marked({key: key for key in KEYS})}"

    def _marked(self, words: dict[str, str]) -> str:
        return "  ".join(f"[{said}]" if KEYS[key] == self.sort else said for key, said in words.items())

    def _head(self, reading: Reading, width: int) -> RenderableType:
        seconds = max((reading.now_ns - reading.since_ns) // SECOND_NS, 0)
        last = sum(reading.series_out[-10:]) / 10
        first = Text(no_wrap=True, overflow="ellipsis")
        first.append(shown(self.title), "bold")
        first.append(f"  {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}  ", "dim")
        first.append(self.say("live.rate", size=size(last)), "bold" if last else "dim")
        out, in_ = size(reading.octets_out), size(reading.octets_in)
        totals = "  " + self.say("live.totals", out=out, in_=in_, flows=f"{reading.flows:,}")
        if first.cell_len + cell_len(totals) <= width:
            first.append(totals)
        bars = sparkline(reading.series_out, plain=is_plain(self.console))
        last_minute = "  " + self.say("live.last", seconds=SERIES_S)
        said = bars + last_minute if width >= SERIES_S + cell_len(last_minute) else bars[-width:]
        return Group(first, Text(said, no_wrap=True, overflow="crop"))

    def _account_line(self) -> Text:
        account = self.account()
        gone = sum(account.dropped.values(), Amounts())
        frames = sum(f for f, _ in account.lost_frames.values())
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(self.say("live.captured", size=size(account.captured.octets_out)) + "  ", "dim")
        if gone or frames:
            reasons = shown(", ".join([*account.dropped, *account.lost_frames]))
            lost = self.say("live.lost", size=size(gone.octets_out), frames=f"{frames:,}", reasons=reasons)
            line.append(lost, BAD)
        else:
            line.append(self.say("live.lost_nothing"), "dim")
        if account.unobserved:
            seconds = sum(gap.seconds for gap in account.unobserved.values())
            line.append("  " + self.say("live.unobserved", seconds=f"{seconds:,.0f}"), BAD)
        if account.reconciled is not None and (share := account.reconciled.unexplained_share_out) is not None:
            line.append(
                "  " + self.say("live.in_no_row", share=f"{share:.1%}"), BAD if share > 0.01 else "dim"
            )
        if account.residue:
            line.append("  " + self.say("live.not_explained", amounts=account.residue), BAD)
        return line

    def _destinations(self, reading: Reading, rows: int) -> RenderableType:
        is_named = any(line.names for line in reading.destinations[:rows])
        made = table(
            [
                *columns_of_end(is_named=is_named),
                Column("rate", right=True),
                Column("last_minute_rate", right=True, rank=3),
                Column("octets_out", right=True),
                Column("octets_in", right=True, rank=4),
                Column("flows", right=True, rank=6),
                Column("last_minute", rank=5, least=SPARK),
            ],
            self.say,
        )
        made.quiet = True
        now_s = reading.now_ns // SECOND_NS
        for line in reading.destinations[:rows]:
            made.add_row(*self._cells(line, now_s, is_named=is_named))
        if not reading.destinations:
            return Group(made, Text(self.say("live.nothing_yet"), style="dim"))
        return made

    def _cells(self, line: DestinationLine, now_s: int, *, is_named: bool) -> list[str]:
        rate, minute = line.rate(now_s), line.rate(now_s, SERIES_S)
        series = line.series(now_s)
        step = SERIES_S // SPARK
        bars = [sum(series[i : i + step]) for i in range(0, SERIES_S, step)]
        return [
            *cells_of_end(line, self.say, is_named=is_named),
            size(rate) if rate else "",
            size(minute) if minute else "",
            size(line.octets_out),
            size(line.octets_in),
            f"{line.flows:,}",
            sparkline(bars, plain=is_plain(self.console)),
        ]

    def _cases(self, width: int) -> RenderableType:
        if not self.cases:
            return Text(self.say("live.no_case"), style="dim")
        made = Table.grid(padding=(0, 1))
        for case in sorted(self.cases.values(), key=lambda c: (-c.severity, -c.updated_ns))[:5]:
            made.add_row(
                Text(severity_of(case, self.say), style=STYLE[case.severity], no_wrap=True),
                Text(shown(case.id), no_wrap=True),
                Text(summary_of(case, self.say), overflow="ellipsis", no_wrap=True),
                Text(self.say(f"case_state.{case.state}"), style="dim", no_wrap=True),
            )
        return Panel(
            made,
            title=self.say("live.cases"),
            title_align="left",
            width=width,
            border_style=max((c.severity, STYLE[c.severity]) for c in self.cases.values())[1] or "dim",
        )


def columns_of_end(*, is_named: bool) -> list[Column]:
    """The columns that say who the other end is, and which stores send there."""
    name = [Column("remote_name", rank=5, least=14)] if is_named else []
    where = [Column("remote_country", least=5), Column("network", least=16)]
    return [*where, *name, Column("remote_owner", rank=2), Column("store", rank=1)]


def cells_of_end(line: DestinationLine, say: Phrases, *, is_named: bool) -> list[str]:
    """What stands in them: of the owner on record its country too, without one who runs the network."""
    owner = f"{line.owner} ({place(line.owner_country)})" if line.owner else line.provider or "-"
    return [
        place(line.country),
        say("live.others") if line.network == OTHERS else line.network,
        *([", ".join(line.names) or "-"] if is_named else []),
        owner,
        ", ".join(sorted(line.stores)) or "-",
    ]


def severity_of(case: Case, say: Phrases) -> str:
    """The severity in a word."""
    return say(f"severity.{case.severity.name.lower()}").lower()


def destination_of(case: Case, say: Phrases) -> str:
    """What the other end is called."""
    return say("unknown_network") if case.destination.entity == "unknown" else shown(case.destination.label)


def summary_of(case: Case, say: Phrases) -> str:
    """What was observed, in half a line."""
    amount = size(case.traffic.content_octets_out)
    return say("observed", size=amount, store=shown(case.store.id), destination=destination_of(case, say))


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
