"""The screen: a console that shows text as text, and tables that fit its width.

Only red, magenta, bold and dim are used, and only for what needs attention: of the sixteen colours of a terminal these
can be read on black and on white, and no word depends on them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TextIO

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from agent.words.escape import shown, shown_lines

if TYPE_CHECKING:
    from agent.words import Phrases

PIPED_WIDTH = 200
"""Columns for running text where nobody says how wide the paper is."""
LEAST_WIDTH = 40
"""Narrower than this a table would show nothing at all."""
WHOLE = 10_000
"""As the least width of a column: its texts are not cut, as addresses and times are not; it is left out instead."""
MOST_CUT = 4
"""Cells that are left of a text whatever happens."""
GAP = 2
"""Spaces between two columns."""
BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.:-=+*#"

BAD = "bold red"
WARN = "magenta"
ALARM = "bold red reverse"

Colour = Literal["auto", "always", "never"]


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can draw."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def colour() -> Colour:
    """What was asked for: ``--color``, else NO_COLOR and FORCE_COLOR, else auto."""
    context = click.get_current_context(silent=True)
    asked = context.find_root().params.get("color") if context else None
    if asked in ("always", "never"):
        return "always" if asked == "always" else "never"
    if os.environ.get("NO_COLOR"):
        return "never"
    return "always" if os.environ.get("FORCE_COLOR", "0") not in ("", "0") else "auto"


class Screen(Console):
    """A console through which nothing goes that could command the terminal, whoever wrote it."""

    def on_broken_pipe(self) -> None:
        """Leave the exit code to :func:`agent.cli.main`, as for any other output."""
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Every piece of text with what is hidden in it made visible."""
        for piece in super().render(renderable, options):
            if piece.control or (piece.text.isascii() and piece.text.replace("\n", " ").isprintable()):
                yield piece
            else:
                yield Segment(shown_lines(piece.text), piece.style)


def console(*, err: bool = False) -> Screen:
    """A console that honours --color, NO_COLOR, FORCE_COLOR, COLUMNS, TERM, pipes and the terminal's width."""
    stream = sys.stderr if err else sys.stdout
    piped = not stream.isatty()
    asked = colour()
    made = Screen(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=piped and not os.environ.get("COLUMNS"),
        no_color=asked == "never",
        force_terminal={"always": True, "auto": is_terminal(stream), "never": is_terminal(stream)}[asked],
        color_system="standard" if asked == "always" or (asked == "auto" and is_terminal(stream)) else None,
        legacy_windows=False,
    )
    if piped and not os.environ.get("COLUMNS"):
        made.width = PIPED_WIDTH
    elif made.width < LEAST_WIDTH:
        made.width = LEAST_WIDTH
    return made


def is_measured(console: Console) -> bool:
    """Whether anybody said how wide the paper is; if not, rows are never cut."""
    return console.file.isatty() or bool(os.environ.get("COLUMNS"))


def sparkline(values: Sequence[int], *, plain: bool = False) -> str:
    """One character per value, the largest being a full bar; nothing is a space, so that silence looks like silence."""
    top = max(values, default=0)
    if not top:
        return " " * len(values)
    bars = PLAIN_BARS if plain else BARS
    return "".join(bars[min(7, v * 8 // (top + 1))] if v else " " for v in values)


def is_plain(console: Console) -> bool:
    """Whether the console's letters are too few for bars and ellipses."""
    return not console.encoding.lower().startswith("utf")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. Numbers are aligned to the right and never cut."""

    name: str
    right: bool = False
    rank: int = 0
    """Where the width is too small for all, columns of the highest rank are left out first; 0 stays."""
    least: int = 8
    """Cells to which a text may be cut before a column is left out."""


@dataclass
class Rows:
    """An unframed table that fits the screen: long texts end in an ellipsis, numbers are whole, and what found no
    room is named below."""

    columns: list[Column]
    body: list[list[Text]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    quiet: bool = False
    """Name no left-out columns, as in a live view."""
    left_out: str = "not at this width: {columns}"
    """The words that name them."""
    comma: str = ", "

    def add_row(self, *cells: str | Text | None, style: str = "") -> None:
        """Names come from databases, traffic and other people: whatever they hold, they are shown as text."""
        made = [c if isinstance(c, Text) else Text(shown(c or "", 2000)) for c in cells]
        for cell in made:
            cell.plain = shown(cell.plain, 2000)
        self.body.append(made)
        self.styles.append(style)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width if is_measured(console) else 1_000_000
        kept, widths = self._fit(room)
        dots = "..." if is_plain(console) else "…"
        head = [Text(self.columns[i].name, style="bold") for i in kept]
        for row, style in [
            (head, ""),
            *zip(([r[i] for i in kept] for r in self.body), self.styles, strict=True),
        ]:
            line = Text(style=style, no_wrap=True, overflow="ignore", end="")
            for place, (i, cell) in enumerate(zip(kept, row, strict=True)):
                last = place == len(kept) - 1
                line.append_text(_set(cell, widths[i], self.columns[i].right, last=last, dots=dots))
                if not last:
                    line.append(" " * GAP)
            line.rstrip()
            yield line
            yield Segment("\n")
        gone = [c.name for i, c in enumerate(self.columns) if i not in kept]
        if gone and not self.quiet:
            yield Text(self.left_out.format(columns=self.comma.join(gone)), style="dim")

    def _fit(self, room: int) -> tuple[list[int], list[int]]:
        """Which columns there is room for, and the width of each."""
        natural = [
            max([cell_len(c.name), *(row[i].cell_len for row in self.body)])
            for i, c in enumerate(self.columns)
        ]
        kept = list(range(len(self.columns)))
        while True:
            gaps = GAP * (len(kept) - 1)
            least = sum(
                natural[i] if self.columns[i].right else min(natural[i], self._least(i)) for i in kept
            )
            if least + gaps <= room or not any(self.columns[i].rank for i in kept):
                break
            kept.remove(max(kept, key=lambda i: (self.columns[i].rank, i)))
        widths = list(natural)
        texts = [i for i in kept if not self.columns[i].right]
        over = sum(widths[i] for i in kept) + gaps - room
        while over > 0:
            roomy = [i for i in texts if widths[i] > min(natural[i], self._least(i))]
            wide = max(roomy or texts, key=lambda i: widths[i], default=None)
            if wide is None or widths[wide] <= MOST_CUT:
                break
            widths[wide] -= 1
            over -= 1
        return kept, widths

    def _least(self, i: int) -> int:
        return max(self.columns[i].least, cell_len(self.columns[i].name))


def _set(cell: Text, width: int, right: bool, *, last: bool, dots: str) -> Text:
    """The cell at exactly that width; wide letters are never halved."""
    cell = cell.copy()
    if cell.cell_len > width:
        if right:
            return cell
        short = set_cell_size(cell.plain, max(width - len(dots), 0)).rstrip()
        cell = cell[: len(short)]
        cell.append(dots)
    pad = " " * (width - cell.cell_len)
    if right:
        return Text(pad).append_text(cell)
    if not last:
        cell.append(pad)
    return cell


def table(columns: Iterable[Column], say: Phrases) -> Rows:
    """An unframed table. A column is named by the phrase ``column.<its name>``, where there is one."""
    made = [replace(column, name=say.named("column", column.name)) for column in columns]
    return Rows(made, left_out=say.named("table", "left_out"), comma=say("comma"))
