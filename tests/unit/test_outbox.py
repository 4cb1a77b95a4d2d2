"""The outbox: every notice reaches every sink at least once, and no sink waits for another."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from agent.core.clock import DAY_NS, MINUTE_NS, SECOND_NS, DataClock
from agent.core.decision import Decision
from agent.core.errors import SinkError, StateError
from agent.core.finding import Notice
from agent.core.flow import FlowBatch
from agent.store.deliveries import DeliveryState
from agent.store.outbox import Outbox, SinkStatus
from agent.store.state import Commit, State
from tests.tools.notices import START_NS, case, event, notice
from tests.tools.states import Place

DEADLINE_S = 20.0


class Paper:
    """Keeps what it takes; ``trouble`` may refuse it."""

    takes_flows, takes_notices = False, True

    def __init__(self, trouble: Callable[[Notice], None] = lambda _n: None) -> None:
        self.name, self.trouble = "paper", trouble
        self.tries: list[str] = []
        self.taken: list[str] = []

    def write_notice(self, notice: Notice) -> None:
        self.tries.append(notice.id)
        self.trouble(notice)
        self.taken.append(notice.id)

    def write_flows(self, batch: FlowBatch) -> None:
        raise AssertionError

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _down(_notice: Notice) -> None:
    raise SinkError("connection refused", retriable=True)


def _refuse(_notice: Notice) -> None:
    raise SinkError("answered 400", retriable=False)


@pytest.fixture
def clock() -> DataClock:
    return DataClock(START_NS)


@pytest.fixture
def state(place: Place, clock: DataClock) -> Iterator[State]:
    with place.open(clock) as opened:
        yield opened


def _queue(state: State, *wanted: tuple[str, int], sinks: tuple[str, ...] = ("paper",)) -> None:
    cases = tuple(case(id=id_, revision=revision) for id_, revision in wanted)
    decision = Decision(cases=cases, notices=tuple(notice(case=c) for c in cases))
    state.commit(Commit(decision=decision, position="", now_ns=START_NS, notice_sinks=sinks))


def _all(outbox: Outbox, name: str = "paper") -> int:
    count = 0
    while outbox.step(name):
        count += 1
    return count


def _later(clock: DataClock, span_ns: int) -> None:
    clock.set(clock.now_ns() + span_ns)


def test_notices_are_sent_in_order_and_once(state: State, clock: DataClock) -> None:
    """Each queued notice is handed over once, those of a case in the order of the commits."""
    paper = Paper()
    outbox = Outbox(state, {"paper": paper}, clock)
    _queue(state, ("A", 1), ("B", 1))
    _queue(state, ("A", 2))
    state.deliveries.post((event(),), ("paper",), START_NS)
    assert _all(outbox) == 4
    assert paper.taken == ["A.1", "B.1", "A.2", f"reload_refused.{START_NS}"]
    assert outbox.status() == {"paper": SinkStatus(0, 0, 4, None, "", 0)}


def test_a_failing_sink_is_tried_later_and_later(state: State, clock: DataClock) -> None:
    """1, 2, 4 … seconds, at most five minutes; nothing is given up before three days and twenty tries."""
    paper = Paper(_down)
    outbox = Outbox(state, {"paper": paper}, clock)
    _queue(state, ("A", 1))
    waits = []
    for _ in range(12):
        assert _all(outbox) == 1
        waits.append(outbox.status()["paper"].resting_ns // SECOND_NS)
        clock.set(clock.now_ns() + waits[-1] * SECOND_NS - 1)
        assert _all(outbox) == 0
        _later(clock, 1)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    status = outbox.status()["paper"]
    assert (status.waiting, status.dead, status.last_error) == (1, 0, "connection refused")
    assert status.oldest_ns == clock.now_ns() - START_NS
    paper.trouble = lambda _n: None
    assert _all(outbox) == 1
    assert outbox.status()["paper"] == SinkStatus(0, 0, 1, None, "", 0)


def test_jitter_only_shortens_a_wait(state: State, clock: DataClock) -> None:
    """With a random source the wait lies between half of the full one and all of it, and the seed fixes it."""
    outbox = Outbox(state, {"paper": Paper(_down)}, clock, random.Random(4))
    _queue(state, ("A", 1))
    waits = []
    for _ in range(4):
        assert _all(outbox) == 1
        waits.append(outbox.status()["paper"].resting_ns)
        _later(clock, 5 * MINUTE_NS)
    bounds = [(SECOND_NS << n) for n in range(4)]
    assert all(b // 2 <= w <= b for w, b in zip(waits, bounds, strict=True))
    seeded = random.Random(4)
    draws = [seeded.random() for _ in range(8)][::2]
    assert waits == [b - int(b / 2 * d) for b, d in zip(bounds, draws, strict=True)]


def test_a_notice_that_fails_holds_up_only_its_own_case(state: State, clock: DataClock) -> None:
    """Later notices of the case wait for it; those of other cases pass it by."""

    def trouble(told: Notice) -> None:
        if told.id == "A.1":
            _down(told)

    paper = Paper(trouble)
    outbox = Outbox(state, {"paper": paper}, clock)
    _queue(state, ("A", 1), ("B", 1))
    _queue(state, ("A", 2), ("B", 2))
    for _ in range(4):
        _all(outbox)
        _later(clock, 5 * MINUTE_NS)
    assert paper.taken == ["B.1", "B.2"]
    paper.trouble = lambda _n: None
    _all(outbox)
    assert paper.taken == ["B.1", "B.2", "A.1", "A.2"]


def test_what_a_sink_refuses_is_dead_and_kept(state: State, clock: DataClock) -> None:
    """A refusal that no retry mends is given up at once with its reason, and lets the case's next notice pass."""
    paper = Paper(lambda told: _refuse(told) if told.id == "A.1" else None)
    outbox = Outbox(state, {"paper": paper}, clock)
    _queue(state, ("A", 1))
    _queue(state, ("A", 2))
    assert _all(outbox) == 2
    assert paper.taken == ["A.2"]
    assert [(d.key, d.state, d.attempts, d.error) for d in state.deliveries.of_case("A")] == [
        ("A.1:opened", DeliveryState.DEAD, 1, "answered 400"),
        ("A.2:opened", DeliveryState.SENT, 0, ""),
    ]
    assert outbox.status()["paper"].dead == 1


def test_three_days_of_failures_give_a_notice_up(state: State, clock: DataClock) -> None:
    """A sink that is down for three days loses the notice to the dead, after tries every five minutes."""
    paper = Paper(_down)
    outbox = Outbox(state, {"paper": paper}, clock)
    _queue(state, ("A", 1))
    while outbox.status()["paper"].waiting:
        _all(outbox)
        _later(clock, 60 * MINUTE_NS)
    assert clock.now_ns() - START_NS == 3 * DAY_NS + 60 * MINUTE_NS
    assert outbox.status()["paper"].dead == 1


def test_a_clock_that_jumps_gives_nothing_up_and_forgets_nothing(state: State, clock: DataClock) -> None:
    """Ten years ahead is no reason to give up; a time to wait for that lies years ahead after a step back is now."""
    paper = Paper(_down)
    outbox = Outbox(state, {"paper": paper}, clock)
    _queue(state, ("A", 1))
    _later(clock, 3650 * DAY_NS)
    assert _all(outbox) == 1
    assert (outbox.status()["paper"].waiting, outbox.status()["paper"].dead) == (1, 0)
    clock.set(START_NS)
    again = Outbox(state, {"paper": Paper()}, clock)
    assert _all(again) == 1


def test_a_sink_with_a_defect_loses_nothing(state: State, clock: DataClock) -> None:
    """An exception that no sink should raise is logged and counts as a failure to be tried again."""

    def defect(_told: Notice) -> None:
        raise KeyError("oops")

    paper = Paper(defect)
    outbox = Outbox(state, {"paper": paper}, clock)
    _queue(state, ("A", 1))
    with capture_logs() as logs:
        assert _all(outbox) == 1
    assert [entry["event"] for entry in logs] == ["sink_crashed", "notice_not_sent"]
    assert outbox.status()["paper"].last_error == "defect of the sink: KeyError('oops')"
    _later(clock, MINUTE_NS)
    paper.trouble = lambda _n: None
    assert _all(outbox) == 1


def test_what_waits_for_a_sink_that_is_gone_is_shown(state: State, clock: DataClock) -> None:
    """Notices of a sink that is no longer in the settings stay and are told in the status."""
    _queue(state, ("A", 1), sinks=("old",))
    status = Outbox(state, {}, clock).status()["old"]
    assert (status.waiting, status.last_error) == (1, "no sink of this name is set up")


def test_a_slow_sink_delays_no_other(state: State, clock: DataClock) -> None:
    """While one sink does not return, another takes all; the slow one's notice is kept when the program stops."""
    hold, entered = threading.Event(), threading.Event()

    def slow(_told: Notice) -> None:
        entered.set()
        hold.wait(DEADLINE_S)

    quick = Paper()
    outbox = Outbox(state, {"slow": Paper(slow), "quick": quick}, clock)
    _queue(state, ("A", 1), ("B", 1), ("C", 1), sinks=("slow", "quick"))
    outbox.start()
    try:
        outbox.wake()
        assert entered.wait(DEADLINE_S)
        _until(lambda: len(quick.taken) == 3)
        _until(lambda: outbox.drain(0.0) == 3)
        assert outbox.status()["quick"].waiting == 0
    finally:
        hold.set()
        assert outbox.drain(DEADLINE_S) == 0
        outbox.stop(DEADLINE_S)


def test_stopping_sends_what_can_be_sent(state: State, clock: DataClock) -> None:
    """An orderly stop hands over everything that is due, and leaves what rests for the next start."""
    good, bad = Paper(), Paper(_down)
    outbox = Outbox(state, {"good": good, "bad": bad}, clock)
    outbox.start()
    for number in range(10):
        _queue(state, (f"C{number}", 1), sinks=("good", "bad"))
    outbox.stop(deadline_s=DEADLINE_S)
    assert len(good.taken) == 10
    assert {name: s.waiting for name, s in outbox.status().items()} == {"good": 0, "bad": 10}
    assert len(bad.tries) == 1


def test_a_state_that_cannot_be_written_stops_no_thread(
    state: State, clock: DataClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery whose mark fails is sent again, with the same id."""
    paper = Paper()
    outbox = Outbox(state, {"paper": paper}, clock)
    _queue(state, ("A", 1))
    sent = state.deliveries.sent

    def fail(*_: object) -> None:
        monkeypatch.setattr(state.deliveries, "sent", sent)
        raise StateError("locked")

    monkeypatch.setattr(state.deliveries, "sent", fail)
    outbox.start()
    _until(lambda: outbox.status()["paper"].sent == 1)
    outbox.stop(DEADLINE_S)
    assert paper.taken == ["A.1", "A.1"]


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        threading.Event().wait(0.01)
