"""``sekisho kafka``: what it says of brokers and topics, against real ones."""

from __future__ import annotations

import json
from pathlib import Path

from agent.core.kafka import Connection, Topics
from tests.kafka.test_sending_kills import lay
from tests.tools import topics
from tests.tools.brokers import Cluster
from tests.tools.program import sekisho

USUAL = len(Topics.model_fields) - 2
"""Topics that are made where nobody asks for those of single flows."""


def test_missing_topics_are_named_and_made(broker: Cluster, prefix: str, tmp_path: Path) -> None:
    """check tells what is missing with exit code 1; topics create makes it; check is then content."""
    made = topics.connection(broker.bootstrap, prefix)
    lay(tmp_path, made)
    config = ("-c", str(tmp_path / "sekisho.yaml"), "kafka")
    before = sekisho(*config, "check", "--json", home=tmp_path)
    lines = {line["what"]: line for line in json.loads(before.out)}
    assert before.code == 1
    assert lines["brokers"]["state"] == "ok"
    assert lines[f"topic {prefix}.flows"] == {
        "what": f"topic {prefix}.flows",
        "state": "missing",
        "detail": "is not there",
        "mend": "sekisho kafka topics create",
    }
    done = sekisho(*config, "topics", "create", "--partitions", "3", home=tmp_path)
    assert (done.code, f"topic {prefix}.flows: made, 3 partitions, 1 copy" in done.out) == (0, True), (
        done.text
    )
    again = sekisho(*config, "topics", "create", home=tmp_path)
    assert (again.code, again.out.count("was there")) == (0, USUAL)
    after = sekisho(*config, "check", home=tmp_path)
    assert (after.code, after.out.count("ok      ")) == (0, 1 + USUAL), after.text


def test_topics_of_single_flows_are_made_where_they_are_wanted(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    """With `republish` on, its topics are made too, spread as the rows are, and kept for two days."""
    lay(tmp_path, topics.connection(broker.bootstrap, prefix))
    flags = (
        "-c",
        str(tmp_path / "sekisho.yaml"),
        "--set",
        "republish.ocsf=true",
        "--set",
        "republish.json_lines=true",
    )
    done = sekisho(*flags, "kafka", "topics", "create", "--partitions", "2", home=tmp_path)
    assert done.code == 0, done.text
    for role in ("flows_ocsf", "flows_json"):
        assert f"topic {prefix}.{role}: made, 2 partitions, 1 copy" in done.out
    after = sekisho(*flags, "kafka", "check", home=tmp_path)
    assert (after.code, after.out.count("ok      ")) == (0, 1 + len(Topics.model_fields)), after.text


def test_a_topic_that_takes_too_little_is_named(broker: Cluster, prefix: str, tmp_path: Path) -> None:
    """A limit below the largest batch, and an agents topic that is not compacted, are told with the setting to change."""
    made = topics.connection(broker.bootstrap, prefix)
    topics.make(broker.bootstrap, made.topics.flows, **{"max.message.bytes": "100000"})
    topics.make(broker.bootstrap, made.topics.agents)
    lay(tmp_path, made)
    told = sekisho("-c", str(tmp_path / "sekisho.yaml"), "kafka", "check", home=tmp_path)
    assert told.code == 1
    assert "max.message.bytes" in told.out
    assert f"--entity-name {made.topics.agents} --add-config cleanup.policy=compact" in told.out


FAULTY = {
    "flows": {
        "message.timestamp.type": "CreateTime",
        "retention.ms": "3600000",
        "cleanup.policy": "compact,delete",
    },
    "agents": {"message.timestamp.type": "CreateTime", "cleanup.policy": "delete"},
    "enrolment": {"retention.ms": "60000", "message.timestamp.type": "LogAppendTime"},
    "dead": {"max.message.bytes": "1000"},
    "alerts": {"cleanup.policy": "compact"},
    "coverage": {},
}
WANTED = {
    ("flows", "message.timestamp.type=LogAppendTime"),
    ("flows", "cleanup.policy=delete"),
    ("flows", "retention.ms=604800000"),
    ("agents", "message.timestamp.type=LogAppendTime"),
    ("agents", "cleanup.policy=compact"),
    ("enrolment", "retention.ms=86400000"),
    ("dead", "max.message.bytes=1048588"),
    ("alerts", "cleanup.policy=delete"),
}


def test_every_setting_that_is_wrong_is_told_with_the_line_that_mends_it(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    """Time, size, cleaning and retention, by topic; a line for each, with Kafka's own command. Sending still works: exit 0."""
    made = topics.connection(broker.bootstrap, prefix)
    names = made.topics.model_dump()
    for role, config in FAULTY.items():
        topics.make(broker.bootstrap, names[role], **config)
    lay(tmp_path, made)
    config = ("-c", str(tmp_path / "sekisho.yaml"))
    told = sekisho(*config, "kafka", "check", "--json", home=tmp_path)
    lines = [line for line in json.loads(told.out) if line["state"] != "ok"]
    begin = (
        f"kafka-configs.sh --bootstrap-server {made.servers[0]} --alter --entity-type topics --entity-name "
    )
    assert {line["mend"] for line in lines} == {
        f"{begin}{names[role]} --add-config {setting}" for role, setting in WANTED
    }
    assert (told.code, len(lines), {line["state"] for line in lines}) == (0, len(WANTED), {"poor"})
    japanese = sekisho(*config, "--set", "language=ja", "kafka", "check", home=tmp_path)
    assert "時刻がブローカーではなく送信側のもの" in japanese.out
    assert f"{begin}{names['agents']} --add-config cleanup.policy=compact" in japanese.out


def test_no_broker_is_said_in_one_sentence(kafka: Connection, tmp_path: Path) -> None:
    """Nobody listens: the addresses and what happened, exit code 1, no trace."""
    lay(tmp_path, kafka.model_copy(update={"servers": ("127.0.0.1:1",), "connect_s": 2.0}))
    told = sekisho("-c", str(tmp_path / "sekisho.yaml"), "kafka", "check", home=tmp_path)
    assert told.code == 1
    assert "kafka 127.0.0.1:1: " in told.out
    assert "Traceback" not in told.text


def test_without_kafka_the_setting_is_named(tmp_path: Path) -> None:
    """No kafka in the settings: the line that is missing is shown."""
    told = sekisho("kafka", "check", home=tmp_path)
    assert told.code == 1
    assert "kafka is not set" in told.text
