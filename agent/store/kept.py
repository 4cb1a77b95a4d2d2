"""What goes into a state and comes out of it, as plain values; nothing here needs a database.

The state is :class:`agent.store.state.State`, or :class:`agent.store.unkept.Unkept` where nothing outlasts the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from agent.core.decision import Decision
from agent.core.finding import Notice
from agent.store.sequences import BatchId, Sequences

if TYPE_CHECKING:  # they bring the database along
    from agent.store.entities import Namer
    from agent.store.inputs import Intake


@dataclass(frozen=True, slots=True)
class Commit:
    """What one transaction writes."""

    decision: Decision
    position: str
    """Where in its input the program stands after this, in the collector's own words; empty: as before."""
    now_ns: int
    """Wall clock at the commit."""
    batches: tuple[tuple[BatchId, bytes | None], ...] = ()
    """Batches whose effects are in here, none of them taken before, with the SHA-256 of their bytes if they came as such."""
    snapshot: bytes | None = None
    """The detector's whole state after the decision; takes the place of every delta up to here."""
    notice_sinks: tuple[str, ...] = ()
    """Names of the sinks that get each notice."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Name -> version and hash of everything that the decision rests on; empty: as before."""
    last_action: int = 0
    """Id of the newest action on a case that the detector has heard of; 0: as before."""
    intake: Intake | None = None
    """How far Kafka was read, which agents' keys were pinned, which batches are missing; None: as before."""
    entity_of: Namer | None = None
    """Another table of owners is taken: every row of the ledger gets the entity that this one names."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a program needs to go on where the last one was cut off."""

    snapshot: bytes | None
    deltas: tuple[bytes, ...]
    """To be applied to the snapshot, in order."""
    taken: Sequences
    position: str
    number: int
    """Of the last commit; 0 if there was none."""
    last_action: int
    """Id of the newest action on a case that the detector had heard of."""


class ActionKind(StrEnum):
    """What a person did."""

    ACK = "ack"
    """A person has it."""
    CLOSE = "close"
    """It is done with."""
    ASSIGN = "assign"
    """Somebody is to have it."""
    COMMENT = "comment"
    REOPEN = "reopen"
    """It is not done with after all."""


class Verdict(StrEnum):
    """What a person found out about the transfer when closing its case. No statement of law."""

    EXPECTED = "expected"
    """Known and wanted."""
    UNEXPECTED = "unexpected"
    """Not wanted; whatever was to be done was done."""
    MISTAKEN = "mistaken"
    """Sekisho measured or attributed it wrongly."""
    EXERCISE = "exercise"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Action:
    """One action of one person on one case."""

    id: int
    case_id: str
    kind: ActionKind
    who: str
    note: str
    verdict: Verdict | None
    time_ns: int
    assignee: str = ""
    """Of an assignment: to whom."""


class DeliveryState(StrEnum):
    """``dead``: given up; kept with its reason."""

    WAITING = "waiting"
    SENT = "sent"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One notice on its way to one sink."""

    id: int
    key: str
    case_id: str
    """Empty for an event."""
    sink: str
    state: DeliveryState
    attempts: int
    """Tries that failed."""
    created_ns: int
    due_ns: int
    """Not before this time."""
    done_ns: int
    """When it was sent or given up; 0 while it waits."""
    error: str
    """What the last failed try said."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one sink still has to take, and what it never took."""

    waiting: int = 0
    dead: int = 0
    oldest_ns: int | None = None
    """When the oldest waiting notice was made."""


def key_of(notice: Notice) -> str:
    """What makes a notice the same one when it is queued again: its id, and what its id leaves open."""
    if notice.case is not None:
        return f"{notice.id}:{notice.kind.value}"
    detail = notice.event.model_dump_json() if notice.event else ""
    return f"{notice.id}:{hashlib.sha256(detail.encode()).hexdigest()[:12]}"
