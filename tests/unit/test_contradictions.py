"""Rules that contradict themselves or each other are refused, each with its line and what to do."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from agent.core.errors import PolicyError
from agent.policy import load as policy_files

TODAY = date(2026, 11, 21)
STORES = """\
stores:
  - {id: ehr, categories: [personal_health], groups: [west], recognise: {ports: [5432]}}
  - {id: pay, categories: [personal_financial], recognise: {ports: [3306]}}
destinations:
  - {id: mine, asns: [64500]}
rules:
"""


def faults(folder: Path, *rules: str) -> list[str]:
    """What is said of rules, one a line from line 7 on."""
    path = folder / "p.yaml"
    path.write_text(STORES + "".join(f"  - {{{rule}}}\n" for rule in rules))
    try:
        policy_files.load([path], today=TODAY)
    except PolicyError as error:
        return [str(fault).replace(f"{folder}/", "") for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            ["id: a, over: 1 GB, destinations: [mine], except_destinations: [mine]"],
            [
                "p.yaml:7: rule `a` asks for destination set `mine` and leaves it out (take it out of one of the two)"
            ],
        ),
        (
            ["id: a, over: 1 GB, stores: [ehr], categories: [personal_financial]"],
            [
                "p.yaml:7: rule `a` reads no store: none of those that it names holds personal_financial"
                " (name the stores or the categories, or correct one of the two)"
            ],
        ),
        (
            ["id: a, over: 1 GB, group_by: store, any_of: {share_of_store: 0.5}"],
            [
                "p.yaml:7: rule `a` sums all destinations of a store, which are always the whole of it"
                " (remove `share_of_store`, or sum by destination)"
            ],
        ),
        (
            ["id: a, over: 1 GB, severity: high", "id: b, over: 10 GB, severity: medium"],
            [
                "p.yaml:8: rule `b` says medium of at least the amount of which rule `a` (p.yaml:7) says high"
                " (let the larger amount be the more severe, or remove one)"
            ],
        ),
        (
            ["id: a, over: 1 GB, severity: low", "id: b, over: 1 GB, severity: high"],
            [
                "p.yaml:7: rule `a` says low of at least the amount of which rule `b` (p.yaml:8) says high"
                " (let the larger amount be the more severe, or remove one)"
            ],
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(rules: list[str], said: list[str], tmp_path: Path) -> None:
    """With the line of the rule that is to be changed, and how."""
    assert faults(tmp_path, *rules) == said


@pytest.mark.parametrize(
    "rules",
    [
        ["id: a, over: 1 GB, severity: medium", "id: b, over: 10 GB, severity: high"],
        ["id: a, over: 1 GB, severity: high", "id: b, over: 10 GB, severity: low, stores: [ehr]"],
        ["id: a, over: 1 GB, severity: high", "id: b, over: 10 GB, severity: low, window: 1h"],
        ["id: a, over: 1 GB, severity: high, enabled: false", "id: b, over: 10 GB, severity: low"],
        ["id: a, over: 1 GB, severity: high", "id: b, over: 10 GB, severity: high"],
        ["id: a, over: 1 GB, stores: [west], categories: [personal_health, personal_financial]"],
    ],
)
def test_what_can_be_meant_is_taken(rules: list[str], tmp_path: Path) -> None:
    """Other scopes, a rule that is off, a larger amount that is more severe."""
    assert faults(tmp_path, *rules) == []
