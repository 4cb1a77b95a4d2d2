"""The words that people read: alerts and summaries, English and Japanese, from one template.

render(notice, language="en", zone=ZoneInfo("Asia/Tokyo"), detail="full")    a notice as text
phrases("ja")("summary.cases", n=2)                                          a phrase for the command line

The template is loaded when it is first asked for, so that a command which escapes a name does not wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from agent.words.escape import csv_text, json_text, shown, shown_lines
from agent.words.phrases import LANGUAGES, Language, Phrases, phrases, regime_phrases, screen_phrases

if TYPE_CHECKING:
    from agent.words.alert import Detail, render
    from agent.words.view import harmless, span

_PLACES: Final = {"Detail": "alert", "render": "alert", "harmless": "view", "span": "view"}

__all__ = [
    "LANGUAGES",
    "Detail",
    "Language",
    "Phrases",
    "csv_text",
    "harmless",
    "json_text",
    "phrases",
    "regime_phrases",
    "render",
    "screen_phrases",
    "shown",
    "shown_lines",
    "span",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
