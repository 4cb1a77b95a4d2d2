"""The road of a role that only copies what agents sent: messages of Kafka in, checked, each once, handed to a taker.

    gather ─> check ─> leave out duplicates ─> take ─> one commit (offsets, sequences, the taker's place) ─> next

No policy, no databases, no decision: what cannot be read is counted and passed by, for the detector sends it to the
topic of dead letters and tells people. A taker that fails holds up this role alone: Kafka keeps what waits.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from agent import logs
from agent.core.accounts import Amounts
from agent.core.clock import SECOND_NS, Clock
from agent.core.decision import Decision
from agent.core.errors import CaptureError, SinkError, StateError, TakenOverError
from agent.core.faults import faultpoint
from agent.core.flow import FlowBatch
from agent.receiving.checking import Checker, Refused, Sealed
from agent.service import Attendant
from agent.store.inputs import Intake, Offset, Pin
from agent.store.sequences import BatchId
from agent.store.state import Commit, State
from collectors.kafka import Reader, Record

WAIT_S: Final = 0.2
GATHER_OCTETS: Final = 32 * 2**20
"""Octets of messages that one turn takes, at most (and what one answer adds)."""
RETRY_S: Final = (0.2, 1.0, 5.0, 15.0)
KEYS_EVERY_NS: Final = 5 * SECOND_NS
"""How often the detector's keys are looked up at most, where a message is signed by none that is known."""
_OF_KEYS: Final = ("unknown_key", "bad_signature", "identity_conflict")
_OCTETS_OF_A_ROW: Final = 100


class Taker(Protocol):
    """Takes batches to where they are kept."""

    def take(self, batches: Sequence[FlowBatch]) -> str:
        """Keep them, for good; what is to be committed with them as this taker's place, empty for none.

        Raises ``OSError`` or :class:`~agent.core.errors.SinkError`; then :meth:`undo` is called, and the same comes again.
        """

    def undo(self) -> None:
        """What was taken since the last commit is not committed. Raises ``OSError``."""

    def settled(self) -> None:
        """What was taken is committed."""

    def between(self) -> None:
        """Called in each turn, also where nothing came."""

    def close(self) -> None:
        """Let go of everything."""


@dataclass
class Counts:
    """What came, since the start of this run."""

    messages: int = 0
    octets: int = 0
    rows: int = 0
    amounts: Amounts = field(default_factory=Amounts)
    duplicates: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    lag: int = -1
    """Messages that wait at the brokers; -1 while that is not known."""


@dataclass
class Copying:
    """One run of this road. Not thread-safe; ``run`` is called once."""

    reader: Reader
    checker: Checker
    state: State
    taker: Taker
    clock: Clock
    gather_rows: int
    keys: Callable[[], Mapping[str, Pin]] = dict
    """The keys that the detector trusts, where it can be asked."""
    attendant: Attendant = field(default_factory=Attendant)
    stop: threading.Event = field(default_factory=threading.Event)
    counts: Counts = field(default_factory=Counts)
    trouble: str = ""
    """Why nothing is copied now; empty while it is."""
    _keys_ns: int = 0
    _looked_ns: int = 0

    def run(self) -> None:
        """Copy until ``stop`` is set. Raises :class:`~agent.core.errors.TakenOverError`."""
        try:
            while not self.stop.is_set():
                records = self._gathered()
                if records and not self._take(records):
                    break
                self._look()
                self.taker.between()
                self.attendant.turned("kafka")
        finally:
            self.reader.close()

    def _gathered(self) -> list[Record]:
        records: list[Record] = []
        rows = octets = 0
        most = max(1, self.gather_rows // 500)
        while not self.stop.is_set():
            try:
                more = self.reader.poll(most, 0.0 if records else WAIT_S)
            except CaptureError as error:
                self._troubled("kafka_unreachable", str(error))
                self.stop.wait(1.0)
                break
            records += more
            octets += sum(len(record.value) for record in more)
            rows += sum(len(record.value) // _OCTETS_OF_A_ROW for record in more)
            if not more or rows >= self.gather_rows or octets >= GATHER_OCTETS:
                self._well()
                break
        return records

    def _take(self, records: Sequence[Record]) -> bool:
        """Hand over what is new, and commit; False where that was broken off by ``stop``."""
        # As the reader has them: a topic that was made again in the middle of a turn begins anew in all its partitions.
        offsets = {place: Offset(at.topic_id, at.next_offset) for place, at in self.reader.places().items()}
        fresh: dict[BatchId, Sealed] = {}
        for record in records:
            self.counts.messages += 1
            self.counts.octets += len(record.value)
            found = self._checked(record)
            if isinstance(found, Refused):
                self._refuse(record, found)
            elif found.header.batch_id in fresh or self._is_known(found):
                self.counts.duplicates += 1
            else:
                fresh[found.header.batch_id] = found
        batches = [sealed.batch for sealed in fresh.values()]
        position = self._until_taken(batches)
        if position is None:
            return False
        faultpoint("copy.after_take")
        pins = dict(self.checker.fresh)
        work = Commit(
            decision=Decision(),
            position=position,
            now_ns=self.clock.now_ns(),
            batches=tuple((batch_id, None) for batch_id in fresh),
            intake=Intake(offsets, pins),
        )
        if not self._until_committed(work):
            return False
        faultpoint("copy.after_commit")
        self.taker.settled()
        self.checker.kept(pins)
        self.counts.commits += 1
        self.counts.rows += sum(map(len, batches))
        self.counts.amounts = sum((batch.amounts() for batch in batches), self.counts.amounts)
        return True

    def _checked(self, record: Record) -> Sealed | Refused:
        """As the detector checks it; a key that is not known may have been enrolled since it was last looked up."""
        found = self.checker.check(record.headers, record.value)
        now_ns = self.clock.monotonic_ns()
        stale = not self._keys_ns or now_ns - self._keys_ns >= KEYS_EVERY_NS
        if isinstance(found, Refused) and found.reason in _OF_KEYS and stale:
            self._keys_ns = now_ns
            try:
                self.checker.kept(self.keys())
            except StateError as error:
                logs.get("copying").warning("keys_not_read", reason=str(error))
            else:
                found = self.checker.check(record.headers, record.value)
        return found

    def _is_known(self, sealed: Sealed) -> bool:
        return self.state.taken(sealed.header.batch_id, None) != "new"

    def _refuse(self, record: Record, refused: Refused) -> None:
        if refused.reason not in self.counts.refused:
            logs.get("copying").warning(
                "message_refused",
                reason=refused.reason,
                detail=refused.detail[:300],
                origin=f"{self.reader.topic}/{record.partition}/{record.offset}",
                next="the first of its reason in this run; all are counted, the detector tells whose",
            )
        self.counts.refused[refused.reason] += 1

    def _until_taken(self, batches: Sequence[FlowBatch]) -> str | None:
        """The taker's place after these; None where ``stop`` was set before."""
        tries = 0
        while True:
            try:
                position = self.taker.take(batches)
            except (OSError, SinkError) as error:
                try:
                    self.taker.undo()
                except OSError as worse:
                    logs.get("copying").error("not_taken_back", reason=str(worse))
                if not self._again("not_taken", str(error), tries):
                    return None
                tries += 1
            else:
                self._well()
                return position

    def _until_committed(self, work: Commit) -> bool:
        tries = 0
        while True:
            try:
                self.state.commit(work)
            except TakenOverError:
                raise
            except StateError as error:
                if not self._again("commit_failed", str(error), tries):
                    return False
                tries += 1
            else:
                self._well()
                return True

    def _again(self, what: str, reason: str, tries: int) -> bool:
        """Wait for the next try; False where there is none."""
        self._troubled(what, reason)
        self.attendant.retrying(reason)
        return not self.stop.wait(RETRY_S[min(tries, len(RETRY_S) - 1)])

    def _troubled(self, what: str, reason: str) -> None:
        if reason != self.trouble:
            logs.get("copying").error(what, reason=reason, kept="in Kafka, as long as the topic keeps it")
        self.trouble = reason

    def _well(self) -> None:
        if self.trouble:
            logs.get("copying").info("goes_on")
        self.trouble = ""

    def _look(self) -> None:
        now_ns = self.clock.monotonic_ns()
        if now_ns - self._looked_ns >= SECOND_NS:
            self._looked_ns = now_ns
            lag = self.reader.lag()
            self.counts.lag = -1 if lag is None else lag
