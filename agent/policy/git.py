"""git, asked about a work tree whose own settings are not trusted: what they name is never run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

_GIT: Final = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-optional-locks")
"""The work tree's own settings must not name programs that git would run here."""


def asked(tree: Path, *words: str, patience_s: float) -> bytes | None:
    """What git says in a work tree; None if it cannot, or not within ``patience_s``."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*_GIT, "-C", str(tree), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            timeout=patience_s,
            env={**plain, "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
