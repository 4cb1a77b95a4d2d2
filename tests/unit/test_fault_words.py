"""Faults in the reader's language: every sentence that is made to be translated is, and keeps its values."""

from __future__ import annotations

import ast
import pickle
import socket
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent
import collectors
import enrichers
import sinks
from agent.core.errors import StateError
from agent.core.kafka import Connection, Sasl, in_words, somebody_listens
from agent.core.said import said
from agent.store import database
from agent.words.faults import of_error, translations, worded
from tests.tools.forbidden import claims
from tests.tools.program import sekisho

OF_THE_SYSTEM = {
    "Connection refused", "No route to host", "Network is unreachable", "Connection timed out", "timed out",
    "Name or service not known", "Temporary failure in name resolution", "Permission denied",
    "No such file or directory", "Is a directory", "Not a directory", "No space left on device",
    "Read-only file system",
}  # fmt: skip


def _templates() -> Iterator[str]:
    for room in (agent, collectors, enrichers, sinks):  # where they are installed
        for path in sorted(Path(room.__path__[0]).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "said":
                    assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: no literal"
                    yield node.args[0].value


def _blanks(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_every_sentence_has_its_translation_and_none_is_left_over() -> None:
    """Templates of the sources, and what the database advises, are those of the file."""
    known = {*_templates(), *database._ADVICE.values(), database._RESTORE}
    assert set(translations()) == known | OF_THE_SYSTEM


@pytest.mark.parametrize("english", sorted(translations()))
def test_a_translation_keeps_the_blanks_and_claims_nothing(english: str) -> None:
    """The same blanks in both; no word that accuses or vouches."""
    japanese = translations()[english]
    assert _blanks(japanese) == _blanks(english)
    assert japanese != english
    assert not list(claims([("ja", japanese)], assurances=True))


def test_a_sentence_is_said_in_both_languages() -> None:
    """With the values in it said too; a plain text stays as it is."""
    why = said("{server}: {error}", server="192.0.2.1:9092", error="Connection refused")
    whole = said("no broker answers: kafka {servers}", servers=why)
    assert worded(whole, "en") == "no broker answers: kafka 192.0.2.1:9092: Connection refused"
    assert worded(whole, "ja") == "応答するブローカーがありません：kafka 192.0.2.1:9092：接続を拒否されました"
    assert worded("no one knows this", "ja") == "no one knows this"
    assert of_error(StateError("plain"), "ja") == "plain"
    assert pickle.loads(pickle.dumps(whole)).template == whole.template


def test_values_with_braces_stay_as_they_are() -> None:
    """A name from outside is no template."""
    text = said("{path}: not written by sekisho; remove it", path="/tmp/{error}{0}")
    assert worded(text, "ja").startswith("/tmp/{error}{0}：")


def test_what_kafka_refuses_is_said_in_japanese(tmp_path: Path) -> None:
    """Password, rights, topic: each with what to do, and to read asks for another right than to write."""
    from kafka import errors

    sasl = Sasl(mechanism="SCRAM-SHA-512", user="eve", secret_file=tmp_path / "secret")
    kafka = Connection(servers=("192.0.2.1:9092",), sasl=sasl)
    refused = in_words(errors.SaslAuthenticationFailedError(), kafka)
    assert (
        of_error(refused, "ja")
        == "kafka 192.0.2.1:9092 に接続を拒まれました（利用者：eve）：利用者、秘密、または方式が違います（kafka.sasl）"
    )
    writing, reading = (
        in_words(errors.TopicAuthorizationFailedError(), kafka, "rows", reading=reading)
        for reading in (False, True)
    )
    assert "write to topic rows as eve" in str(writing) and "READ" not in str(writing)
    assert "read topic rows as eve" in str(reading) and "WRITE" not in str(reading)
    assert "READ と DESCRIBE" in of_error(reading, "ja")


def test_commands_say_ordinary_faults_in_japanese(tmp_path: Path) -> None:
    """No broker, no state, a token that is none, a store host without a second person: the screen is Japanese throughout."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound and not listened on: refused
        (tmp_path / "policy.yaml").write_text(
            "version: 1\ntenant: example\nstores: [{id: patients, categories: [personal_health], "
            "recognise: {hosts: [db-1]}}]\n"
        )
        (tmp_path / "sekisho.yaml").write_text(
            f"language: ja\nenrichers: {{}}\npolicy: [policy.yaml]\n"
            f"kafka: {{servers: ['127.0.0.1:{port}'], connect_s: 2}}\n"
        )
        with pytest.raises(Exception, match="Connection refused"):
            somebody_listens(Connection(servers=(f"127.0.0.1:{port}",)))
        check = sekisho("kafka", "check", home=tmp_path)
        assert check.code == 1
        assert (
            f"不可    ブローカー：応答するブローカーがありません：kafka 127.0.0.1:{port}：接続を拒否されました"
            in check.out
        )
        assert "no broker answers" in sekisho("kafka", "check", "--json", home=tmp_path).out
    for line, told in (
        (("status",), "状態がまだありません"),
        (("maintenance", "start", "--reason", "disks", "--as", "ann"), "状態がまだありません"),
        (("agent", "enrol", "rubbish"), "登録用トークンではありません"),
        (("--set", "detect.database=mysql://x@y/z", "status"), "mysql:// ではなく"),
    ):
        made = sekisho(*line, home=tmp_path)
        assert (made.code, told in made.err) == (1, True), made.text
