"""Settings of Kafka: what is refused, what stays secret, what is said without the checksum library."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from kafka import errors
from pydantic import ValidationError

from agent import config
from agent.core.errors import ConfigError, SinkError
from agent.core.kafka import Connection, hearing, refuse_slow_checksums
from tests.tools.program import sekisho

SECRET = "never-to-be-shown"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"servers": []}, "at least 1 item"),
        ({"servers": ["kafka-1"]}, "expected HOST:PORT"),
        ({"servers": ["user:pass@kafka-1:9092"]}, "expected HOST:PORT"),
        ({"servers": ["kafka-1:99999"]}, "expected HOST:PORT"),
        ({"servers": ["k:1"], "tls": {"key_file": "a.key"}}, "key_file needs cert_file"),
        ({"servers": ["k:1"], "sasl": {"secret_file": "s"}}, "SCRAM-SHA-512 needs a user"),
        (
            {"servers": ["k:1"], "sasl": {"mechanism": "PLAIN", "user": "a", "secret_file": "s"}},
            "sends the secret in the open",
        ),
        ({"servers": ["k:1"], "sasl": {"user": "a", "password": SECRET, "secret_file": "s"}}, "password"),
        ({"servers": ["k:1"], "topics": {"flows": "a b"}}, "topics.flows"),
        ({"servers": ["k:1"], "topics": {"flows": ".."}}, "letters, digits and . _ - alone"),
        ({"servers": ["k:1"], "topics": {"flows": "a", "agents": "a"}}, "flows and agents have one name"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], said: str) -> None:
    """Each fault is found when the settings are read, and says what was expected."""
    with pytest.raises(ValidationError) as caught:
        Connection.model_validate(given)
    assert said in str(caught.value)


def test_files_are_relative_to_the_settings_and_no_secret_is_shown(tmp_path: Path) -> None:
    """config show names the secret's file, never what stands in it."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "sekisho.yaml").write_text(
        "kafka:\n  servers: k-1.example.net:9093,k-2.example.net:9093\n  tls: {ca_file: ca.pem}\n"
        "  sasl: {user: agent, secret_file: secret}\nspool: {folder: spool}\n"
    )
    loaded = config.load(tmp_path / "sekisho.yaml", environ={})
    kafka = loaded.settings.kafka
    assert kafka is not None and kafka.tls is not None and kafka.sasl is not None
    assert kafka.servers == ("k-1.example.net:9093", "k-2.example.net:9093")
    assert (kafka.tls.ca_file, kafka.sasl.secret_file) == (tmp_path / "ca.pem", tmp_path / "secret")
    assert (loaded.settings.spool_dir, kafka.protocol) == (tmp_path / "spool", "SASL_SSL")
    shown = sekisho("-c", tmp_path / "sekisho.yaml", "config", "show", "--json", home=tmp_path)
    assert (shown.code, SECRET in shown.text) == (0, False)


def test_a_fault_in_kafka_names_its_line(tmp_path: Path) -> None:
    """Settings with a wrong server are refused with file and line."""
    (tmp_path / "sekisho.yaml").write_text("language: en\nkafka:\n  servers: [nowhere]\n")
    with pytest.raises(ConfigError, match=r"sekisho\.yaml:3.*HOST:PORT"):
        config.load(tmp_path / "sekisho.yaml", environ={})


def test_a_slow_checksum_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiled checksum nothing is sent, and the sentence says what to install."""
    from kafka.record import util

    refuse_slow_checksums()
    monkeypatch.setattr(util, "crc32c_c", None)
    with pytest.raises(SinkError, match="pip install crc32c") as caught:
        refuse_slow_checksums()
    assert not caught.value.retriable


def test_a_secret_is_read_anew_and_missed_in_words(tmp_path: Path) -> None:
    """A file that is gone or empty is named; one that was changed counts at once."""
    file = tmp_path / "secret"
    kafka = Connection.model_validate(
        {"servers": ["k:1"], "sasl": {"user": "agent", "secret_file": str(file)}}
    )
    with pytest.raises(SinkError, match=str(file)):
        kafka.options("test")
    file.write_text("\n")
    with pytest.raises(SinkError, match="holds no secret"):
        kafka.options("test")
    for secret in ("one", "two"):
        file.write_text(secret + "\n")
        assert kafka.options("test")["sasl_plain_password"] == secret


@pytest.mark.parametrize(
    "raised", [errors.KafkaTimeoutError("bootstrap"), errors.RequestTimedOutError("14 ms")]
)
def test_what_was_told_before_time_ran_out_is_the_cause(raised: errors.KafkaError) -> None:
    """The last of many tries is cut short by the end of the time for all: what an earlier one met is what counts."""
    met, cut = (
        errors.KafkaConnectionError("[SSL] alert certificate unknown"),
        errors.RequestTimedOutError("14 ms"),
    )
    with hearing() as heard:
        for fault in (met, cut):
            logging.getLogger("kafka.net").error("Connection failed: %s", fault)
        assert heard.cause(raised) is met
        assert heard.cause(later := errors.TopicAuthorizationFailedError()) is later


def test_a_time_that_ran_out_is_the_cause_where_nothing_else_was_told() -> None:
    """A broker that takes connections and never answers is said to be one that does not answer in time."""
    cut = errors.RequestTimedOutError("2000 ms")
    with hearing() as heard:
        logging.getLogger("kafka.net").warning("Connection lost: %s", cut)
        assert heard.cause(errors.KafkaTimeoutError("bootstrap")) is cut
