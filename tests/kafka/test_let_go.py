"""A broker goes away under a producer with something unanswered: it is let go whole, and nothing is printed about it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.errors import SinkError
from agent.core.kafka import Connection
from sinks.coverage_topic import CoverageTopic
from sinks.dead_letters import DeadLetters
from sinks.kafka import Producer
from tests.tools.brokers import Cluster
from tests.tools.places import ROOT
from tests.tools.program import environment
from tests.tools.topics import until

AGENT = """
import sys
from pathlib import Path
from agent.core.kafka import Connection
from tests.tools.sender import numbered, sender
from tests.tools.topics import until

with sender(Path(sys.argv[1]), Connection.model_validate_json(sys.argv[2])) as agent:
    agent.put(numbered(10))
    until(lambda: not agent.waiting, "the batch is through")
    print("through", flush=True)
    sys.stdin.readline()
    agent.put(numbered(10))
    until(lambda: agent.send.carrying._flights, "the next is on its way")
"""


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What Python had to say about things that ended badly where nobody could catch it."""
    said: list[str] = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda about: said.append(f"{about.object} {about.exc_value!r}")
    )
    yield said


def threads() -> list[str]:
    """Threads of producers."""
    return [t.name for t in threading.enumerate() if type(t).__name__ == "Sender"]


@pytest.fixture
def away(broker: Cluster) -> Iterator[Callable[[], None]]:
    """Takes the broker away; it is back after the test."""
    yield broker.brokers[0].kill
    broker.start()


def test_what_is_unanswered_is_given_up_and_its_thread_ends(
    kafka: Connection, away: Callable[[], None], unraisable: list[str]
) -> None:
    """A record on its way when the broker dies: who waits for it hears so, no thread is left to send it later."""
    before = threads()
    answers: list[SinkError | None] = []
    producer = Producer(kafka, "test")
    producer.connect()
    producer.send(kafka.topics.flows, b"k", b"first", [], answers.append)
    until(lambda: answers == [None], "the first is taken")
    away()
    producer.send(kafka.topics.flows, b"k", b"second", [], answers.append)
    producer.disconnect()
    assert threads() == before
    assert [type(a) for a in answers] == [type(None), SinkError]
    del producer
    gc.collect()
    assert unraisable == []


def test_letters_and_receipts_fail_in_our_words(
    kafka: Connection, away: Callable[[], None], unraisable: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that dies under what waits for its answer: an error of ours comes, and no thread is left."""
    monkeypatch.setattr("sinks.dead_letters._WAIT_S", 0.5)
    monkeypatch.setattr("sinks.coverage_topic._WAIT_S", 0.5)
    before = threads()
    letters, receipts = DeadLetters(kafka, "test"), CoverageTopic(kafka, "test")
    receipt = {"id": "a", "made": 1, "kind": "hours", "host": "db-1"}
    told = {"reason": "r", "detail": "d", "origin": "o"}
    letters.send(b"k", {}, b"v", **told)
    letters.flush()
    receipts.send([receipt])
    away()
    letters.send(b"k", {}, b"v", **told)
    with pytest.raises(SinkError):
        letters.flush()
    with pytest.raises(SinkError):
        receipts.send([receipt])
    assert threads() == before
    gc.collect()
    assert unraisable == []


def test_an_agent_that_ends_in_an_outage_prints_nothing(
    kafka: Connection, away: Callable[[], None], tmp_path: Path
) -> None:
    """The broker dies under a running agent with rows on their way, and the agent ends: no traceback, exit 0."""
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, tmp_path / "agent", kafka.model_dump_json()],
        cwd=ROOT,
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "through\n"
        away()
        _, said = agent.communicate("\n", timeout=60)
    assert (agent.returncode, [line for line in said.splitlines() if not line.startswith("{")]) == (0, [])
