"""Canaries: look-ups with the answers that must come, asked of new databases and tables of owners before they are in force.

Each asks for an address or an AS number. Only what ``expect`` names is held against the answer; null means that nothing
may be known. ``canaries.yaml`` comes with sekisho; files of one's own are asked besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import cache
from importlib import resources
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.core.errors import Fault, PolicyError
from agent.core.finding import OwnerFact
from agent.databases.book import AddressBook
from agent.policy.document import Document
from agent.policy.holders import Asn
from agent.policy.ownership import Ownership
from agent.policy.placed import Placed
from agent.policy.yamlfile import read, validate


class Expected(BaseModel):
    """The answers; what is not given is not looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    country: str | None = Field(None, description="Where the address is")
    asn: int | None = None
    provider: str | None = None
    owner: str | None = Field(None, description="Id of the ultimate owner")
    owner_country: str | None = Field(None, description="Country of its head office")
    disputed: bool | None = None
    review: bool | None = None


class Canary(BaseModel):
    """One look-up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: IPv4Address | IPv6Address | None = None
    asn: Asn | None = None
    expect: Expected

    @model_validator(mode="after")
    def _asks_one(self) -> Canary:
        if (self.address is None) == (self.asn is None):
            raise ValueError("ask for either an address or an AS number")
        if not self.expect.model_fields_set:
            raise ValueError("expects nothing")
        if self.asn is not None and self.expect.model_fields_set & {"country", "asn"}:
            raise ValueError("an AS number alone has no place and no other number")
        return self


class CanaryFile(BaseModel):
    """A file of canaries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    canaries: tuple[Canary, ...]


Canaries = Sequence[Placed[Canary]]


def read_canaries(paths: Iterable[Path] = ()) -> Canaries:
    """Those that come with sekisho and those of some files; of two that ask for the same the later one counts. Raises
    :class:`PolicyError` with every fault."""
    documents, faults = [_shipped()], list[Fault]()
    for path in paths:
        try:
            documents.append(read(path, kind=PolicyError))
        except PolicyError as error:
            faults += error.faults
    found: dict[object, Placed[Canary]] = {}
    for document in documents:
        try:
            file = validate(CanaryFile, document, kind=PolicyError)
        except PolicyError as error:
            faults += error.faults
            continue
        for i, one in enumerate(file.canaries):
            found[one.address or one.asn] = Placed("", one, document, ("canaries", i))
    if faults:
        raise PolicyError(faults)
    return list(found.values())


def unmet(canaries: Canaries, ownership: Ownership, book: AddressBook | None, today: date) -> Iterator[Fault]:
    """A fault for each canary that has another answer. Without a ``book`` those that ask for an address are left out."""
    for placed in canaries:
        one = placed.value
        if one is None or (one.address is not None and book is None):
            continue
        said = _said(one, ownership, book, today)
        for name in sorted(one.expect.model_fields_set):
            expected = getattr(one.expect, name)
            if said[name] != expected:
                asked = one.address if one.address is not None else f"AS{one.asn}"
                told = f"{asked} has {name.replace('_', ' ')} {_word(said[name])}, expected {_word(expected)}"
                yield placed.fault(told, "mend the data, or the canary if it is out of date")


def _said(canary: Canary, ownership: Ownership, book: AddressBook | None, today: date) -> dict[str, Any]:
    if canary.address is None or book is None:
        return _owned(ownership.fact(asn=canary.asn, as_org=None, today=today))
    facts = book.who(str(canary.address), today=today)
    return {"country": facts.country, "asn": facts.asn, **_owned(facts.owner)}


def _owned(fact: OwnerFact) -> dict[str, Any]:
    return {
        "provider": fact.provider or None,
        "owner": fact.owner_id or None,
        "owner_country": fact.owner_country,
        "disputed": fact.disputed,
        "review": fact.review,
    }


def _word(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@cache
def _shipped() -> Document:
    text = (resources.files("agent.databases") / "canaries.yaml").read_text(encoding="utf-8")
    return read(text, name="canaries.yaml", kind=PolicyError, ours=True)
