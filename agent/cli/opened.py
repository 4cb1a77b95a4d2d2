"""The state for people's commands: a file, or the detector's PostgreSQL where the settings name one."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.store.state import State


def state_of(settings: Settings, *, acting: bool = False) -> AbstractContextManager[State]:
    """Beside a program that may be running; ``acting``: something is written. Raises :class:`StateError`."""
    from agent.core.clock import SystemClock
    from agent.store.state import BUSY_TIMEOUT_S, State

    clock = SystemClock()
    if settings.detect.database is None:
        path = settings.state_dir / "state.db"
        return closing(State.open(path, clock=clock, people=acting, read_only=not acting))
    from agent.store.postgres import a_holder, open_postgres

    database = open_postgres(
        settings.detect.database,
        holder=a_holder(),
        create=False,
        now_ns=clock.now_ns(),
        busy_timeout_s=BUSY_TIMEOUT_S,
    )
    return closing(State.beside(database, clock=clock, read_only=not acting))
