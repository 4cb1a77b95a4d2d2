"""Packs: one regime's facts, thresholds, destinations and rules, and who says that it binds."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Literal

from pydantic import Field

from agent.policy.destinations import DestinationSet
from agent.policy.registers import Category
from agent.policy.rules import Rule
from agent.policy.values import Entry, Id


class PackState(StrEnum):
    """Where a regime stands."""

    IN_FORCE = "in_force"
    ENACTED_NOT_IN_FORCE = "enacted_not_in_force"
    PROPOSAL = "proposal"
    HISTORIC = "historic"


class Source(Entry):
    """What a fact rests on. Marks: V rule text read, V2 secondary source, K not verified."""

    cite: str
    read: date | None = None
    mark: Literal["V", "V2", "N", "S", "K"]


class CategoryThreshold(Entry):
    """A regime's own threshold; counts people or devices, so traffic alone can never pass it. None: no number in the text."""

    category: Category
    over: int | None = Field(None, ge=0, description="Strictly more than this many; 0: any number")
    unit: Literal["us_person", "us_device", "person", "record", "byte"] = "person"
    cite: str = Field("", description="Section that gives the number")
    mark: Literal["V", "V2", "N", "S", "K"] = "K"


class Attestation(Entry):
    """A person states that a legal entity is bound by a regime."""

    pack: Id
    entity: str = Field(min_length=1, description="Legal entity that is bound")
    by: str = Field(min_length=1, description="Who says so")
    on: date


class Pack(Entry):
    """One regime's rules. Asleep until attested, except the operator's own."""

    pack: Id
    version: str
    title: str
    state: PackState
    kind: Literal["detect", "report", "inventory"] = "detect"
    valid_from: date | None = None
    valid_to: date | None = None
    needs_attestation: bool = True
    notes: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    thresholds: tuple[CategoryThreshold, ...] = ()
    destinations: tuple[DestinationSet, ...] = ()
    rules: tuple[Rule, ...] = ()
