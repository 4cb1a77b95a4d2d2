"""Alerts as lines of the log, for a service to which no sink was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent import logs

if TYPE_CHECKING:
    from datetime import tzinfo

    from agent.core.finding import Notice
    from agent.core.flow import FlowBatch


class LoggedAlerts:
    """A sink: each alert is one line with its title and the id of its case. Events are logged where they arise."""

    name = "log"
    takes_flows = False
    takes_notices = True

    def __init__(self, language: str, zone: tzinfo | None) -> None:
        self._language, self._zone = language, zone

    def write_flows(self, batch: FlowBatch) -> None:
        """Takes none."""

    def write_notice(self, notice: Notice) -> None:
        """Log an alert."""
        from agent.words import render

        if notice.case is None:
            return
        title = render(notice, language=self._language, zone=self._zone, detail="title")
        logs.get("agent").warning(
            "alert_raised",
            title=title,
            case=notice.case.id,
            kind=notice.kind.value,
            severity=notice.severity.value,
        )

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The log belongs to the program."""
