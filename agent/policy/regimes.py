"""Packs: one regime's facts, thresholds, windows, destinations, exemptions, clocks and rules, and who says that it binds."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from agent.policy.citing import Cited, Fact, Mark, SaidField, Source
from agent.policy.clocks import Report
from agent.policy.destinations import DestinationSet
from agent.policy.faults import wrong
from agent.policy.registers import Category
from agent.policy.rules import Rule
from agent.policy.values import Entry, Id, ZoneName

__all__ = [
    "Attestation",
    "CategoryThreshold",
    "EventTest",
    "Exemption",
    "Mark",
    "Pack",
    "PackState",
    "PackWindow",
    "Source",
]


class PackState(StrEnum):
    """Where a regime stands."""

    IN_FORCE = "in_force"
    ENACTED_NOT_IN_FORCE = "enacted_not_in_force"
    PROPOSAL = "proposal"
    HISTORIC = "historic"


class PackDate(Cited):
    """A day on which something of the regime changes."""

    on: date
    says: SaidField


class CategoryThreshold(Cited):
    """A regime's own number for a category; counts people or devices, so traffic alone can never pass it.

    Neither ``over`` nor ``at_least``: the text has no number.
    """

    category: Category
    over: int | None = Field(None, ge=0, description="Strictly more than this many; 0: any number")
    at_least: int | None = Field(None, ge=1, description="This many or more")
    unit: Literal["us_person", "us_device", "person", "record", "byte"] = "person"
    role: Literal["trigger", "marks_store"] = Field(
        "trigger", description="`marks_store`: says what kind of store it is, and triggers nothing"
    )
    only_if: str = Field("", description="Word of the attestation with which it holds")

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if self.over is not None and self.at_least is not None:
            raise wrong("holds both `over` and `at_least`", "keep the one that the text says")
        return self


class EventTest(Cited):
    """A number of the regime that is not about a category of data: money, users, minutes. Never measured from traffic."""

    id: Id
    says: SaidField
    value: int | None = Field(None, ge=0)
    unit: Literal[
        "", "eur", "percent_of_turnover", "percent_of_users", "user", "person", "minute", "hour", "event"
    ] = ""

    @model_validator(mode="after")
    def _number_and_unit(self) -> Self:
        if (self.value is None) != (self.unit == ""):
            raise wrong("a number needs a unit, and a unit a number", "give both `value` and `unit`, or none")
        return self


class PackWindow(Cited):
    """Over which time the regime counts."""

    kind: Literal["rolling", "calendar_year", "single_event", "recurring"]
    length: Annotated[str, StringConstraints(pattern=r"^P[1-9]\d*[MDY]$")] | None = Field(
        None, description="ISO 8601, such as P12M; of rolling and recurring windows"
    )
    per: tuple[Literal["operator_entity", "counterparty_entity", "cause"], ...] = Field(
        (), description="What is summed together"
    )
    says: SaidField | None = None

    @model_validator(mode="after")
    def _length_where_it_moves(self) -> Self:
        if (self.kind in ("rolling", "recurring")) != (self.length is not None):
            raise wrong(
                f"`length` and the kind `{self.kind}` do not fit",
                "rolling and recurring windows have a length such as P12M, others none",
            )
        return self


Need = Literal["approver", "reason", "store", "destination", "cap", "expires"]
NEEDS: tuple[Need, ...] = ("approver", "reason", "store", "destination", "cap", "expires")
"""What every use of an exemption has to state: who, why, what, to whom, how much at most, until when."""


class Exemption(Cited):
    """What the regime leaves out. A person attests it, for one scope, under a cap, until a day; traffic never shows it."""

    id: Id
    says: SaidField
    needs: tuple[Need, ...] = Field(NEEDS, description="What its use has to state; all of these, always")
    keeps: tuple[str, ...] = Field((), description="Duties that stay in spite of it, by section")
    not_for: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _never_open(self) -> Self:
        if missing := sorted(set(NEEDS) - set(self.needs)):
            raise wrong(
                f"an exemption without {', '.join(missing)} has no end or no bounds",
                f"`needs` holds all of: {', '.join(NEEDS)}",
            )
        return self


class PackWord(Entry):
    """A word on an entity or an incident, because the regime treats such a one in another way."""

    id: Id
    says: SaidField
    about: Literal["entity", "incident"] = Field(
        "entity", description="entity: an attestation may carry it; incident: a person's report may"
    )
    sleeps: bool = Field(False, description="With it the regime does not bind, so the pack stays asleep")


class Attestation(Entry):
    """A person states that a legal entity is bound by a regime."""

    pack: Id
    entity: str = Field(min_length=1, description="Legal entity that is bound")
    by: str = Field(min_length=1, description="Who says so")
    on: date
    words: tuple[Id, ...] = Field(
        (), description="What the pack asks about the entity, such as `public_body`"
    )


class Pack(Entry):
    """One regime's rules. Asleep until attested, except the operator's own."""

    pack: Id
    version: str = Field(min_length=1)
    title: SaidField
    state: PackState
    kind: Literal["detect", "report", "inventory"] = Field(
        "detect", description="detect: its rules may find; report: clocks for a case; inventory: lists"
    )
    advisory: bool = Field(False, description="Its rules are the operator's own caution, no duty")
    replaces: str = Field("", description="Version of the shipped pack of this id in whose place it stands")
    valid_from: date | None = None
    valid_to: date | None = None
    zone: ZoneName | None = Field(None, description="Zone of its calendar days and years, such as Asia/Tokyo")
    needs_attestation: bool = True
    words: tuple[PackWord, ...] = Field((), description="Words that the pack asks for")
    categories: tuple[Category, ...] = Field((), description="What its stores hold; none: any")
    notes: tuple[SaidField, ...] = ()
    sources: tuple[Source, ...] = Field(min_length=1, description="Texts that it was written from")
    dates: tuple[PackDate, ...] = ()
    facts: tuple[Fact, ...] = ()
    thresholds: tuple[CategoryThreshold, ...] = ()
    combined: Fact | None = Field(None, description="How thresholds of several categories are joined")
    events: tuple[EventTest, ...] = Field((), description="Numbers that are not about a category")
    windows: tuple[PackWindow, ...] = ()
    destinations: tuple[DestinationSet, ...] = ()
    exemptions: tuple[Exemption, ...] = ()
    reports: tuple[Report, ...] = ()
    retention: tuple[Fact, ...] = Field((), description="How long what is kept")
    rules: tuple[Rule, ...] = ()
