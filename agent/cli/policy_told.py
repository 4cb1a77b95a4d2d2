"""What the commands of ``sekisho policy`` say: a rule in plain words, the outcome of tests, what differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from datetime import datetime, tzinfo

    from agent.detection.trials import Trial
    from agent.policy.differences import Difference
    from agent.policy.model import DestinationSet, Pack, Policy, Rule, Store
    from agent.policy.ownership import Ownership
    from agent.words import Phrases

INPUTS: Final = ("subjects", "record_octets", "records_per_subject", "compression")
"""What the owner of a store states, so that octets can be told as an estimate of persons."""
_TOLD: Final = frozenset(
    {
        "id",
        "version",
        "title",
        "enabled",
        "stores",
        "categories",
        "destinations",
        "except_destinations",
        "initiator",
        "steps",
    }
    | {"over", "window", "any_of", "quiet", "severity", "tests", "subjects", "group_by", "zone", "measure"}
)
_LONGEST: Final = 120


def rule_lines(
    pack: Pack, rule: Rule, policy: Policy, ownership: Ownership, say: Phrases, today: date
) -> Iterator[str]:
    """What a rule watches, when it finds, how severe; whether its pack is awake; what the regime counts; what is missing."""
    from agent.policy.packfiles import standing
    from agent.words import regimes, span

    yield say("explain.rule_head", pack=pack.pack, rule=rule.id, version=rule.version, title=rule.title)
    if not rule.enabled:
        yield say("explain.disabled")
    yield regimes.standing(standing(pack, policy.attestations, today), pack, say)
    yield from _watched(rule, policy, say)
    over = _counted(rule, rule.over)
    yield say(f"explain.finds_{rule.measure}", over=over, window=say.named("window", rule.window))
    if rule.initiator != "any":
        yield say(f"explain.opened_{rule.initiator}")
    yield from _to(rule, policy, say)
    if (known := of_owners(rule, policy, ownership, today)) is not None:
        yield say(
            "explain.on_record", n=f"{known['networks']:,}", review=known["review"], table=known["version"]
        )
    if facts := _further(rule, say):
        yield say("explain.any_of", facts=say.join(facts))
    if rule.subjects is not None:
        yield say("explain.subjects", n=f"{rule.subjects.over:,}")
    if rule.group_by != "destination":
        yield say(f"explain.by_{rule.group_by}")
    if rule.zone is not None:
        yield say("explain.zone", zone=rule.zone)
    for name, value in rule.model_dump(mode="json", exclude_defaults=True).items():
        if name not in _TOLD:
            yield say("explain.also", name=name, value=_short(value, say))
    yield say("explain.severity", severity=say(f"severity.{rule.severity.name.lower()}").lower())
    for step in rule.steps:
        named = say(f"severity.{step.severity.name.lower()}").lower()
        yield say("explain.step", over=_counted(rule, step.over), severity=named)
    if rule.quiet is not None:
        yield say("explain.quiet", span=span(rule.quiet, say))
    yield from _numbers(pack, rule, say)
    yield from missing_lines(pack, _stores_of(rule, policy), say)
    yield say("explain.tests", n=len(rule.tests)) if rule.tests else say("explain.no_tests")


def _counted(rule: Rule, amount: int) -> str:
    """An amount of what a rule counts."""
    from agent.cli.common import size

    return f"{amount:,}" if rule.measure == "flows" else size(amount)


def missing_lines(pack: Pack, stores: Sequence[Store], say: Phrases) -> Iterator[str]:
    """What stores that the pack counts do not state, so that no estimate of persons can be made of their traffic."""
    counted = {t.category for t in pack.thresholds if t.over is not None or t.at_least is not None}
    asked = [s for s in stores if counted & set(s.categories)]
    for store in asked:
        if lacking := missing(store):
            yield say(
                "explain.missing", store=store.id, inputs=say.join([say(f"input.{i}") for i in lacking])
            )
    if asked and not any(map(missing, asked)):
        yield say("explain.nothing_missing")


def missing(store: Store) -> list[str]:
    """Inputs of an estimate that a store does not state."""
    return [name for name in INPUTS if name not in type(store).model_fields or getattr(store, name) is None]


def _stores_of(rule: Rule, policy: Policy) -> list[Store]:
    return [s for s in policy.stores if not s.copy_of and policy.reads(rule, s.id)]


def _watched(rule: Rule, policy: Policy, say: Phrases) -> Iterator[str]:
    if rule.stores:
        yield say("explain.watches_stores", stores=say.join(rule.stores))
    if rule.categories:
        named = say.join([say(f"category.{c}") for c in rule.categories])
        yield say("explain.watches_categories", categories=named)
    if not rule.stores and not rule.categories:
        yield say("explain.watches_all")
    yours = say.join([s.id for s in _stores_of(rule, policy)])
    yield say("pack.yours", stores=yours) if yours else say("pack.none_yours")


def _to(rule: Rule, policy: Policy, say: Phrases) -> Iterator[str]:
    from agent.words import regimes

    sets = _sets(policy)

    def told(names: Sequence[str]) -> str:
        return say.join([f"{n} ({regimes.destinations(sets[n], say)})" if n in sets else n for n in names])

    yield say("explain.to", sets=told(rule.destinations)) if rule.destinations else say("explain.to_all")
    if rule.except_destinations:
        yield say("explain.except", sets=told(rule.except_destinations))


def of_owners(rule: Rule, policy: Policy, ownership: Ownership, today: date) -> dict[str, Any] | None:
    """How many networks on record are in the sets of a rule, by the table of owners in force; None for a rule of all ends."""
    from agent.policy.match import on_record

    if not rule.destinations:
        return None
    sets = _sets(policy)
    networks, review = on_record([sets[n] for n in rule.destinations if n in sets], ownership, today)
    return {"version": ownership.version, "networks": networks, "review": review}


def _sets(policy: Policy) -> dict[str, DestinationSet]:
    return {d.id: d for p in policy.packs for d in p.destinations} | {d.id: d for d in policy.destinations}


def _further(rule: Rule, say: Phrases) -> list[str]:
    from agent.words.units import share

    facts = [say("explain.first_seen")] if rule.any_of.first_seen else []
    if rule.any_of.share_of_store is not None:
        facts.append(say("explain.share", share=share(rule.any_of.share_of_store)))
    if rule.any_of.first_seen_process:
        facts.append(say("explain.first_seen_process"))
    if rule.any_of.destinations is not None:
        facts.append(say("explain.destinations", n=f"{rule.any_of.destinations:,}"))
    told = {"first_seen", "share_of_store", "first_seen_process", "destinations"}
    others = rule.any_of.model_dump(mode="json", exclude_defaults=True, exclude=told)
    return [*facts, *(f"{name} = {_short(value, say)}" for name, value in others.items())]


def _numbers(pack: Pack, rule: Rule, say: Phrases) -> Iterator[str]:
    from agent.words import regimes

    of_rule = [t for t in pack.thresholds if not rule.categories or t.category in rule.categories]
    if of_rule:
        yield say("explain.law", pack=pack.pack)
        yield from (f"  {regimes.threshold(t, say)}" for t in of_rule)


def pack_lines(pack: Pack, policy: Policy, say: Phrases, today: date) -> Iterator[str]:
    """All that a pack says, whether it is awake, and what of the stores is missing."""
    from agent.policy.packfiles import standing
    from agent.words import regimes

    title = pack.title.in_language(say.language)
    yield say("pack.head", pack=pack.pack, version=pack.version, title=title)
    yield regimes.standing(standing(pack, policy.attestations, today), pack, say)
    yield from regimes.head(pack, say)
    stores = [s for s in policy.stores if not pack.categories or set(s.categories) & set(pack.categories)]
    yield say("pack.yours", stores=say.join([s.id for s in stores])) if stores else say("pack.none_yours")
    for name, lines in regimes.sections(pack, say):
        yield ""
        yield name
        yield from (f"  {line}" for line in lines)
    yield ""
    yield say("pack.rules")
    yield from (f"  {pack.pack}/{rule.id}: {rule.title}" for rule in pack.rules)
    if not pack.rules:
        yield f"  {say('pack.no_rule')}"
    yield from missing_lines(pack, stores, say)


def due_lines(pack: Pack, start: datetime, zone: tzinfo, say: Phrases) -> Iterator[str]:
    """When each clock of a pack ends, if it starts then."""
    from agent.words import regimes

    yield ""
    yield say("due.head", start=_told_moment(start.astimezone(zone)))
    for report in pack.reports:
        for clock in report.deadlines:
            ends = clock.ends(start, zone)
            told = say("due.none") if ends is None else say("due.by", at=_told_moment(ends))
            yield f"  {report.id}: {told}; {regimes.deadline(clock, say)}"
    yield f"  {say('due.arithmetic')}"


def due_of(pack: Pack, start: datetime, zone: tzinfo) -> list[dict[str, Any]]:
    """The same as plain values."""
    return [
        {
            "report": report.id,
            "starts": clock.starts,
            "within": clock.within,
            "only_if": clock.only_if,
            "unless": clock.unless,
            "days": clock.days,
            "ends": ends.isoformat() if (ends := clock.ends(start, zone)) else None,
            "zone": str(zone),
            "mark": clock.mark,
        }
        for report in pack.reports
        for clock in report.deadlines
    ]


def _told_moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} {at.tzname()}"


# tests


def trial_lines(trial: Trial, say: Phrases) -> Iterator[str]:
    """The outcome of one test; of one that failed, what was found instead, or why nothing was."""
    verdict = say("test.pass") if trial.passed else say("test.fail")
    yield say("test.line", verdict=verdict, pack=trial.pack, rule=trial.rule.id, name=trial.case.name)
    if trial.passed:
        return
    yield "  " + say(
        "test.expected", expected=_outcome(trial.case.expect, say), found=_outcome(_found(trial), say)
    )
    yield from (f"  {line}" for line in reasons(trial, say))


def reasons(trial: Trial, say: Phrases) -> Iterator[str]:
    """What was found, finding by finding; or why nothing was."""
    from agent.cli.common import size

    window = say.named("window", trial.rule.window)
    for finding in trial.findings:
        why = [*finding.reasons, *finding.severity_reasons]
        yield say(
            "test.found_line",
            severity=say(f"severity.{finding.severity.name.lower()}").lower(),
            octets=size(finding.content_octets_out),
            entity=finding.entity,
            window=window,
            reasons=say.join(why) or say("test.no_reason"),
        )
    if trial.refusal:
        amounts = (trial.largest_octets, trial.rule.over)
        largest, over = (f"{a:,}" if trial.rule.measure == "flows" else size(a) for a in amounts)
        yield say(f"test.{trial.refusal}", window=window, largest=largest, over=over)


def _found(trial: Trial) -> str:
    return "none" if trial.severity is None else trial.severity.name.lower()


def _outcome(word: str, say: Phrases) -> str:
    named = {"none": "test.nothing", "finding": "test.a_finding"}
    return say(named[word]) if word in named else say(f"severity.{word}").lower()


def trial_document(trial: Trial) -> dict[str, Any]:
    """The outcome of one test for programs."""
    why = [reason for f in trial.findings for reason in (*f.reasons, *f.severity_reasons)]
    return {
        "pack": trial.pack,
        "rule": trial.rule.id,
        "name": trial.case.name,
        "passed": trial.passed,
        "expected": trial.case.expect,
        "found": _found(trial),
        "why": [trial.refusal] if trial.refusal else list(dict.fromkeys(why)),
        "largest_octets": trial.largest_octets,
    }


# differences


def difference_lines(difference: Difference, say: Phrases) -> Iterator[str]:
    """One entry that differs, and its fields."""
    kind = say.named("diff.kinds", difference.kind)
    yield say(f"diff.{difference.what}", kind=kind, id=difference.id).rstrip()
    for name, old, new in difference.fields:
        yield say("diff.field", name=name, old=_short(old, say), new=_short(new, say))


def _short(value: Any, say: Phrases) -> str:
    if value in (None, "", [], {}):
        return say("diff.nothing")
    if isinstance(value, list) and all(isinstance(v, str | int) for v in value):
        text = say.join([str(v) for v in value])
    elif isinstance(value, str | int | float):
        text = str(value).lower() if isinstance(value, bool) else str(value)
    else:
        from agent.words import json_text

        text = json_text(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
