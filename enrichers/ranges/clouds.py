"""Published provider ranges and flag lists as one table: provider, region, service, and what kind of address it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from agent.core.errors import EnrichError
from agent.core.flow import Text
from agent.core.shipped import shipped
from enrichers.ranges.lists import FLAGS, Entries
from enrichers.ranges.prefixes import Prefixes
from enrichers.ranges.table import RangeTable, from_prefixes, merge, recast

CLOUDS_FILE = Path(__file__).parents[1] / "data" / "clouds.yaml"
MAX_SERVICES = 3
"""Services of one prefix that are named."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What is known of a provider that publishes its ranges."""

    id: str
    generic: frozenset[str] = frozenset()
    flags: int = 0
    services: Mapping[str, int] | None = None
    operated_by_others: tuple[str, ...] = ()

    def operates(self, region: str | None) -> bool:
        """Whether it runs that region itself; in some countries another company does, under its name."""
        return not (region or "").lower().startswith(self.operated_by_others or ("\0",))


@dataclass(frozen=True, slots=True)
class Listed:
    """What is in a list, and what the settings add to it: provider, and flags of all of its entries."""

    prefixes: Prefixes
    entries: Entries
    provider: str = ""
    flags: tuple[str, ...] = ()


@cache
def providers() -> Mapping[str, Provider]:
    """The providers of ``clouds.yaml`` by each of their names in lists. Raises EnrichError: install sekisho again."""
    try:
        rows = shipped(CLOUDS_FILE.read_bytes())["providers"]
        return {
            name: Provider(
                row["id"],
                frozenset(row.get("generic", ())),
                bits(row.get("flags", ())),
                {service: bits(flags) for service, flags in row.get("services", {}).items()},
                tuple(row.get("operated_by_others", ())),
            )
            for row in rows
            for name in row["names"]
        }
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise EnrichError(
            f"{CLOUDS_FILE}: not a list of providers: {error}; install sekisho again"
        ) from error


def operates(provider: str, region: str | None) -> bool:
    """Whether the provider (an id) itself runs what its list calls that region."""
    known = next((p for p in providers().values() if p.id == provider), None)
    return known is None or known.operates(region)


def bits(flags: Sequence[str]) -> int:
    """Flags as a bit set. Raises ``ValueError`` for one that does not exist."""
    return sum(1 << FLAGS.index(flag) for flag in dict.fromkeys(flags))


def words(flags: int) -> str | None:
    """A bit set as text: ``anycast+cdn``; None if no bit is set."""
    return "+".join(f for i, f in enumerate(FLAGS) if flags >> i & 1) or None


def table_of_lists(lists: Sequence[Listed]) -> RangeTable:
    """Facts ``cloud``, ``cloud_region``, ``cloud_service`` and ``flags`` (a bit set) of what the lists name.

    Of nested prefixes the most specific decides, fact by fact: a region or service that it does not state is that of
    the next larger prefix of the same provider. Of equal prefixes the first list's, and of its services all that say
    more than the provider's name do. Flags add up over all prefixes that hold the address.
    """
    prefixes, kinds, kind = _gathered(lists)
    tables = [
        _stated(prefixes, kind, "cloud", [k.provider for k in kinds]),
        _stated(
            prefixes,
            kind,
            "cloud_region",
            [k.region for k in kinds],
            of=("region_of", [k.provider for k in kinds]),
        ),
        _services(prefixes, kind, kinds),
    ]
    masks = np.array([k.flags for k in kinds], np.int64)[kind] if len(kinds) else np.zeros(0, np.int64)
    for i, flag in enumerate(FLAGS):
        if len(has := np.flatnonzero(masks >> i & 1)):
            rows = {f"flag_{flag}": np.ones(1, np.int64)}
            tables.append(from_prefixes(prefixes.take(has), rows, ids=np.zeros(len(has), np.int32)))
    return _joined(merge(tables))


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a distinct entry says, but for its prefix."""

    provider: str | None
    region: str | None
    service: str | None
    flags: int


def _gathered(lists: Sequence[Listed]) -> tuple[Prefixes, list[_Kind], NDArray[np.int64]]:
    """All prefixes, the distinct things said, and which of them is said of each prefix."""
    index: dict[tuple[str, str, str, str, int], int] = {}
    codes: list[int] = []
    for listed in lists:
        own = bits(listed.flags)
        e = listed.entries
        default = listed.provider
        codes += [
            index.setdefault((p or default, r, s, f, own), len(index))
            for p, r, s, f in zip(e.providers, e.regions, e.services, e.flags, strict=True)
        ]
    kinds = [_kind(*key) for key in index]
    return Prefixes.concat([listed.prefixes for listed in lists]), kinds, np.array(codes, np.int64)


def _kind(provider: str, region: str, service: str, flags: str, own: int) -> _Kind:
    known = providers().get(provider.lower())
    said = own | bits(flags.split("+") if flags else ())
    if region and service.lower().endswith(f".{region.lower()}"):
        service = service[: -len(region) - 1]
    if known is None:
        return _Kind(provider or None, region or None, service or None, said)
    said |= known.flags | (known.services or {}).get(service.lower(), 0)
    specific = service if service.lower() not in known.generic else ""
    return _Kind(known.id, region or None, specific or None, said)


def _stated(
    prefixes: Prefixes,
    kind: NDArray[np.int64],
    name: str,
    values: list[str | None],
    of: tuple[str, list[str | None]] | None = None,
) -> RangeTable:
    """A table of the prefixes that state one fact; ``of`` is a second fact that goes with it."""
    states = np.array([v is not None for v in values], bool)
    kept = np.flatnonzero(states[kind]) if len(values) else np.zeros(0, np.intp)
    rows = {name: Text.of(values)}
    if of is not None:
        rows[of[0]] = Text.of(of[1])
    return from_prefixes(prefixes.take(kept), rows, ids=kind[kept].astype(np.int32))


def _services(prefixes: Prefixes, kind: NDArray[np.int64], kinds: list[_Kind]) -> RangeTable:
    """As :func:`_stated`, the services of equal prefixes of one provider joined."""
    texts = Text.of(f"{k.provider or ''}\0{k.service}" if k.service else None for k in kinds)
    states = texts.codes >= 0
    kept = np.flatnonzero(states[kind]) if len(kinds) else np.zeros(0, np.intp)
    part, said = prefixes.take(kept), texts.codes[kind[kept]]
    owner = Text.of(k.provider for k in kinds).codes[kind[kept]] if len(kept) else said
    order = np.lexsort((said, owner, part.length, part.low, part.high, part.v4))
    part, said, owner = part.take(order), said[order], owner[order]
    columns = (part.v4, part.high, part.low, part.length, owner)
    new = np.ones(len(said), bool)
    if len(said):
        new[1:] = np.logical_or.reduce([c[1:] != c[:-1] for c in columns])
    begins = np.flatnonzero(new)
    ends = np.append(begins, len(said))[1:]
    index: dict[tuple[int, ...], int] = {}
    ids = [
        index.setdefault(tuple(said[b:e].tolist()), len(index))
        for b, e in zip(begins.tolist(), ends.tolist(), strict=True)
    ]
    joined = [sorted({texts.values[c].partition("\0")[2] for c in codes}) for codes in index]
    names = ["+".join(j[:MAX_SERVICES]) + ("+..." if len(j) > MAX_SERVICES else "") for j in joined]
    whose = [texts.values[codes[0]].partition("\0")[0] for codes in index]
    rows = {"cloud_service": Text.of(names), "service_of": Text.of(whose)}
    return from_prefixes(part.take(begins), rows, ids=np.array(ids, np.int32))


def _joined(table: RangeTable) -> RangeTable:
    """Regions and services of another provider taken out, and the flags as one bit set."""
    cloud = _decoded(table, "cloud")
    facts = {}
    for name, of in (("cloud_region", "region_of"), ("cloud_service", "service_of")):
        said, whose = _decoded(table, name), _decoded(table, of)
        facts[name] = Text.of(
            s if (w or None) == c else None for s, w, c in zip(said, whose, cloud, strict=True)
        )
    flags = np.zeros(len(table), np.int64)
    for i, flag in enumerate(FLAGS):
        found = table.rows.get(f"flag_{flag}")
        if found is not None:
            flags |= (np.asarray(found) > 0).astype(np.int64) << i
    return recast(table, {"cloud": table.rows["cloud"], **facts, "flags": np.where(flags, flags, -1)})


def _decoded(table: RangeTable, name: str) -> list[str | None]:
    column = table.rows[name]
    return column.decode() if isinstance(column, Text) else []
