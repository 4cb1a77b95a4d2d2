"""``sekisho approvals``: transfers that people have agreed to, and those that they might."""

from __future__ import annotations

from pathlib import Path
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
    language_of,
    size,
    span_ns,
    table,
    words,
)
from agent.cli.opened import state_of

if TYPE_CHECKING:
    from datetime import date

    from agent.approving import Proposed, Use
    from agent.policy.approvals import Approval
    from agent.policy.model import Policy
    from agent.words import Phrases


@click.group(cls=Group, epilog=example("approvals"))
def command() -> None:
    """List approved transfers, and propose provisional ones for what is sent already. Nothing is approved here."""


@command.command("list", epilog=example("approvals list"))
@click.option("--due", "due_only", is_flag=True, help="Only those that a person should look at.")
@json_option("JSON lines, one approval each.")
@click.pass_obj
def list_approvals(options: Options, due_only: bool, as_json: bool) -> None:
    """List approvals: cap and use, end, and whether a person should look. Those to look at come first.

    What is used is counted from the ledger by UTC day, so it is the most that the window can hold.
    """
    from agent.approving import uses

    settings = options.load().settings
    policy, today = _policy(options)
    with state_of(settings) as state:
        found = [use for use in uses(policy, state, today) if use.due or not due_only]
    if as_json:
        for use in found:
            echo_json(_document(use))
        return
    say = words(language_of(options))
    if not found:
        echo(say("approvals.none_due" if due_only else "approvals.none"))
        return
    _print(found, say)


def _print(found: list[Use], say: Phrases) -> None:
    from agent.cli.screen import WHOLE, Column

    rows = table(
        [
            Column("approval", least=WHOLE),
            Column("store", rank=2),
            Column("destination", rank=1),
            Column("used_at_most", right=True),
            Column("cap", right=True),
            Column("window", rank=3),
            Column("ends", least=WHOLE),
            Column("approver", rank=4),
            Column("due"),
        ],
        say,
    )
    for use in found:
        one = use.approval
        rows.add_row(
            one.id,
            say.join(one.stores),
            say.join(_ends(one)),
            say("unknown") if use.used_at_most is None else size(use.used_at_most),
            size(one.cap),
            say.named("window", one.window),
            say("approvals.ends", day=str(one.valid_to), n=use.ends_in_days),
            one.approver,
            say.join([say(f"approvals.due_{reason}") for reason in use.due]) or "-",
        )
    console().print(rows)


def _document(use: Use) -> dict[str, Any]:
    return {
        **use.approval.model_dump(mode="json"),
        "used_at_most": use.used_at_most,
        "overrun": use.overrun,
        "ends_in_days": use.ends_in_days,
        "due": list(use.due),
    }


def _ends(approval: Approval) -> list[str]:
    """What it names as the other end."""
    end = approval.destination
    asns = [f"AS{number}" for number in end.asns]
    return [
        *([end.entity] if end.entity else []),
        *end.owners,
        *end.providers,
        *asns,
        *(str(n) for n in end.networks),
    ]


@command.command(epilog=example("approvals sweep"))
@click.option("--since", default="30d", metavar="SPAN", help="What was sent within this span.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Default: approvals-DAY.yaml.proposed beside the policy.",
)
@click.option("--dry-run", is_flag=True, help="Print the file instead of writing it.")
@json_option("One JSON document: the pairs, the YAML, and what was left out.")
@click.pass_obj
def sweep(options: Options, since: str, output: Path | None, dry_run: bool, as_json: bool) -> None:
    """Propose provisional approvals for what stores send already, on the first day or later.

    Each stands for one store, destination, process and initiator, for 30 days, with 1.5 times the largest day seen as
    cap. The file is no policy yet: its name ends in .proposed, and `sekisho policy check` refuses TODO. A person names
    basis and approver of each that is right, deletes the rest, renames the file and commits it. Pairs that any case
    speaks of are never proposed.
    """
    from agent import approving
    from agent.core.clock import DAY_NS
    from agent.policy.approval_text import approvals_yaml

    settings = options.load().settings
    policy, today = _policy(options)
    days = max(1, -(-span_ns(since, "--since") // DAY_NS))
    with state_of(settings) as state:
        swept = approving.sweep(policy, state, today, days)
    proposed = approving.provisional(swept.pairs, [a.id for a in policy.approvals], today)
    text = approvals_yaml(proposed) if proposed else ""
    path = None if dry_run or not proposed else output or _beside(settings.policy, today)
    if path is not None:
        _write(path, words(language_of(options))("approvals.file_head") + text)
    if as_json:
        pairs = [_pair(pair) for pair in swept.pairs]
        written = str(path) if path else None
        echo_json({"pairs": pairs, "yaml": text, "left_out": swept.left_out, "file": written}, indent=2)
        return
    say = words(language_of(options))
    if dry_run and text:
        echo(text.rstrip("\n"))
    for reason, n in sorted(swept.left_out.items()):
        echo(say(f"approvals.left_out_{reason}", n=n), err=True)
    if path is not None:
        echo(say("approvals.written", n=len(proposed), file=str(path)), err=True)
    elif not proposed:
        echo(say("approvals.nothing_to_propose"), err=True)


def _pair(pair: Proposed) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(pair)


def _beside(paths: tuple[Path, ...], today: date) -> Path:
    """Where the policy lies, under a name that no program takes for policy."""
    if not paths:
        raise click.UsageError("the settings name no policy: say with --output where to write")
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    return folder / f"approvals-{today}.yaml.proposed"


def _write(path: Path, text: str) -> None:
    """Never over a file that is there: somebody may be at work on it."""
    if path.suffix in (".yaml", ".yml"):
        raise click.UsageError(
            f"{path}: would be policy as soon as it is there; let its name end in .proposed"
        )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.UsageError(f"{path} is there already; complete or remove it first") from None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from None


def _policy(options: Options) -> tuple[Policy, date]:
    from datetime import UTC, datetime

    from agent.config import read_policy

    today = datetime.now(UTC).date()
    return read_policy(options.load().settings, today), today
