"""Time comes from outside: every stage that needs "now" is handed a clock.

All times are nanoseconds since 1970-01-01 UTC as ``int`` (``_ns``); durations are nanoseconds too.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, tzinfo
from typing import Protocol

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS


_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


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
        """``CLOCK_BOOTTIME``, which goes on while the host sleeps; ``CLOCK_MONOTONIC`` where there is none."""
        return time.clock_gettime_ns(_MONOTONIC)


STEP_NS = 5 * MINUTE_NS
"""A jump of the wall clock by more than this is a step; what is less is followed at once."""
BELIEVED_AFTER_NS = 10 * MINUTE_NS
"""A clock that stepped and then runs on for so long was set right."""


class SteadyClock:
    """A clock that holds its line while the one below has stepped, until that one has run on for a while.

    A wrong time source that jumps ten years ahead and back must neither age what is kept nor pass any watermark.
    Thread-safe.
    """

    def __init__(self, below: Clock) -> None:
        self._below = below
        self._lock = threading.Lock()
        self._wall_ns, self._monotonic_ns = below.now_ns(), below.monotonic_ns()
        self._apart_since_ns: int | None = None
        self.stepped_by_ns = 0
        """How far the clock below is off the line now; 0 while it is followed."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch, UTC."""
        with self._lock:
            wall_ns, monotonic_ns = self._below.now_ns(), self._below.monotonic_ns()
            steady_ns = self._wall_ns + monotonic_ns - self._monotonic_ns
            if abs(wall_ns - steady_ns) > STEP_NS:
                if self._apart_since_ns is None:
                    self._apart_since_ns = monotonic_ns
                if monotonic_ns - self._apart_since_ns < BELIEVED_AFTER_NS:
                    self.stepped_by_ns = wall_ns - steady_ns
                    return steady_ns
            self._wall_ns, self._monotonic_ns = wall_ns, monotonic_ns
            self._apart_since_ns, self.stepped_by_ns = None, 0
            return wall_ns

    def monotonic_ns(self) -> int:
        """That of the clock below."""
        return self._below.monotonic_ns()


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
