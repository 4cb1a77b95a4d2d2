"""The README shows what the program says, and names only pages that exist."""

from __future__ import annotations

import re

from tests.tools.places import ROOT
from tests.tools.readme_page import alert

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_alert_on_the_first_screen_is_the_one_that_the_sample_gives() -> None:
    """The README's alert is to the letter what `sekisho replay --sample` prints on a terminal."""
    text = alert()
    assert text.startswith("[HIGH] 120 MB left db-01")
    assert text in README


def test_every_page_that_the_readme_links_exists() -> None:
    """No link of the README leads nowhere."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if not (ROOT / link).is_file() and link.startswith("docs/")] == []
