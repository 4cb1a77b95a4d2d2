"""Phrases by key: of alerts from ``en.yaml`` and ``ja.yaml``, of screens from ``screen.en.yaml`` and
``screen.ja.yaml`` besides, of packs and rules from ``regimes.en.yaml`` and ``regimes.ja.yaml``; both files of a pair hold the same keys with the same blanks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, get_args

from agent.core.shipped import shipped

Language = Literal["en", "ja"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)


class Phrases:
    """All phrases of one language. ``phrases("title.stopped", core=…)`` fills the blanks of one.

    A phrase with forms ``one`` and ``other`` is chosen by the blank ``n``. Values are put in as they are, so outside
    text must have passed :func:`agent.words.escape.shown`. Raises ``KeyError`` for an unknown key or a blank left empty.
    """

    def __init__(self, language: Language, *, screens: bool = False, regimes: bool = False) -> None:
        self.language = language
        self._table: dict[str, str] = dict(_flat("", _read(f"{language}.yaml")))
        if screens:
            self._table.update(_flat("", _read(f"screen.{language}.yaml")))
        if regimes:
            self._table.update(_flat("", _read(f"regimes.{language}.yaml")))
        self._country = 0 if language == "en" else 1

    def __call__(self, key: str, /, **values: Any) -> str:
        """The phrase of that key with its blanks filled."""
        if (template := self._table.get(key)) is None:
            form = "one" if values["n"] == 1 else "other"
            template = self._table.get(f"{key}.{form}") or self._table[f"{key}.other"]
        return template.format_map(values)

    def __contains__(self, key: object) -> bool:
        return key in self._table

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._table.items())

    def named(self, group: str, word: str) -> str:
        """The phrase ``group.word`` where there is one, else ``word`` itself."""
        return self._table.get(f"{group}.{word}", word)

    def country(self, code: str | None) -> str:
        """Name of the country of an ISO 3166-1 alpha-2 code; the code itself if it is none; "not known" for None."""
        if not code or code == "?":
            return self("unknown")
        names = _countries().get(code)
        return names[self._country] if names else code

    def join(self, parts: list[str] | tuple[str, ...]) -> str:
        """Parts as a list in running text."""
        return self("comma").join(parts)


@cache
def phrases(language: str) -> Phrases:
    """The phrases of ``en`` or ``ja``, read once. Raises ``ValueError`` for another language."""
    return Phrases(_known(language))


@cache
def screen_phrases(language: str) -> Phrases:
    """The phrases of alerts and of the command line's screens, read once. Raises ``ValueError`` as :func:`phrases`."""
    return Phrases(_known(language), screens=True)


@cache
def regime_phrases(language: str) -> Phrases:
    """The phrases of alerts, of the screens, and of packs and rules, read once. Raises ``ValueError`` as :func:`phrases`."""
    return Phrases(_known(language), screens=True, regimes=True)


def _known(language: str) -> Language:
    known = next((known for known in LANGUAGES if known == language), None)
    if known is None:
        raise ValueError(f"no words in language {language!r}: expected one of {', '.join(LANGUAGES)}")
    return known


@cache
def _countries() -> dict[str, tuple[str, str]]:
    return {code: (en, ja) for code, (en, ja) in _read("countries.yaml").items()}


def _read(name: str) -> Any:
    return shipped(files("agent.words").joinpath(name).read_text("utf-8"))


def _flat(prefix: str, node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value
