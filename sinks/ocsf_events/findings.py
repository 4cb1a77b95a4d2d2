"""Notices as OCSF findings: a case as 2006 or 2004, what sekisho tells about itself as 6008."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, tzinfo
from typing import Literal

from agent.core.finding import (
    Case,
    CaseState,
    Confidence,
    Destination,
    Event,
    Finding,
    Notice,
    NoticeKind,
    Severity,
    Share,
    TrafficState,
)
from agent.words import harmless, render
from sinks.ocsf_events.common import (
    MS,
    UNKNOWN_TYPE,
    Json,
    class_of,
    is_simulated,
    metadata,
    present,
    severity,
)

ATTACK_VERSION = "16.1"
EXFILTRATION_TACTIC = "TA0010"
"""ATT&CK tactic, given as a tag only: the id without its name."""

Rendering = Literal["data_security_finding", "detection_finding"]
_CONFIDENCE = {Confidence.NONE: 0, Confidence.LOW: 1, Confidence.MEDIUM: 2, Confidence.HIGH: 3}
_CONFIDENCE_NAMES = ("Unknown", "Low", "Medium", "High")
_STATUS = {CaseState.OPEN: (1, "New"), CaseState.ACKNOWLEDGED: (2, "In Progress"), CaseState.CLOSED: (4, "Resolved")}  # fmt: skip
_CATEGORY_NAMES = {1: "Personal", 2: "Governmental", 3: "Financial", 4: "Business", 99: "Other"}
_CATEGORY: dict[str, int] = {
    **dict.fromkeys(("gov_location", "gov_marketed"), 2),
    **dict.fromkeys(("personal_financial", "property_damage_risk"), 3),
    **dict.fromkeys(("ci_operational", "business_critical", "trade_secret", "patent_secrecy", "research"), 4),
    "controlled_technology": 99,
}
"""Our categories to ``data_classification.category_id``; all others are 1, Personal."""
_DIRECTION = {"local": (2, "Outbound"), "remote": (1, "Inbound")}


def finding_event(
    notice: Notice,
    *,
    rendering: Rendering = "data_security_finding",
    attack_tags: bool = True,
    language: str = "en",
    zone: tzinfo | None = UTC,
) -> Json:
    """The notice as an OCSF event: 2006 or 2004 for a case, 6008 for what sekisho tells about itself."""
    words = {d: render(notice, language=language, zone=zone, detail=d) for d in ("title", "full")}
    notice = harmless(notice)
    if notice.case is None:
        return _application_error(notice, notice.event or Event(name="event"), words["title"])
    case = notice.case
    event = (
        class_of(2006 if rendering == "data_security_finding" else 2004, rendering, *_activity(notice, case))
        | _when(notice, case)
        | _judgement(notice, case)
        | {
            "message": words["title"],
            "metadata": metadata(notice, "sekisho.alert", ["host", "data_classification", "incident"])
            | {"correlation_uid": case.id, "tenant_uid": case.tenant, "sequence": case.revision},
            "finding_info": _finding_info(case, words, attack_tags),
            "device": {"hostname": notice.host or case.store.host or "unknown", **UNKNOWN_TYPE},
            "resources": [_store(case)],
            "enrichments": _enrichments(case.destination),
            "observables": _observables(case),
            "unmapped": {"sekisho": _unmapped(notice, case)},
        }
    )
    if rendering == "data_security_finding":
        event |= _endpoints(case) | {"actor": _actor(case), "data_security": _data_security(case)}
    else:
        event["evidences"] = [_evidence(case)]
    return present(event)


def _activity(notice: Notice, case: Case) -> tuple[int, str]:
    if case.state is CaseState.CLOSED:
        return 3, "Close"
    # Traffic that stopped closes nothing: many tools drop a closed finding, and a finished transfer waits for a person.
    return (1, "Create") if notice.kind is NoticeKind.OPENED else (2, "Update")


def _when(notice: Notice, case: Case) -> Json:
    first, last = case.traffic.first_ns // MS, case.traffic.last_ns // MS
    return {
        "time": notice.time_ns // MS,
        "start_time": first,
        "end_time": last,
        "duration": max(last - first, 0),
    }


def _judgement(notice: Notice, case: Case) -> Json:
    status, code, detail = _STATUS[case.state], case.state.value, ""
    if case.traffic_state is TrafficState.STOPPED and case.state is not CaseState.CLOSED:
        code, detail = "stopped", "Traffic stopped; a person has not closed the case."
    confidence, assignee = _confidence(case), case.assigned_to or case.acknowledged_by
    simulated = is_simulated(notice)
    return {
        **severity(case.severity),
        "confidence_id": confidence,
        "confidence": _CONFIDENCE_NAMES[confidence],
        "status_id": status[0],
        "status": status[1],
        "status_code": code,
        "status_detail": detail,
        "is_alert": notice.kind is not NoticeKind.CLOSED and not simulated,
        "verdict_id": 6 if simulated else None,
        "verdict": "Test" if simulated else None,
        "assignee": {"name": assignee} if assignee else None,
        "comment": case.closing_note,
        "count": case.traffic.flows,
    }


def _confidence(case: Case) -> int:
    """Of the rule's own ground: the amount, and the owner where the rule asked for one. Location does not enter."""
    amount = 1 if case.traffic.estimated else 3
    if case.destination.entity.startswith("owner:"):
        return min(amount, _CONFIDENCE[case.destination.owner_confidence])
    return amount


def _finding_info(case: Case, words: dict[str, str], attack_tags: bool) -> Json:
    ranked = sorted(case.findings, key=lambda f: -f.severity)
    analytics = [_analytic(f) for f in ranked]
    return {
        "uid": case.id,
        "title": words["title"],
        "desc": words["full"],
        "types": ["Bulk egress from a labelled store"],
        "created_time": case.opened_ns // MS,
        "modified_time": case.updated_ns // MS,
        "first_seen_time": case.traffic.first_ns // MS,
        "last_seen_time": case.traffic.last_ns // MS,
        "analytic": analytics[0] if analytics else None,
        "related_analytics": analytics[1:],
        "data_sources": ["sekisho.flow"],
        "attacks": [{"tactic": {"uid": EXFILTRATION_TACTIC}, "version": ATTACK_VERSION}]
        if attack_tags
        else [],
        "tags": [{"name": "pack", "values": sorted(case.packs)}],
    }


def _analytic(finding: Finding) -> Json:
    return {
        "type_id": 1,
        "type": "Rule",
        "uid": f"{finding.pack}/{finding.rule}",
        "name": finding.rule_title or finding.rule,
        "version": finding.rule_version,
    }


def _endpoints(case: Case) -> Json:
    port = _service_port(case)
    opened_by = {s.value for s in case.traffic.initiators}
    source: Json = {"ip": _first(case.traffic.local_addresses), "hostname": case.store.host}
    to = case.destination
    target: Json = {"ip": _first(to.addresses), "name": to.label or to.entity, "owner": _operator(to)}
    names = {named.name for named in to.names if named.address == target["ip"]}
    if len(names) == 1:
        target["hostname"] = names.pop()
    if opened_by == {"local"}:
        target["port"] = port
    elif opened_by == {"remote"}:
        source["port"] = port
    if len(to.countries) == 1 and (country := _first(to.countries)):
        target["location"] = {"country": country, "provider": "; ".join(to.location_sources)}
    if len(to.networks) == 1 and (network := _first(to.networks)):
        target["autonomous_system"] = _autonomous_system(network)
    if not (source["ip"] or source["hostname"]):
        source["name"] = case.store.id
    return {"src_endpoint": source, "dst_endpoint": target}


def _operator(to: Destination) -> Json | None:
    """Who runs the network; the parent is no owner of the endpoint and stays out of here."""
    owner = to.owner
    name = owner.organisation or owner.provider_name
    if not (name or owner.provider):
        return None
    return {
        "name": owner.provider_name or name or owner.provider,
        "org": {"uid": owner.provider, "name": name},
    }


def _autonomous_system(network: str) -> Json:
    match = re.fullmatch(r"AS(\d+)\s*(.*)", network)
    return {"number": int(match[1]), "name": match[2]} if match else {"name": network}


def _service_port(case: Case) -> int | None:
    service = _first(case.traffic.services) if len(case.traffic.services) == 1 else None
    match = re.fullmatch(r"[a-z0-9-]+/(\d{1,5})", service or "")
    return int(match[1]) if match and int(match[1]) < 65536 else None


def _actor(case: Case) -> Json | None:
    process = _first(case.traffic.processes)
    return {"app_name": process} if process else None


def _store(case: Case) -> Json:
    store = case.store
    classes = sorted({_CATEGORY.get(c, 1) for c in store.categories})
    return {
        "uid": store.id,
        "name": store.name or store.id,
        "type": "store",
        "role_id": 4,
        "role": "Related",
        "hostname": store.host,
        "labels": list(store.categories),
        "owner": {"name": store.contact} if store.contact else None,
        "data_classifications": [{"category_id": c, "category": _CATEGORY_NAMES[c]} for c in classes],
    }


def _data_security(case: Case) -> Json:
    first = max(case.findings, key=lambda f: f.severity, default=None)
    category = _CATEGORY.get(case.store.categories[0], 1) if case.store.categories else None
    return {
        "data_lifecycle_state_id": 2,
        "data_lifecycle_state": "In-Transit",
        "detection_system_id": 99,
        "detection_system": "Egress flow monitor",
        "category_id": category,
        "category": _CATEGORY_NAMES[category] if category else None,
        "size": case.traffic.content_octets_out,
        "detection_pattern": f"> {first.threshold_octets} content octets in {first.window}" if first else None,
        "policy": {"uid": f"{first.pack}/{first.rule}", "name": first.rule_title or first.rule, "version": first.rule_version}
        if first
        else None,
    }  # fmt: skip


def _evidence(case: Case) -> Json:
    opened_by = {s.value for s in case.traffic.initiators}
    direction, name = (
        _DIRECTION.get(opened_by.pop(), (0, "Unknown")) if len(opened_by) == 1 else (0, "Unknown")
    )
    return {
        "name": "egress of one transfer",
        "uid": f"{case.id}.{case.revision}",
        **_endpoints(case),
        "actor": _actor(case),
        "connection_info": {
            "direction_id": direction,
            "direction": name,
            "boundary_id": 3,
            "boundary": "External",
        },
        "data": _counters(case),
    }


def _enrichments(to: Destination) -> list[Json]:
    """One for each kind of fact, with its source: what this deployment added to the bare address."""
    owner, value = to.owner, _first(to.addresses) or to.label or to.entity
    added: list[Json] = []
    if _known(to.countries):
        place: Json = {"countries": _shares(to.countries), "confidence": to.location_confidence.value}
        added.append({"type": "location", "provider": "; ".join(to.location_sources), "data": place})
    if owner.organisation or owner.provider:
        operator = owner.model_dump(include={"organisation", "provider", "organised_in"})
        added.append({"type": "operator", "data": operator})
    if owner.owner and owner.source and owner.checked and owner.mark:
        names = {"owner", "owner_country", "share", "mark", "checked", "disputed", "stale", "review", "note"}
        parent = owner.model_dump(include=names)
        parent |= {"designations": list(owner.designations), "confidence": to.owner_confidence.value}
        added.append({"type": "parent_on_record", "provider": owner.source, "data": parent})
    return [{"name": "dst_endpoint.ip", "value": value, **entry} for entry in added]


def _observables(case: Case) -> list[Json]:
    seen = [("dst_endpoint.ip", s.value) for s in case.destination.addresses]
    seen += [("src_endpoint.ip", s.value) for s in case.traffic.local_addresses]
    found: list[Json] = [
        {"name": n, "type_id": 2, "type": "IP Address", "value": v} for n, v in seen if v not in ("", "?")
    ]
    if case.store.host:
        found.append(
            {"name": "src_endpoint.hostname", "type_id": 1, "type": "Hostname", "value": case.store.host}
        )
    found += [
        {"name": "dst_endpoint.hostname", "type_id": 1, "type": "Hostname", "value": name}
        for name in dict.fromkeys(named.name for named in case.destination.names)
    ]
    return found


def _unmapped(notice: Notice, case: Case) -> Json:
    to = case.destination
    return {
        "notice": notice.id,
        "kind": notice.kind.value,
        "case_state": case.state.value,
        "traffic": _counters(case),
        "doubts": {
            "amount": "estimated" if case.traffic.estimated else "measured",
            "link": _shares(case.traffic.bases),
            "location": to.location_confidence.value,
            "owner": to.owner_confidence.value,
        },
        "destination": {
            "entity": to.entity,
            "countries": _shares(to.countries),
            "networks": _shares(to.networks),
            "addresses": _shares(to.addresses),
            "address_count": to.address_count,
            "names": [named.model_dump() for named in to.names],
        },
        "findings": [f.model_dump(mode="json", exclude={"tenant", "store", "entity"}) for f in case.findings],
        "subjects_declared": case.store.subjects,
        "account": notice.account,
        "lost_frames": notice.lost_frames,
        "not_seen": list(case.not_seen),
        "local_view": case.local_view,
        "simulated": is_simulated(notice),
    }


def _counters(case: Case) -> Json:
    return case.traffic.model_dump(mode="json")


def _shares(shares: Iterable[Share]) -> list[Json]:
    return [s.model_dump() for s in shares]


def _known(shares: Iterable[Share]) -> list[str]:
    return [s.value for s in shares if s.value not in ("", "?")]


def _first(shares: Iterable[Share]) -> str | None:
    return next(iter(_known(shares)), None)


def _application_error(notice: Notice, event: Event, title: str) -> Json:
    fault = event.severity > Severity.INFORMATIONAL
    activity = (1, "General Error") if fault else (99, event.name)
    return present(
        class_of(6008, "application_error", *activity)
        | severity(event.severity)
        | {
            "time": notice.time_ns // MS,
            "message": title,
            "status_code": event.name,
            "metadata": metadata(notice, "sekisho.event", ["host"]),
            "device": {"hostname": notice.host or "unknown", **UNKNOWN_TYPE},
            "unmapped": {"sekisho": {"event": event.name, "detail": event.detail, "notice": notice.id}},
        }
    )
