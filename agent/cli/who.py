"""``sekisho who``: every fact about an address, with its source and date."""

from __future__ import annotations

import ipaddress

import click

from agent.cli.common import Command, Options, console, echo_json, example, json_option

LONGEST = 2000
"""Characters of one fact that are shown."""


@click.command(cls=Command, epilog=example("who"))
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@json_option("JSON lines, one address each.")
@click.pass_obj
def command(options: Options, addresses: tuple[str, ...], as_json: bool) -> None:
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

    from agent import databases
    from agent.config import read_policy
    from agent.policy.ownership import Ownership
    from agent.words import shown
    from enrichers.geo import Settings as Geo

    loaded = options.load()
    settings = loaded.settings
    policy = read_policy(settings, datetime.now(UTC).date())
    geo = loaded.stages.enrichers.get("geo")
    book = databases.AddressBook.open(
        settings.databases_dir,
        policy=policy,
        ownership=Ownership.load(),
        settings=geo if isinstance(geo, Geo) else None,
        cache=settings.state_dir / "cache" / "ranges",
    )
    out = console()
    for number, address in enumerate(addresses):
        facts = book.who(address, today=datetime.now(UTC).date())
        if as_json:
            echo_json(facts.as_dict())
            continue
        if number:
            out.print()
        out.print(shown(address), style="bold")
        for fact in facts.lines():
            out.print(f"  {fact.what:<11} {shown(fact.value, LONGEST)}", soft_wrap=True)
            if fact.source:
                out.print(f"  {'':<11} {shown(fact.source, LONGEST)}", style="dim", soft_wrap=True)
    if not as_json and book.attribution:
        out.print(f"\n{shown(book.attribution)}", style="dim")
