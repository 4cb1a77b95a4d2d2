"""Names that strangers write never command a terminal or a spreadsheet, through whatever command they are shown."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import agent.cli as program
from agent.cli import common, flowtables, live, screen
from agent.cli.documents import DOCUMENTS
from agent.cli.screen import Column
from agent.cli.up import JsonAlerts
from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS, DataClock
from agent.core.errors import SekishoError
from agent.core.finding import Event, Notice, NoticeKind
from agent.store.asking import Question
from agent.store.sums import Sums
from agent.view import View
from agent.words import screen_phrases
from agent.words.escape import csv_text, is_harmless, json_text
from tests.tools import notices
from tests.tools.rows import batch_of

ROOM = Path(program.__file__).parent
NOW_S = 1_800_000_000
EVIL = (
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "a\u202egnp.exe",
    "\u2066x\u2069",
    "a\nb\r\nc",
    "zero\u200bwidth\ufeff",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "＝1+1",
    "x;=1+1",
    "\x00\x7f",
    "\U000e0041",
    "a" + "\u0301" * 50,
    "[bold]x[/bold]",
    "\ud800",
)
HOSTILE = st.one_of(st.sampled_from(EVIL), st.text(max_size=30))
STYLES = re.compile(r"\x1b\[[0-9;]*m")
FORMULA = "=+-@＝＋－＠"


def _harmless(text: str, *, coloured: bool = False) -> None:
    """Nothing but letters, spaces, line breaks and, where asked, rich's own colours."""
    if coloured:
        text = STYLES.sub("", text)
    for character in text:
        assert character in "\n\r" or is_harmless(character) or unicodedata.category(character)[0] == "M", (
            repr(text)
        )


def _printed(act: Callable[[], Any], *, colour: bool = False) -> str:
    """What an act prints, as the program prints it."""
    stream = io.StringIO()
    patch = pytest.MonkeyPatch()
    try:
        patch.setattr("sys.stdout", stream)
        patch.setattr("sys.stderr", stream)
        patch.delenv("NO_COLOR", raising=False)
        patch.setenv("FORCE_COLOR", "1" if colour else "0")
        act()
    finally:
        patch.undo()
    return stream.getvalue()


def _row(name: str) -> dict[str, Any]:
    columns = ("process", "executable", "cgroup", "unit", "container", "pod", "interface", "store", "tenant", "vantage",
               "remote_as_org", "remote_owner", "remote_provider", "remote_country", "remote_name", "initiator")  # fmt: skip
    return dict.fromkeys(columns, name) | {
        "remote_scope": "external",
        "start_ns": (NOW_S - 5) * SECOND_NS,
        "end_ns": (NOW_S - 1) * SECOND_NS,
    }


QUERY: Any = SimpleNamespace(
    zone=None, question=Question(), total_only=False, community_id=True, say=screen_phrases("en")
)
BY = ["process", "remote_owner", "store", "remote_as_org", "initiator", "interface"]
ANY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def _total(batch: Any) -> Any:
    sums = Sums([])
    sums.add(batch)
    return sums.total()


@ANY
@given(HOSTILE, st.booleans())
@example(EVIL[0], True)
@example(EVIL[3], True)
def test_flows_show_no_control(name: str, colour: bool) -> None:
    """Rows and groups as a table, on a terminal with and without colours."""
    batch = batch_of([_row(name)])
    sums = Sums(BY)
    sums.add(batch)

    def act() -> None:
        flowtables.TableOutput().rows(QUERY, [batch], _total(batch))
        flowtables.TableOutput().sums(QUERY, BY, sums.groups(), 1, sums.total())

    _harmless(_printed(act, colour=colour), coloured=colour)


@ANY
@given(HOSTILE)
@example("x;=1+1")
@example("＝1")
def test_no_cell_of_a_csv_is_a_formula(name: str) -> None:
    """Each text cell: nothing hidden, no sign first that a spreadsheet reads as a formula, however it is separated."""
    batch = batch_of([_row(name)])
    sums = Sums(BY)
    sums.add(batch)
    stream = io.StringIO()
    flowtables.CsvOutput(stream).rows(QUERY, [batch], None)
    flowtables.CsvOutput(stream).sums(QUERY, BY, sums.groups(), 1, sums.total())
    text = stream.getvalue()
    _harmless(text)
    for line in csv.reader(io.StringIO(text)):
        for cell in line:
            for part in re.split("[;,|\t]", cell):
                assert part.strip()[:1] not in tuple(FORMULA), line


@ANY
@given(
    st.recursive(
        HOSTILE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3)
    )
)
def test_json_is_harmless_and_reads_back(value: Any) -> None:
    """JSON shows nothing hidden on a terminal, and means to the letter what was put in."""
    for indent in (None, 2):
        text = json_text(value, indent=indent)
        _harmless(text)
        assert json.loads(text) == json.loads(json.dumps(value))
        assert indent or "\n" not in text


@ANY
@given(HOSTILE, st.sampled_from([40, 80, 200]))
def test_the_live_view_shows_no_control(name: str, width: int) -> None:
    """Destinations, cases, events, reasons of losses, host names and interfaces in the title."""
    view, accounts = View(DataClock(NOW_S * SECOND_NS)), Accounts()
    view.observe([batch_of([_row(name)])])
    accounts.lose_frames(name, 1)
    stream = io.StringIO()
    console = screen.Screen(file=stream, width=width, height=24, force_terminal=True, color_system=None)
    shown = live.LiveView(
        f"sekisho · {name}", view.read, accounts.read, console, screen_phrases("en"), notes=(name,)
    )
    case = notices.opened().case
    assert case is not None
    evil = case.model_copy(
        update={
            "store": case.store.model_copy(update={"id": name}),
            "destination": case.destination.model_copy(update={"label": name}),
        }
    )
    shown.update((evil,))
    event = Event(name="lost", detail={"interface": name})
    shown.hear(Notice(kind=NoticeKind.EVENT, time_ns=0, host=name, event=event))
    console.print(shown)
    _harmless(stream.getvalue(), coloured=True)


@ANY
@given(HOSTILE)
def test_tables_echoes_and_errors_show_no_control(name: str) -> None:
    """The three ways to the screen that all commands use, and what an error says."""

    def act() -> None:
        made = common.table([Column("a"), Column(name, right=True)], screen_phrases("en"))
        made.add_row(name, name)
        common.console().print(made)
        common.console().print(name)
        common.echo(name)
        program._said(SekishoError(name))
        program._said(RuntimeError(name))
        program._said(OSError(2, name, name))
        program._said(click.UsageError(name))
        program._said(click.BadParameter(name, param_hint=name))

    _harmless(_printed(act))


@ANY
@given(HOSTILE)
def test_alerts_as_json_show_no_control(name: str) -> None:
    """`up --json`: an event with a stranger's name is one harmless line with the documented keys."""
    event = Event(name="lost", detail={"interface": name})
    notice = Notice(kind=NoticeKind.EVENT, time_ns=0, host=name, event=event)
    text = _printed(lambda: JsonAlerts().write_notice(notice))
    _harmless(text)
    told = json.loads(text)
    assert (set(told), told["host"]) == (set(DOCUMENTS["up"].keys), name)


@pytest.mark.parametrize("file", sorted(p.name for p in ROOM.glob("*.py")))
def test_there_is_no_other_way_to_the_screen(file: str) -> None:
    """No command prints but through the escaping ways: no print, no click.echo, no console of its own, no plain JSON."""
    allowed = {"common.py", "__init__.py", "completion.py"}
    found = []
    for node in ast.walk(ast.parse((ROOM / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "click.echo", "click.secho", "Console", "sys.stdout.write", "json.dumps"):
                found.append(called)
    assert found == [] or file in allowed, found


def test_names_keep_their_letters() -> None:
    """Escaping changes no letter of any script, and no sign inside a text."""
    for name in ("個人医療情報", "Straße 5", "مرحبا", "a-b=c", "C++"):
        assert csv_text(name) == name
        assert json.loads(json_text(name)) == name
        assert json_text(name) == f'"{name}"'
