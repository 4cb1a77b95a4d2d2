"""Rules: how much, of what, to whom, in what time is a finding."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agent.core.finding import Severity
from agent.policy.registers import Category
from agent.policy.values import DurationNs, Entry, Id, Octets, SeverityName

WindowName = Literal["5m", "1h", "24h", "30d"]


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
    any_of: RuleTest = RuleTest()
    quiet: DurationNs | None = Field(
        None, description="Exceedances less than this apart are one episode; default max(window, 24h)"
    )
    severity: SeverityName = Severity.MEDIUM
    tests: tuple[dict[str, Any], ...] = ()
