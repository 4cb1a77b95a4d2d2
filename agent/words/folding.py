"""Long lines folded to the width of a terminal."""

from __future__ import annotations

import re
import unicodedata

LEAST = 24
"""Columns of text that are left beside an indent; with fewer the indent is given up."""
_TOKENS = re.compile(r"\s+|[（「『【〔｛［]*(?:[\u0021-\u2e7f\uff61-\uff9f]+|.)", re.DOTALL)
"""Spaces, words, and single letters of scripts that are written without spaces; an opening sign stays with the next."""
_NOT_FIRST = frozenset("、。，．：；！？）］｝」』】〉》ー～々・…")
"""Never at the beginning of a line (JIS X 4051, in short)."""


def columns(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def fold(line: str, width: int, indent: int = 0) -> list[str]:
    """One line as several of at most ``width`` columns, those after the first indented by ``indent`` columns.

    Words are kept whole where they fit; a closing sign may stand one letter beyond.
    """
    if width - indent < LEAST:
        indent = 0
    lines, current, used = [], "", 0
    for token in _TOKENS.findall(line):
        wide = columns(token)
        if used + wide > width and current.strip() and token not in _NOT_FIRST:
            lines.append(current.rstrip())
            current, used = " " * indent, indent
            if token.isspace():
                continue
        while used + wide > width and len(token) > 1:
            room = max(width - used, 1)
            current += token[:room]
            lines.append(current)
            token = token[room:]
            current, used, wide = " " * indent, indent, columns(token)
        current += token
        used += wide
    return [*lines, current.rstrip()] if current.strip() or not lines else lines
