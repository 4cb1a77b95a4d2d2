"""A live run in this process whose rows, clock and files a test holds in its hands."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent import config
from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS
from agent.core.decision import Decision
from agent.core.finding import Case, Notice
from agent.core.flow import FlowBatch
from agent.core.stages import Sink
from agent.runtime import Runtime

SECONDS = 30.0
"""As long as anything may take before a test gives up on it."""
NO_ROWS = FlowBatch.empty()


class SteppingClock:
    """The host's clock, whose wall time and whose steady time a test may push."""

    def __init__(self) -> None:
        self.wall_ahead_ns = 0
        self.steady_ahead_ns = 0

    def now_ns(self) -> int:
        """Wall time."""
        return time.time_ns() + self.wall_ahead_ns + self.steady_ahead_ns

    def monotonic_ns(self) -> int:
        """Steady time."""
        return time.monotonic_ns() + self.steady_ahead_ns


class LiveFeed:
    """A live collector that brings what the test puts in, and an empty batch now and then."""

    name = "feed"
    live = True
    not_seen: tuple[str, ...] = ()

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self.coming: queue.Queue[FlowBatch] = queue.Queue()

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Each batch, until stop and all is brought."""
        while not (stop.is_set() and self.coming.empty()):
            try:
                batch = self.coming.get(timeout=0.02)
            except queue.Empty:
                batch = NO_ROWS
            self._accounts.capture(batch.amounts(), held_in="batches")
            yield batch

    def progress(self) -> None:
        """There is no end."""


class Kept:
    """A sink that keeps flows for the test to look at."""

    name = "kept"
    takes_flows = True
    takes_notices = False

    def __init__(self) -> None:
        self.batches: list[FlowBatch] = []
        self.flows = 0

    def write_flows(self, batch: FlowBatch) -> None:
        """Keep it."""
        self.batches.append(batch)
        self.flows += batch.amounts().flows

    def forget(self) -> None:
        """Let go of the batches, not of their number."""
        self.batches.clear()

    def write_notice(self, notice: Notice) -> None:
        """Takes none."""

    def flush(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is open."""


class Watching:
    """What a test sees of the run."""

    def __init__(self, run: Runtime, kept: Kept, clock: SteppingClock) -> None:
        self.run = run
        self.kept = kept
        self.clock = clock
        self.notices: list[Notice] = []
        self.ended: BaseException | None = None
        self._thread = threading.Thread(target=self._go, name="run")

    @property
    def events(self) -> list[str]:
        """Names of the events told so far."""
        return [notice.event.name for notice in self.notices if notice.event]

    @property
    def cases(self) -> dict[str, Case]:
        """Every case told of, as told last."""
        return {notice.case.id: notice.case for notice in self.notices if notice.case}

    def said(self, name: str) -> str:
        """The reason given by the newest event of that name."""
        found = [n.event for n in self.notices if n.event and n.event.name == name]
        return str(found[-1].detail.get("reason", found[-1].detail)) if found else ""

    def bring(self, *batches: FlowBatch) -> None:
        """Put batches in, and wait until all of them are decided and handed to the sinks."""
        flows = self.kept.flows + sum(batch.amounts().flows for batch in batches)
        for batch in batches:
            self.feed.coming.put(batch)
        self.until(lambda: self.kept.flows >= flows, "rows to be decided", passing_ns=SECOND_NS // 2)

    @property
    def feed(self) -> LiveFeed:
        """Where rows are put in."""
        feed = self.run.collectors["feed"]
        assert isinstance(feed, LiveFeed)
        return feed

    def until(self, condition: Callable[[], Any], what: str, *, passing_ns: int = 0) -> None:
        """Wait for a condition, time passing quicker by so much at each look; fails if it does not come true or the run
        ends.
        """
        end = time.monotonic() + SECONDS
        while not condition():
            if self.ended is not None:
                raise self.ended
            assert self._thread.is_alive(), f"the run ended while waiting for {what}"
            assert time.monotonic() < end, f"waited {SECONDS} s for {what}; told: {self.events}"
            self.clock.steady_ahead_ns += passing_ns
            time.sleep(0.01)

    def told(self, event: str, times: int = 1) -> None:
        """Wait until an event was told so often."""
        self.until(lambda: self.events.count(event) >= times, f"the event {event}")

    def look(self) -> None:
        """Have the run look at its files now, as HUP does."""
        self.run._asked.set()
        self.until(lambda: not self.run._asked.is_set(), "the look at the files")

    def _go(self) -> None:
        try:
            self.run.go()
        except BaseException as error:  # noqa: BLE001  handed to the test
            self.ended = error


@contextmanager
def watching(
    folder: Path,
    *,
    clock: SteppingClock | None = None,
    sinks: Mapping[str, Sink] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Watching]:
    """A live run over rows that the test brings; stopped in order at the end, when every octet must be explained."""
    folder.mkdir(exist_ok=True)
    file = folder / "sekisho.yaml"
    file.write_text("version: 1\n")
    given = {"state_dir": folder, "host": "db-01", **(settings or {})}
    loaded = config.load(file, environ={}, given=list(given.items()))
    clock = clock or SteppingClock()
    seen: list[Watching] = []
    kept = Kept()

    def hear(decision: Decision) -> None:
        seen[0].notices.extend(decision.notices)

    with Runtime(
        loaded,
        build_collectors=lambda context: {"feed": LiveFeed(context.accounts)},
        clock=clock,
        extra_sinks={"kept": kept, **(sinks or {})},
        on_decision=hear,
    ) as run:
        made = Watching(run, kept, clock)
        seen.append(made)
        made._thread.start()
        try:
            yield made
        finally:
            run.stop.set()
            made._thread.join(SECONDS)
    if made.ended is not None:
        raise made.ended
    account = run.accounts.read()
    assert not account.residue and not account.sealed_residue, account.as_dict()
