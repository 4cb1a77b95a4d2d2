"""The registers: what an operator writes down of its own stores, forwarders, sites, legal entities and hosts."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Literal

from pydantic import Field

from agent.policy.networks import NetworkField
from agent.policy.recognition import Recognition
from agent.policy.values import Country, Entry, Id, OctetRange, PortField, Range, ZoneName


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
    groups: tuple[Id, ...] = Field(
        (), description="Names under which rules and approvals may mean it with others"
    )
    holder: Literal["private", "public"] = "private"
    entity: Id | None = Field(
        None, description="The legal entity that answers for it, by its id in `entities`"
    )
    facility: str = Field("", description="The building or data centre in which it stands")
    contact: str = Field("", description="Whom to ring, as people say it: team, extension")
    runbook: str = Field("", description="Link or path to what to do")
    subjects: int | None = Field(None, ge=0, description="Persons whose data it holds, as its owner states")
    subjects_by: str = Field("", description="Who states how many persons")
    subjects_on: date | None = Field(None, description="When they stated it")
    record_octets: OctetRange | None = Field(
        None, description="Bytes per record at rest, least and most, such as [1 kB, 20 kB]"
    )
    records_per_subject: Range | None = Field(
        None, description="Records per person, least and most, such as [1, 40]"
    )
    compression: Range | None = Field(
        None,
        description="Octets on the wire per octet of record, least and most: [0.1, 1.2] for up to ten times smaller",
    )
    records_on_ports: tuple[PortField, ...] = Field(
        (), description="Local ports of which somebody attests that what leaves there is records"
    )
    records_by: str = Field("", description="Who attests it")
    copy_of: Id | None = Field(None, description="The store that this one is a copy of")
    public_service: bool = Field(False, description="Answers strangers by purpose, such as a public web site")


class ForwarderRole(StrEnum):
    """What a forwarder does with what it is sent."""

    PROXY = "proxy"
    NAT = "nat"
    LOAD_BALANCER = "load_balancer"
    MAIL_RELAY = "mail_relay"
    JUMP_HOST = "jump_host"
    MESH_GATEWAY = "mesh_gateway"
    BACKUP = "backup"


class Forwarder(Entry):
    """A machine or process that passes on what it is sent, so that behind it another end stands for the store."""

    id: Id
    name: str = Field("", description="What people call it")
    role: ForwarderRole
    recognise: Recognition
    outside: tuple[NetworkField, ...] = Field(
        (), description="Addresses under which it speaks to the world, where they are others than inside"
    )
    log: str = Field(
        "", description="The collector of the settings that reads its log; empty: it has none that is read"
    )
    entity: Id | None = Field(None, description="The legal entity that runs it, by its id in `entities`")
    contact: str = ""
    note: str = ""


class Site(Entry):
    """Own networks. An address in one of them is internal and never a destination."""

    id: Id
    name: str = ""
    networks: tuple[NetworkField, ...] = Field(min_length=1)
    entity: Id | None = Field(None, description="The legal entity that runs it, by its id in `entities`")
    facility: str = Field("", description="The building or data centre")
    country: Country | None = Field(None, description="Where it stands")


class EntityRole(StrEnum):
    """What a legal entity is to the data, in the words of the laws that the packs cite."""

    OPERATOR = "operator"
    CONTROLLER = "controller"
    PROCESSOR = "processor"
    CI_OPERATOR = "ci_operator"
    CLOUD_PROVIDER = "cloud_provider"
    DATA_CENTRE = "data_centre"
    RESEARCH_BODY = "research_body"
    PUBLIC_BODY = "public_body"


class Contact(Entry):
    """Somebody who is to be reached."""

    role: str = Field(min_length=1, description="What for: on-call, data protection officer, legal")
    reach: str = Field(min_length=1, description="How, as people say it: name, extension, mail")
    language: Literal["en", "ja"] | None = None


class Bound(Entry):
    """A person states that this legal entity is bound by a regime."""

    pack: Id
    by: str = Field(min_length=1, description="Who says so")
    on: date
    words: tuple[Id, ...] = Field(
        (), description="What the pack asks about the entity, such as `public_body`"
    )


class Calendar(Entry):
    """When the people of a legal entity work. Deadlines in working days count by it; rules never rest."""

    time_zone: ZoneName | None = None
    working_days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = Field(
        ("mon", "tue", "wed", "thu", "fri"), min_length=1
    )
    holidays: tuple[date, ...] = ()


class LegalEntity(Entry):
    """A company, authority or body that answers for stores."""

    id: Id
    name: str = Field(min_length=1, description="Its registered name")
    names: tuple[str, ...] = Field((), description="Other names, such as the one in another language")
    roles: tuple[EntityRole, ...] = Field((), description="What it is to the data")
    country: Country | None = Field(None, description="Where it is organised")
    regimes: tuple[Bound, ...] = Field((), description="What it is bound by, and who says so")
    contacts: tuple[Contact, ...] = ()
    calendar: Calendar = Calendar()
    note: str = ""


class ExpectedHost(Entry):
    """A host that the detector expects to hear from; one of which it hears nothing is told."""

    host: str = Field(min_length=1, max_length=255, description="Its name, as its agent says it")
    no_agent: str = Field("", description="Why it has no agent; its stores are then never told as observed")
    source: Literal["written", "kubernetes", "libvirt"] = Field(
        "written", description="Where the entry came from (`sekisho assets hosts`)"
    )
    note: str = ""
