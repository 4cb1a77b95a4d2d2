"""The registers: what an operator writes down of its own stores, sites and hosts."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from agent.policy.networks import NetworkField
from agent.policy.recognition import Recognition
from agent.policy.values import Entry, Id


class Category(StrEnum):
    """What a store holds, in the words of the rules and laws that the packs cite."""

    HUMAN_GENOMIC = "human_genomic"
    HUMAN_EPIGENOMIC = "human_epigenomic"
    HUMAN_PROTEOMIC = "human_proteomic"
    HUMAN_TRANSCRIPTOMIC = "human_transcriptomic"
    BIOMETRIC = "biometric"
    PRECISE_GEOLOCATION = "precise_geolocation"
    PERSONAL_HEALTH = "personal_health"
    PERSONAL_FINANCIAL = "personal_financial"
    COVERED_IDENTIFIERS = "covered_identifiers"
    GOV_LOCATION = "gov_location"
    GOV_MARKETED = "gov_marketed"
    SPECIAL_CARE = "special_care"
    PERSONAL_GENERAL = "personal_general"
    PROPERTY_DAMAGE_RISK = "property_damage_risk"
    CI_OPERATIONAL = "ci_operational"
    BUSINESS_CRITICAL = "business_critical"
    TRADE_SECRET = "trade_secret"  # noqa: S105  a category, no password
    CONTROLLED_TECHNOLOGY = "controlled_technology"
    PATENT_SECRECY = "patent_secrecy"
    MOBILITY = "mobility"
    RESIDENT = "resident"
    RESEARCH = "research"


class Store(Entry):
    """A place where sensitive data rests: a database, a bucket, a file server."""

    id: Id
    name: str = Field("", description="What people call it")
    categories: tuple[Category, ...] = Field(min_length=1, description="What it holds")
    recognise: Recognition
    holder: Literal["private", "public"] = "private"
    contact: str = Field("", description="Whom to ring, as people say it: team, extension")
    runbook: str = Field("", description="Link or path to what to do")
    subjects: int | None = Field(None, ge=0, description="Persons whose data it holds, as its owner states")
    copy_of: Id | None = Field(None, description="The store that this one is a copy of")
    public_service: bool = Field(False, description="Answers strangers by purpose, such as a public web site")


class Site(Entry):
    """Own networks. An address in one of them is internal and never a destination."""

    id: Id
    networks: tuple[NetworkField, ...] = Field(min_length=1)


class ExpectedHost(Entry):
    """A host that the detector expects to hear from; one of which it hears nothing is told."""

    host: str = Field(min_length=1, max_length=255, description="Its name, as its agent says it")
    no_agent: str = Field("", description="Why it has no agent; its stores are then never told as observed")
    note: str = ""
