"""What the commands share that run a role that copies: a service from its start to its end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agent.cli.common import Options

if TYPE_CHECKING:
    from agent.receiving.archiving import CopyRuntime


def serve(options: Options, role: type[CopyRuntime]) -> None:
    """Run it under a service manager, or without, until a signal."""
    import faulthandler
    import logging

    from agent import figures, logs
    from agent.core.clock import SystemClock
    from agent.notify import Notifier, Watchdog
    from agent.service import Service

    loaded = options.load()
    logs.configure(level=options.level(logging.INFO), service=True)
    faulthandler.enable()
    runs: list[CopyRuntime] = []
    service = Service(
        Notifier(os.environ.get("NOTIFY_SOCKET")),
        Watchdog.of(os.environ, os.getpid()),
        SystemClock(),
        status=lambda: _status(runs[0]),
    )
    service.tell("starting: state")
    with (
        figures.serve(loaded.settings, lambda: figures.of_copier(role, runs[0] if runs else None)),
        role(loaded, attendant=service) as run,
    ):
        runs.append(run)
        run.go()
        logs.get(role.role).info("stopped", **run.counters)


def _status(run: CopyRuntime) -> str:
    """How the run goes, for people who look at the service."""
    counts = run.copying.counts
    lag = "unknown" if counts.lag < 0 else f"{counts.lag:,}"
    parts = [f"{counts.rows:,} rows of {counts.messages:,} messages, {lag} waiting"]
    if refused := counts.refused.total():
        parts.append(f"{refused:,} refused")
    if run.copying.trouble:
        parts.append(run.copying.trouble)
    return ", ".join(parts)
