"""The README shows what the program says, and names only pages that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.tools.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def test_the_alert_on_the_first_screen_is_the_one_that_the_sample_gives(tmp_path: Path) -> None:
    """Every sentence of the README's alert stands in what `sekisho replay --sample` prints."""
    command = [
        sys.executable,
        "-m",
        "agent.cli",
        "--state-dir",
        str(tmp_path),
        "--set",
        "time_zone=UTC",
        "replay",
        "--sample",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    block = re.search(r"```\n(\[HIGH\].*?)```", README, re.DOTALL)
    assert block is not None
    sentences = [s for s in re.split(r"(?<=[.:)]) |…", _collapsed(block[1])) if s.strip(" ….")]
    said = _collapsed(done.stdout)
    assert [s for s in sentences if s.strip() not in said] == []
    assert len(sentences) > 15


def test_every_page_that_the_readme_links_exists() -> None:
    """No link of the README leads nowhere."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if not (ROOT / link).is_file() and link.startswith("docs/")] == []
