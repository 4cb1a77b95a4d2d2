"""Windows of a year, in whole UTC days: the rolling twelve months, and the calendar year of a zone.

Both are sums of the day ring, which holds a year and a month of days for the paths that such a rule reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from agent.core.clock import DAY_NS
from agent.detection.windows import Window

_DAY_S: Final = 86_400
_EPOCH: Final = date(1970, 1, 1).toordinal()
_FIRST_YEAR: Final = 1
_LAST_DAY: Final = date(9998, 12, 31).toordinal() - _EPOCH
LATE_DAYS: Final = 31
"""Late rows may still move the beginning of an episode by this many days."""

DAYS: Final = Window("days", 366 + LATE_DAYS + 1, DAY_NS, back=0, spreads=False)
"""The ring that holds the days: of any year that is still asked for every day is there."""


@dataclass(frozen=True, slots=True)
class Months12(Window):
    """The UTC days after the same date one year before (of 29 February: 28 February) up to a day."""

    def low(self, bucket: int) -> int:
        """The first day that counts on a day."""
        return _year_before(bucket) + 1

    def gone(self, bucket: int) -> int:
        """The first day on which a day counts no longer."""
        return _year_after(bucket)


@dataclass(frozen=True, slots=True)
class CalendarYear(Window):
    """From the UTC day in which the year of a zone begins. A UTC day that holds the turn counts for both years."""

    zone: str = "UTC"

    def low(self, bucket: int) -> int:
        """The first day that counts on a day."""
        return _year_begin_s(self.zone, _year_of(self.zone, bucket)) // _DAY_S

    def gone(self, bucket: int) -> int:
        """The first day on which a day counts no longer."""
        year = _year_of(self.zone, bucket)
        while _year_begin_s(self.zone, year) // _DAY_S <= bucket:
            year += 1
        return -(-_year_begin_s(self.zone, year) // _DAY_S)


def year_window(name: str, zone: str) -> Window:
    """The window of a rule that names ``12mo`` or ``calendar_year``."""
    if name == "12mo":
        return Months12("12mo", 365, DAY_NS, back=LATE_DAYS, ring=DAYS.name, spreads=False)
    return CalendarYear(
        "calendar_year", 365, DAY_NS, back=LATE_DAYS, ring=DAYS.name, spreads=False, zone=zone
    )


def _date(day: int) -> date:
    return date.fromordinal(min(max(day, -_EPOCH + 400), _LAST_DAY) + _EPOCH)


@lru_cache(4096)
def _year_before(day: int) -> int:
    today = _date(day)
    last = 28 if (today.month, today.day) == (2, 29) else today.day
    return today.replace(year=today.year - 1, day=last).toordinal() - _EPOCH


@lru_cache(4096)
def _year_after(day: int) -> int:
    today = _date(day)
    if (today.month, today.day) == (2, 29):
        return date(today.year + 1, 3, 1).toordinal() - _EPOCH
    return today.replace(year=today.year + 1).toordinal() - _EPOCH


@lru_cache(4096)
def _year_of(zone: str, day: int) -> int:
    """The year that a zone's clocks show as the UTC day begins."""
    at = datetime.combine(_date(day), datetime.min.time(), UTC)
    return max(at.astimezone(ZoneInfo(zone)).year, _FIRST_YEAR)


@lru_cache(256)
def _year_begin_s(zone: str, year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=ZoneInfo(zone)).timestamp())
