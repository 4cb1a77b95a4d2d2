"""Notices to Kafka: delivered when the call returns, as the OCSF event that the file sink writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.core.accounts import Accounts
from agent.core.errors import SinkError
from agent.core.kafka import Connection
from agent.core.stages import Context
from sinks.kafka import Settings
from sinks.ocsf import finding_event
from tests.tools import topics
from tests.tools.brokers import Cluster
from tests.tools.notices import opened


def test_a_notice_is_in_the_topic_when_the_call_returns(kafka: Connection, tmp_path: Path) -> None:
    """The record is keyed by case, names the notice in a header, and its value is the OCSF event."""
    notice = opened()
    assert notice.case is not None
    sink = Settings().build(Context(Accounts(), tmp_path, kafka=kafka))
    sink.write_notice(notice)
    (record,) = topics.read(kafka.servers, kafka.topics.alerts)
    sink.close()
    assert (record.key, record.headers) == (notice.case.id, {"sekisho-notice": notice.id.encode()})
    assert json.loads(record.value) == json.loads(json.dumps(finding_event(notice)))


def test_a_missing_topic_keeps_the_notice_for_later(broker: Cluster, prefix: str, tmp_path: Path) -> None:
    """The outbox tries again: retriable, with the command that makes the topic."""
    sink = Settings().build(Context(Accounts(), tmp_path, kafka=topics.connection(broker.bootstrap, prefix)))
    with pytest.raises(SinkError, match="sekisho kafka topics create") as caught:
        sink.write_notice(opened())
    sink.close()
    assert caught.value.retriable


def test_without_brokers_the_setting_is_named(tmp_path: Path) -> None:
    """The sink without any kafka in the settings says what to set, when it is first used."""
    sink = Settings().build(Context(Accounts(), tmp_path))
    with pytest.raises(SinkError, match=r"kafka\.servers"):
        sink.write_notice(opened())
