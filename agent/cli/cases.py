"""``sekisho cases``: what was found, and what people did about it."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
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
    size,
    span_ns,
    table,
)

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.core.finding import Case, Notice
    from agent.store.state import State

VERDICTS: Final = ("expected", "unexpected", "mistaken", "exercise", "unknown")
"""Those of :class:`agent.store.cases.Verdict`."""
OPEN: Final = ("open", "acknowledged", "stopped")
"""States of :class:`agent.core.finding.CaseState` that still wait for a person."""


def _ids(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[Any]:
    from agent.cli.completing import case_ids

    return case_ids(ctx, parameter, begun)


def _stores(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[Any]:
    from agent.cli.completing import store_names

    return store_names(ctx, parameter, begun)


def _case(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("case_id", shell_complete=_ids)(function)


def _person(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--as",
        "who",
        default=getpass.getuser,
        show_default="your user name",
        help="Your name, for the record.",
    )(function)


@click.group(cls=Group, epilog=example("cases"))
def command() -> None:
    """List, show, acknowledge and close cases. A case joins all findings of one transfer."""


@command.command("list", epilog=example("cases list"))
@click.option("--open", "open_only", is_flag=True, help="Leave out those that a person has closed.")
@click.option("--store", shell_complete=_stores, help="Of one store.")
@click.option("--since", metavar="SPAN", help="Changed within this span, such as 24h or 30d.")
@click.option("--limit", default=50, type=click.IntRange(1, 100_000), help="How many.")
@json_option("JSON lines, one case each.")
@click.pass_obj
def list_cases(
    options: Options, open_only: bool, store: str | None, since: str | None, limit: int, as_json: bool
) -> None:
    """List cases, last changed first."""
    from agent.core.clock import SystemClock
    from agent.core.finding import CaseState

    settings = options.load().settings
    since_ns = SystemClock().now_ns() - span_ns(since, "--since") if since else None
    states = [CaseState(state) for state in OPEN] if open_only else []
    with _state(settings) as state:
        found = state.cases.list_cases(states, store=store, since_ns=since_ns, limit=limit)
    if as_json:
        for case in found:
            echo_json(case.model_dump(mode="json"))
        return
    from rich.text import Text

    from agent.cli.live import STYLE
    from agent.cli.screen import WHOLE, Column

    rows = table(
        [
            Column("case", least=WHOLE),
            Column("severity", rank=1),
            Column("state", rank=2),
            "store",
            "destination",
            ("observed", "right"),
            Column("opened", rank=3, least=WHOLE),
        ]
    )
    for case in found:
        rows.add_row(
            case.id,
            Text(case.severity.name.lower(), style=STYLE[case.severity]),
            case.state.value,
            case.store.id,
            case.destination.label,
            size(case.traffic.content_octets_out),
            moment(case.opened_ns, settings.zone),
        )
    if found:
        console().print(rows)
    else:
        echo("no case" + (" is open" if open_only else " on record"))


@command.command(epilog=example("cases show"))
@_case
@json_option("The case with every field, what people did, and what was sent, as one JSON document.")
@click.option("--language", type=click.Choice(["en", "ja"]), help="Default: the setting's.")
@click.pass_obj
def show(options: Options, case_id: str, as_json: bool, language: str | None) -> None:
    """Show one case whole. CASE_ID may be its beginning, if that is unique."""
    from dataclasses import asdict

    from agent.words.alert import render

    settings = options.load().settings
    with _state(settings) as state:
        case = state.cases.get_case(case_id)
        actions = state.cases.actions_of(case.id)
        deliveries = state.deliveries.of_case(case.id)
    if as_json:
        echo_json(
            {
                "case": case.model_dump(mode="json"),
                "actions": [asdict(a) for a in actions],
                "deliveries": [
                    {"sink": d.sink, "state": str(d.state), "error": d.error or None} for d in deliveries
                ],
            },
            indent=2,
        )
        return
    echo(render(_as_notice(case), language=language or settings.language, zone=settings.zone, detail="full"))
    for action in actions:
        echo(
            f"{moment(action.time_ns, settings.zone)}  {action.kind} by {action.who}"
            + (f": {action.note}" if action.note else "")
        )
    for delivery in deliveries:
        echo(f"to {delivery.sink}: {delivery.state}" + (f" ({delivery.error})" if delivery.error else ""))


@command.command(epilog=example("cases ack"))
@_case
@click.option("--note", default="", show_default=False, help="What you are doing about it.")
@_person
@click.pass_obj
def ack(options: Options, case_id: str, note: str, who: str) -> None:
    """Acknowledge a case: a person has it."""
    with _state(options.load().settings, acting=True) as state:
        action = state.cases.acknowledge(case_id, who, note)
    echo(f"{action.case_id} acknowledged by {who}")


@command.command(epilog=example("cases close"))
@_case
@click.option("--verdict", type=click.Choice(VERDICTS), required=True, help="What it turned out to be.")
@click.option("--note", required=True, help="Why, for whoever reads this in a year.")
@_person
@click.pass_obj
def close(options: Options, case_id: str, verdict: str, note: str, who: str) -> None:
    """Close a case. Traffic that goes on, or begins again, opens a new one."""
    from agent.store.cases import Verdict

    with _state(options.load().settings, acting=True) as state:
        action = state.cases.close(case_id, who, note, Verdict(verdict))
    echo(f"{action.case_id} closed by {who}: {verdict}")


def _state(settings: Settings, *, acting: bool = False) -> AbstractContextManager[State]:
    """The state beside a program that may be running; ``acting``: a person does something about a case."""
    from agent.core.clock import SystemClock
    from agent.store.state import State

    path = settings.state_dir / "state.db"
    return closing(State.open(path, clock=SystemClock(), people=acting, read_only=not acting))


def _as_notice(case: Case) -> Notice:
    from agent.core.finding import CaseState, Notice, NoticeKind

    kind = NoticeKind.CLOSED if case.state in (CaseState.STOPPED, CaseState.CLOSED) else NoticeKind.OPENED
    return Notice(kind=kind, time_ns=case.updated_ns, host=case.store.host, case=case)
