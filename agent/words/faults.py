"""Faults in the language of the reader. English is said where they are raised; other languages stand in ``faults.ja.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from agent.core.said import Said
from agent.core.shipped import shipped


def of_error(error: BaseException, language: str) -> str:
    """What an error says, in that language as far as it is known there."""
    text = error.args[0] if error.args and isinstance(error.args[0], Said) else str(error)
    return worded(text, language)


def worded(text: str, language: str) -> str:
    """A sentence in that language; as it is where nobody has translated it."""
    if language == "en":
        return str(text)
    table = translations()
    if not isinstance(text, Said):
        return table.get(text, text)
    template = table.get(text.template, text.template)
    return template.format_map({name: _value(value, language) for name, value in text.values.items()})


def _value(value: Any, language: str) -> Any:
    return worded(value, language) if isinstance(value, str) else value


@cache
def translations() -> Mapping[str, str]:
    """English template -> Japanese template with the same blanks."""
    text = (files("agent.words") / "faults.ja.yaml").read_text(encoding="utf-8")
    return {pair["en"]: pair["ja"] for pair in shipped(text)}
