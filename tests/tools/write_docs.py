"""Write the generated pages of docs/, or with ``--check`` say which are out of date."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from agent.cli.completion import script
from agent.core.flow import COLUMNS, SCHEMA_VERSION
from agent.core.wire import arrow_type
from tests.tools.cli_pages import cli_page, man_page
from tests.tools.decoding_page import with_tables
from tests.tools.metrics_page import metrics_page
from tests.tools.packs_page import packs_page
from tests.tools.readme_page import readme_page

DOCS = Path(__file__).parents[2] / "docs"


def flow_schema() -> str:
    """docs/flow-schema.md from the schema table."""
    lines = [
        "# Flow schema",
        "",
        f"Version {SCHEMA_VERSION}. Written by `make docs` from `agent/core/flow.py`; the same table drives Arrow, Parquet and",
        "the checks. A row is the delta of what one local end exchanged with one remote end in one interval, as seen from the",
        "reporting host. Unknown is null; null is never zero. Numbers in the IPFIX column are IANA information elements.",
        "",
        "| column | Arrow type | unit | null | filled by | IPFIX | OCSF | meaning |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for column in COLUMNS:
        null = "yes" if column.null else "no"
        cells = (
            column.name,
            str(arrow_type(column)),
            column.unit,
            null,
            column.stage,
            column.ipfix,
            column.ocsf,
            column.meaning,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "man/sekisho.1": man_page,
    "completion/sekisho.bash": lambda: script("bash"),
    "completion/_sekisho": lambda: script("zsh"),
    "completion/sekisho.fish": lambda: script("fish"),
    "decoding.md": lambda: with_tables((DOCS / "decoding.md").read_text()),
    "flow-schema.md": flow_schema,
    "metrics.md": metrics_page,
    "packs.md": packs_page,
    "../README.md": readme_page,
}


def main() -> None:
    """Write or check every page."""
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            stale.append(name)
    if stale:
        sys.exit(f"out of date: docs/{', docs/'.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
