"""The words that people read: alerts and summaries, English and Japanese, from one template.

render(notice, language="en", zone=ZoneInfo("Asia/Tokyo"), detail="full")    a notice as text
phrases("ja")("summary.cases", n=2)                                          a phrase for the command line
"""

from __future__ import annotations

from agent.words.alert import Detail, render
from agent.words.escape import shown
from agent.words.phrases import LANGUAGES, Language, Phrases, phrases
from agent.words.view import harmless, span

__all__ = [
    "LANGUAGES",
    "Detail",
    "Language",
    "Phrases",
    "harmless",
    "phrases",
    "render",
    "shown",
    "span",
]
