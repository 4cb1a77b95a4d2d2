"""``sekisho maintenance``: times in which people work on hosts. What is not observed then is told as such; nobody is paged."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.common import (
    Group,
    Options,
    console,
    echo,
    echo_json,
    example,
    json_option,
    moment,
    person_option,
    span_ns,
    table,
    words,
)

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.store.state import State

LONGEST_NS: Final = 7 * 86_400 * 10**9


def _hosts(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[Any]:
    from agent.cli.completing import host_names

    return host_names(ctx, parameter, begun)


@click.group(cls=Group, epilog=example("maintenance"))
def command() -> None:
    """Say when people work on hosts. Silence then pages nobody, and is told as not observed all the same.

    A host that holds a store needs a second person: who quietens it must not be alone with it.
    """


@command.command(epilog=example("maintenance start"))
@click.option("--reason", required=True, help="Why, for whoever reads this in a year.")
@click.option("--host", default="", shell_complete=_hosts, help="One host; if not given, all of them.")
@click.option(
    "--until", default="4h", metavar="SPAN", help="For how long from now, such as 90m or 2d; at most 7d."
)
@click.option(
    "--second", default="", metavar="PERSON", help="Who else knows of it; for hosts that hold a store."
)
@person_option
@json_option("The maintenance as one JSON document.")
@click.pass_obj
def start(options: Options, reason: str, host: str, until: str, second: str, who: str, as_json: bool) -> None:
    """Begin now: events of these hosts are kept, and nobody is paged for them."""
    from agent.cli.opened import state_of
    from agent.core.clock import SystemClock

    settings = options.load().settings
    span = span_ns(until, "--until")
    if not 0 < span <= LONGEST_NS:
        raise click.BadParameter(f"{until}: at most 7d; start another one then", param_hint="--until")
    if not reason.strip():
        raise click.BadParameter("is empty; say why", param_hint="--reason")
    now_ns = SystemClock().now_ns()
    with state_of(settings, acting=True) as state:
        _check_second(settings, state, host, who, second)
        made = state.coverage.begin_maintenance(host, now_ns, now_ns + span, reason, who, second)
    if as_json:
        echo_json(asdict(made), indent=2)
        return
    say = words(settings.language)
    echo(
        say(
            "maintenance.started",
            id=made.id,
            host=host or say("maintenance.all"),
            until=moment(made.until_ns, settings.zone),
        )
    )


@command.command(epilog=example("maintenance end"))
@click.argument("number", type=int)
@person_option
@json_option("The maintenance as one JSON document.")
@click.pass_obj
def end(options: Options, number: int, who: str, as_json: bool) -> None:
    """End one before its time. NUMBER is shown by `maintenance list`."""
    from agent.cli.opened import state_of
    from agent.core.clock import SystemClock

    settings = options.load().settings
    with state_of(settings, acting=True) as state:
        ended = state.coverage.end_maintenance(number, who, SystemClock().now_ns())
    if as_json:
        echo_json(asdict(ended), indent=2)
    else:
        echo(words(settings.language)("maintenance.ended", id=number, who=who))


@command.command("list", epilog=example("maintenance list"))
@click.option(
    "--since", default="30d", metavar="SPAN", help="That ended within this span, or have not ended."
)
@json_option("JSON lines, one maintenance each.")
@click.pass_obj
def list_all(options: Options, since: str, as_json: bool) -> None:
    """List times of maintenance, oldest first."""
    from agent.cli.opened import state_of
    from agent.core.clock import SystemClock

    settings = options.load().settings
    now_ns = SystemClock().now_ns()
    with state_of(settings) as state:
        found = state.coverage.maintenance(now_ns - span_ns(since, "--since"))
    if as_json:
        for one in found:
            echo_json(asdict(one))
        return
    say = words(settings.language)
    if not found:
        echo(say("maintenance.none"))
        return
    from agent.cli.screen import WHOLE, Column

    names = ("number", "host", "from", "to", "person", "second", "reason")
    rows = table([Column(name, least=WHOLE if name in ("number", "host") else 8) for name in names], say)
    for one in found:
        rows.add_row(
            str(one.id),
            one.host or say("maintenance.all"),
            moment(one.from_ns, settings.zone),
            moment(one.to_ns, settings.zone),
            one.who,
            one.second or "-",
            one.reason,
        )
    console().print(rows)


def _check_second(settings: Settings, state: State, host: str, who: str, second: str) -> None:
    """Raises :class:`StateError` where a store is there and nobody else knows of it."""
    from datetime import UTC, datetime

    from agent.config import read_policy
    from agent.core.errors import StateError
    from agent.core.said import said
    from agent.covering.covering import stores_on
    from agent.detection.fleet import Known

    policy = read_policy(settings, datetime.now(UTC).date())
    agents = [Known.of(body) for body in state.coverage.agents().values()]
    here = [known for known in agents if not host or known.host.lower() == host.lower()]
    if not here and host:
        here = [Known("", host)]
    stores = sorted({store for known in here for store in stores_on(policy, known)})
    if not host:
        stores = sorted({*stores, *(store.id for store in policy.stores)})
    if stores and _same(second, who):
        named = ", ".join(stores[:5])
        whose = host or said("all hosts")
        if second.strip():
            told = said(
                "{host}: holds {stores}; name another person than yourself who knows of it: --second PERSON",
                host=whose,
                stores=named,
            )
        else:
            told = said(
                "{host}: holds {stores}; name a second person who knows of it: --second PERSON",
                host=whose,
                stores=named,
            )
        raise StateError(told)


def _same(second: str, who: str) -> bool:
    return not second.strip() or second.strip().casefold() == who.strip().casefold()
