"""The sending side against a carrier of the test's own: order, pace, accounts, what is told of what was let go."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.accounts import Account, Accounts, Amounts
from agent.core.errors import SinkError
from agent.core.flow import BatchHeader
from agent.core.message import Header, Message
from agent.seal import LONGEST_AGE_NS, MAX_AGE_NS, OTHER_LANE, STORE_LANE, Sealer
from agent.sending.carrying import Pace
from agent.spool.journal import Entry, Journal
from agent.spool.progress import Progress
from agent.spool.spool import Limits
from tests.tools.rows import batch_of
from tests.tools.sender import numbered, sender
from tests.tools.topics import until

Done = Callable[[SinkError | None], None]


class Carried:
    """A carrier that keeps what it is given. ``up`` says whether it can be reached, ``answers`` whether it answers."""

    def __init__(self) -> None:
        self.up, self.answers, self.longest_s = True, True, 3600.0
        self.headers: list[Header] = []
        self.beats: list[dict[str, object]] = []
        self.unanswered: list[Done] = []
        self.refuses: Callable[[Header], SinkError | None] = lambda _header: None
        self._lock = threading.Lock()

    def connect(self) -> None:
        if not self.up:
            raise SinkError("nobody there", retriable=True)

    def send(self, message: Message, agent_id: str, done: Done) -> None:
        if not self.up:
            raise SinkError("gone", retriable=True)
        header = message.read_header()
        with self._lock:
            error = self.refuses(header)
            if error is None:
                self.headers.append(header)
            if self.answers:
                done(error)
            else:
                self.unanswered.append(done)

    def tell(self, agent_id: str, signature: bytes, heartbeat: bytes, done: Done) -> None:
        self.beats.append(json.loads(heartbeat))
        done(None)

    def disconnect(self) -> None:
        self.unanswered.clear()


def sent(carrier: Carried, lane: int = 0) -> list[int]:
    """Sequences of a lane as they came, run and all."""
    return [h.sequence for h in carrier.headers if h.lane == lane]


def test_new_rows_go_before_a_backlog(tmp_path: Path) -> None:
    """With a large backlog at a slow pace, what is sealed now is through at once, and the low-water mark stays behind."""
    carrier = Carried()
    carrier.up = False
    slow = Pace(octets_per_s=2**16, after_s=0.0, longest_wait_s=0.1)
    rows = batch_of([{"octets_out": n * 7919 % 2**40, "octets_in": n * 104729 % 2**41} for n in range(1000)])
    with sender(tmp_path, carrier=carrier, pace=slow) as agent:
        for _ in range(400):
            agent.put(rows)
        until(lambda: agent.send.carrying.last_error, "the first try failed")
        carrier.up = True
        until(lambda: agent.send.carrying.connected, "it is connected")
        new = agent.put(numbered(3))
        until(lambda: new in sent(carrier), "the new batch is sent")
        assert agent.waiting > 100
        agent.check()
        later = agent.put(numbered(3))
        until(lambda: later in sent(carrier), "the next is sent")
        assert next(h for h in carrier.headers if h.sequence == later).low_water < 400
        agent.send.carrying.pace = Pace(octets_per_s=2**30, after_s=0.0)
        until(lambda: not agent.waiting, "the backlog is through")
        agent.check()
    assert sorted(sent(carrier)) == list(range(402)), "each batch once"


def test_rows_of_stores_go_first_after_an_outage(tmp_path: Path) -> None:
    """A backlog of both lanes: the first message sent is one of lane 1."""
    carrier = Carried()
    carrier.up = False
    with sender(tmp_path, carrier=carrier) as agent:
        for _ in range(20):
            agent.put(numbered(2), lane=0)
        agent.put(numbered(2), lane=1)
        carrier.up = True
        until(lambda: not agent.waiting, "all are through")
        agent.check()
    assert carrier.headers[0].lane == 1


def test_a_connection_that_breaks_sends_again_what_was_not_answered(tmp_path: Path) -> None:
    """Unanswered messages come again with the same id and digest; they are acknowledged once."""
    carrier = Carried()
    carrier.answers = False
    with sender(tmp_path, carrier=carrier) as agent:
        agent.put(numbered(5))
        until(lambda: carrier.unanswered, "it is on its way")
        carrier.answers = True
        with carrier._lock:
            carrier.unanswered[0](SinkError("timed out", retriable=True))
        until(lambda: not agent.waiting, "it is through")
        agent.check()
        assert agent.accounts.read().acked == numbered(5).amounts()
    first, again = carrier.headers
    assert (first.batch_id, first.digest) == (again.batch_id, again.digest)


def test_a_client_that_never_answers_is_replaced(tmp_path: Path) -> None:
    """Neither taken nor refused for longer than the client promised: another one sends it, and it is counted once."""
    carrier = Carried()
    carrier.answers, carrier.longest_s = False, 0.05
    with sender(tmp_path, carrier=carrier) as agent:
        agent.put(numbered(5))
        until(lambda: len(carrier.headers) > 1, "it is sent anew")
        carrier.answers = True
        agent.put(numbered(2))
        until(lambda: not agent.waiting, "all are through")
        agent.check()
        assert agent.accounts.read().acked == numbered(5).amounts() + numbered(2).amounts()
    assert set(sent(carrier)) == {0, 1}


def test_only_the_guilty_message_is_given_up(tmp_path: Path) -> None:
    """The client blames every message in flight for one that is too large; alone, only that one is refused again."""
    carrier = Carried()
    carrier.up = False
    poisoned = threading.Event()

    def refuses(header: Header) -> SinkError | None:
        alone = not poisoned.is_set()
        if header.sequence == 2:
            poisoned.set()
        return SinkError("too large", retriable=False) if poisoned.is_set() or not alone else None

    carrier.refuses = refuses
    carrier.disconnect = lambda: poisoned.clear()  # type: ignore[method-assign]
    with sender(tmp_path, carrier=carrier) as agent:
        for n in range(5):
            agent.put(numbered(1, first=n))
        carrier.up = True
        until(lambda: not agent.waiting, "all have an end")
        agent.check()
        assert agent.accounts.read().spool_dropped == {"refused_by_broker": numbered(1, first=2).amounts()}
    assert sorted(set(sent(carrier))) == [0, 1, 3, 4]


@pytest.mark.parametrize("policy", ["oldest", "newest"])
def test_what_has_no_room_is_told_in_the_next_header(tmp_path: Path, policy: str) -> None:
    """A full spool: sequences delivered and sequences told as dropped are all there are, and the account is whole."""
    carrier = Carried()
    carrier.up = False
    tight = Limits(most_octets=6 * 64 * 2**10, min_free_octets=0, policy=policy)  # type: ignore[arg-type]
    rows = batch_of([{"octets_out": n * 7919 % 2**40, "octets_in": n * 104729 % 2**41} for n in range(1000)])
    with sender(tmp_path, carrier=carrier, limits=tight) as agent:
        for _ in range(60):
            agent.put(rows)
            agent.check()
        assert agent.accounts.read().spool_dropped["spool_full"]
        carrier.up = True
        until(lambda: not agent.waiting, "what is left is through")
        until(lambda: agent.send.spool.octets <= 3 * 64 * 2**10, "its room is free again")
        last = agent.put(numbered(1))
        until(lambda: last in sent(carrier), "one more is through")
        until(lambda: not agent.waiting, "and answered")
        agent.check()
        account = agent.accounts.read()
        assert account.acked.flows + account.spool_dropped["spool_full"].flows == 60_001
    header = carrier.headers[-1]
    told = {s for first, final in header.dropped for s in range(first, final + 1)}
    assert (told | set(sent(carrier)), told & set(sent(carrier))) == (set(range(61)), set())
    assert header.low_water == 60


def test_each_header_carries_an_account_that_is_whole(tmp_path: Path) -> None:
    """The cumulative account of every header explains every row sealed so far."""
    carrier = Carried()
    with sender(tmp_path, carrier=carrier) as agent:
        for n in range(10):
            agent.put(numbered(n + 1))
        until(lambda: not agent.waiting, "all are through")
    none = Amounts().as_dict()
    for header in carrier.headers:
        assert header.account is not None
        assert (header.account["residue"], header.account["sealed residue"]) == (none, none)


def test_the_end_of_a_run_is_told_once_all_is_through(tmp_path: Path) -> None:
    """The last heartbeat says that the run is closing, with nothing left in the spool."""
    carrier = Carried()
    with sender(tmp_path, carrier=carrier, facts={"policy": "7"}) as agent:
        agent.put(numbered(4))
        agent.send.finish()
    last = carrier.beats[-1]
    assert (last["closing"], last["policy"], last["lanes"]["0"]["low_water"]) == (True, "7", 1)  # type: ignore[index]
    assert not list((tmp_path / "spool").glob("closed-*"))


def test_a_torn_group_leaves_the_one_before_in_force(tmp_path: Path) -> None:
    """The journal cut at every octet: the last whole group is found, never half of one."""
    entries = [Entry(0, 3, Amounts(1, 2, 3), b"abc"), Entry(1, 9, Amounts(4, 5, 6), b"defg")]
    journal = Journal(tmp_path)
    journal.write("1", [], sync=False)
    journal.write("2", entries, sync=True)
    assert Journal(tmp_path).missing({0: 3, 1: 9}) == tuple(entries)
    assert Journal(tmp_path).missing({0: 4, 1: 9}) == (entries[1],)
    newest = tmp_path / "group0"
    whole = newest.read_bytes()
    for cut in range(len(whole)):
        newest.write_bytes(whole[:cut])
        assert (Journal(tmp_path).position, Journal(tmp_path).missing({0: 0, 1: 0})) == ("1", ())


@given(st.lists(st.sampled_from(["kept", "no room", "ack", "lost"]), max_size=60), st.randoms())
def test_the_low_water_mark_passes_only_what_has_an_end(steps: list[str], chance: object) -> None:
    """Whatever happens in whatever order, everything below the mark was acknowledged or stands in a dropped range."""
    progress, open_, acked, gone = Progress(), {}, set(), set()
    sequence, number = 0, 17
    for step in steps:
        if step == "kept":
            progress.appended(sequence, number)
            open_[number] = sequence
            sequence, number = sequence + 1, number + 1
        elif step == "no room":
            progress.never_kept(sequence)
            gone.add(sequence)
            sequence += 1
        elif open_:
            picked = chance.choice(sorted(open_))  # type: ignore[attr-defined]
            if step == "ack":
                progress.acknowledged(picked)
                acked.add(open_.pop(picked))
            else:
                progress.let_go(picked, 1)
                gone.add(open_.pop(picked))
        told = {s for first, last in progress.dropped for s in range(first, last + 1)}
        assert told == gone
        assert progress.low_water == next(s for s in range(sequence + 1) if s not in acked | gone)


def test_small_batches_of_other_rows_may_grow_older() -> None:
    """An adaptive sealer waits 10, 20, 30 s while its batches are not full, 10 s again once they fill at once; rows of stores 1 s."""
    sealer = Sealer(BatchHeader(), Accounts(), adaptive=True)
    waits, now_ns = [], 0
    for _ in range(4):
        list(sealer.add(numbered(1), now_ns))
        begun = now_ns
        while not list(sealer.due(now_ns)):
            now_ns += 10**9
        waits.append((now_ns - begun) // 10**9)
    assert waits == [10, 20, 30, 30]
    for _ in range(2):
        assert len(list(sealer.add(numbered(1000), now_ns))) == 1
    assert (sealer._age_ns[OTHER_LANE], sealer._age_ns[STORE_LANE]) == (
        MAX_AGE_NS[OTHER_LANE],
        MAX_AGE_NS[STORE_LANE],
    )
    assert max(waits) * 10**9 == LONGEST_AGE_NS


def test_batches_that_fill_in_time_keep_their_age() -> None:
    """At 60 rows a second a batch is full after 17 s: it grows to 20 s and stays there; at 200 it is 10 s again."""
    sealer = Sealer(BatchHeader(), Accounts(), adaptive=True)
    ages: list[int] = []

    def run(rows_a_second: int, seconds: int, from_s: int) -> None:
        for second in range(from_s, from_s + seconds):
            now_ns = second * 10**9
            rows = numbered(rows_a_second, process=f"no other's {second}")
            if list(sealer.add(rows, now_ns)) or list(sealer.due(now_ns)):
                ages.append(sealer._age_ns[OTHER_LANE] // 10**9)

    run(60, 100, 0)
    slow, ages = ages, []
    run(200, 40, 100)
    assert (slow[-4:], ages[-4:]) == ([20] * 4, [10] * 4)


def test_an_account_that_sends_balances() -> None:
    """sealed = acked + spooled + spool dropped, term by term, in the rows of the table too."""
    accounts = Accounts()
    one = Amounts(1, 10, 20)
    accounts.capture(one + one + one)
    accounts.seal(one + one + one)
    accounts.wait(one + one + one)
    accounts.spool(one)
    accounts.spool(one)
    accounts.acknowledge(one)
    accounts.spool_drop("spool_full", one, spooled=False)
    account: Account = accounts.read()
    assert (account.acked, account.spooled, account.spool_dropped) == (one, one, {"spool_full": one})
    assert (account.sealed_residue, account.waiting) == (Amounts(), Amounts())
    assert dict(account.rows())["spool dropped (spool_full)"] == one
