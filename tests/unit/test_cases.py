"""Cases: what people are told of a transfer, how often, and what is said in it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date

import pytest

from agent.core.clock import DAY_NS, HOUR_NS, SECOND_NS
from agent.core.finding import CaseState, NoticeKind, OwnerFact, Severity, Share, TrafficState
from agent.core.flow import Mark
from agent.detection.detector import Detector
from agent.policy.model import DestinationSet, Override, Rule, RuleTest
from agent.words import render
from tests.tools.recount import Sent
from tests.tools.transfers import GB, MB, T0, Run, policy, run, sent, store

SET = DestinationSet(id="restricted", owners=("example-holdings",), owner_countries=("RU",))
OWNED = {"remote_owner": "example-holdings", "remote_provider": "example-cloud", "remote_owner_country": "RU"}


class Table:
    """An ownership table that says the same of every network."""

    version = "ownership example"

    def __init__(self, **fact):
        self._fact = OwnerFact(
            **{
                "provider": "example-cloud",
                "owner": "Example Holdings",
                "owner_id": "example-holdings",
                "owner_country": "RU",
                "mark": "V",
            }
            | fact
        )
        self.asked = 0

    def asn(self, number):
        """It has no rows."""

    def provider(self, provider_id):
        """It has no rows."""

    def fact(self, *, asn, as_org, provider=None, owner=None, today: date, override=None):
        """The one fact."""
        self.asked += 1
        return self._fact


def transfer(total: int, seconds: int, start_s: int = 0, each_s: int = 5) -> list[Sent]:
    """A steady transfer of so many octets over so many seconds."""
    times = range(start_s, start_s + seconds, each_s)
    return [
        Sent("ehr", 64500, T0 + (t - each_s + 1) * SECOND_NS, T0 + t * SECOND_NS, total // len(times))
        for t in times
    ]


def every_rule() -> list[Rule | tuple[str, Rule]]:
    """Rules of three packs, all windows, all severities."""
    rules: list[Rule | tuple[str, Rule]] = []
    severities = [Severity.LOW, Severity.MEDIUM, Severity.HIGH, Severity.CRITICAL]
    for number, pack in enumerate(("operator", "first", "second")):
        for step, window in enumerate(("5m", "1h", "24h", "30d")):
            over = 150 * MB * 3 ** (step + number)
            severity = severities[min(step + number, 3)]
            aim = ("restricted",) if step % 2 else ()
            rules.append(
                (
                    pack,
                    Rule(
                        id=f"{pack}-{window}", over=over, window=window, severity=severity, destinations=aim
                    ),
                )
            )
    return rules


@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_forty_gigabytes_that_trip_every_rule_are_one_case_and_at_most_four_notices(size):
    """However many rules, windows and packs, and whatever the batch size."""
    rows = transfer(40 * GB, 3600)
    quiet = Sent("ehr", 64501, T0 + 40 * DAY_NS, T0 + 40 * DAY_NS, 1)
    detector = Detector(policy(*every_rule(), destinations=[SET]), Table(), replay=True)
    made = Run(detector)
    for i in range(0, len(rows), size):
        made.take(rows[i : i + size], **OWNED)
    made.take([quiet, Sent("ehr", 64501, T0 + 71 * DAY_NS, T0 + 71 * DAY_NS, 1)], remote_owner=None)
    assert len(made.cases) == 1
    (case,) = made.cases.values()
    tripped = {f.rule for f in case.findings}
    assert tripped == {rule.id for _, rule in detector.policy.rules}
    kinds = [n.kind for n in made.notices]
    assert kinds[0] is NoticeKind.OPENED
    assert kinds[-1] is NoticeKind.CLOSED
    assert len(kinds) <= 4
    assert (case.state, case.traffic_state, case.severity) == (
        CaseState.OPEN,
        TrafficState.STOPPED,
        Severity.CRITICAL,
    )
    told = [n.case.severity for n in made.notices if n.case and n.kind is not NoticeKind.CLOSED]
    assert max(told) >= Severity.HIGH


def test_a_download_from_a_restricted_owner_is_none():
    """10 GB in, whose acknowledgements carry no content, pass no threshold."""
    rule = Rule(id="bulk", over=10 * MB, window="24h", destinations=("restricted",))
    made = Run(Detector(policy(rule, destinations=[SET]), Table(), replay=True))
    rows = [Sent("ehr", 64500, T0 + s * SECOND_NS, T0 + s * SECOND_NS, 0) for s in range(1000)]
    made.take(rows, octets_in=10 * MB, packets_in=7_000, octets_out=3_500 * 52, packets_out=3_500, **OWNED)
    made.heard(made.detector.finish())
    assert (made.findings, made.cases, made.notices) == ({}, {}, [])


def test_a_case_names_the_hosts_that_sent_the_rows():
    """Of a detector of many hosts, store, notice and words name the host that sent the most, not the detector's own; where
    several sent, each stands with its octets, also after a restart."""
    rule = Rule(id="bulk", over=GB, window="24h")

    def detector() -> Detector:
        return Detector(policy(rule, stores=[store("ehr")]), None, host="detector-1")

    made = Run(detector())
    made.take([replace(row, host="db-7") for row in transfer(GB // 2, 50)])
    again = Run(detector())
    again.detector.restore(None, tuple(made.deltas))
    again.take([replace(row, host="db-3") for row in transfer(2 * GB, 50, 60)])
    again.heard(again.detector.finish())
    (case,) = again.cases.values()
    assert case.store.host == "db-3"
    assert case.traffic.hosts == (
        Share(value="db-3", content_octets_out=2 * GB),
        Share(value="db-7", content_octets_out=GB // 2),
    )
    assert {notice.host for notice in again.notices} == {"db-3"}
    said = render(again.notices[0], language="en", zone=UTC, detail="full")
    assert "By host: db-3" in said
    assert "detector-1" not in said


def test_batches_without_a_host_name_the_detectors_own():
    """Where no batch says whose it is, the program's own host is the one it watches."""
    made = Run(Detector(policy(Rule(id="bulk", over=GB, window="24h")), None, host="db-1"))
    made.take([replace(row, host="") for row in transfer(2 * GB, 50)])
    assert [(n.host, n.case.store.host) for n in made.notices] == [("db-1", "db-1")]


def test_a_case_tells_the_whole_transfer_from_its_first_row():
    """Totals are those of all rows of store and destination; shares name who, how and where, most first."""
    rule = Rule(id="bulk", over=GB, window="24h")
    detector = Detector(
        policy(rule, stores=[store("ehr", name="Records", contact="ward 3", subjects=9)]), None, host="db-1"
    )
    made = Run(detector)
    made.take(transfer(GB // 2, 50), process="postgres", remote_country="DE", location_confidence="high")
    made.take(
        transfer(2 * GB, 50, 60), process="curl", basis="same_host", remote_country=None, remote_port=8443
    )
    made.heard(detector.finish())
    (case,) = made.cases.values()
    traffic = case.traffic
    assert (traffic.content_octets_out, traffic.flows, traffic.first_ns, traffic.last_ns) == (
        (GB // 2) // 10 * 10 + (2 * GB) // 10 * 10,
        20,
        T0 - 4 * SECOND_NS,
        T0 + 105 * SECOND_NS,
    )
    two = (
        Share(value="curl", content_octets_out=2 * GB),
        Share(value="postgres", content_octets_out=GB // 2),
    )
    assert traffic.processes == two
    assert [s.value for s in traffic.services] == ["tcp/8443", "tcp/443"]
    assert [s.value for s in traffic.bases] == ["same_host", "process"]
    assert [s.value for s in traffic.local_addresses] == ["192.0.2.1"]
    assert [s.value for s in case.destination.countries] == ["?", "DE"]
    assert [s.value for s in case.destination.networks] == ["AS64500 Example 64500"]
    assert [s.value for s in case.destination.addresses] == ["203.0.113.7"]
    assert (case.destination.address_count, case.destination.location_sources) == (1, ("example 2025-11",))
    assert (case.store.name, case.store.contact, case.store.host, case.store.subjects) == (
        "Records",
        "ward 3",
        "a",
        9,
    )
    assert case.id == "2025-1121-01"


def test_a_case_does_not_count_what_was_sent_long_before_its_window():
    """A case of a 24 h rule counts from the UTC day in which its window began."""
    rule = Rule(id="bulk", over=GB, window="24h")
    old = [Sent("ehr", 64500, T0 - d * DAY_NS, T0 - d * DAY_NS, 100 * MB) for d in range(40, 2, -1)]
    made = run(policy(rule), [*old, *transfer(2 * GB, 60)])
    (case,) = made.cases.values()
    assert (case.traffic.content_octets_out, case.traffic.first_ns) == (2 * GB // 12 * 12, T0 - 4 * SECOND_NS)


def test_a_case_of_thirty_days_counts_thirty_days():
    """The trickle of a month is told from its first day in the window."""
    rule = Rule(id="slow", over=GB, window="30d")
    rows = [Sent("ehr", 64500, T0 + h * HOUR_NS, T0 + h * HOUR_NS, 2 * MB) for h in range(700)]
    (case,) = run(policy(rule), rows, 40).cases.values()
    assert case.traffic.content_octets_out == 1_400 * MB
    assert case.traffic.first_ns == T0


@pytest.mark.parametrize(
    ("fact", "severity", "reasons"),
    [
        ({}, Severity.HIGH, ()),
        ({"mark": "K"}, Severity.MEDIUM, ("owner_mark_k",)),
        ({"stale": True}, Severity.MEDIUM, ("owner_stale",)),
        ({"mark": "K", "stale": True}, Severity.MEDIUM, ("owner_mark_k", "owner_stale")),
    ],
)
def test_severity_is_capped_by_what_it_rests_on(fact, severity, reasons):
    """An unverified owner holds it at medium, and so does a stale record; the reason is told."""
    rule = Rule(id="bulk", over=GB, window="24h", destinations=("restricted",), severity=Severity.HIGH)
    made = Run(Detector(policy(rule, destinations=[SET]), Table(**fact), replay=True))
    made.take(transfer(2 * GB, 60), **OWNED)
    (finding,) = made.findings.values()
    assert (finding.severity, finding.severity_reasons) == (severity, reasons)
    assert (finding.entity, finding.destinations) == ("owner:example-holdings", ("restricted",))


def test_a_disputed_owner_neither_names_the_entity_nor_counts_as_listed():
    """The entity is then the provider, and a rule on owners finds nothing."""
    rule = Rule(id="bulk", over=GB, window="24h", destinations=("restricted",))
    anyone = Rule(id="any", over=GB, window="24h")
    made = Run(Detector(policy(rule, anyone, destinations=[SET]), Table(disputed=True), replay=True))
    made.take(transfer(2 * GB, 60), **OWNED)
    assert {(f.rule, f.entity) for f in made.findings.values()} == {("any", "provider:example-cloud")}


def test_a_record_for_review_is_held_at_medium_where_its_set_counts_it():
    """`review_counts` lets it match; severity is held at medium."""
    aim = SET.model_copy(update={"review_counts": True})
    rule = Rule(id="bulk", over=GB, window="24h", destinations=("restricted",), severity=Severity.CRITICAL)
    made = Run(Detector(policy(rule, destinations=[aim]), Table(review=True), replay=True))
    made.take(transfer(2 * GB, 60), **OWNED)
    (finding,) = made.findings.values()
    assert (finding.severity, finding.severity_reasons) == (Severity.MEDIUM, ("owner_review",))


def test_sampled_amounts_hold_severity_at_medium():
    """An estimate is told as one."""
    rule = Rule(id="bulk", over=GB, window="24h", severity=Severity.CRITICAL)
    made = Run(Detector(policy(rule), None, replay=True))
    made.take(transfer(2 * GB, 60), marks=int(Mark.ESTIMATED))
    (case,) = made.cases.values()
    assert (case.severity, case.findings[0].severity_reasons) == (Severity.MEDIUM, ("estimated",))
    assert case.traffic.estimated


def test_networks_asns_and_exceptions_of_a_set():
    """A rule sums only the rows that go where it looks, also within one entity."""
    net = DestinationSet(id="net", networks=("203.0.113.0/28",))
    asn = DestinationSet(id="asn", asns=(64501,))
    rules = [
        Rule(id="to-net", over=GB, window="1h", destinations=("net",)),
        Rule(id="to-asn", over=GB, window="1h", destinations=("asn",)),
        Rule(id="elsewhere", over=GB, window="1h", except_destinations=("net", "asn")),
    ]
    made = Run(Detector(policy(*rules, destinations=[net, asn]), None, replay=True))
    inside, outside = transfer(GB + 12, 60), transfer(GB - 12, 60)
    made.take(inside)
    assert {f.rule for f in made.findings.values()} == {"to-net"}
    made.take(
        [Sent(r.store, 64501, r.start_ns, r.end_ns, r.octets) for r in inside], **{"remote_country": "DE"}
    )
    assert {f.rule for f in made.findings.values()} == {"to-net", "to-asn"}
    from agent.core import address

    batch = sent(outside).with_columns(remote_address=address.parse(["203.0.113.99"] * len(outside)))
    made.heard(made.detector.take(batch, T0))
    made.heard(made.detector.finish())
    assert {f.rule for f in made.findings.values()} == {"to-net", "to-asn"}


def test_an_override_reaches_the_ownership_table():
    """What an operator states of a network is asked with the rows of that network."""
    asked = []

    class Asking(Table):
        def fact(self, **question):
            asked.append(question["override"])
            return super().fact(**question)

    override = Override(network="203.0.113.0/24", owner="example-holdings", owner_country="RU", source="me")
    rules = policy(Rule(id="bulk", over=GB, window="1h")).model_copy(update={"overrides": (override,)})
    detector = Detector(rules, Asking(), replay=True)
    detector.take(sent(transfer(GB, 60)), 0)
    assert asked == [override]


def stopped() -> Run:
    """A case whose traffic has stopped."""
    made = Run(Detector(policy(Rule(id="bulk", over=GB, window="5m", quiet="1h")), None))
    made.take(transfer(2 * GB, 60))
    made.heard(made.detector.tick(T0 + 2 * HOUR_NS))
    return made


def test_a_case_of_medium_severity_waits_for_a_person_when_its_traffic_has_stopped():
    """It is told once, and stays."""
    made = stopped()
    made.heard(made.detector.tick(T0 + 900 * HOUR_NS))
    (case,) = made.cases.values()
    assert (case.state, case.traffic_state) == (CaseState.OPEN, TrafficState.STOPPED)
    assert [n.kind for n in made.notices] == [
        NoticeKind.OPENED,
        NoticeKind.CLOSED,
        NoticeKind.UNACKNOWLEDGED,
    ]


def test_a_case_of_low_severity_closes_itself():
    """The next finding opens another."""
    rule = Rule(id="bulk", over=GB, window="5m", quiet="1h", severity=Severity.LOW)
    made = Run(Detector(policy(rule), None))
    made.take(transfer(2 * GB, 60))
    made.heard(made.detector.tick(T0 + 2 * HOUR_NS))
    made.take(transfer(2 * GB, 60, 3 * 3600))
    assert [(c.id[-2:], c.state) for c in made.cases.values()] == [
        ("01", CaseState.CLOSED),
        ("02", CaseState.OPEN),
    ]


def test_traffic_that_comes_back_opens_the_stopped_case_again():
    """The same case, told as opened."""
    made = stopped()
    made.take(transfer(2 * GB, 60, 3 * 3600))
    (case,) = made.cases.values()
    assert (case.traffic_state, len(case.findings)) == (TrafficState.ONGOING, 2)
    assert made.notices[-1].kind is NoticeKind.OPENED


def test_after_a_person_closed_a_case_the_next_finding_opens_another():
    """And the closed one is not spoken of again."""
    made = stopped()
    made.detector.case_closed("2025-1121-01")
    made.take(transfer(2 * GB, 60, 3 * 3600))
    assert sorted(made.cases) == ["2025-1121-01", "2025-1121-02"]
    assert [len(c.findings) for c in made.cases.values()] == [1, 1]


def test_an_acknowledged_case_is_told_as_such_also_when_its_traffic_has_stopped():
    """A person has it."""
    made = Run(Detector(policy(Rule(id="bulk", over=GB, window="5m", quiet="1h")), None))
    made.take(transfer(2 * GB, 60))
    made.detector.case_acknowledged("2025-1121-01")
    made.take(transfer(8 * GB, 60, 60))
    made.heard(made.detector.finish())
    assert made.cases["2025-1121-01"].state is CaseState.ACKNOWLEDGED
    made.heard(made.detector.tick(T0 + 3 * HOUR_NS))
    case = made.cases["2025-1121-01"]
    assert (case.state, case.traffic_state) == (CaseState.ACKNOWLEDGED, TrafficState.STOPPED)


def test_two_stores_or_two_destinations_are_two_cases():
    """A case is of one store and one entity."""
    rule = Rule(id="bulk", over=GB, window="1h", any_of=RuleTest(first_seen=True))
    rows = [Sent(s, a, T0, T0, 2 * GB) for s in ("ehr", "bank") for a in (64500, 64501)]
    made = run(policy(rule, stores=[store("ehr"), store("bank")]), rows)
    assert sorted((c.store.id, c.destination.entity) for c in made.cases.values()) == [
        ("bank", "as:64500"),
        ("bank", "as:64501"),
        ("ehr", "as:64500"),
        ("ehr", "as:64501"),
    ]
    assert sorted(made.cases) == [f"2025-1121-0{n}" for n in (1, 2, 3, 4)]


def test_a_refresh_brings_an_open_case_up_to_date_and_tells_nobody() -> None:
    """Amounts of an open case lag until they double; a refresh sets them right without a notice, once."""
    made = Run(Detector(policy(Rule(id="bulk", over=MB, window="24h")), None))
    for seconds, octets in ((0, 2 * MB), (60, MB)):
        when = T0 + seconds * SECOND_NS
        made.take([Sent(store="ehr", asn=64500, start_ns=when, end_ns=when, octets=octets)])
    (case,) = made.cases.values()
    assert case.traffic.content_octets_out == 2 * MB
    decision = made.detector.refresh()
    assert [c.traffic.content_octets_out for c in decision.cases] == [3 * MB]
    assert decision.notices == ()
    assert made.detector.refresh().cases == ()
