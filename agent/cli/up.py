"""``sekisho up``: the whole job on one host, in one process."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.bars import Bar
from agent.cli.common import (
    Command,
    Options,
    console,
    echo,
    echo_json,
    example,
    json_option,
    language_of,
    words,
)

if TYPE_CHECKING:
    from agent import config
    from agent.core.decision import Decision
    from agent.core.finding import Notice
    from agent.core.flow import FlowBatch
    from agent.core.stages import Sink
    from agent.runtime import Runtime
    from agent.words import Phrases


@click.command(cls=Command, epilog=example("up"))
@click.option("--plain", is_flag=True, help="Lines instead of the live view, as when piped.")
@json_option("Alerts and events as JSON lines instead of text.")
@click.option(
    "--or-replay", is_flag=True, help="Without the right to capture, show the bundled capture instead."
)
@click.pass_obj
def command(options: Options, plain: bool, as_json: bool, or_replay: bool) -> None:
    """Watch this host: capture, enrich, decide, alert. No Kafka needed.

    Ctrl-C stops in order: what is held is decided, written and sent. HUP reloads policy and databases.
    """
    from agent.cli.check import missing_rights

    say = words(language_of(options))
    lacking = missing_rights(say)
    if lacking and or_replay:
        echo(say("up.without_rights", lacking=lacking), err=as_json)
        from agent.cli.replay import replay_sample

        raise SystemExit(replay_sample(options, as_json=as_json))
    _watch(options, plain=plain, as_json=as_json)


def _watch(options: Options, *, plain: bool, as_json: bool) -> None:
    import logging

    from agent import logs
    from agent.cli.screen import is_terminal
    from agent.core.errors import SekishoError
    from agent.runtime import Runtime

    live_view = is_terminal(sys.stdout) and not plain and not as_json
    loaded = options.load()
    logs.configure(
        level=options.level(logging.INFO),
        file=_log_file(loaded) if live_view else None,
        language=loaded.settings.language,
    )
    from agent import tiers

    loaded, why = tiers.choose(with_archive(loaded))
    logs.get("up").info("tier_chosen", tiers=sorted(loaded.stages.collectors), why=why)
    say = words(loaded.settings.language)
    extra = {} if live_view or "stdout" in loaded.settings.sinks else {"stdout": _told(loaded, as_json)}
    with ExitStack() as stack:
        with Bar(say("starting"), show=live_view):
            run = stack.enter_context(Runtime(loaded, extra_sinks=extra))
        if not live_view:
            run.go()
        else:
            _with_live_view(run, loaded, say)
    failures = [f"{name}: {error}" for name, error in run.pipeline.failures.items()]
    if failures or run.unwritten:
        raise SekishoError("\n".join([*failures, *run.unwritten]))
    if live_view:
        echo(_account_in_words(run, say))


def _told(loaded: config.Loaded, as_json: bool) -> Sink:
    """The sink that tells whoever started the program."""
    from agent import config

    if as_json:
        return JsonAlerts()
    context = config.bare_context(loaded.settings)
    from agent.cli.screen import colour
    from sinks.stdout import Settings as StdoutSettings

    return StdoutSettings(language=loaded.settings.language, colour=colour()).build(context)


class JsonAlerts:
    """Tells of alerts and events on standard output, a line of JSON each, harmless on a terminal too."""

    name = "stdout"
    takes_flows = False
    takes_notices = True

    def write_flows(self, batch: FlowBatch) -> None:
        """Takes none."""

    def write_notice(self, notice: Notice) -> None:
        """Print the notice. Raises :class:`~agent.core.errors.SinkError` if nobody reads any more."""
        from agent.core.errors import SinkError

        try:
            echo_json({"record": "notice", "id": notice.id, **notice.model_dump(mode="json")})
        except OSError as error:
            raise SinkError(f"cannot write standard output: {error}", retriable=False) from error

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Standard output belongs to the program."""


def _with_live_view(run: Runtime, loaded: config.Loaded, say: Phrases) -> None:
    from agent.cli.live import LiveView, live
    from agent.core.finding import WAITING

    screen = console()
    tiers = ", ".join(sorted(run.collectors))
    view = LiveView(
        f"sekisho · {loaded.settings.host} · {tiers}",
        run.view.read,
        run.accounts.read,
        screen,
        say,
        notes=() if run.policy.stores else (say("up.no_store"),),
        leaves=False,
    )
    view.update(tuple(run.state.cases.list_cases(WAITING)))

    def hear(decision: Decision) -> None:
        view.update(decision.cases)
        for notice in decision.notices:
            view.hear(notice)

    run.on_decision = hear
    with live(view, screen, run.stop):
        run.go()


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


def _account_in_words(run: Runtime, say: Phrases) -> str:
    account = run.accounts.read()
    gaps = sum(gap.seconds for gap in account.unobserved.values())
    share = account.reconciled.unexplained_share_out if account.reconciled else None
    said = say(
        "up.stopped",
        out=f"{account.captured.octets_out:,}",
        in_=f"{account.captured.octets_in:,}",
        decided=f"{account.decided.octets_out:,}",
        lost=f"{sum(frames for frames, _ in account.lost_frames.values()):,}",
        residue=f"{account.residue.octets_out:,}",
    )
    if gaps:
        said += say("up.unobserved", seconds=f"{gaps:,.0f}")
    if share is not None:
        said += say("up.in_no_row", share=f"{share:.1%}")
    return said
