"""The whole program as a user meets it: ``python -m agent.cli …`` in a process of its own, with nothing of ours around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tools.forbidden import claims
from tests.tools.places import DATABASES, ROOT

SECONDS = 60.0
"""As long as a command may take on a busy host before the test gives up on it."""
SAMPLE = ("replay", "--sample")
NO_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
NEVER_SHOWN = ("Traceback (most recent call last)", "a defect of ours", "pydantic", "/site-packages/")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """What it said on both streams."""
        return self.out + self.err

    @property
    def said(self) -> list[str]:
        """The lines that tell the user what is wrong, without log lines."""
        return [line for line in self.err.splitlines() if line and not line.startswith("{")]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment that holds no setting of ours, with its home in ``home``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SEKISHO_", "LC_", "LANG", "COLUMNS"))}
    path = os.pathsep.join(
        [os.environ.get("PYTHONPATH", ""), *([str(ROOT)] if (ROOT / "agent").is_dir() else [])]
    )
    here = {"HOME": str(home), "PYTHONPATH": path.strip(os.pathsep), "LC_ALL": "C.UTF-8", "TMPDIR": str(home)}
    return kept | here | dict(extra or {})


def command(*arguments: str | Path, state_dir: Path | None = None) -> list[str]:
    """The command line."""
    where = [] if state_dir is None else ["--state-dir", str(state_dir)]
    return [sys.executable, "-m", "agent.cli", *where, *map(str, arguments)]


def sekisho(
    *arguments: str | Path,
    home: Path,
    state_dir: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    without_rights: bool = False,
) -> Outcome:
    """Run it to its end in ``home``. Fails if anything was shown that no user may ever see.

    ``without_rights``: as somebody to whom the kernel gives nothing but what file modes give (root included).
    """
    home.mkdir(parents=True, exist_ok=True)
    line = command(*arguments, state_dir=state_dir or home / "state")
    done = subprocess.run(
        [*(NO_RIGHTS if without_rights else ()), *line],
        cwd=home,
        env=environment(home, env),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    outcome = Outcome(
        done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    fit_to_be_seen(outcome)
    return outcome


def fit_to_be_seen(outcome: Outcome) -> None:
    """Fail for a traceback, a message of a library, or a claim that sekisho never makes, in what was shown."""
    for never in NEVER_SHOWN:
        assert never not in outcome.text, outcome.text
    assert list(claims([("", outcome.text)], assurances=False)) == []


def with_databases(state_dir: Path) -> Path:
    """The state folder with the installed databases in it; skips where none are at hand."""
    if DATABASES is None:
        pytest.skip("no databases installed: run `make test`, which installs them")
    shutil.copytree(DATABASES, state_dir / "databases")
    return state_dir
