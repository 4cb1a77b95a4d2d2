"""Rows of a :class:`tests.tools.plan.Plan`, as many steps as the file ``until`` beside it allows, until ``end`` is there.

``keeping``: the source keeps a step until it is durable, as kernel maps do, and goes on behind what is. Else it hands a
step out once, as packets come: ``begun`` beside the plan counts the steps that were handed out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from agent.core.accounts import Accounts
from agent.core.flow import BatchHeader, FlowBatch
from agent.core.stages import CollectorSettings, Context
from tests.tools.plan import Plan

LOOK_S = 0.02


class Settings(CollectorSettings):
    """Which plan, and how quickly."""

    plan: Path
    keeping: bool = True
    steps_per_s: float = 0.0
    """0: as quickly as it goes."""

    def build(self, context: Context) -> Paced | Kept:
        """Make it."""
        return (Kept if self.keeping else Paced)(self, context)


class Paced:
    """Hands each step out once."""

    name = "paced"
    live = True
    not_seen: tuple[str, ...] = ()

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._folder, self._host = settings, settings.plan.parent, context.host
        self._accounts: Accounts = context.accounts
        self._next = 0
        self._settled = threading.Event()

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Each step that is allowed; an empty batch where there is none."""
        plan = Plan.read(self._settings.plan)
        self._go_on()
        yield FlowBatch.empty()
        while not stop.is_set() and not (self._folder / "end").exists():
            if self._next >= min(plan.steps, self._until()):
                stop.wait(LOOK_S)
                yield FlowBatch.empty()
                continue
            began = time.monotonic()
            yield from self._step(plan, stop)
            self._next += 1
            if rate := self._settings.steps_per_s:
                stop.wait(max(0.0, 1 / rate - (time.monotonic() - began)))

    def progress(self) -> tuple[int, int] | None:
        """Unknown."""
        return None

    def _until(self) -> int:
        return int((self._folder / "until").read_text() or 0)

    def _go_on(self) -> None:
        begun = self._folder / "begun"
        self._next = int(begun.read_text()) if begun.exists() else 0

    def _step(self, plan: Plan, stop: threading.Event) -> Iterator[FlowBatch]:
        temporary = self._folder / ".begun"
        temporary.write_text(str(self._next + 1))  # whole or not at all: a kill may come here
        temporary.replace(self._folder / "begun")
        batch = self._counted(plan, "")
        yield batch

    def _counted(self, plan: Plan, position: str) -> FlowBatch:
        header = BatchHeader(host=self._host, collector=self.name, position=position)
        batch = plan.batch(self._next, header)
        self._accounts.capture(batch.amounts(), held_in="batches")
        return batch


class Kept(Paced):
    """Keeps each step until it is durable. Implements :class:`agent.core.stages.Keeping`."""

    def resume(self, position: str) -> None:
        """Go on behind a position."""
        self._next = int(position.split(" ")[2]) + 1 if position else 0

    def settled(self, position: str) -> None:
        """That step is durable."""
        self._settled.set()

    def _go_on(self) -> None:
        """:meth:`resume` did."""

    def _step(self, plan: Plan, stop: threading.Event) -> Iterator[FlowBatch]:
        self._settled.clear()
        yield self._counted(plan, f"paced plan {self._next}")
        while not self._settled.wait(0.1) and not stop.is_set():
            pass
