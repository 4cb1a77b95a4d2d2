"""What is said in the end of each address: databases, published ranges, lists and overrides joined, and how sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.core.address import Addresses, is_v4
from agent.core.finding import Confidence
from agent.core.flow import ColumnData, Text, concat_text
from agent.policy.model import Override
from enrichers.ranges.clouds import words
from enrichers.ranges.facts import Placeless
from enrichers.ranges.lists import FLAGS
from enrichers.ranges.table import SIX_TO_FOUR, Alias, RangeTable, from_networks, merge, recast

# How a place is known: the row's level, and what each is worth for IPv4 and for IPv6, where about one place in seven
# is disputed between databases. High needs two witnesses of different lineage. docs/databases.md has it as a table.
NONE, REGISTRANT, DISPUTED, DATABASE, OVERRIDE, AGREED = range(6)
_WORTH = (
    (Confidence.NONE, Confidence.NONE),
    (Confidence.LOW, Confidence.LOW),
    (Confidence.LOW, Confidence.LOW),
    (Confidence.MEDIUM, Confidence.LOW),
    (Confidence.MEDIUM, Confidence.MEDIUM),
    (Confidence.HIGH, Confidence.HIGH),
)
CONFIDENCES = tuple(c.value for c in Confidence)
_WORTH_CODES = np.array([[CONFIDENCES.index(c) for c in pair] for pair in _WORTH], np.int32)
_ANYCAST, _CDN = (1 << FLAGS.index(f) for f in ("anycast", "cdn"))

Codes = NDArray[np.int32]


def placed(
    base: RangeTable, placeless: Placeless, overrides: Sequence[Override], *, independent: bool = False
) -> RangeTable:
    """The table of all sources with places taken from what has none, and the overrides on top.

    Facts: ``country``, ``country_first`` (what the first database says), ``country_witness``, ``asn``, ``asn_witness``, ``as_org``, ``cloud``, ``cloud_region``,
    ``cloud_service``, ``flags`` and ``level``. ``independent`` says whether the second country database is a witness
    of its own beside the first.
    """
    never = np.array([2 if n else 1 for n in placeless.never], np.int64)
    anycast = np.array([int(n.startswith("anycast")) for n in placeless.names], np.int64)
    aliases = tuple(dict.fromkeys((SIX_TO_FOUR, *base.aliases)))
    nowhere = from_networks(placeless.networks, {"placeless": never, "listed_anycast": anycast}, aliases)
    table = merge([base, nowhere, _override_table(overrides, aliases)])
    return recast(table, _final(table, independent))


def location_confidence(table: RangeTable, addresses: Addresses) -> list[Confidence]:
    """How far to trust each address's country in a table that :func:`placed` made. For few addresses."""
    codes = worth(table, addresses, table.find(addresses)).tolist()
    return [Confidence(CONFIDENCES[code]) for code in codes]


def worth(table: RangeTable, addresses: Addresses, rows: NDArray[np.int32]) -> Codes:
    """Codes into ``CONFIDENCES`` of each address's country. Shape (n,)."""
    level = np.maximum(np.asarray(table.take("level", rows)), NONE)
    return np.asarray(_WORTH_CODES[level, (~is_v4(addresses)).astype(np.intp)])


def _override_table(overrides: Sequence[Override], aliases: Sequence[Alias]) -> RangeTable:
    columns: dict[str, ColumnData] = {
        "override_country": Text.of(o.country for o in overrides),
        "override_asn": np.array([-1 if o.asn is None else o.asn for o in overrides], np.int64),
        "override_as_org": Text.of(o.as_org for o in overrides),
        "override_anycast": np.array([int(o.anycast) for o in overrides], np.int64),
    }
    return from_networks([o.network for o in overrides], columns, aliases)


def _final(table: RangeTable, independent: bool) -> dict[str, ColumnData]:
    number = {
        n: _numbers(table, n)
        for n in ("asn", "witness_asn", "placeless", "listed_anycast", "override_asn", "override_anycast")
    }
    flags = _flags(table, number)
    special = number["placeless"] == 2
    nowhere = (number["placeless"] > 0) | (flags & (_ANYCAST | _CDN) > 0)
    (place, registrant, stated, witness), countries = _joined(
        table, "country", "registered", "override_country", "witness_country"
    )
    place, registrant, witness = (np.where(nowhere, np.int32(-1), c) for c in (place, registrant, witness))
    stated = np.where(special, np.int32(-1), stated)
    either = np.where(place >= 0, place, witness)
    country = np.select([stated >= 0, either >= 0], [stated, either], registrant)
    (org, stated_org), orgs = _joined(table, "as_org", "override_as_org")
    # An organisation belongs to its AS number: with another number, the database's name would be a wrong one.
    foreign = (number["override_asn"] >= 0) & (number["override_asn"] != number["asn"])
    as_org = np.select([stated_org >= 0, foreign], [stated_org, np.int32(-1)], org)
    nothing = Text.full(len(table), None)
    return {
        "country": Text(country.astype(np.int32), countries),
        "country_first": Text(place.astype(np.int32), countries),
        "country_witness": Text(witness.astype(np.int32), countries),
        "asn": np.where(number["override_asn"] >= 0, number["override_asn"], number["asn"]),
        "asn_witness": number["witness_asn"],
        "as_org": Text(as_org.astype(np.int32), orgs),
        **{n: table.rows.get(n, nothing) for n in ("cloud", "cloud_region", "cloud_service")},
        "flags": _worded(flags),
        "level": _level(stated, place, witness, registrant, independent),
    }


def _level(
    stated: Codes, place: Codes, witness: Codes, registrant: Codes, independent: bool
) -> NDArray[np.int64]:
    """How each country is known; codes of one dictionary, -1 for nothing said."""
    both = (place >= 0) & (witness >= 0) & independent
    return np.select(
        [
            (stated >= 0) & ((stated == place) | (stated == witness)),
            stated >= 0,
            both & (place == witness),
            both,
            (place >= 0) | (witness >= 0),
            registrant >= 0,
        ],
        [AGREED, OVERRIDE, AGREED, DISPUTED, DATABASE, REGISTRANT],
        NONE,
    ).astype(np.int64)


def _flags(table: RangeTable, number: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Bit set of what the lists, the anycast list and the overrides say; none of a special-purpose address."""
    listed = np.maximum(_numbers(table, "flags"), 0)
    anycast = (number["listed_anycast"] > 0) | (number["override_anycast"] > 0)
    flags = listed | np.where(anycast, _ANYCAST, 0)
    return np.where(number["placeless"] == 2, 0, flags)


def _worded(flags: NDArray[np.int64]) -> Text:
    values, code = np.unique(flags, return_inverse=True)
    distinct = Text.of(words(f) for f in values.tolist())
    return distinct.take(code) if len(values) else distinct


def _numbers(table: RangeTable, name: str) -> NDArray[np.int64]:
    found = table.rows.get(name)
    return np.full(len(table), -1, np.int64) if found is None else np.asarray(found)


def _joined(table: RangeTable, *names: str) -> tuple[list[Codes], tuple[str, ...]]:
    """Text facts coded in one dictionary, so that their codes can be compared and mixed."""
    texts = [
        f if isinstance(f := table.rows.get(name), Text) else Text.full(len(table), None) for name in names
    ]
    joined = concat_text(texts)
    return np.split(joined.codes, len(names)), joined.values
