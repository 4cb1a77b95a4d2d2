"""``sekisho policy``: check policy files, print their schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import (
    Group,
    Options,
    console,
    echo,
    echo_json,
    example,
    json_option,
    language_of,
    size,
    table,
    tell,
    words,
)

if TYPE_CHECKING:
    from agent.policy.model import Policy
    from agent.words import Phrases


@click.group(cls=Group, epilog=example("policy"))
def command() -> None:
    """Check policy files; print their JSON Schema."""


@command.command(epilog=example("policy check"))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, readable=False))
@click.option(
    "--overrides",
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    help="File of what is known better about some networks.",
)
@json_option("One JSON document: what would be in force.")
@click.pass_obj
def check(options: Options, files: tuple[Path, ...], overrides: tuple[Path, ...], as_json: bool) -> None:
    """Read policy files, name every fault with its line, and say what would be in force.

    Without FILES: those of the settings. Exit code 1 if there is a fault.
    """
    from datetime import UTC, datetime

    from agent.policy import load as policy_files

    if not files:
        settings = options.load().settings
        files, overrides = settings.policy, overrides or settings.overrides
    policy = policy_files.load(files, overrides=overrides, today=datetime.now(UTC).date())
    if as_json:
        echo_json(_document(policy), indent=2)
    else:
        _print(policy, words(language_of(options)))


def _print(policy: Policy, say: Phrases) -> None:
    from datetime import UTC, datetime

    from agent.cli.screen import Column

    out = console()
    stores = table([Column("store"), Column("categories"), Column("recognised_by")], say)
    for store in policy.stores:
        given = store.recognise.model_dump(mode="json", exclude_defaults=True)
        how = say("who.also").join(
            f"{say.named('recognition', name)} {say.join([str(value) for value in values])}"
            for name, values in given.items()
        )
        stores.add_row(store.id, say.join([say(f"category.{c}") for c in store.categories]), how)
    rules = table(
        [
            Column("rule"),
            Column("pack", rank=2),
            Column("over", right=True),
            Column("window"),
            Column("to"),
            Column("severity", rank=1),
        ],
        say,
    )
    for pack, rule in policy.rules:
        rules.add_row(
            f"{rule.id} v{rule.version}",
            pack,
            size(rule.over),
            say.named("window", rule.window),
            say.join(rule.destinations) or say("policy.everywhere"),
            say(f"severity.{rule.severity.name.lower()}").lower(),
        )
    out.print(stores if policy.stores else say("policy.no_store"))
    out.print()
    out.print(rules)
    asleep = [pack.pack for pack in policy.packs if pack.pack not in policy.awake]
    names = {"awake": say.join(policy.awake), "asleep": say.join(asleep) or say("policy.none_asleep")}
    out.print()
    tell(say("policy.in_force", version=policy.version, **names))
    kinds = ("forwarders", "sites", "entities", "approvals", "expected_hosts")
    counted = [say(f"policy.{kind}", n=len(getattr(policy, kind))) for kind in kinds if getattr(policy, kind)]
    if counted:
        tell(say("policy.registers", kinds=say.join(counted)))
    tell(say("policy.commit", commit=policy.commit) if policy.commit else say("policy.no_commit"))
    ended = [a.id for a in policy.approvals if a.valid_to < datetime.now(UTC).date()]
    if ended:
        tell(say("policy.approvals_ended", n=len(ended), ids=say.join(ended)))


def _document(policy: Policy) -> dict[str, Any]:
    return {
        "policy": policy.version,
        "commit": policy.commit,
        "stores": [store.model_dump(mode="json") for store in policy.stores],
        **{
            kind: [entry.model_dump(mode="json") for entry in getattr(policy, kind)]
            for kind in ("forwarders", "sites", "entities", "approvals", "expected_hosts")
        },
        "rules": [{"pack": pack, **rule.model_dump(mode="json")} for pack, rule in policy.rules],
        "awake": list(policy.awake),
        "asleep": [pack.pack for pack in policy.packs if pack.pack not in policy.awake],
    }


@command.command(epilog=example("policy schema"))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write into this file instead."
)
@click.pass_obj
def schema(options: Options, output: Path | None) -> None:
    """Print the JSON Schema of a policy file, for editors."""
    from agent.policy import load as policy_files

    if output is None:
        echo_json(policy_files.schema(), indent=2)
        return
    from agent.cli.writing import written
    from agent.words import json_text

    with written(output) as file:
        file.write(json_text(policy_files.schema(), indent=2) + "\n")
    echo(words(language_of(options))("init.wrote", file=output))
