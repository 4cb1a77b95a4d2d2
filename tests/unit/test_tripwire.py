"""The tripwire: told in time and once, only while Kafka is away, and by the id that the detector gives the same facts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.accounts import Accounts
from agent.core.clock import HOUR_NS, MINUTE_NS, SECOND_NS, DataClock
from agent.core.errors import SinkError
from agent.core.finding import Case, HostTold, Notice, NoticeKind, Severity, finding_id
from agent.core.flow import FlowBatch
from agent.core.message import Alerted, Header, Message, seal
from agent.deciding import LocalDecide
from agent.detection.detector import Detector
from agent.policy.model import Rule
from agent.sending.tripwire import MOST_RULES, LocalDetector, Tripwire, local_rules
from agent.store.state import State
from agent.words import render
from sinks.kafka import Done
from tests.tools.fleet import FakeAgent
from tests.tools.recount import Sent
from tests.tools.sender import sender
from tests.tools.transfers import MB, T0, Run, policy, sent

RULE = Rule(id="bulk", over=100 * MB, window="1h")
POLICY = policy(RULE)
AFTER_NS = 5 * MINUTE_NS


def batch(begin_ns: int, octets: int, rows: int = 1, asn: int = 64500, lane: int = 1) -> FlowBatch:
    """Sealed rows of the store, a second apart."""
    made = [
        Sent("ehr", asn, begin_ns + n * SECOND_NS, begin_ns + (n + 1) * SECOND_NS, octets)
        for n in range(rows)
    ]
    return sent(made).with_header(lane=lane)


@dataclass
class Host:
    """A host with its tripwire, whose time passes by the second."""

    folder: Path
    clock: DataClock = field(default_factory=lambda: DataClock(T0))
    acknowledged: int = 0
    waits: bool = False
    heard: list[Notice] = field(default_factory=list)
    takes: bool = True
    rules: Any = POLICY

    def __post_init__(self) -> None:
        self.wire = Tripwire(
            LocalDetector(self.rules, None, host="db-1"), self.clock, AFTER_NS, "db-1", self.folder
        )

    def send(self, *batches: FlowBatch, away: bool) -> None:
        """Batches are sealed; Kafka takes them, or they wait."""
        self.wire.see(batches)
        self.waits = self.waits or away
        self.acknowledged += 0 if away else len(batches)

    def back(self) -> None:
        """Kafka takes what waited."""
        self.acknowledged += 1
        self.waits = False

    def tell(self, notice: Notice) -> bool:
        """A sink's outbox, which may not be written."""
        if self.takes:
            self.heard.append(notice)
        return self.takes

    def run(self, seconds: int) -> None:
        """Let time pass."""
        for _ in range(seconds):
            self.clock.set(self.clock.now_ns() + SECOND_NS)
            self.wire.turn(self.clock.now_ns(), self.acknowledged, not self.waits, tell=self.tell)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host of a store."""
    return Host(tmp_path)


def case_of(notice: Notice) -> Case:
    """The case of a notice."""
    assert notice.case is not None
    return notice.case


def test_a_bulk_transfer_while_kafka_is_away_is_told_within_the_set_time(host: Host) -> None:
    """Nobody is told before Kafka has been away for so long; then once, and never again for the same."""
    host.send(batch(T0, 30 * MB, 5), away=True)
    host.run(290)
    assert host.heard == []
    host.run(20)
    (notice,) = host.heard
    case = case_of(notice)
    assert (notice.kind, case.local_view, case.store.id, case.destination.entity) == (
        NoticeKind.OPENED, True, "ehr", "as:64500",
    )  # fmt: skip
    assert case.id == f"local-{case.findings[0].id[:16]}"
    assert case.traffic.content_octets_out == 150 * MB
    host.send(batch(host.clock.now_ns(), 30 * MB, 5), away=True)
    host.run(600)
    assert len(host.heard) == 1


def test_what_begins_later_in_an_outage_is_told_at_once(host: Host) -> None:
    """Kafka has been away for long when the transfer crosses: seconds, not minutes."""
    host.send(batch(T0, 1000), away=True)
    host.run(1000)
    assert host.heard == []
    host.send(batch(host.clock.now_ns() - SECOND_NS, 200 * MB), away=True)
    host.run(10)
    assert len(host.heard) == 1


def test_while_kafka_takes_rows_nobody_is_told_by_the_host(host: Host) -> None:
    """Also not of what the detector had long before Kafka went away."""
    host.send(batch(T0, 30 * MB, 5), away=False)
    host.run(600)
    host.send(batch(host.clock.now_ns(), 1000), away=True)
    host.run(1200)
    assert host.heard == []


def test_a_short_outage_is_told_by_nobody(host: Host) -> None:
    """Kafka took what waited before the time was over: the detector tells."""
    host.send(batch(T0, 30 * MB, 5), away=True)
    host.run(280)
    host.back()
    host.run(1200)
    assert host.heard == []


def test_an_idle_host_counts_no_outage(host: Host) -> None:
    """Where nothing waits, nothing is away: the time begins with the first row that Kafka does not take."""
    host.run(3600)
    host.send(batch(host.clock.now_ns(), 200 * MB), away=True)
    host.run(250)
    assert host.heard == []
    host.run(60)
    assert len(host.heard) == 1


def test_two_receivers_are_two_alerts_and_two_rules_one(tmp_path: Path) -> None:
    """One for each case, as the detector does, whatever number of rules found it."""
    host = Host(tmp_path, rules=policy(RULE, Rule(id="more", over=50 * MB, window="24h")))
    host.send(batch(T0, 200 * MB, asn=64500), batch(T0, 200 * MB, asn=64501), away=True)
    host.run(400)
    entities = sorted(case_of(n).destination.entity for n in host.heard)
    assert entities == ["as:64500", "as:64501"]
    assert {len(case_of(n).findings) for n in host.heard} == {2}


def test_a_case_that_was_told_is_told_again_only_where_it_grows_more_severe(tmp_path: Path) -> None:
    """Another rule of the same severity joins in silence, a higher one is told as a rise."""
    rules = policy(
        RULE, Rule(id="more", over=300 * MB, window="1h"), Rule(id="most", over=900 * MB, severity="high")
    )
    host = Host(tmp_path, rules=rules)
    for size in (200, 200, 200, 500):
        host.send(batch(host.clock.now_ns(), size * MB), away=True)
        host.run(400)
    told = [(n.kind, n.severity, len(case_of(n).findings)) for n in host.heard]
    assert told == [(NoticeKind.OPENED, Severity.MEDIUM, 1), (NoticeKind.SEVERITY, Severity.HIGH, 3)]
    assert len({case_of(n).id for n in host.heard}) == 1
    assert len(host.wire.alerted) == 3


def test_a_restart_tells_nobody_twice_and_goes_on_naming_it(host: Host, tmp_path: Path) -> None:
    """What was told stands in a file and in the header of each further batch; a damaged file is no fault."""
    host.send(batch(T0, 200 * MB), away=True)
    host.run(400)
    told = host.wire.alerted
    assert [one.id for one in told] == [case_of(host.heard[0]).findings[0].id]
    again = Host(tmp_path, clock=host.clock)
    again.send(batch(T0, 200 * MB), away=True)
    again.run(400)
    assert (again.heard, again.wire.alerted) == ([], told)
    (tmp_path / "tripwire.json").write_text("{")
    assert Host(tmp_path).wire.alerted == ()


def test_what_was_told_is_named_for_a_day_and_as_long_as_kafka_is_away(host: Host) -> None:
    """Then headers are as small as before; never while the detector may not have had word of it."""
    host.send(batch(T0, 200 * MB), away=True)
    host.run(400)
    host.clock.set(T0 + 25 * HOUR_NS)
    host.run(1)
    assert len(host.wire.alerted) == 1
    host.back()
    host.run(1)
    assert host.wire.alerted == ()


def test_an_alert_that_cannot_be_kept_is_tried_again(host: Host) -> None:
    """A full disk delays it and loses nothing."""
    host.takes = False
    host.send(batch(T0, 200 * MB), away=True)
    host.run(400)
    assert (host.heard, host.wire.alerted) == ([], ())
    host.takes = True
    host.run(2)
    assert len(host.heard) == 1


def test_rows_of_no_store_are_not_looked_at(host: Host) -> None:
    """The lane of the other rows costs nothing here."""
    host.wire.see([batch(T0, 200 * MB, lane=0)])
    assert host.wire._queued == []


def test_the_words_say_that_it_is_one_hosts_view(host: Host) -> None:
    """In the title, in the text and in the last line, in both languages; minimal still names nobody."""
    host.send(batch(T0, 200 * MB), away=True)
    host.run(400)
    (notice,) = host.heard
    english, japanese = (render(notice, language=lang, zone=None, detail="full") for lang in ("en", "ja"))
    assert "(this host's view alone)" in english.splitlines()[0]
    assert "LOCAL VIEW: told by this host from its own rows alone" in english
    assert f"finding {case_of(notice).findings[0].id}" in english.splitlines()[-1]
    assert "このホストだけの見え方" in japanese.splitlines()[0]
    minimal = render(notice, language="en", zone=None, detail="minimal")
    assert "db-1" not in minimal
    assert "ehr" not in minimal


def test_local_rules_are_few_and_short() -> None:
    """Rules over a month, or of stores that this host does not have, are the detector's alone."""
    rules = [Rule(id=f"r{n}", over=1, window="5m") for n in range(MOST_RULES + 5)]
    month = Rule(id="month", over=1, window="30d")
    other = Rule(id="other", over=1, stores=("elsewhere",))
    found = local_rules(policy(month, other, *rules))
    assert [rule.id for _, rule in found.rules] == [f"r{n}" for n in range(MOST_RULES)]
    detector = LocalDetector(POLICY, None)
    detector.set_policy(policy(month, RULE), None)
    assert [rule.id for _, rule in detector.policy.rules] == ["bulk"]


# in the agent


class Away:
    """Kafka that does not answer."""

    longest_s = 60.0

    def connect(self) -> None:
        """Never."""
        raise SinkError("no broker answers", retriable=True)

    def send(self, message: Message, agent_id: str, done: Done) -> None:
        """Never reached."""
        raise AssertionError

    def tell(self, agent_id: str, signature: bytes, heartbeat: bytes, done: Done) -> None:
        """Never reached."""
        raise AssertionError

    def disconnect(self) -> None:
        """Nothing to do."""


def test_an_agent_that_starts_anew_in_an_outage_looks_at_what_waits(tmp_path: Path) -> None:
    """Killed before it told: the next run finds the rows in the spool, tells, and names it in its next header."""
    with sender(tmp_path, carrier=Away()) as before:
        before.put(sent([Sent("ehr", 64500, T0, T0 + SECOND_NS, 200 * MB)]), lane=1)
    clock = DataClock(T0 + MINUTE_NS)
    wire = Tripwire(LocalDetector(POLICY, None, host="db-1"), clock, AFTER_NS, "db-1", tmp_path / "spool")
    with sender(tmp_path, carrier=Away(), run=1, tripwire=wire) as after:
        heard: list[Notice] = []
        after.send.committed = lambda decision: heard.extend(decision.notices)
        for _ in range(310):
            clock.set(clock.now_ns() + SECOND_NS)
            after.send.tick(clock.now_ns())
        assert [case_of(n).store.id for n in heard] == ["ehr"]
        (waiting,) = after.send.state.deliveries.heads("paper")
        assert after.send.state.deliveries.notice(waiting) == heard[0]
        after.put(sent([Sent("ehr", 64500, T0, T0 + SECOND_NS, 1)]), lane=1)
        after.send.spool.rewind()
        headers = [Message.unpack(r.body).read_header() for r in after.send.spool.take(1, 2**20)]
        assert [len(h.alerted) for h in headers] == [0, 1]


# what the detector makes of it


def decided(
    batches: Sequence[FlowBatch], alerted: Sequence[Alerted], *, first: Sequence[FlowBatch] = (), at: int = 0
) -> Run:
    """A detector that hears what the host told, then ``first``, then the backlog."""
    made = Run(Detector(POLICY, None))
    for one in alerted:
        key = (one.tenant, one.rule, one.store, one.entity)
        made.detector.host_told(
            key, HostTold(host="db-1", id=one.id, time_ns=one.told_ns), one.first_bucket_ns
        )
    for each in (*first, *batches):
        made.heard(made.detector.take(each, max(at, int(each["end_ns"].max()))))
    made.heard(made.detector.tick((at or int(batches[-1]["end_ns"].max())) + 10 * MINUTE_NS))
    return made


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=4, max_size=40), st.integers(1, 7))
def test_the_detector_gives_the_same_facts_the_same_id(sizes: list[int], at_once: int) -> None:
    """Whatever the rows and however they lay in batches, both sides name the finding alike."""
    rows = [
        Sent("ehr", 64500, T0 + n * 20 * SECOND_NS, T0 + (n * 20 + 1) * SECOND_NS, size * MB)
        for n, size in enumerate(sizes)
    ]
    local = Run(LocalDetector(POLICY, None))
    for n in range(0, len(rows), at_once):
        local.take(rows[n : n + at_once])
    there = Run(Detector(POLICY, None))
    for row in rows:
        there.take([row])
    assert sorted(local.findings) == sorted(there.findings)
    for one in local.findings.values():
        group = (one.store, one.entity)
        assert one.id == finding_id(one.tenant, one.rule, group, one.first_bucket_ns)


def test_a_backlog_behind_newer_rows_goes_by_the_id_that_the_host_told(host: Host) -> None:
    """Rows that come late open their episode at a later bucket; one case, one finding, by the host's id, which says so."""
    theft = batch(T0, 200 * MB)
    host.send(theft, away=True)
    host.run(400)
    newer = batch(T0 + 20 * MINUTE_NS, 1000)
    at = T0 + 20 * MINUTE_NS + 2 * SECOND_NS
    alone = decided([theft], (), first=[newer], at=at)
    both = decided([theft], host.wire.alerted, first=[newer], at=at)
    (bare,), (found,) = alone.findings.values(), both.findings.values()
    assert bare.id != host.wire.alerted[0].id  # else this test shows nothing
    assert found.id == host.wire.alerted[0].id
    assert [one.host for one in found.told_before] == ["db-1"]
    assert (len(both.cases), len(alone.cases)) == (1, 1)
    opened = [n for n in both.notices if n.kind is NoticeKind.OPENED]
    assert len(opened) == 1
    assert "db-1 told this by itself at" in render(opened[0], language="en", zone=None, detail="full")


def test_what_hosts_told_survives_a_restart_of_the_detector(host: Host) -> None:
    """By delta and by snapshot alike; told twice it changes nothing."""
    host.send(batch(T0, 200 * MB), away=True)
    host.run(400)
    made = decided([batch(T0, 1000)], host.wire.alerted)
    one = host.wire.alerted[0]
    made.detector.host_told(
        (one.tenant, one.rule, one.store, one.entity), HostTold(host="db-1", id=one.id, time_ns=1), 0
    )
    by_delta, by_snapshot = Run(Detector(POLICY, None)), Run(Detector(POLICY, None))
    by_delta.detector.restore(None, made.deltas)
    by_snapshot.detector.restore(made.detector.snapshot(), ())
    assert by_delta.detector._host_told == by_snapshot.detector._host_told == made.detector._host_told
    assert len(made.detector._host_told) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=4, max_size=20), st.randoms(use_true_random=False))
def test_in_whatever_order_the_backlog_comes_there_is_one_finding_by_that_id(
    sizes: list[int], order: random.Random
) -> None:
    """New rows first, the backlog shuffled: what the host told is found once, under the id that it told."""
    backlog = [batch(T0 + n * 20 * SECOND_NS, size * MB) for n, size in enumerate(sizes)]
    local = Run(LocalDetector(POLICY, None))
    for each in backlog:
        local.heard(local.detector.take(each, int(each["end_ns"].max())))
    alerted = [
        Alerted(
            id=f.id, tenant=f.tenant, rule=f.rule, store=f.store, entity=f.entity,
            first_bucket_ns=f.first_bucket_ns, told_ns=T0,
        )
        for f in local.findings.values()
    ]  # fmt: skip
    order.shuffle(backlog)
    at = T0 + 20 * MINUTE_NS
    # To somebody else: its octets would pass a threshold that the backlog alone just meets.
    newer = batch(at, 1000, asn=64501)
    found = decided(backlog, alerted, first=[newer], at=at + 2 * SECOND_NS).findings
    assert set(found) == {one.id for one in alerted}


def test_what_names_itself_wrongly_is_not_heard(host: Host, tmp_path: Path) -> None:
    """An id that is not that of its own words is left out and counted; the rest of the header counts."""
    host.send(batch(T0, 200 * MB), away=True)
    host.run(400)
    agent = FakeAgent("db-1")
    right = host.wire.alerted[0]
    wrong = right.model_copy(update={"store": "elsewhere"})
    sealed = agent.message([{}], alerted=(right, wrong))
    with State.open(tmp_path / "state.db", clock=host.clock) as state:
        decide = LocalDecide(Detector(POLICY, None), state, Accounts(), host.clock, "detector")
        assert decide.hear_hosts(sealed.read_header()) == 1
        assert list(decide.detector._host_told) == [("default", "bulk", "ehr", "as:64500")]


def test_another_episode_days_later_has_an_id_of_its_own(host: Host) -> None:
    """What the host told names one episode, not every later one of the same key."""
    host.send(batch(T0, 200 * MB), away=True)
    host.run(400)
    week = T0 + 7 * 24 * HOUR_NS
    found = decided([batch(T0, 200 * MB), batch(week, 200 * MB)], host.wire.alerted).findings
    assert len(found) == 2
    assert [len(f.told_before) for f in sorted(found.values(), key=lambda f: f.first_bucket_ns)] == [1, 0]


def test_what_was_told_rides_in_the_header(host: Host) -> None:
    """Signed with the rest; a header without it is as it always was."""
    host.send(batch(T0, 200 * MB), away=True)
    host.run(400)
    agent = FakeAgent("db-1")
    rows = agent.batch([{}]).with_header(agent_id="db-1", run_id=agent.run, lane=1, sequence=0)
    bare = seal(rows, agent.key.sign, low_water=0)
    assert b"alerted" not in bare.header
    told = seal(rows, agent.key.sign, low_water=0, alerted=host.wire.alerted)
    assert told.read_header().alerted == host.wire.alerted
    assert Header.model_validate_json(bare.header).alerted == ()
