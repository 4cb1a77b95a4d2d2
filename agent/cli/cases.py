"""``sekisho cases``: what was found, and what people did about it."""

from __future__ import annotations

import getpass
import json
from contextlib import AbstractContextManager, closing
from dataclasses import asdict

import click
from rich.text import Text

from agent.cli.common import Options, console, example, moment, size, span_ns, table
from agent.cli.live import STYLE
from agent.config import Settings
from agent.core.clock import SystemClock
from agent.core.finding import Case, CaseState, Notice, NoticeKind
from agent.store.cases import Verdict
from agent.store.state import State

VERDICTS = ("expected", "unexpected", "mistaken", "exercise", "unknown")
OPEN = (CaseState.OPEN, CaseState.ACKNOWLEDGED, CaseState.STOPPED)


@click.group(epilog=example("cases"))
def command() -> None:
    """List, show, acknowledge and close cases. A case joins all findings of one transfer."""


@command.command("list")
@click.option("--open", "open_only", is_flag=True, help="Leave out those that a person has closed.")
@click.option("--store", help="Of one store.")
@click.option("--since", metavar="SPAN", help="Opened within this span, such as 24h or 30d.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--json", "as_json", is_flag=True, help="JSON lines, one case each.")
@click.pass_obj
def list_cases(
    options: Options, open_only: bool, store: str | None, since: str | None, limit: int, as_json: bool
) -> None:
    """List cases, newest first."""
    settings = options.load().settings
    since_ns = SystemClock().now_ns() - span_ns(since, "--since") if since else None
    with _state(settings) as state:
        found = state.cases.list_cases(OPEN if open_only else (), store=store, since_ns=since_ns, limit=limit)
    if as_json:
        for case in found:
            click.echo(case.model_dump_json())
        return
    rows = table(["case", "severity", "state", "store", "destination", ("observed", "right"), "opened"])
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
        click.echo("no case" + (" is open" if open_only else " on record"))


@command.command()
@click.argument("case_id")
@click.option("--json", "as_json", is_flag=True, help="Every field as JSON.")
@click.option("--language", type=click.Choice(["en", "ja"]), help="Default: the setting's.")
@click.pass_obj
def show(options: Options, case_id: str, as_json: bool, language: str | None) -> None:
    """Show one case whole. CASE_ID may be its beginning, if that is unique."""
    from agent.words.alert import render

    settings = options.load().settings
    with _state(settings) as state:
        case = state.cases.get_case(case_id)
        actions = state.cases.actions_of(case.id)
        deliveries = state.deliveries.of_case(case.id)
    if as_json:
        click.echo(
            json.dumps(
                {"case": case.model_dump(mode="json"), "actions": [asdict(a) for a in actions]},
                ensure_ascii=False,
                indent=2,
            )
        )
        return
    click.echo(
        render(_as_notice(case), language=language or settings.language, zone=settings.zone, detail="full")
    )
    for action in actions:
        click.echo(
            f"{moment(action.time_ns, settings.zone)}  {action.kind} by {action.who}"
            + (f": {action.note}" if action.note else "")
        )
    for delivery in deliveries:
        click.echo(
            f"to {delivery.sink}: {delivery.state}" + (f" ({delivery.error})" if delivery.error else "")
        )


@command.command()
@click.argument("case_id")
@click.option("--note", default="", help="What you are doing about it.")
@click.option(
    "--as", "who", default=getpass.getuser, show_default="your user name", help="Your name, for the record."
)
@click.pass_obj
def ack(options: Options, case_id: str, note: str, who: str) -> None:
    """Acknowledge a case: a person has it."""
    with _state(options.load().settings, acting=True) as state:
        action = state.cases.acknowledge(case_id, who, note)
    click.echo(f"{action.case_id} acknowledged by {who}")


@command.command()
@click.argument("case_id")
@click.option("--verdict", type=click.Choice(VERDICTS), required=True, help="What it turned out to be.")
@click.option("--note", required=True, help="Why, for whoever reads this in a year.")
@click.option(
    "--as", "who", default=getpass.getuser, show_default="your user name", help="Your name, for the record."
)
@click.pass_obj
def close(options: Options, case_id: str, verdict: str, note: str, who: str) -> None:
    """Close a case. Traffic that goes on, or begins again, opens a new one."""
    with _state(options.load().settings, acting=True) as state:
        action = state.cases.close(case_id, who, note, Verdict(verdict))
    click.echo(f"{action.case_id} closed by {who}: {verdict}")


def _state(settings: Settings, *, acting: bool = False) -> AbstractContextManager[State]:
    """The state beside a program that may be running; ``acting``: a person does something about a case."""
    path = settings.state_dir / "state.db"
    return closing(State.open(path, clock=SystemClock(), people=acting, read_only=not acting))


def _as_notice(case: Case) -> Notice:
    kind = NoticeKind.CLOSED if case.state in (CaseState.STOPPED, CaseState.CLOSED) else NoticeKind.OPENED
    return Notice(kind=kind, time_ns=case.updated_ns, host=case.store.host, case=case)
