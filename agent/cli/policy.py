"""``sekisho policy``: check policy files, print their schema."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from agent.cli.common import Options, console, example, size, table
from agent.policy import load as policy_files


@click.group(epilog=example("policy"))
def command() -> None:
    """Check policy files; print their JSON Schema."""


@command.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, readable=False))
@click.option(
    "--overrides",
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    help="File of what is known better about some networks.",
)
@click.pass_obj
def check(options: Options, files: tuple[Path, ...], overrides: tuple[Path, ...]) -> None:
    """Read policy files, name every fault with its line, and say what would be in force.

    Without FILES: those of the settings. Exit code 1 if there is a fault.
    """
    if not files:
        settings = options.load().settings
        files, overrides = settings.policy, overrides or settings.overrides
    policy = policy_files.load(files, overrides=overrides, today=datetime.now(UTC).date())
    out = console()
    stores = table(["store", "categories", "recognised by"])
    for store in policy.stores:
        given = store.recognise.model_dump(mode="json", exclude_defaults=True)
        how = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in given.items())
        stores.add_row(store.id, ", ".join(store.categories), how)
    rules = table(["rule", "pack", ("over", "right"), "window", "to", "severity"])
    for pack, rule in policy.rules:
        rules.add_row(
            f"{rule.id} v{rule.version}",
            pack,
            size(rule.over),
            rule.window,
            ", ".join(rule.destinations) or "every external end",
            rule.severity.name.lower(),
        )
    out.print(stores if policy.stores else "no store is registered, so no rule can find anything")
    out.print()
    out.print(rules)
    asleep = [pack.pack for pack in policy.packs if pack.pack not in policy.awake]
    out.print(
        f"\npolicy {policy.version}: no fault; awake: {', '.join(policy.awake)}; asleep: {', '.join(asleep) or 'none'}",
        soft_wrap=True,
    )


@command.command()
def schema() -> None:
    """Print the JSON Schema of a policy file, for editors."""
    click.echo(json.dumps(policy_files.schema(), indent=2))
