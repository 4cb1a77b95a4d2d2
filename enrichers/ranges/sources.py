"""Which files the geo enricher and ``sekisho who`` answer from, and the table of the lists among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date as Day  # noqa: N812  a field is called date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.core.errors import EnrichError
from enrichers.ranges.cache import cached
from enrichers.ranges.clouds import Listed, table_of_lists
from enrichers.ranges.facts import Kind
from enrichers.ranges.lineages import Lineage, independent, lineage_of
from enrichers.ranges.lists import AddressList, open_list
from enrichers.ranges.mmdb import Database
from enrichers.ranges.table import RangeTable

PROVIDERS = "providers"
"""Name of the list of provider ranges that ``sekisho db install`` puts in place."""

Flag = Literal["anycast", "cdn", "hosting", "vpn", "tor", "relay"]


class BadSourceError(EnrichError):
    """A source that cannot be read; ``part`` is its name among the sources."""

    def __init__(self, part: str, message: str) -> None:
        self.part = part
        super().__init__(message)


class ListFile(BaseModel):
    """A list of networks, and what the list does not say of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(description="Its path: JSON, CSV or plain text, gzip or not (docs/databases.md)")
    name: str = Field("", description="What to call it; default: what the list says, else its file's name")
    provider: str = Field("", description="Whose ranges they are, where the list does not say")
    flags: tuple[Flag, ...] = Field((), description="What every address in it is, such as tor or vpn")
    source: str = Field("", description="Where it is from")
    date: Day | None = Field(None, description="The day it is of, where the list does not say")
    licence: str = Field("", description="Terms under which it may be used")

    @property
    def key(self) -> str:
        """Under which its version is told."""
        return f"list.{self.name or self.file.name.partition('.')[0]}"


@dataclass(frozen=True, slots=True)
class Sources:
    """Which files are read."""

    databases: Mapping[Kind, Path]
    lists: Mapping[str, ListFile] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    """Parts that may be missing without a word."""
    lineages: Mapping[Kind, str] = field(default_factory=dict)

    def path(self, part: str) -> Path:
        """The file of a part."""
        return self.lists[part].file if part in self.lists else self.databases[part]  # type: ignore[index]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all of them."""
        return (*self.databases, *self.lists)

    def open_list(self, part: str) -> AddressList:
        """A list by its part's name, hashed but not read. Raises :class:`EnrichError`."""
        entry = self.lists[part]
        name = "" if part == PROVIDERS else entry.name
        return open_list(entry.file, name=name, built=entry.date, source=entry.source, licence=entry.licence)

    def key_of(self, lists: Mapping[str, AddressList]) -> str:
        """Names all that the table of these lists depends on."""
        said = ((found, self.lists[part]) for part, found in lists.items())
        return " ".join(f"{found.sha256}={entry.provider}/{'+'.join(entry.flags)}" for found, entry in said)

    def listed(self, lists: Mapping[str, AddressList], cache: Path | None) -> RangeTable:
        """The table of these lists, from the cache if it is there. Raises :class:`EnrichError` with file and line."""

        def build() -> RangeTable:
            read: list[Listed] = []
            for part, found in lists.items():
                entry = self.lists[part]
                try:
                    prefixes, entries = found.read()
                    if entries.says_nothing and not entry.provider and not entry.flags:
                        raise EnrichError(
                            f"{found.path}: says nothing of its networks but that they are; "
                            "add `flags` or `provider` to it in the settings"
                        )
                    read.append(Listed(prefixes, entries, provider=entry.provider, flags=entry.flags))
                except EnrichError as error:
                    raise BadSourceError(part, str(error)) from error
            return table_of_lists(read)

        return cached(cache, f"lists {self.key_of(lists)}", build)

    def independent(self, databases: Mapping[str, Database | AddressList]) -> bool:
        """Whether the second country database is a witness of its own beside the first."""
        return independent(
            self.lineage("country", databases.get("country")),
            self.lineage("country_witness", databases.get("country_witness")),
        )

    def lineage(self, kind: Kind, database: Database | AddressList | None) -> Lineage | None:
        """Who first gathered it: as the settings say, else as is on record."""
        if database is None:
            return None
        declared = self.lineages.get(kind)
        return Lineage(declared) if declared else lineage_of(database.name)
