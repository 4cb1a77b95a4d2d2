"""``sekisho enrolment``: which agents' keys count, and tokens for new ones. On the detector's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    tell,
    words,
)
from agent.cli.opened import state_of

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.store.enrolments import IdentityRow, TokenRow
    from agent.words import Phrases


@click.group(cls=Group, epilog=example("enrolment"))
def command() -> None:
    """Tokens for new agents, and the keys that count. Run it where `sekisho detect` runs, as its user."""


@command.command("token", epilog=example("enrolment token"))
@click.option("--valid", default="24h", metavar="SPAN", help="How long it may be used, such as 24h or 7d.")
@click.option("--uses", default=1, type=click.IntRange(1, 1_000_000), help="How many agents it enrols.")
@click.option(
    "--agent",
    "agent_id",
    metavar="AGENT_ID",
    default="",
    show_default=False,
    help="For this agent alone, whose key it may replace: of a host that was built anew, or that was revoked.",
)
@click.option("--note", default="", show_default=False, help="What it is for, for the record.")
@person_option
@json_option("One JSON document: token, id, expires_ns, uses, agent_id.")
@click.pass_obj
def token(options: Options, valid: str, uses: int, agent_id: str, note: str, who: str, as_json: bool) -> None:
    """Make a token and print it. It is shown once; what is kept of it enrols nobody.

    Hand it to the host by a way that you trust, and run there: sekisho agent enrol TOKEN.
    """
    from agent.core.clock import SystemClock
    from agent.core.enrolment import Token
    from agent.store.enrolments import TokenRow

    if agent_id:
        _agent_id(agent_id)
        uses = 1
    made, now_ns = Token.make(), SystemClock().now_ns()
    expires_ns = now_ns + span_ns(valid, "--valid")
    row = TokenRow(made.id, made.public, agent_id, note[:500], who, now_ns, expires_ns, uses)
    settings = options.load().settings
    with state_of(settings, acting=True) as state:
        state.enrolments.add_token(row)
    if as_json:
        echo_json(
            {
                "token": made.text,
                "id": made.id,
                "expires_ns": expires_ns,
                "uses": uses,
                "agent_id": agent_id or None,
            },
            indent=2,
        )
        return
    echo(made.text)
    say = words(settings.language)
    until = moment(expires_ns, settings.zone)
    echo(say("enrolment.token_made", id=made.id, until=until, n=uses), err=True)


@command.command("list", epilog=example("enrolment list"))
@click.option("--tokens", "tokens_only", is_flag=True, help="Tokens alone.")
@json_option("One JSON document: identities, tokens.")
@click.pass_obj
def list_all(options: Options, tokens_only: bool, as_json: bool) -> None:
    """List pinned identities and tokens."""
    settings = options.load().settings
    with state_of(settings) as state:
        identities = [] if tokens_only else state.enrolments.identities()
        tokens = state.enrolments.tokens()
    if as_json:
        document = {
            "identities": [_identity(row) for row in identities],
            "tokens": [_token(row) for row in tokens],
        }
        echo_json(document, indent=2)
        return
    say = words(settings.language)
    if not tokens_only:
        _show_identities(identities, settings, say)
    _show_tokens(tokens, settings, say)


@command.command("revoke", epilog=example("enrolment revoke"))
@click.argument("subject", metavar="AGENT_ID|TOKEN_ID")
@click.option("--note", required=True, help="Why, for whoever reads this in a year.")
@person_option
@json_option("One JSON document: kind, subject, note, who.")
@click.pass_obj
def revoke(options: Options, subject: str, note: str, who: str, as_json: bool) -> None:
    """End an agent's key, or a token. Of an agent nothing more is taken; whoever reads alerts is told.

    An agent that was revoked is enrolled again with a new key and a token made for it: enrolment token --agent.
    """
    from agent.core.clock import SystemClock

    now_ns = SystemClock().now_ns()
    settings = options.load().settings
    with state_of(settings, acting=True) as state:
        kind = "token" if state.enrolments.token(subject) is not None else "agent"
        end = state.enrolments.revoke_token if kind == "token" else state.enrolments.revoke_agent
        end(subject, who, note[:500], now_ns)
    if as_json:
        echo_json({"kind": kind, "subject": subject, "note": note, "who": who}, indent=2)
    else:
        tell(words(settings.language)(f"enrolment.revoked_{kind}", subject=subject))


def _agent_id(text: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from agent.core.message import AgentId

    try:
        TypeAdapter(AgentId).validate_python(text)
    except ValidationError:
        raise click.UsageError(
            "--agent: expected an agent's id, letters, digits and . _ : - alone: sekisho enrolment list"
        ) from None


def _show_identities(rows: list[IdentityRow], settings: Settings, say: Phrases) -> None:
    from agent.cli.screen import WHOLE, Column

    if not rows:
        echo(say("enrolment.no_agents"))
        return
    shown = table(
        [
            Column("agent", least=WHOLE),
            Column("agent_host"),
            Column("pinned_how"),
            Column("pinned_at", rank=1),
            Column("public_key", rank=3),
            Column("token", rank=2),
        ],
        say,
    )
    for row in rows:
        shown.add_row(
            row.agent_id,
            row.host or "-",
            say(f"enrolment.how.{row.how}"),
            moment(row.pinned_ns, settings.zone),
            row.public_key.hex()[:16],
            row.token or "-",
        )
    console().print(shown)


def _show_tokens(rows: list[TokenRow], settings: Settings, say: Phrases) -> None:
    from agent.cli.screen import WHOLE, Column

    if not rows:
        echo(say("enrolment.no_tokens"))
        return
    shown = table(
        [
            Column("token", least=WHOLE),
            Column("token_state"),
            Column("token_uses", right=True),
            Column("expires"),
            Column("agent", rank=2),
            Column("made_by", rank=1),
            Column("note", rank=3),
        ],
        say,
    )
    for row in rows:
        shown.add_row(
            row.id,
            say(f"enrolment.token.{_state_of(row)}"),
            f"{row.used}/{row.uses}",
            moment(row.expires_ns, settings.zone),
            row.agent_id or "-",
            row.made_by,
            row.note or "-",
        )
    console().print(shown)


def _state_of(row: TokenRow) -> str:
    from agent.core.clock import SystemClock

    if row.revoked_ns:
        return "revoked"
    if row.used >= row.uses:
        return "used_up"
    return "expired" if SystemClock().now_ns() > row.expires_ns else "valid"


def _identity(row: IdentityRow) -> dict[str, Any]:
    return {
        "agent_id": row.agent_id,
        "host": row.host or None,
        "how": row.how,
        "pinned_ns": row.pinned_ns,
        "public_key": row.public_key.hex(),
        "token": row.token or None,
    }


def _token(row: TokenRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": _state_of(row),
        "uses": row.uses,
        "used": row.used,
        "expires_ns": row.expires_ns,
        "agent_id": row.agent_id or None,
        "made_by": row.made_by,
        "made_ns": row.made_ns,
        "note": row.note or None,
    }
