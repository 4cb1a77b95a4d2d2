"""docs/wire-format.md: the consumer on the page is run as it stands, the tables are held against the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from agent.core.flow import COLUMNS
from agent.core.kafka import Connection, Topics
from agent.core.message import Header
from tests.tools.places import ROOT
from tests.tools.sender import numbered, sender
from tests.tools.topics import until

PAGE = (ROOT / "docs" / "wire-format.md").read_text()


def test_the_consumer_of_the_page_reads_what_an_agent_sent(kafka: Connection, tmp_path: Path) -> None:
    """Plain pyarrow and kafka-python, none of our code: every row of both lanes, in the order of the topic."""
    with sender(tmp_path, kafka) as agent:
        agent.put(numbered(3, first=7), lane=1)
        until(lambda: not agent.waiting, "the first is through")
        agent.put(numbered(2))
        until(lambda: not agent.waiting, "all is through")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code.split("\n")) - code.count("\n\n") - 1 <= 10
    done = subprocess.run(
        [sys.executable, "-", kafka.servers[0], kafka.topics.flows],
        input=code,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "db-1 1 0 7 0",
        "db-1 1 0 8 1",
        "db-1 1 0 9 2",
        "db-1 0 0 0 0",
        "db-1 0 0 1 1",
    ], done.stderr


def test_every_field_and_topic_stands_on_the_page() -> None:
    """A field of the header or a topic that the page does not name is not documented."""
    named = set(re.findall(r"`([a-z_.0-9]+)`", PAGE))
    assert set(Header.model_fields) <= named
    assert set(Topics().model_dump().values()) <= named


def test_the_columns_of_the_table_exist() -> None:
    """Each column of the ClickHouse table is one of the schema."""
    (table,) = re.findall(r"CREATE TABLE sekisho_queue \((.*?)\n\) ENGINE", PAGE, re.DOTALL)
    columns = [part.split()[0] for part in re.split(r",\s+(?=[a-z])", table.strip())]
    assert set(columns) <= {column.name for column in COLUMNS}
    assert len(columns) == 14
