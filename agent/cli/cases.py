"""``sekisho cases``: what was found, and what people did about it."""

from __future__ import annotations

from collections.abc import Callable
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
    paper,
    person_option,
    size,
    span_ns,
    table,
    words,
)
from agent.cli.opened import state_of
from agent.cli.proposing import narrowest

if TYPE_CHECKING:
    from agent.core.finding import Case, Notice
    from agent.store.cases import Action

VERDICTS: Final = ("expected", "unexpected", "mistaken", "exercise", "unknown")
"""Those of :class:`agent.store.cases.Verdict`."""


def _ids(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[Any]:
    from agent.cli.completing import case_ids

    return case_ids(ctx, parameter, begun)


def _stores(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[Any]:
    from agent.cli.completing import store_names

    return store_names(ctx, parameter, begun)


def _case(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("case_id", shell_complete=_ids)(function)


@click.group(cls=Group, epilog=example("cases"))
def command() -> None:
    """List and show cases, and record what people do about them. A case joins all findings of one transfer.

    Whether the traffic goes on is one fact, whether a person is done with the case another.
    """


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
    from agent.core.finding import WAITING

    settings = options.load().settings
    since_ns = SystemClock().now_ns() - span_ns(since, "--since") if since else None
    states = WAITING if open_only else ()
    with state_of(settings) as state:
        found = state.cases.list_cases(states, store=store, since_ns=since_ns, limit=limit)
    if as_json:
        for case in found:
            echo_json(case.model_dump(mode="json"))
        return
    from rich.text import Text

    from agent.cli.live import STYLE, destination_of, severity_of
    from agent.cli.screen import WHOLE, Column

    say = words(settings.language)
    rows = table(
        [
            Column("case", least=WHOLE),
            Column("severity", rank=1),
            Column("state", rank=2),
            Column("traffic", rank=4),
            Column("store"),
            Column("destination"),
            Column("observed", right=True),
            Column("opened", rank=3, least=WHOLE),
        ],
        say,
    )
    for case in found:
        rows.add_row(
            case.id,
            Text(severity_of(case, say), style=STYLE[case.severity]),
            say(f"case_state.{case.state}"),
            say(f"traffic_state.{case.traffic_state}"),
            case.store.id,
            destination_of(case, say),
            size(case.traffic.content_octets_out),
            moment(case.opened_ns, settings.zone),
        )
    if found:
        console().print(rows)
    else:
        echo(say("cases.none_open" if open_only else "cases.none"))


@command.command(epilog=example("cases show"))
@_case
@json_option("The case with every field, what people did, and what was sent, as one JSON document.")
@click.option("--language", type=click.Choice(["en", "ja"]), help="Default: the setting's.")
@click.pass_obj
def show(options: Options, case_id: str, as_json: bool, language: str | None) -> None:
    """Show one case whole. CASE_ID may be its beginning, if that is unique."""
    from agent.words.alert import render

    settings = options.load().settings
    with state_of(settings) as state:
        case = state.cases.get_case(case_id)
        actions = state.cases.actions_of(case.id)
        deliveries = state.deliveries.of_case(case.id)
    if as_json:
        echo_json(
            {
                "case": case.model_dump(mode="json"),
                "actions": [_document(a) for a in actions],
                "deliveries": [
                    {"sink": d.sink, "state": str(d.state), "error": d.error or None} for d in deliveries
                ],
            },
            indent=2,
        )
        return
    language = language or settings.language
    echo(render(_as_notice(case), language=language, zone=settings.zone, detail="full", width=paper()))
    say = words(language)
    for action in actions:
        done = say(f"cases.{action.kind}")
        if action.verdict:
            done = say("cases.closed_as", verdict=say(f"verdict.{action.verdict}"))
        elif action.assignee:
            done = say("cases.assigned", assignee=action.assignee)
        time = moment(action.time_ns, settings.zone)
        key = "cases.acted_note" if action.note else "cases.acted"
        echo(say(key, time=time, action=done, who=action.who, note=action.note))
    for delivery in deliveries:
        key = "cases.sent_error" if delivery.error else "cases.sent"
        said = say.named("delivery", str(delivery.state))
        echo(say(key, sink=delivery.sink, state=said, error=delivery.error))


@command.command(epilog=example("cases ack"))
@_case
@click.option("--note", default="", show_default=False, help="What you are doing about it.")
@person_option
@json_option("The action as one JSON document.")
@click.pass_obj
def ack(options: Options, case_id: str, note: str, who: str, as_json: bool) -> None:
    """Acknowledge a case: a person has it."""
    settings = options.load().settings
    with state_of(settings, acting=True) as state:
        action = state.cases.acknowledge(case_id, who, note)
    _told(options, action, "cases.acknowledged_by", as_json)


@command.command(epilog=example("cases assign"))
@_case
@click.option("--to", "assignee", required=True, metavar="NAME", help="Who is to have it.")
@click.option("--note", default="", show_default=False, help="Why.")
@person_option
@json_option("The action as one JSON document.")
@click.pass_obj
def assign(options: Options, case_id: str, assignee: str, note: str, who: str, as_json: bool) -> None:
    """Say who is to have a case. It waits for an acknowledgement as before."""
    settings = options.load().settings
    with state_of(settings, acting=True) as state:
        action = state.cases.assign(case_id, who, assignee, note)
    _told(options, action, "cases.assigned_by", as_json, assignee=assignee)


@command.command(epilog=example("cases comment"))
@_case
@click.option("--note", required=True, help="What is to stand on record.")
@person_option
@json_option("The action as one JSON document.")
@click.pass_obj
def comment(options: Options, case_id: str, note: str, who: str, as_json: bool) -> None:
    """Put a text on record beside a case, also one that is closed."""
    settings = options.load().settings
    with state_of(settings, acting=True) as state:
        action = state.cases.comment(case_id, who, note)
    _told(options, action, "cases.commented_by", as_json)


@command.command(epilog=example("cases reopen"))
@_case
@click.option("--note", required=True, help="Why.")
@person_option
@json_option("The action as one JSON document.")
@click.pass_obj
def reopen(options: Options, case_id: str, note: str, who: str, as_json: bool) -> None:
    """Open a case again that a person closed. It then waits for an acknowledgement."""
    settings = options.load().settings
    with state_of(settings, acting=True) as state:
        action = state.cases.reopen(case_id, who, note)
    _told(options, action, "cases.reopened_by", as_json)


@command.command(epilog=example("cases close"))
@_case
@click.option("--verdict", type=click.Choice(VERDICTS), required=True, help="What it turned out to be.")
@click.option("--note", required=True, help="Why, for whoever reads this in a year.")
@person_option
@json_option("The action as one JSON document; as expected, with the approval proposed.")
@click.pass_obj
def close(options: Options, case_id: str, verdict: str, note: str, who: str, as_json: bool) -> None:
    """Close a case. Traffic that goes on, or begins again, opens a new one.

    With --verdict expected the narrowest approval that would have held it back is printed, as YAML for a person to
    complete and commit. Nothing is approved by closing.
    """
    from agent.store.cases import Verdict

    settings = options.load().settings
    with state_of(settings, acting=True) as state:
        action = state.cases.close(case_id, who, note, Verdict(verdict))
        proposed = narrowest(state, action) if action.verdict is Verdict.EXPECTED else None
    if as_json:
        more = {"proposal": proposed.document()} if proposed is not None else {}
        echo_json({**_document(action), **more}, indent=2)
        return
    say = words(settings.language)
    echo(say("cases.closed_by", id=action.case_id, who=who, verdict=say(f"verdict.{verdict}")))
    if proposed is not None:
        echo(proposed.text(say))


def _told(options: Options, action: Action, key: str, as_json: bool, **blanks: str) -> None:
    """An action that was taken, as JSON or in a line."""
    if as_json:
        echo_json(_document(action), indent=2)
    else:
        say = words(options.load().settings.language)
        echo(say(key, id=action.case_id, who=action.who, **blanks))


def _document(action: Action) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(action)


def _as_notice(case: Case) -> Notice:
    from agent.core.finding import CaseState, Notice, NoticeKind, TrafficState

    is_over = case.traffic_state is TrafficState.STOPPED or case.state is CaseState.CLOSED
    kind = NoticeKind.CLOSED if is_over else NoticeKind.OPENED
    return Notice(kind=kind, time_ns=case.updated_ns, host=case.store.host, case=case)
