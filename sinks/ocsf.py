"""OCSF 1.8.0: cases as Data Security Finding (2006), flows as Network Activity (4001), each event one JSON line.

``docs/alerts.md`` tells field by field what stands where and why. In short: the four facts of a destination stay four
(location, autonomous system, operating organisation, and the parent on record as an enrichment with source, date and
mark); no field says more than the alert's text; exact counters, rules and window bounds are under
``unmapped.sekisho``. The local end is always ``src_endpoint``, so ``bytes_out`` is what left;
``is_src_dst_assignment_known`` tells whether it also opened the flow. What sekisho tells about itself is an
Application Error (6008). Times are epoch milliseconds, as the standard has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field

from agent.core.finding import Notice
from agent.core.flow import FlowBatch
from agent.core.stages import Context, SinkSettings
from agent.policy.model import Octets
from sinks.lines import Lines
from sinks.ocsf_events.common import Json
from sinks.ocsf_events.findings import Rendering, finding_event
from sinks.ocsf_events.flows import flow_events

__all__ = ["Ocsf", "Settings", "finding_event", "flow_events"]


class Settings(SinkSettings):
    """Where OCSF events go, and which."""

    file: str = Field("-", description="File, or - for standard output")
    flows: bool = Field(False, description="Write a Network Activity event for each flow row")
    notices: bool = Field(True, description="Write findings and events")
    community_id: bool = Field(
        False, description="Give each flow its community ID (connection_info.community_uid)"
    )
    rendering: Rendering = Field(
        "data_security_finding",
        description="Class of findings; detection_finding for tools that know only 2004",
    )
    attack_tags: bool = Field(
        True, description="Tag findings with the ATT&CK tactic that analysts file them under"
    )
    language: Literal["en", "ja"] | None = Field(
        None, description="Of title and text; none is the program's own"
    )
    rotate_octets: Octets | None = Field(
        None, description="Begin a new file at this size, such as 1 GB; none never"
    )
    keep: int = Field(5, ge=1, le=1000, description="How many full files stay")

    def build(self, context: Context) -> Ocsf:
        """Make the sink; opens nothing yet."""
        return Ocsf(self, self.language or context.language, ZoneInfo(context.zone) if context.zone else None)


class Ocsf:
    """Writes events as JSON lines; ``flush`` makes them durable."""

    name = "ocsf"

    def __init__(self, settings: Settings, language: str, zone: tzinfo | None) -> None:
        self.takes_flows, self.takes_notices = settings.flows, settings.notices
        self._settings, self._language, self._zone = settings, language, zone
        self._lines = Lines(settings.file, rotate_octets=settings.rotate_octets, keep=settings.keep)

    def write_flows(self, batch: FlowBatch) -> None:
        """Append an event for each row. Raises :class:`~agent.core.errors.SinkError`."""
        self._lines.write(_json_lines(flow_events(batch, community_id=self._settings.community_id)))

    def write_notice(self, notice: Notice) -> None:
        """Append the event and make it durable. Raises :class:`~agent.core.errors.SinkError`."""
        event = finding_event(
            notice,
            rendering=self._settings.rendering,
            attack_tags=self._settings.attack_tags,
            language=self._language,
            zone=self._zone,
        )
        self._lines.write(_json_lines([event]))
        self._lines.flush()

    def flush(self) -> None:
        """Make what was taken durable. Raises :class:`~agent.core.errors.SinkError`."""
        self._lines.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._lines.close()


def _json_lines(events: Iterable[Json]) -> bytes:
    return b"".join(json.dumps(e, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for e in events)
