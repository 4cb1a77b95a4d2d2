"""Copies of the state from and into PostgreSQL."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.core.clock import DataClock
from agent.core.decision import Decision
from agent.core.errors import StateError
from agent.store import keeping, schema
from agent.store.postgres import a_holder, open_postgres, unled
from agent.store.state import Commit
from tests.tools.faults import ledger_row, tables
from tests.tools.notices import START_NS
from tests.tools.postgres import Server
from tests.tools.states import Place

CLOCK = DataClock(START_NS)


def commit(state, number: int) -> None:
    """One transaction."""
    rows = tuple(ledger_row(f"as:{64500 + number}", f"program-{i}", 1000 + i) for i in range(3))
    batch = (("agent", "run", 1, number), bytes(32))
    state.commit(Commit(Decision(ledger=rows, delta=b"step"), "", START_NS, batches=(batch,)))


def opened(url: str):
    """For a person's command."""
    return open_postgres(url, holder=a_holder(), create=False, now_ns=0, busy_timeout_s=5)


def kept(where: Path | str) -> dict:
    """All tables but what tells who leads and which opening it is."""
    return {name: rows for name, rows in tables(where).items() if name not in ("head", "leases")}


def test_a_state_goes_from_one_database_to_the_other_and_back(postgres_server: Server, tmp_path):
    """PostgreSQL to a copy, to a state file, to a copy, to another PostgreSQL database: to the row the same; and numbers
    that the server gives go on."""
    first, second = postgres_server.fresh(), postgres_server.fresh()
    with Place(first).open(CLOCK) as state:
        commit(state, 0)
        state.coverage.begin_maintenance("db-1", 0, 1, "why", "who", "")
        source = opened(first)
        keeping.backup(source, tmp_path / "one.db", now_ns=START_NS)
        assert all(c.holds for c in keeping.verify(source, now_ns=START_NS))
        source.close()
    assert all(c.holds for c in keeping.verify_copy(tmp_path / "one.db", now_ns=START_NS))
    keeping.restore_file(tmp_path / "one.db", tmp_path / "state.db")
    assert kept(tmp_path / "state.db") == kept(first)
    file = Place(tmp_path / "state.db").open(CLOCK)
    file.close()
    source = keeping.open_database(
        tmp_path / "state.db", create=False, whole=False, now_ns=0, busy_timeout_s=5
    )
    keeping.backup(source, tmp_path / "two.db", now_ns=START_NS)
    source.close()
    with unled(second) as database:
        keeping.restore_rows(tmp_path / "two.db", database)
    assert kept(second) == kept(first)
    with Place(second).open(CLOCK) as state:
        assert state.number == 1
        assert state.coverage.begin_maintenance("db-2", 0, 1, "why", "who", "").id == 2


def test_nothing_is_put_over_a_state_that_is_led_or_not_empty(postgres_server: Server, tmp_path):
    """A leader keeps its tables; without one, only the word replaces them, and whoever led before writes no more."""
    url = postgres_server.fresh()
    state = Place(url).open(CLOCK)
    commit(state, 0)
    source = opened(url)
    keeping.backup(source, tmp_path / "copy.db", now_ns=START_NS)
    source.close()
    as_it_was = kept(url)
    commit(state, 1)
    with pytest.raises(StateError, match="stop every"), unled(url):
        pass
    state.close()
    with unled(url) as database:
        with pytest.raises(StateError, match="say --overwrite"):
            keeping.restore_rows(tmp_path / "copy.db", database)
        assert len(kept(url)["ledger"]) == 6
        keeping.restore_rows(tmp_path / "copy.db", database, overwrite=True)
    assert kept(url) == as_it_was
    beside = opened(url)
    with beside.read() as connection, sqlite3.connect(tmp_path / "copy.db") as copy:
        epoch = connection.execute(sa.select(schema.head.c.epoch)).scalar_one()
        assert epoch > copy.execute("SELECT epoch FROM head").fetchone()[0]
    beside.close()
    assert json.loads((tmp_path / "copy.db.json").read_text())["rows"]["ledger"] == 3
