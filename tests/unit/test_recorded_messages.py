"""Batches that other versions recorded: what this one makes of them, for as long as the topic's version is 1."""

from __future__ import annotations

from agent.core.message import HEADER_KEY, SIGNATURE_KEY
from agent.receiving.checking import Checker, Refused, Sealed
from agent.store.inputs import Pin
from tests.tools.recorded import ADDED_LATER, AGENT, KEY, OCTETS, ROWS, RUN, recorded

PINS = {AGENT: Pin(KEY.public, "enrolled")}


def _checked(name: str) -> Sealed | Refused:
    message = recorded(name)
    return Checker(PINS).check({HEADER_KEY: message.header, SIGNATURE_KEY: message.signature}, message.value)


def test_a_message_of_the_first_version_is_read_for_good() -> None:
    """Its rows come out as they were put in."""
    found = _checked("v1")
    assert isinstance(found, Sealed)
    assert found.header.batch_id == (AGENT, RUN, 1, 0)
    rows = list(found.batch.rows())
    assert [(r["octets_out"], r["content_octets_out"], r["store"], r["process"]) for r in rows] == [
        (OCTETS + 1000, OCTETS, "patients", "rclone")
    ] * ROWS


def test_a_newer_agent_is_understood_by_an_older_detector() -> None:
    """Columns and fields that nobody here knows are left out; the rest is the same."""
    newer, ours = _checked("newer"), _checked("v1")
    assert isinstance(newer, Sealed) and isinstance(ours, Sealed)
    assert newer.header.schema_version == 2
    assert list(newer.batch.rows()) == list(ours.batch.rows())


def test_an_older_agent_is_understood_by_a_newer_detector() -> None:
    """Columns that it did not have are null, not zero; what it had is as it was."""
    older, ours = _checked("older"), _checked("v1")
    assert isinstance(older, Sealed) and isinstance(ours, Sealed)
    missing = dict.fromkeys(ADDED_LATER)
    assert list(older.batch.rows()) == [{**row, **missing} for row in ours.batch.rows()]


def test_what_is_newer_and_cannot_be_read_is_said_so() -> None:
    """Not called broken: whoever reads the reason knows that the detector is to be updated."""
    found = _checked("unreadable")
    assert isinstance(found, Refused)
    assert found.reason == "newer_schema" and "schema 2, this one reads 1" in found.detail
