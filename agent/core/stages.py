"""What a collector, an enricher and a sink are.

Each is one file in its folder, found by the file's name in the settings. The file holds a class ``Settings``
(pydantic, derived from one of the ``…Settings`` below) whose ``build`` makes the stage; constructors do no I/O.
A file without ``Settings`` is a library of its room, not a stage. ``tests/contract`` runs every stage by itself.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict

from agent.core.accounts import Accounts
from agent.core.clock import Clock, SystemClock
from agent.core.flow import FlowBatch

if TYPE_CHECKING:
    from agent.core.errors import SinkError
    from agent.core.finding import Destination, Event, Notice
    from agent.core.message import Message


@dataclass(frozen=True, slots=True)
class Context:
    """What a stage may know of the program around it. Handed to ``Settings.build``."""

    accounts: Accounts
    state_dir: Path
    """Where the program keeps its own files: state, archive, databases."""
    clock: Clock = field(default_factory=SystemClock)
    host: str = ""
    policy: Any = None
    """The policy in force (:class:`agent.policy.model.Policy`); None where no policy is needed."""
    ownership: Any = None
    """The table of owners in force (:class:`agent.policy.ownership.Ownership`); None is the one in sekisho."""
    language: str = "en"
    zone: str | None = None
    """IANA zone in which people read times; None is the host's own."""
    kafka: Any = None
    """How Kafka is reached (:class:`agent.core.kafka.Connection`); None where it is not."""


class Collector(Protocol):
    """Brings flows in. Runs in a thread of its own."""

    name: str
    """Tier and source, such as ``pcap`` or ``af_packet``."""
    live: bool
    """Whether rows carry the present: a live collector yields (perhaps empty) batches at least once a second."""
    not_seen: tuple[str, ...]
    """What it cannot see by its nature, as words keys of ``not_seen`` in :mod:`agent.words`; every alert repeats it."""

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield batches until the source ends or ``stop`` is set; then yield all that is still held and return.

        Counts in ``Accounts`` what it captures, drops and still holds. Closes its source when the generator ends or is
        closed. Raises :class:`~agent.core.errors.CaptureError` or :class:`~agent.core.errors.DecodeError`.
        """

    def progress(self) -> tuple[int, int] | None:
        """(octets of the source read, octets in all), or None where there is no end."""


@runtime_checkable
class Keeping(Protocol):
    """A collector whose source keeps what it handed out until that is durable, so that a crash loses and doubles nothing.

    Its batches carry a position in their header; all rows of one position become durable in one step. A position is
    three words with single spaces: the collector (each of a run its own), what it reads, and a number.
    """

    def resume(self, position: str) -> None:
        """Called once, before ``collect``: the newest position of each collector that is durable, a line each; perhaps empty."""

    def settled(self, position: str) -> None:
        """Called from another thread once a position is durable. Does not block."""


@runtime_checkable
class Following(Protocol):
    """A collector that watches by the policy."""

    def follow(self, policy: Any) -> None:
        """Called from another thread when the policy (:class:`agent.policy.model.Policy`) has changed. Does not block."""


@runtime_checkable
class Scoped(Protocol):
    """A collector that may watch only what somebody allowed."""

    def scope(self) -> Mapping[str, str]:
        """Name -> what was allowed, why, by whom and when: stands in the header of every batch of the run."""


class Enricher(Protocol):
    """Adds columns to rows. Never changes their number or their amounts."""

    name: str
    reads: frozenset[str]
    adds: frozenset[str]

    def enrich(self, batch: FlowBatch) -> FlowBatch:
        """The same rows with ``adds`` filled in."""

    def reload(self) -> bool:
        """Look whether what it answers from has changed, take the change up; keep the last good one on a fault.

        Returns whether anything changed. Cheap when nothing has.
        """

    def versions(self) -> Mapping[str, str]:
        """Name -> version and hash of what it answers from."""

    def troubles(self, now_ns: int) -> tuple[Event, ...]:
        """Why its answers are missing or doubtful now: a database gone or old. People are told each of them once."""


@runtime_checkable
class Aging(Protocol):
    """An enricher that knows how old its sources are."""

    def age_days(self, now_ns: int) -> dict[str, int]:
        """Whole days since each source was made, where it says when."""


@runtime_checkable
class Witness(Protocol):
    """An enricher that can say of a destination what each of its sources says."""

    def witnessed(self, destination: Destination) -> Destination:
        """The destination with ``witnesses`` and ``flags`` filled in."""


class Sink(Protocol):
    """Takes flows, notices or both, and puts them where people and tools look."""

    name: str
    takes_flows: bool
    takes_notices: bool

    def write_flows(self, batch: FlowBatch) -> None:
        """Take a sealed, enriched batch. Called only where ``takes_flows``. May buffer until ``flush``."""

    def write_notice(self, notice: Notice) -> None:
        """Deliver one notice now, or raise :class:`~agent.core.errors.SinkError`; a retriable one is tried again later."""

    def flush(self) -> None:
        """Make what was taken durable or visible."""

    def close(self) -> None:
        """Flush and let go of every resource."""


@runtime_checkable
class TakesCoverage(Protocol):
    """A sink that takes what was observed, from a run that decides in its own process."""

    takes_coverage: bool

    def write_coverage(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Keep hours and receipts for good (docs/coverage.md). Raises :class:`~agent.core.errors.SinkError`; then some
        may be kept, and come again."""


class Carrier(Protocol):
    """Takes sealed messages to where they are kept for good. All but ``send``'s ``done`` runs in the caller's thread."""

    @property
    def longest_s(self) -> float:
        """When an answer has not come after so long, none will."""

    def connect(self) -> None:
        """Be ready to send; nothing happens where it is. Blocks. Raises :class:`~agent.core.errors.SinkError`."""

    def send(self, message: Message, agent_id: str, done: Callable[[SinkError | None], None]) -> None:
        """Send a message. ``done`` is called once from another thread, with None when it is kept for good.

        Raises :class:`~agent.core.errors.SinkError`; ``done`` is then not called.
        """

    def tell(
        self, agent_id: str, signature: bytes, heartbeat: bytes, done: Callable[[SinkError | None], None]
    ) -> None:
        """Send a heartbeat; as :meth:`send`."""

    def disconnect(self) -> None:
        """Let go of the connection; what was not answered is given up, and ``done`` may not be called for it."""


class _StageSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the stage cannot do without, such as ``cap_net_raw``; ``sekisho check`` reads it."""


class CollectorSettings(_StageSettings, abc.ABC):
    """Settings of a collector."""

    @abc.abstractmethod
    def build(self, context: Context) -> Collector:
        """Make the collector; opens nothing yet."""

    def hindrance(self) -> str:
        """Why it cannot run on this host, in a sentence that says how to mend it; empty if it can. Found by trying."""
        return ""

    def ending(self) -> Self:
        """The same, to hand out and end what an earlier run left at work; nothing more is watched, nothing is refused."""
        return self

    def shortcomings(self) -> tuple[str, ...]:
        """What it would do without on this host, a sentence each, with what that costs. Found by looking."""
        return ()


class EnricherSettings(_StageSettings, abc.ABC):
    """Settings of an enricher."""

    @abc.abstractmethod
    def build(self, context: Context) -> Enricher:
        """Make the enricher and load what it answers from. Raises :class:`~agent.core.errors.EnrichError`."""


class SinkSettings(_StageSettings, abc.ABC):
    """Settings of a sink."""

    @abc.abstractmethod
    def build(self, context: Context) -> Sink:
        """Make the sink; connects nowhere yet."""
