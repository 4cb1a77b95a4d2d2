"""``sekisho who``: every fact about an address, with its source and date."""

from __future__ import annotations

import ipaddress
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
    moment,
    paper,
    point_ns,
    words,
)
from agent.words.escape import shown
from agent.words.folding import columns, fold

if TYPE_CHECKING:
    from agent.config import Loaded
    from agent.databases import AddressBook, AddressFacts
    from agent.words import Phrases

LONGEST = 2000
"""Characters of one fact that are shown."""
LABEL = 12
"""Cells of the longest label."""
USUAL = "24h"
"""How far back names are looked for, where they are switched on."""


@click.command(cls=Command, epilog=example("who"))
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option(
    "--names",
    "since",
    metavar="WHEN",
    help="Also the host names that this host's traffic gave it since WHEN, such as 7d. Default: 24h where names are "
    "switched on, else none.",
)
@json_option("JSON lines, one address each.")
@click.pass_obj
def command(options: Options, addresses: tuple[str, ...], since: str | None, as_json: bool) -> None:
    """Say where an address is, which network it belongs to, who runs it and who owns them.

    These are separate facts; each is shown with its source and date. Nothing is asked of the network.
    """
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise click.UsageError(
                f"{address} is no IP address; expected one such as 203.0.113.7 or 2001:db8::1"
            ) from None
    from datetime import UTC, datetime

    from agent.core.clock import SystemClock

    loaded = options.load()
    settings = loaded.settings
    say = words(settings.language)
    since = since or (USUAL if _names_are_on(loaded) else None)
    since_ns = point_ns(since, "--names", SystemClock().now_ns(), settings.zone) if since else None
    book = _book(loaded)
    for number, address in enumerate(addresses):
        facts = book.who(address, today=datetime.now(UTC).date())
        names = None if since_ns is None else _names(settings.state_dir / "archive", address, since_ns, say)
        if as_json:
            echo_json({**facts.as_dict(), "names": names})
            continue
        if number:
            echo()
        _print(facts, None if since_ns is None else moment(since_ns, settings.zone), names, say)
    if not as_json and book.attribution:
        console().print(f"\n{shown(book.attribution)}", style="dim", soft_wrap=True)


def _book(loaded: Loaded) -> AddressBook:
    from datetime import UTC, datetime

    from agent import databases
    from agent.config import read_ownership, read_policy
    from enrichers.geo import Settings as Geo

    settings = loaded.settings
    geo = loaded.stages.enrichers.get("geo")
    return databases.AddressBook.open(
        settings.databases_dir,
        policy=read_policy(settings, datetime.now(UTC).date()),
        ownership=read_ownership(settings),
        settings=geo if isinstance(geo, Geo) else None,
        cache=settings.state_dir / "cache" / "ranges",
    )


def _names_are_on(loaded: Loaded) -> bool:
    return any(getattr(stage, "names", False) for stage in loaded.stages.collectors.values())


def _names(archive: Path, address: str, since_ns: int, say: Phrases) -> list[str]:
    """Host names of the archive's flows with that address, that of most octets first; none where there is no archive."""
    from agent.store.asking import Question
    from agent.store.flows import ask
    from agent.store.sums import Sums

    if not archive.is_dir():
        return []
    question = Question(since_ns, networks={"remote_address": (ipaddress.ip_network(address),)})
    sums = Sums(["remote_name"], None)
    with Bar(say("flows.reading"), octets=True) as bar:
        for batch in ask(archive, question, columns=["remote_name"], progress=bar.step):
            sums.add(batch)
    found = sorted(sums.groups(), key=lambda group: -group.amounts["octets_out"])
    return [str(group.key[0]) for group in found if group.key[0] is not None]


def _print(facts: AddressFacts, since: str | None, names: list[str] | None, say: Phrases) -> None:
    from agent.databases import Line, told

    lines = list(told(facts, say))
    if names is not None:
        value = say.join(names) or say("who.no_names")
        lines.append(Line(say("who.label.name"), value, say("who.seen_names", since=since)))
    out, width = console(), paper()
    out.print(shown(facts.address), style="bold")
    for fact in lines:
        label = "  " + fact.what + " " * (LABEL - columns(fact.what) + 1)
        for text, style in ((label + shown(fact.value, LONGEST), ""), (shown(fact.source, LONGEST), "dim")):
            line = text if not style else " " * (LABEL + 3) + text
            for part in fold(line, width, LABEL + 3) if width else [line]:
                if part.strip():
                    out.print(part, style=style, soft_wrap=True)
