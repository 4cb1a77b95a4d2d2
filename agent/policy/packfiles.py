"""Packs: those that come with sekisho, those of the operator, what must hold in each and between them, and which are awake.

A policy file whose top holds ``pack:`` is a pack. It may stand in any folder that the settings name. It has an id of its
own, or says with ``replaces:`` the version of the shipped pack in whose place it stands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

from pydantic import BaseModel

from agent.core.errors import Fault, PolicyError
from agent.core.finding import Severity
from agent.policy.citing import UNVERIFIED, Cited, Source
from agent.policy.document import Document, KeyPath
from agent.policy.faults import nearest
from agent.policy.regimes import Attestation, Pack, PackState
from agent.policy.yamlfile import read, validate

OWN_PACK: Final = "operator"
"""The pack that is always awake, and to which a user's own rules belong."""
PackFile = tuple[Document, Pack]
_ENDINGS = (".yaml", ".yml")
_ADVISORY_MOST: Final = Severity.LOW
"""Severity of what a regime that is not in force may find: it pages nobody."""


@cache
def shipped_packs() -> tuple[PackFile, ...]:
    """The packs that come with sekisho, by file name. Raises :class:`PolicyError`: a defect of ours."""
    folder = resources.files("agent.policy") / "packs"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(_ENDINGS)), key=lambda f: f.name)
    documents = [
        read(f.read_text(encoding="utf-8"), name=f"packs/{f.name}", kind=PolicyError, ours=True)
        for f in files
    ]
    return tuple((d, validate(Pack, d, kind=PolicyError)) for d in documents)


def is_pack(document: Document) -> bool:
    """Whether a file of the policy holds a pack."""
    return isinstance(document.data, dict) and "pack" in document.data


def with_own(
    shipped: Sequence[PackFile], documents: Sequence[Document], today: date, faults: list[Fault]
) -> tuple[PackFile, ...]:
    """The shipped packs and the operator's, by id; those that stand in a shipped one's place instead of it."""
    packs = {pack.pack: (document, pack) for document, pack in shipped}
    of_us = dict(packs)
    for document in documents:
        try:
            pack = validate(Pack, document, kind=PolicyError)
        except PolicyError as error:
            faults.extend(error.faults)
            continue
        faults.extend(pack_faults(document, pack, today))
        before = packs.get(pack.pack)
        if before is not None:
            faults.extend(_place_taken(document, pack, before, is_shipped=before is of_us.get(pack.pack)))
        elif pack.replaces:
            message = f"there is no shipped pack `{pack.pack}` to replace"
            faults.append(document.fault(("replaces",), message, nearest(pack.pack, sorted(of_us))))
        packs[pack.pack] = (document, pack)
    made = tuple(packs.values())
    faults.extend(between(made))
    return made


def _place_taken(document: Document, pack: Pack, before: PackFile, *, is_shipped: bool) -> Iterator[Fault]:
    where = f"{before[0].name}:{before[0].line_of(('pack',))}"
    version = before[1].version
    if not is_shipped or not pack.replaces:
        advice = f"give it another id, or say `replaces: {version}`" if is_shipped else "rename or remove one"
        yield document.fault(("pack",), f"pack `{pack.pack}` is given twice, first at {where}", advice)
    elif pack.replaces != version:
        yield document.fault(
            ("replaces",),
            f"it stands in for version `{pack.replaces}`, and `{version}` is the one shipped ({where})",
            f"read what has changed there, then say `replaces: {version}`",
        )


def pack_faults(document: Document, pack: Pack, today: date) -> Iterator[Fault]:
    """Every fault of one pack that its shape alone does not show. ``today``: dates of reading may not lie ahead of it."""
    yield from _date_faults(document, pack, today)
    yield from _citing_faults(document, pack, today)
    yield from _rule_faults(document, pack)
    yield from _clock_faults(document, pack)
    for key in ("facts", "exemptions", "events", "words", "reports", "rules", "destinations"):
        seen: set[str] = set()
        for index, entry in enumerate(getattr(pack, key)):
            if entry.id in seen:
                yield document.fault((key, index, "id"), f"`{entry.id}` is given twice", "rename one")
            seen.add(entry.id)


def _date_faults(document: Document, pack: Pack, today: date) -> Iterator[Fault]:
    begun, ended = pack.valid_from, pack.valid_to
    if begun and ended and ended < begun:
        yield document.fault(("valid_to",), f"ends on {ended}, before it begins on {begun}", "correct one")
    if pack.state is PackState.IN_FORCE and begun and begun > today:
        yield document.fault(
            ("valid_from",),
            f"is `in_force` and begins on {begun}, which lies ahead",
            "say `enacted_not_in_force`",
        )
    if pack.state is PackState.IN_FORCE and ended and ended < today:
        yield document.fault(("valid_to",), f"is `in_force` and ended on {ended}", "say `state: historic`")
    if pack.state is PackState.HISTORIC and (ended is None or ended > today):
        yield document.fault(("state",), "is `historic` and has not ended", "give the day with `valid_to`")
    if pack.zone is None and any(w.kind == "calendar_year" for w in pack.windows):
        yield document.fault(
            ("windows",), "counts calendar years in no zone", "add `zone: Asia/Tokyo` or the like"
        )


def _citing_faults(document: Document, pack: Pack, today: date) -> Iterator[Fault]:
    for keys, value in _cited(pack, ()):
        if value.read and value.read > today:
            yield document.fault((*keys, "read"), f"the date {value.read} lies ahead", "say when it was read")
        if not isinstance(value, Cited):
            continue
        is_open = value.mark == UNVERIFIED
        if is_open and pack.state is PackState.IN_FORCE and not value.unverified:
            yield document.fault(
                (*keys, "mark"),
                f"`{value.cite}` has mark K (not verified) and would be told as law in force",
                "read the text and mark it V, or add `unverified: shown`",
            )
        if value.unverified and not is_open:
            yield document.fault(
                (*keys, "unverified"), f"is told as not verified, and its mark is {value.mark}", "remove one"
            )
    if not pack.needs_attestation and (pack.thresholds or pack.reports or pack.exemptions):
        yield document.fault(
            ("needs_attestation",),
            "is awake without an attestation, and holds duties",
            "say `needs_attestation: true`",
        )


def _cited(value: Any, keys: KeyPath) -> Iterator[tuple[KeyPath, Cited | Source]]:
    """Everything in a pack that rests on a text, with its place."""
    if isinstance(value, Cited | Source):
        yield keys, value
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _cited(item, (*keys, index))
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _cited(getattr(value, name), (*keys, name))


def _rule_faults(document: Document, pack: Pack) -> Iterator[Fault]:
    if pack.rules and pack.kind != "detect":
        yield document.fault(
            ("rules",),
            f"a pack of kind `{pack.kind}` never alerts, and holds rules",
            "say `kind: detect`, or remove them",
        )
    sets = {d.id for d in pack.destinations} | {d.id for d in _operators_sets()}
    for index, rule in enumerate(pack.rules):
        if pack.state is not PackState.IN_FORCE and rule.severity > _ADVISORY_MOST:
            yield document.fault(
                ("rules", index, "severity"),
                f"rule `{rule.id}` of a regime that is not in force finds at `{rule.severity.name.lower()}`",
                f"say `severity: {_ADVISORY_MOST.name.lower()}` or less",
            )
        for key in ("destinations", "except_destinations"):
            for place, name in enumerate(getattr(rule, key)):
                if name not in sets:
                    yield document.fault(
                        ("rules", index, key, place),
                        f"rule `{rule.id}` names destination set `{name}`, which is not in this pack",
                        nearest(name, sorted(sets)),
                    )


def _operators_sets() -> tuple[Any, ...]:
    return next((p.destinations for _, p in shipped_packs() if p.pack == OWN_PACK), ())


def _clock_faults(document: Document, pack: Pack) -> Iterator[Fault]:
    reports = {r.id for r in pack.reports}
    words = {w.id: w for w in pack.words}
    for index, threshold in enumerate(pack.thresholds):
        if threshold.only_if and threshold.only_if not in words:
            yield _no_word(document, ("thresholds", index, "only_if"), threshold.only_if, words)
    for index, report in enumerate(pack.reports):
        for place, deadline in enumerate(report.deadlines):
            keys: KeyPath = ("reports", index, "deadlines", place)
            for key in ("only_if", "unless"):
                if (word := getattr(deadline, key)) and word not in words:
                    yield _no_word(document, (*keys, key), word, words)
            if (deadline.starts == "submission") != bool(deadline.of) or (
                deadline.of and deadline.of not in reports
            ):
                yield document.fault(
                    (*keys, "of"),
                    "a clock that starts at the submission of a report names one of this pack",
                    nearest(deadline.of, sorted(reports)) if deadline.of else "add `of:` with its id",
                )


def _no_word(document: Document, keys: KeyPath, word: str, words: Collection[str]) -> Fault:
    return document.fault(
        keys, f"`{word}` is none of the pack's words", nearest(word, sorted(words)) or "add it under `words:`"
    )


def between(packs: Sequence[PackFile]) -> Iterator[Fault]:
    """A fault for each rule, set or report whose id another pack has already: they are changed and told by id alone."""
    for key, kind in (("rules", "rule"), ("destinations", "destination set"), ("reports", "report")):
        first: dict[str, PackFile] = {}
        for document, pack in packs:
            for index, entry in enumerate(getattr(pack, key)):
                before = first.setdefault(entry.id, (document, pack))
                if before[1] is not pack:
                    yield document.fault(
                        (key, index, "id"),
                        f"{kind} `{entry.id}` stands in pack `{before[1].pack}` ({before[0].name}) already",
                        "give it another id",
                    )


def attestation_faults(
    attested: Sequence[tuple[Document, KeyPath, Attestation]], packs: Mapping[str, Pack], today: date
) -> Iterator[Fault]:
    """What is wrong with statements that a legal entity is bound."""
    first: dict[tuple[str, str], str] = {}
    for document, keys, value in attested:
        pack = packs.get(value.pack)
        if pack is None:
            advice = nearest(value.pack, sorted(packs))
            yield document.fault((*keys, "pack"), f"there is no pack `{value.pack}`", advice)
        elif pack.state is PackState.HISTORIC:
            message = f"pack `{value.pack}` is historic and binds nobody now"
            yield document.fault((*keys, "pack"), message, "remove the attestation")
        else:
            known = {w.id for w in pack.words if w.about == "entity"}
            for place, word in enumerate(value.words):
                if word not in known:
                    yield _no_word(document, (*keys, "words", place), word, known)
        if value.on > today:
            yield document.fault((*keys, "on"), f"the date {value.on} lies ahead", "attest on the day itself")
        where = f"{document.name}:{document.line_of(keys)}"
        before = first.setdefault((value.pack, value.entity), where)
        if before != where:
            message = f"`{value.entity}` is attested for `{value.pack}` twice, first at {before}"
            yield document.fault(keys, message, "keep one of them")


Why = Literal["always", "attested", "not_attested", "excepted", "not_begun", "ended", "historic"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a pack is awake, and why."""

    awake: bool
    why: Why
    by: tuple[Attestation, ...] = ()
    """The attestations that bind, or that except."""


def standing(pack: Pack, attestations: Sequence[Attestation], today: date) -> Standing:
    """Whether a pack is awake on a day."""
    if pack.state is PackState.HISTORIC:
        return Standing(False, "historic")
    if pack.valid_to is not None and pack.valid_to < today:
        return Standing(False, "ended")
    if pack.valid_from is not None and pack.valid_from > today:
        return Standing(False, "not_begun")
    if not pack.needs_attestation:
        return Standing(True, "always")
    stated = tuple(a for a in attestations if a.pack == pack.pack)
    if not stated:
        return Standing(False, "not_attested")
    excepting = {w.id for w in pack.words if w.sleeps}
    bound = tuple(a for a in stated if not excepting & set(a.words))
    return Standing(True, "attested", bound) if bound else Standing(False, "excepted", stated)
