"""Rules that cannot mean what they say: one that can never find anything, and two of which the larger amount is the lesser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.core.errors import Fault
from agent.policy.placed import Placed
from agent.policy.registers import Store
from agent.policy.rules import Rule

_NOT_SCOPE = {"id", "version", "title", "over", "severity", "steps", "quiet", "tests"}
"""Fields that two rules of one scope may differ in."""


def contradictions(rules: Sequence[Placed[Rule]], stores: Sequence[Placed[Store]]) -> Iterator[Fault]:
    """Every fault of rules by themselves and between two; a rule that is not enabled contradicts none."""
    for rule in rules:
        if rule.value is not None:
            yield from _never(rule, rule.value, stores)
    yield from _between(rules)


def _never(placed: Placed[Rule], rule: Rule, stores: Sequence[Placed[Store]]) -> Iterator[Fault]:
    """Why a rule can never find anything."""
    if both := sorted({*rule.destinations} & {*rule.except_destinations}):
        yield placed.fault(
            f"rule `{rule.id}` asks for destination set `{both[0]}` and leaves it out",
            "take it out of one of the two",
            ("except_destinations",),
        )
    named = [s.value for s in stores if s.value and {s.id, *s.value.groups} & {*rule.stores}]
    held = {category for store in named for category in store.categories}
    if named and rule.categories and not held & {*rule.categories}:
        yield placed.fault(
            f"rule `{rule.id}` reads no store: none of those that it names holds {' or '.join(rule.categories)}",
            "name the stores or the categories, or correct one of the two",
            ("categories",),
        )
    if rule.group_by == "store" and rule.any_of.share_of_store is not None:
        yield placed.fault(
            f"rule `{rule.id}` sums all destinations of a store, which are always the whole of it",
            "remove `share_of_store`, or sum by destination",
            ("any_of", "share_of_store"),
        )


def _between(rules: Sequence[Placed[Rule]]) -> Iterator[Fault]:
    scopes: dict[str, list[Placed[Rule]]] = {}
    for placed in rules:
        if placed.value is not None and placed.value.enabled:
            scopes.setdefault(placed.value.model_dump_json(exclude=_NOT_SCOPE), []).append(placed)
    for alike in scopes.values():
        for one in alike:
            for other in alike:
                if one is not other and one.value and other.value and _is_less(one.value, other.value):
                    yield other.fault(
                        f"rule `{other.id}` says {other.value.severity.name.lower()} of at least the amount of which rule "
                        f"`{one.id}` ({one.where}) says {one.value.severity.name.lower()}",
                        "let the larger amount be the more severe, or remove one",
                        ("severity",),
                    )


def _is_less(one: Rule, other: Rule) -> bool:
    """Whether the other asks for as much or more, and calls it less severe."""
    return other.over >= one.over and other.severity < one.severity
