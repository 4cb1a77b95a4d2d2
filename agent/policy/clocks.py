"""What a regime wants to be told, to whom, and when: data for clocks that a person starts, never an alert.

A clock starts at an event that a named person states (they became aware, a demand came in); the time of an alert is kept
apart from it, and starts none. :meth:`Deadline.ends` is arithmetic alone: whether a duty exists is a person's question.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import date, datetime, time, timedelta, tzinfo
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
_SATURDAY = 5
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

    def ends(self, start: datetime, zone: tzinfo) -> datetime | None:
        """The last moment, if the clock starts at ``start`` (with its zone); None where the text sets no span.

        Hours are counted from the moment itself. Days, months and years end with the last day in ``zone``; the day of the
        start is not counted (Regulation (EEC) 1182/71 art 3(1), Japan Civil Code art 140; mark K). Business days leave out
        Saturday and Sunday: public holidays are not known here, so they end at that day or later.
        """
        if self.amount is None:
            return self._yearly(start, zone)
        number, unit = self.amount
        if unit == "hour":
            return (start + timedelta(hours=number)).astimezone(zone)
        first = start.astimezone(zone).date()
        if unit == "day":
            return _end_of(_days_after(first, number, business=self.days == "business"), zone)
        months = first.month - 1 + number * (12 if unit == "year" else 1)
        year, month = first.year + months // 12, months % 12 + 1
        return _end_of(date(year, month, min(first.day, monthrange(year, month)[1])), zone)

    def _yearly(self, start: datetime, zone: tzinfo) -> datetime | None:
        """The next such day after the year of the start has ended."""
        if self.within[2:3] != "-":
            return None
        month, day = map(int, self.within.split("-"))
        return _end_of(date(start.astimezone(zone).year + 1, month, day), zone)


def _days_after(first: date, number: int, *, business: bool) -> date:
    if not business:
        return first + timedelta(days=number)
    while number:
        first += timedelta(days=1)
        number -= first.weekday() < _SATURDAY
    return first


def _end_of(day: date, zone: tzinfo) -> datetime:
    return datetime.combine(day, time(23, 59, 59), zone)


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
