"""Notices as the detector makes them, for tests of words and sinks. Documentation addresses, invented names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from agent.core.clock import HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.finding import (
    Case,
    Confidence,
    Destination,
    Event,
    Finding,
    FindingState,
    Notice,
    NoticeKind,
    OwnerFact,
    Severity,
    Share,
    StoreFact,
    Traffic,
    TrafficState,
    finding_id,
)

TOKYO = ZoneInfo("Asia/Tokyo")
START_NS = int(datetime(2026, 11, 17, 16, 12, tzinfo=UTC).timestamp()) * SECOND_NS
END_NS = START_NS + 3 * HOUR_NS + 2 * MINUTE_NS

OWNER = OwnerFact(
    provider="example-cloud",
    provider_name="Example Cloud",
    organisation="Example Cloud Europe GmbH",
    organised_in="DE",
    owner="Example Holdings Group",
    owner_country="CN",
    share="100 %",
    source="annual report 2025",
    checked="2026-09-30",
    mark="V2",
    designations=("List A from 2026-06-08",),
)


def destination(**changed: Any) -> Destination:
    """A network in Germany whose parent on record is in China."""
    facts: dict[str, Any] = {
        "entity": "owner:example-holdings",
        "label": "Example Holdings Group",
        "owner": OWNER,
        "countries": (Share(value="DE", content_octets_out=41_600_000_000),),
        "networks": (Share(value="AS64500 Example Networks", content_octets_out=41_600_000_000),),
        "addresses": (
            Share(value="203.0.113.77", content_octets_out=40_500_000_000),
            Share(value="203.0.113.78", content_octets_out=1_100_000_000),
        ),
        "address_count": 2,
        "location_confidence": Confidence.HIGH,
        "owner_confidence": Confidence.MEDIUM,
        "location_sources": ("example-country 2026-11-01", "example-asn 2026-11-01"),
    }
    return Destination(**(facts | changed))


def traffic(**changed: Any) -> Traffic:
    """42.1 GB in three hours by rclone."""
    facts: dict[str, Any] = {
        "flows": 16,
        "octets_out": 42_118_203_904,
        "packets_out": 30_012_345,
        "octets_in": 612_204_118,
        "packets_in": 9_004_112,
        "content_octets_out": 41_600_000_000,
        "first_ns": START_NS,
        "last_ns": END_NS,
        "initiators": (Share(value="local", content_octets_out=41_600_000_000),),
        "bases": (Share(value="same_host", content_octets_out=41_600_000_000),),
        "processes": (Share(value="rclone", content_octets_out=41_600_000_000),),
        "services": (Share(value="tcp/443", content_octets_out=41_600_000_000),),
        "local_addresses": (Share(value="192.0.2.11", content_octets_out=41_600_000_000),),
        "vantages": (Share(value="af_packet:eth0", content_octets_out=41_600_000_000),),
    }
    return Traffic(**(facts | changed))


def finding(**changed: Any) -> Finding:
    """More than 1 GB in 24 h to a restricted owner."""
    first_bucket_ns = START_NS + 4 * MINUTE_NS
    facts: dict[str, Any] = {
        "id": finding_id(
            "default", "bulk-restricted", ("ehr-main", "owner:example-holdings"), first_bucket_ns
        ),
        "rule": "bulk-restricted",
        "rule_version": "7",
        "rule_title": "Bulk egress to a restricted owner",
        "pack": "operator",
        "destinations": ("restricted-owners",),
        "tenant": "default",
        "store": "ehr-main",
        "entity": "owner:example-holdings",
        "severity": Severity.HIGH,
        "window": "24h",
        "window_from_ns": START_NS - 24 * HOUR_NS + 3 * MINUTE_NS,
        "window_to_ns": START_NS + 18 * MINUTE_NS,
        "content_octets_out": 41_600_000_000,
        "threshold_octets": 1_000_000_000,
        "first_bucket_ns": first_bucket_ns,
        "last_bucket_ns": END_NS - 4 * MINUTE_NS,
        "crossed_ns": START_NS + 4 * MINUTE_NS + 24 * SECOND_NS,
        "reasons": ("first_seen", "share_of_store"),
        "observed_days": 37,
        "first_seen": True,
        "share_of_store": 0.834,
        "versions": {"policy": "3f2a91c0aa11", "ownership": "2026-11-01", "example-country": "2026-11-01"},
    }
    return Finding(**(facts | changed))


def case(**changed: Any) -> Case:
    """One transfer of store ehr-main."""
    facts: dict[str, Any] = {
        "id": "2026-1117-07",
        "revision": 1,
        "severity": Severity.HIGH,
        "tenant": "default",
        "store": StoreFact(
            id="ehr-main",
            name="ehr-main",
            categories=("personal_health",),
            contact="Medical Information Section on-call, ext. 4412",
            host="db-ehr-01",
            subjects=180_000,
        ),
        "destination": destination(),
        "traffic": traffic(),
        "findings": (finding(),),
        "opened_ns": START_NS + 4 * MINUTE_NS + 31 * SECOND_NS,
        "updated_ns": START_NS + 4 * MINUTE_NS + 31 * SECOND_NS,
        "not_seen": ("bypass", "interface eth1: down since 01:00"),
    }
    return Case(**(facts | changed))


def notice(**changed: Any) -> Notice:
    """The opening of the case."""
    facts: dict[str, Any] = {
        "kind": NoticeKind.OPENED,
        "time_ns": START_NS + 4 * MINUTE_NS + 31 * SECOND_NS,
        "host": "db-ehr-01",
        "case": case(),
        "account": {"captured": 99_120_004_117, "dropped": 0, "excluded": 1_204},
        "lost_frames": 0,
    }
    return Notice(**(facts | changed))


def opened() -> Notice:
    """The case some four minutes after the transfer began, as soon as the threshold was passed."""
    early = traffic(
        flows=2,
        octets_out=1_013_204_118,
        packets_out=722_010,
        octets_in=14_118_204,
        packets_in=204_118,
        content_octets_out=1_000_800_000,
        last_ns=START_NS + 4 * MINUTE_NS + 24 * SECOND_NS,
    )
    one = (Share(value="203.0.113.77", content_octets_out=1_000_800_000),)
    facts = finding(
        content_octets_out=1_000_800_000, provisional=True, last_bucket_ns=START_NS + 4 * MINUTE_NS
    )
    return notice(
        case=case(traffic=early, findings=(facts,), destination=destination(addresses=one, address_count=1)),
        account={"captured": 1_420_004_117, "dropped": 0, "excluded": 1_204},
    )


def stopped() -> Notice:
    """The same case when its traffic stopped."""
    closed = finding(state=FindingState.CLOSED, revision=2)
    return notice(
        kind=NoticeKind.CLOSED,
        time_ns=END_NS + 30 * MINUTE_NS,
        case=case(
            revision=6,
            traffic_state=TrafficState.STOPPED,
            findings=(closed,),
            updated_ns=END_NS + 30 * MINUTE_NS,
        ),
    )


def unverified() -> Notice:
    """A case with an ownership record of mark K, an unknown place and no process, contact or history."""
    owner = OWNER.model_copy(update={"mark": "K", "disputed": True, "stale": True, "share": ""})
    some = (Share(value="?", content_octets_out=2_100_000_000),)
    return notice(
        case=case(
            severity=Severity.MEDIUM,
            store=StoreFact(id="ehr-main", categories=("personal_health", "resident"), host="db-ehr-01"),
            destination=destination(
                owner=owner,
                countries=some,
                networks=some,
                location_confidence=Confidence.NONE,
                owner_confidence=Confidence.LOW,
                location_sources=(),
                addresses=(
                    Share(value="203.0.113.77", content_octets_out=12_000_000),
                    Share(value="2001:db8::77", content_octets_out=9_000_000),
                    Share(value="203.0.113.80", content_octets_out=8_000_000),
                    Share(value="203.0.113.91", content_octets_out=7_000_000),
                ),
                address_count=1_000,
            ),
            traffic=traffic(
                octets_out=2_204_118_000,
                content_octets_out=2_100_000_000,
                processes=some,
                late_octets=1_048_576,
            ),
            findings=(
                finding(
                    severity=Severity.MEDIUM,
                    severity_reasons=("owner_mark_k",),
                    content_octets_out=2_100_000_000,
                    observed_days=0,
                    share_of_store=None,
                    provisional=True,
                ),
            ),
        ),
    )


def event(name: str = "reload_refused", **detail: str | int) -> Notice:
    """Something about sekisho itself."""
    return Notice(
        kind=NoticeKind.EVENT,
        time_ns=START_NS,
        host="db-ehr-01",
        event=Event(
            name=name,
            severity=Severity.MEDIUM,
            detail=detail or {"file": "policy.yaml", "line": 12, "message": "no such store: ehr-mian"},
        ),
    )
