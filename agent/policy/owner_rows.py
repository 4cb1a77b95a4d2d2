"""The ownership table resolved: for each holder's networks who decides over them in the end, and what that rests on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from agent.policy.graph import Graph
from agent.policy.holders import WEAKNESS, WHOLE, Designation, Holding, Mark, Owner, Stake, percent, weaker

_US = "US"


class OwnerRow(BaseModel):
    """One line of the table: networks of one holder with all that is on record of their ultimate owner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asns: tuple[int, ...]
    provider: str
    provider_name: str
    organisation: str
    organised_in: str | None
    holder: str
    """The owner that holds the network itself; stakes lead from there to ``owner``."""
    owner: str
    owner_name: str
    owner_country: str | None
    share: str
    state_control: bool
    designations: tuple[Designation, ...]
    mark: Mark
    """Of the owner's own facts and of the stakes that lead to it: the weakest."""
    link: Mark
    """Of the step from the network to the holder."""
    source: str
    checked: date
    disputed: bool
    review: bool
    note: str
    steps: tuple[Stake, ...] = ()
    """Every stake above the holder."""

    @property
    def weakest(self) -> Mark:
        """The weaker of the two marks: what an alert prints."""
        return max(self.mark, self.link, key=WEAKNESS.__getitem__)


@dataclass(frozen=True, slots=True)
class Columns:
    """The resolved table by network, for whole batches. All of one length, sorted by AS number."""

    asns: NDArray[np.int64]
    row: NDArray[np.int32]
    """Index into :attr:`Ownership.rows`."""

    def find(self, asns: NDArray[np.int64]) -> NDArray[np.int32]:
        """The row of each AS number; -1 where it has none. Shape (n,)."""
        if not len(self.asns):
            return np.full(len(asns), -1, np.int32)
        place = np.minimum(np.searchsorted(self.asns, asns), len(self.asns) - 1)
        return np.where(self.asns[place] == asns, self.row[place], np.int32(-1))


def row_of(holding: Holding, graph: Graph) -> OwnerRow:
    """The line of one holder's networks."""
    holder = graph.owners[holding.owner]
    found = resolved(graph, holder, holding.checked)
    abroad = holding.organised_in == _US and found["owner_country"] not in (None, _US)
    found |= {
        "share": holding.share or found["share"],
        "disputed": found["disputed"] or holding.disputed,
        "note": "; ".join(note for note in (holding.note, found["note"]) if note),
    }
    return OwnerRow(
        asns=holding.asns,
        provider=holding.provider,
        provider_name=holding.provider_name,
        organisation=holding.organisation,
        organised_in=holding.organised_in,
        holder=holder.id,
        link=holding.link or holder.mark,
        review=abroad if holding.review is None else holding.review,
        steps=graph.chain(holder.id),
        **found,
    )


def resolved(graph: Graph, holder: Owner, checked: date | None) -> dict[str, Any]:
    """What is on record of the ultimate owner of a company, by the steps that lead there: the weakest mark, the oldest
    date, the sources of each."""
    walk = graph.walk(holder.id)
    passed = [holder, *(graph.owners[step.by] for step in walk)]
    top = passed[-1]
    facts: tuple[Owner | Stake, ...] = (top, *walk)
    parts = [step.share for step in walk]
    notes = [*(step.note for step in walk), *(owner.note for owner in reversed(passed))]
    effective = WHOLE
    for part in parts:
        effective = effective * (part or 0) // WHOLE
    return {
        "owner": top.id,
        "owner_name": top.name,
        "owner_country": top.country,
        "share": percent(effective) if walk and None not in parts else top.share,
        "state_control": any(owner.state_control for owner in passed),
        "designations": tuple(dict.fromkeys(d for owner in reversed(passed) for d in owner.designations)),
        "mark": weaker(top.mark, *(step.mark for step in walk)),
        "source": "; ".join(dict.fromkeys(fact.source for fact in facts)),
        "checked": min(d for d in (*(o.checked for o in passed), *(s.checked for s in walk), checked) if d),
        "disputed": any(owner.disputed for owner in passed),
        "note": "; ".join(dict.fromkeys(note for note in notes if note)),
    }


def common(a: OwnerRow, b: OwnerRow) -> OwnerRow:
    """What two rows of one provider have in common."""
    return a.model_copy(
        update={
            "asns": (*a.asns, *b.asns),
            "organisation": a.organisation if a.organisation == b.organisation else "",
            "organised_in": a.organised_in if a.organised_in == b.organised_in else None,
            "share": a.share if a.share == b.share else "",
            "link": max(a.link, b.link, key=WEAKNESS.__getitem__),
            "checked": min(a.checked, b.checked),
            "review": a.review and b.review,
            "note": a.note if a.note == b.note else "",
        }
    )
