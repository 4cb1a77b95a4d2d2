"""What a regime wants to be told, to whom, and when: data for clocks that a person starts, never an alert.

No deadline is computed here. A clock starts at an event that a named person states (they became aware, a demand came in);
the time of an alert is kept apart from it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from agent.policy.citing import Cited, SaidField
from agent.policy.values import Entry

Starts = Literal[
    "awareness",
    "rejection",
    "demand",
    "request",
    "change",
    "year_end",
    "audit_end",
    "oral_report",
    "submission",
    "handling",
    "first_covered",
]
"""What sets a clock going."""
Within = Annotated[
    str,
    StringConstraints(
        pattern=r"^([1-9]\d* (hours?|days?|months?|years?)|\d\d-\d\d|promptly|as_asked|not_set)$"
    ),
    Field(description="72 hours, 14 days, 1 month, 03-01 (each year), promptly, as_asked, not_set"),
]
_AMOUNT = re.compile(r"^(\d+) (hour|day|month|year)s?$")


class Deadline(Cited):
    """One clock of a report."""

    starts: Starts
    of: str = Field("", description="Report whose submission starts it, with `starts: submission`")
    within: Within
    only_if: str = Field("", description="Word that the attestation or the report must carry for it to hold")
    unless: str = Field("", description="Word with which it does not hold")
    days: Literal["calendar", "business", "not_stated"] = Field(
        "not_stated", description="How days and months are counted, as the text that was read says"
    )
    note: SaidField | None = None

    @property
    def amount(self) -> tuple[int, str] | None:
        """(72, "hour"); None where the time is not a span."""
        found = _AMOUNT.match(self.within)
        return (int(found[1]), found[2]) if found else None


class OwnWarning(Entry):
    """When sekisho reminds people although no text sets a number: its own choice, shown as such."""

    within: Within
    note: SaidField


class ReportField(Entry):
    """One thing that a report tells. Fill: A from flows, P in part, E an estimate, H by a person."""

    name: SaidField
    fill: Literal["A", "P", "E", "H"]


ReportId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$")]


class Report(Entry):
    """A report, notice or register entry, with its clocks."""

    id: ReportId
    title: SaidField
    to: SaidField = Field(description="Who receives it")
    deadlines: tuple[Deadline, ...] = Field(min_length=1)
    warns: OwnWarning | None = None
    fields: tuple[ReportField, ...] = ()
