"""What ``default.yaml`` says: which databases are the default, and under which terms known ones come."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict

from agent.core.shipped import shipped
from enrichers.ranges.facts import Kind


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Package(_Row):
    """The Python package that carries the files."""

    name: str
    version: str
    sha256: str
    size: str


class Member(_Row):
    """One file in the package."""

    member: str
    sha256: str
    """Of the file taken out of its container."""
    canaries: Mapping[str, str | int]
    """Addresses whose answer is known."""


class Terms(_Row):
    """What a database's maker asks for."""

    licence: str = ""
    attribution: str = ""


class Ranges(_Row):
    """The package of provider ranges, and the one file taken out of it."""

    package: Package
    file: Member


class Default(_Row):
    """The file."""

    version: int
    package: Package
    files: Mapping[Kind, Member]
    witnesses: Mapping[Kind, Member] = {}
    """Second databases of another lineage in the same package; taken only where asked for."""
    ranges: Ranges | None = None
    terms: Mapping[str, Terms]

    def terms_of(self, name: str) -> Terms:
        """The terms of a database by its name; empty if it is none of those known."""
        return next((t for beginning, t in self.terms.items() if name.startswith(beginning)), Terms())


@cache
def default() -> Default:
    """The file in the package."""
    text = (resources.files(__package__) / "default.yaml").read_text(encoding="utf-8")
    return Default.model_validate(shipped(text))
