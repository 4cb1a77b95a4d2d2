"""Rules: how much, of what, to whom, in what time is a finding."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.core.finding import Severity
from agent.policy.registers import Category
from agent.policy.rule_tests import RuleCase
from agent.policy.values import DurationNs, Entry, Id, Octets, SeverityName, ZoneName

WindowName = Literal["5m", "1h", "24h", "30d", "12mo", "calendar_year"]
YEARS = ("12mo", "calendar_year")
"""Windows that are summed in whole UTC days, over owners as they are on record today."""
GroupBy = Literal["destination", "store", "legal_entity"]


class SubjectTest(Entry):
    """A number of persons. Traffic never shows it: it is estimated from what the register says of the store."""

    over: int = Field(ge=0, description="Strictly more than this many persons")


class RuleTest(Entry):
    """Further facts, one of which must hold (when any is given) for a rule to find."""

    first_seen: bool = Field(
        False, description="No earlier egress of this store to this destination is on record"
    )
    share_of_store: float | None = Field(
        None, gt=0, le=1, description="Part of the store's whole egress in the window"
    )


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
    tests: tuple[RuleCase, ...] = Field((), description="What `sekisho policy test` tries")
