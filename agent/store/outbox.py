"""The sender of notices: one thread per sink takes what the commits have queued and hands it over, at least once.

A notice is marked sent after its sink has taken it; a program killed between the two sends it again with the same id.
A sink that fails waits longer each time, up to five minutes, and holds up no other; a notice that fails holds up only
later notices of its own case. What a sink refuses for good, or has not taken in three days, is dead: kept with its
reason, shown with its case.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.core.clock import DAY_NS, MINUTE_NS, SECOND_NS, Clock
from agent.core.errors import SinkError, StateError
from agent.core.faults import faultpoint
from agent.core.log import Log
from agent.core.stages import Sink
from agent.store.kept import Delivery, Waiting

if TYPE_CHECKING:
    from agent.store.state import State

FIRST_WAIT_NS: Final = SECOND_NS
LONGEST_WAIT_NS: Final = 5 * MINUTE_NS
GIVE_UP_NS: Final = 3 * DAY_NS
GIVE_UP_ATTEMPTS: Final = 20
"""A notice needs both age and tries to be given up, so that a clock that jumps ahead gives up nothing."""
LOOK_S: Final = 1.0
"""How often a thread looks without being woken, for what waits for its time or was queued by another process."""


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """How one sink's deliveries stand."""

    waiting: int
    dead: int
    """Given up, of all runs."""
    sent: int
    """Delivered in this run."""
    oldest_ns: int | None
    """Age of the oldest waiting notice; None if none waits."""
    last_error: str
    """Why the last failed delivery failed; empty after one that did not."""
    resting_ns: int
    """Time until the sink is tried again after a failure; 0 if it may be tried now."""


@dataclass
class _Lane:
    """What a sink's thread knows."""

    name: str
    sink: Sink
    mutex: threading.Lock = field(default_factory=threading.Lock)
    """Guards the two events together."""
    wake: threading.Event = field(default_factory=threading.Event)
    idle: threading.Event = field(default_factory=threading.Event)
    """Nothing can be sent now: all is sent, or rests."""
    failures: int = 0
    """In a row."""
    rest_until_ns: int = 0
    """Monotonic."""
    sent: int = 0
    last_error: str = ""
    thread: threading.Thread | None = None


class Outbox:
    """Sends queued notices. Blocks nobody but its own threads."""

    def __init__(
        self, state: State, sinks: Mapping[str, Sink], clock: Clock, jitter: random.Random | None = None
    ) -> None:
        """``sinks`` by the name under which notices are queued. ``jitter`` spreads retries; without it there is none."""
        self._state = state
        self._clock = clock
        self._jitter = jitter
        self._lanes = {name: _Lane(name, sink) for name, sink in sinks.items()}
        self._stop = threading.Event()
        self._log = Log(part="outbox")

    def start(self) -> None:
        """Begin to send. Each sink has its thread."""
        for lane in self._lanes.values():
            lane.thread = threading.Thread(
                target=self._run, args=(lane,), name=f"outbox-{lane.name}", daemon=True
            )
            lane.thread.start()

    def wake(self) -> None:
        """Say that something was queued."""
        for lane in self._lanes.values():
            with lane.mutex:
                lane.idle.clear()
                lane.wake.set()

    def drain(self, deadline_s: float) -> int:
        """Wait until all that can be sent now is sent, or the deadline passes; how many notices still wait."""
        self.wake()
        until_ns = _real_ns() + int(deadline_s * SECOND_NS)
        for lane in self._lanes.values():
            if lane.thread is not None:
                lane.idle.wait(max(0.0, (until_ns - _real_ns()) / SECOND_NS))
        return sum(status.waiting for status in self.status().values())

    def stop(self, deadline_s: float = 0.0) -> None:
        """Drain, then end the threads; one whose sink does not return in time is left behind and its notice kept."""
        until_ns = _real_ns() + int(deadline_s * SECOND_NS)
        if deadline_s > 0 and any(lane.thread for lane in self._lanes.values()):
            self.drain(deadline_s)
        self._stop.set()
        for lane in self._lanes.values():
            lane.wake.set()
        self.join(max(0.0, (until_ns - _real_ns()) / SECOND_NS))

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for each thread to end, at most so long."""
        for lane in self._lanes.values():
            if lane.thread is not None:
                lane.thread.join(timeout_s)

    def status(self) -> dict[str, SinkStatus]:
        """How each sink stands, also those that are no longer in the settings but have something waiting."""
        now_ns, monotonic_ns = self._clock.now_ns(), self._clock.monotonic_ns()
        queued = self._state.deliveries.waiting()
        table = {}
        for name in sorted(self._lanes.keys() | queued.keys()):
            held, lane = queued.get(name, Waiting()), self._lanes.get(name)
            table[name] = SinkStatus(
                waiting=held.waiting,
                dead=held.dead,
                sent=lane.sent if lane else 0,
                oldest_ns=None if held.oldest_ns is None else max(0, now_ns - held.oldest_ns),
                last_error=lane.last_error if lane else "no sink of this name is set up",
                resting_ns=max(0, lane.rest_until_ns - monotonic_ns) if lane else 0,
            )
        return table

    def step(self, name: str) -> bool:
        """Send one notice that is due to the sink of that name; whether there was one. For a thread of one's own.

        Raises :class:`StateError`; what was being sent is then sent again later.
        """
        lane = self._lanes[name]
        if self._clock.monotonic_ns() < lane.rest_until_ns:
            return False
        now_ns = self._clock.now_ns()
        due = [d for d in self._state.deliveries.heads(name) if _is_due(d, now_ns)]
        if not due:
            return False
        self._deliver(lane, min(due, key=lambda d: (d.attempts, d.id)))
        return True

    def _deliver(self, lane: _Lane, delivery: Delivery) -> None:
        notice = self._state.deliveries.notice(delivery)
        faultpoint("outbox.before_send")
        try:
            lane.sink.write_notice(notice)
        except SinkError as error:
            self._failed(lane, delivery, str(error), retriable=error.retriable)
            return
        except Exception as error:  # noqa: BLE001  a sink's defect: the notice must outlive it
            self._log.exception("sink_crashed", sink=lane.name)
            self._failed(lane, delivery, f"defect of the sink: {error!r}", retriable=True)
            return
        faultpoint("outbox.after_send")
        self._state.deliveries.sent(delivery, self._clock.now_ns())
        faultpoint("outbox.after_mark")
        lane.failures, lane.last_error = 0, ""
        lane.sent += 1

    def _failed(self, lane: _Lane, delivery: Delivery, reason: str, *, retriable: bool) -> None:
        now_ns = self._clock.now_ns()
        lane.last_error = reason
        tired = now_ns - delivery.created_ns >= GIVE_UP_NS and delivery.attempts + 1 >= GIVE_UP_ATTEMPTS
        if not retriable or tired:
            self._state.deliveries.dead(delivery, reason, now_ns)
            self._log.error("notice_given_up", sink=lane.name, notice=delivery.key, reason=reason)
            return
        lane.failures += 1
        rest_ns = self._wait_ns(lane.failures)
        lane.rest_until_ns = self._clock.monotonic_ns() + rest_ns
        due_ns = now_ns + self._wait_ns(delivery.attempts + 1)
        self._state.deliveries.failed(delivery, reason, due_ns)
        self._log.warning(
            "notice_not_sent", sink=lane.name, notice=delivery.key, reason=reason, retry_s=rest_ns / SECOND_NS
        )

    def _wait_ns(self, failures: int) -> int:
        """Doubles with each failure up to the cap, then anything from half of that to all of it."""
        longest = min(FIRST_WAIT_NS << min(failures - 1, 20), LONGEST_WAIT_NS)
        return longest if self._jitter is None else longest - int(longest / 2 * self._jitter.random())

    def _run(self, lane: _Lane) -> None:
        while not self._stop.is_set():
            lane.wake.clear()
            try:
                while not self._stop.is_set() and self.step(lane.name):
                    pass
            except StateError as error:
                self._log.error("outbox_state_failed", sink=lane.name, reason=str(error))
            except Exception:  # noqa: BLE001  this thread's outermost edge: a thread that dies sends nothing
                self._log.exception("outbox_crashed", sink=lane.name)
            with lane.mutex:
                if not lane.wake.is_set():
                    lane.idle.set()
            lane.wake.wait(LOOK_S)


def _real_ns() -> int:
    """Time for waiting on threads, which run in real time even where the clock is the data's."""
    return time.monotonic_ns()


def _is_due(delivery: Delivery, now_ns: int) -> bool:
    """A time to wait for that is further off than any wait was set by a clock that has stepped back since."""
    return delivery.due_ns <= now_ns or delivery.due_ns > now_ns + LONGEST_WAIT_NS
