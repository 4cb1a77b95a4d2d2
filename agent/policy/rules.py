"""Rules: how much, of what, to whom, in what time is a finding."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from agent.core.finding import Severity
from agent.policy.registers import Category
from agent.policy.rule_tests import RuleCase
from agent.policy.values import Country, DurationNs, Entry, Id, Octets, SeverityName, ZoneName

WindowName = Literal["5m", "1h", "24h", "30d", "12mo", "calendar_year"]
YEARS = ("12mo", "calendar_year")
"""Windows that are summed in whole UTC days, over owners as they are on record today."""
GroupBy = Literal["destination", "store", "legal_entity"]


class SubjectTest(Entry):
    """A number of persons. Traffic never shows it: it is estimated from what the register says of the store."""

    over: int = Field(ge=0, description="Strictly more than this many persons")


class Unusual(Entry):
    """Against the store's own past, by day."""

    times: float = Field(5.0, gt=0, description="So many times the usual spread over the median of the days")
    least_days: int = Field(
        14, ge=7, le=90, description="With fewer days of past there is nothing to compare with"
    )


Measure = Literal["content", "flows", "octets_in"]
Service = Annotated[
    str,
    StringConstraints(pattern=r"^(tcp|udp|sctp)/([1-9]\d{0,4})$"),
    Field(description="protocol and port of the end that accepted, such as tcp/22"),
]
CLEARTEXT: tuple[str, ...] = (
    "tcp/23", "tcp/80", "tcp/104", "tcp/512", "tcp/513", "tcp/514", "tcp/873", "tcp/2049", "tcp/2575",
    "udp/69", "udp/161", "udp/514", "udp/2049",
)  # fmt: skip
"""Services that speak in the clear on these ports by their definition, without a way to TLS on the same port: telnet, HTTP,
DICOM, the r commands, rsync, NFS, HL7 MLLP, TFTP, SNMP, syslog."""


class RuleTest(Entry):
    """Further facts, one of which must hold (when any is given) for a rule to find."""

    first_seen: bool = Field(
        False, description="No earlier egress of this store to this destination is on record"
    )
    share_of_store: float | None = Field(
        None, gt=0, le=1, description="Part of the store's whole egress in the window"
    )
    unusual: Unusual | None = Field(
        None, description="Far above the days of this store's own past, and above every day like it"
    )
    regular: float | None = Field(
        None, gt=0, le=1, description="So much of the window's buckets has something, of about one size"
    )
    first_seen_process: bool = Field(
        False, description="A program sends that this store was not seen sending by before the window"
    )
    destinations: int | None = Field(
        None,
        ge=1,
        description="The store sent to more than so many destinations in the window; with `group_by: store`",
    )


class SeverityStep(Entry):
    """More of what the rule counts is more severe."""

    over: Octets = Field(description="Strictly more than this in the window, in what `measure` counts")
    severity: SeverityName


class Rule(Entry):
    """Over this many content octets, from these stores, to these destinations, within this window: a finding."""

    id: Id
    version: int = Field(1, ge=1)
    title: str = ""
    enabled: bool = True
    stores: tuple[Id, ...] = Field((), description="Store ids; none means all")
    categories: tuple[Category, ...] = Field((), description="Any of these; none means all")
    destinations: tuple[Id, ...] = Field((), description="Destination sets; none means every external end")
    except_destinations: tuple[Id, ...] = ()
    initiator: Literal["local", "remote", "any"] = "any"
    services: tuple[Service | Literal["cleartext"], ...] = Field(
        (), description="Only these services; `cleartext`: those that speak in the clear by definition"
    )
    allowed_countries: tuple[Country, ...] = Field(
        (), description="Only ends that are outside these, as far as the place is known and not doubted"
    )
    measure: Measure = Field(
        "content", description="What `over` counts: content octets sent, flows that began, or octets received"
    )
    over: Octets = Field(description="Content octets sent in the window; the finding is for strictly more")
    window: WindowName = "24h"
    zone: ZoneName | None = Field(None, description="Of `calendar_year`; default the pack's, which is UTC")
    group_by: GroupBy = Field(
        "destination",
        description="What is summed as one: a store and a destination; `store`: all destinations of a store; "
        "`legal_entity`: all stores of a legal entity and a destination",
    )
    subjects: SubjectTest | None = Field(
        None,
        description="Finds where so many persons are possible; under the octets of `over` that is noted and pages nobody",
    )
    any_of: RuleTest = RuleTest()
    quiet: DurationNs | None = Field(
        None, description="Exceedances less than this apart are one episode; default max(window, 24h)"
    )
    severity: SeverityName = Severity.MEDIUM
    steps: tuple[SeverityStep, ...] = Field(
        (), description="The severity over further amounts, rising; doubts lower it as they do any other"
    )
    tests: tuple[RuleCase, ...] = Field((), description="What `sekisho policy test` tries")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.measure != "content" and (self.window in YEARS or self.subjects is not None):
            raise ValueError(
                "`measure` other than content goes with windows up to 30d and without `subjects`"
            )
        if self.any_of.unusual is not None and (self.window != "24h" or self.measure != "content"):
            raise ValueError("`unusual` compares days: it goes with window 24h and measure content")
        if self.any_of.destinations is not None and self.group_by != "store":
            raise ValueError("`destinations` counts those of a store: it goes with `group_by: store`")
        stages = [(self.over, self.severity), *((step.over, step.severity) for step in self.steps)]
        if any(a[0] >= b[0] or a[1] >= b[1] for a, b in pairwise(stages)):
            raise ValueError(
                "each of `steps` needs a larger `over` and a higher `severity` than the one before and the rule"
            )
        return self

    def severity_of(self, amount: int) -> Severity:
        """How severe an amount is, by itself."""
        return max([self.severity, *(step.severity for step in self.steps if amount > step.over)])
