"""Outside text made harmless: names of processes, hosts and organisations are written by strangers.

What could move the cursor, colour the screen, turn the reading direction or start a line of its own is shown as a
visible escape (``\\x1b``, ``\\u202e``), and length is capped. Letters of every script stay as they are.

Whatever leaves for a terminal passes :func:`shown` or :func:`shown_lines`, for a CSV :func:`csv_text`, and as JSON
:func:`json_text`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

LIMIT = 200
"""Characters of one outside text that are shown."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_PLAIN_SPACES = frozenset({" ", "\u3000"})
_FORMULA = re.compile(r"(^\s*|[;,|]\s*)([=+\-@＝＋－＠])")
"""Full-width signs count: Japanese spreadsheets take them for the plain ones."""
_MAX_MARKS = 4
"""Combining marks in a row; more would climb over the lines above and below."""


def shown(text: str, limit: int = LIMIT) -> str:
    """``text`` on one line, with control, bidirectional, private and unassigned characters as visible escapes.

    At most ``limit`` characters of it, then ``…``.
    """
    out: list[str] = []
    marks = 0
    for character in text[:limit]:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        out.append(_escape(character) if _is_hidden(character) or marks > _MAX_MARKS else character)
    return "".join(out) + ("…" if len(text) > limit else "")


def shown_lines(text: str, limit: int = 1_000_000) -> str:
    """As :func:`shown`, but the text keeps its own line breaks: for texts of ours with names of others in them."""
    if text.isascii() and text.replace("\n", " ").isprintable():
        return text[:limit]
    return "\n".join(shown(line, limit) for line in text.split("\n"))


def is_harmless(text: str) -> bool:
    """Whether :func:`shown` would leave a text of any length as it is."""
    return shown(text, len(text)) == text


def csv_text(text: str) -> str:
    """``text`` for a cell of a CSV: harmless on a terminal, and no formula in any spreadsheet.

    A sign that begins a formula, at the start or behind what some locale takes for a separator, gets an apostrophe
    before it (OWASP, CSV injection).
    """
    return _FORMULA.sub(r"\1'\2", shown(text, 32_000))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """``value`` as JSON that reads the same in every parser and is harmless on a terminal.

    Letters stay as they are; control, bidirectional and invisible characters become ``\\uXXXX``, keys included.
    """
    return harmless_json(json.dumps(value, ensure_ascii=False, indent=indent))


def harmless_json(text: str) -> str:
    """JSON as :func:`json.dumps` made it, with what is hidden in it as ``\\uXXXX``: the same value, fit for a terminal."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(
        c if c == "\n" or (not _is_hidden(c) and unicodedata.category(c) != "Cs") else _json_escape(c)
        for c in text
    )


def shown_in(value: Any, limit: int = LIMIT) -> Any:
    """The same structure of dicts, lists and tuples with every text, keys too, passed through :func:`shown`."""
    if isinstance(value, str):
        return shown(value, limit)
    if isinstance(value, dict):
        return {shown_in(k, limit): shown_in(v, limit) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(shown_in(v, limit) for v in value)
    return value


def _is_hidden(character: str) -> bool:
    category = unicodedata.category(character)
    return category in _HIDDEN or (category == "Zs" and character not in _PLAIN_SPACES)


def _json_escape(character: str) -> str:
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
