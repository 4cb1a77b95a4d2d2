"""The archiver and the republisher against a real broker: what was sent, each row once, whenever they are killed."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from agent.core.clock import DAY_NS, MINUTE_NS, DataClock
from agent.core.errors import StateError
from agent.core.kafka import Connection
from agent.core.message import HEADER_KEY, SIGNATURE_KEY, Message
from agent.store.flows import read_flows
from agent.store.state import State
from tests.tools import ocsf, topics
from tests.tools.fleet import FakeAgent, Program, now_ns, until
from tests.tools.program import sekisho

Row = tuple[str, str, int, int]
"""Host, agent, pid (each row's own number) and octets out."""


class Sent:
    """Everything that was sent, by whoever keeps the books apart from sekisho."""

    def __init__(self, kafka: Connection) -> None:
        self.rows: Counter[Row] = Counter()
        self.messages = 0
        self._topic, self._number = kafka.topics.flows, 0
        self._producer = KafkaProducer(bootstrap_servers=list(kafka.servers), acks="all")

    def send(self, agent: FakeAgent, message: Message) -> None:
        """One message as an agent sends it."""
        self.messages += 1
        headers = [(HEADER_KEY, message.header), (SIGNATURE_KEY, message.signature)]
        self._producer.send(self._topic, value=message.value, key=agent.id.encode(), headers=headers)

    def batch(self, agent: FakeAgent, count: int, *, again: int = 0) -> None:
        """So many rows of this and the day before; the message ``again`` more times."""
        rows = []
        for n in range(count):
            self._number += 1
            end_ns = now_ns() - MINUTE_NS - (n % 2) * DAY_NS
            rows.append({"pid": self._number, "octets_out": 1000 + n, "start_ns": end_ns, "end_ns": end_ns})
            self.rows[agent.id, agent.id, self._number, 1000 + n] += 1
        message = agent.message(rows)
        for _ in range(1 + again):
            self.send(agent, message)

    def foreign(self) -> None:
        """A message that is nobody's."""
        self.messages += 1
        self._producer.send(self._topic, value=b"hello", key=b"x")

    def flush(self) -> None:
        """Until the broker has all."""
        self._producer.flush()

    def close(self) -> None:
        """Let go."""
        self._producer.close()


@pytest.fixture
def sent(kafka: Connection) -> Iterator[Sent]:
    made = Sent(kafka)
    yield made
    made.close()


def _flags(folder: Path, kafka: Connection, **more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    given = {
        "kafka.servers": ",".join(kafka.servers),
        **{f"kafka.topics.{role}": name for role, name in kafka.topics.model_dump().items()},
        **more,
    }
    return [f"--state-dir={folder / 'state'}", *(f"--set={name}={value}" for name, value in given.items())]


def _read_up_to(state: Path) -> int:
    """Messages that a role's state says it is past."""
    try:
        with State.open(state, clock=DataClock(now_ns()), read_only=True) as opened:
            return sum(at.next_offset for at in opened.inputs.offsets().values())
    except StateError:
        return 0


def _archived(folder: Path) -> Counter[Row]:
    found: Counter[Row] = Counter()
    for batch in read_flows(folder / "state" / "archive"):
        hosts, agents = batch.text("agent_host").decode(), batch.text("agent_id").decode()
        rows = zip(hosts, agents, batch["pid"].tolist(), batch["octets_out"].tolist(), strict=True)
        found.update(tuple(row) for row in rows)  # type: ignore[misc]
    return found


def _run(flags: list[str], folder: Path, want: int, command: str, state: Path, faults: str = "") -> int:
    with Program(flags, folder / "log", faults=faults, command=(command,)) as program:
        if faults:
            return program.wait()
        until(lambda: _read_up_to(state) >= want, "end of the topic", program)
        return program.stop()


POINTS = (
    "archive.after_journal:5",
    "copy.after_take:2",
    "commit.after_sequences:2",
    "commit.after_position:3",
    "copy.after_commit:2",
    "archive.after_parquet:1",
    "archive.after_rename:1",
    "archive.after_unlink:1",
)


def test_a_killed_archiver_has_each_row_once(kafka: Connection, sent: Sent, tmp_path: Path) -> None:
    """Killed -9 at each step of a turn and of a file, in the middle of batches of two days, and started again: the archive
    holds exactly the rows that were sent, with host and agent, whatever came twice and whatever was nobody's."""
    fleet = [FakeAgent(f"db-{n}") for n in range(3)]
    for step in range(8):
        for agent in fleet:
            sent.batch(agent, 7, again=step % 2)
        sent.foreign()
    sent.flush()
    for point in POINTS:
        folder = tmp_path / point.replace(":", "-")
        flags = _flags(folder, kafka, **{"archiver.gather_rows": "20", "archiver.rows_per_file": "40"})
        state = folder / "state" / "archive" / "archiver.db"
        assert _run(flags, folder, sent.messages, "archive", state, point) == -signal.SIGKILL, point
        assert _run(flags, folder, sent.messages, "archive", state) == 0, point
        assert _archived(folder) == sent.rows, point
        assert not list(folder.rglob("*.journal")), point


def test_flows_of_one_host_are_asked_by_name(kafka: Connection, sent: Sent, tmp_path: Path) -> None:
    """`sekisho flows --host` sums one host of an archive of several; `--by host` sums each."""
    for n in range(3):
        sent.batch(FakeAgent(f"db-{n}"), 4 + n)
    sent.flush()
    flags = _flags(tmp_path / "a", kafka)
    state = tmp_path / "a" / "state" / "archive" / "archiver.db"
    assert _run(flags, tmp_path / "a", sent.messages, "archive", state) == 0
    asked = ("--state-dir", str(tmp_path / "a" / "state"), "flows", "--since", "3d", "--json")
    by_host = sekisho(*asked, "--by", "host", home=tmp_path)
    rows = {r["agent_host"]: r["rows"] for r in map(json.loads, by_host.out.splitlines())}
    assert rows == {"db-0": 4, "db-1": 5, "db-2": 6}
    one = sekisho(*asked, "--host", "db-1", "--total", home=tmp_path)
    assert json.loads(one.out)["rows"] == 5


def _events(kafka: Connection, topic: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Key, row and value of each record."""
    read = topics.read(kafka.servers, topic)
    return [(r.key, r.headers["sekisho-row"].decode(), json.loads(r.value)) for r in read]


def test_each_flow_comes_as_ocsf_and_as_json(kafka: Connection, sent: Sent, tmp_path: Path) -> None:
    """Both topics hold every flow, keyed by agent; OCSF validates against the standard's own schema; after a kill only what
    was not committed comes again, under the same row."""
    fleet = [FakeAgent(f"db-{n}") for n in range(2)]
    for _ in range(6):
        for agent in fleet:
            sent.batch(agent, 5)
    sent.flush()
    more = {"republish.ocsf": "true", "republish.json_lines": "true", "republish.gather_rows": "10"}
    flags, state = _flags(tmp_path / "r", kafka, **more), tmp_path / "r" / "state" / "republisher.db"
    for point in ("republish.after_send:2", "copy.after_take:2"):
        assert _run(flags, tmp_path / "r", sent.messages, "republish", state, point) == -signal.SIGKILL
    assert _run(flags, tmp_path / "r", sent.messages, "republish", state) == 0
    for topic in (kafka.topics.flows_ocsf, kafka.topics.flows_json):
        found = _events(kafka, topic)
        rows = {(key, row): (key, value) for key, row, value in found}
        assert len(rows) == sent.rows.total()
        assert 0 < len(found) - len(rows) < sent.rows.total()
        told = Counter(_row(key, value) for key, value in rows.values())
        assert told == sent.rows
    for _, row, event in _events(kafka, kafka.topics.flows_ocsf)[:40]:
        assert ocsf.faults(event) == []
        assert event["metadata"]["uid"] == row


def _row(key: str, value: dict[str, Any]) -> Row:
    if "class_uid" in value:
        pid, octets = value["actor"]["process"]["pid"], value["traffic"]["bytes_out"]
        return (value["device"]["hostname"], key, pid, octets)
    assert value["agent_id"] == key
    return (value["agent_host"], key, value["pid"], value["octets_out"])
