"""Kinds of tests that gate the opening of a finding, beside the amount: a table of small classes.

A new kind is a class here, under the name of its field in :class:`agent.policy.rules.RuleTest`. Each is asked at the end
of a bucket; one whose answer no other pair's rows and no later row can change may be asked on arrival, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median
from typing import Any, Final, Protocol

from agent.core.clock import DAY_NS
from agent.detection.windows import Window
from agent.policy.rules import RuleTest, Unusual

_EPOCH: Final = date(1970, 1, 1)
HISTORY_DAYS: Final = 91
"""Days of a store's own past that are looked at: three months of the same day."""
_SCALE: Final = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""
_LEAST_SPREAD: Final = 0.1
"""Part of the median that days differ by in any case."""
_NEAR: Final = 1.5
"""A comparable day counts as the like of one that is so many times as large."""


@dataclass(frozen=True, slots=True)
class Look:
    """What may be asked of a pair at the end of a bucket."""

    window: Window
    bucket: int
    amount: int
    """The sum of the window."""
    series: Mapping[int, int]
    """By bucket."""
    store_amount: int | None
    """All that left the store in the window; None where no rule of the track asks."""
    first_ns: int
    """When the pair was first seen."""
    days: Mapping[int, int]
    """By UTC day; empty where no rule of the track asks."""
    process_ns: int = -1
    """When the newest of the pair's programs was first seen to send from its store; -1 where no rule of the track asks,
    or no program is known."""
    destinations: int = 0
    """Destinations to which something was sent in the window; 0 where no rule of the track asks."""


class Kind(Protocol):
    """One kind of test."""

    on_arrival: bool
    """It may be asked before the bucket is over."""

    def holds(self, asked: Any, look: Look) -> bool:
        """Whether what the rule asks for is so."""
        ...


class FirstSeen:
    """No row of the pair before the window. Of an entity that is an owner on record: a first-seen owner."""

    on_arrival = True

    def holds(self, asked: Any, look: Look) -> bool:
        """``asked``: true."""
        return bool(asked) and look.first_ns >= look.window.bounds(look.bucket)[0]


class ShareOfStore:
    """A part of all that left the store in the window."""

    on_arrival = False

    def holds(self, asked: Any, look: Look) -> bool:
        """``asked``: the part."""
        return bool(look.store_amount) and look.amount / (look.store_amount or 1) >= asked


class UnusualForStore:
    """A day far above the days of the store's own past, and above every day like it: the same weekday, the same day of the
    month or a day beside it. Without enough past it never holds."""

    on_arrival = False

    def holds(self, asked: Any, look: Look) -> bool:
        """``asked``: :class:`Unusual`. Median and median absolute deviation, so that one odd day spoils nothing."""
        past, today = history(look), _today(look)
        begin = today * (DAY_NS // look.window.grain_ns)
        amount = sum(v for b, v in look.series.items() if begin <= b <= look.bucket)
        if not isinstance(asked, Unusual) or len(past) < asked.least_days:
            return False
        middle = median(past.values())
        spread = _SCALE * median(abs(v - middle) for v in past.values())
        if amount <= middle + asked.times * max(spread, _LEAST_SPREAD * middle, 1.0):
            return False
        return all(amount > _NEAR * v for day, v in past.items() if _is_like(day, today))


class Regular:
    """Spread over nearly all buckets of the window and of one size: what a program does by the clock, no person."""

    on_arrival = False

    def holds(self, asked: Any, look: Look) -> bool:
        """``asked``: the part of the buckets that must have something; their middle half must be within a quarter of
        the median."""
        low = look.window.low(look.bucket) + 1
        filled = sorted(v for b, v in look.series.items() if low <= b <= look.bucket and v > 0)
        if len(filled) < asked * (look.bucket - low + 1) or len(filled) < 4:
            return False
        middle = median(filled)
        return median(abs(v - middle) for v in filled) <= middle / 4


class FirstSeenProcess:
    """A program that this store was not seen sending by before the window, to whatever end. One that is not known is
    none. In step with the watermark: rows that came late neither make a program known nor take it back."""

    on_arrival = False

    def holds(self, asked: Any, look: Look) -> bool:
        """``asked``: true."""
        return bool(asked) and look.process_ns >= look.window.bounds(look.bucket)[0]


class ManyDestinations:
    """More destinations of the store than that, each with something sent in the window."""

    on_arrival = False

    def holds(self, asked: Any, look: Look) -> bool:
        """``asked``: the number."""
        return bool(look.destinations > asked)


KINDS: Final[Mapping[str, Kind]] = {
    "first_seen": FirstSeen(),
    "share_of_store": ShareOfStore(),
    "unusual": UnusualForStore(),
    "regular": Regular(),
    "first_seen_process": FirstSeenProcess(),
    "destinations": ManyDestinations(),
}


COMPARING: Final = frozenset(("unusual", "regular", "first_seen_process"))
"""Kinds whose answer may change from bucket to bucket although no amount does."""


def asked_of(test: RuleTest) -> dict[str, Any]:
    """What a rule asks for, by kind."""
    return {name: value for name in KINDS if (value := getattr(test, name)) not in (None, False)}


def history(look: Look) -> dict[int, int]:
    """Whole days before today, since the pair was first seen, days without anything included."""
    today = _today(look)
    first = max(today - HISTORY_DAYS, -(-look.first_ns // DAY_NS))
    return {day: look.days.get(day, 0) for day in range(first, today)}


def _today(look: Look) -> int:
    """The UTC day of the bucket: days are held against days, for a window of 24 h and a bucket holds what is sent at one
    time each day twice."""
    return look.bucket * look.window.grain_ns // DAY_NS


def _is_like(day: int, today: int) -> bool:
    """The same weekday of the last eight weeks, or within a day of the same day of the last months."""
    if (today - day) % 7 == 0 and today - day <= 56:
        return True
    now = _EPOCH + timedelta(days=today)
    then = _EPOCH + timedelta(days=day)
    near = {(then + timedelta(days=off)).day for off in (-1, 0, 1)}
    return now.day in near or (_is_last(now) and any(_is_last(then + timedelta(days=o)) for o in (-1, 0, 1)))


def _is_last(day: date) -> bool:
    return (day + timedelta(days=1)).day == 1
