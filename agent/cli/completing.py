"""What a shell offers while a command is typed. A fault here offers nothing and says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from agent.cli.common import Options


def case_ids(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Ids of cases, newest first, each with what it is about."""
    from click.shell_completion import CompletionItem

    from agent.cli.opened import state_of
    from agent.core.errors import SekishoError
    from agent.words import shown

    try:
        with state_of(_options(ctx).load().settings) as state:
            found = state.cases.list_cases(limit=200)
    except (SekishoError, OSError, click.ClickException):
        return []
    return [
        CompletionItem(
            c.id,
            help=shown(f"{c.severity.name.lower()} {c.state}: {c.store.id} to {c.destination.label}", 80),
        )
        for c in found
        if c.id.startswith(begun)
    ]


def store_names(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Ids of the policy's stores."""
    from datetime import UTC, datetime

    from click.shell_completion import CompletionItem

    from agent.config import read_policy
    from agent.core.errors import SekishoError
    from agent.words import shown

    try:
        policy = read_policy(_options(ctx).load().settings, datetime.now(UTC).date())
    except (SekishoError, OSError, click.ClickException):
        return []
    return [CompletionItem(s.id, help=shown(s.name, 80)) for s in policy.stores if s.id.startswith(begun)]


def host_names(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Hosts of which the detector has heard."""
    from click.shell_completion import CompletionItem

    from agent.cli.opened import state_of
    from agent.core.errors import SekishoError

    try:
        with state_of(_options(ctx).load().settings) as state:
            hosts = {str(body["host"]) for body in state.coverage.agents().values()}
    except (SekishoError, OSError, click.ClickException):
        return []
    return [CompletionItem(host) for host in sorted(hosts) if host.startswith(begun)]


def setting_names(begun: str) -> list[str]:
    """Names of settings, for --set."""
    from agent.config import Settings

    return [f"{name}=" for name in Settings.model_fields if name.startswith(begun)]


def group_names(names: list[str], begun: str) -> list[str]:
    """Names joined by commas: the last of them is completed."""
    before, comma, last = begun.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]


def _options(ctx: click.Context) -> Options:
    from agent.cli.common import Options

    given = ctx.find_root().params
    return Options.of(
        given.get("config_file"), given.get("flags") or (), given.get("state_dir") or None, verbose=False
    )
