"""What the detector lets in, and what it refuses by name; nothing that comes makes it fall."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.flow import SCHEMA_VERSION
from agent.core.message import CONTEXT, HEADER_KEY, SIGNATURE_KEY, Message
from agent.receiving.checking import LONGEST_KEY_TEXT, Checker, Refused, Sealed, unfit
from agent.store.inputs import Pin
from tests.tools.fleet import FakeAgent

AGENT = FakeAgent("db-1")
GOOD = AGENT.message([{"octets_out": 10}, {"process": "postgres"}], sequence=3)


def headers(message: Message) -> dict[str, bytes]:
    """As they stand in Kafka."""
    return {HEADER_KEY: message.header, SIGNATURE_KEY: message.signature}


def told(message: Message, **how: Any) -> str:
    """Why a message is refused; empty if it is not."""
    found = Checker({}, **how).check(headers(message), message.value)
    return found.reason if isinstance(found, Refused) else ""


def signed(message: Message, value: bytes | None = None, **fields: object) -> Message:
    """A message that says something else, honestly signed by its agent."""
    header = json.dumps({**json.loads(message.header), **fields}).encode()
    return Message(header, AGENT.key.sign(CONTEXT + header), message.value if value is None else value)


def test_a_message_of_an_unknown_agent_is_taken_and_its_key_pinned() -> None:
    """With pin_first, the first key that signs for an agent is its key from then on."""
    checker = Checker({})
    found = checker.check(headers(GOOD), GOOD.value)
    assert isinstance(found, Sealed)
    assert (len(found.batch), found.header.batch_id) == (2, ("db-1", AGENT.run, 1, 3))
    assert checker.fresh == {"db-1": Pin(AGENT.key.public, "first")}
    checker.kept(dict(checker.fresh))
    assert (checker.fresh, dict(checker.pins)) == ({}, {"db-1": Pin(AGENT.key.public, "first")})


def test_only_enrolled_agents_are_taken_where_that_is_set() -> None:
    """With enrolled, a key that came by itself is worth nothing; one that was enrolled is."""
    assert told(GOOD, identities="enrolled") == "unknown_key"
    pinned = Checker({"db-1": Pin(AGENT.key.public, "enrolled")}, "enrolled")
    assert isinstance(pinned.check(headers(GOOD), GOOD.value), Sealed)


def test_another_key_under_an_agents_name_is_a_conflict() -> None:
    """Whoever signs with a key of its own for an agent that has one is told apart from one who signs with none."""
    thief = FakeAgent("db-1").message([{}])
    checker = Checker({"db-1": Pin(AGENT.key.public, "first")})
    found = checker.check(headers(thief), thief.value)
    assert isinstance(found, Refused)
    assert (found.reason, found.agent_id) == ("identity_conflict", "db-1")
    unsigned = Message(GOOD.header, b"\0" * 64, GOOD.value)
    found = checker.check(headers(unsigned), unsigned.value)
    assert isinstance(found, Refused) and found.reason == "bad_signature"


def test_a_newer_schema_is_taken_while_it_can_be_read() -> None:
    """A newer agent's message passes; if its columns are not what this program knows, it is refused as newer."""
    assert told(signed(GOOD, schema_version=SCHEMA_VERSION + 1, something_new=[1])) == ""
    assert told(signed(GOOD, schema_version=SCHEMA_VERSION + 1, rows=99)) == "newer_schema"
    assert told(signed(GOOD, rows=99)) == "undecodable"


@pytest.mark.parametrize(
    "row",
    [
        {"process": "a" * (LONGEST_KEY_TEXT + 1)},
        {"process": "愛" * 70},
        {"executable": "x\0y"},
        {"octets_out": 1 << 52},
    ],
)
def test_what_could_choke_a_database_is_refused(row: dict[str, Any]) -> None:
    """Texts that no index takes, zeros in texts and amounts that nobody sends never reach a commit."""
    assert told(AGENT.message([row])) == "impossible"


def test_a_batch_without_rows_is_refused() -> None:
    """Agents seal no empty batches."""
    assert told(AGENT.message([])) == "impossible"


@given(
    st.dictionaries(st.sampled_from([HEADER_KEY, SIGNATURE_KEY, "x"]), st.binary(max_size=300)),
    st.binary(max_size=300),
)
def test_any_bytes_get_an_answer(given_headers: dict[str, bytes], value: bytes) -> None:
    """Whatever stands in headers and value, the answer is a reason."""
    assert isinstance(Checker({}).check(given_headers, value), Refused)


@given(st.data())
def test_a_message_with_any_octet_changed_is_refused(data: st.DataObject) -> None:
    """No change of one octet in header, signature or value passes for the agent's own message."""
    parts = [GOOD.header, GOOD.signature, GOOD.value]
    which = data.draw(st.integers(0, 2))
    at = data.draw(st.integers(0, len(parts[which]) - 1))
    changed = bytearray(parts[which])
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    parts[which] = bytes(changed)
    checker = Checker({"db-1": Pin(AGENT.key.public, "first")})
    found = checker.check({HEADER_KEY: parts[0], SIGNATURE_KEY: parts[1]}, parts[2])
    assert isinstance(found, Refused)


@given(st.data())
def test_a_signed_message_of_wild_bytes_gets_an_answer(data: st.DataObject) -> None:
    """An agent that signs garbage, or a header of wild values, is answered and never felt."""
    import hashlib

    at = data.draw(st.integers(0, len(GOOD.value) - 1))
    value = (
        GOOD.value[:at] + data.draw(st.binary(max_size=20)) + GOOD.value[at + data.draw(st.integers(0, 20)) :]
    )
    wild = st.one_of(st.none(), st.integers(), st.text(max_size=20), st.lists(st.integers(), max_size=3))
    fields: dict[str, object] = data.draw(
        st.dictionaries(
            st.sampled_from(["lane", "sequence", "low_water", "dropped", "key", "host", "versions"]), wild
        )
    )
    message = signed(GOOD, value, digest=hashlib.sha256(value).hexdigest(), **fields)
    found = Checker({}).check(headers(message), message.value)
    assert isinstance(found, Refused | Sealed)
    if isinstance(found, Sealed):
        assert int(np.max(found.batch["octets_out"])) < 1 << 48


def test_rows_that_become_a_stores_here_are_looked_at_again() -> None:
    """An agent that knows of no store may send any text; once this detector makes its rows a store's, none too long may be
    in them."""
    long = "x" * (LONGEST_KEY_TEXT + 1)
    message = AGENT.message([{"store": None, "basis": None, "process": long}])
    found = Checker({}).check(headers(message), message.value)
    assert isinstance(found, Sealed)
    assert (
        unfit(found.batch)
        == f"process holds a text of more than {LONGEST_KEY_TEXT} octets, or with a zero in it"
    )
    fine = AGENT.message([{"store": None, "process": "x"}])
    assert unfit(fine.batch(fine.read_header())) == ""
