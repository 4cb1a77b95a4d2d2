"""An agent that is killed anywhere between sealing and acknowledgement, against a real broker: no batch is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agent.core.faults import VARIABLE
from agent.core.kafka import Connection
from agent.sending.identity import identity, verifies
from tests.tools import topics
from tests.tools.places import ROOT
from tests.tools.sending_run import marks

STEPS = 12
POINTS = (
    "send.after_journal:4",
    "spool.after_append:7",
    "send.after_append:3",
    "send.after_send:5",
    "send.after_ack:6",
    "spool.after_note:1",
)


def lay(folder: Path, kafka: Connection, **spool: object) -> None:
    """Settings of the agent of a test."""
    folder.mkdir(exist_ok=True)
    settings = {
        "state_dir": str(folder / "state"),
        "host": "db-1",
        "enrichers": {},
        "kafka": kafka.model_dump(mode="json", exclude_defaults=True),
        "spool": {"replay_after_s": 0, **spool},
    }
    (folder / "sekisho.yaml").write_text(yaml.safe_dump(settings))


def run(folder: Path, steps: int = STEPS, fault: str = "") -> subprocess.CompletedProcess[bytes]:
    """One run of the agent to its end, or to its death."""
    return subprocess.run(
        [sys.executable, "-m", "tests.tools.sending_run", str(folder), str(steps)],
        cwd=ROOT,
        env={**os.environ, VARIABLE: fault},
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_what_an_agent_saw_is_in_the_topic_signed_with_its_account(kafka: Connection, tmp_path: Path) -> None:
    """An undisturbed run: every row once, every signature good, and the last heartbeat closes the account."""
    lay(tmp_path, kafka)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    found = topics.batches(kafka.servers, kafka.topics.flows)
    assert sorted(r["octets_out"] for r in topics.rows(list(found.values()))) == marks(STEPS)
    public = identity(tmp_path / "state").public
    assert all(verifies(public, m.signature, m.signed()) for m in found.values())
    assert {lane: sorted(s for _, _, on, s in found if on == lane) for lane in (0, 1)} == {
        lane: list(range(STEPS)) for lane in (0, 1)
    }
    beats = [json.loads(r.value) for r in topics.read(kafka.servers, kafka.topics.agents)]
    last = beats[-1]
    assert (last["closing"], last["lanes"]["0"]["low_water"], last["spool"]["records"]) == (True, STEPS, 0)
    account = last["account"]
    assert account["sealed"] == account["acked"] and account["sealed"]["flows"] == len(marks(STEPS))
    assert account["sealed residue"] == {"flows": 0, "octets_out": 0, "octets_in": 0}


@pytest.mark.parametrize("fault", POINTS)
def test_a_kill_loses_nothing_and_doubles_nothing(kafka: Connection, tmp_path: Path, fault: str) -> None:
    """Killed at a named point and started again, the agent has sent every row under one id and digest."""
    lay(tmp_path, kafka)
    assert run(tmp_path, fault=fault).returncode == -9
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    found = topics.batches(kafka.servers, kafka.topics.flows)
    assert sorted(r["octets_out"] for r in topics.rows(list(found.values()))) == marks(STEPS)
