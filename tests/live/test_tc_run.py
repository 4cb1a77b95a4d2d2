"""A whole run that watches a machine: the scope stays with the evidence, nothing of the payload does, and it is refused
without an approval."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collectors.bpf import libbpf
from tests.tools import guests, hosting, netns
from tests.tools.guests import VM4, VM6
from tests.tools.marked import Marked, everything
from tests.tools.netns import PEER4, Namespace, wait_for
from tests.tools.program import environment

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
]

POLICY = """
version: 1
stores: [{id: secrets, categories: [trade_secret], recognise: {addresses: [198.51.100.2]}}]
rules: [{id: any-egress, over: 1 KB, window: 5m, severity: high}]
"""
BASIS = "consent in the hosting contract section 7"
SEND = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
payload = bytes.fromhex(sys.argv[2])
for at in range(0, len(payload), 1000): s.sendto(payload[at:at + 1000], (sys.argv[1], 9999))
"""


def start(folder: Path, where: Namespace, **tc: Any) -> subprocess.Popen[bytes]:
    (folder / "policy.yaml").write_text(POLICY)
    settings = {
        "host": "hv-01",
        "policy": ["policy.yaml"],
        "collectors": {"tc": {"interfaces": ["vnet*"], "interval": 1, "pin": False} | tc},
        "sinks": {"jsonl": {"file": str(folder / "out.jsonl")}},
    }
    (folder / "sekisho.yaml").write_text(json.dumps(settings))
    line = [sys.executable, "-m", "agent.cli", "-c", str(folder / "sekisho.yaml"), "--state-dir", str(folder / "state")]  # fmt: skip
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{where.name}", *line, "up", "--plain"],
            cwd=folder,
            env=environment(folder),
            stdout=out,
            stderr=err,
        )


def notices(folder: Path) -> list[dict[str, Any]]:
    file = folder / "out.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_the_scope_stays_with_the_evidence_and_nothing_of_the_payload_does(tmp_path: Path) -> None:
    """What was allowed is told at start and stands in the finding; marked data of the machine is nowhere."""
    marked = Marked()
    with netns.pair() as two, guests.machine(two.host) as vm:
        guests.route(two, vm.space, vm.tap, "eth0", (VM4, VM6, guests.GATE4, guests.GATE6))
        agent = start(tmp_path, two.host, **(guests.ALLOWED | {"legal_basis": BASIS}))
        try:
            wait_for(lambda: b"capture_started" in (tmp_path / "stderr").read_bytes(), "the capture", 60)
            sent = hosting.start_in(vm.space, SEND, PEER4, marked.payload(40_000).hex())
            assert sent.wait(30) == 0
            wait_for(lambda: any(n.get("case") for n in notices(tmp_path)), "the case", 60)
        finally:
            agent.send_signal(signal.SIGTERM)
            code = agent.wait(60)
    assert code == 0, (tmp_path / "stderr").read_text()
    assert marked.hits(list(everything(tmp_path))) == []
    told = [n["event"] for n in notices(tmp_path) if n.get("event")]
    (began,) = [event["detail"] for event in told if event["name"] == "guests_watched"]
    scope = json.loads(began["tc_scope/guests"])
    assert (scope["legal_basis"], scope["interfaces"], scope["approved_on"]) == (
        BASIS,
        ["vnet*"],
        "2026-01-01",
    )
    (case, *_) = [n["case"] for n in notices(tmp_path) if n.get("case")]
    assert {f["versions"]["tc_scope/guests"] for f in case["findings"]} == {began["tc_scope/guests"]}
    assert case["traffic"]["vantages"][0]["value"] == "tc:vnet0"
    assert BASIS.encode() in (tmp_path / "stderr").read_bytes()


def test_a_run_without_an_approval_does_not_start(tmp_path: Path) -> None:
    """The program ends at once, with one sentence that says what is missing and why, before anything is watched."""
    with netns.pair() as two:
        agent = start(tmp_path, two.host, legal_basis=BASIS)
        assert agent.wait(60) != 0
    said = (tmp_path / "stderr").read_text()
    assert "missing: approved_by, approved_on (docs/privacy.md" in said
    assert "capture_started" not in said
    assert "Traceback" not in said
