"""The account: nothing is lost without being counted."""

from __future__ import annotations

import pytest

from agent.core.accounts import Accounts, Amounts
from agent.core.errors import AccountError
from tests.tools.rows import batch_of

TEN = Amounts(1, 1000, 500)


def test_rows_that_are_captured_and_sealed_leave_no_residue() -> None:
    """captured = excluded + dropped + in kernel + in memory + sealed."""
    accounts = Accounts()
    accounts.capture(TEN + TEN + TEN)
    accounts.hold("flow_table", TEN + TEN + TEN)
    accounts.move("flow_table", "batches", TEN + TEN)
    accounts.drop("table_full", batch_of([{}]), held_in="flow_table")
    accounts.exclude("own_traffic", batch_of([{}]), held_in="batches")
    accounts.seal(TEN, held_in="batches")
    account = accounts.check().read()
    assert (account.dropped, account.excluded, account.sealed) == (
        {"table_full": TEN},
        {"own_traffic": TEN},
        TEN,
    )
    assert (account.residue, account.in_memory) == (Amounts(), Amounts())


def test_rows_that_vanish_are_an_error() -> None:
    """A place of memory that holds less than it should leaves a residue, and check raises."""
    accounts = Accounts()
    accounts.capture(TEN)
    accounts.hold("flow_table", Amounts(1, 900, 500))
    with pytest.raises(AccountError, match="octets_out=100"):
        accounts.check()


def test_sealed_rows_are_decided_buried_or_wait() -> None:
    """The second line of the account has a residue of its own."""
    accounts = Accounts()
    accounts.seal(TEN + TEN + TEN)
    accounts.decide(TEN)
    accounts.bury("state_lost", batch_of([{}]))
    assert accounts.read().sealed_residue == TEN
    accounts.wait(TEN)
    assert accounts.read().sealed_residue == Amounts()


def test_lost_frames_are_counted_apart_with_their_octets() -> None:
    """Frames that were lost before their flow was known are counted by reason."""
    accounts = Accounts()
    accounts.lose_frames("ring_full", 3)
    accounts.lose_frames("undecodable", 1, 60)
    accounts.lose_frames("undecodable", 1, 40)
    assert accounts.read().lost_frames == {"ring_full": (3, 0), "undecodable": (2, 100)}
