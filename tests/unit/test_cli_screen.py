"""Tables, colours and bars on any screen."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from agent.cli import live, screen
from agent.cli.screen import Column, Rows, Screen, sparkline
from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS, DataClock
from agent.view import SORTS, View
from agent.words import LANGUAGES, Phrases, screen_phrases
from tests.tools.rows import batch_of

EN = screen_phrases("en")
NOW_S = 1_800_000_000
NUMBER = re.compile(r"^\d[\d,]*$")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(thing: Any, width: int, **options: Any) -> str:
    stream = Terminal()
    Screen(
        file=stream,
        width=width,
        height=24,
        force_terminal=True,
        highlight=False,
        color_system=None,
        **options,
    ).print(thing)
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


def a_table(names: list[str], numbers: list[int]) -> Rows:
    made = screen.table(
        [
            Column("name"),
            Column("octets", right=True),
            Column("place", rank=1),
            Column("flows", right=True, rank=2),
        ],
        EN,
    )
    for name, number in zip(names, numbers, strict=True):
        made.add_row(name, f"{number:,}", name[::-1], str(number % 7))
    return made


@given(
    st.lists(st.tuples(st.text(max_size=60), st.integers(0, 10**12)), min_size=1, max_size=6),
    st.integers(40, 200),
)
def test_tables_fit_and_numbers_are_whole(rows: list[tuple[str, int]], width: int) -> None:
    """Whatever the names: no line is wider than the screen, and each number of a column that stays is there whole."""
    text = printed(a_table([n for n, _ in rows], [n for _, n in rows]), width)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    for (_, number), line in zip(rows, lines[1:], strict=False):
        assert f"{number:,}" in line


def test_wide_letters_take_two_cells() -> None:
    """Japanese names are cut between letters and the next column stands straight."""
    text = printed(a_table(["個人医療情報管理システム運用記録" * 2, "a"], [1_000, 20]), 44)
    first, second = text.splitlines()[1:3]
    assert "…" in first
    assert cell_len(first[: first.index("1,000") + 5]) == cell_len(second[: second.index("20") + 2])


def test_what_finds_no_room_is_named() -> None:
    """Columns of the highest rank go first, and a line says so."""
    made = screen.table(
        [Column("name", least=30), Column("out", right=True), Column("other", rank=1, least=30)], EN
    )
    made.add_row("n" * 40, "12", "o" * 40)
    assert printed(made, 50).splitlines()[-1] == "not at this width: other"
    assert "not at this width" not in printed(made, 100)


def test_rows_in_a_pipe_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody says how wide the paper is, a row is one whole line."""
    monkeypatch.delenv("COLUMNS", raising=False)
    stream = io.StringIO()
    Screen(file=stream, width=200).print(a_table(["x" * 500], [5]), soft_wrap=True)
    assert "x" * 500 in stream.getvalue()


def _contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """WCAG 2.1 contrast ratio."""

    def luminance(colour: tuple[int, int, int]) -> float:
        parts = [
            c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


PALETTES = {  # red, magenta of terminals as they come
    "xterm": ((205, 0, 0), (205, 0, 205)),
    "VGA": ((170, 0, 0), (170, 0, 170)),
    "Terminal.app": ((194, 54, 33), (211, 56, 211)),
}


@pytest.mark.parametrize("palette", PALETTES)
def test_colours_can_be_read_on_black_and_on_white(palette: str) -> None:
    """Only red and magenta are used, which have a contrast of at least 2.5 on either background."""
    used = {
        word
        for style in (*live.STYLE.values(), screen.BAD, screen.WARN, screen.ALARM)
        for word in style.split()
    }
    assert used == {"bold", "red", "magenta", "reverse", "dim"}
    for colour in PALETTES[palette]:
        assert min(_contrast(colour, (0, 0, 0)), _contrast(colour, (255, 255, 255))) >= 2.5


@pytest.mark.parametrize(
    ("env", "tty", "coloured"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colours_are_asked_for_or_not(
    env: dict[str, str], tty: bool, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR wins over FORCE_COLOR; a dumb terminal and a pipe get none."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if tty else io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    screen.console().print("x", style=screen.BAD)
    assert ("\x1b[" in stream.getvalue()) == coloured


def test_silence_looks_like_silence() -> None:
    """A full bar for the largest, nothing for nothing; plain letters where there are no others."""
    assert sparkline((0, 1, 50, 100)) == " ▁▄█"
    assert sparkline((0, 1, 50, 100), plain=True) == " _-#"
    assert sparkline((0, 0)) == "  "


def a_view(say: Phrases = EN) -> live.LiveView:
    view = View(DataClock(NOW_S * SECOND_NS))
    rows = [
        {
            "remote_scope": "external",
            "remote_country": "DE",
            "remote_asn": 64500 + n,
            "remote_as_org": f"Example Network of a long name {n}",
            "remote_owner": f"owner-{n}",
            "octets_out": 10_000_000 * (n + 1),
            "store": "patients" if n % 2 else None,
            "start_ns": (NOW_S - 30 + n) * SECOND_NS,
            "end_ns": (NOW_S - n - 1) * SECOND_NS,
        }
        for n in range(12)
    ]
    view.observe([batch_of(rows)])
    stream = Terminal()
    console = Screen(file=stream, width=80, height=24, force_terminal=True)
    return live.LiveView("sekisho top · db-01", view.read, Accounts().read, console, say, show_cases=False)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (120, 40), (200, 50)])
def test_the_live_view_fits_any_screen(width: int, height: int, language: str) -> None:
    """No line is wider than the screen and there are no more lines than it has; rates are never cut."""
    view = a_view(screen_phrases(language))
    view.console = Screen(file=Terminal(), width=width, height=height, force_terminal=True)
    lines = printed(view, width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= max(height, 12)
    assert view.say("live.quit") in lines[-1]
    assert sum("MB" in line for line in lines[3:]) >= 3


def test_keys_sort_the_live_view() -> None:
    """Each key sorts by what it stands for; q leaves where it may; any other key changes nothing."""
    view = a_view()
    for key, by in live.KEYS.items():
        assert not view.press(key)
        assert (view.sort, by in SORTS) == (by, True)
    view.press("n")
    assert "AS64500" in printed(view, 120).splitlines()[4]
    assert not view.press("x")
    assert (view.sort, view.press("q")) == ("network", True)
    view.leaves = False
    assert not view.press("q")
    assert "Ctrl-C stop" in printed(view, 120)
