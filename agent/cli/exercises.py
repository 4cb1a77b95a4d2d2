"""``sekisho simulate SCENARIO``: table-top exercises with the real detector and a state of their own."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.bars import Bar
from agent.cli.common import Command, Options, echo, echo_json, example, json_option, tell, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config import Loaded
    from agent.core.finding import Notice
    from agent.policy.model import Policy
    from agent.rehearsal.scenarios import Scenario
    from agent.words import Phrases

SCENARIOS: Final = {
    "bulk": "Bulk transfer to a restricted owner",
    "trickle": "A trickle over weeks",
    "neutral-cloud": "Bulk into a neutral cloud at home",
    "many-addresses": "Many addresses of one owner",
    "home-region": "A restricted owner's region at home",
    "maintenance": "A supplier's maintenance connection",
    "quiet-day": "An ordinary day",
}
"""Their ids and titles, as in agent/rehearsal/scenarios.yaml; here so that help need not read it."""
MARKER: Final = "exercise"
"""File in a folder whose state is an exercise's."""


def commands() -> list[click.Command]:
    """A command for each scenario."""
    return [_command(name, title) for name, title in SCENARIOS.items()]


def _command(name: str, title: str) -> click.Command:
    def run(options: Options, /, **given: Any) -> None:
        _run(options, name, **given)

    run.__doc__ = f"""{title}: play it as an exercise, with your policy and the real detector.

    Nothing of it exists and nobody is sent anything: what people would be told is printed, marked as an exercise, and
    kept in a state of its own. The state, ledger, cases and receipts of this host are not touched.
    """
    made: Any = click.pass_obj(run)
    for option in (
        json_option("One JSON document: the scenario and every message."),
        click.option(
            "--state",
            type=click.Path(path_type=Path, file_okay=False),
            help="Keep the exercise's cases and ledger in this folder, to look at with --state-dir. Default: a throwaway one.",
        ),
        click.option(
            "--alerts",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Also write each message into this file (JSON lines).",
        ),
        click.option(
            "--store",
            help="Store of your policy that sends. Default: its first; an invented one if it has none.",
        ),
    ):
        made = option(made)
    return click.command(name, cls=Command, epilog=example(f"simulate {name}"), short_help=title)(made)


def _run(
    options: Options, name: str, *, store: str | None, alerts: Path | None, state: Path | None, as_json: bool
) -> None:
    from datetime import UTC, datetime

    from agent.config import read_policy
    from agent.rehearsal.scenarios import INVENTED, scenarios

    loaded = options.load()
    policy = read_policy(loaded.settings, datetime.now(UTC).date())
    known = [one.id for one in policy.stores]
    if store is not None and store not in known:
        from agent.policy.faults import nearest

        advice = nearest(store, known, "there are") if known else "the policy has no store; leave --store out"
        raise click.UsageError(f"--store {store}: no store is called so; {advice}")
    say = words(loaded.settings.language)
    scenario = scenarios()[name]
    sender = store or next(iter(known), INVENTED)
    told = _played(loaded, policy, scenario, sender, state, say)
    if alerts:
        _write(alerts, told)
    if as_json:
        echo_json(_document(scenario, sender, told, say), indent=2)
    else:
        _print(loaded, scenario, sender, told, say)


def _played(
    loaded: Loaded, policy: Policy, scenario: Scenario, sender: str, folder: Path | None, say: Phrases
) -> list[Notice]:
    import tempfile

    from agent.config import read_ownership
    from agent.core.clock import SystemClock
    from agent.rehearsal.scenarios import play
    from agent.store.state import State

    found: list[Notice] = []
    now_ns = time.time_ns()
    ends_ns = max(line.at + line.lasts for line in scenario.lines())
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sekisho-exercise-")))
        _claim(folder, loaded.settings.state_dir)
        stack.enter_context(Bar(say("exercise.playing")))
        state = stack.enter_context(State.open(folder / "state.db", clock=SystemClock()))
        play(
            scenario,
            policy,
            read_ownership(loaded.settings),
            state,
            store=sender,
            begins_ns=now_ns - ends_ns,
            run_id=uuid.uuid4().hex,
            heard=lambda decision: found.extend(decision.notices),
        )
    return found


def _claim(folder: Path, real: Path) -> None:
    """Mark a folder as an exercise's. Raises :class:`~agent.core.errors.StateError` for one that holds a real state."""
    from agent.core.errors import StateError

    marked = folder / MARKER
    holds_another = folder.is_dir() and any(folder.iterdir()) and not marked.exists()
    if folder.resolve() == real.resolve() or holds_another:
        raise StateError(f"{folder}: is not empty and no exercise's; name another folder with --state")
    folder.mkdir(parents=True, exist_ok=True)
    marked.write_text("exercise: true\n")


def _write(file: Path, told: Sequence[Notice]) -> None:
    from agent.cli.writing import written
    from agent.words.escape import json_text

    with written(file) as out:
        for notice in told:
            out.write(json_text(_message(notice)) + "\n")


def _message(notice: Notice) -> dict[str, Any]:
    return {"exercise": True, "record": "notice", "id": notice.id, **notice.model_dump(mode="json")}


def _document(scenario: Scenario, sender: str, told: Sequence[Notice], say: Phrases) -> dict[str, Any]:
    return {
        "exercise": True,
        "scenario": scenario.id,
        "title": scenario.title.in_language(say.language),
        "story": scenario.story.in_language(say.language),
        "ask": scenario.ask.in_language(say.language),
        "store": sender,
        "messages": [_message(notice) for notice in told],
    }


def _print(loaded: Loaded, scenario: Scenario, sender: str, told: Sequence[Notice], say: Phrases) -> None:
    from agent.cli.common import paper
    from agent.words import render

    settings = loaded.settings
    tell(say("exercise.head", title=scenario.title.in_language(say.language)))
    tell(scenario.story.in_language(say.language))
    tell(say("exercise.store", store=sender))
    for notice in told:
        echo()
        echo(render(notice, language=say.language, zone=settings.zone, detail="full", width=paper()))
    echo()
    tell(say("exercise.told", n=len(told)) if told else say("exercise.nobody"))
    tell(say("exercise.ask", ask=scenario.ask.in_language(say.language)))
    tell(say("exercise.end"))
