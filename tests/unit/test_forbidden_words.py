"""No text that sekisho ships or shows makes a claim that flow records cannot carry."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from agent.policy.load import shipped_packs
from agent.words import LANGUAGES, regime_phrases, regimes
from tests.tools.cli_pages import commands
from tests.tools.forbidden import ASSURANCES, CLAIMS, claims
from tests.tools.places import ROOT

PAGES = (
    "docs/**/*.md",
    "docs/man/*",
    "docs/completion/*",
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
TEXTS = (
    "agent/words/*.yaml",
    "agent/words/templates/*",
    "agent/policy/**/*.yaml",
    "agent/sample/*.yaml",
    "tests/golden/*.txt",
)
PROGRAM = Path(str(files("agent"))).parent
"""Where the program that is tested lies: this tree, or the wheel."""


def found(pattern: str) -> list[Path]:
    return sorted((PROGRAM if pattern.startswith("agent/") else ROOT).glob(pattern))


def lines(*patterns: str) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        for file in found(pattern):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                yield f"{file.name}:{number}", line


def test_pages_make_no_claim() -> None:
    """No page, manual or note of a release says what flow records cannot show."""
    assert list(claims(lines(*PAGES), assurances=False)) == []


def test_templates_phrases_and_packs_make_no_claim() -> None:
    """No phrase, template, pack, ownership row or golden alert does, and none assures anything."""
    assert list(claims(lines(*TEXTS), assurances=True)) == []


def test_what_is_searched_is_there() -> None:
    """Every pattern finds files, so that a moved folder is not taken for one without claims."""
    assert [pattern for pattern in (*PAGES, *TEXTS) if not found(pattern)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_packs_as_they_are_told_make_no_claim(language: str) -> None:
    """A pack put into words makes none either: no two texts make one together."""
    say = regime_phrases(language)
    told = [
        (pack.pack, line)
        for _, pack in shipped_packs()
        for line in [
            *regimes.head(pack, say),
            *(x for _, found in regimes.sections(pack, say) for x in found),
        ]
    ]
    assert len(told) > 300
    assert list(claims(told, assurances=True)) == []


def test_help_makes_no_claim() -> None:
    """No help of any command makes one."""
    told = [(name, context.get_help()) for name, context in commands()]
    assert list(claims(told, assurances=False)) == []


@pytest.mark.parametrize(
    "text",
    [
        "42 GB of patient data leaked",
        "a data breach",
        "exfiltration over HTTPS",
        "this violates 28 CFR 202",
        "illegal transfer",
        "the host is clean",
        "you are compliant",
        "the company is a covered person",
        "sent to China",
        "to a Chinese company",
        "tamper-proof",
        "exactly once",
        "the same data left twice",
        "個人情報の漏えい",
        "データ流出",
        "法令違反",
        "中国への送信",
        "踏み台",
    ],
)
def test_the_list_catches_what_it_is_for(text: str) -> None:
    """Each kind of claim is caught."""
    assert CLAIMS.search(text)


@pytest.mark.parametrize("text", ["it is safe now", "completely", "a Russian owner", "安全です", "完全に"])
def test_assurances_are_caught(text: str) -> None:
    """Assurances are caught where people read of traffic."""
    assert ASSURANCES.search(text)


@pytest.mark.parametrize(
    "text",
    ["経済安全保障推進法", "完全性", "cleaned up later", "the store observed 42 GB", "unsafe_name", "China"],
)
def test_plain_words_pass(text: str) -> None:
    """Names of laws, terms of art and observations are not caught."""
    assert not CLAIMS.search(text)
    assert not ASSURANCES.search(text)


def test_rendered_documents_stand_in_no_other_folder() -> None:
    """Phrases stand in agent/words alone, so that the list is held over all of them."""
    found = [p for p in Path(ROOT / "agent").rglob("*.j2") if p.parent != ROOT / "agent/words/templates"]
    assert found == []
