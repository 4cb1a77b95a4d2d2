"""The detector's road: messages of Kafka in, checked, their facts derived anew, decided and committed.

    gather ─> check ─> leave out duplicates ─> derive facts ─> decide ─> one commit (with offsets) ─> next

What is gathered in one turn becomes one commit. A message that cannot be decided goes to the topic of dead letters
before the commit that passes it, so that a crash sends it twice rather than never.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np

from agent import logs
from agent.core.accounts import Accounts, Amounts
from agent.core.clock import MINUTE_NS, SECOND_NS, Clock
from agent.core.errors import CaptureError, SekishoError, SinkError
from agent.core.flow import FlowBatch
from agent.core.message import Header
from agent.core.stages import Enricher
from agent.deciding import LocalDecide
from agent.receiving.announcing import Announcing
from agent.receiving.checking import Checker, Refused, Sealed, unfit
from agent.receiving.conflicts import Twins
from agent.receiving.gaps import Gaps
from agent.receiving.hearing import Agents
from agent.receiving.refused import Refusals
from agent.store.coverage import Covered
from agent.store.inputs import Dead, DeadKey, Intake, Offset, Partition
from agent.store.sequences import Intervals, Stream
from collectors.kafka import Reader, Record
from sinks.dead_letters import DeadLetters

POLL_RECORDS: Final = 1_000
"""Messages of one turn, where so many wait: of small ones a turn and its commit cost as much as many of them."""
GATHER_OCTETS: Final = 64 * 2**20
"""Octets of messages that one commit takes, at most (and what one answer adds)."""
WAIT_S: Final = 0.2
UNREACHABLE_NS: Final = MINUTE_NS
NONE: Final = "none"
"""As a version: there is nothing to answer from."""


class Observe(Protocol):
    """Sees what is decided together."""

    def __call__(self, batches: Sequence[FlowBatch]) -> None:
        """See it."""


@dataclass
class Counts:
    """What came in, since the start of this run."""

    messages: int = 0
    rows: int = 0
    octets: int = 0
    duplicates: int = 0
    dead: Counter[str] = field(default_factory=Counter)
    dead_unsent: int = 0
    """Dead letters that their topic did not take; they stand in the log with their offsets."""
    copied: int = 0
    """Batches that came while another run of the same agent was at work."""
    alerted_wrongly: int = 0
    """Findings that hosts say they told, under an id that is not theirs."""
    derived: int = 0
    """Rows whose facts were derived anew, because the agent's databases or register were others."""
    differing: Counter[str] = field(default_factory=Counter)
    """Of those, by column: rows in which the agent had said something else."""
    commits: int = 0
    lag: int = 0


@dataclass
class MessageStream:
    """One run of the detector's road. Not thread-safe; ``run`` is called once."""

    reader: Reader
    letters: DeadLetters
    checker: Checker
    gaps: Gaps
    decide: LocalDecide
    enrichers: Sequence[Enricher]
    accounts: Accounts
    clock: Clock
    gather_rows: int
    begins: bool
    """Nothing of this topic was ever read: what came before is not missing."""
    refusals: Refusals = field(default_factory=lambda: Refusals({}))
    renew: Callable[[], None] = lambda: None
    """Says that this one still leads. Raises where it does not."""
    observe: Observe = lambda batches: None
    agents: Agents | None = None
    """What is known of agents and of what was observed; None: nobody keeps it."""
    started: Callable[[], None] = lambda: None
    """Called once before anything is read."""
    between: Callable[[], None] = lambda: None
    turned: Callable[[str], None] = lambda _collector: None
    stop: threading.Event = field(default_factory=threading.Event)
    failures: dict[str, SekishoError] = field(default_factory=dict)
    unwritten: dict[str, tuple[int, str]] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    twins: Twins = field(default_factory=Twins)
    _lost_since_ns: int = 0
    _ticked_ns: int = 0
    _appended: dict[int, int] = field(default_factory=dict)
    """Partition -> append time of the last record that was read of it."""

    def __post_init__(self) -> None:
        self.announcing = Announcing(self.decide, self.gaps, self.clock)

    @property
    def reachable(self) -> bool:
        """Whether the brokers answered when they were last asked."""
        return not self._lost_since_ns

    def run(self) -> None:
        """Read, decide and commit until ``stop`` is set. Raises what a commit cannot go on after."""
        try:
            self.started()
            while not self.stop.is_set():
                self.renew()
                records = self._gathered()
                if records:
                    self._take(records)
                self._pass_time(idle=not records)
                self._look_at_agents(records)
                self.announcing.turn(self._dead)
                self.between()
                self.turned("kafka")
            if self.agents is not None:
                self.agents.finish()
            self.decide.finish()
        finally:
            self.reader.close()
            self.letters.close()
            if self.agents is not None:
                self.agents.reader.close()

    # in

    def _gathered(self) -> list[Record]:
        """At least so many rows, where they wait; else what there is. In the order in which brokers took them."""
        records: list[Record] = []
        rows = octets = 0
        while not self.stop.is_set():
            try:
                more = self.reader.poll(min(POLL_RECORDS, self.gather_rows), 0.0 if records else WAIT_S)
            except CaptureError as error:
                self._unreachable(error)
                break
            self._reached()
            records += more
            octets += sum(len(record.value) for record in more)
            rows += sum(_rows_of(record) for record in more)
            if not more or rows >= self.gather_rows or octets >= GATHER_OCTETS:
                break
        records.sort(key=lambda record: record.append_ns)
        return records

    def _take(self, records: Sequence[Record]) -> None:
        offsets: dict[Partition, Offset] = {}
        taken: dict[tuple[str, str, int, int], bytes] = {}
        fresh: list[tuple[Sealed, int]] = []
        headers: list[Header] = []
        refused: list[Refused] = []
        checked = self.checker.check_all([(record.headers, record.value) for record in records])
        for record, one in zip(records, checked, strict=True):
            place = (self.reader.topic, record.partition)
            at = max(record.offset + 1, offsets[place].next_offset if place in offsets else 0)
            offsets[place] = Offset(self.reader.topic_id, at)
            self.counts.messages += 1
            self.counts.octets += len(record.value)
            found: Sealed | Refused | None = self._with_facts(one) if isinstance(one, Sealed) else one
            if isinstance(found, Sealed):
                found = self._new(found, taken, headers)
                if isinstance(found, Sealed):
                    fresh.append((found, record.append_ns))
                    self._look_for_twins(found, record.append_ns)
            if isinstance(found, Refused):
                self._bury(record, found)
                refused.append(found)
        self._send_letters()
        batches = [sealed.batch for sealed, _ in fresh]
        dead = self.refusals.hear(
            refused,
            [sealed for sealed, _ in fresh],
            {one.agent_id: self._trusted(one.agent_id) for one in refused},
        )
        self._commit(batches, fresh, headers, Intake(offsets, dead=dead))

    def _new(
        self, sealed: Sealed, taken: dict[tuple[str, str, int, int], bytes], headers: list[Header]
    ) -> Sealed | Refused | None:
        """The message if it was not taken before; None for a duplicate."""
        batch_id = sealed.header.batch_id
        known = taken.get(batch_id)
        if known is None:
            found = self.decide.state.taken(batch_id, sealed.digest)
        else:
            found = "duplicate" if known == sealed.digest else "conflict"
        if found == "conflict":
            said = f"batch {batch_id} came before with other bytes"
            return Refused("batch_conflict", said, sealed.header.agent_id)
        headers.append(sealed.header)
        if found == "duplicate":
            self.counts.duplicates += 1
            self.decide.duplicates += sealed.batch.amounts()
            return None
        taken[batch_id] = sealed.digest
        return sealed

    def _bury(self, record: Record, refused: Refused) -> None:
        self.counts.dead[refused.reason] += 1
        self.announcing.suspect(refused.reason, refused.agent_id)
        origin = f"{self.reader.topic}/{record.partition}/{record.offset}"
        try:
            self.letters.send(
                record.key,
                record.headers,
                record.value,
                reason=refused.reason,
                detail=refused.detail,
                origin=origin,
            )
        except SinkError as error:
            self._unsent(f"{origin}: {refused.detail}", error)

    def _dead(self, reason: str) -> int:
        """Messages and heartbeats that were dead for that reason, since the start."""
        return self.counts.dead[reason] + (self.agents.refused[reason] if self.agents else 0)

    def _look_for_twins(self, sealed: Sealed, append_ns: int) -> None:
        header = sealed.header
        if hosts := self.twins.hear(header, int(sealed.batch["end_ns"].max()), append_ns):
            self.counts.copied += 1
            self.announcing.copied(header.agent_id, hosts)

    def _send_letters(self) -> None:
        try:
            self.letters.flush()
        except SinkError as error:
            self._unsent("some of this turn", error)

    def _unsent(self, what: str, error: SinkError) -> None:
        self.counts.dead_unsent += 1
        logs.get("stream").warning("dead_letter_not_sent", message=what[:500], reason=str(error))

    # facts

    def _with_facts(self, sealed: Sealed) -> Sealed | Refused:
        """The message with this detector's facts. Texts were checked where the agent knew of a store."""
        batch = self._derived(sealed.batch)
        if batch is sealed.batch:
            return sealed
        if (batch["store"] >= 0).any() and (said := unfit(batch)):
            header, key = sealed.header, self.checker.key_of(sealed.header.agent_id)
            amounts = sealed.batch.amounts()
            return Refused("impossible", said, header.agent_id, header, key, amounts)
        return replace(sealed, batch=batch)

    def _derived(self, batch: FlowBatch) -> FlowBatch:
        """The rows with this detector's facts where the agent's are from other databases or another register.

        What the agent said stays in the message, and so in the archive; here it is only compared.
        """
        versions = dict(batch.header.versions)
        before = batch
        for enricher in self.enrichers:
            own = enricher.versions()
            if NONE in own.values() or all(versions.get(name) == text for name, text in own.items()):
                continue
            batch = enricher.enrich(batch)
            versions |= own
        if batch is before:
            return batch
        self.counts.derived += len(batch)
        for name in ("store", "remote_country", "remote_owner"):
            if differing := _differing(before, batch, name):
                self.counts.differing[name] += differing
        return batch.with_header(versions=versions)

    # out

    def _commit(
        self,
        batches: Sequence[FlowBatch],
        fresh: Sequence[tuple[Sealed, int]],
        headers: Sequence[Header],
        intake: Intake,
    ) -> None:
        """``intake``: what is known besides these batches, and what they add to it."""
        amounts = sum((batch.amounts() for batch in batches), Amounts())
        self.accounts.capture(amounts)
        self.accounts.seal(amounts)
        self.accounts.wait(amounts)
        said = self.gaps.hear(headers, self._came(headers, fresh, intake.dead), begins=self.begins)
        pins = dict(self.checker.fresh)
        told = [sealed.header.account for sealed, _ in fresh]
        covered = self.agents.covering.count(batches, told) if self.agents else Covered()
        intake = replace(intake, pins=pins, said=said, covered=covered)
        for sealed, _ in fresh:
            self.counts.alerted_wrongly += self.decide.hear_hosts(sealed.header)
        received = [append_ns for _, append_ns in fresh]
        self.decide.take_sealed(batches, received, [sealed.digest for sealed, _ in fresh], intake)
        self.checker.kept(pins)
        self.gaps.put(said)
        self.refusals.put(intake.dead)
        if self.agents:
            self.agents.covering.counted(covered)
        self.accounts.decide(amounts)
        self.accounts.wait(Amounts())
        self.counts.commits += 1
        self.counts.rows += sum(map(len, batches))
        self.observe(batches)

    def _trusted(self, agent: str) -> frozenset[bytes]:
        """Keys that are or were the agent's own."""
        key = self.checker.key_of(agent)
        return self.checker.ended.get(agent, frozenset()) | ({key} if key else frozenset())

    def dead_of(self, stream: Stream) -> Intervals:
        """Batches of a stream that were refused, and are its agent's own for certain."""
        return self.refusals.of(stream, self._trusted(stream[0]))

    def _came(
        self,
        headers: Sequence[Header],
        fresh: Sequence[tuple[Sealed, int]],
        dead: Mapping[DeadKey, Dead],
    ) -> dict[Stream, Intervals]:
        """What will have come of these streams once this is committed: taken, or refused."""
        taken = {h.batch_id[:3]: Intervals() for h in headers}
        for stream in taken:
            taken[stream] = self.decide.state.taken_of(stream)
        for sealed, _ in fresh:
            taken[sealed.header.batch_id[:3]].add(sealed.header.sequence)
        for stream, came in taken.items():
            for first, last in self.refusals.of(stream, self._trusted(stream[0]), dead):
                came.add_range(first, last)
        return taken

    # time, and who is heard

    def _pass_time(self, *, idle: bool) -> None:
        """Let time pass only where nothing waits at the brokers: what waits there is not late."""
        now_ns = self.clock.monotonic_ns()
        if now_ns - self._ticked_ns < SECOND_NS:
            return
        self._ticked_ns = now_ns
        lag = self.reader.lag()
        self.counts.lag = -1 if lag is None else lag
        if lag == 0 and idle and not self._lost_since_ns:
            self.begins = False
            self.decide.tick(self.clock.now_ns())

    def _look_at_agents(self, records: Sequence[Record]) -> None:
        if self.agents is None:
            return
        for record in records:
            self._appended[record.partition] = record.append_ns
        if self._lost_since_ns:
            self.agents.covering.interrupted()
            return
        try:
            behind = self.reader.behind()
            if behind is not None:
                self.agents.look(min((self._appended.get(n, 1) for n in behind), default=0))
            for reason, agents in self.agents.suspects.items():
                for agent in sorted(agents):
                    self.announcing.suspect(reason, agent)
            self.agents.suspects.clear()
        except CaptureError as error:
            self.agents.covering.interrupted()
            logs.get("stream").warning("heartbeats_not_read", reason=str(error))

    def _unreachable(self, error: CaptureError) -> None:
        now_ns = self.clock.monotonic_ns()
        if not self._lost_since_ns:
            self._lost_since_ns = now_ns
            logs.get("stream").error("kafka_unreachable", reason=str(error))
        if now_ns - self._lost_since_ns >= UNREACHABLE_NS:
            self.announcing.unreachable(str(error))
        self.stop.wait(1.0)

    def _reached(self) -> None:
        if self._lost_since_ns:
            seconds = (self.clock.monotonic_ns() - self._lost_since_ns) // SECOND_NS
            logs.get("stream").info("kafka_reached", seconds=seconds)
        self._lost_since_ns = 0


def _rows_of(record: Record) -> int:
    """About how many rows a message has, before it is looked into: 100 octets each."""
    return len(record.value) // 100


def _differing(before: FlowBatch, after: FlowBatch, name: str) -> int:
    """Rows whose text is another one, where both are known."""
    a, b = before.text(name), after.text(name)
    both = (a.codes >= 0) & (b.codes >= 0)
    if not both.any():
        return 0
    place = {text: code for code, text in enumerate(b.values)}
    same = np.array([*(place.get(text, -2) for text in a.values), -2])
    return int((both & (same[a.codes] != b.codes)).sum())
