"""Coverage with a real broker, a real agent and a real detector: an agent is killed, is missed, and comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import config
from agent.core.clock import SECOND_NS, SystemClock
from agent.core.heartbeat import of_account
from agent.core.kafka import Connection
from agent.covering import causes, covering, publishing, receipts
from agent.detection import fleet
from agent.receiving.detecting import DetectRuntime
from agent.sending import telling
from agent.store.coverage import Receipt
from tests.tools import topics
from tests.tools.fleet import Program
from tests.tools.places import ROOT
from tests.tools.program import sekisho
from tests.tools.states import Place

S = SECOND_NS
POLICY = """version: 1
tenant: example
stores:
  - {id: patients, categories: [personal_health], recognise: {hosts: [db-1]}}
rules:
  - {id: much, over: 100 MB, window: 5m}
"""


def _lay(folder: Path, kafka: Connection, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "policy.yaml").write_text(POLICY)
    settings = {
        "state_dir": str(folder / "state"),
        "host": "db-1",
        "enrichers": {},
        "policy": [str(folder / "policy.yaml")],
        "kafka": kafka.model_dump(mode="json", exclude_defaults=True),
        **more,
    }
    path = folder / "sekisho.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@contextmanager
def _agent(folder: Path, since_s: int) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.tools.living_run", str(folder), str(since_s)],
            cwd=ROOT, env=dict(os.environ), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def _detector(settings: Path) -> Iterator[DetectRuntime]:
    loaded = config.load(settings, environ={})
    with DetectRuntime(loaded) as run:
        thread = threading.Thread(target=run.go)
        thread.start()
        try:
            yield run
        finally:
            run.stop.set()
            thread.join(60)


def _last(run: DetectRuntime) -> Receipt | None:
    found = run.state.coverage.receipts("patients", "much")
    return found[-1] if found else None


def _told(folder: Path) -> Counter[str]:
    path = folder / "alerts.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(n["event"]["name"] for n in map(json.loads, lines) if n.get("event"))


def test_an_agent_that_is_killed_is_missed_once_and_comes_back(
    kafka: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs nothing is found; killed, its silence is told once and receipts say not observed; back, its data is whole
    from then on, what lies between stays not observed, and the topic has the receipts as the state has them."""
    for module, name, value in (
        (fleet, "SILENT_NS", 4 * S),
        (fleet, "PATIENCE_NS", 2 * S),
        (causes, "GROUP_NS", S),
        (covering, "LOOK_NS", S // 2),
        (receipts, "STEP_NS", 2 * S),
        (receipts, "AGAIN_NS", S),
        (publishing, "LOOK_S", 0.5),
    ):
        monkeypatch.setattr(module, name, value)
    agent_dir, detector_dir = tmp_path / "agent", tmp_path / "detector"
    _lay(agent_dir, kafka)
    sinks = {"jsonl": {"file": str(detector_dir / "alerts.jsonl"), "flows": False}}
    settings = _lay(detector_dir, kafka, lateness="5s", sinks=sinks)
    with _detector(settings) as run:
        with _agent(agent_dir, 3600) as process:
            topics.until(
                lambda: (last := _last(run)) and last.verdict == "no_finding" and last.lost == 0,
                "the detector has seen all of the last five minutes",
            )
            process.kill()
            process.wait()
            topics.until(lambda: _told(detector_dir)["agents_silent"], "its silence is told")
            topics.until(
                lambda: (last := _last(run)) and "silent" in last.reasons,
                "receipts say what was not observed",
            )
            last = _last(run)
            assert last is not None and (last.verdict, last.lost) == ("not_observed", -1)
        with _agent(agent_dir, 0):
            topics.until(lambda: _told(detector_dir)["agents_returned"], "its return is told")
            (known,) = run.stream.agents.covering.agents.values()  # type: ignore[union-attr]
            topics.until(
                lambda: [h.reason for h in known.holes] == ["restarted"] and not known.holes[0].spool,
                "what its spool held has come, and what its memory held stays missing",
            )
            topics.until(
                lambda: (last := _last(run)) and last.reasons == ("restarted",), "receipts name the restart"
            )
            topics.until(lambda: _captured(agent_dir / "state"), "the agent notes how it stands")
    assert _told(detector_dir)["agents_silent"] == 1
    newest: dict[str, dict[str, Any]] = {}
    for record in topics.read(kafka.servers, kafka.topics.coverage):
        told = json.loads(record.value)
        if told["made"] >= newest.get(told["id"], {"made": 0})["made"]:
            newest[told["id"]] = told
    assert {"no_finding", "not_observed"} <= {t["verdict"] for t in newest.values() if t["kind"] == "receipt"}
    host = _status(settings, detector_dir / "state", "detector")
    assert (host["host"], host["residue"]) == ("db-1", {"flows": 0, "octets_out": 0, "octets_in": 0})
    assert "restarted" in {one["reason"] for one in host["unseen"]}
    at_home = _status(agent_dir / "sekisho.yaml", agent_dir / "state", "agent")
    assert (at_home["residue"], at_home["hours"]) == (host["residue"], None)
    assert at_home["account"]["captured"]["octets_out"] > 0


def _captured(state: Path) -> int:
    """Octets that the agent last noted as captured."""
    table = telling.read(state)
    return of_account(table["account"], "captured").octets_out if table else 0


def _status(settings: Path, state: Path, source: str) -> dict[str, Any]:
    """The one host of `sekisho status`."""
    shown = sekisho("-c", settings, "status", "--json", home=state.parent, state_dir=state)
    assert shown.code == 0, shown.text
    told = json.loads(shown.out)
    assert told["source"] == source
    (host,) = told["hosts"]
    assert isinstance(host, dict)
    return host


def test_a_detector_killed_after_sending_coverage_loses_none_of_it(kafka: Connection, tmp_path: Path) -> None:
    """What the topic has twice is equal, and the state has nothing that the topic lacks: id and number name a record."""
    settings = _lay(tmp_path / "d", kafka)
    flags = ["-c", str(settings)]
    with Program(flags, tmp_path / "log", faults="coverage.after_send:1") as program:
        assert program.wait() == -signal.SIGKILL
    first = [r.value for r in topics.read(kafka.servers, kafka.topics.coverage)]
    assert {json.loads(value)["verdict"] for value in first} == {"not_observed"}
    place = Place(tmp_path / "d" / "state" / "state.db")

    def unsent() -> int:
        with place.beside(SystemClock(), read_only=True) as state:
            return len(state.coverage.unsent(1000))

    assert unsent() == len(first)
    with Program(flags, tmp_path / "log") as program:
        topics.until(lambda: not unsent(), "all is sent")
        assert program.stop() == 0
    by_number: dict[tuple[str, int], set[bytes]] = {}
    for record in topics.read(kafka.servers, kafka.topics.coverage):
        told = json.loads(record.value)
        by_number.setdefault((told["id"], told["made"]), set()).add(record.value)
        assert record.headers["sekisho-receipt"] == f"{told['id']}#{told['made']}".encode()
    assert {len(values) for values in by_number.values()} == {1}
    with place.beside(SystemClock(), read_only=True) as state:
        kept = {(row.id, row.made) for row in (*state.coverage.receipts(), *state.coverage.hours())}
    assert kept <= by_number.keys()
