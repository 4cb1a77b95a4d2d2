"""Lines folded to a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.words import LANGUAGES, render
from agent.words.folding import columns, fold
from tests.tools import notices

TEXTS = st.text(
    st.sampled_from("ab,.日本語、。（）「」ー 1") | st.characters(codec="ascii", categories=["L"]),
    max_size=300,
)


@given(TEXTS, st.integers(30, 120), st.integers(0, 40))
def test_no_line_is_wider_and_no_letter_is_lost(text: str, width: int, indent: int) -> None:
    """Every line fits but for closing signs at its end; put together again, all letters stand in their order."""
    lines = fold(text, width, indent)
    assert all(columns(line.rstrip("、。）」ー")) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_words_stay_whole_and_later_lines_are_indented() -> None:
    """A word moves to the next line; one that is longer than a line is cut."""
    assert fold("one two three four five six seven", 28, 2) == ["one two three four five six", "  seven"]
    assert fold("x" * 30, 24) == ["x" * 24, "x" * 6]
    assert fold("保管先（医療情報）" * 2, 26) == ["保管先（医療情報）保管先", "（医療情報）"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_an_alert_fits_the_terminal(language: str, width: int) -> None:
    """Folded, no line of an alert is wider than the terminal, and it says the same."""
    notice = notices.opened()
    whole = render(notice, language=language, zone=None, detail="full")
    text = render(notice, language=language, zone=None, detail="full", width=width)
    assert max(map(columns, text.splitlines())) <= width + 2
    assert "".join(text.split()) == "".join(whole.split())
