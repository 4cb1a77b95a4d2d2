"""Agents, coverage, receipts and maintenance in both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.accounts import Amounts
from agent.core.clock import DataClock
from agent.core.decision import Decision
from agent.core.errors import StateError
from agent.store.coverage import Covered, CoveredHours, Receipt
from agent.store.inputs import Intake
from agent.store.state import Commit, State
from tests.tools.states import Place

NOW = 1_764_000_000_000_000_000
HOURS = CoveredHours("db-1", 10, 12, 3000, -1, ("gap", "silent"), 1)
RECEIPT = Receipt("example", "ehr", "operator", "much", "1h", 100, 200, "no_finding", 3660, 0, 5, 9, (), 2)


def _commit(state: State, **covered: object) -> None:
    state.commit(Commit(Decision(), "", NOW, intake=Intake(covered=Covered(**covered))))  # type: ignore[arg-type]


def test_what_was_committed_is_found_again(place: Place) -> None:
    """Agents by their id, sums of runs, hours and receipts with all their fields."""
    body = {"host": "db-1", "state": "talking", "heard_ns": 7, "more": {"a": [1]}}
    with place.open(DataClock(NOW)) as state:
        _commit(
            state,
            agents={"a": body, "b": body},
            taken={("a", "f" * 32): Amounts(1, 2, 3)},
            hours=(HOURS,),
            receipts=(RECEIPT,),
        )
        _commit(state, gone=("b",), taken={("a", "f" * 32): Amounts(4, 5, 6)})
    with place.open(DataClock(NOW)) as state:
        kept = state.coverage
        assert kept.agents() == {"a": body}
        assert kept.taken() == {("a", "f" * 32): Amounts(4, 5, 6)}
        assert (kept.hours("db-1"), kept.hours("db-1", 13), kept.hours("db-2")) == ([HOURS], [], [])
        assert (kept.receipts("ehr", "much"), kept.receipts("ehr", since_ns=201)) == ([RECEIPT], [])
        assert kept.made() == 2


def test_rows_that_others_replace_are_gone(place: Place) -> None:
    """Those that begin in the named stretch, and no others; all in the commit that brings the new ones."""
    other = replace(RECEIPT, first_ns=300, last_ns=400, made=3)
    with place.open(DataClock(NOW)) as state:
        _commit(state, hours=(HOURS,), receipts=(RECEIPT, other))
        parts = (
            replace(RECEIPT, last_ns=150, made=4),
            replace(RECEIPT, first_ns=160, verdict="finding", made=5),
        )
        halves = (replace(HOURS, to_hour=11, made=6), replace(HOURS, from_hour=12, lost=0, made=7))
        _commit(
            state,
            receipts=parts,
            receipts_over=(("ehr", "much", 100, 200),),
            hours=halves,
            hours_over=(("db-1", 10, 12),),
        )
        assert state.coverage.receipts() == [*parts, other]
        assert state.coverage.hours() == list(halves)


def test_what_changes_while_it_is_sent_stays_to_be_sent(place: Place) -> None:
    """A row is sent by its number: another number is another row to send."""
    with place.open(DataClock(NOW)) as state:
        _commit(state, hours=(HOURS,), receipts=(RECEIPT,))
        rows = state.coverage.unsent(10)
        assert rows == [HOURS, RECEIPT]
        assert state.coverage.unsent(1) == [HOURS]
        grown = replace(RECEIPT, last_ns=260, made=3)
        _commit(state, receipts=(grown,))
        state.coverage.sent(rows)
        assert state.coverage.unsent(10) == [grown]
        state.coverage.sent([grown])
        assert state.coverage.unsent(10) == []


def test_a_maintenance_ends_by_itself_or_by_a_person(place: Place) -> None:
    """Once, while it is under way; it holds for its host, or for all, while it lasts."""
    with place.open(DataClock(NOW)) as state:
        kept = state.coverage
        one = kept.begin_maintenance("DB-1", 100, 200, "new disks", "ann", "ben")
        everywhere = kept.begin_maintenance("", 150, 400, "the hall", "ann", "ben")
        assert (one.id, everywhere.id) == (1, 2)
        ended = kept.end_maintenance(1, "ben", 160)
        assert (ended.to_ns, ended.ended_by) == (160, "ben")
        with pytest.raises(StateError, match="no maintenance 1 is under way"):
            kept.end_maintenance(1, "ben", 170)
        with pytest.raises(StateError, match="no maintenance 2 is under way"):
            kept.end_maintenance(2, "ben", 400)
        assert kept.maintenance() == [ended, everywhere]
        assert kept.maintenance(161) == [everywhere]
        assert [
            ended.holds("db-1", 120, 130),
            ended.holds("db-2", 120, 130),
            ended.holds("db-1", 160, 200),
        ] == [
            True,
            False,
            False,
        ]
        assert everywhere.holds("anything", 399, 500)
