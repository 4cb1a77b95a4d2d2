"""Values as people write them in settings and policies (sizes, spans, severities, countries, ids) and the entry they stand in."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
)

from agent.core.finding import Severity

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "pi": 2**50}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgtp]i?)?\s*(?:b|bytes?|octets?)?\s*$", re.IGNORECASE)
_SPAN = re.compile(r"^\s*(\d+)\s*(s|m|h|d)\s*$")
_SPAN_NS = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_MOST_DAYS = 36_500
_MOST_OCTETS = 10**18


def octets(value: Any) -> int:
    """A size such as ``500 MB`` or ``2 GiB`` (decimal unless the unit has an i) as octets. Raises ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.match(value)):
        unit = (match[2] or "").lower()
        exact = float(match[1]) * (_BINARY.get(unit) or _DECIMAL[unit])
        size = int(min(exact, 2 * _MOST_OCTETS))
    else:
        raise ValueError("expected a size such as 500 MB, 1.5 GB or 2 GiB")
    if size < 0:
        raise ValueError("a size is not negative")
    if size > _MOST_OCTETS:
        raise ValueError("a size is at most 1000 PB")
    return size


def duration_ns(value: Any) -> int:
    """A span such as ``90s``, ``5m``, ``24h`` or ``30d`` as nanoseconds. Raises ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool):
        span_ns = value
    elif isinstance(value, str) and (match := _SPAN.match(value)):
        span_ns = int(match[1][:20]) * _SPAN_NS[match[2]]
    else:
        raise ValueError("expected a span such as 90s, 5m, 24h or 30d")
    if span_ns < 0:
        raise ValueError("a span is not negative")
    if span_ns > _MOST_DAYS * _SPAN_NS["d"]:
        raise ValueError(f"a span is at most {_MOST_DAYS}d")
    return span_ns


def _severity(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return Severity[value.upper()]
        except KeyError:
            raise ValueError("expected informational, low, medium, high or critical") from None
    return value


def _country(value: Any) -> Any:
    if value is False:  # YAML 1.1 reads an unquoted NO as false
        return "NO"
    return value.strip().upper() if isinstance(value, str) else value


Octets = Annotated[
    int,
    BeforeValidator(octets, json_schema_input_type=int | str),
    Field(ge=0, description="A size: 500 MB, 2 GiB"),
]
DurationNs = Annotated[
    int,
    BeforeValidator(duration_ns, json_schema_input_type=str),
    Field(gt=0, description="A span: 90s, 5m, 24h, 30d"),
]
SeverityName = Annotated[
    Severity,
    BeforeValidator(
        _severity, json_schema_input_type=Literal["informational", "low", "medium", "high", "critical"]
    ),
    PlainSerializer(lambda s: s.name.lower(), return_type=str),
]
Country = Annotated[
    str,
    BeforeValidator(_country),
    StringConstraints(pattern=r"^[A-Z]{2}$"),
    Field(description="ISO 3166-1 alpha-2"),
]
Id = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$"),
    Field(description="lower case letters, digits, . _ -"),
]
AddressField = IPv4Address | IPv6Address
PortField = Annotated[int, Field(ge=1, le=65535)]
ExecutableField = Annotated[
    str,
    StringConstraints(pattern=r"^/.+$"),
    Field(description="a whole path such as /usr/sbin/mysqld; a bare name goes under `processes`"),
]
UnitField = Annotated[
    str,
    StringConstraints(pattern=r"^[^/\s]+\.(service|scope)$"),
    Field(description="a unit such as postgresql.service or postgresql@*.service"),
]


def _ordered(value: Any) -> Any:
    """Two numbers, the smaller first, both over nothing. Raises ``ValueError``."""
    if value[0] <= 0:
        raise ValueError("both ends are more than 0")
    if value[0] > value[1]:
        raise ValueError("expected the smaller first, such as [1, 20]")
    return value


def _pair(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("expected two values, the least and the most, such as [1, 20]")
    return value


OctetRange = Annotated[tuple[Octets, Octets], BeforeValidator(_pair), AfterValidator(_ordered)]
"""The least and the most of a size, such as ``[1 kB, 20 kB]``."""
Range = Annotated[tuple[float, float], BeforeValidator(_pair), AfterValidator(_ordered)]
"""The least and the most of a number, such as ``[1, 40]``."""


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no such time zone; expected a name such as Asia/Tokyo or UTC") from None
    return value


ZoneName = Annotated[str, AfterValidator(_zone), Field(description="A time zone such as Asia/Tokyo")]


class Entry(BaseModel):
    """What a person writes: unknown keys are refused, nothing is changed after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
