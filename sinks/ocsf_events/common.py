"""What every OCSF event of ours has, and the rule that what is not known is left out."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from agent.core.clock import iso
from agent.core.finding import Notice, Severity

OCSF_VERSION = "1.8.0"
MS = 1_000_000
"""Nanoseconds in the millisecond in which OCSF counts time."""
UNKNOWN_TYPE = {"type_id": 0, "type": "Unknown"}

Json = dict[str, Any]


def class_of(class_uid: int, name: str, activity_id: int, activity: str) -> Json:
    """Class, category, activity and type, with their captions; ``name`` is the class in snake case."""
    category_uid = {2: (2, "Findings"), 4: (4, "Network Activity"), 6: (6, "Application Activity")}
    category, category_name = category_uid[class_uid // 1000]
    return {
        "class_uid": class_uid,
        "class_name": name.replace("_", " ").title(),
        "category_uid": category,
        "category_name": category_name,
        "activity_id": activity_id,
        "activity_name": activity,
        "type_uid": class_uid * 100 + activity_id,
    }


def severity(level: Severity) -> Json:
    """``severity_id`` and its caption."""
    return {"severity_id": int(level), "severity": level.name.capitalize()}


def metadata(notice: Notice, log_name: str, profiles: list[str]) -> Json:
    """``metadata`` of a notice; its ``uid`` is the notice's id, the same each time it is sent."""
    return {
        "version": OCSF_VERSION,
        "uid": notice.id,
        "event_code": notice.kind.value,
        "log_name": log_name,
        "original_time": iso(notice.time_ns),
        "profiles": profiles,
        "labels": ["simulated"] if is_simulated(notice) else [],
        "product": product(),
    }


def is_simulated(notice: Notice) -> bool:
    """Whether the notice tells of a replay or a drill."""
    return notice.simulated or (notice.case is not None and any(f.simulated for f in notice.case.findings))


@cache
def product() -> Json:
    """``metadata.product``."""
    return {"name": "sekisho", "vendor_name": "sekisho", "version": version("sekisho")}


def present(event: Json) -> Json:
    """The event without what is not known: None, empty text, lists and objects. Zero and false stay, and so does
    everything under ``unmapped``, which is ours.
    """
    kept = {k: v if k == "unmapped" else _present(v) for k, v in event.items()}
    return {k: v for k, v in kept.items() if v is not None and v != "" and v != [] and v != {}}


def _present(value: Any) -> Any:
    if isinstance(value, dict):
        return present(value)
    if isinstance(value, list):
        return [_present(v) for v in value]
    return value
