"""What only time tells of a case: stopped, doubled, still going, taken by nobody. And what approvals say beside it."""

from __future__ import annotations

import itertools

from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.finding import CaseState, NoticeKind, Severity, TrafficState
from agent.detection.detector import Detector
from agent.policy.model import Rule
from tests.tools.recount import Sent
from tests.tools.transfers import MB, T0, Run, policy

CASE = "2025-1121-01"


def begun(severity: Severity = Severity.MEDIUM, *, replay: bool = False) -> Run:
    """A run in which a case was opened by 20 MB."""
    rule = Rule(id="bulk", over=10 * MB, window="24h", severity=severity)
    run = Run(Detector(policy(rule), None, replay=replay))
    send(run, T0, 20 * MB)
    assert kinds(run) == [NoticeKind.OPENED]
    return run


def send(run: Run, at_ns: int, octets: int) -> None:
    run.take([Sent("ehr", 64500, at_ns - SECOND_NS, at_ns, octets)])


def quiet(run: Run, until_ns: int, since_ns: int = T0) -> None:
    """Time passes, a tick each five minutes."""
    for at_ns in range(since_ns, until_ns + 1, 5 * MINUTE_NS):
        run.heard(run.detector.tick(at_ns))


def kinds(run: Run) -> list[NoticeKind]:
    return [notice.kind for notice in run.notices]


def test_traffic_has_stopped_after_half_an_hour_without_any_and_the_case_stays_open() -> None:
    """People are told once; only a person closes the case."""
    run = begun()
    quiet(run, T0 + 25 * MINUTE_NS)
    assert (kinds(run), run.cases[CASE].traffic_state) == ([NoticeKind.OPENED], TrafficState.ONGOING)
    quiet(run, T0 + 12 * HOUR_NS)
    case = run.cases[CASE]
    assert (case.state, case.traffic_state) == (CaseState.OPEN, TrafficState.STOPPED)
    assert kinds(run) == [NoticeKind.OPENED, NoticeKind.CLOSED]


def test_traffic_that_comes_and_goes_moves_again_and_stops_once_a_day_for_people() -> None:
    """A pause in one transfer is shown in the case, and is no alert each time."""
    run = begun()
    quiet(run, T0 + 2 * HOUR_NS)
    for hour in (3, 5, 7):
        send(run, T0 + hour * HOUR_NS, MB)
        quiet(run, T0 + hour * HOUR_NS + 10 * MINUTE_NS, T0 + hour * HOUR_NS)
        assert run.cases[CASE].traffic_state is TrafficState.ONGOING
        quiet(run, T0 + (hour + 1) * HOUR_NS, T0 + hour * HOUR_NS + 15 * MINUTE_NS)
        assert run.cases[CASE].traffic_state is TrafficState.STOPPED
    assert kinds(run).count(NoticeKind.CLOSED) == 1


def test_doubling_is_told_at_most_once_an_hour() -> None:
    """Twice as much as was told last; the amounts that stand in the notice are the newest."""
    run = begun()
    run.detector.case_acknowledged(CASE)
    for minute in range(5, 181, 5):
        send(run, T0 + minute * MINUTE_NS, 20 * MB)
    told = [n for n in run.notices if n.kind is NoticeKind.DOUBLED]
    times = [n.time_ns for n in told]
    assert 1 <= len(told) <= 3
    assert all(b - a >= HOUR_NS for a, b in zip([T0, *times], times, strict=False))
    amounts = [20 * MB, *(n.case.traffic.content_octets_out for n in told if n.case)]
    assert all(b >= 2 * a for a, b in itertools.pairwise(amounts))


def test_what_goes_on_is_told_again_after_a_day() -> None:
    """A trickle that neither doubles nor stops is not forgotten."""
    run = begun()
    run.detector.case_acknowledged(CASE)
    for step in range(1, 4 * 26):
        send(run, T0 + step * 15 * MINUTE_NS, 10_000)
    assert kinds(run) == [NoticeKind.OPENED, NoticeKind.DAILY]


def test_a_case_that_nobody_takes_is_told_once_more_within_its_time() -> None:
    """High: an hour. Medium: a day. Low: never. Taken in time: not at all."""
    reminded = {}
    for severity in (Severity.LOW, Severity.MEDIUM, Severity.HIGH):
        run = begun(severity)
        quiet(run, T0 + 3 * HOUR_NS)
        early = kinds(run).count(NoticeKind.UNACKNOWLEDGED)
        quiet(run, T0 + 60 * HOUR_NS, T0 + 3 * HOUR_NS)
        reminded[severity] = (early, kinds(run).count(NoticeKind.UNACKNOWLEDGED))
    assert reminded == {Severity.LOW: (0, 0), Severity.MEDIUM: (0, 1), Severity.HIGH: (1, 1)}
    taken = begun(Severity.HIGH)
    taken.detector.case_acknowledged(CASE)
    quiet(taken, T0 + 60 * HOUR_NS)
    assert NoticeKind.UNACKNOWLEDGED not in kinds(taken)


def test_a_replay_tells_nothing_by_the_clock() -> None:
    """Its data has no people, and the size of its batches must not decide who is told."""
    run = begun(Severity.HIGH, replay=True)
    for hour in range(1, 40):
        send(run, T0 + hour * HOUR_NS, 20 * MB)
    assert set(kinds(run)) == {NoticeKind.OPENED}


def test_a_restart_remembers_what_people_were_told() -> None:
    """From a snapshot and from deltas: the same cases, and nothing is told twice."""
    run = begun(Severity.HIGH)
    quiet(run, T0 + 2 * HOUR_NS)
    rule = Rule(id="bulk", over=10 * MB, window="24h", severity=Severity.HIGH)
    for snapshot, deltas in ((run.detector.snapshot(), ()), (None, tuple(run.deltas))):
        again = Run(Detector(policy(rule), None))
        again.detector.restore(snapshot, deltas)
        quiet(again, T0 + 12 * HOUR_NS, T0 + 2 * HOUR_NS)
        assert kinds(again) == []
        send(again, T0 + 13 * HOUR_NS, MB)
        again.heard(again.detector.refresh())
        assert again.cases[CASE].traffic.content_octets_out == 21 * MB


def test_a_case_that_is_opened_again_goes_on_under_its_id() -> None:
    """With its findings, unless another of its key is open by then; it waits for somebody again."""
    run = begun(Severity.HIGH)
    run.detector.case_acknowledged(CASE)
    closed = run.cases[CASE]
    run.detector.case_closed(CASE)
    run.detector.case_reopened(closed)
    send(run, T0 + HOUR_NS, 100 * MB)
    quiet(run, T0 + 3 * HOUR_NS, T0 + HOUR_NS)
    assert set(run.cases) == {CASE}
    assert run.cases[CASE].revision > closed.revision
    assert NoticeKind.UNACKNOWLEDGED in kinds(run)
    run.detector.case_closed(CASE)
    send(run, T0 + 4 * HOUR_NS, 500 * MB)
    quiet(run, T0 + 5 * HOUR_NS, T0 + 4 * HOUR_NS)
    assert set(run.cases) == {CASE, "2025-1121-02"}
    run.detector.case_reopened(closed)
    send(run, T0 + 30 * DAY_NS, 500 * MB)
    assert run.cases[CASE].traffic.content_octets_out == 120 * MB
