"""The thread between the spool and Kafka: newest rows first, what waited beside them at a measured pace.

What is sealed now goes straight from memory, rows of stores before the rest; what an outage left is read from the spool
and sent at a bounded rate, so that a backlog of a day neither holds up the present nor floods a broker that has just
come back together with a thousand other agents. A record leaves the spool when the receiver has it, and not before.
"""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from agent.core.accounts import Accounts, Amounts
from agent.core.clock import SECOND_NS, Clock
from agent.core.errors import DecodeError, SinkError, StateError
from agent.core.faults import faultpoint
from agent.core.log import Log
from agent.core.message import Message
from agent.core.stages import Carrier
from agent.spool.lane import Record
from agent.spool.progress import Progress
from agent.spool.spool import LANES, Gone, Spool

_LOG: Final = Log(part="sending")
HEARTBEAT_NS: Final = 10 * SECOND_NS
NOTE_NS: Final = SECOND_NS
FIRST_WAIT_S: Final = 0.5
LEAVE_S: Final = 40.0
"""How long the end of the thread may take beyond what it was given."""
REFUSED_WAIT_S: Final = 60.0
"""Somebody has to change credentials or rights first; trying often would only fill logs, and lock accounts."""
LIVE_OCTETS: Final = 4 * 2**20
"""Of what was sealed and not sent, in memory; what is more is read from the spool."""
TAKE_OCTETS: Final = 2**20
BURST_OCTETS: Final = 2**20
"""Backlogs up to here are sent without a measured pace."""
NOT_TAKEN: Final = "refused_by_broker"
"""Reason, in the account, of a message that the receiver will never take, such as one that is too large."""


class Heart(Protocol):
    """Makes heartbeats."""

    def beat(self) -> tuple[bytes, bytes]:
        """Signature and heartbeat of now."""

    def close(self) -> tuple[bytes, bytes]:
        """The same for the end of the run."""

    def left(self) -> list[tuple[bytes, bytes]]:
        """The ends of earlier runs that nobody was told."""

    def told(self, heartbeat: bytes) -> None:
        """The end of a run was told."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How quickly a backlog is sent."""

    octets_per_s: int = 8 * 2**20
    after_s: float = 10.0
    """A backlog of other rows than stores' begins up to so long after the connection, at random."""
    longest_wait_s: float = 30.0
    """Between two tries to connect, at most."""


@dataclass(slots=True)
class _Flight:
    """A message that is sent and not answered."""

    amounts: Amounts
    octets: int
    sent_ns: int


_Key = tuple[int, int]
"""Lane and record number."""


@dataclass
class Carrying:
    """Sends what the spool holds. ``lock`` guards spool, progress and what waits in memory together."""

    spool: Spool
    carrier: Carrier
    agent_id: str
    accounts: Accounts
    clock: Clock
    heart: Heart
    progress: Mapping[int, Progress]
    in_flight_octets: int
    pace: Pace = field(default_factory=Pace)
    jitter: random.Random = field(default_factory=random.Random)
    lock: threading.RLock = field(default_factory=threading.RLock)
    sync_every_s: bool = False
    connected: bool = False
    last_error: str = ""
    """Why nothing can be sent now; empty while it can."""
    last_refused: bool = False
    acknowledged_ns: int = 0
    """When something was acknowledged last, by the wall clock; 0 before the first."""
    acknowledged: int = 0
    """Batches that the receiver took, since the start."""
    _live: dict[int, deque[tuple[int, Amounts, Message]]] = field(
        default_factory=lambda: {lane: deque() for lane in LANES}
    )
    _live_octets: int = 0
    _live_keys: set[_Key] = field(default_factory=set)
    """What is sent from memory, waiting or in flight."""
    _ahead: dict[_Key, Amounts] = field(default_factory=dict)
    """Acknowledged before it was read from the spool."""
    _lost: set[_Key] = field(default_factory=set)
    """In flight from memory when the spool let it go; whatever becomes of it, it is counted as let go."""
    _held: dict[_Key, Record] = field(default_factory=dict)
    """Read from the spool, but sent from memory."""
    _taken: dict[int, deque[Record]] = field(default_factory=lambda: {lane: deque() for lane in LANES})
    _flights: dict[_Key, _Flight] = field(default_factory=dict)
    _suspects: set[_Key] = field(default_factory=set)
    """Refused for good, but together with others: the client blames all that are in flight for one. Each is sent alone."""
    _in_flight: int = 0
    _old: dict[_Key, Record] = field(default_factory=dict)
    """Sent from the spool."""
    _events: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue)
    _generation: int = 0
    _first: dict[int, int] = field(default_factory=dict)
    """Number of this run's first record, by lane."""
    _failure: SinkError | None = None
    _failures: int = 0
    _tokens: float = BURST_OCTETS
    _metered_ns: int = 0
    _old_from_ns: int = 0
    _noted_ns: int = 0
    _beaten_ns: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _until_ns: int = 0
    _closing: bool = False
    _closed: bytes | None = None
    """The last heartbeat while it is on its way; empty once it is told."""
    _untold: str = ""
    _thread: threading.Thread | None = None

    # of the worker

    def start(self) -> None:
        """Begin to send."""
        self._first = {lane: self.spool.next_number(lane) for lane in LANES}
        self._thread = threading.Thread(target=self._run, name="send", daemon=True)
        self._thread.start()

    def offer(self, lane: int, number: int, amounts: Amounts, message: Message) -> None:
        """Something was just kept in the spool. The caller holds ``lock`` since before it was."""
        if self.connected and self._live_octets + len(message.value) <= LIVE_OCTETS:
            self._live[lane].append((number, amounts, message))
            self._live_keys.add((lane, number))
            self._live_octets += len(message.value)

    def wake(self) -> None:
        """There is something to send."""
        self._events.put(None)

    def stop(self, deadline_s: float, *, closing: bool) -> None:
        """Send what can be sent until then, tell the end of the run if it is in order (``closing``), and end."""
        self._until_ns = self.clock.monotonic_ns() + int(deadline_s * SECOND_NS)
        self._closing = closing
        self._stopping.set()
        self.wake()
        if self._thread is not None:
            self._thread.join(deadline_s + LEAVE_S)
        if closing and self._closed is None:
            self.heart.close()  # kept until the next run can tell it

    # of the thread

    def _run(self) -> None:
        while not self._is_over():
            try:
                self.carrier.connect()
                self._connected()
                self._carry()
            except SinkError as error:
                self._failed(error)
            except StateError as error:
                _LOG.error("spool_not_read", reason=str(error))
                self._failures += 1
            except Exception as error:  # noqa: BLE001  this thread's outermost edge: one that dies sends nothing
                _LOG.exception("sending_crashed")
                self.last_error = repr(error)
                self._failures += 1
            self._disconnected()
            if not self._stopping.is_set():
                self._rest()

    def _connected(self) -> None:
        now_ns = self.clock.monotonic_ns()
        with self.lock:
            self.connected = True
        self._generation += 1
        self._tokens, self._metered_ns = BURST_OCTETS, now_ns
        backlog = self.spool.octets_waiting > BURST_OCTETS
        wait_s = self.pace.after_s * self.jitter.random() if backlog else 0.0
        self._old_from_ns = now_ns + int(wait_s * SECOND_NS)
        self._beaten_ns = 0
        for signature, heartbeat in self.heart.left():
            self._tell(signature, heartbeat)

    def _disconnected(self) -> None:
        self.carrier.disconnect()
        self._hear(0.0)
        self._generation += 1
        with self.lock:
            self.connected = False
            self._live_octets = 0
            self._live_keys.clear()
            self._lost.clear()
            for lane in LANES:
                self._live[lane].clear()
                self._taken[lane].clear()
            self._held.clear()
            self._old.clear()
            self._flights.clear()
            self._in_flight = 0
            self.spool.rewind()
        self._failure = None
        self._chores(beat=False)

    def _carry(self) -> None:
        while not self._is_over():
            self._hear(0.0)
            if self._failure is not None:
                raise self._failure
            self._expect_answers()
            self._chores()
            if self._stopping.is_set():
                self._end()
            most = 1 if self._suspects else self.in_flight_octets
            if not (self._in_flight < most and (self._send_live() or self._send_old())):
                self._hear(self._idle_s())

    def _expect_answers(self) -> None:
        """The client promises an answer in time. But while it waits for a new producer id, as after a batch that ran
        out, it looks at no time, and the id may never come: another client gets one.
        """
        if self._flights:
            oldest = next(iter(self._flights.values()))
            waited_s = (self.clock.monotonic_ns() - oldest.sent_ns) / SECOND_NS
            if waited_s > self.carrier.longest_s:
                raise SinkError(f"kafka: no answer for {waited_s:.0f} s; connecting anew", retriable=True)

    def _is_over(self) -> bool:
        if not self._stopping.is_set():
            return False
        if self.clock.monotonic_ns() >= self._until_ns:
            return True
        return bool(self._closed == b"" or (not self._closing and not self.spool.waiting()))

    def _end(self) -> None:
        """Tell the end of the run once everything else is told."""
        if self._closing and self._closed is None and not self.spool.waiting():
            signature, self._closed = self.heart.close()
            self._tell(signature, self._closed)

    def _rest(self) -> None:
        """Wait after a failure; longer each time, and never all agents at once."""
        most_s = min(FIRST_WAIT_S * 2 ** min(self._failures, 10), self.pace.longest_wait_s)
        if self.last_refused:
            most_s = REFUSED_WAIT_S
        end_ns = self.clock.monotonic_ns() + int(most_s * (0.5 + self.jitter.random() / 2) * SECOND_NS)
        while not self._stopping.is_set() and (left_ns := end_ns - self.clock.monotonic_ns()) > 0:
            self._stopping.wait(min(left_ns / SECOND_NS, 1.0))
            self._chores(beat=False)

    def _failed(self, error: SinkError) -> None:
        text = str(error)
        if text != self.last_error and error.retriable:
            tell = _LOG.error if error.refused else _LOG.warning
            tell("kafka_not_reached", reason=text, kept="in the spool")
        self.last_error, self.last_refused = text, error.refused
        self._failures += 1

    def _idle_s(self) -> float:
        now_ns = self.clock.monotonic_ns()
        due_ns = min(self._beaten_ns + HEARTBEAT_NS, self._noted_ns + NOTE_NS)
        if self._stopping.is_set():
            due_ns = min(due_ns, self._until_ns)
        if any(self._taken.values()) and self._in_flight < self.in_flight_octets:
            due_ns = min(due_ns, now_ns + SECOND_NS // 50)
        return max(0.001, min((due_ns - now_ns) / SECOND_NS, 1.0))

    def _hear(self, wait_s: float) -> None:
        """Take up every answer that came; wait for one as long as that."""
        try:
            event = self._events.get(timeout=wait_s) if wait_s else self._events.get_nowait()
            while True:
                if event is not None:
                    event()
                event = self._events.get_nowait()
        except queue.Empty:
            return

    def _chores(self, *, beat: bool = True) -> None:
        now_ns = self.clock.monotonic_ns()
        if now_ns - self._noted_ns >= NOTE_NS:
            self._noted_ns = now_ns
            try:
                if self.sync_every_s:
                    self.spool.sync()
                self.spool.note()
            except StateError as error:
                _LOG.warning(
                    "spool_not_noted", reason=str(error), cost="after a crash some records are sent twice"
                )
        if beat and now_ns - self._beaten_ns >= HEARTBEAT_NS:
            self._beaten_ns = now_ns
            self._tell(*self.heart.beat())

    def _tell(self, signature: bytes, heartbeat: bytes) -> None:
        def heard(error: SinkError | None) -> None:
            if error is not None:
                self._not_told(error)
                return
            self.heart.told(heartbeat)
            if heartbeat == self._closed:
                self._closed = b""

        try:
            self.carrier.tell(
                self.agent_id, signature, heartbeat, lambda error: self._events.put(lambda: heard(error))
            )
        except SinkError as error:
            self._not_told(error)

    def _not_told(self, error: SinkError) -> None:
        """A heartbeat was not taken: rows go on all the same, and the next is tried later."""
        if str(error) != self._untold:
            _LOG.warning("heartbeat_not_sent", reason=str(error))
        self._untold = str(error)
        self._beaten_ns = self.clock.monotonic_ns() + 5 * HEARTBEAT_NS

    def _well(self) -> None:
        if self._failures:
            _LOG.info("kafka_reached", waiting=self.spool.waiting().records)
        self._failures, self.last_error, self.last_refused = 0, "", False

    # sending

    def _send_live(self) -> bool:
        with self.lock:
            lane = next((lane for lane in reversed(LANES) if self._live[lane]), None)
            if lane is None:
                return False
            number, amounts, message = self._live[lane].popleft()
            self._live_octets -= len(message.value)
        self._send((lane, number), amounts, message)
        return True

    def _send_old(self) -> bool:
        for lane in reversed(LANES):
            if not self._taken[lane]:
                self._take(lane)
            while self._taken[lane]:
                record = self._taken[lane][0]
                if lane == LANES[0] and self.clock.monotonic_ns() < self._old_from_ns:
                    break
                if not self._may(len(record.body)):
                    return False
                self._taken[lane].popleft()
                if self._send_record(record):
                    return True
        return False

    def _take(self, lane: int) -> None:
        """Read on in a lane: what is sent from memory is held until its answer, what was answered goes."""
        with self.lock:
            for record in self.spool.take(lane, TAKE_OCTETS):
                key = (lane, record.number)
                if key in self._ahead:
                    del self._ahead[key]
                    self.spool.acknowledge(record)
                elif key in self._live_keys:
                    self._held[key] = Record(lane, record.number, record.amounts, b"")
                else:
                    self._taken[lane].append(record)
            self.hear_gone()

    def _send_record(self, record: Record) -> bool:
        key = (record.lane, record.number)
        try:
            message = Message.unpack(record.body)
        except DecodeError as error:
            _LOG.error("spool_record_damaged", lane=record.lane, reason=str(error))
            self._old[key] = record
            self._through(key, record.amounts, "spool_corrupt")
            return False
        self._old[key] = record
        self._send(key, record.amounts, message)
        return True

    def _may(self, octets: int) -> bool:
        """Whether a backlog may go on; takes the octets off its allowance."""
        now_ns = self.clock.monotonic_ns()
        rate = self.pace.octets_per_s
        self._tokens = min(self._tokens + rate * (now_ns - self._metered_ns) / SECOND_NS, BURST_OCTETS)
        self._metered_ns = now_ns
        if self._tokens <= 0:
            return False
        self._tokens -= octets
        return True

    def _send(self, key: _Key, amounts: Amounts, message: Message) -> None:
        flight = _Flight(amounts, len(message.value), self.clock.monotonic_ns())
        self._flights[key] = flight
        self._in_flight += flight.octets
        generation = self._generation

        def heard(error: SinkError | None) -> None:
            if generation == self._generation:
                self._answered(key, error)

        self.carrier.send(message, self.agent_id, lambda error: self._events.put(lambda: heard(error)))
        faultpoint("send.after_send")

    def _answered(self, key: _Key, error: SinkError | None) -> None:
        flight = self._flights.pop(key, None)
        if flight is None:
            return
        self._in_flight -= flight.octets
        if error is None:
            faultpoint("send.after_ack")
            self.acknowledged_ns = self.clock.now_ns()
            self.acknowledged += 1
            self._well()
            self._suspects.discard(key)
            self._through(key, flight.amounts)
        elif error.retriable:
            self._failure = error
        elif key not in self._suspects:
            self._suspects.add(key)
            self._failure = error
        else:
            self._suspects.remove(key)
            self._failure = error  # the client refuses everything from now on
            _LOG.error("message_refused", reason=str(error), octets_out=flight.amounts.octets_out)
            self._through(key, flight.amounts, NOT_TAKEN)

    def _through(self, key: _Key, amounts: Amounts, reason: str = "") -> None:
        """A record needs no further sending: it is acknowledged, or for ``reason`` never will be."""
        lane, number = key
        with self.lock:
            self._live_keys.discard(key)
            if key in self._lost:
                self._lost.remove(key)
                return
            record = self._held.pop(key, None) or self._old.pop(key, None)
            if record is None:
                self._ahead[key] = amounts
            else:
                self.spool.acknowledge(record)
            if number >= self._first[lane]:
                if reason:
                    self.accounts.spool_drop(reason, amounts, spooled=True)
                    self.progress[lane].let_go(number, 1)
                else:
                    self.accounts.acknowledge(amounts)
                    self.progress[lane].acknowledged(number)
            self.hear_gone()

    def hear_gone(self) -> bool:
        """Account for what the spool let go; True where that was a record that never came in. Under ``lock``."""
        refused = False
        for gone in self.spool.gone():
            if gone.first < 0:
                refused = True
                self.accounts.spool_drop(gone.reason, gone.tally.amounts, spooled=False)
            elif gone.first >= self._first.get(gone.lane, 0):
                self._account_for(gone)
        return refused

    def _account_for(self, gone: Gone) -> None:
        """Records of this run were let go; what of them had been acknowledged from memory stays acknowledged."""
        keys = [(gone.lane, n) for n in range(gone.first, gone.first + gone.tally.records)]
        amounts = gone.tally.amounts
        for key in keys:
            if key in self._ahead:
                amounts -= self._ahead.pop(key)
            else:
                self.progress[gone.lane].let_go(key[1], 1)
                if key in self._live_keys:
                    self._lost.add(key)
        self.accounts.spool_drop(gone.reason, amounts, spooled=True)
