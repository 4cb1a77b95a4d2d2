"""The ownership table: which organisation holds a network, who runs it, and who owns them in the end.

Curated by hand in ``ownership.yaml``, whose head explains the fields and marks; an operator's own files win over it. A
row never says where an address is. ``python -m agent.policy.ownership`` writes the table as Markdown
(``docs/ownership.md``).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from agent.core.errors import Fault, PolicyError
from agent.core.finding import OwnerFact, OwnerStep
from agent.policy.document import Document
from agent.policy.graph import Concern, Graph, Held
from agent.policy.holders import Owner, OwnershipFile, Stake, percent, weaker
from agent.policy.model import DestinationSet, Override
from agent.policy.owner_rows import Columns, OwnerRow, common, resolved, row_of
from agent.policy.ownership_faults import Written, across, repeated
from agent.policy.yamlfile import read, validate

OVERRIDE_MARK = "O"
"""Mark of a fact that an operator's override file states."""
STALE_MONTHS = 12
STEPS_TOLD = 20
"""Stakes above one network that are told; the nearest ones."""


class Ownership:
    """The table, by network and by provider, with the graph of owners behind it."""

    def __init__(self, rows: tuple[OwnerRow, ...], graph: Graph, version: str) -> None:
        self.rows = rows
        self.graph = graph
        self.version = version
        """``ownership 2026-11-21 sha256:0123456789ab``."""
        self._by_asn = {asn: row for row in rows for asn in row.asns}
        pairs = sorted((asn, index) for index, row in enumerate(rows) for asn in row.asns)
        numbers = np.array(pairs, np.int64).reshape(len(pairs), 2)
        self.columns = Columns(np.ascontiguousarray(numbers[:, 0]), numbers[:, 1].astype(np.int32))
        self._by_provider: dict[str, OwnerRow] = {}
        for row in rows:
            known = self._by_provider.get(row.provider)
            self._by_provider[row.provider] = row if known is None else common(known, row)

    @classmethod
    def load(
        cls, path: Path | None = None, *, own: Sequence[Path] = (), today: date | None = None
    ) -> Ownership:
        """The table of a file (None: the one that comes with sekisho) with an operator's ``own`` files, which win.

        Dates after ``today`` in files that do not come with sekisho are refused; None looks at no date. Raises
        :class:`PolicyError` with every fault of every file.
        """
        if path is None and not own:
            return _shipped()
        base = _shipped_document() if path is None else read(path, kind=PolicyError)
        return _build(base, own, today, ours=path is None)

    def asn(self, number: int) -> OwnerRow | None:
        """The row of an autonomous system."""
        return self._by_asn.get(number)

    def provider(self, provider_id: str) -> OwnerRow | None:
        """What all rows of a provider have in common: a country or organisation they do not share is left out."""
        return self._by_provider.get(provider_id)

    def owner(self, owner_id: str) -> Owner | None:
        """An owner, ultimate or not."""
        return self.graph.owners.get(owner_id)

    def held(self, fact: OwnerFact, destinations: DestinationSet) -> Held | None:
        """What owners that a destination set names hold of a network's holder together
        (:meth:`agent.policy.graph.Graph.held`); None for one that nobody on record holds a stake in."""
        if not fact.chain or fact.chain[0].of not in self.graph.owners:
            return None
        concern = Concern(
            frozenset(destinations.owners),
            frozenset(destinations.owner_countries),
            frozenset(destinations.organised_in),
        )
        return self.graph.held(fact.chain[0].of, concern)

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
            fact = self._of_row(row, as_org, today)
        if owner is not None and owner not in (fact.owner_id, fact.owner):
            fact = fact.model_copy(update=self._of_owner(owner, today))
        return fact if override is None else _overridden(fact, override, today)

    def _of_owner(self, owner: str, today: date) -> dict[str, Any]:
        known = self.graph.owners.get(owner)
        if known is None:
            known_nothing = OwnerFact(owner=owner, owner_id=owner)
            return {name: getattr(known_nothing, name) for name in _OWNERSHIP}
        return self._of_top(known, today)

    def _of_top(self, holder: Owner, today: date) -> dict[str, Any]:
        """What is on record of who owns a company in the end."""
        row = resolved(self.graph, holder, None)
        steps = self.graph.chain(holder.id)
        return {
            "owner": row["owner_name"],
            "owner_id": row["owner"],
            "owner_country": row["owner_country"],
            "share": row["share"],
            "source": row["source"],
            "checked": row["checked"].isoformat(),
            "mark": row["mark"],
            "designations": tuple(map(str, row["designations"])),
            "disputed": row["disputed"],
            "stale": is_stale(row["checked"], today),
            "review": False,
            "note": row["note"],
            "chain": self._steps(steps, today),
        }

    def _of_row(self, row: OwnerRow, as_org: str | None, today: date) -> OwnerFact:
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
            chain=self._steps(row.steps, today),
        )

    def _steps(self, stakes: Sequence[Stake], today: date) -> tuple[OwnerStep, ...]:
        return tuple(self._step(stake, today) for stake in stakes[:STEPS_TOLD])

    def _step(self, stake: Stake, today: date) -> OwnerStep:
        of, by = self.graph.owners[stake.of], self.graph.owners[stake.by]
        return OwnerStep(
            of=of.id,
            of_name=of.name,
            by=by.id,
            by_name=by.name,
            country=by.country,
            organised_in=by.organised_in,
            state_control=by.state_control,
            share="" if stake.share is None else percent(stake.share),
            votes="" if stake.votes is None else percent(stake.votes),
            decides=stake.counts and stake.decides,
            since=stake.since or "",
            until=stake.until or "",
            source=stake.source,
            checked=stake.checked.isoformat(),
            mark=weaker(stake.mark, by.mark),
            disputed=stake.disputed or by.disputed,
            stale=is_stale(min(stake.checked, by.checked), today),
            note=stake.note,
        )


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
    "chain",
)
"""Fields of an owner fact that speak of the owner, not of the operator."""


def is_stale(checked: date, today: date) -> bool:
    """Whether ``checked`` lies more than twelve calendar months before ``today``."""
    months = (today.year - checked.year) * 12 + today.month - checked.month
    return months > STALE_MONTHS or (months == STALE_MONTHS and today.day > checked.day)


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
            "chain": (),
        }
    return fact.model_copy(update=changes)


@cache
def _shipped_document() -> Document:
    text = (resources.files("agent.policy") / "ownership.yaml").read_text(encoding="utf-8")
    return read(text, name="ownership.yaml", kind=PolicyError, ours=True)


@cache
def _shipped() -> Ownership:
    return _build(_shipped_document(), (), None, ours=True)


def _build(base: Document, own: Sequence[Path], today: date | None, *, ours: bool) -> Ownership:
    documents, faults = [base], list[Fault]()
    files = [(base, validate(OwnershipFile, base, kind=PolicyError))]
    for path in own:
        try:
            document = read(path, kind=PolicyError)
            files.append((document, validate(OwnershipFile, document, kind=PolicyError)))
            documents.append(document)
        except PolicyError as error:
            faults += error.faults
    if faults:
        raise PolicyError(faults)
    first, more = Written.of(files[:1]), Written.of(files[1:])
    faults += [*repeated(first), *repeated(more)]
    whole = first.under(more)
    asked = documents[1:] or documents
    faults += across(whole, asked if ours else documents, today)
    if faults:
        raise PolicyError(sorted(dict.fromkeys(faults), key=lambda fault: (fault.file, fault.line)))
    graph = Graph(
        {o.id: o.value for o in whole.owners if o.value}, [s.value for s in whole.stakes if s.value]
    )
    rows = tuple(row_of(placed.value, graph) for placed in whole.networks if placed.value)
    return Ownership(rows, graph, _version([table for _, table in files], documents))


def _version(files: Sequence[OwnershipFile], documents: Sequence[Document]) -> str:
    digests = [document.digest for document in documents]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return f"ownership {max(table.updated for table in files)} sha256:{digest[:12]}"


if __name__ == "__main__":
    from agent.policy.ownership_page import page

    sys.stdout.write(page(Ownership.load()))
