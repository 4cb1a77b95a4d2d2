"""``sekisho agent``: the long-running program on a host, under a service manager."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from agent.cli.common import Group, Options, echo, example
from agent.cli.joining import enrol
from agent.cli.tripping import tripwire

if TYPE_CHECKING:
    from agent import config
    from agent.core.stages import Carrier, Sink
    from agent.runtime import Runtime


@click.group(cls=Group, invoke_without_command=True, epilog=example("agent"))
@click.option(
    "--detach",
    is_flag=True,
    help="End what an agent that was killed left counting in the kernel: hand out what was counted, then remove it.",
)
@click.pass_context
def command(context: click.Context, detach: bool) -> None:
    """Watch this host without a screen, as a service: deploy/systemd has its unit, docs/deploy.md the steps.

    With `kafka` in its settings it sends what it sees there, and keeps on the disk what Kafka has not taken. Without, it
    decides here, keeps the archive and sends to the sinks of the settings. It prints nothing: logs are lines of JSON on standard error, for the journal, and where no sink takes alerts they
    are logged too. HUP reloads policy and databases. The service manager is told when it counts, how it goes, and that it is
    alive, which it says only while rows really move.
    """
    if context.invoked_subcommand is not None:
        if detach:
            raise click.UsageError(f"--detach does not go with {context.invoked_subcommand}")
        return
    options: Options = context.obj
    if detach:
        _detach(options)
    else:
        _serve(options)


command.add_command(enrol)
command.add_command(tripwire)


def _serve(options: Options) -> None:
    import faulthandler
    import logging

    from agent import figures, logs, tiers
    from agent.cli.up import with_archive
    from agent.core.clock import SystemClock
    from agent.core.errors import SekishoError
    from agent.notify import Notifier, Watchdog
    from agent.runtime import Runtime
    from agent.service import Service

    loaded = options.load()
    logs.configure(level=options.level(logging.INFO), service=True)
    # A watchdog ends a program that hangs with SIGABRT: the journal then shows where each thread stood.
    faulthandler.enable()
    carrier = _carrier(loaded)
    loaded, why = tiers.choose(loaded if carrier else with_archive(loaded))
    logs.get("agent").info("tier_chosen", tiers=sorted(loaded.stages.collectors), why=why)
    runs: list[Runtime] = []
    service = Service(
        Notifier(os.environ.get("NOTIFY_SOCKET")),
        Watchdog.of(os.environ, os.getpid()),
        SystemClock(),
        status=lambda: _status(runs[0]),
    )
    service.tell("starting: policy, databases, state")
    with (
        figures.serve(loaded.settings, lambda: figures.of_agent(runs[0] if runs else None)),
        Runtime(loaded, carrier=carrier, extra_sinks=logged_alerts(loaded), attendant=service) as run,
    ):
        runs.append(run)
        run.go()
    failures = [f"{name}: {error}" for name, error in run.pipeline.failures.items()]
    if failures or run.unwritten:
        raise SekishoError("\n".join([*failures, *run.unwritten]))


def _carrier(loaded: config.Loaded) -> Carrier | None:
    """The way to Kafka; None where the settings name none. Raises :class:`agent.core.errors.SinkError`."""
    if loaded.settings.kafka is None:
        return None
    from agent.core.kafka import refuse_slow_checksums
    from sinks.kafka import KafkaCarrier

    refuse_slow_checksums()
    return KafkaCarrier(loaded.settings.kafka, f"sekisho-agent-{loaded.settings.host}")


def logged_alerts(loaded: config.Loaded) -> dict[str, Sink]:
    """The sink that keeps alerts from going unheard: only where the settings name none that takes them."""
    from agent import config
    from agent.cli.logged import LoggedAlerts

    context = config.bare_context(loaded.settings)
    if any(settings.build(context).takes_notices for settings in loaded.stages.sinks.values()):
        return {}
    return {"log": LoggedAlerts(loaded.settings.language, loaded.settings.zone)}


def _status(run: Runtime) -> str:
    """How the run goes, for people who look at the service."""
    from agent.core.errors import StateError
    from agent.core.finding import WAITING
    from agent.words.units import size

    account = run.accounts.read()
    if run.carrier is not None:
        return _sending_status(run)
    lost = sum(frames for frames, _ in account.lost_frames.values())
    try:
        cases = str(len(run.state.cases.list_cases(WAITING)))
    except StateError:
        cases = "unknown number of"
    parts = [
        f"watching by {', '.join(sorted(run.collectors))}",
        f"{account.decided.flows:,} flows, {size(account.decided.octets_out)} out",
        f"{cases} open cases",
    ]
    if lost:
        parts.append(f"{lost:,} frames lost")
    if run.unwritten:
        parts.append("sinks failing: " + "; ".join(run.unwritten))
    return ", ".join(parts)


def _sending_status(run: Runtime) -> str:
    from agent.sending.send import Send
    from agent.words.units import size

    assert isinstance(run.decide, Send)
    account = run.accounts.read()
    parts = [
        f"watching by {', '.join(sorted(run.collectors))}",
        f"{account.acked.flows:,} flows delivered",
        f"{size(account.spooled.octets_out)} of traffic waiting in {size(run.decide.spool.octets)} of spool",
    ]
    if gone := sum(amounts.flows for amounts in account.spool_dropped.values()):
        parts.append(f"{gone:,} flows let go")
    if run.decide.carrying.last_error:
        parts.append(run.decide.carrying.last_error)
    return ", ".join(parts)


def _detach(options: Options) -> None:
    import logging

    from agent import detaching, logs
    from agent.cli.up import with_archive

    loaded = with_archive(options.load())
    logs.configure(level=options.level(logging.WARNING), service=True)
    found = detaching.left(loaded)
    if not found:
        echo("Nothing is left at work in the kernel.")
        return
    kept = {one: why for one in found if (why := one.kept_for_a_successor(os.environ))}
    for one, why in kept.items():
        echo(f"Left at work in {one.folder}: {why}. To end it: sekisho agent --detach")
    if not (ending := tuple(one for one in found if one not in kept)):
        return
    detaching.detach(loaded, ending)
    folders = ", ".join(str(one.folder) for one in ending)
    echo(f"What was counted is decided and written; the programs of {folders} are removed.")
