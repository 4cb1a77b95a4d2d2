"""Batches from before an agent's enrolment, through a real broker and both databases: dead, and in no gap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.accounts import Amounts
from agent.core.clock import MINUTE_NS, DataClock
from agent.core.errors import StateError
from agent.receiving.refused import by_run
from agent.store.state import State
from tests.tools.brokers import Cluster
from tests.tools.fleet import (
    FLOWS,
    FakeAgent,
    Program,
    Sender,
    empty_topics,
    now_ns,
    settings_of,
    theft,
    until,
)
from tests.tools.states import Place

MB = 10**6


@pytest.fixture
def sender(broker: Cluster) -> Iterator[Sender]:
    empty_topics(broker.bootstrap, partitions=1)
    made = Sender(broker.bootstrap)
    yield made
    made.close()


def _beside(place: Place, *, read_only: bool = True) -> State:
    return place.beside(DataClock(now_ns()), read_only=read_only)


def _took(place: Place, want: int) -> bool:
    try:
        with _beside(place) as state:
            places = state.inputs.offsets().items()
            return sum(at.next_offset for (topic, _), at in places if topic == FLOWS) >= want
    except StateError:
        return False


def test_batches_refused_before_the_enrolment_are_dead_and_nothing_is_missing(
    broker: Cluster, sender: Sender, place: Place, tmp_path: Path
) -> None:
    """Three are refused, the agent is enrolled, two are taken: 3 dead with their octets, 2 decided, gap 0. A stranger's count nowhere."""
    begin, agent, thief = now_ns() - 5 * MINUTE_NS, FakeAgent("db-1"), FakeAgent("db-1")
    more = {"detect.identities": "enrolled"}
    if isinstance(place.where, str):
        more["detect.database"] = place.where
    else:
        place = Place(tmp_path / "d" / "state" / "state.db")
    flags = settings_of(tmp_path / "d", broker.bootstrap, **more)
    before = [agent.message(theft(begin, MB, 2)) for _ in range(3)]
    for message in (*before, thief.message(theft(begin, MB, 1), sequence=4)):
        sender.send("db-1", message)
    sender.flush()
    with Program(flags, tmp_path / "log") as program:
        until(lambda: _took(place, 4), "refusal", program)
        assert program.stop() == 0
    with _beside(place, read_only=False) as state:
        assert by_run(state.inputs.dead(), state.inputs.pins(), {}) == {}
        state.inputs.enrol("db-1", agent.key.public, now_ns())
    for low in (3, 5):
        sender.send("db-1", agent.message(theft(begin, MB, 2), sequence=low))
    sender.send("db-1", before[0])  # a duplicate of what is dead comes too late to be a gap, and is decided
    sender.flush()
    with Program(flags, tmp_path / "log") as program:
        until(lambda: _took(place, 7), "end of the topic", program)
        assert program.stop() == 0
    with _beside(place) as state:
        run = ("db-1", agent.run)
        (said,) = state.inputs.said().values()
        assert (said.low_water, said.missing.text()) == (5, "4")
        dead = by_run(state.inputs.dead(), state.inputs.pins(), state.enrolments.ended_keys())
        row = Amounts(0, MB + 1000, 0)
        assert {k: {r: a and a.octets_out for r, a in of.items()} for k, of in dead.items()} == {
            run: {"unknown_key": 4 * row.octets_out}
        }
        assert state.coverage.taken()[run].octets_out == 6 * row.octets_out
