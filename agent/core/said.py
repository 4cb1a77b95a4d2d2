"""Sentences that remember what they were made of, so that an edge may say them in another language.

Core and store raise in English. A message made by :func:`said` carries its template and values;
:func:`agent.words.faults.worded` looks the template up and says it in the reader's language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self


class Said(str):
    """An English sentence with the template and the values that it was made of."""

    __slots__ = ("template", "values")

    template: str
    values: Mapping[str, Any]

    def __new__(cls, template: str, values: Mapping[str, Any]) -> Self:
        """``template`` as :meth:`str.format_map` takes it."""
        made = super().__new__(cls, template.format_map(values))
        made.template, made.values = template, values
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Its parts; the sentence follows from them."""
        return type(self), (self.template, self.values)


def said(template: str, /, **values: Any) -> Said:
    """The sentence with its blanks filled. ``template`` must be a literal: tests look for its translation."""
    return Said(template, values)
