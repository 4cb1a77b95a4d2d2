"""Cases for people: finding them and acting on them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from agent.core.clock import SECOND_NS, DataClock
from agent.core.decision import Decision
from agent.core.errors import StateError
from agent.core.finding import Case, CaseState, StoreFact, TrafficState
from agent.store import schema
from agent.store.cases import Action, ActionKind, Verdict
from agent.store.state import Commit, State
from tests.tools.notices import START_NS, case
from tests.tools.postgres import Server
from tests.tools.states import Place

IDS = ("2026-1117-01", "2026-1117-02", "2026-1118-01")


@pytest.fixture
def clock() -> DataClock:
    return DataClock(START_NS)


@pytest.fixture
def state(place: Place, clock: DataClock) -> Iterator[State]:
    with place.open(clock) as opened:
        for number, id_ in enumerate(IDS):
            store = StoreFact(id="ehr-main" if number < 2 else "lab")
            _put(opened, case(id=id_, store=store, updated_ns=START_NS + number))
        yield opened


def _put(state: State, *cases: Case) -> None:
    state.commit(Commit(decision=Decision(cases=cases), position="", now_ns=START_NS))


def _ids(cases: list[Case]) -> list[str]:
    return [c.id[-7:] for c in cases]


def test_cases_are_listed_last_updated_first(state: State) -> None:
    """By store, by time of the last update, and at most so many."""
    assert _ids(state.cases.list_cases()) == ["1118-01", "1117-02", "1117-01"]
    assert _ids(state.cases.list_cases(limit=2)) == ["1118-01", "1117-02"]
    assert _ids(state.cases.list_cases(store="ehr-main")) == ["1117-02", "1117-01"]
    assert _ids(state.cases.list_cases(since_ns=START_NS + 1)) == ["1118-01", "1117-02"]


def test_cases_are_listed_by_the_state_people_see(state: State) -> None:
    """The state asked for is that after people's actions, and the limit counts after it."""
    state.cases.acknowledge("2026-1118", "alice")
    state.cases.close("2026-1117-02", "bob", "planned copy", Verdict.EXPECTED)
    by_state = {s: _ids(state.cases.list_cases(states={s}, limit=1)) for s in CaseState}
    assert by_state == {
        CaseState.OPEN: ["1117-01"],
        CaseState.ACKNOWLEDGED: ["1118-01"],
        CaseState.CLOSED: ["1117-02"],
    }


def test_a_case_is_found_by_an_unambiguous_beginning(state: State) -> None:
    """A whole id or a beginning that only one case has; several are named, none says where to look."""
    assert state.cases.get_case("2026-1118").id == IDS[2]
    assert state.cases.get_case(IDS[0]).id == IDS[0]
    with pytest.raises(StateError, match="begins several cases: 2026-1117-01, 2026-1117-02;"):
        state.cases.get_case("2026-1117")
    for none in ("2027", "", "%", "2026_1118"):
        with pytest.raises(StateError, match="sekisho cases list"):
            state.cases.get_case(none)


def test_a_whole_id_wins_over_longer_ones(state: State) -> None:
    """An id that begins another one is still found."""
    _put(state, case(id="2026-1117-010"))
    assert state.cases.get_case("2026-1117-01").id == "2026-1117-01"


def test_an_action_stands_over_what_the_detector_writes_later(state: State) -> None:
    """New content neither undoes an acknowledgement nor a closing; the content's amounts are the newest."""
    state.cases.acknowledge(IDS[0], "alice", "on it")
    _put(state, case(id=IDS[0], revision=2, updated_ns=START_NS + 50))
    seen = state.cases.get_case(IDS[0])
    assert (seen.state, seen.acknowledged_by, seen.revision) == (CaseState.ACKNOWLEDGED, "alice", 2)
    state.cases.close(IDS[0], "bob", "wanted", Verdict.EXPECTED)
    _put(state, case(id=IDS[0], revision=3, traffic_state=TrafficState.STOPPED))
    seen = state.cases.get_case(IDS[0])
    assert (seen.state, seen.closed_by, seen.closing_note) == (CaseState.CLOSED, "bob", "wanted")


def test_whether_traffic_moves_stands_apart_from_what_people_did(state: State) -> None:
    """That nothing moves any more is not hidden by a person having it, nor by a person closing it."""
    _put(state, case(id=IDS[0], revision=2, traffic_state=TrafficState.STOPPED))
    for act, wanted in (
        (lambda: state.cases.acknowledge(IDS[0], "alice"), CaseState.ACKNOWLEDGED),
        (lambda: state.cases.close(IDS[0], "alice", "wanted", Verdict.EXPECTED), CaseState.CLOSED),
    ):
        act()
        seen = state.cases.get_case(IDS[0])
        assert (seen.state, seen.traffic_state) == (wanted, TrafficState.STOPPED)


def test_a_case_that_an_older_version_wrote_as_stopped_is_open_and_its_traffic_stopped(state: State) -> None:
    """The one word of older versions becomes two facts, in the row and in the body."""
    body = case(id=IDS[0]).model_dump(mode="json") | {"state": "stopped"}
    del body["traffic_state"]
    with state._database.write() as connection:
        change = schema.cases.update().where(schema.cases.c.id == IDS[0])
        connection.execute(change.values(state="stopped", body=json.dumps(body)))
    (seen,) = [c for c in state.cases.list_cases({CaseState.OPEN}) if c.id == IDS[0]]
    assert (seen.state, seen.traffic_state) == (CaseState.OPEN, TrafficState.STOPPED)


def test_a_case_is_assigned_commented_and_opened_again(state: State) -> None:
    """Each action is on record with name and text; what was closed by a person is as before after it is opened again."""
    state.cases.acknowledge(IDS[2], "alice")
    state.cases.assign(IDS[2], "alice", "bob", "knows the host")
    assert state.cases.get_case(IDS[2]).assigned_to == "bob"
    state.cases.close(IDS[2], "bob", "wanted", Verdict.EXPECTED)
    state.cases.comment(IDS[2], "carol", "it was not")
    state.cases.reopen(IDS[2], "carol", "the ticket names another host")
    seen = state.cases.get_case(IDS[2])
    assert (seen.state, seen.closed_by, seen.acknowledged_by, seen.assigned_to) == (
        CaseState.OPEN,
        "",
        "",
        "bob",
    )
    done = [(a.kind.value, a.who, a.assignee) for a in state.cases.actions_of(IDS[2])]
    assert done == [
        ("ack", "alice", ""),
        ("assign", "alice", "bob"),
        ("close", "bob", ""),
        ("comment", "carol", ""),
        ("reopen", "carol", ""),
    ]


def test_what_cannot_be_opened_again_says_why(state: State) -> None:
    """An open case, one that the program closed, and one beside which another of the same key is open."""
    with pytest.raises(StateError, match="is not closed"):
        state.cases.reopen(IDS[0], "bob", "x")
    _put(state, case(id=IDS[2], store=StoreFact(id="lab"), revision=2, state=CaseState.CLOSED))
    with pytest.raises(StateError, match="closed by the program"):
        state.cases.reopen(IDS[2], "bob", "x")
    state.cases.close(IDS[0], "bob", "wanted", Verdict.EXPECTED)
    with pytest.raises(StateError, match=f"case {IDS[1]} of the same store and destination is open"):
        state.cases.reopen(IDS[0], "bob", "x")
    state.cases.close(IDS[1], "bob", "wanted", Verdict.EXPECTED)
    state.cases.reopen(IDS[0], "bob", "x")
    assert state.cases.get_case(IDS[0]).state is CaseState.OPEN


def test_actions_are_kept_in_order_and_heard_once(state: State, clock: DataClock) -> None:
    """Ids increase; asking for those after the last one heard gives each once."""
    first = state.cases.acknowledge(IDS[0], "alice", "on it")
    clock.set(START_NS + SECOND_NS)
    second = state.cases.close(IDS[0], "alice", "wanted", Verdict.EXPECTED)
    assert [first, second] == [
        Action(1, IDS[0], ActionKind.ACK, "alice", "on it", None, START_NS),
        Action(2, IDS[0], ActionKind.CLOSE, "alice", "wanted", Verdict.EXPECTED, START_NS + SECOND_NS),
    ]
    assert state.cases.actions_of(IDS[0]) == [first, second]
    assert [state.actions_after(n) for n in range(3)] == [[first, second], [second], []]


def test_a_closed_case_takes_no_action(state: State) -> None:
    """Acting on a closed case is refused with who closed it; an action needs a name."""
    state.cases.close(IDS[0], "bob", "wanted", Verdict.EXPECTED)
    with pytest.raises(StateError, match=f"case {IDS[0]} was closed by bob"):
        state.cases.acknowledge(IDS[0], "alice")
    with pytest.raises(StateError, match="needs the name"):
        state.cases.acknowledge(IDS[1], " ")
    assert len(state.actions_after(0)) == 1


def test_a_database_without_an_encoding_holds_the_same(postgres_server: Server, clock: DataClock) -> None:
    """A server that was made without a locale has SQL_ASCII: text comes back as text, whatever it is written in."""
    place = Place(postgres_server.fresh("-E", "SQL_ASCII", "--locale=C"))
    store = StoreFact(id="ehr-main", name="患者記録")
    with place.open(clock) as opened:
        _put(opened, case(id=IDS[0], store=store))
    with place.open(clock) as again:
        assert again.cases.get_case(IDS[0]).store == store
