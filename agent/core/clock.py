"""Time comes from outside: every stage that needs "now" is handed a clock.

All times are nanoseconds since 1970-01-01 UTC as ``int`` (``_ns``); durations are nanoseconds too.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, tzinfo
from typing import Protocol

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS


class Clock(Protocol):
    """Tells the time."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch, UTC."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never step, for waiting and measuring."""


class SystemClock:
    """The host's clock."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch, UTC."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """``CLOCK_MONOTONIC``."""
        return time.monotonic_ns()


class DataClock:
    """A clock that stands still until it is set: replay takes its time from the data, tests from themselves."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """The last time set."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """The last time set."""
        return self._now_ns

    def set(self, now_ns: int) -> None:
        """Move the clock, also backwards."""
        self._now_ns = now_ns


def when(time_ns: int, zone: tzinfo | None = UTC) -> datetime:
    """``time_ns`` as an aware datetime in ``zone`` (None: this host's zone), cut to microseconds."""
    return datetime.fromtimestamp(time_ns // 1000 / 1_000_000, UTC).astimezone(zone)


def iso(time_ns: int) -> str:
    """``time_ns`` as RFC 3339 in UTC, to the second: ``2026-11-18T16:12:00Z``."""
    return when(time_ns - time_ns % SECOND_NS).strftime("%Y-%m-%dT%H:%M:%SZ")
