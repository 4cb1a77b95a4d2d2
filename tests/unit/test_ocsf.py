"""OCSF events: valid by the standard's own schema, and saying no more than the alert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from agent.core.accounts import Accounts
from agent.core.finding import CaseState, Confidence, Notice, NoticeKind, Severity, Share
from agent.core.flow import BatchHeader, FlowBatch, Mark
from agent.core.stages import Context
from agent.words import render
from sinks.ocsf import Settings, finding_event, flow_events
from tests.tools import notices
from tests.tools.notice_strategies import NOTICES
from tests.tools.ocsf import faults
from tests.tools.rows import BATCHES, batch_of

SAMPLES = [notices.opened(), notices.stopped(), notices.unverified(), notices.event(), notices.event("x")]


# validity


@pytest.mark.parametrize("rendering", ["data_security_finding", "detection_finding"])
@pytest.mark.parametrize("notice", SAMPLES)
def test_known_notices_are_valid(notice: Notice, rendering: Any) -> None:
    """The event of each known notice passes the schema of its class, in both renderings."""
    assert faults(finding_event(notice, rendering=rendering)) == []


@settings(deadline=None, max_examples=100)
@given(NOTICES)
def test_any_notice_is_valid(notice: Notice) -> None:
    """Whatever facts are there or missing, both renderings pass the schema."""
    assert faults(finding_event(notice)) + faults(finding_event(notice, rendering="detection_finding")) == []


@settings(deadline=None, max_examples=100)
@given(BATCHES)
def test_any_flow_is_valid(batch: FlowBatch) -> None:
    """Whatever the columns hold, each row's event passes the schema."""
    assert [fault for event in flow_events(batch) for fault in faults(event)] == []


def test_the_schema_finds_faults() -> None:
    """The committed schemas refuse an unknown field, a wrong value and a missing one."""
    event = finding_event(notices.opened())
    assert faults(event | {"surprise": 1}) != []
    assert faults(event | {"severity_id": 77}) != []
    assert faults({k: v for k, v in event.items() if k != "finding_info"}) != []


# what a finding says


@pytest.mark.parametrize(
    ("kind", "state", "activity", "status", "alert"),
    [
        (NoticeKind.OPENED, CaseState.OPEN, 1, 1, True),
        (NoticeKind.SEVERITY, CaseState.ACKNOWLEDGED, 2, 2, True),
        (NoticeKind.PACK, CaseState.OPEN, 2, 1, True),
        (NoticeKind.DOUBLED, CaseState.OPEN, 2, 1, True),
        (NoticeKind.CLOSED, CaseState.OPEN, 2, 1, False),
        (NoticeKind.CLOSED, CaseState.CLOSED, 3, 4, False),
    ],
)
def test_activity_and_status_follow_the_case(
    kind: NoticeKind, state: CaseState, activity: int, status: int, alert: bool
) -> None:
    """A case is created once, then updated; only a person's closing closes it, stopped traffic does not."""
    event = finding_event(notices.notice(kind=kind, case=notices.case(state=state)))
    assert (event["activity_id"], event["status_id"], event["is_alert"]) == (activity, status, alert)
    assert event["type_uid"] == 200600 + activity


def test_a_case_keeps_one_uid_and_a_notice_its_own() -> None:
    """Every update of a case carries the same finding uid; each notice has a uid of its own."""
    first, last = finding_event(notices.opened()), finding_event(notices.stopped())
    assert first["finding_info"]["uid"] == last["finding_info"]["uid"] == "2026-1117-07"
    assert (first["metadata"]["uid"], last["metadata"]["uid"]) == ("2026-1117-07.1", "2026-1117-07.6")


def test_the_four_facts_of_a_destination_stay_apart() -> None:
    """Location, network and operator are on the endpoint; the parent stands alone, with source, date and mark."""
    event = finding_event(notices.opened())
    assert event["dst_endpoint"] == {
        "ip": "203.0.113.77",
        "port": 443,
        "name": "Example Holdings Group",
        "location": {"country": "DE", "provider": "example-country 2026-11-01; example-asn 2026-11-01"},
        "autonomous_system": {"number": 64500, "name": "Example Networks"},
        "owner": {
            "name": "Example Cloud",
            "org": {"uid": "example-cloud", "name": "Example Cloud Europe GmbH"},
        },
    }
    parent = event["enrichments"][2]
    assert (parent["type"], parent["provider"]) == ("parent_on_record", "annual report 2025")
    assert {
        k: parent["data"][k] for k in ("owner", "owner_country", "share", "mark", "checked", "confidence")
    } == {
        "owner": "Example Holdings Group",
        "owner_country": "CN",
        "share": "100 %",
        "mark": "V2",
        "checked": "2026-09-30",
        "confidence": "medium",
    }


def test_an_unsourced_parent_is_left_out() -> None:
    """An ownership record without a source appears nowhere in the event."""
    owner = notices.OWNER.model_copy(update={"source": ""})
    to = notices.destination(owner=owner, label="AS64500", entity="as:64500")
    event = finding_event(notices.notice(case=notices.case(destination=to)))
    assert "Example Holdings" not in json.dumps(event)


def test_an_unknown_place_has_no_country() -> None:
    """Where no source says a country, none is given."""
    event = finding_event(notices.unverified())
    assert "location" not in event["dst_endpoint"]
    assert "location" not in [e["type"] for e in event["enrichments"]]


def test_exact_counters_rule_and_window_are_kept() -> None:
    """The exact figures, the rule and the true window bounds are in the event."""
    event = finding_event(notices.opened())
    own, found = event["unmapped"]["sekisho"], notices.opened().case.findings[0]  # type: ignore[union-attr]
    assert (own["traffic"]["octets_out"], own["traffic"]["packets_out"]) == (1_013_204_118, 722_010)
    assert event["data_security"]["size"] == 1_000_800_000
    assert event["finding_info"]["analytic"] == {
        "type_id": 1,
        "type": "Rule",
        "uid": "operator/bulk-restricted",
        "name": "Bulk egress to a restricted owner",
        "version": "7",
    }
    assert (own["findings"][0]["window_from_ns"], own["findings"][0]["window_to_ns"]) == (
        found.window_from_ns,
        found.window_to_ns,
    )


def test_title_and_text_are_the_words() -> None:
    """Message and description are the alert's own words."""
    event = finding_event(notices.opened(), language="ja")
    assert event["message"] == render(notices.opened(), language="ja", zone=notices.UTC, detail="title")
    assert event["finding_info"]["desc"] == render(
        notices.opened(), language="ja", zone=notices.UTC, detail="full"
    )


def test_nothing_claims_what_is_not_known() -> None:
    """No suspected breach, no claiming finding type; ATT&CK is an id without a name, and can be left out."""
    event = finding_event(notices.opened())
    text = json.dumps(event).lower()
    assert event["finding_info"]["types"] == ["Bulk egress from a labelled store"]
    assert [w for w in ("exfiltration", "leak", "breach", "theft", "violation", "stolen") if w in text] == []
    assert event["finding_info"]["attacks"] == [{"tactic": {"uid": "TA0010"}, "version": "16.1"}]
    assert "attacks" not in finding_event(notices.opened(), attack_tags=False)["finding_info"]


@pytest.mark.parametrize(
    ("entity", "owner", "estimated", "confidence"),
    [
        ("as:64500", Confidence.NONE, False, 3),
        ("as:64500", Confidence.HIGH, True, 1),
        ("owner:x", Confidence.HIGH, False, 3),
        ("owner:x", Confidence.LOW, False, 1),
        ("owner:x", Confidence.NONE, False, 0),
    ],
)
def test_confidence_is_of_the_facts_the_rule_used(
    entity: str, owner: Confidence, estimated: bool, confidence: int
) -> None:
    """The owner's doubt counts only where the destination is an owner; an estimate lowers it; place never enters."""
    case = notices.case(
        destination=notices.destination(entity=entity, owner_confidence=owner),
        traffic=notices.traffic(estimated=estimated),
    )
    assert finding_event(notices.notice(case=case))["confidence_id"] == confidence


def test_a_simulated_finding_is_a_test_and_no_alert() -> None:
    """What a replay or drill finds is marked as a test and alerts nobody."""
    event = finding_event(notices.notice(simulated=True))
    assert (event["is_alert"], event["verdict_id"], event["metadata"]["labels"]) == (False, 6, ["simulated"])


@pytest.mark.parametrize(
    ("initiator", "where"), [("local", "dst_endpoint"), ("remote", "src_endpoint"), ("?", None)]
)
def test_the_service_port_stands_at_the_end_that_accepted(initiator: str, where: str | None) -> None:
    """The port of the service belongs to the end that did not open the flow, and to none if that is not known."""
    traffic = notices.traffic(initiators=(Share(value=initiator, content_octets_out=1),))
    event = finding_event(notices.notice(case=notices.case(traffic=traffic)))
    assert [e for e in ("src_endpoint", "dst_endpoint") if "port" in event[e]] == ([where] if where else [])


def test_hostile_names_are_harmless() -> None:
    """A control character in a name does not reach a console that prints the event."""
    store = notices.case().store.model_copy(update={"name": "a\x1b[31m\u202eb"})
    text = json.dumps(finding_event(notices.notice(case=notices.case(store=store))), ensure_ascii=False)
    assert ("\\u001b" in text, "\u202e" in text) == (False, False)


# events about sekisho itself


def test_an_event_is_an_application_error() -> None:
    """A fault of sekisho is class 6008, General Error, with the event's name as its code."""
    event = finding_event(notices.event())
    assert (event["class_uid"], event["activity_id"], event["severity_id"]) == (6008, 1, 3)
    assert (event["status_code"], event["metadata"]["log_name"]) == ("reload_refused", "sekisho.event")


def test_an_event_that_is_no_fault_is_other() -> None:
    """An informational event is no error: its activity is Other, under its own name."""
    notice = notices.event("data_reloaded")
    assert notice.event is not None
    quiet = notice.event.model_copy(update={"severity": Severity.INFORMATIONAL})
    event = finding_event(notice.model_copy(update={"event": quiet}))
    assert (event["activity_id"], event["activity_name"]) == (99, "data_reloaded")


# flows


def test_a_flow_keeps_every_figure() -> None:
    """A row's event has its amounts, ends and facts, and an id made of run, lane, sequence and row."""
    header = BatchHeader(agent_id="a1", run_id="r1", lane=1, sequence=9, host="db-01")
    row = {
        "initiator": "local",
        "remote_country": "DE",
        "remote_asn": 64500,
        "remote_as_org": "Example Networks",
        "remote_provider": "example-cloud",
        "remote_owner": "example-holdings",
        "remote_scope": "external",
        "store": "ehr-main",
        "process": "rclone",
        "pid": 77,
        "marks": int(Mark.LATE | Mark.SPREAD),
    }
    (event,) = flow_events(batch_of([row], header))
    assert (event["type_uid"], event["metadata"]["uid"]) == (400106, "r1.1.9.0")
    assert event["traffic"] == {
        "bytes": 1500, "bytes_out": 1000, "bytes_in": 500, "packets": 15, "packets_out": 10, "packets_in": 5
    }  # fmt: skip
    assert event["src_endpoint"] == {"ip": "192.0.2.1", "port": 40000, "network_scope_id": 1}
    assert event["dst_endpoint"] == {
        "ip": "203.0.113.7",
        "port": 443,
        "network_scope_id": 2,
        "location": {"country": "DE"},
        "autonomous_system": {"number": 64500, "name": "Example Networks"},
        "owner": {"name": "example-cloud", "org": {"uid": "example-cloud"}},
    }
    own = event["unmapped"]["sekisho"]
    assert (own["remote_owner"], own["store"], own["marks"]) == (
        "example-holdings",
        "ehr-main",
        ["spread", "late"],
    )
    assert (event["actor"]["process"]["pid"], event["is_src_dst_assignment_known"]) == (77, True)


def test_the_local_end_is_source_even_if_the_other_opened() -> None:
    """A flow opened by the other end is inbound, keeps the local end as source and does not claim it as initiator."""
    (event,) = flow_events(batch_of([{"initiator": "remote"}]))
    assert (event["connection_info"]["direction_id"], event["src_endpoint"]["ip"]) == (1, "192.0.2.1")
    assert event["is_src_dst_assignment_known"] is False


def test_hostile_names_in_flows_are_harmless() -> None:
    """A control character in a process name comes as a visible escape."""
    (event,) = flow_events(batch_of([{"process": "a\x1b[2J"}]))
    assert event["actor"] == {"app_name": "a\\x1b[2J"}


def test_an_unknown_column_is_left_out() -> None:
    """A null column gives no field; it is neither zero nor empty."""
    (event,) = flow_events(batch_of([{"remote_country": None, "remote_asn": None, "local_port": None}]))
    assert [k for k in ("location", "autonomous_system", "owner") if k in event["dst_endpoint"]] == []
    assert "port" not in event["src_endpoint"]


# the sink


def test_the_sink_writes_lines(tmp_path: Path) -> None:
    """Flows and notices become one JSON line each, in the class that was asked for."""
    path = tmp_path / "ocsf.jsonl"
    chosen = Settings(file=str(path), flows=True, rendering="detection_finding")
    sink = chosen.build(Context(accounts=Accounts(), state_dir=tmp_path, zone="UTC"))
    assert not path.exists()
    sink.write_flows(batch_of([{}, {}]))
    sink.write_notice(notices.opened())
    sink.write_notice(notices.event())
    sink.close()
    classes = [json.loads(line)["class_uid"] for line in path.read_text("utf-8").splitlines()]
    assert classes == [4001, 4001, 2004, 6008]


def test_flows_are_off_by_default() -> None:
    """Flows go to a SIEM only where they are asked for."""
    sink = Settings().build(Context(accounts=Accounts(), state_dir=Path("unused")))
    assert (sink.takes_flows, sink.takes_notices) == (False, True)
