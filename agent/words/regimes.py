"""A pack in plain words: what it is, what it rests on, its numbers, windows, clocks. For the screen and for docs/packs.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date

from agent.policy.citing import Cited, Fact, Source
from agent.policy.clocks import Deadline, Report
from agent.policy.destinations import DestinationSet
from agent.policy.packfiles import Standing
from agent.policy.regimes import CategoryThreshold, EventTest, Exemption, Pack, PackWindow
from agent.words.phrases import Phrases

Section = tuple[str, tuple[str, ...]]
"""Head and lines."""


def basis(value: Cited | Source, say: Phrases) -> str:
    """``[28 CFR 202.205; mark V, rule text read]``, always with the mark in words."""
    mark = say(f"verified.{value.mark}")
    if value.read:
        return say("basis_read", cite=value.cite, mark=mark, read=value.read)
    return say("basis", cite=value.cite, mark=mark)


def standing(found: Standing, pack: Pack, say: Phrases) -> str:
    """Why the pack is awake or asleep."""
    by = say.join(
        [say("attested_by", entity=a.entity, by=a.by, on=a.on) for a in found.by]
        if found.why == "attested"
        else [a.entity for a in found.by]
    )
    words = say.join(sorted({word for a in found.by for word in a.words}))
    day = pack.valid_from if found.why == "not_begun" else pack.valid_to
    return say(f"standing.{found.why}", entities=by, words=words, date=day)


def head(pack: Pack, say: Phrases) -> Iterator[str]:
    """What kind of thing the pack is and from when to when it is in force."""
    yield say("pack.state", state=say(f"state.{pack.state}"), kind=say(f"kind.{pack.kind}"))
    if pack.valid_from or pack.valid_to:
        begin: date | str = pack.valid_from or say("pack.begin_unknown")
        yield say("pack.from_to", begin=begin, end=pack.valid_to or say("pack.open"))
    if pack.advisory:
        yield say("pack.advisory")
    if pack.zone:
        yield say("pack.zone", zone=pack.zone)
    if pack.categories:
        named = say.join([say(f"category.{c}") for c in pack.categories])
        yield say("pack.categories", categories=named)
    else:
        yield say("pack.any_category")


def sections(pack: Pack, say: Phrases) -> Iterator[Section]:
    """Everything else that the pack holds, part by part; empty parts are left out."""
    language = say.language
    parts: Iterable[tuple[str, Iterable[str]]] = (
        ("notes", (note.in_language(language) for note in pack.notes)),
        ("words", (_word(pack, i, say) for i in range(len(pack.words)))),
        (
            "dates",
            (
                f"{d.on} {d.says.in_language(language)} {basis(d, say)}"
                for d in sorted(pack.dates, key=lambda d: d.on)
            ),
        ),
        ("facts", (fact(f, say) for f in pack.facts)),
        ("thresholds", _thresholds(pack, say)),
        ("events", (_event(e, say) for e in pack.events)),
        ("windows", (_window(w, say) for w in pack.windows)),
        ("destinations", (f"{d.id}: {destinations(d, say)}" for d in pack.destinations)),
        ("exemptions", (_exemption(e, say) for e in pack.exemptions)),
        ("reports", (line for report in pack.reports for line in _report(report, say))),
        ("retention", (fact(f, say) for f in pack.retention)),
        ("sources", (basis(s, say) for s in pack.sources)),
    )
    for name, lines in parts:
        if found := tuple(lines):
            yield say(f"pack.{name}"), found


def fact(value: Fact, say: Phrases) -> str:
    """What a fact says, and what it rests on."""
    parts = [value.says.in_language(say.language), basis(value, say)]
    return " ".join([*parts, f"({say('disputed')})"] if value.disputed else parts)


def threshold(value: CategoryThreshold, say: Phrases) -> str:
    """``personal health data: more than 10,000 US persons [...]``."""
    unit = say(f"unit.{value.unit}", n=value.over or value.at_least or 2)
    if value.over == 0 or value.at_least == 1:
        number = say("threshold.any", unit=say(f"unit.{value.unit}", n=2))
    elif value.at_least is not None:
        number = say("threshold.at_least", n=f"{value.at_least:,}", unit=unit)
    elif value.over is None:
        number = say("threshold.none")
    else:
        number = say("threshold.over", n=f"{value.over:,}", unit=unit)
    parts = [say("threshold.line", category=say(f"category.{value.category}"), number=number)]
    if value.only_if:
        parts.append(say("threshold.only_if", word=value.only_if))
    if value.role == "marks_store":
        parts.append(say("threshold.marks_store"))
    return " ".join([*parts, basis(value, say)])


def destinations(value: DestinationSet, say: Phrases) -> str:
    """What makes a remote end belong to a set."""
    found = [
        say(f"set.{name}", values=say.join([str(v) for v in getattr(value, name)]))
        for name in (
            "owner_countries",
            "organised_in",
            "countries",
            "owners",
            "providers",
            "asns",
            "networks",
        )
        if getattr(value, name)
    ]
    if value.review_counts:
        found.append(say("set.review_counts"))
    return "; ".join(found) or say("set.empty")


def deadline(value: Deadline, say: Phrases) -> str:
    """``72 hours, from awareness, as a named person states it [...]``."""
    starts = say(f"starts.{value.starts}", of=value.of)
    if value.within[2:3] == "-":
        said = say("report.deadline_yearly", day=value.within, starts=starts)
    else:
        said = say("report.deadline", within=within(value.within, say), starts=starts)
    more = [say(f"report.{key}", word=word) for key in ("only_if", "unless") if (word := getattr(value, key))]
    if value.note is not None:
        more.append(value.note.in_language(say.language))
    if (amount := value.amount) is not None and amount[1] != "hour":
        more.append(say(f"report.days_{value.days}"))
    return " ".join([said, *(f"({part})" for part in more), basis(value, say)])


def within(text: str, say: Phrases) -> str:
    """The time of a clock in words."""
    number, _, unit = text.partition(" ")
    if not unit:
        return say.named("report", text)
    return say(f"report.{unit.removesuffix('s')}s", n=int(number))


def _word(pack: Pack, index: int, say: Phrases) -> str:
    word = pack.words[index]
    key = "pack.word_sleeps" if word.sleeps else "pack.word"
    return say(key, word=word.id, about=say(f"pack.{word.about}"), says=word.says.in_language(say.language))


def _thresholds(pack: Pack, say: Phrases) -> Iterator[str]:
    yield from (threshold(t, say) for t in pack.thresholds)
    if pack.combined is not None:
        yield fact(pack.combined, say)


def _event(value: EventTest, say: Phrases) -> str:
    unit = say(f"unit.{value.unit}", n=value.value) if value.unit else ""
    number = "" if value.value is None else f": {value.value:,} {unit}"
    return f"{value.says.in_language(say.language)}{number} {basis(value, say)}"


def _window(value: PackWindow, say: Phrases) -> str:
    length = ""
    if value.length:
        length = say(f"length.{value.length[-1]}", n=int(value.length[1:-1]))
    parts = [say(f"counted.{value.kind}", length=length)]
    if value.per:
        parts.append(say("counted.per", what=say.join([say(f"counted.what.{name}") for name in value.per])))
    if value.says is not None:
        parts.append(value.says.in_language(say.language))
    return f"{'; '.join(parts)} {basis(value, say)}"


def _exemption(value: Exemption, say: Phrases) -> str:
    parts = [
        say(
            "exemption.line",
            says=value.says.in_language(say.language),
            needs=say.join([say(f"need.{need}") for need in value.needs]),
        )
    ]
    if value.keeps:
        parts.append(say("exemption.keeps", duties=say.join(value.keeps)))
    if value.not_for:
        parts.append(say("exemption.not_for", what=say.join(value.not_for)))
    return f"{'; '.join(parts)} {basis(value, say)}"


def _report(report: Report, say: Phrases) -> Iterator[str]:
    language = say.language
    yield say(
        "report.line",
        id=report.id,
        title=report.title.in_language(language),
        to=report.to.in_language(language),
    )
    for clock in report.deadlines:
        yield f"  {deadline(clock, say)}"
    if report.warns is not None:
        note = report.warns.note.in_language(language)
        yield f"  {say('report.warns', within=within(report.warns.within, say), note=note)}"
    if report.fields:
        yield f"  {say('report.fields', fields=_fields(report, say))}"


def _fields(report: Report, say: Phrases) -> str:
    named: Sequence[str] = [
        f"{field.name.in_language(say.language)} ({say(f'fill.{field.fill}')})" for field in report.fields
    ]
    return say.join(list(named))
