"""The leader's lease: held while the leader is held up by something else, let go where nobody is at work, never lost unnoticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from agent.core.errors import StateError, TakenOverError
from agent.store import schema
from agent.store.postgres import Leadership, PostgresDatabase, a_holder, lead, open_postgres
from tests.tools.postgres import Server

LEASE_S = 3.0


@pytest.fixture
def url(postgres_server: Server) -> str:
    return postgres_server.fresh()


@pytest.fixture
def open_one(url: str) -> Iterator[Callable[[], tuple[PostgresDatabase, str]]]:
    made: list[PostgresDatabase] = []

    def one() -> tuple[PostgresDatabase, str]:
        holder = a_holder()
        made.append(open_postgres(url, holder=holder, create=True, now_ns=0, busy_timeout_s=5))
        return made[-1], holder

    yield one
    for database in made:
        database.close()


def _lead(database: PostgresDatabase, holder: str, stop: threading.Event | None = None) -> Leadership | None:
    return lead(database, holder, stop or threading.Event(), lease_s=LEASE_S)


def _until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not met():
        assert time.monotonic() < end, "too late"
        time.sleep(0.05)


def test_a_leader_that_is_held_up_for_longer_than_a_lease_goes_on_leading(
    open_one: Callable[[], tuple[PostgresDatabase, str]],
) -> None:
    """Its lease is renewed meanwhile: whoever stands by looks several times and takes nothing."""
    first = _lead(*open_one())
    assert first is not None
    first.check()
    stop, looks, taken = threading.Event(), [], []
    standby, holder = open_one()

    def stand_by() -> None:
        taken.append(
            lead(standby, holder, stop, lease_s=LEASE_S, waiting=lambda: looks.append(time.monotonic()))
        )

    other = threading.Thread(target=stand_by)
    other.start()
    _until(lambda: len(looks) >= 2 and looks[-1] - looks[0] > 2 * LEASE_S)
    first.check()
    stop.set()
    other.join()
    assert taken == [None]
    first.release()


def test_a_leader_at_which_nobody_is_at_work_is_not_renewed(
    open_one: Callable[[], tuple[PostgresDatabase, str]],
) -> None:
    """Its steps have stopped: the lease runs out, the other leads, and the first is told at its next step."""
    database, holder = open_one()
    first = _lead(database, holder)
    assert first is not None
    first.check(held_up_s=0.2)
    second = _lead(*open_one())
    assert second is not None
    with pytest.raises(StateError):
        first.check(held_up_s=0.2)
    assert second.holder != first.holder
    second.check()
    second.release()
    first.release()


def test_a_lease_that_cannot_be_renewed_is_noticed(
    open_one: Callable[[], tuple[PostgresDatabase, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database does not answer the renewal, which hangs: once the lease has run out, the leader's next step ends it."""
    database, holder = open_one()
    first = _lead(database, holder)
    assert first is not None
    go_on = threading.Event()
    monkeypatch.setattr(first, "renew", lambda: go_on.wait(30))
    first.check()
    _until(lambda: time.monotonic() - first._renewed_s > LEASE_S)
    with pytest.raises(TakenOverError, match="could not be renewed"):
        first.check()
    go_on.set()
    first.release()


def test_another_leader_in_the_table_is_noticed_by_the_thread(
    open_one: Callable[[], tuple[PostgresDatabase, str]],
) -> None:
    """Without any step of the leader's own, and said at its next one."""
    database, holder = open_one()
    first = _lead(database, holder)
    assert first is not None
    first.check()
    with database.write() as connection:
        connection.execute(sa.update(schema.leases).values(holder="another"))
    _until(lambda: first._lost is not None)
    with pytest.raises(TakenOverError, match="another sekisho leads now"):
        first.check()
    first.release()


def test_a_released_role_is_free_at_once(open_one: Callable[[], tuple[PostgresDatabase, str]]) -> None:
    """And its thread has ended."""
    first = _lead(*open_one())
    assert first is not None
    first.check()
    first.release()
    assert first._thread is not None and not first._thread.is_alive()
    second = _lead(*open_one())
    assert second is not None
    second.release()
