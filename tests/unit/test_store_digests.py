"""Digests of batches: whatever lies fresh and whatever was made blocks, a duplicate is told from a conflict."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.core.clock import DAY_NS, DataClock
from agent.core.decision import Decision
from agent.store import digests, schema
from agent.store.retention import Retention
from agent.store.sequences import BatchId
from agent.store.state import Commit, State
from tests.tools.notices import START_NS
from tests.tools.states import Place

CLOCK = DataClock(START_NS)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few commits reach what else takes a hundred thousand messages."""
    monkeypatch.setattr(digests, "MOST_FRESH", 12)
    monkeypatch.setattr(digests, "MOST_OF_STREAM", 8)


def _digest(batch_id: BatchId) -> bytes:
    return repr(batch_id).encode().ljust(32, b".")[-32:]


def _commit(state: State, ids: list[BatchId], day: int = START_NS // DAY_NS) -> None:
    state.commit(Commit(Decision(), "", day * DAY_NS, tuple((one, _digest(one)) for one in ids)))


def _answers(state: State, one: BatchId) -> tuple[str, str, str]:
    return state.taken(one, _digest(one)), state.taken(one, b"x" * 32), state.taken(one, None)


def _rounds() -> Iterator[list[BatchId]]:
    """Commits of three agents: numbers in order, in two lanes, with one that comes late and a backlog."""
    for n in range(40):
        yield [("a", "r", n % 2, n), ("b", "r", 1, 100 + n)]
        if n % 7 == 0:
            yield [("c", "r", 1, 2**62 + n)]
    yield [("a", "r", 1, 1000 + n) for n in range(50)]
    yield [("a", "r", 1, 500)]


def test_every_batch_of_long_ago_is_known_by_its_bytes(place: Place) -> None:
    """In both databases, also after a start anew: same bytes, duplicate; others, conflict; no bytes, the id decides."""
    ids = []
    with place.open(CLOCK) as state:
        for batches in _rounds():
            ids += batches
            _commit(state, batches)
        assert {_answers(state, one) for one in ids} == {("duplicate", "conflict", "duplicate")}
        assert state.taken(("d", "r", 1, 0), b"x" * 32) == "new"
    found = place.tables()
    fresh = sum(len(body) for _, body, _ in found["fresh_digests"]) // 48
    assert (fresh <= 12, len(found["digest_blocks"]) > 5, len(found["streams"])) == (True, True, 4)
    with place.open(CLOCK) as state:
        assert {_answers(state, one) for one in ids} == {("duplicate", "conflict", "duplicate")}


@pytest.mark.parametrize("seed", range(6))
def test_a_start_in_between_changes_no_row(tmp_path: Path, seed: int) -> None:
    """What is written depends on the commits alone, not on what a program had in memory; and all of it is known."""
    made = []
    for restarts in (False, True):
        chance, seen = random.Random(seed), dict[BatchId, None]()
        place = Place(tmp_path / f"{restarts}.db")
        state = place.open(CLOCK)
        for number in range(30):
            drawn = [
                ("abc"[chance.randrange(3)], "r", chance.randrange(2), chance.randrange(60)) for _ in range(6)
            ]
            fresh = [one for one in dict.fromkeys(drawn) if one not in seen]
            seen |= dict.fromkeys(fresh)
            _commit(state, fresh)
            if restarts and number % 7 == 3:
                state.close()
                state = place.open(CLOCK)
        assert {_answers(state, one) for one in seen} == {("duplicate", "conflict", "duplicate")}
        state.close()
        tables = place.tables()
        made.append([tables[name] for name in ("streams", "fresh_digests", "digest_blocks")])
    assert made[0] == made[1]


def test_a_commit_that_failed_leaves_nothing_behind(tmp_path: Path) -> None:
    """The same commit again writes the same rows; nothing of the first try is known before."""
    place = Place(tmp_path / "state.db")
    with place.open(CLOCK, busy_timeout_s=0.05) as state:
        ids: list[BatchId] = [("a", "r", 1, n) for n in range(20)]
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Exception, match="locked"):
            _commit(state, ids)
        other.execute("ROLLBACK")
        other.close()
        assert state.taken(ids[0], b"x" * 32) == "new"
        _commit(state, ids)
        assert {_answers(state, one) for one in ids} == {("duplicate", "conflict", "duplicate")}
    assert [row[1:4] for row in place.tables()["streams"]] == [("a", "r", 1)]


def test_digests_go_by_age_whole_or_fresh(place: Place) -> None:
    """Older than so many days of running: the id still says duplicate. With the stream its number goes too."""
    keep = Retention(sequences=3, digests=2)
    old: BatchId = ("a", "r", 1, 0)
    folded: list[BatchId] = [("b", "r", 1, n) for n in range(8)]
    with place.open(CLOCK, keep=keep) as state:
        _commit(state, [old, *folded], day=10)
        _commit(state, [("c", "r", 1, 0)], day=11)
        assert _answers(state, old)[1] == _answers(state, folded[0])[1] == "conflict"
        _commit(state, [("c", "r", 1, 1)], day=12)
        assert _answers(state, old)[1] == _answers(state, folded[0])[1] == "duplicate"
        assert _answers(state, ("c", "r", 1, 0))[1] == "conflict"
        _commit(state, [("c", "r", 1, 2)], day=13)
    assert [row[1] for row in place.tables()["streams"]] == ["c"]


def test_a_state_of_the_version_before_is_taken_over(place: Place) -> None:
    """Its digests are let go, its ids are known; from then on bytes count again."""
    with place.open(CLOCK) as state:
        state.commit(Commit(Decision(), "", START_NS, ((("a", "r", 1, 0), None),)))
    engine = sa.create_engine(
        f"sqlite:///{place.where}"
        if isinstance(place.where, Path)
        else place.where.replace("postgresql:", "postgresql+psycopg:")
    )
    with engine.begin() as connection:
        for table in (schema.streams, schema.fresh_digests, schema.digest_blocks, schema.dead):
            table.drop(connection)
        connection.exec_driver_sql("CREATE TABLE digests (agent_id TEXT)")
        connection.exec_driver_sql("UPDATE head SET schema_version = 2")
    with place.open(CLOCK) as state:
        assert _answers(state, ("a", "r", 1, 0)) == ("duplicate",) * 3
        _commit(state, [("a", "r", 1, 1)])
        assert _answers(state, ("a", "r", 1, 1)) == ("duplicate", "conflict", "duplicate")
    with engine.connect() as connection:
        assert not sa.inspect(connection).has_table("digests")
    engine.dispose()
    assert place.tables()["head"][0][1] == schema.SCHEMA_VERSION
