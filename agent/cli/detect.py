"""``sekisho detect``: decide what all agents sent to Kafka."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from agent.cli.common import Command, Options, example

if TYPE_CHECKING:
    from agent.receiving.detecting import DetectRuntime


@click.command(cls=Command, epilog=example("detect"))
@click.pass_obj
def command(options: Options) -> None:
    """Read what all agents sent to Kafka, decide, and send alerts to the sinks of the settings, as a service.

    Needs `kafka.servers`. With `detect.database` (PostgreSQL) several may run: one leads, the others stand by and take over
    where it ends or stands still. Without, the state is a file, and there is one. What cannot be read, or is not signed by
    the agent it names, goes to the topic of dead letters and is counted. Logs are lines of JSON on standard error. HUP
    reloads policy and databases.
    """
    import faulthandler
    import logging

    from agent import figures, logs
    from agent.cli.agent import logged_alerts
    from agent.core.clock import SystemClock
    from agent.core.errors import SekishoError
    from agent.notify import Notifier, Watchdog
    from agent.receiving.detecting import DetectRuntime, NeverLedError
    from agent.service import Service

    loaded = options.load()
    logs.configure(level=options.level(logging.INFO), service=True)
    faulthandler.enable()
    runs: list[DetectRuntime] = []
    service = Service(
        Notifier(os.environ.get("NOTIFY_SOCKET")),
        Watchdog.of(os.environ, os.getpid()),
        SystemClock(),
        status=lambda: _status(runs[0]),
    )
    service.tell("starting: policy, databases, state")
    measured = figures.DetectorFigures(SystemClock())
    try:
        with (
            figures.serve(loaded.settings, lambda: measured.read(runs[0] if runs else None)),
            DetectRuntime(
                loaded,
                extra_sinks=logged_alerts(loaded),
                attendant=service,
                on_decision=measured.heard,
                standing_by=lambda: service.tell("standing by: another one may lead"),
                waiting=service.stands_by,
            ) as run,
        ):
            runs.append(run)
            run.go()
            logs.get("detect").info("stopped", **dict(run.counters))
    except NeverLedError:
        return
    if run.unwritten:
        raise SekishoError("\n".join(run.unwritten))


def _status(run: DetectRuntime) -> str:
    """How the run goes, for people who look at the service."""
    figures = run.counters
    dead = sum(n for name, n in figures.items() if name.startswith("dead["))
    lag = "unknown" if figures["lag"] < 0 else f"{figures['lag']:,}"
    return (
        f"leads: {figures['rows']:,} rows of {figures['messages']:,} messages, {lag} waiting, "
        f"{figures['missing']:,} missing, {dead:,} refused"
    )
