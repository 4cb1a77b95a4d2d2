"""Flow rows as OCSF Network Activity, class 4001, activity 6 Traffic: one event for each row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.core.community import community_ids
from agent.core.finding import Severity
from agent.core.flow import FlowBatch, Mark, Text
from agent.words import shown
from sinks.ocsf_events.common import (
    MS,
    OCSF_VERSION,
    UNKNOWN_TYPE,
    Json,
    class_of,
    present,
    product,
    severity,
)

_DIRECTION = {"local": (2, "Outbound"), "remote": (1, "Inbound")}
_PROTOCOL = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
_LOCAL_SCOPES = frozenset({"internal", "private", "link_local", "shared"})
_OWN = (
    "remote_scope",
    "remote_owner",
    "remote_owner_country",
    "location_confidence",
    "owner_confidence",
    "remote_country_witness",
    "remote_asn_witness",
    "remote_cloud",
    "remote_cloud_region",
    "remote_flags",
    "content_octets_out",
    "source_octets_out",
    "source_layer",
    "sampling_rate",
    "end_reason",
    "nat_address",
    "service_address",
    "service_port",
    "cgroup",
    "unit",
    "pod",
    "pod_uid",
    "vm",
    "store",
    "basis",
    "vantage",
    "start_ns",
    "end_ns",
)
"""Columns without a fit place in the class; they stand under ``unmapped.sekisho``, null left out."""


def flow_events(batch: FlowBatch, *, community_id: bool = False) -> Iterator[Json]:
    """An event for each row. A Python dict per row: for the exports that a SIEM reads, not for the archive.

    ``metadata.uid`` is run, lane, sequence and row, so that an event sent twice can be told.
    """
    header = batch.header
    base = class_of(4001, "network_activity", 6, "Traffic") | severity(Severity.INFORMATIONAL)
    feature = {"name": "agent", "uid": header.agent_id} if header.agent_id else None
    metadata = {
        "version": OCSF_VERSION,
        "log_name": "sekisho.flow",
        "profiles": ["host"],
        "product": product() | {"feature": feature},
    }
    device = {"hostname": header.host or "unknown", "uid": header.agent_id, **UNKNOWN_TYPE}
    data_versions = dict(header.versions)
    ids = community_ids(batch) if community_id else [None] * len(batch)
    for i, (row, community) in enumerate(zip(_harmless(batch).rows(), ids, strict=True)):
        uid = f"{header.run_id}.{header.lane}.{header.sequence}.{i}"
        yield present(
            base
            | {
                "time": row["end_ns"] // MS,
                "start_time": row["start_ns"] // MS,
                "end_time": row["end_ns"] // MS,
                "duration": max(row["end_ns"] // MS - row["start_ns"] // MS, 0),
                "count": row["flows"],
                "metadata": metadata | {"uid": uid, "tenant_uid": row["tenant"]},
                "device": device,
                "actor": _actor(row),
                "src_endpoint": _local(row),
                "dst_endpoint": _remote(row),
                "connection_info": _connection(row) | {"community_uid": community},
                "traffic": _traffic(row),
                "is_src_dst_assignment_known": row["initiator"] == "local",
                "observation_point_id": 3 if row["marks"] & Mark.TRANSIT else 1,
                "unmapped": {"sekisho": _own(row, data_versions)},
            }
        )


def _harmless(batch: FlowBatch) -> FlowBatch:
    """The same rows, each distinct text without control characters."""
    texts = {c.name: data for c, data in batch.compact().columns() if isinstance(data, Text)}
    return batch.with_columns(**{n: Text(t.codes, tuple(map(shown, t.values))) for n, t in texts.items()})


def _local(row: Json) -> Json:
    return {
        "ip": row["local_address"],
        "port": row["local_port"],
        "interface_name": row["interface"],
        "instance_uid": row["container"],
        "network_scope_id": 1,
    }


def _remote(row: Json) -> Json:
    as_number, as_name, provider = row["remote_asn"], row["remote_as_org"], row["remote_provider"]
    known_system = as_number is not None or as_name
    scope = row["remote_scope"]
    return {
        "ip": row["remote_address"],
        "port": row["remote_port"],
        "hostname": row["remote_name"],
        "svc_name": row["remote_cloud_service"],
        "network_scope_id": {"external": 2, None: 0}.get(scope, 1 if scope in _LOCAL_SCOPES else 99),
        "location": {"country": row["remote_country"]} if row["remote_country"] else None,
        "autonomous_system": {"number": as_number, "name": as_name} if known_system else None,
        # The operator, never the parent: a company is no owner without its source beside it.
        "owner": {"name": provider, "org": {"uid": provider}} if provider else None,
    }


def _connection(row: Json) -> Json:
    direction, name = _DIRECTION.get(row["initiator"], (0, "Unknown"))
    return {
        "direction_id": direction,
        "direction": name,
        "protocol_num": row["protocol"],
        "protocol_name": _PROTOCOL.get(row["protocol"]),
        "protocol_ver_id": 6 if ":" in row["remote_address"] else 4,
        "tcp_flags": row["tcp_flags"],
    }


def _traffic(row: Json) -> Json:
    return {
        "bytes": row["octets_out"] + row["octets_in"],
        "bytes_out": row["octets_out"],
        "bytes_in": row["octets_in"],
        "packets": row["packets_out"] + row["packets_in"],
        "packets_out": row["packets_out"],
        "packets_in": row["packets_in"],
    }


def _actor(row: Json) -> Json | None:
    user = {"uid": str(row["uid"])} if row["uid"] is not None else None
    if row["pid"] is None:
        return {"app_name": row["process"], "user": user} if row["process"] or user else None
    process: Json = {"pid": row["pid"], "name": row["process"], "path": row["executable"]}
    if row["parent_pid"] is not None:
        process["parent_process"] = {"pid": row["parent_pid"], "name": row["parent"]}
    return {"process": process, "user": user}


def _own(row: Json, data_versions: dict[str, str]) -> Json:
    own: dict[str, Any] = {name: row[name] for name in _OWN if row[name] is not None}
    if row["marks"]:
        own["marks"] = [mark.name.lower() for mark in Mark if mark.name and row["marks"] & mark]
    if data_versions:
        own["versions"] = data_versions
    return own
