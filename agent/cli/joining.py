"""``sekisho agent enrol``: make this host's key and have the detector know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent.cli.common import Command, Options, echo_json, example, json_option, tell, words

if TYPE_CHECKING:
    from agent.sending.joining import Outcome


@click.command("enrol", cls=Command, epilog=example("agent enrol"))
@click.argument("token", metavar="TOKEN", required=False)
@click.option(
    "--token-file",
    type=click.Path(allow_dash=True),
    help="File that holds the token; - is standard input. An argument can be read by others on this host.",
)
@click.option(
    "--wait", default=60.0, type=click.FloatRange(0, 3600), help="Seconds to wait for the detector's answer."
)
@click.option(
    "--new-key", is_flag=True, help="Replace this host's key by a new one; the old one counts until then."
)
@json_option("One JSON document: state, reason, agent_id, public_key, proven.")
@click.pass_obj
def enrol(
    options: Options,
    token: str | None,
    token_file: str | None,
    wait: float,
    new_key: bool,
    as_json: bool,
) -> None:
    """Make this host's key, if it has none, and ask the detector to know it, through Kafka.

    TOKEN is what `sekisho enrolment token` printed; it is proven, not sent. Asking again is harmless. Where no answer comes
    in time the request waits for the detector. Exit code 1 where it was refused.
    """
    from agent.config import agent_id
    from agent.core.clock import SystemClock
    from agent.core.errors import ConfigError, Fault
    from agent.sending.joining import join, key_of, take_new, token_of

    if (token is None) == (token_file is None):
        raise click.UsageError("expected TOKEN or --token-file, one of them")
    settings = options.load().settings
    given = token_of(token if token_file is None else _read(token_file))
    if settings.kafka is None:
        raise ConfigError(
            Fault("settings", 0, "kafka is not set", "add kafka: {servers: [kafka-1.example.net:9092]}")
        )
    whose = agent_id(settings)
    say = words(settings.language)
    outcome = join(
        settings.kafka,
        given,
        agent_id=whose,
        host=settings.host,
        key=key_of(settings.state_dir, new=new_key),
        clock=SystemClock(),
        wait_s=wait,
    )
    if new_key and outcome.state == "enrolled":
        take_new(settings.state_dir)
    if as_json:
        echo_json(_document(outcome), indent=2)
    else:
        tell(say(f"enrol.{outcome.state}", agent=whose, key=outcome.public_key[:16]))
        if outcome.reason:
            tell(say(f"enrol.reason.{outcome.reason}"))
        if new_key and outcome.state == "enrolled":
            tell(say("enrol.restart"))
    if outcome.state == "refused":
        raise SystemExit(1)


def _read(file: str) -> str:
    """Raises :class:`agent.core.errors.ConfigError`."""
    import sys
    from pathlib import Path

    from agent.core.errors import ConfigError, Fault

    try:
        return sys.stdin.read(4096) if file == "-" else Path(file).read_text()[:4096]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(Fault(file, 0, f"no token can be read: {error}")) from error


def _document(outcome: Outcome) -> dict[str, str | bool | None]:
    return {
        "state": outcome.state,
        "reason": outcome.reason or None,
        "agent_id": outcome.agent_id,
        "public_key": outcome.public_key,
        "proven": outcome.proven,
    }
