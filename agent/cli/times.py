"""Times and spans as people write them on the command line."""

from __future__ import annotations

import contextlib
from datetime import datetime, time, timedelta, tzinfo

import click

_DAYS = {"today": 0, "yesterday": 1}


def moment(time_ns: int, zone: tzinfo | None) -> str:
    """A time as people read it: local, with its zone."""
    from agent.core.clock import when

    return when(time_ns, zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def span_ns(text: str, flag: str) -> int:
    """A span such as ``2h``, given with ``flag``, as nanoseconds. Raises ``click.BadParameter``."""
    from agent.policy.model import duration_ns

    try:
        return duration_ns(text)
    except ValueError as error:
        raise click.BadParameter(f"{text}: {error}", param_hint=flag) from None


def point_ns(text: str, flag: str, now_ns: int, zone: tzinfo | None) -> int:
    """A span before now (``2h``), ``now``, ``today``, ``yesterday`` (their first moment), or a date and time
    (``2026-11-18``, ``2026-11-18 16:00``, ``2026-11-18T07:00Z``), in ``zone`` unless it says otherwise.

    Raises ``click.BadParameter`` that names ``flag``.
    """
    from agent.policy.model import duration_ns

    with contextlib.suppress(ValueError):
        return now_ns - duration_ns(text)
    if text == "now":
        return now_ns
    try:
        if text in _DAYS:
            today = datetime.fromtimestamp(now_ns // 10**9, zone).date()
            given = datetime.combine(today - timedelta(days=_DAYS[text]), time())
        else:
            given = datetime.fromisoformat(text)
        if given.tzinfo is None:
            given = given.replace(tzinfo=zone) if zone else given.astimezone()
        return int(given.timestamp()) * 10**9 + given.microsecond * 1000
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{text}: expected a span such as 2h or 7d, or a time such as 2026-11-18T16:00", param_hint=flag
        ) from None
