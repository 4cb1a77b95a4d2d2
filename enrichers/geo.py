"""Where the remote end is, which network it belongs to, which provider says that it is theirs, and what kind it is.

Answers come from MaxMind DB files (country, network, and a second one of each as a witness), published lists (provider
ranges, relays, exits), the operator's overrides and a list of networks that have no place, all merged into one range
table, so that each address is searched once. A missing or broken source never stops anything: its facts are null, and
``faults`` says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from agent.core.address import parse
from agent.core.clock import DAY_NS, SECOND_NS
from agent.core.errors import EnrichError
from agent.core.finding import Destination, Event, Severity, Witnessed
from agent.core.flow import FlowBatch, Text
from agent.core.stages import Context, EnricherSettings
from agent.policy.model import Override
from enrichers.ranges import Database, RangeTable, cached, from_networks, merge, open_database, place
from enrichers.ranges.apart import apart
from enrichers.ranges.facts import (
    KINDS,
    NEEDED,
    Kind,
    Placeless,
    table_of,
)
from enrichers.ranges.lists import FLAGS, AddressList
from enrichers.ranges.places import CONFIDENCES, placed, worth
from enrichers.ranges.sources import PROVIDERS, BadSourceError, ListFile, Sources

APART_FROM = 1 << 20
"""Octets of databases from which on their table is built in a process of its own."""
STALE_DAYS = 45
"""From this age on a database or list should be updated; what is behind it changes monthly."""
_CANARIES = ("8.8.8.8", "52.95.110.1", "202.232.2.164", "2400:3200::1")

Stamp = tuple[int, int, int] | None


class Settings(EnricherSettings):
    """Country and network databases, provider ranges and lists."""

    country: Path | None = Field(
        None, description="Country database (MMDB); default: the one that `sekisho db install` put in place"
    )
    network: Path | None = Field(None, description="AS number database (MMDB); default as for country")
    country_witness: Path | None = Field(
        None, description="Second country database, of another lineage: it makes a place sure or doubtful"
    )
    network_witness: Path | None = Field(
        None, description="Second AS number database, shown beside the first"
    )
    lineages: Mapping[Kind, str] = Field(
        default_factory=dict,
        description="Who first gathered a database's content, where sekisho does not know; two of one lineage are one"
        " witness",
    )
    providers: Path | None = Field(
        None, description="Provider ranges; default: the list that `sekisho db install` put in place"
    )
    lists: tuple[ListFile, ...] = Field((), description="Lists of your own: provider ranges, VPNs, exits")
    canaries: tuple[IPv4Address | IPv6Address, ...] = Field(
        tuple(IPv4Address(a) if "." in a else IPv6Address(a) for a in _CANARIES),
        description="Addresses that a new database must still know if the old one did, or it is not taken up",
    )
    cache: bool = Field(True, description="Keep built tables on disk, so that the next start is quick")

    @model_validator(mode="after")
    def _names_once(self) -> Settings:
        keys = [entry.key for entry in self.lists]
        if twice := sorted({k for k in keys if keys.count(k) > 1}):
            raise ValueError(f"two lists are called {twice[0].removeprefix('list.')}: give one another name")
        return self

    def build(self, context: Context) -> Geo:
        """The enricher, its databases loaded."""
        geo = Geo(
            self.sources(context.state_dir / "databases"),
            overrides=context.policy.overrides if context.policy is not None else (),
            canaries=[str(a) for a in self.canaries],
            cache=context.state_dir / "cache" / "ranges" if self.cache else None,
        )
        geo.reload()
        return geo

    def sources(self, folder: Path) -> Sources:
        """Which files to read, given the folder of installed databases."""
        named: dict[Kind, Path | None] = {
            "country": self.country,
            "network": self.network,
            "country_witness": self.country_witness,
            "network_witness": self.network_witness,
        }
        lists = {PROVIDERS: ListFile(file=self.providers or folder / f"{PROVIDERS}.csv", name=PROVIDERS)}
        lists |= {entry.key: entry for entry in self.lists}
        wanted = {kind for kind, path in named.items() if path is not None} | NEEDED
        return Sources(
            databases={kind: path or folder / f"{kind}.mmdb" for kind, path in named.items()},
            lists=lists,
            optional=frozenset(set(KINDS) - wanted) | (frozenset() if self.providers else {PROVIDERS}),
            lineages=dict(self.lineages),
        )


@dataclass(frozen=True, slots=True)
class _Answers:
    """Everything that one look-up needs, swapped in one step."""

    table: RangeTable
    parts: Mapping[str, Database | AddressList]
    """Their frames only, without content."""


class Geo:
    """Adds place, network, provider range and kind of ``remote_address``, each null where no source says."""

    name = "geo"
    reads = frozenset({"remote_address"})
    adds = frozenset(
        {
            "remote_country",
            "remote_country_witness",
            "remote_asn",
            "remote_asn_witness",
            "remote_as_org",
            "remote_cloud",
            "remote_cloud_region",
            "remote_cloud_service",
            "remote_flags",
            "location_confidence",
        }
    )

    def __init__(
        self,
        sources: Sources | Mapping[Kind, Path],
        *,
        overrides: Sequence[Override] = (),
        canaries: Sequence[str] = (),
        cache: Path | None = None,
        builds_apart: bool = True,
    ) -> None:
        self._sources = sources if isinstance(sources, Sources) else Sources(dict(sources))
        self._overrides = tuple(overrides)
        self._canaries = tuple(canaries)
        self._cache, self._builds_apart = cache, builds_apart
        self._answers: _Answers | None = None
        self._placeless: Placeless | None = None
        self._looked: dict[str, Stamp] | None = None
        self._faults: tuple[str, ...] = ()
        self._kept = False
        """Whether they are about a source that was not taken up, for the last good one to go on answering."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with its sources now, one sentence each; empty when all is well."""
        return self._faults

    def enrich(self, batch: FlowBatch) -> FlowBatch:
        """The same rows with place and network filled in; ``location_confidence`` is never null."""
        answers = self._answers
        if answers is None:
            return batch
        addresses, table = batch["remote_address"], answers.table
        rows = table.find(addresses)
        return batch.with_columns(
            remote_country=table.take("country", rows),
            remote_country_witness=table.take("country_witness", rows),
            remote_asn=table.take("asn", rows),
            remote_asn_witness=table.take("asn_witness", rows),
            remote_as_org=table.take("as_org", rows),
            remote_cloud=table.take("cloud", rows),
            remote_cloud_region=table.take("cloud_region", rows),
            remote_cloud_service=table.take("cloud_service", rows),
            remote_flags=table.take("flags", rows),
            location_confidence=Text(worth(table, addresses, rows), CONFIDENCES),
        )

    def witnessed(self, destination: Destination) -> Destination:
        """The destination with what each source says of the addresses it names, and what kind they are."""
        answers = self._answers
        texts = [share.value for share in destination.addresses]
        if answers is None or not texts:
            return destination
        table = answers.table
        rows = table.find(parse(texts))
        said = {part: _said(table, rows, facts) for part, facts in _SAID_BY.items() if part in answers.parts}
        flags = {flag for texts in _distinct(table, rows, "flags") for flag in texts.split("+")}
        return destination.model_copy(
            update={
                "witnesses": tuple(
                    Witnessed(source=answers.parts[part].version, said=", ".join(what))
                    for part, what in said.items()
                    if what
                ),
                "flags": tuple(flag for flag in FLAGS if flag in flags),
            }
        )

    def reload(self) -> bool:
        """Take up sources whose file changed (inode, time or size). Keeps the last good ones on a fault.

        Blocks for as long as building takes (seconds for all of the usual size), some tens of milliseconds if the
        table is in the cache. Raises :class:`EnrichError` only for the lists that come in the package.
        """
        stamps = {part: _stamp(self._sources.path(part)) for part in self._sources.parts}
        if stamps == self._looked:
            if self._answers is not None:
                self._answers.table.rest()
            return False
        self._looked = stamps
        had = self._answers.parts if self._answers else {}
        faults: list[str] = []
        parts: dict[str, Database | AddressList] = {}
        for part in self._sources.parts:
            if stamps[part] is None and part in self._sources.optional and part not in had:
                continue
            try:
                parts[part] = self._open(part, stamps[part])
            except EnrichError as error:
                faults.append(str(error))
                if part in had:
                    return self._keep(str(error))
        table = self._build(parts, faults)
        if table is None:
            return False
        frames = {part: replace(found, content=b"") for part, found in parts.items()}
        changed = self._answers is None or _hashes(frames) != _hashes(had)
        self._answers, self._faults, self._kept = _Answers(table, frames), tuple(faults), False
        return changed

    def versions(self) -> dict[str, str]:
        """Each source by its part (``country``, ``providers``, ``list.tor``, ``anycast`` ...): name, day and hash of
        what answers; ``none`` where nothing does that should."""
        parts = self._answers.parts if self._answers else {}
        found = {
            part: parts[part].version if part in parts else "none"
            for part in self._sources.parts
            if part in parts or part not in self._sources.optional
        }
        if self._placeless is not None:
            found["anycast"] = self._placeless.version
        return found

    def troubles(self, now_ns: int) -> tuple[Event, ...]:
        """Sources that are missing or cannot be read, refused in favour of the last good one, or older than
        ``STALE_DAYS``."""
        name = "database_refused" if self._kept else "database_missing"
        found = [Event(name=name, severity=Severity.LOW, detail={"reason": fault}) for fault in self._faults]
        for part, days in self.age_days(now_ns).items():
            if days > STALE_DAYS:
                found.append(
                    Event(
                        name="database_aged", severity=Severity.LOW, detail={"database": part, "days": days}
                    )
                )
        return tuple(found)

    def age_days(self, now_ns: int) -> dict[str, int]:
        """Whole days since each source was built, where it says when. Over ``STALE_DAYS`` people should be told."""
        parts = self._answers.parts if self._answers else {}
        return {
            part: (now_ns - found.built_s * SECOND_NS) // DAY_NS
            for part, found in parts.items()
            if found.built_s is not None
        }

    def _open(self, part: str, stamp: Stamp) -> Database | AddressList:
        path = self._sources.path(part)
        entry = self._sources.lists.get(part)
        if stamp is None:
            advice = "check the path" if entry else "run `sekisho db install`"
            raise EnrichError(f"{path}: there is no {part.removeprefix('list.')} {_sort(entry)}; {advice}")
        return open_database(path) if entry is None else self._sources.open_list(part)

    def _keep(self, fault: str) -> bool:
        self._faults = (f"{fault}; the last good databases still answer",)
        self._kept = True
        return False

    def _build(self, parts: dict[str, Database | AddressList], faults: list[str]) -> RangeTable | None:
        """The table of these sources; at the start, one that cannot be read is taken out and its fault noted.

        None if the table that answers now must stay.
        """
        self._placeless = self._placeless or Placeless.read()
        while True:
            try:
                table = self._cached(parts, self._placeless)
            except BadSourceError as bad:
                if self._answers and bad.part in self._answers.parts:
                    self._keep(str(bad))
                    return None
                faults.append(str(bad))
                del parts[bad.part]
                continue
            if silent := self._silent(table):
                self._keep(silent)
                return None
            return table

    def _cached(self, parts: Mapping[str, Database | AddressList], placeless: Placeless) -> RangeTable:
        cache = self._cache if parts else None  # overrides alone are built in no time
        databases = {p: d for p, d in parts.items() if isinstance(d, Database)}
        lists = {p: d for p, d in parts.items() if isinstance(d, AddressList)}
        hashes = " ".join(f"{part}={d.sha256}" for part, d in databases.items())
        listed = self._sources.key_of(lists)
        overrides = "\n".join(o.model_dump_json() for o in self._overrides)
        digest = hashlib.sha256(overrides.encode()).hexdigest()
        two = self._sources.independent(parts)

        def base() -> RangeTable:
            return merge([_checked(part, d) for part, d in databases.items()]) if databases else _nothing()

        def whole() -> RangeTable:
            found = cached(cache, f"base {hashes}", base)
            if lists:
                found = merge([found, self._sources.listed(lists, cache)])
            return placed(found, placeless, self._overrides, independent=two)

        key = f"geo {hashes} {listed} {placeless.version} overrides={digest} two={two}"
        if (
            self._builds_apart
            and cache
            and sum(len(d.content) for d in databases.values()) > APART_FROM
            and not place(cache, key).exists()
        ):
            apart(fill, self._sources, self._overrides, cache)
        return cached(cache, key, whole)

    def _silent(self, table: RangeTable) -> str:
        """The canary that the table in force knows and the new one does not, in words; empty if there is none."""
        if self._answers is None or not self._canaries:
            return ""
        addresses = parse(self._canaries)
        flags = table.take("flags", table.find(addresses))
        moved = np.asarray([bool(f) for f in flags.decode()] if isinstance(flags, Text) else [])
        for fact in ("country", "asn"):
            old, new = (_known(t, fact, t.find(addresses)) for t in (self._answers.table, table))
            excused = (
                moved if fact == "country" else np.zeros(len(moved), bool)
            )  # a list may take a place away
            for canary in np.flatnonzero(old & ~new & ~excused).tolist():
                return f"the new databases know no {fact} of {self._canaries[canary]}, which the old ones did"
        return ""


_SAID_BY: Mapping[str, tuple[str, ...]] = {
    "country": ("country_first",),
    "country_witness": ("country_witness",),
    "network_witness": ("asn_witness",),
    PROVIDERS: ("cloud", "cloud_region", "cloud_service"),
}
"""Which facts of the table each source stands for."""


def _said(table: RangeTable, rows: NDArray[np.int32], facts: tuple[str, ...]) -> list[str]:
    """The distinct answers of a source, in words."""
    columns = [table.take(fact, rows) for fact in facts]
    texts = [
        c.decode() if isinstance(c, Text) else [f"AS{n}" if n >= 0 else None for n in c.tolist()]
        for c in columns
    ]
    lines = (" ".join(word for word in words if word) for words in zip(*texts, strict=True))
    return list(dict.fromkeys(line for line in lines if line))


def _distinct(table: RangeTable, rows: NDArray[np.int32], fact: str) -> tuple[str, ...]:
    found = table.take(fact, rows)
    return found.values if isinstance(found, Text) else ()


def _sort(entry: ListFile | None) -> str:
    return "database" if entry is None else "list"


def _checked(part: str, database: Database) -> RangeTable:
    try:
        return table_of(part, database)  # type: ignore[arg-type]
    except EnrichError as error:
        raise BadSourceError(part, str(error)) from error


def _nothing() -> RangeTable:
    return from_networks([], {})


def _known(table: RangeTable, fact: str, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
    found = table.take(fact, rows)
    return np.asarray((found.codes if isinstance(found, Text) else found) >= 0)


def _hashes(parts: Mapping[str, Database | AddressList]) -> dict[str, str]:
    return {part: d.sha256 for part, d in parts.items()}


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def fill(sources: Sources, overrides: Sequence[Override], cache: Path) -> None:
    """Put the table of these sources into the cache."""
    Geo(sources, overrides=overrides, cache=cache, builds_apart=False).reload()
