"""A second detector, slow and plain, to hold the real one against: loops over rows, no numpy, no shared code.

It recounts window sums bucket by bucket and finds the episodes of rows of which none is late.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

SECOND_NS = 10**9
BASE_NS = 10 * SECOND_NS
GRAIN_NS = {"5m": 10 * SECOND_NS, "1h": 60 * SECOND_NS, "24h": 900 * SECOND_NS, "30d": 21_600 * SECOND_NS}
BUCKETS = {"5m": 30, "1h": 60, "24h": 96, "30d": 120}


@dataclass(frozen=True)
class Sent:
    """One row: who sent to whom, from when to when, how much."""

    store: str
    asn: int
    start_ns: int
    end_ns: int
    octets: int
    initiator: str = "local"
    host: str = "a"

    @property
    def key(self) -> tuple[str, str]:
        """(store, entity)."""
        return self.store, f"as:{self.asn}"


@dataclass(frozen=True)
class Asked:
    """A rule."""

    id: str
    window: str
    over: int
    quiet_ns: int
    initiator: str = "any"


def parts(row: Sent, window: str) -> Iterable[tuple[int, int]]:
    """(bucket, octets) of a row in a window's grain."""
    grain = GRAIN_NS[window]
    if row.end_ns - row.start_ns <= BASE_NS:
        yield row.end_ns // grain, row.octets
        return
    first, last = row.start_ns // BASE_NS, row.end_ns // BASE_NS
    each, rest = divmod(row.octets, last - first + 1)
    for base in range(first, last + 1):
        yield base * BASE_NS // grain, each + (rest if base == last else 0)


def buckets_of(rows: Iterable[Sent], window: str) -> dict[int, int]:
    """Octets by bucket."""
    out: dict[int, int] = defaultdict(int)
    for row in rows:
        for bucket, octets in parts(row, window):
            out[bucket] += octets
    return dict(out)


def window_sum(buckets: dict[int, int], window: str, bucket: int) -> int:
    """The sum at a bucket, from one end of the window to the other."""
    return sum(buckets.get(b, 0) for b in range(bucket - BUCKETS[window], bucket + 1))


Found = tuple[str, str, str, int, int, int, str]
"""(rule, store, entity, first bucket ns, last bucket ns, octets, state)."""


def findings(rows: Sequence[Sent], rules: Sequence[Asked]) -> set[Found]:
    """Every episode of every rule and key, as it stands when the data has ended."""
    if not rows:
        return set()
    ends_ns = max(row.end_ns for row in rows)
    found: set[Found] = set()
    for rule in rules:
        read = [r for r in rows if rule.initiator in ("any", r.initiator)]
        for key in sorted({r.key for r in read}):
            buckets = buckets_of([r for r in read if r.key == key], rule.window)
            for first, last, peak in _episodes(buckets, rule, ends_ns):
                grain = GRAIN_NS[rule.window]
                quiet_until_ns = (last + 1 + -(-rule.quiet_ns // grain)) * grain
                state = "closed" if quiet_until_ns <= ends_ns else "open"
                found.add((rule.id, *key, first * grain, last * grain, peak, state))
    return found


def _episodes(buckets: dict[int, int], rule: Asked, ends_ns: int) -> list[tuple[int, int, int]]:
    grain = GRAIN_NS[rule.window]
    episodes: list[tuple[int, int, int]] = []
    n = BUCKETS[rule.window]
    near = sorted({j for b in buckets for j in range(b, b + n + 1)})
    for j in near:
        if j > ends_ns // grain:
            break
        total = window_sum(buckets, rule.window, j)
        if total <= rule.over:
            continue
        if episodes and (j - episodes[-1][1]) * grain < rule.quiet_ns:
            first, _, peak = episodes[-1]
            episodes[-1] = (first, j, max(peak, total))
        else:
            episodes.append((j, j, total))
    return episodes


# windows of a year: whole UTC days


def day_of(ns: int) -> date:
    """The UTC day of a time."""
    return datetime.fromtimestamp(ns // SECOND_NS, UTC).date()


def counts_on(window: str, zone: str, day: date, today: date) -> bool:
    """Whether a day counts in the sum of another one."""
    if day > today:
        return False
    if window == "12mo":
        try:
            before = today.replace(year=today.year - 1)
        except ValueError:  # 29 February
            before = today.replace(year=today.year - 1, day=28)
        return day > before
    begins = datetime(today.year, today.month, today.day, tzinfo=UTC)
    year = begins.astimezone(ZoneInfo(zone)).year
    ends = datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC)
    return ends.astimezone(ZoneInfo(zone)).year >= year


def year_episodes(days: dict[date, int], window: str, zone: str, over: int, ends: date) -> list[tuple]:
    """(first day, last day, largest sum) of each episode of a rule whose quiet is 365 days."""
    out: list[tuple[date, date, int]] = []
    today = min(days, default=ends)
    while today <= ends:
        total = sum(v for day, v in days.items() if counts_on(window, zone, day, today))
        if total > over and out and (today - out[-1][1]).days < 365:
            out[-1] = (out[-1][0], today, max(out[-1][2], total))
        elif total > over:
            out.append((today, today, total))
        today += timedelta(days=1)
    return out
