"""Figures as people read them: decimal sizes, exact counts, shares, spans of time, local time beside UTC.

Sizes are decimal (1 GB = 10**9 octets), cut and never rounded up, so that no text says more than was counted.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

from agent.core.clock import MINUTE_NS, SECOND_NS, when

_UNITS = (("PB", 10**15), ("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def size(octets: int) -> str:
    """``42.1 GB``: three figures at most behind a decimal unit, cut; below 1,000 ``999 B``."""
    for unit, scale in _UNITS:
        if octets >= scale:
            tenths = octets * 10 // scale
            whole, tenth = divmod(tenths, 10)
            return f"{whole:,} {unit}" if whole >= 1000 or not tenth else f"{whole}.{tenth} {unit}"
    return f"{octets} B"


class Number(int):
    """A count that prints with thousands separators and still chooses between one and many."""

    def __format__(self, spec: str) -> str:
        return int.__format__(self, spec or ",")


def exact(number: int) -> str:
    """``42,118,203,904``."""
    return f"{number:,}"


def percent(part: int, whole: int) -> str:
    """``83 %``, cut; ``over 99 %`` is never said to be all of it, ``under 1 %`` never nothing."""
    return share(part / whole if whole else 0.0)


def share(ratio: float) -> str:
    """A ratio from 0 to 1 in percent: cut, but ``> 99 %`` and ``< 1 %`` near the ends."""
    if ratio >= 1:
        return "100 %"
    if ratio >= 0.99:
        return "> 99 %"
    if 0 < ratio < 0.01:
        return "< 1 %"
    return f"{int(ratio * 100)} %"


def span_parts(ns: int) -> tuple[int, int, int, int]:
    """Days, hours, minutes and seconds of a span in nanoseconds; negative spans count as none."""
    seconds = max(ns, 0) // SECOND_NS
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3_600)
    minutes, seconds = divmod(seconds, 60)
    return days, hours, minutes, seconds


def zone_name(moment: datetime) -> str:
    """``JST``; ``UTC+03`` where a zone has only an offset for a name."""
    name = moment.tzname() or "UTC"
    return f"UTC{name}" if name[:1] in "+-" else name


def moment(time_ns: int, zone: tzinfo | None) -> tuple[str, str]:
    """``2026-11-18 01:16:24 JST`` and ``2026-11-17 16:16:24 UTC``; zone None is this host's."""
    local, utc = (f"{_day(t)} {_clock(t, True)} {zone_name(t)}" for t in _both(time_ns, zone))
    return local, utc


def same_day_clock(time_ns: int, day_of_ns: int, zone: tzinfo | None) -> str | None:
    """``01:16:24 JST`` if both times lie on one local day, else None."""
    local = when(time_ns, zone)
    return f"{_clock(local, True)} {zone_name(local)}" if _day(local) == _day(when(day_of_ns, zone)) else None


def time_range(first_ns: int, last_ns: int, zone: tzinfo | None) -> tuple[str, str]:
    """``2026-11-18 01:12-04:14 JST`` and ``2026-11-17 16:12-19:14 UTC``; with seconds below ten minutes."""
    seconds = last_ns - first_ns < 10 * MINUTE_NS
    pairs = zip(_both(first_ns, zone), _both(last_ns, zone), strict=True)
    local, utc = (_range(first, last, seconds) for first, last in pairs)
    return local, utc


def _both(time_ns: int, zone: tzinfo | None) -> tuple[datetime, datetime]:
    return when(time_ns, zone), when(time_ns, UTC)


def _range(first: datetime, last: datetime, seconds: bool) -> str:
    # The zone's name may change between the ends (daylight saving), then both must stand.
    start = f"{_day(first)} {_clock(first, seconds)}"
    end = _clock(last, seconds) if _day(first) == _day(last) else f"{_day(last)} {_clock(last, seconds)}"
    if zone_name(first) != zone_name(last):
        return f"{start} {zone_name(first)} - {end} {zone_name(last)}"
    dash = "-" if _day(first) == _day(last) else " - "
    return f"{start}{dash}{end} {zone_name(last)}"


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def _clock(moment: datetime, seconds: bool) -> str:
    return moment.strftime("%H:%M:%S" if seconds else "%H:%M")
