"""``sekisho owners``: try files on who owns networks before they are in force."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import (
    Group,
    Options,
    console,
    echo_json,
    example,
    json_option,
    point_ns,
    table,
    tell,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from agent.config import Settings
    from agent.core.finding import OwnerFact
    from agent.policy.ownership import Ownership
    from agent.resumming import Difference, PairChange, Passed
    from agent.words import Phrases

SHOWN = 20
"""Rows of each table that are shown; --json has all."""


@click.group(cls=Group, epilog=example("owners"))
def command() -> None:
    """Try your own files on who owns networks: faults, canaries, and what they would change in the past.

    A file is in force once the setting `ownership` names it; it wins over the table that comes with sekisho.
    """


def _tried(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--canaries",
            multiple=True,
            type=click.Path(path_type=Path),
            help="Look-ups with the answers that must come (YAML), besides those in sekisho; may be repeated.",
        ),
        click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]..."),
    ):
        function = option(function)
    return function


@command.command(epilog=example("owners check"))
@_tried
@json_option("One JSON document: version, and the canaries that have another answer.")
@click.pass_obj
def check(options: Options, files: tuple[Path, ...], canaries: tuple[Path, ...], as_json: bool) -> None:
    """Read ownership files and ask the canaries. Exit code 1 if there is a fault.

    Without FILES: those of the settings.
    """
    settings = options.load().settings
    ownership, today = _table(settings, files)
    faults = _unmet(settings, ownership, canaries, today)
    say = words(settings.language)
    if as_json:
        echo_json({"version": ownership.version, "unmet": faults}, indent=2)
    else:
        tell(
            say(
                "owners.read",
                version=ownership.version,
                owners=len(ownership.graph.owners),
                n=len(ownership.rows),
            )
        )
        for fault in faults:
            tell(fault)
        if not faults:
            tell(say("owners.met"))
    if faults:
        raise SystemExit(1)


@command.command(epilog=example("owners diff"))
@_tried
@click.option("--since", default="365d", metavar="WHEN", help="How far back to look.", show_default=True)
@json_option("One JSON document: networks, pairs, appear, vanish, unmet.")
@click.pass_obj
def diff(
    options: Options, files: tuple[Path, ...], canaries: tuple[Path, ...], since: str, as_json: bool
) -> None:
    """Say what FILES in place of the settings' own would change: networks, the ledger's sums, and what rules find there.

    Nothing is written. Without FILES: what the settings' files change against the table in sekisho. Rules are held
    against whole days of the ledger, by amount alone. Exit code 1 if a canary has another answer.
    """
    from agent.config import read_ownership, read_policy
    from agent.core.clock import DAY_NS, SystemClock
    from agent.policy.ownership import Ownership
    from agent.resumming import difference

    settings = options.load().settings
    since_ns = point_ns(since, "--since", SystemClock().now_ns(), settings.zone)
    after, today = _table(settings, files)
    before = read_ownership(settings) if files else Ownership.load()
    faults = _unmet(settings, after, canaries, today)
    days = _days(settings, since_ns // DAY_NS)
    found = difference(read_policy(settings, today), before, after, days, today)
    say = words(settings.language)
    if as_json:
        echo_json(
            {"before": before.version, "after": after.version, **_plain(found), "unmet": faults}, indent=2
        )
    else:
        _print(found, say)
        for fault in faults:
            tell(fault)
    if faults:
        raise SystemExit(1)


def _table(settings: Settings, files: tuple[Path, ...]) -> tuple[Ownership, date]:
    from agent.config import read_ownership
    from agent.core.clock import SystemClock, when
    from agent.policy.ownership import Ownership

    today = when(SystemClock().now_ns()).date()
    return (Ownership.load(own=files, today=today) if files else read_ownership(settings)), today


def _unmet(settings: Settings, ownership: Ownership, files: tuple[Path, ...], today: date) -> list[str]:
    from agent import databases

    asked = databases.read_canaries(files)
    book = databases.AddressBook.open(settings.databases_dir, policy=None, ownership=ownership)
    return [str(fault) for fault in databases.unmet(asked, ownership, book, today)]


def _days(settings: Settings, since_day: int) -> dict[Any, dict[int, int]]:
    """The ledger's days; none where nothing was decided on this host yet."""
    from agent.cli.opened import state_of

    if settings.detect.database is None and not (settings.state_dir / "state.db").exists():
        return {}
    with state_of(settings) as state:
        return state.entities.days(since_day)


def _plain(found: Difference) -> dict[str, Any]:
    networks = [
        {
            "asn": one.asn,
            "organisation": one.organisation,
            "before": one.before.model_dump(mode="json"),
            "after": one.after.model_dump(mode="json"),
        }
        for one in found.networks
    ]
    rest = {
        name: [_dated(asdict(row)) for row in getattr(found, name)] for name in ("pairs", "appear", "vanish")
    }
    return {"networks": networks, **rest}


def _dated(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _day(value) if name.endswith("_day") else value for name, value in row.items()}


def _day(number: int) -> str:
    from datetime import date, timedelta

    return (date(1970, 1, 1) + timedelta(days=number)).isoformat()


def _print(found: Difference, say: Phrases) -> None:
    from agent.cli.screen import WHOLE, Column
    from agent.words import units

    out = console()
    if found.networks:
        shown = table(
            [
                Column("network", least=WHOLE),
                Column("organisation"),
                Column("owner_before"),
                Column("owner_after"),
            ],
            say,
        )
        for one in found.networks[:SHOWN]:
            shown.add_row(f"AS{one.asn}", one.organisation, _owned(one.before), _owned(one.after))
        out.print(shown)
    if found.pairs:
        names = ("store", "network", "owner_before", "owner_after", "first_day", "last_day")
        shown = table([*map(Column, names), Column("content_sent", right=True)], say)
        for pair in found.pairs[:SHOWN]:
            shown.add_row(*_pair(pair), units.size(pair.content_octets_out))
        out.print(shown)
    for key, rows in (("owners.appears", found.appear), ("owners.vanishes", found.vanish)):
        for row in rows[:SHOWN]:
            tell(say(key, **_passed(row), size=units.size(row.content_octets_out)))
    tell(
        say(
            "owners.summary",
            networks=len(found.networks),
            pairs=len(found.pairs),
            appear=len(found.appear),
            vanish=len(found.vanish),
        )
    )


def _owned(fact: OwnerFact) -> str:
    flags = [name for name in ("disputed", "review") if getattr(fact, name)]
    return " ".join([fact.owner_id or "-", fact.owner_country or "-", *flags])


def _pair(pair: PairChange) -> tuple[str, ...]:
    network = f"AS{pair.asn} {pair.as_org}" if pair.asn >= 0 else pair.as_org or "-"
    return (
        pair.store,
        network,
        f"{pair.entity_before} {pair.country_before or '-'}",
        f"{pair.entity_after} {pair.country_after or '-'}",
        _day(pair.first_day),
        _day(pair.last_day),
    )


def _passed(row: Passed) -> dict[str, Any]:
    return {"rule": row.rule, "store": row.store, "entity": row.entity, "day": _day(row.first_day)}
