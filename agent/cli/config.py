"""``sekisho config``: the settings in force and where each comes from."""

from __future__ import annotations

from typing import Any

import click

from agent.cli.common import Group, Options, console, echo_json, example, json_option, table, words

SECRET = ("secret", "password", "token")


@click.group(cls=Group, epilog=example("config"))
def command() -> None:
    """Show the settings in force. One YAML file, then SEKISHO_… from the environment, then flags."""


@command.command(epilog=example("config show"))
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@json_option("One JSON document: setting -> value; with --origin also where it comes from.")
@click.pass_obj
def show(options: Options, origin: bool, as_json: bool) -> None:
    """Show every setting. Secrets are never printed."""
    loaded = options.load()
    values = dict(_flat(loaded.settings.model_dump(mode="json")))
    for room in ("collectors", "enrichers", "sinks"):
        for name, stage in getattr(loaded.stages, room).items():
            values.update(
                {f"{room}.{name}.{key}": value for key, value in _flat(stage.model_dump(mode="json"))}
            )
    values = {
        key: "(hidden)" if key.rsplit(".", 1)[-1] in SECRET and value else value
        for key, value in values.items()
    }
    where = {key: _origin(loaded.origins, key) for key in values}
    if as_json:
        document: Any = (
            {key: {"value": value, "origin": where[key]} for key, value in values.items()}
            if origin
            else values
        )
        echo_json(document, indent=2)
        return
    from agent.cli.screen import Column
    from agent.words import json_text

    columns = [Column("setting"), Column("value"), *([Column("from")] if origin else [])]
    rows = table(columns, words(loaded.settings.language))
    for key, value in values.items():
        shown = json_text(value) if not isinstance(value, str) else value
        rows.add_row(key, shown, *([where[key]] if origin else []))
    console().print(rows)


def _origin(origins: Any, key: str) -> str:
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if found := origins.get(".".join(parts[:length])):
            return str(found)
    return "default"


def _flat(value: Any, prefix: str = "") -> Any:
    for key, inner in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, name)
        else:
            yield name, inner
