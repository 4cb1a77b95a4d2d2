"""Tokens and identities in the state, the same in both databases: what a commit enrols, what people end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.clock import DataClock
from agent.core.decision import Decision
from agent.core.errors import StateError
from agent.store.enrolments import Enrolled, IdentityRow, TokenRow
from agent.store.inputs import Intake, Pin
from agent.store.state import Commit, State
from tests.tools.notices import START_NS
from tests.tools.states import Place

CLOCK = DataClock(START_NS)
OLD, NEW = b"o" * 32, b"n" * 32
TOKEN = TokenRow("a" * 12, b"p" * 32, "", "rollout", "ann", START_NS, START_NS + 9, 3)


@pytest.fixture
def state(place: Place) -> Iterator[State]:
    with place.open(CLOCK) as opened:
        opened.enrolments.add_token(TOKEN)
        yield opened


def commit(state: State, *enrolled: Enrolled, **pins: Pin) -> None:
    """One commit of the detector."""
    intake = Intake(enrolled=enrolled, pins=pins)
    state.commit(Commit(Decision(), position="", now_ns=START_NS + 1, intake=intake))


def test_a_commit_enrols_and_counts_the_tokens_use(state: State, place: Place) -> None:
    """A key that it replaces is ended for good; a person's command beside sees all of it."""
    commit(
        state, Enrolled("db-1", OLD, TOKEN.id, "db-1.example.net"), Enrolled("db-2", b"2" * 32, TOKEN.id, "")
    )
    commit(state, Enrolled("db-1", NEW, TOKEN.id, "db-1.example.net", ends=OLD))
    with place.beside(CLOCK, read_only=True) as beside:
        assert beside.enrolments.identities() == [
            IdentityRow("db-1", NEW, "enrolled", START_NS + 1, TOKEN.id, "db-1.example.net"),
            IdentityRow("db-2", b"2" * 32, "enrolled", START_NS + 1, TOKEN.id, ""),
        ]
        assert beside.enrolments.ended_keys() == {"db-1": frozenset((OLD,))}
        assert beside.enrolments.tokens() == [replace(TOKEN, used=3)]
    assert state.inputs.pins() == {"db-1": Pin(NEW, "enrolled"), "db-2": Pin(b"2" * 32, "enrolled")}


def test_a_first_key_takes_the_place_of_nothing(state: State) -> None:
    """A key that came by itself changes neither an enrolled nor a revoked agent, in whatever order it is committed."""
    commit(state, Enrolled("db-1", OLD, TOKEN.id, ""))
    state.enrolments.revoke_agent("db-1", "ann", "", START_NS)
    pins = {"db-1": Pin(NEW, "first"), "db-2": Pin(NEW, "first")}
    commit(state, **pins)
    assert state.inputs.pins() == {"db-1": Pin(OLD, "revoked"), "db-2": Pin(NEW, "first")}


def test_people_act_beside_the_running_detector(state: State, place: Place) -> None:
    """Each action is kept with its person, once; the detector finds it by its number and goes on committing."""
    commit(state, Enrolled("db-1", OLD, TOKEN.id, ""))
    seen = state.enrolments.last_action()
    with place.beside(CLOCK, read_only=False) as person:
        person.enrolments.revoke_token(TOKEN.id, "ann", "mailed around", START_NS + 5)
        person.enrolments.revoke_agent("db-1", "ann", "gone", START_NS + 6)
        for again in (
            lambda: person.enrolments.revoke_token(TOKEN.id, "ann", "", START_NS),
            lambda: person.enrolments.revoke_agent("db-1", "ann", "", START_NS),
            lambda: person.enrolments.revoke_agent("db-9", "ann", "", START_NS),
        ):
            with pytest.raises(StateError, match="sekisho enrolment list"):
                again()
    commit(state)
    found = state.enrolments.actions_after(seen)
    assert [(a.who, a.kind, a.subject, a.note) for a in found] == [
        ("ann", "token_revoked", TOKEN.id, "mailed around"),
        ("ann", "agent_revoked", "db-1", "gone"),
    ]
    token = state.enrolments.token(TOKEN.id)
    assert token is not None
    assert token.revoked_ns == START_NS + 5
    assert state.enrolments.token("0" * 12) is None
    assert state.enrolments.ended_keys() == {"db-1": frozenset((OLD,))}


def test_a_command_that_only_reads_changes_nothing(state: State, place: Place, tmp_path: Path) -> None:
    """A list cannot revoke."""
    del tmp_path
    commit(state)
    with (
        place.beside(CLOCK, read_only=True) as beside,
        pytest.raises(StateError, match="opened for reading only"),
    ):
        beside.enrolments.revoke_token(TOKEN.id, "ann", "", START_NS)
