"""How much of the fault tests runs: the short form by default, everything with ``TESTS_FAULTS=all``."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any, Final

FULL: Final = os.environ.get("TESTS_FAULTS") == "all"
SEED: Final = int(os.environ.get("TESTS_FAULTS_SEED", "5"))
"""Picks the kill points of the short form and the moments of random kills; another one tries others."""


def databases(short: str) -> Any:
    """Both kinds of state in the long form, one in the short."""
    return ["sqlite", "postgresql"] if FULL else [short]


def chance(what: str) -> random.Random:
    """Random numbers of one test; the same for the same seed."""
    return random.Random(f"{SEED}:{what}")


def picked(what: str, choices: Sequence[Any]) -> list[Any]:
    """All of them in the long form, one in the short."""
    return list(choices) if FULL else [chance(what).choice(choices)]
