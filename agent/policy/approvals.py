"""Approved transfers: what people have agreed to, for how long, how much, and who said so."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from agent.policy.networks import NetworkField
from agent.policy.rules import WindowName
from agent.policy.values import Entry, Id, Octets

Relation = Literal["provision", "vendor", "analysis"]
"""Given to a third party; to one who works for us; to one who analyses for us."""

PROVISIONAL_DAYS: Final = 30
"""Longest that a provisional approval may stand."""


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


class Approval(Entry):
    """A transfer that is agreed to: it is recorded as any other, and tells nobody while it keeps to its limits."""

    id: Id
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
        if self.provisional and (self.valid_to - self.valid_from).days > PROVISIONAL_DAYS:
            said = f"is provisional for {(self.valid_to - self.valid_from).days} days"
            raise wrong(said, f"a provisional approval stands for {PROVISIONAL_DAYS} days at most")
        return self

    def holds_on(self, day: date) -> bool:
        """Whether that UTC day lies within its dates."""
        return self.valid_from <= day <= self.valid_to
