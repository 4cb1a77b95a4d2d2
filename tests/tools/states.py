"""The same state in both databases that hold it, for tests that must be true of either."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core.clock import Clock
from agent.store.postgres import a_holder, lead, open_postgres
from agent.store.state import State
from tests.tools.faults import tables

BUSY_S = 5.0


@dataclass(frozen=True)
class Place:
    """Where a state is kept: a path, or the address of a PostgreSQL database."""

    where: Path | str

    def open(self, clock: Clock, **more: Any) -> State:
        """As the one that commits; of PostgreSQL, waits until it is."""
        if isinstance(self.where, Path):
            return State.open(self.where, clock=clock, **more)
        holder = a_holder()
        database = open_postgres(
            self.where, holder=holder, create=True, now_ns=clock.now_ns(), busy_timeout_s=BUSY_S
        )
        role = lead(database, holder, threading.Event())
        assert role is not None
        return State.lead(database, role, clock=clock, **more)

    def beside(self, clock: Clock, *, read_only: bool) -> State:
        """As a person's command beside a running program."""
        if isinstance(self.where, Path):
            return State.open(
                self.where, clock=clock, create=False, people=not read_only, read_only=read_only
            )
        database = open_postgres(self.where, holder="people", create=False, now_ns=0, busy_timeout_s=BUSY_S)
        return State.beside(database, clock=clock, read_only=read_only)

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """See :func:`tests.tools.faults.tables`."""
        return tables(self.where)
