"""``sekisho agent`` as a service starts it, with ``kafka`` in its settings."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import yaml

from agent.core.kafka import Connection
from tests.tools import topics
from tests.tools.program import sekisho

SAMPLE = Path(str(resources.files("agent"))) / "sample"


def test_the_agent_sends_what_its_collector_brings(kafka: Connection, tmp_path: Path) -> None:
    """A capture as its source: every row sealed is in the topic, its account is closed, and no archive is written."""
    settings = {
        "state_dir": str(tmp_path / "state"),
        "host": "db-1",
        "policy": [str(SAMPLE / "policy.yaml")],
        "collectors": {"pcap": {"files": [str(SAMPLE / "sample.pcap.gz")]}},
        "enrichers": {"asset": {}},
        "kafka": kafka.model_dump(mode="json", exclude_defaults=True),
    }
    (tmp_path / "sekisho.yaml").write_text(yaml.safe_dump(settings))
    done = sekisho("-c", tmp_path / "sekisho.yaml", "agent", home=tmp_path)
    assert done.code == 0, done.text
    messages = topics.batches(kafka.servers, kafka.topics.flows).values()
    last = json.loads(topics.read(kafka.servers, kafka.topics.agents)[-1].value)
    rows = topics.rows(list(messages))
    assert sum(row["octets_out"] for row in rows) == last["account"]["sealed"]["octets_out"] > 0
    assert (last["closing"], last["collectors"]) == (True, ["pcap"])
    assert last["account"]["acked"] == last["account"]["sealed"]
    assert not (tmp_path / "state" / "archive").exists()
