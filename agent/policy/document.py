"""What a text file says, with the line of everything in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.core.errors import Fault

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """What a text file says, and on which line it says it."""

    name: str
    """The file as its faults name it."""
    data: Any
    """Plain dicts, lists and scalars; an empty file is ``{}``."""
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    """Line of each key and list item, from 1."""
    digest: str = ""
    """SHA-256 of the bytes read, hex."""

    def line_of(self, keys: Sequence[str | int]) -> int:
        """Line of a key or list item, or of the nearest thing around it that is there; 0 if there is none."""
        path = tuple(keys)
        for length in range(len(path), 0, -1):
            if line := self.lines.get(path[:length]):
                return line
        return self.lines.get((), 0)

    def fault(self, keys: Sequence[str | int], message: str, advice: str = "") -> Fault:
        """A fault at that place."""
        return Fault(self.name, self.line_of(keys), message, advice)
