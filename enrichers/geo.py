"""Where the remote end is and which network it belongs to: country, AS number, AS organisation, and how sure.

Answers come from two MaxMind DB files (country, network), the operator's overrides and a list of networks that have
no place, all merged into one range table, so that each address is searched once. A missing or broken database never
stops anything: its facts are null, and ``faults`` says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agent.core.address import Addresses, is_v4, parse
from agent.core.clock import DAY_NS, SECOND_NS
from agent.core.errors import EnrichError
from agent.core.finding import Confidence, Event, Severity
from agent.core.flow import ColumnData, FlowBatch, Text, concat_text
from agent.core.stages import Context, EnricherSettings
from agent.policy.model import Override
from enrichers.ranges import (
    SIX_TO_FOUR,
    Alias,
    Database,
    RangeTable,
    cached,
    from_networks,
    merge,
    open_database,
    recast,
)
from enrichers.ranges.facts import KINDS, Kind, Placeless, table_of

STALE_DAYS = 45
"""From this age on a database should be updated; the lists behind it change monthly."""

_CANARIES = ("8.8.8.8", "52.95.110.1", "202.232.2.164", "2400:3200::1")

# How a place is known: the row's level, and what each is worth for IPv4 and for IPv6, where about one place in seven
# is disputed between databases. High needs two witnesses of different lineage.
_NONE, _REGISTRANT, _DATABASE, _OVERRIDE, _AGREED = range(5)
_WORTH = (
    (Confidence.NONE, Confidence.NONE),
    (Confidence.LOW, Confidence.LOW),
    (Confidence.MEDIUM, Confidence.LOW),
    (Confidence.MEDIUM, Confidence.MEDIUM),
    (Confidence.HIGH, Confidence.HIGH),
)
_CONFIDENCES = tuple(c.value for c in Confidence)

Stamp = tuple[int, int, int] | None


class Settings(EnricherSettings):
    """Country and network databases."""

    country: Path | None = Field(
        None, description="Country database (MMDB); default: the one that `sekisho db install` put in place"
    )
    network: Path | None = Field(None, description="AS number database (MMDB); default as for country")
    canaries: tuple[IPv4Address | IPv6Address, ...] = Field(
        tuple(IPv4Address(a) if "." in a else IPv6Address(a) for a in _CANARIES),
        description="Addresses that a new database must still know if the old one did, or it is not taken up",
    )
    cache: bool = Field(True, description="Keep built tables on disk, so that the next start is quick")

    def build(self, context: Context) -> Geo:
        """The enricher, its databases loaded."""
        folder = context.state_dir / "databases"
        paths: dict[Kind, Path] = {
            "country": self.country or folder / "country.mmdb",
            "network": self.network or folder / "network.mmdb",
        }
        geo = Geo(
            paths,
            overrides=context.policy.overrides if context.policy is not None else (),
            canaries=[str(a) for a in self.canaries],
            cache=context.state_dir / "cache" / "ranges" if self.cache else None,
        )
        geo.reload()
        return geo


@dataclass(frozen=True, slots=True)
class _Answers:
    """Everything that one look-up needs, swapped in one step."""

    table: RangeTable
    databases: Mapping[Kind, Database]
    """Their frames only, without content."""


class Geo:
    """Adds ``remote_country``, ``remote_asn``, ``remote_as_org`` and ``location_confidence`` by ``remote_address``."""

    name = "geo"
    reads = frozenset({"remote_address"})
    adds = frozenset({"remote_country", "remote_asn", "remote_as_org", "location_confidence"})

    def __init__(
        self,
        paths: Mapping[Kind, Path],
        *,
        overrides: Sequence[Override] = (),
        canaries: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        self._paths = dict(paths)
        self._overrides = tuple(overrides)
        self._canaries = tuple(canaries)
        self._cache = cache
        self._answers: _Answers | None = None
        self._placeless: Placeless | None = None
        self._looked: dict[Kind, Stamp] | None = None
        self._faults: tuple[str, ...] = ()
        self._kept = False
        """Whether they are about a database that was not taken up, for the last good one to go on answering."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with its databases now, one sentence each; empty when all is well."""
        return self._faults

    def enrich(self, batch: FlowBatch) -> FlowBatch:
        """The same rows with place and network filled in; ``location_confidence`` is never null."""
        answers = self._answers
        if answers is None:
            return batch
        addresses = batch["remote_address"]
        rows = answers.table.find(addresses)
        return batch.with_columns(
            remote_country=answers.table.take("country", rows),
            remote_asn=answers.table.take("asn", rows),
            remote_as_org=answers.table.take("as_org", rows),
            location_confidence=Text(_worth(answers.table, addresses, rows), _CONFIDENCES),
        )

    def reload(self) -> bool:
        """Take up databases whose file changed (inode, time or size). Keeps the last good ones on a fault.

        Blocks for as long as building takes (a second for two databases of the usual size), tens of milliseconds if
        the table is in the cache. Raises :class:`EnrichError` only for the list of anycast networks in the package.
        """
        stamps = {kind: _stamp(path) for kind, path in self._paths.items()}
        if stamps == self._looked:
            return False
        self._looked = stamps
        had = self._answers.databases if self._answers else {}
        faults: list[str] = []
        databases: dict[Kind, Database] = {}
        for kind in KINDS:
            try:
                databases[kind] = self._open(kind, stamps[kind])
            except EnrichError as error:
                faults.append(str(error))
                if kind in had:
                    return self._keep(str(error))
        table = self._build(databases, faults)
        if table is None:
            return False
        frames = {kind: _frame(database) for kind, database in databases.items()}
        changed = self._answers is None or _hashes(frames) != _hashes(had)
        self._answers, self._faults, self._kept = _Answers(table, frames), tuple(faults), False
        return changed

    def versions(self) -> dict[str, str]:
        """``country``, ``network`` and ``anycast``: name, day and hash of what answers; ``none`` where nothing does."""
        databases = self._answers.databases if self._answers else {}
        found: dict[str, str] = {k: databases[k].version if k in databases else "none" for k in KINDS}
        if self._placeless is not None:
            found["anycast"] = self._placeless.version
        return found

    def troubles(self, now_ns: int) -> tuple[Event, ...]:
        """Databases that are missing or cannot be read, refused in favour of the last good one, or older than
        ``STALE_DAYS``."""
        name = "database_refused" if self._kept else "database_missing"
        found = [Event(name=name, severity=Severity.LOW, detail={"reason": fault}) for fault in self._faults]
        for kind, days in self.age_days(now_ns).items():
            if days > STALE_DAYS:
                found.append(
                    Event(
                        name="database_aged", severity=Severity.LOW, detail={"database": kind, "days": days}
                    )
                )
        return tuple(found)

    def age_days(self, now_ns: int) -> dict[str, int]:
        """Whole days since each database was built, where it says when. Over ``STALE_DAYS`` people should be told."""
        databases = self._answers.databases if self._answers else {}
        return {
            kind: (now_ns - d.built_s * SECOND_NS) // DAY_NS
            for kind, d in databases.items()
            if d.built_s is not None
        }

    def _open(self, kind: Kind, stamp: Stamp) -> Database:
        path = self._paths[kind]
        if stamp is None:
            raise EnrichError(f"{path}: there is no {kind} database; run `sekisho db install`")
        return open_database(path)

    def _keep(self, fault: str) -> bool:
        self._faults = (f"{fault}; the last good databases still answer",)
        self._kept = True
        return False

    def _build(self, databases: dict[Kind, Database], faults: list[str]) -> RangeTable | None:
        """The table of these databases; at the start, one that cannot be read is taken out and its fault noted.

        None if the table that answers now must stay.
        """
        self._placeless = self._placeless or Placeless.read()
        while True:
            try:
                table = self._cached(databases, self._placeless)
            except _BadDatabaseError as bad:
                if self._answers and bad.kind in self._answers.databases:
                    self._keep(str(bad))
                    return None
                faults.append(str(bad))
                del databases[bad.kind]
                continue
            if silent := self._silent(table):
                self._keep(silent)
                return None
            return table

    def _cached(self, databases: Mapping[Kind, Database], placeless: Placeless) -> RangeTable:
        cache = self._cache if databases else None  # overrides alone are built in no time
        hashes = " ".join(f"{kind}={d.sha256}" for kind, d in databases.items())
        overrides = "\n".join(o.model_dump_json() for o in self._overrides)
        digest = hashlib.sha256(overrides.encode()).hexdigest()

        def base() -> RangeTable:
            return merge([_checked(kind, d) for kind, d in databases.items()]) if databases else _nothing()

        def whole() -> RangeTable:
            found = cached(cache, f"base {hashes}", base)
            return placed(found, placeless, self._overrides)

        return cached(cache, f"geo {hashes} {placeless.version} overrides={digest}", whole)

    def _silent(self, table: RangeTable) -> str:
        """The canary that the table in force knows and the new one does not, in words; empty if there is none."""
        if self._answers is None or not self._canaries:
            return ""
        addresses = parse(self._canaries)
        for fact in ("country", "asn"):
            old, new = (_known(t, fact, t.find(addresses)) for t in (self._answers.table, table))
            for canary in np.flatnonzero(old & ~new).tolist():
                return f"the new databases know no {fact} of {self._canaries[canary]}, which the old ones did"
        return ""


_WORTH_CODES = np.array([[_CONFIDENCES.index(c) for c in pair] for pair in _WORTH], np.int32)


class _BadDatabaseError(EnrichError):
    def __init__(self, kind: Kind, message: str) -> None:
        self.kind: Kind = kind
        super().__init__(message)


def placed(base: RangeTable, placeless: Placeless, overrides: Sequence[Override]) -> RangeTable:
    """The databases' table with places taken from what has none, and the overrides on top."""
    never = np.array([2 if n else 1 for n in placeless.never], np.int64)
    aliases = tuple(dict.fromkeys((SIX_TO_FOUR, *base.aliases)))
    nowhere = from_networks(placeless.networks, {"placeless": never}, aliases)
    table = merge([base, nowhere, _override_table(overrides, aliases)])
    return recast(table, _final(table))


def location_confidence(table: RangeTable, addresses: Addresses) -> list[Confidence]:
    """How far to trust each address's country in a table that :func:`placed` made. For few addresses."""
    codes = _worth(table, addresses, table.find(addresses)).tolist()
    return [Confidence(_CONFIDENCES[code]) for code in codes]


def _worth(table: RangeTable, addresses: Addresses, rows: NDArray[np.int32]) -> NDArray[np.int32]:
    level = np.maximum(np.asarray(table.take("level", rows)), _NONE)
    return np.asarray(_WORTH_CODES[level, (~is_v4(addresses)).astype(np.intp)])


def _override_table(overrides: Sequence[Override], aliases: Sequence[Alias]) -> RangeTable:
    columns: dict[str, ColumnData] = {
        "override_country": Text.of(o.country for o in overrides),
        "override_asn": np.array([-1 if o.asn is None else o.asn for o in overrides], np.int64),
        "override_as_org": Text.of(o.as_org for o in overrides),
        "override_anycast": np.array([int(o.anycast) for o in overrides], np.int64),
    }
    return from_networks([o.network for o in overrides], columns, aliases)


def _final(table: RangeTable) -> dict[str, ColumnData]:
    """What is said in the end about each combination: ``country``, ``asn``, ``as_org`` and ``level``."""
    rows = {name: _codes(table, name) for name in ("asn", "placeless", "override_asn", "override_anycast")}
    (place, registrant, stated), countries = _joined(table, "country", "registered", "override_country")
    (org, stated_org), orgs = _joined(table, "as_org", "override_as_org")
    nowhere = (rows["placeless"] > 0) | (rows["override_anycast"] > 0)
    place, registrant = (np.where(nowhere, np.int32(-1), c) for c in (place, registrant))
    stated = np.where(rows["placeless"] == 2, np.int32(-1), stated)
    country = np.select([stated >= 0, place >= 0], [stated, place], registrant)
    level = np.select(
        [(stated >= 0) & (stated == place), stated >= 0, place >= 0, registrant >= 0],
        [_AGREED, _OVERRIDE, _DATABASE, _REGISTRANT],
        _NONE,
    )
    # An organisation belongs to its AS number: with another number, the database's name would be a wrong one.
    foreign = (rows["override_asn"] >= 0) & (rows["override_asn"] != rows["asn"])
    as_org = np.select([stated_org >= 0, foreign], [stated_org, np.int32(-1)], org)
    return {
        "country": Text(country.astype(np.int32), countries),
        "asn": np.where(rows["override_asn"] >= 0, rows["override_asn"], rows["asn"]),
        "as_org": Text(as_org.astype(np.int32), orgs),
        "level": level.astype(np.int64),
    }


def _codes(table: RangeTable, name: str) -> NDArray[np.int64]:
    found = table.rows.get(name)
    return np.full(len(table), -1, np.int64) if found is None else np.asarray(found)


def _joined(table: RangeTable, *names: str) -> tuple[list[NDArray[np.int32]], tuple[str, ...]]:
    """Text facts coded in one dictionary, so that their codes can be compared and mixed."""
    texts = [
        f if isinstance(f := table.rows.get(name), Text) else Text.full(len(table), None) for name in names
    ]
    joined = concat_text(texts)
    return np.split(joined.codes, len(names)), joined.values


def _checked(kind: Kind, database: Database) -> RangeTable:
    try:
        return table_of(kind, database)
    except EnrichError as error:
        raise _BadDatabaseError(kind, str(error)) from error


def _nothing() -> RangeTable:
    return from_networks([], {})


def _known(table: RangeTable, fact: str, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
    found = table.take(fact, rows)
    return np.asarray((found.codes if isinstance(found, Text) else found) >= 0)


def _hashes(databases: Mapping[Kind, Database]) -> dict[Kind, str]:
    return {kind: d.sha256 for kind, d in databases.items()}


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _frame(database: Database) -> Database:
    """The database without its content, which is megabytes that are no longer needed."""
    return replace(database, content=b"")
