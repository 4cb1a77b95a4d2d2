"""``sekisho policy backtest``: what another policy would have found in the past."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.bars import Bar
from agent.cli.common import (
    Command,
    Options,
    console,
    echo_json,
    example,
    json_option,
    moment,
    point_ns,
    size,
    span_ns,
    table,
    tell,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config import Loaded
    from agent.core.finding import Finding
    from agent.policy.model import Policy
    from agent.rehearsal.archived import Held
    from agent.rehearsal.backtest import Compared, Short, Side
    from agent.words import Phrases

SHOWN: Final = 20
"""Lines of a kind that are shown; --json has all."""


@click.command(cls=Command, epilog=example("policy backtest"))
@click.option(
    "--from",
    "old",
    metavar="REV|FILE",
    help="The policy to compare with: a file, folder or git revision. Default: the files of the settings.",
)
@click.option("--to", "new", required=True, metavar="FILE|REV", help="The policy to try: the same.")
@click.option(
    "--since", default="30d", metavar="WHEN", help="Findings since: 30d, yesterday, 2026-11-18T16:00."
)
@click.option("--until", metavar="WHEN", help="And before. Default: now.")
@click.option(
    "--warm-up",
    default="30d",
    metavar="SPAN",
    help="Read so much from before, so that windows and first sight have a past. What it finds is not counted.",
)
@click.option(
    "--look-up",
    type=click.Choice(["stored", "today"]),
    default="stored",
    help="Stores, places and networks: as each row had them when it was counted, or asked anew of the policy and of "
    "the databases of today.",
)
@click.option(
    "--archive",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the archive. Default: state_dir/archive.",
)
@click.option("--exit-code", is_flag=True, help="Exit code 3 if a finding appears or vanishes.")
@json_option("One JSON document: what appears and vanishes, days, and what was not observed.")
@click.pass_obj
def command(
    options: Options, /, old: str | None, new: str, exit_code: bool, as_json: bool, **given: Any
) -> None:
    """Run the detector over the archive with two policies, and tell which findings appear and which vanish.

    Nothing is written and nobody is told. Who owns a network is what the table of owners says today, for both. A rule
    over a year has the archive alone, not the ledger. What the archive does not hold was not observed: no finding there
    means nothing.
    """
    from agent.cli.policy import policy_at

    loaded = options.load()
    policies = [policy_at(options, old), policy_at(options, new)]
    asked = _asked(loaded, given)
    say = words(loaded.settings.language)
    done = _run(loaded, policies, asked, say)
    if as_json:
        echo_json(_document(done), indent=2)
    else:
        _print(done, say, loaded)
    if exit_code and (done.compared.appear or done.compared.vanish):
        raise SystemExit(3)


@dataclass(frozen=True)
class _Asked:
    """Which past, and how it is read."""

    archive: Path
    since_ns: int
    until_ns: int
    from_ns: int
    look_up: str


@dataclass(frozen=True)
class _Done:
    """A backtest's outcome."""

    asked: _Asked
    old: Side
    new: Side
    held: Held
    compared: Compared
    short: Sequence[Short]

    @property
    def stores_differ(self) -> bool:
        """Rows keep the store that they were given, though the policies may say another."""
        stored = self.asked.look_up == "stored"
        return stored and _recognised(self.old.policy) != _recognised(self.new.policy)


def _asked(loaded: Loaded, given: dict[str, Any]) -> _Asked:
    from agent.core.clock import SystemClock

    settings, now_ns = loaded.settings, SystemClock().now_ns()
    since_ns = point_ns(given["since"], "--since", now_ns, settings.zone)
    until_ns = point_ns(given["until"], "--until", now_ns, settings.zone) if given["until"] else now_ns
    if until_ns <= since_ns:
        raise click.UsageError("--until is not after --since")
    from_ns = max(0, since_ns - span_ns(given["warm_up"], "--warm-up"))
    archive = given["archive"] or settings.state_dir / "archive"
    return _Asked(archive, since_ns, until_ns, from_ns, given["look_up"])


def _run(loaded: Loaded, policies: Sequence[Policy], asked: _Asked, say: Phrases) -> _Done:
    from agent.config import read_ownership
    from agent.rehearsal.archived import Held
    from agent.rehearsal.backtest import Side, compare, run, short

    ownership = read_ownership(loaded.settings)
    old, new = (
        Side(
            policy,
            ownership,
            _stages(loaded, policy) if asked.look_up == "today" else (),
            loaded.settings.host,
            asked.since_ns,
            loaded.settings.lateness,
        )
        for policy in policies
    )
    held = Held(asked.since_ns, asked.until_ns)
    with Bar(say("backtest.reading"), octets=True) as bar:
        run(asked.archive, (old, new), asked.from_ns, asked.until_ns, held, bar.step)
    return _Done(asked, old, new, held, compare(old, new), short(new, held.first_ns, asked.since_ns))


def _stages(loaded: Loaded, policy: Policy) -> list[Any]:
    """The enrichers of the settings under a policy."""
    from agent.config import bare_context, read_ownership

    context = replace(bare_context(loaded.settings), policy=policy, ownership=read_ownership(loaded.settings))
    return [settings.build(context) for settings in loaded.stages.enrichers.values()]


def _recognised(policy: Policy) -> list[Any]:
    """What decides whose store a row is."""
    return [(store.id, store.copy_of, store.recognise) for store in policy.stores]


def _document(done: _Done) -> dict[str, Any]:
    def side(one: Side) -> dict[str, Any]:
        return {
            "policy": one.policy.version,
            "findings": len(one.findings),
            "cases": dict(sorted(one.cases_by_severity().items())),
            "days": [
                {"day": _day(day), "cases": one.cases_by_day().get(day, 0), "messages": one.told[day]}
                for day in sorted({*one.cases_by_day(), *one.told})
            ],
        }

    asked, held = done.asked, done.held
    return {
        "since_ns": asked.since_ns,
        "until_ns": asked.until_ns,
        "look_up": asked.look_up,
        "rows": held.rows,
        "rows_of_stores": held.rows_of_stores,
        "not_observed": [{"from_ns": begin, "until_ns": end} for begin, end in held.missing()],
        "windows_cut": [
            {"rule": one.rule, "window": one.window, "whole_from_ns": one.whole_from_ns} for one in done.short
        ],
        "stores_differ": done.stores_differ,
        "old": side(done.old),
        "new": side(done.new),
        "appear": [one.model_dump(mode="json") for one in done.compared.appear],
        "vanish": [one.model_dump(mode="json") for one in done.compared.vanish],
        "changed": [
            {"old": old.model_dump(mode="json"), "new": new.model_dump(mode="json")}
            for old, new in done.compared.changed
        ],
    }


def _print(done: _Done, say: Phrases, loaded: Loaded) -> None:
    asked, held, zone = done.asked, done.held, loaded.settings.zone
    begin, end = moment(asked.since_ns, zone), moment(asked.until_ns, zone)
    tell(say("backtest.policies", old=done.old.policy.version, new=done.new.policy.version))
    tell(say("backtest.read", begin=begin, end=end, rows=f"{held.rows:,}", stores=f"{held.rows_of_stores:,}"))
    tell(say(f"backtest.look_up_{asked.look_up}"))
    if done.stores_differ:
        tell(say("backtest.stores_differ"))
    _print_missing(done, say, loaded)
    for kind, found in (("appears", done.compared.appear), ("vanishes", done.compared.vanish)):
        for one in found[:SHOWN]:
            tell(say(f"backtest.{kind}", **_told(one, say, loaded)))
        if len(found) > SHOWN:
            tell(say("backtest.more", n=len(found) - SHOWN))
    for before, after in done.compared.changed[:SHOWN]:
        facts = _told(after, say, loaded)
        tell(say("backtest.changes", **facts, before=say(f"severity.{before.severity.name.lower()}").lower()))
    _print_days(done, say)
    tell(
        say(
            "backtest.summary",
            appear=len(done.compared.appear),
            vanish=len(done.compared.vanish),
            both=len({new.id for _, new in done.compared.both}),
        )
    )
    if held.missing():
        tell(say("backtest.no_word"))


def _print_missing(done: _Done, say: Phrases, loaded: Loaded) -> None:
    zone, missing = loaded.settings.zone, done.held.missing()
    for begin, end in missing[:SHOWN]:
        tell(say("backtest.missing", begin=moment(begin, zone), end=moment(end, zone)))
    if len(missing) > SHOWN:
        tell(say("backtest.more", n=len(missing) - SHOWN))
    if not missing:
        tell(say("backtest.every_hour"))
    for one in done.short:
        window = say.named("window", one.window)
        tell(say("backtest.cut", rule=one.rule, window=window, moment=moment(one.whole_from_ns, zone)))


def _print_days(done: _Done, say: Phrases) -> None:
    from agent.cli.screen import Column

    sides = (done.old, done.new)
    days = sorted({day for one in sides for day in (*one.cases_by_day(), *one.told)})
    if not days:
        return
    names = ("cases_old", "cases_new", "messages_old", "messages_new")
    shown = table([Column("day"), *(Column(name, right=True) for name in names)], say)
    cases = [one.cases_by_day() for one in sides]
    for day in days:
        shown.add_row(
            _day(day), *(f"{c.get(day, 0):,}" for c in cases), *(f"{one.told[day]:,}" for one in sides)
        )
    console().print(shown)


def _told(one: Finding, say: Phrases, loaded: Loaded) -> dict[str, str]:
    amount = f"{one.content_octets_out:,}" if one.measure == "flows" else size(one.content_octets_out)
    return {
        "severity": say(f"severity.{one.severity.name.lower()}").lower(),
        "rule": f"{one.pack}/{one.rule}",
        "store": one.store,
        "entity": one.entity,
        "amount": amount,
        "moment": moment(one.crossed_ns, loaded.settings.zone),
    }


def _day(number: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=number)).isoformat()
