"""What other hosts send on of what they took from a store."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agent.core.clock import HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.finding import NoticeKind, RelayState
from agent.detection.detector import Detector
from agent.policy.model import DestinationSet, Recognition, Rule
from agent.policy.registers import Forwarder, ForwarderRole
from tests.tools.rows import batch_of
from tests.tools.transfers import MB, T0, Run, policy, store

OUTSIDE = "203.0.113.7"
DB = "10.20.4.11"
HOSTS = ("10.20.9.7", "10.20.9.8", "10.20.9.9", "10.20.9.10")
RESTRICTED = DestinationSet(id="restricted", asns=(64500,))
RULE = Rule(id="bulk", destinations=("restricted",), over=100 * MB, window="24h")


def row(source: str, to: str, at_ns: int, octets: int, **more):
    """A row of ten seconds."""
    is_out = to == OUTSIDE
    return {
        "local_address": source,
        "remote_address": to,
        "remote_scope": "external" if is_out else "private",
        "remote_asn": 64500 if is_out else None,
        "remote_as_org": "Example" if is_out else None,
        "store": "ehr" if source == DB else None,
        "basis": "same_host" if source == DB else None,
        "tenant": "default",
        "initiator": "local",
        "process": "rclone",
        "vantage": "ebpf",
        "start_ns": at_ns,
        "end_ns": at_ns + 9 * SECOND_NS,
        "content_octets_out": octets,
        "octets_out": octets + 40,
        **more,
    }


def relayed(*, hops: int = 1, minutes: int = 20, each: int = 20 * MB, lag_ns: int = MINUTE_NS, **more):
    """Rows, in order of their end, of a store's octets over some hosts to the outside."""
    ways = (DB, *HOSTS[:hops], OUTSIDE)
    rows = []
    for minute in range(minutes):
        for leg, (source, to) in enumerate(pairwise(ways)):
            rows.append(row(source, to, T0 + minute * MINUTE_NS + leg * lag_ns, each, **more))
    return sorted(rows, key=lambda r: r["end_ns"])


def detector(*rules: Rule, forwarders=(), **more) -> Detector:
    """A detector of a replay, by default of one rule."""
    made = policy(
        *(rules or (RULE,)),
        stores=(store("ehr", recognise=Recognition(addresses=(DB,))),),
        destinations=(RESTRICTED,),
    )
    return Detector(made.model_copy(update={"forwarders": forwarders}), None, **{"replay": True, **more})


def run(rows, size: int = 1000, **more) -> Run:
    """A replay of rows in batches of some size, to its end."""
    made = Run(detector(**more))
    for i in range(0, len(rows), size):
        made.heard(made.detector.take(batch_of(rows[i : i + size]), rows[-1]["end_ns"]))
    made.heard(made.detector.finish())
    return made


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_what_hosts_between_send_on_counts_for_the_store(hops):
    """Over one to three hosts, streamed or an hour later, the store has a finding of all its octets, with its chain."""
    made = run(relayed(hops=hops))
    (case,) = made.cases.values()
    (finding,) = case.findings
    (relay,) = case.traffic.relays
    assert (case.store.id, relay.state, relay.hosts) == ("ehr", RelayState.MATCHED, HOSTS[:hops])
    assert finding.content_octets_out == case.traffic.content_octets_out == relay.matched_octets == 400 * MB
    assert [(s.value, s.content_octets_out) for s in case.traffic.bases] == [("relay", 400 * MB)]


def test_four_hosts_between_are_one_too_many():
    """Three are followed."""
    assert run(relayed(hops=4)).findings == {}


def test_what_is_kept_for_hours_and_then_sent_is_found_with_all_of_it():
    """Dump first, upload later: what was possible at first is charged once it fits."""
    rows = relayed(lag_ns=3 * HOUR_NS)
    (case,) = run(rows).cases.values()
    assert case.traffic.content_octets_out == 400 * MB
    assert case.traffic.relays[0].possible_octets == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [(20 * MB, 200 * MB), (20 * MB, 4 * MB)],
    ids=["ten times as much", "a fifth"],
)
def test_other_volumes_are_possible_and_open_nothing(before, after):
    """A host that sends far more or far less than it took is not the store's way out."""
    rows = relayed()
    for one in rows:
        if one["local_address"] != DB:
            one["content_octets_out"] = after
    made = run(rows)
    assert made.findings == {}


def test_what_began_to_leave_before_anything_came_is_not_of_the_store():
    """Time decides before volume: the octets of a row may be those of its first second."""
    rows = relayed()
    for one in rows:
        if one["local_address"] != DB:
            one["start_ns"] -= 6 * HOUR_NS
    assert run(rows).findings == {}


def test_ends_that_no_rule_restricts_are_nobodys_relay():
    """A rule without destinations speaks of what the store itself sends."""
    made = Run(detector(Rule(id="any", over=100 * MB, window="24h")))
    rows = relayed()
    made.heard(made.detector.take(batch_of(rows), rows[-1]["end_ns"]))
    made.heard(made.detector.finish())
    assert made.findings == {}


def test_a_registered_forwarder_gives_possible_origins_only():
    """What passes a proxy is many clients'; it opens no case, and a case that is there lists it; where its log is read, its clients' rows say all."""
    proxy = Forwarder(
        id="web-proxy", role=ForwarderRole.PROXY, recognise=Recognition(addresses=(f"{HOSTS[0]}/32",))
    )
    assert run(relayed(), forwarders=(proxy,)).findings == {}
    direct = [row(DB, OUTSIDE, T0 + m * MINUTE_NS, 20 * MB) for m in range(20)]
    both = sorted(relayed() + direct, key=lambda r: r["end_ns"])
    (case,) = run(both, forwarders=(proxy,)).cases.values()
    (relay,) = case.traffic.relays
    assert (relay.state, relay.forwarder, relay.possible_octets) == (
        RelayState.POSSIBLE,
        "web-proxy",
        400 * MB,
    )
    assert case.traffic.content_octets_out == 400 * MB
    logged = proxy.model_copy(update={"log": "squid"})
    (case,) = run(both, forwarders=(logged,)).cases.values()
    assert (case.traffic.relays, case.traffic.content_octets_out) == ((), 400 * MB)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_of_any_size_give_the_same_findings(size):
    """Rows are judged minute by minute, whatever comes together."""
    rows = relayed(hops=3, minutes=40)
    found = {f.model_dump_json(exclude={"revision"}) for f in run(rows, size).findings.values()}
    assert found == {f.model_dump_json(exclude={"revision"}) for f in run(rows).findings.values()}
    assert len(found) == 1


def test_a_restart_at_any_point_changes_nothing():
    """Balances, rows that wait and carriers come back with snapshot and deltas."""
    rows = relayed(hops=2, minutes=40)
    whole, broken = Run(detector()), Run(detector())
    snapshot, since = None, 0
    for i in range(0, len(rows), 5):
        piece = batch_of(rows[i : i + 5])
        for made in (whole, broken):
            made.heard(made.detector.take(piece, rows[-1]["end_ns"]))
        if i % 15 == 0:
            snapshot, since = broken.detector.snapshot(), len(broken.deltas)
        broken.detector = detector()
        broken.detector.restore(snapshot, broken.deltas[since:])
    assert whole.detector.snapshot() == broken.detector.snapshot()
    assert whole.heard(whole.detector.finish()) == broken.heard(broken.detector.finish())
    assert whole.findings


def test_more_hosts_than_there_is_room_for_are_counted(monkeypatch):
    """What finds no place is let go with a count, and the rest goes on."""
    monkeypatch.setattr("agent.detection.balances.LINKS", 4)
    rows = [row(DB, f"10.20.1.{n}", T0 + n * MINUTE_NS, MB) for n in range(1, 9)]
    made = run(rows)
    assert made.reasons["relay_links_let_go"] >= 4


def test_a_further_way_is_told_once_and_what_is_only_possible_is_not():
    """Live: a second host that sends on what it took is news of the same case; a third whose volume does not fit is none."""
    made = Run(detector(replay=False))
    for minute in range(130):
        host = HOSTS[0] if minute < 40 else HOSTS[1] if minute < 110 else HOSTS[2]
        fits = host != HOSTS[2]
        at_ns = T0 + minute * MINUTE_NS
        legs = [
            row(DB, host, at_ns, 20 * MB),
            row(host, OUTSIDE, at_ns + 20 * SECOND_NS, 20 * MB if fits else MB),
        ]
        made.heard(made.detector.take(batch_of(legs), at_ns + 40 * SECOND_NS))
    kinds = [n.kind for n in made.notices if n.kind in (NoticeKind.OPENED, NoticeKind.LEG)]
    assert kinds == [NoticeKind.OPENED, NoticeKind.LEG]
    (case,) = {
        n.case.id: n.case for n in made.notices if n.case is not None and n.kind is NoticeKind.LEG
    }.values()
    assert {one.hosts for one in case.traffic.relays} == {(HOSTS[0],), (HOSTS[1],)}
