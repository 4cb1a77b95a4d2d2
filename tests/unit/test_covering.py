"""Coverage as the detector keeps it: events by cause, hours, receipts, and all of it again after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.clock import HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.errors import StateError
from agent.core.finding import Severity
from agent.covering.publishing import Publisher, record_of
from agent.policy.model import Policy
from agent.store.coverage import Coverage, CoveredHours, Receipt
from tests.tools.beats import Beating, lane
from tests.tools.covering_run import BEGIN, Run, policy_of
from tests.tools.fleet import theft

S = SECOND_NS
MB = 10**6


@contextmanager
def _run(folder: Path, policy: Policy, now_ns: int) -> Iterator[Run]:
    run = Run(folder, policy, now_ns)
    with run.state:
        yield run


def test_five_thousand_agents_that_fall_silent_are_told_once(tmp_path: Path) -> None:
    """One event with the number and the likely cause, none again while it lasts, and one when all are back."""
    agents = [Beating(f"agent-{n}", f"host-{n}", started_ns=BEGIN) for n in range(5000)]
    with _run(tmp_path, policy_of(tmp_path), BEGIN) as run:
        for agent in agents:
            run.hear(agent, BEGIN + 10 * S)
        assert run.turn(BEGIN + 12 * S) == []
        for minute in range(1, 60):
            run.turn(BEGIN + minute * MINUTE_NS)
            run.turn(BEGIN + minute * MINUTE_NS + 20 * S)
        assert [(e.name, e.severity, e.detail["hosts"], e.detail["likely_cause"]) for e in run.events] == [
            ("agents_silent", Severity.MEDIUM, 5000, "kafka_or_network")
        ]
        run.events.clear()
        for agent in agents:
            run.hear(agent, BEGIN + HOUR_NS)
        run.turn(BEGIN + HOUR_NS + 2 * S)
        run.turn(BEGIN + HOUR_NS + 4 * S)
        assert [(e.name, e.detail["hosts"]) for e in run.events] == [("agents_returned", 5000)]


def test_silence_while_kafka_is_away_says_nothing(tmp_path: Path) -> None:
    """The detector that could not read itself waits until agents had time to be heard again."""
    agents = [Beating(f"agent-{n}", f"host-{n}", started_ns=BEGIN) for n in range(10)]
    with _run(tmp_path, policy_of(tmp_path), BEGIN) as run:
        run.pass_to(agents, BEGIN, BEGIN + 60 * S)
        run.clock.set(BEGIN + 600 * S)
        run.covering.interrupted()
        for second in range(600, 680, 5):
            run.turn(BEGIN + second * S)
        assert run.events == []
        for agent in agents[:9]:
            run.hear(agent, BEGIN + 685 * S)
        for second in range(686, 740, 5):
            run.turn(BEGIN + second * S)
        assert [(e.name, e.detail["hosts"], e.detail["first_hosts"]) for e in run.events] == [
            ("agents_silent", 1, "host-9")
        ]


def test_a_restart_tells_nothing_again(tmp_path: Path) -> None:
    """Who was told of is kept, with the rest of each agent's state."""
    policy = policy_of(tmp_path)
    with _run(tmp_path, policy, BEGIN) as run:
        run.hear(Beating("db-1", started_ns=BEGIN), BEGIN)
        for second in range(2, 200, 5):
            run.turn(BEGIN + second * S)
        assert [(e.name, e.severity, e.detail["stores"]) for e in run.events] == [
            ("agents_silent", Severity.HIGH, "patients")
        ]
    with _run(tmp_path, policy, BEGIN + 300 * S) as run:
        for second in range(300, 2000, 50):
            run.turn(BEGIN + second * S)
        assert run.events == []
        assert run.covering.agents["db-1"].state == "silent"


def test_hosts_that_are_expected_and_never_heard_are_told(tmp_path: Path) -> None:
    """All of them in one event; one that has no agent for a stated reason is not."""
    more = "expected_hosts:\n  - {host: web-1}\n  - {host: web-2}\n  - {host: db-1.example.net}\n"
    more += "  - {host: nas-1, no_agent: appliance}\n"
    with _run(tmp_path, policy_of(tmp_path, more), BEGIN) as run:
        run.pass_to([Beating("db-1", started_ns=BEGIN)], BEGIN, BEGIN + 300 * S)
        assert [(e.name, e.detail["hosts"], e.detail["first_hosts"]) for e in run.events] == [
            ("hosts_never_heard", 2, "web-1, web-2")
        ]
        run.pass_to(
            [Beating("db-1", started_ns=BEGIN), Beating("w", "web-1"), Beating("x", "web-2")],
            BEGIN + 300 * S,
            BEGIN + 340 * S,
        )
        assert "never web-1" not in run.covering.agents


def test_maintenance_pages_nobody_and_is_named_in_the_hours(tmp_path: Path) -> None:
    """A host that falls silent while people work on it is no event, and its hours say so."""
    with _run(tmp_path, policy_of(tmp_path), BEGIN) as run:
        run.state.coverage.begin_maintenance("web-1", BEGIN, BEGIN + 2 * HOUR_NS, "new disks", "ann", "")
        run.hear(Beating("w", "web-1", started_ns=BEGIN), BEGIN)
        for minute in range(1, 66):
            run.turn(BEGIN + minute * MINUTE_NS)
        assert run.events == []
        assert [(h.covered_s, h.lost, h.reasons) for h in run.state.coverage.hours("web-1")] == [
            (0, -1, ("maintenance", "silent"))
        ]


def test_hours_are_kept_as_runs_and_said_anew_when_a_hole_closes(tmp_path: Path) -> None:
    """An hour of silence is not covered until the backlog has come; then it is one run with the hours before it."""
    agent = Beating("db-1", started_ns=BEGIN - HOUR_NS)
    with _run(tmp_path, policy_of(tmp_path), BEGIN) as run:
        run.pass_to([agent], BEGIN - 60 * S, BEGIN + HOUR_NS + 10 * S)
        for minute in range(1, 130):
            run.turn(BEGIN + HOUR_NS + minute * MINUTE_NS)
        before = [(h.from_hour, h.to_hour, h.covered_s, h.lost) for h in run.state.coverage.hours("db-1")]
        first = BEGIN // HOUR_NS
        assert before == [(first - 1, first, 3600, 0), (first + 1, first + 2, 0, -1)]
        run.hear(agent, BEGIN + 3 * HOUR_NS + 11 * MINUTE_NS)
        run.turn(BEGIN + 3 * HOUR_NS + 11 * MINUTE_NS + 10 * S)
        run.turn(BEGIN + 3 * HOUR_NS + 12 * MINUTE_NS)
        after = [(h.from_hour, h.to_hour, h.covered_s, h.lost) for h in run.state.coverage.hours("db-1")]
        assert after == [(first - 1, first + 2, 3600, 0)]


def _said(run: Run) -> list[tuple[str, int, int, tuple[str, ...]]]:
    """Verdict, first and last minute of the end of a window, reasons."""
    return [
        (r.verdict, (r.first_ns - BEGIN) // MINUTE_NS, (r.last_ns - BEGIN) // MINUTE_NS, r.reasons)
        for r in run.state.coverage.receipts("patients", "much")
    ]


def test_receipts_say_what_was_seen_and_what_was_not(tmp_path: Path) -> None:
    """No finding while all is seen; not observed from where the agent is silent; no finding again once the backlog has come."""
    agent = Beating("db-1", started_ns=BEGIN - 3 * HOUR_NS)
    with _run(tmp_path, policy_of(tmp_path), BEGIN) as run:
        run.rows(theft(BEGIN, MB, 3), BEGIN)
        agent.fields["lanes"] = lane(1)
        run.pass_to([agent], BEGIN, BEGIN + 20 * MINUTE_NS + S)
        assert [(v, why) for v, _, _, why in _said(run)] == [("no_finding", ())]
        for second in range(0, 1800, 20):
            run.turn(BEGIN + 20 * MINUTE_NS + second * S)
        silent = _said(run)
        assert [(v, why) for v, _, _, why in silent] == [
            ("no_finding", ()),
            ("not_observed", ("silent",)),
        ]
        assert silent[0][2] == 20
        agent.fields["lanes"] = lane(2)
        run.rows(theft(BEGIN + 30 * MINUTE_NS, MB, 2), BEGIN + 51 * MINUTE_NS, 1)
        run.pass_to([agent], BEGIN + 51 * MINUTE_NS, BEGIN + 54 * MINUTE_NS)
        assert [(v, why) for v, _, _, why in _said(run)] == [("no_finding", ())]
        assert _said(run)[0][2] >= 45


def test_a_finding_and_its_receipt(tmp_path: Path) -> None:
    """While a finding is open its windows say so; the sum is the largest of a destination."""
    agent = Beating("db-1", started_ns=BEGIN - 3 * HOUR_NS)
    agent.fields["lanes"] = lane(1)
    with _run(tmp_path, policy_of(tmp_path), BEGIN) as run:
        run.rows(theft(BEGIN, 60 * MB, 3), BEGIN)
        run.pass_to([agent], BEGIN, BEGIN + 20 * MINUTE_NS)
        before, found = run.state.coverage.receipts("patients", "much")
        assert (before.verdict, before.last_ns) == ("no_finding", BEGIN)
        assert (found.verdict, found.amount, found.threshold, found.lost) == (
            "finding",
            180 * MB,
            100 * MB,
            0,
        )


def test_a_store_without_an_agent_is_not_observed(tmp_path: Path) -> None:
    """Its host is named by the register and was never heard."""
    with _run(tmp_path, policy_of(tmp_path), BEGIN) as run:
        for second in range(0, 900, 20):
            run.turn(BEGIN + second * S)
        assert {(v, why) for v, _, _, why in _said(run)} == {("not_observed", ("never_heard",))}


class _Topic:
    def __init__(self) -> None:
        self.records: list[dict[str, object]] = []

    def send(self, records: list[dict[str, object]]) -> None:
        self.records += records

    def close(self) -> None:
        pass


def test_what_is_committed_is_sent_once_and_again_when_it_changes(tmp_path: Path) -> None:
    """A row that was sent rests until it changes; one changed while it was sent is sent again."""
    agent = Beating("db-1", started_ns=BEGIN - 3 * HOUR_NS)
    with _run(tmp_path, policy_of(tmp_path), BEGIN) as run:
        topic = _Topic()
        publisher = Publisher(run.state, topic)  # type: ignore[arg-type]
        run.pass_to([agent], BEGIN, BEGIN + 12 * MINUTE_NS)
        assert publisher.step() == 3  # of three rules
        assert publisher.step() == 0
        run.pass_to([agent], BEGIN + 12 * MINUTE_NS, BEGIN + 24 * MINUTE_NS)
        assert publisher.step() == 3
        first, second = (r for r in topic.records if r["rule"] == "much")
        assert (first["kind"], first["id"], first["verdict"]) == (
            "receipt",
            f"patients/much/{first['first_ns']}",
            "no_finding",
        )
        assert first["id"] == second["id"] and int(str(second["made"])) > int(str(first["made"]))


def test_a_kill_between_sending_and_marking_sends_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost and nothing is another record: id and number are the same."""
    with _run(tmp_path, policy_of(tmp_path), BEGIN) as run:
        run.pass_to([Beating("db-1", started_ns=BEGIN)], BEGIN, BEGIN + 12 * MINUTE_NS)
        topic = _Topic()
        publisher = Publisher(run.state, topic)  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            patch.setattr(Coverage, "sent", _killed)
            with pytest.raises(StateError):
                publisher.step()
        assert publisher.step() == 3
        assert topic.records[:3] == topic.records[3:]


def _killed(_kept: Coverage, _rows: object) -> None:
    raise StateError("killed")


@pytest.mark.parametrize(("lost", "told"), [(-1, None), (5, 5)])
def test_a_record_tells_unbounded_loss_as_null(lost: int, told: int | None) -> None:
    """JSON has no -1 for what nobody knows."""
    hours = record_of(CoveredHours("db-1", 10, 11, 3000, lost, ("gap",), 4))
    assert (hours["lost"], hours["from_ns"], hours["to_ns"], hours["id"]) == (
        told,
        10 * HOUR_NS,
        12 * HOUR_NS,
        "db-1/10",
    )
    receipt = record_of(Receipt("t", "s", "p", "r", "1h", 1, 2, "not_observed", 0, lost, 0, 9))
    assert receipt["lost"] == told
