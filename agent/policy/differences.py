"""What differs between two policies, entry by entry: stores, destination sets, rules, packs and all else that they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel

from agent.policy.model import Pack, Policy, Rule

_LEFT_OUT: Final = frozenset({"version", "awake", "commit"})
"""Of a policy: told in another way, or follows from the rest."""
_NAMES: Final = ("id", "pack", "network", "host")
"""What an entry is called, the first that it has."""
_PARTS: Final = ("id", "category", "only_if", "starts", "of", "kind", "on", "name", "cite")
"""What tells the parts of an entry from each other."""


@dataclass(frozen=True)
class Difference:
    """One entry that was added, removed or changed."""

    kind: str
    """``rules``, ``stores``, ``destinations``, ``packs``, … as the policy names the list."""
    id: str
    what: Literal["added", "removed", "changed"]
    fields: tuple[tuple[str, Any, Any], ...] = ()
    """(field, old, new) of a changed entry, as plain values; of an added or removed one its fields that are not default."""


def differences(old: Policy, new: Policy) -> tuple[Difference, ...]:
    """Every difference, list by list, by id. Rules are compared whether their packs are awake or not."""
    found: list[Difference] = []
    for kind in Policy.model_fields:
        if kind in _LEFT_OUT:
            continue
        before, after = _entries(old, kind), _entries(new, kind)
        for name in sorted({*before, *after}):
            found += _compared(kind, name, before.get(name), after.get(name))
    return tuple(found)


def woken(old: Policy, new: Policy) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Packs that wake and packs that fall asleep."""
    return tuple(sorted(set(new.awake) - set(old.awake))), tuple(sorted(set(old.awake) - set(new.awake)))


@dataclass(frozen=True)
class _Entry:
    values: Mapping[str, Any]
    stated: frozenset[str]
    """Fields that are not as they are where nothing is said."""


def _entries(policy: Policy, kind: str) -> dict[str, _Entry]:
    if kind == "rules":
        pairs = [(p.pack, r) for p in policy.packs for r in p.rules]
        of_packs = {rule.id for _, rule in pairs}
        pairs += [(pack, rule) for pack, rule in policy.rules if rule.id not in of_packs]
        return {f"{pack}/{rule.id}": _entry(rule) for pack, rule in pairs}
    value = getattr(policy, kind)
    if not isinstance(value, tuple):
        return {"": _Entry({kind: value}, frozenset({kind}))}
    return {_name(entry): entry for entry in map(_entry, value)}


def _entry(value: BaseModel) -> _Entry:
    plain = value.model_dump(mode="json")
    if isinstance(value, Rule):  # its tests are told by what they show
        plain["tests"] = [f"{case.name}: {case.expect}" for case in value.tests]
    if isinstance(value, Pack):  # its rules are compared as rules
        del plain["rules"]
    return _Entry(plain, frozenset(value.model_dump(exclude_defaults=True)))


def _name(entry: _Entry) -> str:
    name = next((str(entry.values[key]) for key in _NAMES if entry.values.get(key)), "")
    return f"{name}, {entry.values['entity']}" if {"entity", "pack"} <= set(entry.values) else name


def _compared(kind: str, name: str, before: _Entry | None, after: _Entry | None) -> list[Difference]:
    if before is None and after is not None:
        return [Difference(kind, name, "added", tuple((key, None, value) for key, value in _said(after)))]
    if after is None and before is not None:
        return [Difference(kind, name, "removed", tuple((key, value, None) for key, value in _said(before)))]
    if before is None or after is None or before.values == after.values:
        return []
    return [Difference(kind, name, "changed", tuple(_fields("", before.values, after.values)))]


def _said(entry: _Entry) -> Iterator[tuple[str, Any]]:
    """The fields of a whole entry that are worth a line."""
    yield from ((k, v) for k, v in entry.values.items() if k in entry.stated and k not in _NAMES)


def _fields(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The smallest named parts that differ: ``thresholds[human_genomic].over``."""
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _fields(f"{name}.{key}" if name else key, old.get(key), new.get(key))
        return
    before, after = _named(old), _named(new)
    if before is None or after is None or not (before or after):
        yield name, old, new
        return
    for key in [*before, *(key for key in after if key not in before)]:
        yield from _fields(f"{name}[{key}]", before.get(key), after.get(key))
    if list(before) != list(after) and set(before) == set(after):
        yield name, list(before), list(after)


def _named(value: Any) -> dict[str, Any] | None:
    """The parts of a list by what they are called; None if it is no list of parts that are told apart so."""
    if value is None:
        return {}
    if not isinstance(value, list) or not all(isinstance(part, Mapping) for part in value):
        return None
    names = [" ".join(str(part[key]) for key in _PARTS if part.get(key)) for part in value]
    return dict(zip(names, value, strict=True)) if len(set(names)) == len(names) and all(names) else None
