"""A notice as text in one of three lengths: ``minimal`` for pagers and chat outside, ``title``, ``full``."""

from __future__ import annotations

from datetime import tzinfo
from functools import cache
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context

from agent.core.finding import Notice
from agent.words import units
from agent.words.folding import columns, fold
from agent.words.phrases import phrases
from agent.words.view import CaseView, EventView, harmless

Detail = Literal["minimal", "title", "full"]


def render(
    notice: Notice, *, language: str, zone: tzinfo | None, detail: Detail, width: int | None = None
) -> str:
    """The notice in words, without a line break at the end; ``zone`` None is this host's.

    With ``width`` lines are folded to so many columns; without, each fact is one line.
    ``minimal`` names no host, store, place or amount. Outside text comes out on one line, without control or
    bidirectional characters. Raises ``ValueError`` for an unknown language.
    """
    say = phrases(language)
    notice = harmless(notice)
    view = EventView(notice, say, zone) if notice.case is None else CaseView(notice, notice.case, say, zone)
    template = _environment().get_template("notice.j2")
    text = template.render(v=view, say=say, detail=detail, zone=zone, width=width)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines if width is None else [part for line in lines for part in fold(line, width, 2)])


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


@pass_context
def _block(context: Context, body: str, label: str) -> str:
    """The body's lines beside a label, each indented to the same column."""
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    if not lines:
        return ""
    indent = max(columns(label) + 1, 10)
    heads = [label + " " * (indent - columns(label)), *[" " * indent] * (len(lines) - 1)]
    whole = [head + line for head, line in zip(heads, lines, strict=True)]
    if (width := context["width"]) is not None:
        whole = [part for line in whole for part in fold(line, width, indent)]
    return "\n".join(whole) + "\n"
