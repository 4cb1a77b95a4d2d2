"""Heartbeats on their way into the detector: whose they are, and that a killed detector forgets nothing it told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.core.clock import SECOND_NS
from agent.core.message import SIGNATURE_KEY
from agent.receiving.checking import Checker
from agent.receiving.hearing import Agents
from agent.store.state import State
from collectors.kafka import Place, Record
from tests.tools.beats import Beating
from tests.tools.covering_run import BEGIN, Run, policy_of

S = SECOND_NS


@dataclass
class _Reader:
    """Hands out records as the real one does."""

    waiting: list[Record] = field(default_factory=list)
    read: int = 0

    def add(self, signature: bytes, value: bytes, append_ns: int) -> None:
        at = self.read + len(self.waiting)
        self.waiting.append(Record(0, at, append_ns, b"", {SIGNATURE_KEY: signature}, value))

    def poll(self, most: int, wait_s: float) -> list[Record]:
        out, self.waiting = self.waiting[:most], self.waiting[most:]
        self.read += len(out)
        return out

    def lag(self) -> int:
        return len(self.waiting)

    def places(self) -> dict[tuple[str, int], Place]:
        return {("agents", 0): Place("id", self.read)}

    def close(self) -> None:
        pass


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path, policy_of(tmp_path), BEGIN)
    with made.state:
        yield made


def _agents(run: Run, reader: Any, **more: Any) -> Agents:
    checker = Checker(run.state.inputs.pins(), **more)
    return Agents(reader, checker, run.covering, run.decide, run.clock)


def _look(run: Run, agents: Agents, now_ns: int) -> None:
    run.clock.set(now_ns)
    agents.look(0)


def test_only_heartbeats_signed_by_their_agent_count(run: Run) -> None:
    """A forged one, one of another key, one without a signature and one that is none are counted by reason; the agent stays."""
    reader = _Reader()
    agents = _agents(run, reader)
    good, thief = Beating("db-1", started_ns=BEGIN), Beating("db-1", started_ns=BEGIN)
    reader.add(*good.signed(BEGIN + S), BEGIN + S)
    _look(run, agents, BEGIN + 3 * S)
    signature, value = good.signed(BEGIN + 4 * S)
    reader.add(signature, value.replace(b'"closing": false', b'"closing": true'), BEGIN + 4 * S)
    reader.add(*thief.signed(BEGIN + 4 * S, closing=True), BEGIN + 4 * S)
    reader.add(signature, b"{}", BEGIN + 4 * S)
    reader.waiting.append(Record(0, 4, BEGIN, b"", {}, value))
    reader.waiting.append(Record(0, 5, BEGIN, b"db-9", {}, b""))
    _look(run, agents, BEGIN + 6 * S)
    assert agents.refused == {"bad_signature": 1, "identity_conflict": 1, "bad_header": 1, "foreign": 1}
    assert agents.suspects == {"bad_signature": {"db-1"}, "identity_conflict": {"db-1"}}
    assert (run.covering.agents["db-1"].state, run.covering.agents["db-1"].time_ns) == ("talking", BEGIN + S)


def test_where_only_enrolled_agents_count_a_stranger_is_refused(run: Run) -> None:
    """Its heartbeat makes no agent, and no key is pinned."""
    reader = _Reader()
    agents = _agents(run, reader, identities="enrolled")
    reader.add(*Beating("db-1", started_ns=BEGIN).signed(BEGIN + S), BEGIN + S)
    _look(run, agents, BEGIN + 3 * S)
    assert (agents.refused, run.covering.agents, run.state.inputs.pins()) == ({"unknown_key": 1}, {}, {})


def test_offsets_keys_and_agents_are_kept_together(run: Run) -> None:
    """The commit that writes an agent has its key, and how far heartbeats were read."""
    reader = _Reader()
    agents = _agents(run, reader)
    beating = Beating("db-1", started_ns=BEGIN)
    reader.add(*beating.signed(BEGIN + S), BEGIN + S)
    _look(run, agents, BEGIN + 11 * S)
    assert beating.key is not None
    assert {a: p.public_key for a, p in run.state.inputs.pins().items()} == {"db-1": beating.key.public}
    assert [o.next_offset for o in run.state.inputs.offsets().values()] == [1]
    assert run.state.coverage.agents()["db-1"]["time_ns"] == BEGIN + S
    reader.add(*beating.signed(BEGIN + 12 * S), BEGIN + 12 * S)
    _look(run, agents, BEGIN + 14 * S)
    assert run.state.coverage.agents()["db-1"]["time_ns"] == BEGIN + S
    agents.finish()
    assert run.state.coverage.agents()["db-1"]["time_ns"] == BEGIN + 12 * S


def test_a_silence_and_what_people_are_told_are_one_commit(run: Run) -> None:
    """The notice of the silence is queued by the commit that keeps that it was told."""
    reader = _Reader()
    agents = _agents(run, reader)
    reader.add(*Beating("db-1", started_ns=BEGIN).signed(BEGIN + S), BEGIN + S)
    commits: list[tuple[list[str], list[str]]] = []
    real = State.commit

    def commit(state: State, work: Any) -> None:
        names = [n.event.name for n in work.decision.notices if n.event]
        told = [t for a in work.intake.covered.agents.values() for t in a["told"]]
        commits.append((names, told))
        real(state, work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "commit", commit)
        for second in range(3, 120, 3):
            _look(run, agents, BEGIN + second * S)
    assert [c for c in commits if c[0]] == [(["agents_silent"], ["silent"])]
