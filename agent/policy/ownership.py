"""The ownership table: which organisation holds a network, who runs it, and who owns them in the end.

Curated by hand in ``ownership.yaml``, whose head explains the fields and marks. A row never says where an address is.
``python -m agent.policy.ownership`` writes the table as Markdown (``docs/ownership.md``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from agent.core.errors import Fault, PolicyError
from agent.core.finding import OwnerFact
from agent.policy.document import Document
from agent.policy.faults import nearest
from agent.policy.model import Country, Id, Override
from agent.policy.yamlfile import read, validate

Mark = Literal["V", "V2", "N", "S", "K"]
_WEAKNESS: Mapping[str, int] = {"V": 0, "S": 1, "N": 2, "V2": 3, "K": 4}
OVERRIDE_MARK = "O"
"""Mark of a fact that an operator's override file states."""
STALE_MONTHS = 12


def _day(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


Day = Annotated[
    str, BeforeValidator(_day), StringConstraints(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")
]  # a list's source may give the month alone
Asn = Annotated[int, Field(ge=1, le=4294967295)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Designation(_Row):
    """A list that names an owner."""

    name: str = Field(alias="list", min_length=1)
    since: Day | None = Field(None, alias="from")
    until: Day | None = Field(None, alias="to")

    def __str__(self) -> str:
        since = f" from {self.since}" if self.since else ""
        return f"{self.name}{since}" + (f" to {self.until}" if self.until else "")


class Owner(_Row):
    """An ultimate owner."""

    id: Id
    name: str = Field(min_length=1)
    country: Country | None = Field(None, description="Country of its head office")
    share: str = ""
    state_control: bool = False
    designations: tuple[Designation, ...] = ()
    mark: Mark
    source: str = Field(min_length=1)
    checked: date
    disputed: bool = False
    note: str = ""


class Holding(_Row):
    """Networks of one holder, and the step from there to the owner."""

    asns: tuple[Asn, ...] = Field(min_length=1)
    provider: Id
    provider_name: str = Field(min_length=1)
    organisation: str = Field(min_length=1, description="Registered organisation")
    organised_in: Country | None = None
    owner: Id
    link: Mark | None = Field(None, description="How well the step from holder to owner was verified")
    share: str = ""
    checked: date | None = None
    disputed: bool = False
    review: bool = False
    note: str = ""


class OwnershipFile(_Row):
    """The ownership table as it is written."""

    version: Literal[1]
    updated: date
    owners: tuple[Owner, ...]
    networks: tuple[Holding, ...]


class OwnerRow(_Row):
    """One line of the table: networks of one holder with all that is on record of their owner."""

    asns: tuple[int, ...]
    provider: str
    provider_name: str
    organisation: str
    organised_in: str | None
    owner: str
    owner_name: str
    owner_country: str | None
    share: str
    state_control: bool
    designations: tuple[Designation, ...]
    mark: Mark
    """Of the owner's own facts."""
    link: Mark
    """Of the step from the holder to the owner."""
    source: str
    checked: date
    disputed: bool
    review: bool
    note: str

    @property
    def weakest(self) -> Mark:
        """The weaker of the two marks: what an alert prints."""
        return max(self.mark, self.link, key=_WEAKNESS.__getitem__)


class Ownership:
    """The table, by network and by provider."""

    def __init__(self, rows: tuple[OwnerRow, ...], owners: Mapping[str, Owner], version: str) -> None:
        self.rows = rows
        self.version = version
        """``ownership 2026-11-21 sha256:0123456789ab``."""
        self._owners = owners
        self._by_asn = {asn: row for row in rows for asn in row.asns}
        self._by_provider: dict[str, OwnerRow] = {}
        for row in rows:
            known = self._by_provider.get(row.provider)
            self._by_provider[row.provider] = row if known is None else _either(known, row)

    @classmethod
    def load(cls, path: Path | None = None) -> Ownership:
        """The table of a file; None is the one that comes with sekisho. Raises :class:`PolicyError` with every fault."""
        return _shipped() if path is None else _build(read(path, kind=PolicyError))

    def asn(self, number: int) -> OwnerRow | None:
        """The row of an autonomous system."""
        return self._by_asn.get(number)

    def provider(self, provider_id: str) -> OwnerRow | None:
        """What all rows of a provider have in common: a country or organisation they do not share is left out."""
        return self._by_provider.get(provider_id)

    def owner(self, owner_id: str) -> Owner | None:
        """An ultimate owner."""
        return self._owners.get(owner_id)

    def fact(
        self,
        *,
        asn: int | None,
        as_org: str | None,
        provider: str | None = None,
        owner: str | None = None,
        today: date,
        override: Override | None = None,
    ) -> OwnerFact:
        """What is on record of one network. What is not on record is empty or None, never guessed.

        A ``provider`` that is not the network's own (a published range, an override) wins over the row of the AS, an
        ``owner`` (an id, or a name that the table does not know) over both, and an ``override`` over all.
        """
        if override is not None:
            asn, as_org = override.asn or asn, override.as_org or as_org
            provider, owner = override.provider or provider, override.owner or owner
        row = self._by_asn.get(asn) if asn is not None else None
        if provider is not None and (row is None or row.provider != provider):
            row = self._by_provider.get(provider)
        if row is None:
            fact = OwnerFact(provider=provider or "", organisation=as_org or "")
        else:
            fact = _of_row(row, as_org, today)
        if owner is not None and owner not in (fact.owner_id, fact.owner):
            fact = fact.model_copy(update=self._of_owner(owner, today))
        return fact if override is None else _overridden(fact, override, today)

    def _of_owner(self, owner: str, today: date) -> dict[str, Any]:
        known = self._owners.get(owner)
        if known is None:
            known_nothing = OwnerFact(owner=owner, owner_id=owner)
            return {name: getattr(known_nothing, name) for name in _OWNERSHIP}
        return {
            "owner": known.name,
            "owner_id": known.id,
            "owner_country": known.country,
            "share": known.share,
            "source": known.source,
            "checked": known.checked.isoformat(),
            "mark": known.mark,
            "designations": tuple(map(str, known.designations)),
            "disputed": known.disputed,
            "stale": is_stale(known.checked, today),
            "review": False,
            "note": known.note,
        }


_OWNERSHIP = (
    "owner",
    "owner_id",
    "owner_country",
    "share",
    "source",
    "checked",
    "mark",
    "designations",
    "disputed",
    "stale",
    "review",
    "note",
)
"""Fields of an owner fact that speak of the owner, not of the operator."""


def is_stale(checked: date, today: date) -> bool:
    """Whether ``checked`` lies more than twelve calendar months before ``today``."""
    months = (today.year - checked.year) * 12 + today.month - checked.month
    return months > STALE_MONTHS or (months == STALE_MONTHS and today.day > checked.day)


def _of_row(row: OwnerRow, as_org: str | None, today: date) -> OwnerFact:
    return OwnerFact(
        provider=row.provider,
        provider_name=row.provider_name,
        organisation=row.organisation or as_org or "",
        organised_in=row.organised_in,
        owner=row.owner_name,
        owner_id=row.owner,
        owner_country=row.owner_country,
        share=row.share,
        source=row.source,
        checked=row.checked.isoformat(),
        mark=row.weakest,
        designations=tuple(map(str, row.designations)),
        disputed=row.disputed,
        stale=is_stale(row.checked, today),
        review=row.review,
        note=row.note,
    )


def _overridden(fact: OwnerFact, override: Override, today: date) -> OwnerFact:
    """The fact with what the override says of it. One that speaks of the owner stands for the whole record of it."""
    changes: dict[str, Any] = {}
    if override.as_org:
        changes["organisation"] = override.as_org
    if override.organised_in:
        changes["organised_in"] = override.organised_in
    if override.owner or override.owner_country:
        changes |= {
            "owner_country": override.owner_country or fact.owner_country,
            "source": override.source,
            "checked": override.checked.isoformat() if override.checked else "",
            "mark": OVERRIDE_MARK,
            "disputed": False,
            "review": False,
            "stale": override.checked is not None and is_stale(override.checked, today),
            "note": override.note,
        }
    return fact.model_copy(update=changes)


def _either(a: OwnerRow, b: OwnerRow) -> OwnerRow:
    """What two rows of one provider have in common."""
    return a.model_copy(
        update={
            "asns": (*a.asns, *b.asns),
            "organisation": a.organisation if a.organisation == b.organisation else "",
            "organised_in": a.organised_in if a.organised_in == b.organised_in else None,
            "share": a.share if a.share == b.share else "",
            "link": max(a.link, b.link, key=_WEAKNESS.__getitem__),
            "checked": min(a.checked, b.checked),
            "review": a.review and b.review,
            "note": a.note if a.note == b.note else "",
        }
    )


@cache
def _shipped() -> Ownership:
    text = (resources.files("agent.policy") / "ownership.yaml").read_text(encoding="utf-8")
    return _build(read(text, name="ownership.yaml", kind=PolicyError, ours=True))


def _build(document: Document) -> Ownership:
    table = validate(OwnershipFile, document, kind=PolicyError)
    faults = list(_faults(table, document))
    if faults:
        raise PolicyError(faults)
    owners = {owner.id: owner for owner in table.owners}
    rows = tuple(_row(holding, owners[holding.owner]) for holding in table.networks)
    return Ownership(rows, owners, f"ownership {table.updated} sha256:{document.digest[:12]}")


def _row(holding: Holding, owner: Owner) -> OwnerRow:
    return OwnerRow(
        asns=holding.asns,
        provider=holding.provider,
        provider_name=holding.provider_name,
        organisation=holding.organisation,
        organised_in=holding.organised_in,
        owner=owner.id,
        owner_name=owner.name,
        owner_country=owner.country,
        share=holding.share or owner.share,
        state_control=owner.state_control,
        designations=owner.designations,
        mark=owner.mark,
        link=holding.link or owner.mark,
        source=owner.source,
        checked=min(owner.checked, holding.checked or owner.checked),
        disputed=owner.disputed or holding.disputed,
        review=holding.review,
        note="; ".join(note for note in (holding.note, owner.note) if note),
    )


def _faults(table: OwnershipFile, document: Document) -> Iterator[Fault]:
    owners: dict[str, int] = {}
    for index, owner in enumerate(table.owners):
        line = document.line_of(("owners", index))
        if owners.setdefault(owner.id, line) != line:
            message = f"owner `{owner.id}` is given twice, first on line {owners[owner.id]}"
            yield document.fault(("owners", index), message, "rename or remove one")
    used = {holding.owner for holding in table.networks}
    for index, owner in enumerate(table.owners):
        if owner.id not in used:
            yield document.fault(("owners", index), f"no network leads to owner `{owner.id}`", "remove it")
    seen: dict[int, int] = {}
    provider: dict[str, Holding] = {}
    for index, holding in enumerate(table.networks):
        line = document.line_of(("networks", index))
        if holding.owner not in owners:
            advice = nearest(holding.owner, sorted(owners))
            yield document.fault(("networks", index, "owner"), f"there is no owner `{holding.owner}`", advice)
        for place, asn in enumerate(holding.asns):
            if asn in seen:
                yield document.fault(
                    ("networks", index, "asns", place),
                    f"AS{asn} is given twice, first on line {seen[asn]}",
                    "an autonomous system stands in one row",
                )
            seen.setdefault(asn, line)
        known = provider.setdefault(holding.provider, holding)
        if (known.owner, known.provider_name, known.disputed) != (
            holding.owner,
            holding.provider_name,
            holding.disputed,
        ):
            yield document.fault(
                ("networks", index, "provider"),
                f"rows of provider `{holding.provider}` differ in owner, name or dispute",
                "give this one another provider id",
            )


def page(ownership: Ownership) -> str:
    """The table as a Markdown page. A country in brackets is where the holder is organised."""
    lines = [
        "# Who owns the network at the other end",
        "",
        "<!-- Made by `python -m agent.policy.ownership`; edit agent/policy/ownership.yaml instead. -->",
        "",
        f"Version {ownership.version}. The head of `agent/policy/ownership.yaml` explains fields and marks; the mark",
        "shown is the weaker of the owner's and of the step that leads to it. Not on record is shown as `-`.",
        "",
        "| AS | holder (organised in) | provider | owner, head office, share | lists | mark | checked | flags | source; note |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(_cells(row))} |" for row in ownership.rows]
    return "\n".join(lines) + "\n"


def _cells(row: OwnerRow) -> Iterator[str]:
    flags = [name for name in ("disputed", "review", "state_control") if getattr(row, name)]
    yield ", ".join(map(str, row.asns))
    yield f"{row.organisation} ({row.organised_in or '-'})".replace("|", "\\|")
    yield f"`{row.provider}`"
    share = f", {row.share}" if row.share else ""
    yield f"{row.owner_name} (`{row.owner}`), {row.owner_country or '-'}{share}".replace("|", "\\|")
    yield "; ".join(map(str, row.designations)) or "-"
    yield row.weakest
    yield row.checked.isoformat()
    yield ", ".join(flags).replace("state_control", "state control") or "-"
    yield (row.source + (f"; {row.note}" if row.note else "")).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page(Ownership.load()))
