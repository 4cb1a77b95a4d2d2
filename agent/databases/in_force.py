"""What is answered from: the databases and lists that were installed, and those that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from agent.core.clock import DAY_NS, SECOND_NS, Clock, SystemClock
from agent.core.errors import EnrichError
from agent.databases.installing import Status, status
from agent.databases.terms import default
from enrichers import geo
from enrichers.ranges import Database, open_database
from enrichers.ranges.lineages import lineage_of
from enrichers.ranges.lists import AddressList
from enrichers.ranges.sources import PROVIDERS, Sources

LIST = "list"
"""In place of a database's kind: a list that the settings name."""


class InForce(BaseModel):
    """One database or list that answers, or should."""

    model_config = ConfigDict(frozen=True)

    kind: str
    """``country``, ``network``, their ``_witness``, ``providers`` or ``list``."""
    name: str
    file: str
    version: str | None = None
    """UTC day on which it was built, or ``undated``; None if it cannot be read."""
    built_s: int | None = None
    age_days: int | None = None
    """Whole days since it was built; None if it does not say."""
    sha256: str | None = None
    lineage: str | None = None
    """Who first gathered what it says: two of one lineage are one witness. None if that is not on record."""
    source: str = ""
    """Package, path or address it came from."""
    licence: str = ""
    attribution: str = ""
    named_in: str = "installed"
    """``installed`` by `sekisho db`, or ``settings``."""
    installed_ns: int | None = None
    sha256_ok: bool | None = None
    """Whether the file is the one that was installed; None for those that the settings name."""
    fault: str = ""
    """Why it cannot be read; empty if it can."""


def in_force(directory: Path, settings: geo.Settings | None, *, clock: Clock | None = None) -> list[InForce]:
    """What is installed in ``directory``, then what the settings of ``geo`` name besides.

    Raises :class:`EnrichError` for a damaged record or an installed file that is no database; a fault in one that the
    settings name stands in its ``fault``.
    """
    sources = (settings or geo.Settings()).sources(directory)
    now_ns = (clock or SystemClock()).now_ns()
    installed = [_installed(row, sources) for row in status(directory, clock=clock)]
    return [*installed, *_named(sources, directory, now_ns)]


def _installed(row: Status, sources: Sources) -> InForce:
    return InForce(**row.model_dump(), lineage=_lineage(row.kind, row.name, sources))


def _named(sources: Sources, directory: Path, now_ns: int) -> Iterator[InForce]:
    """Databases and lists whose files the settings name."""
    for kind, path in sources.databases.items():
        if path.parent != directory:
            yield _opened(kind, kind, path, now_ns, partial(open_database, path), sources)
    for part, entry in sources.lists.items():
        if entry.file.parent != directory:
            kind_of = PROVIDERS if part == PROVIDERS else LIST
            yield _opened(
                kind_of,
                part.removeprefix(f"{LIST}."),
                entry.file,
                now_ns,
                partial(sources.open_list, part),
                sources,
            )


def _opened(
    kind: str,
    name: str,
    path: Path,
    now_ns: int,
    opened: Callable[[], Database | AddressList],
    sources: Sources,
) -> InForce:
    try:
        found = opened()
    except EnrichError as error:
        return InForce(kind=kind, name=name, file=str(path), named_in="settings", fault=str(error))
    terms = default().terms_of(found.name)
    said = found if isinstance(found, AddressList) else None
    return InForce(
        kind=kind,
        name=found.name,
        file=str(path),
        version=str(found.built or "undated"),
        built_s=found.built_s,
        age_days=None if found.built_s is None else (now_ns - found.built_s * SECOND_NS) // DAY_NS,
        sha256=found.sha256,
        lineage=None if said else _lineage(kind, found.name, sources),
        source=said.source if said else "",
        licence=(said.licence if said else "") or terms.licence,
        attribution=terms.attribution,
        named_in="settings",
    )


def _lineage(kind: str, name: str, sources: Sources) -> str | None:
    """As the settings declare it, else as is on record."""
    if declared := {str(part): said for part, said in sources.lineages.items()}.get(kind):
        return declared
    found = lineage_of(name)
    return found.name if found else None
