"""What the options of ``sekisho flows`` ask: filters and groups, from text to a question of the archive."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import tzinfo
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.times import moment, point_ns

if TYPE_CHECKING:
    from agent.core.address import Network
    from agent.store.asking import Question

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "owner": ("remote_owner", "remote_owner_country"),
    "country": ("remote_country",),
    "network": ("remote_asn", "remote_as_org", "remote_country"),
    "provider": ("remote_provider",),
    "cloud": ("remote_cloud", "remote_cloud_region"),
    "flags": ("remote_flags",),
    "remote": ("remote_address",),
    "name": ("remote_name",),
    "scope": ("remote_scope",),
    "store": ("store",),
    "basis": ("basis",),
    "local": ("local_address",),
    "process": ("process",),
    "unit": ("unit",),
    "container": ("container",),
    "pod": ("pod",),
    "interface": ("interface",),
    "host": ("agent_host",),
    "agent": ("agent_id",),
    "vantage": ("vantage",),
    "protocol": ("protocol",),
    "port": ("local_port", "remote_port"),
    "direction": ("initiator",),
    "minute": ("minute",),
    "hour": ("hour",),
    "day": ("day",),
}
"""What --by takes -> columns of the archive, or buckets of time."""
TIMES: Final = ("minute", "hour", "day")
PROTOCOLS: Final[Mapping[str, int]] = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "sctp": 132,
    "udplite": 136,
}
"""Names of the IANA protocol numbers that people write."""
NAMES_OF_PROTOCOLS: Final = {number: name for name, number in PROTOCOLS.items()}
DIRECTIONS: Final = {"out": "local", "in": "remote", "unknown": "-"}
_TEXTS: Final[Mapping[str, str]] = {
    "store": "store",
    "owner": "remote_owner",
    "provider": "remote_provider",
    "process": "process",
    "name": "remote_name",
    "scope": "remote_scope",
    "host": "agent_host",
    "agent": "agent_id",
}
"""Options that take a text -> its column."""


def question_of(given: Mapping[str, Any], now_ns: int, zone: tzinfo | None) -> Question:
    """The question that the options ask. Raises ``click.UsageError`` that names the option."""
    from agent.store.asking import Question

    texts = {column: given[option] for option, column in _TEXTS.items() if given[option]}
    if given["country"]:
        texts["remote_country"] = tuple(_country(text) for text in given["country"])
    if given["direction"]:
        texts["initiator"] = tuple(DIRECTIONS[text] for text in given["direction"])
    if given["flag"]:
        texts["remote_flags"] = tuple("-" if text == "-" else f"*{text}*" for text in given["flag"])
    numbers: dict[str, tuple[int, ...]] = {}
    asns, organisations = _networks(given["network"])
    if asns:
        numbers["remote_asn"] = asns
    if given["protocol"]:
        numbers["protocol"] = tuple(protocol(text) for text in given["protocol"])
    nets = {
        f"{end}_address": tuple(cidr(text, f"--{end}") for text in given[end])
        for end in ("local", "remote")
        if given[end]
    }
    since_ns = point_ns(given["since"], "--since", now_ns, zone)
    until_ns = point_ns(given["until"], "--until", now_ns, zone) if given["until"] else None
    if until_ns is not None and until_ns <= since_ns:
        raise click.UsageError(
            f"--until {given['until']} is not after --since {given['since']}: "
            f"{moment(until_ns, zone)} and {moment(since_ns, zone)}"
        )
    least = octets(given["min_octets"]) if given["min_octets"] else 0
    return Question(since_ns, until_ns, texts, numbers, nets, given["port"], least, organisations)


def groups_of(texts: tuple[str, ...]) -> list[str]:
    """The groups of ``--by owner,country --by day``, each once. Raises ``click.UsageError``."""
    names = [name for text in texts for name in text.split(",")]
    for name in names:
        if name not in GROUPS:
            import difflib

            near = difflib.get_close_matches(name, GROUPS, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one or several of {', '.join(GROUPS)}"
            raise click.UsageError(f"--by {name}: {hint}")
    return list(dict.fromkeys(names))


def cidr(text: str, flag: str) -> Network:
    """A network, or one address. Raises ``click.UsageError`` that names ``flag``."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise click.UsageError(
            f"{flag} {text}: expected an address or network such as 203.0.113.0/24"
        ) from None


def protocol(text: str) -> int:
    """A protocol by its name or number. Raises ``click.UsageError``."""
    number = PROTOCOLS.get(
        text.lower(), int(text) if text.isascii() and text.isdigit() and len(text) < 4 else -1
    )
    if not 0 <= number <= 255:
        raise click.UsageError(f"--protocol {text}: expected {', '.join(PROTOCOLS)} or a number up to 255")
    return number


def octets(text: str) -> int:
    """A size such as ``100MB``. Raises ``click.UsageError``."""
    from agent.policy.model import octets as parsed

    try:
        return parsed(int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text)
    except ValueError as error:
        raise click.UsageError(f"--min-octets {text}: {error}") from None


def _country(text: str) -> str:
    if text == "-" or (len(text) == 2 and text.isascii() and text.isalpha()):
        return text.upper()
    raise click.UsageError(f"--country {text}: expected two letters of ISO 3166 such as JP, or - for unknown")


def _networks(texts: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """AS numbers, and parts of organisations' names."""
    numbers, parts = [], []
    for text in texts:
        digits = text.upper().removeprefix("AS")
        if text == "-":
            numbers.append(-1)
        elif digits.isascii() and digits.isdigit() and int(digits[:11]) < 2**32:
            numbers.append(int(digits[:11]))
        else:
            parts.append(text)
    return tuple(numbers), tuple(parts)
