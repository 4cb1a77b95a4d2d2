"""Where things stand that tests read: the repository, test data made by others, installed databases."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds ``tests``."""


def _up(name: str) -> Path | None:
    return next((p / name for p in ROOT.parents if (p / name).is_dir()), None)


TESTDATA: Path | None = _up("shared/testdata")
"""Captures and databases made by others; never part of the project. None where they are not at hand."""

DATABASES: Path | None = next(
    (
        p
        for p in (Path(os.environ.get("TESTS_DATABASES", "")), ROOT / ".cache/databases")
        if p.name and p.is_dir()
    ),
    None,
)
"""Installed country and network databases (``make test`` installs them)."""
