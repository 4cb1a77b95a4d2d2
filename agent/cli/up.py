"""``sekisho up``: the whole job on one host, in one process."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

import click
from rich.live import Live

from agent import config, logs, tiers
from agent.cli.cases import OPEN
from agent.cli.common import Options, console, example
from agent.cli.live import LiveView
from agent.core.decision import Decision
from agent.core.errors import SekishoError
from agent.runtime import Runtime
from sinks.stdout import Settings as StdoutSettings


@click.command(epilog=example("up"))
@click.option("--plain", is_flag=True, help="Lines instead of the live view, as when piped.")
@click.option(
    "--or-replay", is_flag=True, help="Without the right to capture, show the bundled capture instead."
)
@click.pass_obj
def command(options: Options, plain: bool, or_replay: bool) -> None:
    """Watch this host: capture, enrich, decide, alert. No Kafka needed.

    Ctrl-C stops in order: what is held is decided, written and sent. HUP reloads policy and databases.
    """
    from agent.cli.check import missing_rights

    lacking = missing_rights()
    if lacking and or_replay:
        click.echo(
            f"This host cannot be watched without privilege ({lacking}); here is the bundled capture instead."
        )
        from agent.cli.replay import replay_sample

        raise SystemExit(replay_sample(options))
    live_view = sys.stdout.isatty() and not plain
    loaded = options.load()
    logs.configure(level=options.level(logging.INFO), file=_log_file(loaded) if live_view else None)
    loaded, why = tiers.choose(with_archive(loaded))
    logs.get("up").info("tier_chosen", tiers=sorted(loaded.stages.collectors), why=why)
    extra = {}
    if not live_view and "stdout" not in loaded.settings.sinks:
        extra["stdout"] = StdoutSettings(language=loaded.settings.language).build(
            config.bare_context(loaded.settings)
        )
    with Runtime(loaded, extra_sinks=extra) as run:
        if not live_view:
            run.go()
        else:
            _with_live_view(run, loaded)
    failures = [f"{name}: {error}" for name, error in run.pipeline.failures.items()]
    if failures or run.unwritten:
        raise SekishoError("\n".join([*failures, *run.unwritten]))
    if live_view:
        click.echo(f"stopped; account: {_account_in_words(run)}")


def _with_live_view(run: Runtime, loaded: config.Loaded) -> None:
    screen = console()
    tiers = ", ".join(sorted(run.collectors))
    view = LiveView(
        f"sekisho · {loaded.settings.host} · {tiers}",
        run.view.read,
        run.accounts.read,
        screen,
        notes=tuple(_notes(run, loaded)),
    )
    view.update(tuple(run.state.cases.list_cases(OPEN)))

    def hear(decision: Decision) -> None:
        view.update(decision.cases)
        for notice in decision.notices:
            view.hear(notice)

    run.on_decision = hear
    done = threading.Event()
    with Live(view, console=screen, screen=True, auto_refresh=False) as live:

        def draw() -> None:
            while not done.wait(1.0):
                live.update(view, refresh=True)

        artist = threading.Thread(target=draw, name="live-view", daemon=True)
        artist.start()
        try:
            run.go()
        finally:
            done.set()
            artist.join(timeout=2.0)


def _notes(run: Runtime, loaded: config.Loaded) -> list[str]:
    notes = []
    if not run.policy.stores:
        notes.append(
            "No store is registered, so no alert can come: run `sekisho init`, then name your stores in the policy."
        )
    return notes


def with_archive(loaded: config.Loaded) -> config.Loaded:
    """The settings with the archive sink added, unless it is named or switched off."""
    if not loaded.settings.archive or "archive" in loaded.settings.sinks:
        return loaded
    from dataclasses import replace

    from sinks.archive import Settings as ArchiveSettings

    stages = replace(loaded.stages, sinks={**loaded.stages.sinks, "archive": ArchiveSettings()})
    return replace(loaded, stages=stages)


def _log_file(loaded: config.Loaded) -> Path:
    loaded.settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
    return loaded.settings.state_dir / "sekisho.log"


def _account_in_words(run: Runtime) -> str:
    account = run.accounts.read()
    lost = sum(f for f, _ in account.lost_frames.values())
    return (
        f"captured {account.captured.octets_out:,} octets out, {account.captured.octets_in:,} in; "
        f"decided {account.decided.octets_out:,} out; frames lost {lost:,}; not explained {account.residue.octets_out:,}"
    )
