"""One agent as its heartbeats show it: how far its data is whole, which holes it leaves, what is wrong with it."""

from __future__ import annotations

import json

import pytest

from agent.core.clock import MINUTE_NS, SECOND_NS
from agent.core.errors import DecodeError
from agent.core.heartbeat import LARGEST, Beat
from agent.detection import fleet
from agent.detection.coverage import OPEN, UNBOUNDED, Hole
from agent.detection.fleet import Known
from tests.tools.beats import Arrived, Beating, amounts, lane

S = SECOND_NS
BEGIN = 1_000_000 * S
OTHER = "f" * 32


def _settle(known: Known, arrived: Arrived, read_to_ns: int) -> None:
    def has(run: str, of: int, first: int, last: int) -> bool:
        taken = arrived((known.agent_id, run, of)).copy()
        for a, b in known.let_go.get(of, ()):
            taken.add_range(a, b)
        return next(taken.absent(first, last), None) is None

    known.settle(has, known.low_water, read_to_ns)


def _holes(known: Known) -> list[Hole]:
    return [hole.hole() for hole in known.holes]


def test_data_is_whole_up_to_the_heartbeat_whose_batches_have_all_come() -> None:
    """Up to there nothing is missing; behind it is a hole that closes as the batches come."""
    known, agent, arrived = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN), Arrived()
    known.hear(agent.beat(BEGIN + 10 * S, lanes=lane(3)), BEGIN + 10 * S)
    _settle(known, arrived, 0)
    assert known.tail() == Hole(BEGIN, OPEN, "not_yet_complete")
    arrived.add("db-1", 0, 2)
    _settle(known, arrived, 0)
    assert known.tail() == Hole(BEGIN + 10 * S, OPEN, "not_yet_complete")
    known.hear(agent.beat(BEGIN + 20 * S, lanes=lane(3)), BEGIN + 20 * S)
    _settle(known, arrived, 0)
    assert (known.complete_ns, _holes(known)) == (BEGIN + 20 * S, [])


def test_silence_is_a_hole_that_the_backlog_closes() -> None:
    """An agent that was cut off and sends all it had kept leaves no hole behind."""
    known, agent, arrived = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN), Arrived()
    known.hear(agent.beat(BEGIN + 10 * S), BEGIN + 10 * S)
    _settle(known, arrived, 0)
    known.pass_time(BEGIN + 70 * S)
    assert (known.state, known.troubles) == ("talking", {})
    known.pass_time(BEGIN + 71 * S)
    assert (known.state, list(known.troubles), known.tail()) == (
        "silent",
        ["silent"],
        Hole(BEGIN + 10 * S, OPEN, "silent"),
    )
    known.hear(agent.beat(BEGIN + 600 * S, lanes=lane(5, 0)), BEGIN + 600 * S)
    _settle(known, arrived, BEGIN + 700 * S)
    assert (known.state, known.complete_ns) == ("talking", BEGIN + 10 * S)
    arrived.add("db-1", 0, 4)
    known.touched.clear()
    _settle(known, arrived, BEGIN + 700 * S)
    assert (known.complete_ns, _holes(known), known.troubles) == (BEGIN + 600 * S, [], {})
    assert [t[:2] for t in known.touched] == [(BEGIN + 10 * S, BEGIN + 600 * S)]


def test_batches_that_will_not_come_are_a_gap_until_they_do() -> None:
    """Once the agent is through with them and all is read, what is missing is a hole of at most what was sealed then."""
    known, agent, arrived = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN), Arrived()
    arrived.add("db-1", 0, 3)
    arrived.add("db-1", 6, 9)
    sealed = {"sealed": amounts(5000)}
    known.hear(agent.beat(BEGIN + 100 * S, lanes=lane(10), account=sealed), BEGIN + 100 * S)
    _settle(known, arrived, BEGIN + 120 * S)
    assert (known.complete_ns, _holes(known)) == (BEGIN, [])
    for i in range(11, 14):
        known.hear(agent.beat(BEGIN + i * 10 * S, lanes=lane(10), account=sealed), BEGIN + i * 10 * S)
    _settle(known, arrived, BEGIN + 130 * S)
    assert (known.complete_ns, _holes(known)) == (
        BEGIN + 130 * S,
        [Hole(BEGIN, BEGIN + 100 * S, "gap", 5000)],
    )
    arrived.add("db-1", 4, 5)
    _settle(known, arrived, BEGIN + 130 * S)
    assert _holes(known) == []


def test_what_the_spool_let_go_is_lost_and_no_gap() -> None:
    """Ranges that the agent names as let go are a hole of what its account says, and nothing waits for them."""
    known, agent, arrived = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN), Arrived()
    arrived.add("db-1", 0, 3)
    account = {"sealed": amounts(5000), "spool dropped (spool_full)": amounts(700)}
    known.hear(agent.beat(BEGIN + 100 * S, lanes=lane(6, 6, [[4, 5]]), account=account), BEGIN + 100 * S)
    _settle(known, arrived, 0)
    assert _holes(known) == [Hole(BEGIN, BEGIN + 100 * S, "spool_dropped", 700)]


def test_a_killed_run_leaves_a_hole_from_its_last_minute_to_the_next_run() -> None:
    """Without programs that go on counting nothing bounds it; what the spool still holds is waited for first."""
    known, agent, arrived = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN), Arrived()
    for i in range(1, 20):
        known.hear(agent.beat(BEGIN + i * 10 * S, lanes=lane(0)), BEGIN + i * 10 * S)
        _settle(known, arrived, 0)
    known.hear(agent.beat(BEGIN + 200 * S, lanes=lane(4, 0)), BEGIN + 200 * S)
    after = Beating("db-1", run=OTHER, started_ns=BEGIN + 500 * S)
    known.hear(after.beat(BEGIN + 510 * S, spool={"inherited_left": 4}), BEGIN + 510 * S)
    _settle(known, arrived, BEGIN + 600 * S)
    assert _holes(known) == [Hole(BEGIN + 190 * S, BEGIN + 500 * S, "restarted")]
    arrived.add("db-1", 0, 3)
    known.hear(after.beat(BEGIN + 520 * S), BEGIN + 520 * S)
    _settle(known, arrived, BEGIN + 600 * S)
    assert _holes(known) == [Hole(BEGIN + 190 * S, BEGIN + 500 * S, "restarted")]
    assert known.complete_ns == BEGIN + 520 * S


@pytest.mark.parametrize(
    ("kept", "unobserved", "left"),
    [
        (True, {}, []),
        (True, {"not_counting": {"seconds": 5.0, "octets_out_at_most": 900}}, [900]),
        (True, {"not_counting": {"seconds": 5.0, "octets_out_at_most": None}}, [UNBOUNDED]),
        (False, {}, [UNBOUNDED]),
    ],
)
def test_programs_that_went_on_counting_leave_no_hole(
    kept: bool, unobserved: dict[str, object], left: list[int]
) -> None:
    """Between two runs nothing is missing where programs stayed in the kernel; else interface counters bound it, if any."""
    known, agent, arrived = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN), Arrived()
    agent.fields["probe"] = {"tier": "ebpf", "running": True, "kept": kept}
    known.hear(agent.beat(BEGIN + 100 * S), BEGIN + 100 * S)
    _settle(known, arrived, 0)
    after = Beating("db-1", run=OTHER, started_ns=BEGIN + 500 * S)
    known.hear(after.beat(BEGIN + 510 * S, account={"unobserved": unobserved}), BEGIN + 510 * S)
    _settle(known, arrived, BEGIN + 600 * S)
    assert [h.octets for h in known.holes] == left


def test_lost_frames_and_dropped_rows_count_by_worst_case() -> None:
    """A frame of unknown size counts as the largest there is; seconds stay covered."""
    known, agent = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN)
    known.hear(agent.beat(BEGIN + 100 * S), BEGIN + 100 * S)
    account = {"dropped (map_full)": amounts(10), "lost_frames": {"ring": {"frames": 2, "octets": 0}}}
    known.hear(agent.beat(BEGIN + 110 * S, account=account), BEGIN + 110 * S)
    assert _holes(known) == [
        Hole(BEGIN + 40 * S, BEGIN + 110 * S, "dropped", 10 + 2 * 65_575, uncovers=False)
    ]


def test_what_is_wrong_is_noticed_by_cause() -> None:
    """Programs taken off, other settings in one run, a lower tier, an old database and a wrong clock each have a name."""
    known, agent = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN)
    known.hear(agent.beat(BEGIN + 100 * S), BEGIN + 100 * S)
    known.hear(
        agent.beat(
            BEGIN + 110 * S,
            settings="b",
            probe={"tier": "conntrack", "running": True},
            databases={"country": 46},
            account={"unobserved": {"not_counting": {"seconds": 4.0, "octets_out_at_most": 50}}},
        ),
        BEGIN + 113 * S,
    )
    assert sorted(known.troubles) == [
        "capture_downgraded",
        "database_stale",
        "probe_unloaded",
        "settings_changed",
    ]
    for i in range(8):
        known.hear(agent.beat(BEGIN + (120 + i) * S), BEGIN + (124 + i) * S)
    assert "clock_off" in known.troubles
    assert known.offset_ns == -4 * S


def test_a_run_that_ended_in_order_may_come_back_with_other_settings() -> None:
    """A restart that was told changes settings without a word; one that was not is told."""
    told, untold = Known("a", "a"), Known("b", "b")
    for known, closing in ((told, True), (untold, False)):
        agent = Beating(known.agent_id, started_ns=BEGIN)
        known.hear(agent.beat(BEGIN + 10 * S, closing=closing), BEGIN + 10 * S)
        after = Beating(known.agent_id, run=OTHER, started_ns=BEGIN + 20 * S)
        known.hear(after.beat(BEGIN + 30 * S, settings="b"), BEGIN + 30 * S)
    assert (list(told.troubles), list(untold.troubles)) == ([], ["settings_changed"])


def test_one_that_ended_in_order_is_silent_after_five_minutes() -> None:
    """Until then it may be restarting."""
    known = Known("db-1", "db-1")
    known.hear(Beating("db-1", started_ns=BEGIN).beat(BEGIN, closing=True), BEGIN)
    known.pass_time(BEGIN + 5 * MINUTE_NS)
    assert not known.troubles
    known.pass_time(BEGIN + 5 * MINUTE_NS + 1)
    assert (list(known.troubles), known.state) == (["silent"], "ended")


def test_an_agent_is_kept_and_taken_up_again_whole() -> None:
    """What is written down gives the same agent back, through JSON."""
    known, agent, arrived = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN), Arrived()
    arrived.add("db-1", 0, 3)
    sealed = {"sealed": amounts(5000)}
    beat = agent.beat(BEGIN + 100 * S, lanes=lane(10), account=sealed, settings="x", stores=["ehr"])
    known.hear(beat, BEGIN + 100 * S)
    _settle(known, arrived, BEGIN + 130 * S)
    known.settled("silent")
    back = Known.of(json.loads(json.dumps(known.as_dict())))
    known.changed, known.moved, known.touched = False, False, []
    assert back == known


def test_a_clock_that_steps_makes_nobody_silent_and_vouches_for_no_future() -> None:
    """Ten years ahead, data is whole up to now at most; set back again, the agent is heard all the same."""
    known, agent, arrived = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN), Arrived()
    ahead = 10 * 365 * 86_400 * S
    for i, offset in enumerate((0, 0, ahead, ahead, 0, 0), 1):
        known.hear(agent.beat(BEGIN + i * 10 * S + offset), BEGIN + i * 10 * S)
        _settle(known, arrived, BEGIN + i * 10 * S)
        assert known.complete_ns <= BEGIN + i * 10 * S + S
    known.pass_time(BEGIN + 70 * S)
    assert (known.state, known.heard_ns, known.complete_ns) == (
        "talking",
        BEGIN + 60 * S,
        BEGIN + 60 * S,
    )


def test_a_topic_read_again_from_its_beginning_changes_nothing() -> None:
    """Heartbeats of earlier runs, heard before, make no restart of what is running."""
    known, first = Known("db-1", "db-1"), Beating("db-1", started_ns=BEGIN)
    second = Beating("db-1", run=OTHER, started_ns=BEGIN + 50 * S)
    heard = [(first.beat(BEGIN + 10 * S, closing=True), 10), (second.beat(BEGIN + 60 * S), 60)]
    for beat, at in heard:
        known.hear(beat, BEGIN + at * S)
    before = known.as_dict()
    for beat, at in heard:
        known.hear(beat, BEGIN + at * S)
    assert known.as_dict() | {"offsets": []} == before | {"offsets": []}


def test_an_agent_that_starts_all_day_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest holes become one that takes in both."""
    monkeypatch.setattr(fleet, "MOST_HOLES", 3)
    known = Known("db-1", "db-1")
    for i in range(8):
        agent = Beating("db-1", run=f"{i:032x}", started_ns=BEGIN + i * 1000 * S)
        known.hear(agent.beat(BEGIN + i * 1000 * S + 100 * S), BEGIN + i * 1000 * S + 100 * S)
    assert len(known.holes) == 3
    assert (known.holes[0].from_ns, known.holes[-1].to_ns) == (BEGIN, BEGIN + 7000 * S)


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b"[]", b'{"agent_id": "../x"}', b"{" * 5000, b" " * (LARGEST + 1), b"\xff\xfe"],
)
def test_what_is_no_heartbeat_is_refused(value: bytes) -> None:
    """Whatever the bytes, the answer is a heartbeat or a DecodeError."""
    with pytest.raises(DecodeError):
        Beat.read(value)
