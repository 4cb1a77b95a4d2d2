"""What a run that decides in its own process observed: the same as over Kafka, kept, sent to sinks, and shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import config
from agent.core.clock import HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.errors import SinkError
from agent.core.finding import Event
from agent.core.stages import Collector, Context
from agent.covering import covering as covering_module
from agent.covering import own, receipts
from agent.covering.covering import Covering
from agent.covering.own import OwnCoverage, SinksOfCoverage
from agent.covering.publishing import Publisher
from agent.policy.model import Policy
from agent.runtime import Runtime
from agent.store.coverage import Covered, CoveredHours, Receipt
from agent.store.inputs import Intake
from tests.tools.beats import RUN, Beating, lane
from tests.tools.covering_run import BEGIN, POLICY, Run, policy_of
from tests.tools.fleet import FakeAgent, theft
from tests.tools.living_run import Living
from tests.tools.program import sekisho
from tests.tools.topics import until

S = SECOND_NS
MB = 10**6
AGENT = "db-1"


class _Own(Run):
    """The same detector, whose own account takes the place of heartbeats."""

    def __init__(self, folder: Path, policy: Policy, now_ns: int) -> None:
        super().__init__(folder, policy, now_ns)
        self.covering = Covering(self.state, self.clock, lambda: policy, self.detector, only=AGENT)
        self.decide.covering = self.covering
        self.agent = Beating(AGENT)
        self.told: list[Event] = []
        self.own = OwnCoverage(self.covering, self._said, self._note, self._announce)

    def _said(self) -> Mapping[str, Any]:
        return json.loads(self.agent.raw(0))  # type: ignore[no-any-return]

    def _note(self, covered: Covered) -> None:
        self.decide.note(Intake(covered=covered))

    def _announce(self, event: Event, covered: Covered) -> None:
        self.told.append(event)
        self.decide.announce(event, Intake(covered=covered))

    def turn(self, now_ns: int) -> list[Event]:
        """A look, driven as the run drives it."""
        self.clock.set(max(now_ns, self.clock.now_ns()))
        self.decide.tick(now_ns)
        self.own.turn()
        return []

    def hear(self, agent: Beating, time_ns: int, **more: object) -> None:
        """What the account says from now on."""
        assert not more
        self.agent = agent
        self.turn(time_ns)

    def rows(self, rows: list[dict[str, object]], received_ns: int, sequence: int = 0) -> None:
        """A batch of the store on this host, decided as the pipeline's."""
        message = FakeAgent(AGENT, run=RUN).message(rows, sequence=sequence)
        self.decide.take([message.batch(message.read_header())], received_ns)


@contextmanager
def _run(kind: type[Run], folder: Path, now_ns: int = BEGIN) -> Iterator[Run]:
    folder.mkdir(exist_ok=True)
    run = kind(folder, policy_of(folder), now_ns)
    with run.state:
        yield run


def _told_by(kind: type[Run], folder: Path) -> tuple[list[Receipt], list[CoveredHours]]:
    """An hour and a half of one host: little, then a transfer that passes the rule, frames that were lost, and quiet."""
    agent = Beating(AGENT, started_ns=BEGIN - 3 * HOUR_NS)
    with _run(kind, folder) as run:
        run.rows(theft(BEGIN, MB, 3), BEGIN)
        agent.fields["lanes"] = lane(1)
        run.pass_to([agent], BEGIN, BEGIN + 20 * MINUTE_NS, 20 * S)
        run.rows(theft(BEGIN + 19 * MINUTE_NS, 60 * MB, 3), BEGIN + 20 * MINUTE_NS, 1)
        agent.fields["lanes"] = lane(2)
        run.pass_to([agent], BEGIN + 20 * MINUTE_NS, BEGIN + 40 * MINUTE_NS, 20 * S)
        agent.fields["account"] = {"lost_frames": {"ring": {"frames": 7, "octets": 5000}}}
        run.pass_to([agent], BEGIN + 40 * MINUTE_NS, BEGIN + 90 * MINUTE_NS, 20 * S)
        kept = run.state.coverage
        found = [replace(one, made=0) for one in kept.receipts()]
        return found, [replace(one, made=0) for one in kept.hours()]


def test_receipts_and_hours_are_those_of_the_road_over_kafka(tmp_path: Path) -> None:
    """The same rows and the same account at the same times give the same receipts and the same hours."""
    road, here = _told_by(Run, tmp_path / "road"), _told_by(_Own, tmp_path / "here")
    assert {one.verdict for one in road[0]} >= {"no_finding", "finding"}
    assert any(one.lost == 5000 for one in road[1])
    assert here == road


def test_a_restart_leaves_a_hole_and_silence_of_nobody(tmp_path: Path) -> None:
    """Half an hour without the program is not observed; nobody is told of it, and an end in order loses nothing before it."""
    first = Beating(AGENT, started_ns=BEGIN - 3 * HOUR_NS)
    with _run(_Own, tmp_path) as run:
        assert isinstance(run, _Own)
        run.rows(theft(BEGIN, MB, 3), BEGIN)
        first.fields["lanes"] = lane(1)
        run.pass_to([first], BEGIN, BEGIN + 20 * MINUTE_NS)
        run.own.finish()
    begun = BEGIN + 50 * MINUTE_NS
    with _run(_Own, tmp_path, begun) as run:
        assert isinstance(run, _Own)
        run.pass_to([Beating(AGENT, run="f" * 32, started_ns=begun)], begun, begun + 10 * MINUTE_NS)
        (known,) = run.covering.agents.values()
        assert [(h.reason, h.from_ns, h.to_ns) for h in known.holes] == [
            ("stopped", BEGIN + 20 * MINUTE_NS - 10 * S, begun)
        ]
        assert run.told == []
        said = [(r.verdict, r.reasons) for r in run.state.coverage.receipts("patients", "much")]
        assert said[-1] == ("not_observed", ("stopped",))


def test_hosts_that_others_watch_are_not_missed(tmp_path: Path) -> None:
    """Of the hosts that a policy expects, one process answers for its own only."""
    tmp_path.joinpath("here").mkdir()
    policy = policy_of(tmp_path / "here", "expected_hosts: [{host: db-1}, {host: db-2}, {host: db-3}]\n")
    run = _Own(tmp_path / "here", policy, BEGIN)
    with run.state:
        run.pass_to([Beating(AGENT, started_ns=BEGIN)], BEGIN, BEGIN + 2 * HOUR_NS, 20 * S)
        assert (run.told, {one.host for one in run.state.coverage.hours()}) == ([], {"db-1"})


def test_what_it_found_is_told_once(tmp_path: Path) -> None:
    """Programs that were taken off the kernel are told; an old database is the enrichers' to tell."""
    agent = Beating(AGENT, started_ns=BEGIN - 3 * HOUR_NS)
    with _run(_Own, tmp_path) as run:
        assert isinstance(run, _Own)
        run.pass_to([agent], BEGIN, BEGIN + MINUTE_NS)
        agent.fields["databases"] = {"country": 90}
        agent.fields["account"] = {"unobserved": {"detached": {"seconds": 20.0, "octets_out_at_most": 100}}}
        run.pass_to([agent], BEGIN + MINUTE_NS, BEGIN + 10 * MINUTE_NS)
        assert [event.name for event in run.told] == ["probe_unloaded"]


class _Sink:
    takes_coverage = True

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.full = False

    def write_coverage(self, records: Sequence[Mapping[str, Any]]) -> None:
        if self.full:
            raise SinkError("no space", retriable=True)
        self.records += records


def test_a_sink_that_takes_nothing_now_gets_it_later(tmp_path: Path) -> None:
    """What was refused stays in the state and is sent, each change once."""
    sink = _Sink()
    with _run(_Own, tmp_path) as run:
        assert isinstance(run, _Own)
        run.own.publisher = Publisher(run.state, SinksOfCoverage([sink]))
        sink.full = True
        agent = Beating(AGENT, started_ns=BEGIN - 3 * HOUR_NS)
        run.pass_to([agent], BEGIN, BEGIN + 20 * MINUTE_NS, 20 * S)
        assert sink.records == [] and run.state.coverage.unsent(100)
        sink.full = False
        run.pass_to([agent], BEGIN + 20 * MINUTE_NS, BEGIN + 21 * MINUTE_NS)
        made = [one.made for one in run.state.coverage.receipts()]
        assert {r["made"] for r in sink.records} >= set(made) and run.state.coverage.unsent(100) == []
        assert len({(r["id"], r["made"]) for r in sink.records}) == len(sink.records)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of seconds instead of minutes."""
    for module, name, value in (
        (covering_module, "LOOK_NS", S // 10),
        (covering_module, "FLUSH_NS", S // 10),
        (covering_module, "REST_NS", S // 10),
        (own, "BEAT_NS", S // 2),
        (own, "SEND_NS", S // 2),
        (receipts, "STEP_NS", S),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("hurried")
def test_a_whole_run_keeps_receipts_writes_them_and_status_shows_them(tmp_path: Path) -> None:
    """State, JSON lines and `sekisho status` in both languages have what was observed of this host's store."""
    (tmp_path / "policy.yaml").write_text(POLICY.replace("window: 1h", "window: 5m"))
    settings = {
        "state_dir": str(tmp_path / "state"),
        "host": AGENT,
        "lateness": "5s",
        "enrichers": {},
        "policy": [str(tmp_path / "policy.yaml")],
        "archive": False,
        "sinks": {"jsonl": {"file": str(tmp_path / "alerts.jsonl"), "flows": False}},
    }
    (tmp_path / "sekisho.yaml").write_text(yaml.safe_dump(settings))
    loaded = config.load(tmp_path / "sekisho.yaml", environ={})

    def build(context: Context) -> Mapping[str, Collector]:
        return {"ebpf": Living(context.accounts)}

    def written() -> list[dict[str, Any]]:
        path = tmp_path / "alerts.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in map(json.loads, lines) if line["record"] == "coverage"]

    with Runtime(loaded, build_collectors=build) as run:
        run._started_ns -= HOUR_NS
        thread = threading.Thread(target=run.go)
        thread.start()
        try:
            until(
                lambda: any(r["verdict"] == "no_finding" for r in written() if r["kind"] == "receipt"),
                "a receipt is written",
            )
        finally:
            run.stop.set()
            thread.join(60)
        kept = run.state.coverage.receipts("patients", "much")[-1]
        account = run.accounts.read()
        (taken,) = run.state.coverage.taken().values()
        assert (taken, account.residue.octets_out) == (account.decided, 0)
    assert (kept.verdict, kept.threshold) == ("no_finding", 100 * MB)
    shown = sekisho("status", home=tmp_path)
    assert shown.code == 0, shown.text
    assert "no finding" in shown.out and "much" in shown.out and "last 24 h" in shown.out
    assert "検知なし" in sekisho("--set", "language=ja", "status", home=tmp_path).out
    table = json.loads(sekisho("status", "--json", home=tmp_path).out)
    (one,) = [r for r in table["receipts"] if r["rule"] == "much"]
    assert (one["kind"], one["store"], one["verdict"]) == ("receipt", "patients", "no_finding")
    assert (table["source"], table["hosts"][0]["host"], len(table["hosts"][0]["hours"])) == (
        "alone",
        AGENT,
        24,
    )


def test_a_replay_and_a_read_file_keep_no_coverage_of_now(tmp_path: Path) -> None:
    """Time is the data's there: nothing is said of the hours in which it was read."""
    settings = tmp_path / "sekisho.yaml"
    settings.write_text(
        yaml.safe_dump({"state_dir": str(tmp_path / "state"), "enrichers": {}, "archive": False})
    )
    loaded = config.load(settings, environ={})
    for live, replay in ((False, False), (True, True)):

        def build(context: Context, live: bool = live) -> Mapping[str, Collector]:
            collector = Living(context.accounts)
            collector.live = live
            return {"ebpf": collector}

        with Runtime(loaded, build_collectors=build, replay=replay) as run:
            assert run._own is None
