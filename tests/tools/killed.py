"""A host to watch, and agents that are killed while they do: what their successors decide is what left, exactly."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core.clock import SystemClock
from agent.store.state import State
from tests.tools import hosting
from tests.tools.guests import VM4
from tests.tools.hosting import Group
from tests.tools.netns import HOST4, Pair, wait_for
from tests.tools.places import ROOT

# Every commit writes the ledger, and maps are read and emptied in several steps, so that there is a midst to die in.
AGENT = """
from agent.detection import detector
from collectors.bpf import epochs
detector.LEDGER_EVERY_NS, epochs._CHUNK = 0, 512
from agent.cli import main
main()
"""


@dataclass
class Site:
    """A host to watch, and an agent that does."""

    two: Pair
    here: Group
    home: Path
    pins: Path
    collectors: int = 1

    @classmethod
    def made(cls, two: Pair, here: Group, home: Path, pins: Path, collectors: str, *, count: int = 1) -> Site:
        """A site whose files are written: every guest and host of the tests is one store. ``collectors``: their settings."""
        (home / "policy.yaml").write_text(
            "version: 1\ntenant: example\nstores:\n"
            f"  - {{id: records, categories: [personal_health], recognise: {{addresses: [{HOST4}, {VM4}]}}}}\n"
        )
        (home / "overrides.yaml").write_text(
            "overrides:\n  - {network: 192.0.2.0/24, country: US, asn: 64496, as_org: example, provider: example, "
            "owner: example, owner_country: US, source: test, checked: 2025-11-01}\n"
        )
        (home / "sekisho.yaml").write_text(
            f"version: 1\nstate_dir: {home / 'state'}\npolicy: [{home / 'policy.yaml'}]\n"
            f"overrides: [{home / 'overrides.yaml'}]\narchive: false\ncollectors:\n{collectors}"
        )
        return cls(two, here, home, pins, count)

    def start(self, faults: str = "") -> subprocess.Popen[str]:
        """Start the agent and wait until it counts, or is dead."""
        said = self._said()
        with self.log.open("a") as log:
            agent = hosting.start_in(
                self.two.host,
                AGENT,
                f"--config={self.home / 'sekisho.yaml'}",
                "up",
                "--plain",
                cwd=ROOT,
                env={**os.environ, "SEKISHO_FAULTS": faults},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for(
            lambda: agent.poll() is not None or self._said() >= said + self.collectors,
            "the agent to count",
            90,
        )
        return agent

    @property
    def log(self) -> Path:
        """What the agents say."""
        return self.home / "log"

    def _said(self) -> int:
        return self.log.read_text().count("capture_started") if self.log.exists() else 0

    def stop(self, agent: subprocess.Popen[str]) -> None:
        """Stop it in order."""
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(timeout=90) == 0, self.log.read_text()

    def decided(self) -> tuple[int, int]:
        """(packets, octets) that the state's ledger says have left."""
        state = State.open(self.home / "state" / "state.db", clock=SystemClock(), read_only=True)
        try:
            sums = state.ledger.sums(("store",))
        finally:
            state.close()
        return sum(s.packets_out for s in sums), sum(s.octets_out for s in sums)

    def left(self) -> Any:
        """(packets, octets) that the peer has counted."""
        return self.two.counts()["in", "ip", 17]
