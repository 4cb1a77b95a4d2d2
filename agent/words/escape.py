"""Outside text made harmless: names of processes, hosts and organisations are written by strangers.

What could move the cursor, colour the screen, turn the reading direction or start a line of its own is shown as a
visible escape (``\\x1b``, ``\\u202e``), and length is capped. Letters of every script stay as they are.
"""

from __future__ import annotations

import unicodedata
from typing import Any

LIMIT = 200
"""Characters of one outside text that are shown."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_PLAIN_SPACES = frozenset({" ", "\u3000"})
_MAX_MARKS = 4
"""Combining marks in a row; more would climb over the lines above and below."""


def shown(text: str, limit: int = LIMIT) -> str:
    """``text`` on one line, with control, bidirectional, private and unassigned characters as visible escapes.

    At most ``limit`` characters of it, then ``…``.
    """
    out: list[str] = []
    marks = 0
    for character in text[:limit]:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        hidden = category in _HIDDEN or (category == "Zs" and character not in _PLAIN_SPACES)
        out.append(_escape(character) if hidden or marks > _MAX_MARKS else character)
    return "".join(out) + ("…" if len(text) > limit else "")


def shown_in(value: Any, limit: int = LIMIT) -> Any:
    """The same structure of dicts, lists and tuples with every text, keys too, passed through :func:`shown`."""
    if isinstance(value, str):
        return shown(value, limit)
    if isinstance(value, dict):
        return {shown_in(k, limit): shown_in(v, limit) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(shown_in(v, limit) for v in value)
    return value


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
