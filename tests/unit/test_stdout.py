"""Notices on standard output."""

from __future__ import annotations

import io
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent.core.accounts import Accounts
from agent.core.errors import SinkError
from agent.core.stages import Context
from agent.words import render
from sinks.stdout import Settings, Stdout
from tests.tools import notices

TOKYO = ZoneInfo("Asia/Tokyo")


def sink(**settings: str) -> Stdout:
    context = Context(accounts=Accounts(), state_dir=Path("unused"), language="ja", zone="Asia/Tokyo")
    return Settings.model_validate(settings).build(context)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def text(detail: str = "full", language: str = "ja", width: int | None = None) -> str:
    return render(notices.opened(), language=language, zone=TOKYO, detail=detail, width=width)


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    # Not a fixture: pytest puts its own standard output back between set-up and call.
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return stream


def test_piped_output_is_the_plain_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal the full text comes as it is, in the program's language, and an empty line after it; COLUMNS
    folds it.
    """
    monkeypatch.delenv("COLUMNS", raising=False)
    sink().write_notice(notices.opened())
    assert capsys.readouterr().out == text() + "\n\n"
    monkeypatch.setenv("COLUMNS", "90")
    sink().write_notice(notices.opened())
    assert capsys.readouterr().out == text(width=90) + "\n\n"


def test_format_title_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With format title each notice is its first line, in the sink's own language where one is set."""
    sink(format="title", language="en").write_notice(notices.opened())
    assert capsys.readouterr().out == text("title", "en") + "\n"


def test_a_terminal_gets_a_coloured_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the first line alone is coloured, and all are folded to its width."""
    terminal = on_terminal(monkeypatch)
    sink().write_notice(notices.opened())
    first, rest = terminal.getvalue().split("\n", 1)
    assert (first, "\x1b" in rest) == (f"\x1b[31m\x1b[1m{text(width=100).splitlines()[0]}\x1b[0m", False)


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR in the environment takes the colour away."""
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    sink().write_notice(notices.opened())
    assert terminal.getvalue() == text(width=100) + "\n\n"


@pytest.mark.parametrize(("colour", "coloured"), [("always", True), ("never", False)])
def test_colour_can_be_forced(monkeypatch: pytest.MonkeyPatch, colour: str, coloured: bool) -> None:
    """The setting wins over what the stream is."""
    terminal = on_terminal(monkeypatch)
    sink(colour=colour).write_notice(notices.opened())
    assert ("\x1b[" in terminal.getvalue()) == coloured


def test_an_ascii_terminal_still_gets_the_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters that the stream cannot write come as escapes; the alert is not lost."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    sink(format="title").write_notice(notices.opened())
    assert raw.getvalue() == (text("title") + "\n").encode("ascii", "backslashreplace")


def test_a_closed_pipe_is_a_fault_that_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the reader has gone, the sink says so and asks for no second try."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Gone())
    with pytest.raises(SinkError, match="cannot write standard output") as caught:
        sink().write_notice(notices.opened())
    assert caught.value.retriable is False
