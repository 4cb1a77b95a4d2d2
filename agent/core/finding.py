"""What the detector says: findings, the case that joins them, and the notice that tells people.

All amounts are unsigned integers of octets at the IP layer unless the name says content (less headers); all times
UTC nanoseconds. A finding's id is made once and kept; everything else may change with its revision. Whole values:
two findings are equal when all their fields are.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum, StrEnum
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Severity(IntEnum):
    """How soon a person should look; the numbers are OCSF ``severity_id``."""

    INFORMATIONAL = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


class Confidence(StrEnum):
    """How far to trust one inferred fact. There is no product of several: each doubt keeps its own name."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class _Fact(BaseModel):
    # Built when the first one is made: most runs tell nobody anything, and start the sooner.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Share(_Fact):
    """One value among several, with the content octets that went its way."""

    value: str
    content_octets_out: int = 0


class OwnerStep(_Fact):
    """One stake above the holder of a network: who holds how much of whom, on record."""

    of: str
    """Id of the company that is held."""
    of_name: str
    by: str
    by_name: str
    country: str | None = None
    """Country of the holder's head office."""
    organised_in: str | None = None
    state_control: bool = False
    share: str = ""
    """Of the capital, such as ``18.4 %``; empty if not on record."""
    votes: str = ""
    """Of the votes, where they differ."""
    decides: bool = False
    """This holder decides, and nobody disputes it."""
    since: str = ""
    until: str = ""
    """Given up then."""
    source: str
    checked: str
    mark: str
    disputed: bool = False
    stale: bool = False
    note: str = ""


class OwnerFact(_Fact):
    """Who owns the network at the other end, as the ownership table has it."""

    provider: str = ""
    """Id of the provider; empty if the table does not know the network."""
    provider_name: str = ""
    organisation: str = ""
    """Registered organisation of the AS."""
    organised_in: str | None = None
    """ISO country in which that organisation is organised; None if not on record."""
    owner: str = ""
    """Ultimate owner on record, by name."""
    owner_id: str = ""
    """Its id in the ownership table, which destination sets name; an override may say another."""
    owner_country: str | None = None
    """Country of the ultimate owner's head office."""
    share: str = ""
    """Share as the source puts it, such as ``100 %``; empty if not on record."""
    source: str = ""
    checked: str = ""
    """ISO date."""
    mark: str = ""
    """V, V2, N, S or K: how well the row was verified (see the ownership table's head); O: an operator's override."""
    designations: tuple[str, ...] = ()
    """Lists that name the owner, such as ``1260H from 2026-06-08``; ended ones with their end."""
    disputed: bool = False
    stale: bool = False
    """Older than twelve months at the time of use."""
    review: bool = False
    """The row says that the fact alone does not decide: report, never cover."""
    note: str = ""
    chain: tuple[OwnerStep, ...] = ()
    """Every stake on record above the holder, nearest first; empty if the owner holds the network itself."""


class Witnessed(_Fact):
    """What one source says of the addresses at the other end."""

    source: str
    """Name, day and hash."""
    said: str
    """``JP``, ``AS64500``, ``aws us-east-1 EC2``; several joined by a comma."""


class Named(_Fact):
    """A host name that a DNS answer or a TLS client gave an address: a claim, no proof of who the other end is."""

    address: str
    name: str


class Destination(_Fact):
    """The entity at the other end, and the four facts that are kept apart: place, network, operator, owner."""

    entity: str
    """``owner:huawei``, ``provider:aws``, ``as:64500`` or ``unknown``."""
    label: str
    owner: OwnerFact = OwnerFact()
    countries: tuple[Share, ...] = ()
    """Where the addresses are said to be; value ``?`` where no source says."""
    networks: tuple[Share, ...] = ()
    """``AS64500 Example Networks``; value ``?`` where no source says."""
    addresses: tuple[Share, ...] = ()
    """The addresses that took most, most first; at most 20."""
    address_count: int = 0
    """Distinct addresses seen; counted up to 1,000, then a lower bound."""
    names: tuple[Named, ...] = ()
    """Of those in ``addresses``, newest first for each; empty where names are not switched on."""
    location_confidence: Confidence = Confidence.NONE
    owner_confidence: Confidence = Confidence.NONE
    location_sources: tuple[str, ...] = ()
    """``name date`` of each database that answered."""
    witnesses: tuple[Witnessed, ...] = ()
    """What each source says of those in ``addresses``, side by side, as of the time of telling."""
    flags: tuple[str, ...] = ()
    """What kind some of them are, as lists say: ``anycast``, ``cdn``, ``hosting``, ``vpn``, ``tor``, ``relay``."""


class StoreFact(_Fact):
    """The store, as its register entry stood."""

    id: str
    name: str = ""
    categories: tuple[str, ...] = ()
    contact: str = ""
    host: str = ""
    """The host that sent the most of it."""
    subjects: int | None = None
    runbook: str = ""


class RelayState(StrEnum):
    """``matched``: what a host sent fits in time and volume what it took; ``possible``: it may be any other data."""

    MATCHED = "matched"
    POSSIBLE = "possible"


class Relay(_Fact):
    """A way over other hosts: what the store sent the first, and what the last sent outside. Each is measured; that it
    is the same data is inferred."""

    hosts: tuple[str, ...]
    """Addresses of the hosts between, from the store on; at most three."""
    host: str = ""
    """The last one's name, as its agent says it."""
    forwarder: str = ""
    """Its id in the register, where it is a forwarder: then the store is one of the possible origins."""
    state: RelayState
    taken_octets: int
    """Content octets that the last one took from the store, or from the one before it, within a week."""
    matched_octets: int
    """Content octets that it sent on and that fit; the most that can be of the store."""
    possible_octets: int
    """Those that do not fit, or of which nothing tells whose they are; likewise the most."""
    taken_first_ns: int
    sent_first_ns: int
    sent_last_ns: int


class Traffic(_Fact):
    """What was measured of one transfer."""

    flows: int = 0
    octets_out: int = 0
    packets_out: int = 0
    octets_in: int = 0
    packets_in: int = 0
    content_octets_out: int = 0
    first_ns: int = 0
    last_ns: int = 0
    initiators: tuple[Share, ...] = ()
    bases: tuple[Share, ...] = ()
    processes: tuple[Share, ...] = ()
    services: tuple[Share, ...] = ()
    """``tcp/443`` of the end that accepted."""
    local_addresses: tuple[Share, ...] = ()
    hosts: tuple[Share, ...] = ()
    """Hosts whose agents counted it."""
    vantages: tuple[Share, ...] = ()
    estimated: bool = False
    """Some of it was multiplied up from samples."""
    late_octets: int = 0
    """Content octets that arrived behind the watermark."""
    relays: tuple[Relay, ...] = ()
    """Ways over other hosts; what matched is part of the amounts above (basis ``relay``), what is possible is not."""


class FindingState(StrEnum):
    """An episode is open until the watermark passes its last exceedance plus quiet."""

    OPEN = "open"
    CLOSED = "closed"


class Standing(StrEnum):
    """How an approved transfer stands to a case."""

    HELD = "held"
    """It covers what was sent, within its cap."""
    OVERRUN = "overrun"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    OTHER_PROCESS = "other_process"
    OTHER_SIDE = "other_side"
    """The other side opened the flows that it allows ours to open, or the other way round."""
    OTHER_END = "other_end"
    """Some of it went where the approval does not reach."""


class ApprovalFact(_Fact):
    """An approved transfer of the store, beside a case."""

    id: str
    standing: Standing
    approver: str
    basis: str = ""
    ticket: str = ""
    valid_from: str
    valid_to: str
    """ISO days, both included, UTC."""
    cap_octets: int
    window: str
    used_octets: int | None = None
    """Content octets of the pair in the window that holds its last row; None where the windows do not hold it."""
    provisional: bool = False


class HostTold(_Fact):
    """The store's own host told people by itself, while Kafka was away (:mod:`agent.sending.tripwire`)."""

    host: str
    id: str
    """Id of the finding that it told."""
    time_ns: int
    """By that host's clock."""


class EstimateState(StrEnum):
    """What of a number of persons can be said: ``likely`` even the least is over it, ``possible`` only the most is.
    ``attested`` is a named person's count, never an estimate."""

    BELOW = "below"
    POSSIBLE = "possible"
    LIKELY = "likely"
    ATTESTED = "attested"


class Estimate(_Fact):
    """Between how many persons' records a transfer may hold, with all that it rests on."""

    state: EstimateState | None = None
    """None: there is no estimate, for something is ``missing``."""
    over: int
    """The rule's number of persons."""
    lowest: int | None = None
    highest: int | None = None
    octets: int
    """Content octets in the window."""
    largest_octets: int
    """Of the largest single stretch, of which the least is judged: the same record may be sent twice."""
    subjects: int | None = None
    """Persons whose data the store holds, as its owner states."""
    record_octets: tuple[float, float] | None = None
    records_per_subject: tuple[float, float] | None = None
    wire_per_octet: tuple[float, float] | None = None
    """Octets on the wire per octet of record."""
    attested: bool = False
    """Somebody states that what leaves on the store's record ports is records."""
    missing: tuple[str, ...] = ()
    """Names of the inputs that the register lacks."""


class Finding(_Fact):
    """One rule, one key, one episode."""

    id: str
    revision: int = 1
    state: FindingState = FindingState.OPEN
    rule: str
    rule_version: str
    rule_title: str = ""
    pack: str
    categories: tuple[str, ...] = ()
    """Categories of the store that the rule asks for; empty if it asks for none."""
    destinations: tuple[str, ...] = ()
    """Destination sets of the rule that the entity is in; empty for a rule that asks for none."""
    tenant: str
    store: str
    entity: str
    severity: Severity
    severity_reasons: tuple[str, ...] = ()
    """Words keys of what lowered or raised it, such as ``owner_mark_k``."""
    window: str
    """``5m``, ``1h``, ``24h``, ``30d``, ``12mo`` or ``calendar_year``."""
    window_from_ns: int
    window_to_ns: int
    """True bounds of the window in which the threshold was first passed."""
    content_octets_out: int
    """Largest sum of a window of the episode, in what ``measure`` counts."""
    threshold_octets: int
    measure: str = "content"
    """What both count: ``content`` octets sent, ``flows`` or ``octets_in``."""
    first_bucket_ns: int
    last_bucket_ns: int
    """Start of the first and of the last exceedance bucket."""
    crossed_ns: int
    """End of the row that first passed the threshold, or of the bucket if that is not known."""
    reasons: tuple[str, ...] = ()
    """Words keys, such as ``first_seen`` or ``share_of_store``."""
    observed_days: int = 0
    """Days for which the ledger knew this store when the finding was made."""
    first_seen: bool = False
    """No earlier egress of this store to this entity within ``observed_days``."""
    share_of_store: float | None = None
    """Part of the store's whole egress in the same window."""
    estimate: Estimate | None = None
    """Of rules that ask for persons."""
    provisional: bool = False
    simulated: bool = False
    approval: str = ""
    """Id of the approved transfer that it belongs to: recorded, and nobody is told."""
    told_before: tuple[HostTold, ...] = ()
    """Hosts that told people of it before the detector could; where one did, the id is the one it told."""
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """(tenant, rule, store, entity)."""
        return (self.tenant, self.rule, self.store, self.entity)


def finding_id(tenant: str, rule: str, group: tuple[str, ...], first_bucket_ns: int) -> str:
    """SHA-256 over the key and the first exceedance bucket, as 32 hex digits."""
    parts = "\x1f".join((tenant, rule, *group, str(first_bucket_ns)))
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


class CaseState(StrEnum):
    """What people have done with a case, whatever its traffic does. ``acknowledged``: a person has it; ``closed``: done."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"

    @classmethod
    def _missing_(cls, value: object) -> CaseState | None:
        return cls.OPEN if value == _STOPPED else None  # as older versions wrote it


class TrafficState(StrEnum):
    """``stopped``: no content for half an hour, or no window of any finding is passed any more."""

    ONGOING = "ongoing"
    STOPPED = "stopped"


_STOPPED: Final = "stopped"

WAITING: Final = (CaseState.OPEN, CaseState.ACKNOWLEDGED)
"""States of a case that still wait for a person."""


class Case(_Fact):
    """All findings of one transfer: (tenant, store, destination entity)."""

    id: str
    """``2026-1118-07``: UTC date of opening and a number of that day."""
    revision: int = 1
    state: CaseState = CaseState.OPEN
    traffic_state: TrafficState = TrafficState.ONGOING
    severity: Severity
    tenant: str
    store: StoreFact
    destination: Destination
    traffic: Traffic
    findings: tuple[Finding, ...]
    opened_ns: int
    updated_ns: int
    approvals: tuple[ApprovalFact, ...] = ()
    """Approved transfers of the store, those nearest to this one first."""
    acknowledged_by: str = ""
    assigned_to: str = ""
    closed_by: str = ""
    closing_note: str = ""
    not_seen: tuple[str, ...] = ()
    """What this host could not see in the time of the case, in words."""
    local_view: bool = False
    """Told by the store's own host from its own rows alone, for Kafka was away; the detector's case follows."""

    @model_validator(mode="before")
    @classmethod
    def _of_older_versions(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("state") == _STOPPED and "traffic_state" not in data:
            return {**data, "traffic_state": _STOPPED}
        return data

    @property
    def packs(self) -> frozenset[str]:
        """Packs whose rules found something."""
        return frozenset(f.pack for f in self.findings)


class NoticeKind(StrEnum):
    """Why people are told. For a case: all but the last."""

    OPENED = "opened"
    SEVERITY = "severity_raised"
    PACK = "pack_added"
    DOUBLED = "doubled"
    """Twice as much has left as people were told of last; at most once an hour."""
    LEG = "new_leg"
    """Another way over hosts inside was found that fits in time and volume; at most one notice an hour."""
    DAILY = "daily"
    """Still going on 24 h after people were told last."""
    UNACKNOWLEDGED = "unacknowledged"
    """Nobody has taken it within its time."""
    CLOSED = "closed"
    """The traffic has stopped. The case waits for a person."""
    EVENT = "event"
    """Something about sekisho itself: a database grew old, a reload was refused, frames were lost."""


class Event(_Fact):
    """Something about sekisho itself that people must know."""

    name: str
    """Snake case, past tense: ``reload_refused``."""
    severity: Severity = Severity.INFORMATIONAL
    detail: dict[str, str | int] = Field(default_factory=dict)


class Notice(_Fact):
    """One message to people and tools. Delivered at least once; ``id`` is the same each time."""

    kind: NoticeKind
    time_ns: int
    host: str
    case: Case | None = None
    event: Event | None = None
    account: dict[str, int] = Field(default_factory=dict)
    """Octets captured, dropped and excluded by this run when the notice was made."""
    lost_frames: int = 0
    simulated: bool = False

    @property
    def id(self) -> str:
        """(case id, revision), or the event's name and time."""
        if self.case is not None:
            return f"{self.case.id}.{self.case.revision}"
        name = self.event.name if self.event else "event"
        return f"{name}.{self.time_ns}"

    @property
    def severity(self) -> Severity:
        """Of the case or the event."""
        if self.case is not None:
            return self.case.severity
        return self.event.severity if self.event else Severity.INFORMATIONAL

    def as_json(self) -> str:
        """One line of JSON with every field."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """The notice that :meth:`as_json` wrote. Raises ``pydantic.ValidationError``."""
        return cls.model_validate_json(line)
