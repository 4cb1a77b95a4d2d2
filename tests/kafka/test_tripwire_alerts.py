"""A bulk transfer while Kafka is down: the host tells in time, and the detector later finds the same, once."""

from __future__ import annotations

import http.server
import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.core.clock import SystemClock
from agent.core.errors import StateError
from agent.core.finding import Case
from agent.core.kafka import Connection
from agent.store.state import State
from tests.tools import topics
from tests.tools.brokers import Cluster
from tests.tools.fleet import Program, until
from tests.tools.places import ROOT

AFTER_S = 5
SOON_S = 30.0
"""From the first row of the transfer that Kafka did not take."""
POLICY = """version: 1
tenant: example
stores:
  - {id: patients, categories: [personal_health], recognise: {hosts: [db-1]}}
destinations:
  - {id: far, networks: [203.0.113.0/24]}
rules:
  - {id: bulk-far, over: 100 MB, window: 1h, destinations: [far], severity: high}
overrides:
  - {network: 203.0.113.0/24, asn: 64500, as_org: Example Networks}
"""


class Receiver:
    """A web address and a syslog collector of the test's own."""

    def __init__(self) -> None:
        self.posted: queue.Queue[dict[str, Any]] = queue.Queue()
        posted = self.posted

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.log = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.log.bind(("127.0.0.1", 0))
        self.log.settimeout(SOON_S)
        self._thread = threading.Thread(target=self.web.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """Let go."""
        self.web.shutdown()
        self._thread.join()
        self.web.server_close()
        self.log.close()

    def logged(self, kind: str) -> str:
        """The next line of that kind in syslog."""
        while kind not in (line := self.log.recv(65_536).decode()).split(" ")[:7]:
            pass
        return line

    def cases(self, wait_s: float) -> list[dict[str, Any]]:
        """Alerts about traffic; waits for the first."""
        end, out = time.monotonic() + wait_s, list[dict[str, Any]]()
        while not out and time.monotonic() < end:
            try:
                told = self.posted.get(timeout=0.2)
            except queue.Empty:
                continue
            out += [told] if told.get("case") else []
        return out


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def write_settings(folder: Path, kafka: Connection, receiver: Receiver) -> None:
    """Those of the host and of the detector; both have the same policy."""
    (folder / "policy.yaml").write_text(POLICY)
    quick = kafka.model_copy(update={"connect_s": 2.0, "request_s": 3.0})
    common = {
        "kafka": quick.model_dump(mode="json", exclude_defaults=True),
        "policy": ["policy.yaml"],
        "enrichers": {"asset": {}, "geo": {}, "owner": {}},
        "host": "db-1",
    }
    web, log = (end.getsockname() for end in (receiver.web.socket, receiver.log))
    host = {
        **common,
        "state_dir": "here",
        "tripwire": {"after": f"{AFTER_S}s"},
        "spool": {"replay_after_s": 0},
        "sinks": {
            "soc": {"use": "webhook", "url": f"http://127.0.0.1:{web[1]}/", "detail": "full"},
            "siem": {"use": "syslog", "transport": "udp", "address": f"127.0.0.1:{log[1]}"},
        },
    }
    there = {
        **common,
        "state_dir": "there",
        "sinks": {"jsonl": {"file": str(folder / "alerts.jsonl"), "flows": False}},
    }
    (folder / "sekisho.yaml").write_text(yaml.safe_dump(host))
    (folder / "detector.yaml").write_text(yaml.safe_dump(there))


def cases_of(folder: Path) -> list[Case]:
    """What the detector decided."""
    try:
        with closing(State.open(folder / "there" / "state.db", clock=SystemClock(), read_only=True)) as state:
            return state.cases.list_cases()
    except StateError:
        return []


def test_somebody_is_told_while_kafka_is_away_and_the_detector_finds_the_same_once(
    broker: Cluster, kafka: Connection, receiver: Receiver, tmp_path: Path
) -> None:
    """The broker is killed, then the transfer begins: web hook and syslog hear of it in time, with the words that it is one
    host's view; after the broker is back the detector has one case with one finding of the same id, which names the host.
    """
    write_settings(tmp_path, kafka, receiver)
    log = (tmp_path / "agent.log").open("wb")
    agent = subprocess.Popen(
        [sys.executable, "-m", "tests.tools.tripwire_run", str(tmp_path)], cwd=ROOT, stdout=log, stderr=log
    )
    try:
        with Program(["-c", str(tmp_path / "detector.yaml")], tmp_path / "log") as detector:
            topics.until(
                lambda: topics.read(kafka.servers, kafka.topics.flows),
                "the agent's first batch is in the topic",
            )
            broker.brokers[0].kill(signal.SIGKILL)
            try:
                (tmp_path / "bulk").touch()
                begun = time.monotonic()
                told = receiver.cases(SOON_S)
                assert told, (tmp_path / "agent.log").read_text()[-3000:]
                assert AFTER_S - 2 < time.monotonic() - begun < SOON_S
                line = receiver.logged("opened")
                (tmp_path / "bulk").unlink()
            finally:
                broker.start()
            (finding,) = told[0]["case"]["findings"]
            assert "(this host's view alone)" in told[0]["title"]
            assert "LOCAL VIEW" in told[0]["text"]
            assert (told[0]["case_id"], told[0]["case"]["local_view"]) == (
                f"local-{finding['id'][:16]}",
                True,
            )
            assert f'findings="{finding["id"]}"' in line
            assert 'local_view="true"' in line

            until(lambda: bool(cases_of(tmp_path)), "case of the detector", detector)
            until(
                lambda: bool(cases_of(tmp_path)[0].findings[0].told_before),
                "word of who told it first",
                detector,
            )
            (case,) = cases_of(tmp_path)
            (found,) = case.findings
            assert (found.id, found.rule, found.entity) == (finding["id"], "bulk-far", "as:64500")
            assert [(one.host, one.id) for one in found.told_before] == [("db-1", finding["id"])]
            assert not case.local_view
            assert detector.stop() == 0
        notices = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
        assert [n["kind"] for n in notices if n.get("case")] == ["opened"]
        assert receiver.cases(1.0) == []
    finally:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0, (tmp_path / "agent.log").read_text()[-3000:]
        log.close()
