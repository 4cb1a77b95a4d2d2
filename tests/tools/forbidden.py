"""Words that sekisho never says: of its alerts, screens, packs, pages and of what its commands print.

A flow shows octets between two ends. It does not show whose they are, whether they were allowed, or what anyone meant; so
no text may conclude it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_CLAIMS = (
    r"leak\w*",
    r"breach\w*",
    r"exfiltrat\w*",
    r"theft",
    r"thief",
    r"steal\w*",
    r"stole\w*",
    r"violat\w*",
    r"illegal\w*",
    r"unlawful\w*",
    r"illicit\w*",
    r"criminal\w*",
    r"(?:non-?)?complian\w*",
    r"complies",
    r"covered persons?",
    r"clean",
    r"no data left",
    r"same data",
    r"first ever",
    r"all traffic",
    r"tamper-?proof",
    r"exactly[- ]once",
    r"zero[- ]loss",
    r"lossless",
    r"admissible",
    r"guilty",
    r"spies",
    r"espionage",
    r"sent to (?:china|russia|iran|hong kong)",
    r"to an? (?:chinese|russian|iranian) (?:company|firm|owner)",
)
_CLAIMS_JA = (
    "漏えい",
    "漏洩",
    "流出",
    "違反",
    "違法",
    "不正送信",
    "窃取",
    "盗",
    "踏み台",
    "要配慮個人情報",
    "適法",
    "犯罪",
    "スパイ",
    "証拠能力",
    "無害",
    "改ざん不可能",
    "(?:中国|ロシア|香港|イラン|北朝鮮)への送信",
)
CLAIMS = re.compile(rf"\b(?:{'|'.join(_CLAIMS)})\b|{'|'.join(_CLAIMS_JA)}", re.IGNORECASE)
"""Conclusions of law, of intent, and of more than was observed: nowhere."""

_ASSURANCES = r"safe(?:ly|ty)?|complete(?:ly)?|chinese|russian|secure(?:ly)?"
ASSURANCES = re.compile(rf"\b(?:{_ASSURANCES})\b|安全(?!保障)|完全(?!性)", re.IGNORECASE)
"""Assurances, and peoples where countries of record are meant: never in what people read of traffic. Pages may say that a
folder is safe to delete."""


def claims(texts: Iterable[tuple[str, str]], *, assurances: bool) -> Iterator[tuple[str, str]]:
    """(place, word) of every forbidden word. ``texts``: (place, text). ``assurances``: those are looked for as well."""
    for place, text in texts:
        for pattern in (CLAIMS, ASSURANCES) if assurances else (CLAIMS,):
            yield from ((place, found[0]) for found in pattern.finditer(text))
