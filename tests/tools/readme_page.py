"""The alert on the README's first screen: what the program says of the bundled capture, to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.tools.places import ROOT

README = ROOT / "README.md"
COMMAND = ("--set", "time_zone=UTC", "replay", "--sample")
COLUMNS = 110
_BLOCK = re.compile(r"(<!-- alert -->\n```\n).*?(\n```\n<!-- end -->)", re.DOTALL)


def alert() -> str:
    """The first text that the replay of the bundled capture prints, folded as on a terminal."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SEKISHO_")}
        settings = Path(folder, "sekisho.yaml")
        settings.write_text("version: 1\n")
        done = subprocess.run(
            [sys.executable, "-m", "agent.cli", "-c", str(settings), "--state-dir", folder, *COMMAND],
            capture_output=True,
            text=True,
            check=True,
            env={**kept, "COLUMNS": str(COLUMNS), "LC_ALL": "C.UTF-8"},
        )
    return done.stdout.split("\n\n")[0]


def readme_page() -> str:
    """README.md with that alert in its place."""
    text = README.read_text(encoding="utf-8")
    made = alert()
    return _BLOCK.sub(lambda found: f"{found[1]}{made}{found[2]}", text)
