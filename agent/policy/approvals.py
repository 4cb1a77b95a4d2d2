"""Approved transfers: what people have agreed to, for how long, how much, and who said so."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from agent.policy.destinations import DestinationSet
from agent.policy.networks import NetworkField
from agent.policy.rules import Rule, WindowName
from agent.policy.values import Entry, Id, Octets

Relation = Literal["provision", "vendor", "analysis"]
"""Given to a third party; to one who works for us; to one who analyses for us."""

CAP: Final = "over-approval."
"""Begins the id of a rule that watches an approval's cap."""
MOST_ID: Final = 40
"""Longest id of an approval: those made from it are ids too."""

PROVISIONAL_DAYS: Final = 30
"""Longest that a provisional approval may stand."""
REVIEW_DAYS: Final = 7
"""A provisional approval is looked at this often."""
ENDS_SOON_DAYS: Final = 14
"""Any other is told of so long before it ends."""


class ApprovedEnd(Entry):
    """The other end that was agreed to. Any line that matches is enough; at least one is needed."""

    entity: str | None = Field(
        None, description="The destination entity as findings name it, such as owner:aws"
    )
    owners: tuple[str, ...] = Field((), description="Ultimate owners, by id of ownership.yaml")
    providers: tuple[str, ...] = ()
    asns: tuple[Annotated[int, Field(ge=1, le=4294967295)], ...] = ()
    networks: tuple[NetworkField, ...] = ()

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not any(getattr(self, name) for name in type(self).model_fields):
            # Loaded when it is needed: what explains faults takes longer to load than all else here.
            from agent.policy.faults import wrong

            raise wrong("names no other end", "name an entity, owners, providers, asns or networks")
        return self

    def as_set(self, set_id: str) -> DestinationSet:
        """The same as a destination set. A disputed owner never belongs to it, nor one whose row says `review`."""
        kind, _, name = (self.entity or "").partition(":")
        return DestinationSet(
            id=set_id,
            owners=(*self.owners, *((name,) if kind == "owner" else ())),
            providers=(*self.providers, *((name,) if kind == "provider" else ())),
            asns=(*self.asns, *((int(name),) if kind == "as" else ())),
            networks=self.networks,
        )


class Approval(Entry):
    """A transfer that is agreed to: it is recorded as any other, and tells nobody while it keeps to its limits."""

    id: Annotated[Id, StringConstraints(max_length=MOST_ID)]
    title: str = ""
    stores: tuple[Id, ...] = Field(min_length=1, description="Stores or groups of stores that may send")
    destination: ApprovedEnd
    processes: tuple[str, ...] = Field(
        (), description="Process names that may send, such as pg_receivewal; none named means any"
    )
    initiator: Literal["local", "remote", "any"] = "any"
    basis: str = Field(min_length=1, description="Why it is allowed: contract, consent, law")
    approver: str = Field(min_length=1, description="Who approved it, by name")
    approved_on: date | None = None
    reviewed_on: date | None = Field(
        None,
        description=f"Last day on which somebody looked; a provisional one is due every {REVIEW_DAYS} days",
    )
    cap: Octets = Field(
        gt=0, description="Content octets in each `window`; more than this tells people again"
    )
    window: WindowName = "24h"
    valid_from: date = Field(description="First day on which it holds, UTC")
    valid_to: date = Field(description="Last day on which it holds, UTC")
    ticket: str = Field("", description="Link or number of the change ticket")
    relation: Relation | None = Field(None, description="What the other end is to us")
    provisional: bool = Field(
        False,
        description=f"Agreed to for the time being, at most {PROVISIONAL_DAYS} days, until somebody has looked",
    )
    note: str = ""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        from agent.policy.faults import wrong

        if self.valid_to < self.valid_from:
            raise wrong(
                f"ends {self.valid_to}, before it begins ({self.valid_from})",
                "give `valid_from` and `valid_to` in order",
            )
        if todo := [name for name in ("basis", "approver") if getattr(self, name).strip().upper() == "TODO"]:
            said = f"still has TODO as {' and '.join(f'`{name}`' for name in todo)}"
            raise wrong(said, "only a person can say why it is allowed, and approve it by name")
        if self.provisional and (self.valid_to - self.valid_from).days > PROVISIONAL_DAYS:
            said = f"is provisional for {(self.valid_to - self.valid_from).days} days"
            raise wrong(said, f"a provisional approval stands for {PROVISIONAL_DAYS} days at most")
        return self

    @property
    def set_id(self) -> str:
        """Id of the destination set that stands for its other end."""
        return f"approved.{self.id}"

    @property
    def cap_id(self) -> str:
        """Id of the rule that finds what goes over its cap."""
        return f"{CAP}{self.id}"

    @property
    def review_on(self) -> date | None:
        """The day from which somebody should look at it; None for one that is not provisional."""
        if not self.provisional:
            return None
        return (self.reviewed_on or self.approved_on or self.valid_from) + timedelta(days=REVIEW_DAYS)

    def due(self, today: date) -> tuple[str, ...]:
        """Why a person should look at it, by its dates: ``review``, ``ending``, ``ended``."""
        left = (self.valid_to - today).days
        if left < 0:
            return ("ended",)
        review = ("review",) if self.review_on is not None and today >= self.review_on else ()
        is_ending = left <= ENDS_SOON_DAYS and not self.provisional
        return (*review, "ending") if is_ending else review

    def cap_rule(self) -> Rule:
        """The rule that finds what goes over its cap; no approval holds that one back."""
        return Rule(
            id=self.cap_id,
            title=f"More than approval {self.id} allows",
            stores=self.stores,
            destinations=(self.set_id,),
            initiator=self.initiator,
            over=self.cap,
            window=self.window,
        )

    def holds_on(self, day: date) -> bool:
        """Whether that UTC day lies within its dates."""
        return self.valid_from <= day <= self.valid_to
