"""What the detector gives back for one event, ready to be committed in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.core.finding import Case, Finding, Notice


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Sums of one UTC day and one key, to be added to the ledger. Keyed by network facts, so that a corrected
    ownership re-sums the past. Octets are IP-layer unless the name says content; '' and -1 stand for unknown."""

    day: int
    """Days since 1970-01-01 UTC, of the row's bucket."""
    tenant: str
    store: str
    categories: str
    """Sorted, joined by commas."""
    entity: str
    asn: int
    as_org: str
    provider: str
    owner: str
    country: str
    process: str
    initiator: str
    vantage: str
    flows: int
    octets_out: int
    packets_out: int
    octets_in: int
    packets_in: int
    content_octets_out: int
    late_octets: int


@dataclass(frozen=True, slots=True)
class LedgerDay:
    """What one store sent on one UTC day to one network, over all processes and vantages: what a window of a year that
    is new is filled with."""

    day: int
    tenant: str
    store: str
    initiator: str
    asn: int
    as_org: str
    provider: str
    owner: str
    country: str
    content_octets_out: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The effects of one event."""

    findings: tuple[Finding, ...] = ()
    """Findings whose revision changed, latest revision only."""
    cases: tuple[Case, ...] = ()
    """Cases whose revision changed, latest revision only."""
    notices: tuple[Notice, ...] = ()
    """In the order in which they arose."""
    ledger: tuple[LedgerRow, ...] = ()
    delta: bytes = b""
    """What the detector's ``restore`` needs to take the same step again without its effects."""
    reclassified: bool = False
    """Another table of owners was taken: the ledger's entities follow from it, before the rows of this decision."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Counters, such as ``rows_late`` and ``rows_clock_suspect``."""
