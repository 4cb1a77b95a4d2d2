"""The state of a run that nothing outlasts, such as a replay without a folder of its own: no database is opened.

It does what deciding and sending ask of :class:`agent.store.state.State` in one run. What nobody can ask for once the
run is over (the ledger, findings, the detector's snapshots) is let go.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import count
from typing import Literal

from agent.core.decision import LedgerDay
from agent.core.finding import Case, CaseState, Notice
from agent.store.kept import Action, Commit, Delivery, DeliveryState, Restored, Waiting, key_of
from agent.store.sequences import BatchId, Intervals, Sequences, Stream


class Unkept:
    """Takes commits and keeps of them what is still to be done. Thread-safe; never blocks."""

    name = "memory"

    def __init__(self) -> None:
        self._taken = Sequences()
        self.number = 0
        self.cases = _NoCases()
        self.ledger = _NoLedger()
        self.deliveries = _Deliveries()

    def load(self) -> Restored:
        """There was nothing before."""
        return Restored(None, (), Sequences(), "", 0, 0)

    def taken(self, batch_id: BatchId, _digest: bytes | None) -> Literal["new", "duplicate"]:
        """Whether a batch was committed in this run."""
        return "duplicate" if batch_id in self._taken else "new"

    def streams(self) -> list[Stream]:
        """Every (agent, run, lane) of which a batch was committed."""
        return list(self._taken.streams())

    def commit(self, work: Commit) -> None:
        """Take what was decided."""
        touched: dict[Stream, Intervals] = {}
        for batch_id, _ in work.batches:
            stream = batch_id[:3]
            touched.setdefault(stream, self._taken.of(stream)).add(batch_id[3])
        self._taken.put(touched)
        self.deliveries.queue(work)
        self.number += 1

    def close(self) -> None:
        """Nothing is open."""


class _NoCases:
    """Nobody acts on the cases of such a run, and there were none before it."""

    def list_cases(self, _states: Collection[CaseState] = ()) -> list[Case]:
        return []

    def actions_after(self, _number: int) -> list[Action]:
        return []


class _NoLedger:
    def days(self, _since_day: int) -> list[LedgerDay]:
        return []


class _Deliveries:
    """Notices on their way: each once, as in :class:`agent.store.deliveries.Deliveries`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._notices: dict[str, Notice] = {}
        self._open: dict[int, Delivery] = {}
        """What waits or was given up; what was sent is forgotten."""

    def queue(self, work: Commit) -> None:
        """Put a commit's notices into the outbox, once per sink."""
        with self._lock:
            for notice in work.decision.notices if work.notice_sinks else ():
                key, case = key_of(notice), notice.case.id if notice.case else ""
                if key in self._notices:
                    continue
                self._notices[key] = notice
                for sink in work.notice_sinks:
                    number, now_ns = next(self._numbers), work.now_ns
                    waiting = DeliveryState.WAITING
                    one = Delivery(number, key, case, sink, waiting, 0, now_ns, now_ns, 0, "")
                    self._open[number] = one

    def heads(self, sink: str) -> list[Delivery]:
        """The first waiting delivery of each case and every waiting event of a sink, oldest first."""
        with self._lock:
            first: dict[str, Delivery] = {}
            for one in self._waiting():
                if one.sink == sink:
                    first.setdefault(one.case_id or one.key, one)
        return list(first.values())

    def notice(self, delivery: Delivery) -> Notice:
        """What is to be delivered."""
        with self._lock:
            return self._notices[delivery.key]

    def sent(self, delivery: Delivery, _now_ns: int) -> None:
        """The sink has taken it."""
        with self._lock:
            del self._open[delivery.id]

    def failed(self, delivery: Delivery, error: str, due_ns: int) -> None:
        """The sink has not taken it; try again at ``due_ns``."""
        tried = replace(delivery, attempts=delivery.attempts + 1, error=error, due_ns=due_ns)
        with self._lock:
            self._open[delivery.id] = tried

    def dead(self, delivery: Delivery, error: str, now_ns: int) -> None:
        """It is given up."""
        tried = replace(delivery, attempts=delivery.attempts + 1, error=error, done_ns=now_ns)
        with self._lock:
            self._open[delivery.id] = replace(tried, state=DeliveryState.DEAD)

    def waiting(self) -> dict[str, Waiting]:
        """What waits and what is dead, by sink."""
        with self._lock:
            found: dict[str, Waiting] = {}
            for one in self._open.values():
                before = found.get(one.sink, Waiting())
                if one.state is DeliveryState.DEAD:
                    found[one.sink] = replace(before, dead=before.dead + 1)
                else:
                    oldest = one.created_ns if before.oldest_ns is None else before.oldest_ns
                    found[one.sink] = replace(before, waiting=before.waiting + 1, oldest_ns=oldest)
        return found

    def _waiting(self) -> Iterator[Delivery]:
        return (one for one in self._open.values() if one.state is DeliveryState.WAITING)
