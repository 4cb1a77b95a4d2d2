"""``sekisho policy``: check policy files, try their tests, tell in plain words what is in force, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.backtest import command as backtest
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
    table,
    tell,
    words,
)

if TYPE_CHECKING:
    from datetime import date, datetime, tzinfo

    from agent.policy.model import Pack, Policy, Rule
    from agent.policy.ownership import Ownership
    from agent.words import Phrases


@click.group(cls=Group, epilog=example("policy"))
def command() -> None:
    """Check, test, explain and compare policy files, also over the past; print their JSON Schema."""


command.add_command(backtest, "backtest")


@command.command(epilog=example("policy check"))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, readable=False))
@click.option(
    "--overrides",
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    help="File of what is known better about some networks.",
)
@json_option("One JSON document: what would be in force.")
@click.pass_obj
def check(options: Options, files: tuple[Path, ...], overrides: tuple[Path, ...], as_json: bool) -> None:
    """Read policy files, name every fault with its line, and say what would be in force.

    Without FILES: those of the settings. Exit code 1 if there is a fault.
    """
    from datetime import UTC, datetime

    from agent.policy import load as policy_files

    if not files:
        from agent.config import read_ownership

        settings = options.load().settings
        files, overrides = settings.policy, overrides or settings.overrides
        read_ownership(settings)
    policy = policy_files.load(files, overrides=overrides, today=datetime.now(UTC).date())
    if as_json:
        echo_json(_document(policy), indent=2)
    else:
        _print(policy, words(language_of(options)))


def _print(policy: Policy, say: Phrases) -> None:
    from datetime import UTC, datetime

    from agent.cli.screen import Column

    out = console()
    stores = table([Column("store"), Column("categories"), Column("recognised_by")], say)
    for store in policy.stores:
        given = store.recognise.model_dump(mode="json", exclude_defaults=True)
        how = say("who.also").join(
            f"{say.named('recognition', name)} {say.join([str(value) for value in values])}"
            for name, values in given.items()
        )
        stores.add_row(store.id, say.join([say(f"category.{c}") for c in store.categories]), how)
    rules = table(
        [
            Column("rule"),
            Column("pack", rank=2),
            Column("over", right=True),
            Column("window"),
            Column("to"),
            Column("severity", rank=1),
        ],
        say,
    )
    for pack, rule in policy.rules:
        rules.add_row(
            f"{rule.id} v{rule.version}",
            pack,
            size(rule.over),
            say.named("window", rule.window),
            say.join(rule.destinations) or say("policy.everywhere"),
            say(f"severity.{rule.severity.name.lower()}").lower(),
        )
    out.print(stores if policy.stores else say("policy.no_store"))
    out.print()
    out.print(rules)
    asleep = [pack.pack for pack in policy.packs if pack.pack not in policy.awake]
    names = {"awake": say.join(policy.awake), "asleep": say.join(asleep) or say("policy.none_asleep")}
    out.print()
    tell(say("policy.in_force", version=policy.version, **names))
    kinds = ("forwarders", "sites", "entities", "approvals", "expected_hosts")
    counted = [say(f"policy.{kind}", n=len(getattr(policy, kind))) for kind in kinds if getattr(policy, kind)]
    if counted:
        tell(say("policy.registers", kinds=say.join(counted)))
    tell(say("policy.commit", commit=policy.commit) if policy.commit else say("policy.no_commit"))
    ended = [a.id for a in policy.approvals if a.valid_to < datetime.now(UTC).date()]
    if ended:
        tell(say("policy.approvals_ended", n=len(ended), ids=say.join(ended)))


def _document(policy: Policy) -> dict[str, Any]:
    return {
        "policy": policy.version,
        "commit": policy.commit,
        "stores": [store.model_dump(mode="json") for store in policy.stores],
        **{
            kind: [entry.model_dump(mode="json") for entry in getattr(policy, kind)]
            for kind in ("forwarders", "sites", "entities", "approvals", "expected_hosts")
        },
        "rules": [{"pack": pack, **rule.model_dump(mode="json")} for pack, rule in policy.rules],
        "awake": list(policy.awake),
        "asleep": [pack.pack for pack in policy.packs if pack.pack not in policy.awake],
    }


_FILES = click.argument("files", nargs=-1, type=click.Path(path_type=Path, readable=False))


@command.command(name="test", epilog=example("policy test"))
@_FILES
@click.option("--rule", "only", multiple=True, help="Only this rule, by its id; may be given again.")
@click.option("--strict", is_flag=True, help="A rule that is awake and has no test fails too.")
@json_option("One JSON document: every test and what it gave.")
@click.pass_obj
def try_out(
    options: Options, files: tuple[Path, ...], only: tuple[str, ...], strict: bool, as_json: bool
) -> None:
    """Run the tests that stand beside rules through the detector, each rule alone and its pack awake.

    Without FILES: those of the settings; owners are those of your own files, too (`ownership`). Rules of all packs are tried, asleep or awake; a shipped rule that your
    policy changes has only the tests that you give it. Exit code 1 if a test fails.
    """
    from agent.cli.policy_told import trial_document, trial_lines
    from agent.config import read_ownership
    from agent.detection.trials import trials

    policy, _ = _read(options, files)
    rules = _all_rules(policy)
    _refuse_unknown(options, only, [rule.id for _, rule in rules], "no rule is called {name}")
    rules = [(pack, rule) for pack, rule in rules if not only or rule.id in only]
    done = list(trials(rules, policy, read_ownership(options.load().settings)))
    untested = [f"{pack}/{rule.id}" for pack, rule in rules if not rule.tests]
    blamed = [name for name in untested if strict and name.partition("/")[0] in policy.awake]
    failed = [trial for trial in done if not trial.passed]
    if as_json:
        echo_json({"tests": [trial_document(t) for t in done], "untested": untested}, indent=2)
    else:
        say = _words(options)
        for trial in done:
            for line in trial_lines(trial, say):
                tell(line)
        if not done:
            tell(say("test.none"))
        for name in blamed:
            tell(say("test.untested", rules=name))
        tell(say("test.summary", n=len(done), passed=len(done) - len(failed), untested=len(untested)))
    if failed or blamed:
        raise SystemExit(1)


@command.command(epilog=example("policy explain"))
@click.argument("name", required=False)
@click.option(
    "--policy",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    help="Policy file or folder; default: those of the settings.",
)
@click.option(
    "--language", type=click.Choice(["en", "ja"]), help="In this language instead of that of the settings."
)
@click.option(
    "--from",
    "begins",
    metavar="WHEN",
    help="Of a PACK: also when each of its clocks would end, if it started then.",
)
@json_option("One JSON document: the packs, or the pack or rule.")
@click.pass_obj
def explain(
    options: Options,
    name: str | None,
    files: tuple[Path, ...],
    language: str | None,
    begins: str | None,
    as_json: bool,
) -> None:
    """Tell in plain words what a RULE or PACK watches, what it rests on, and why it is awake or asleep.

    A rule is told with its thresholds, the numbers of its regime with section and mark, and what the stores do not state
    yet. Without NAME: every pack, and why it is awake or asleep. With --from the clocks of a pack's reports are counted from
    that time, in the pack's time zone or in yours: arithmetic alone. Whether one runs is for a person to say.
    """
    from datetime import UTC, datetime

    from agent.cli.policy_told import due_lines, due_of, pack_lines, rule_lines
    from agent.config import read_ownership

    policy, _ = _read(options, files)
    say = _words(options, language)
    today = datetime.now(UTC).date()
    ownership = read_ownership(options.load().settings)
    packs = {pack.pack: pack for pack in policy.packs}
    rules = {rule.id: (packs[pack], rule) for pack, rule in _all_rules(policy)}
    if name is not None:
        _, _, rule_name = name.rpartition("/")
        _refuse_unknown(options, [rule_name], [*packs, *rules], "no rule and no pack is called {name}")
        name = rule_name
    if begins is not None and name not in packs:
        raise click.UsageError("--from goes with the name of a pack")
    start, zone = _clock(options, packs.get(name or ""), begins)
    if as_json:
        due = due_of(packs[name], start, zone) if name in packs and start else None
        echo_json({**_explained(policy, name, rules, ownership, today), "due": due}, indent=2)
    elif name is None:
        _list_packs(policy, say, today)
    else:
        lines = (
            pack_lines(packs[name], policy, say, today)
            if name in packs
            else rule_lines(*rules[name], policy, ownership, say, today)
        )
        for line in lines:
            tell(line)
        for line in due_lines(packs[name], start, zone, say) if name in packs and start else ():
            tell(line)


@command.command(epilog=example("policy diff"))
@click.argument("old")
@click.argument("new", required=False)
@click.option("--exit-code", is_flag=True, help="Exit code 3 if anything differs.")
@json_option("One JSON document: every difference.")
@click.pass_obj
def diff(options: Options, old: str, new: str | None, exit_code: bool, as_json: bool) -> None:
    """Tell what differs between two policies: stores, destinations, rules, packs and all else that they hold.

    OLD and NEW are files, folders, or git revisions of the work tree that holds the policy (HEAD~1, a tag). Without NEW:
    the files of the settings as they stand.
    """
    from agent.cli.policy_told import difference_lines
    from agent.policy.differences import differences, woken

    before, after = policy_at(options, old), policy_at(options, new)
    found = differences(before, after)
    wakes, sleeps = woken(before, after)
    if as_json:
        told = [
            {
                "kind": d.kind,
                "id": d.id,
                "what": d.what,
                "fields": [dict(zip(("name", "old", "new"), f, strict=True)) for f in d.fields],
            }
            for d in found
        ]
        versions = {"old": before.version, "new": after.version}
        echo_json(
            {**versions, "differences": told, "wakes": list(wakes), "falls_asleep": list(sleeps)}, indent=2
        )
    else:
        say = _words(options)
        for difference in found:
            for line in difference_lines(difference, say):
                echo(line)
        for key, names in (("awake", wakes), ("asleep", sleeps)):
            for pack in names:
                echo(say(f"diff.{key}", pack=pack))
        count = {what: sum(d.what == what for d in found) for what in ("added", "removed", "changed")}
        tell(say("diff.summary", **count) if found else say("diff.same"))
    if exit_code and found:
        raise SystemExit(3)


def _read(options: Options, files: Sequence[Path]) -> tuple[Policy, tuple[Path, ...]]:
    """The policy of these files, or of the settings, with its tests; and the paths."""
    from datetime import UTC, datetime

    from agent.policy import load as policy_files

    overrides: tuple[Path, ...] = ()
    if not files:
        settings = options.load().settings
        files, overrides = settings.policy, settings.overrides
    today = datetime.now(UTC).date()
    return policy_files.load(files, overrides=overrides, today=today, with_tests=True), tuple(files)


def policy_at(options: Options, place: str | None) -> Policy:
    """The policy of a file or folder; else of the settings' files at a git revision, or as they stand."""
    from datetime import UTC, datetime

    from agent.policy import load as policy_files
    from agent.policy.revisions import at_revision

    if place is None or Path(place).exists():
        return _read(options, [Path(place)] if place else [])[0]
    settings = options.load().settings
    today = datetime.now(UTC).date()
    named = [*settings.policy, *settings.overrides]
    with at_revision(place, named) as found:
        csv = [path for path in found if path.suffix == ".csv"]
        return policy_files.load(
            [path for path in found if path not in csv], overrides=csv, today=today, with_tests=True
        )


def _all_rules(policy: Policy) -> list[tuple[str, Rule]]:
    """(pack, rule) of every rule there is, asleep or awake."""
    of_packs = [(pack.pack, rule) for pack in policy.packs for rule in pack.rules]
    known = {rule.id for _, rule in of_packs}
    return [*of_packs, *((pack, rule) for pack, rule in policy.rules if rule.id not in known)]


def _words(options: Options, language: str | None = None) -> Phrases:
    from agent.words import regime_phrases

    return regime_phrases(language or language_of(options))


def _refuse_unknown(options: Options, asked: Sequence[str], known: Sequence[str], said: str) -> None:
    from agent.policy.faults import nearest

    for name in asked:
        if name not in known:
            hint = nearest(name, sorted(known), "there are")
            raise click.UsageError(f"{said.format(name=name)}; {hint}")


def _list_packs(policy: Policy, say: Phrases, today: date) -> None:
    from agent.policy.packfiles import standing
    from agent.words import regimes

    for pack in sorted(policy.packs, key=lambda p: (p.pack not in policy.awake, p.pack)):
        tell(f"{pack.pack}: {pack.title.in_language(say.language)}")
        tell(f"  {say('pack.state', state=say(f'state.{pack.state}'), kind=say(f'kind.{pack.kind}'))}")
        tell(f"  {regimes.standing(standing(pack, policy.attestations, today), pack, say)}")


def _clock(options: Options, pack: Pack | None, begins: str | None) -> tuple[datetime | None, tzinfo]:
    """The start of clocks that was asked for, and the zone in which their days are counted."""
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    from agent.cli.times import point_ns
    from agent.core.clock import SECOND_NS, SystemClock

    now_ns = SystemClock().now_ns()
    zone = ZoneInfo(pack.zone) if pack is not None and pack.zone else options.load().settings.zone
    if begins is None:
        return None, zone or UTC
    at_s = point_ns(begins, "--from", now_ns, zone) // SECOND_NS
    start = datetime.fromtimestamp(at_s, UTC)
    return start, zone or start.astimezone().tzinfo or UTC


def _explained(
    policy: Policy,
    name: str | None,
    rules: Mapping[str, tuple[Pack, Rule]],
    ownership: Ownership,
    today: date,
) -> dict[str, Any]:
    from agent.cli.policy_told import missing, of_owners
    from agent.policy.packfiles import standing

    def told(pack: Pack) -> dict[str, Any]:
        found = standing(pack, policy.attestations, today)
        whole = pack.model_dump(mode="json")
        stores = [s for s in policy.stores if not pack.categories or set(s.categories) & set(pack.categories)]
        lacking = {s.id: missing(s) for s in stores if pack.thresholds and missing(s)}
        return {"awake": found.awake, "why": found.why, "missing": lacking, "pack": whole}

    if name is None:
        return {"packs": [told(pack) for pack in policy.packs], "rule": None, "owners": None}
    if name in rules:
        pack, rule = rules[name]
        owners = of_owners(rule, policy, ownership, today)
        return {"packs": [told(pack)], "rule": rule.model_dump(mode="json"), "owners": owners}
    return {"packs": [told(pack) for pack in policy.packs if pack.pack == name], "rule": None, "owners": None}


@command.command(epilog=example("policy schema"))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write into this file instead."
)
@click.option("--pack", "of_pack", is_flag=True, help="That of a pack instead.")
@click.pass_obj
def schema(options: Options, output: Path | None, of_pack: bool) -> None:
    """Print the JSON Schema of a policy file, or of a pack, for editors."""
    from agent.policy import load as policy_files

    made = policy_files.pack_schema() if of_pack else policy_files.schema()
    if output is None:
        echo_json(made, indent=2)
        return
    from agent.cli.writing import written
    from agent.words import json_text

    with written(output) as file:
        file.write(json_text(made, indent=2) + "\n")
    echo(words(language_of(options))("init.wrote", file=output))
