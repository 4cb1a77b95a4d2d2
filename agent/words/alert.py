"""A notice as text in one of three lengths: ``minimal`` for pagers and chat outside, ``title``, ``full``."""

from __future__ import annotations

import unicodedata
from datetime import tzinfo
from functools import cache
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from agent.core.finding import Notice
from agent.words import units
from agent.words.phrases import phrases
from agent.words.view import CaseView, EventView, harmless

Detail = Literal["minimal", "title", "full"]


def render(notice: Notice, *, language: str, zone: tzinfo | None, detail: Detail) -> str:
    """The notice in words, without a line break at the end; ``zone`` None is this host's.

    ``minimal`` names no host, store, place or amount. Outside text comes out on one line, without control or
    bidirectional characters. Raises ``ValueError`` for an unknown language.
    """
    say = phrases(language)
    notice = harmless(notice)
    view = EventView(notice, say, zone) if notice.case is None else CaseView(notice, notice.case, say, zone)
    template = _environment().get_template("notice.j2")
    text = template.render(v=view, say=say, detail=detail, zone=zone)
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


@cache
def _environment() -> Environment:
    environment = Environment(  # noqa: S701  plain text, and every value was made harmless
        loader=PackageLoader("agent.words"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=lambda value: "" if value is None else value,
    )
    environment.filters.update(
        block=_block, exact=units.exact, size=units.size, ratio=units.share, number=units.Number
    )
    return environment


def _block(body: str, label: str) -> str:
    """The body's lines beside a label, each indented to the same column."""
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    if not lines:
        return ""
    width = max(_width(label) + 1, 10)
    first = label + " " * (width - _width(label)) + lines[0]
    return "\n".join([first, *(" " * width + line for line in lines[1:])]) + "\n"


def _width(text: str) -> int:
    """Columns on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
