"""What must hold between the entries of policy files, whichever file they stand in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from agent.core.errors import Fault
from agent.policy.contradictions import contradictions
from agent.policy.destinations import DestinationSet
from agent.policy.faults import nearest
from agent.policy.overlaps import overlaps
from agent.policy.placed import Placed, repeated
from agent.policy.registers import ExpectedHost, Site, Store
from agent.policy.rules import Rule

MOST_SHOWN = 8
"""Stores of a circle that a fault names."""


def across(
    stores: Sequence[Placed[Store]],
    sites: Sequence[Placed[Site]],
    destinations: Sequence[Placed[DestinationSet]],
    rules: Sequence[Placed[Rule]],
    *,
    shipped_sets: Mapping[str, DestinationSet],
    asleep_sets: Mapping[str, str],
    home: Mapping[str, str],
) -> Iterator[Fault]:
    """Every fault between entries.

    ``asleep_sets``: destination set -> the pack, asleep, that holds it. ``home``: shipped rule -> its pack.
    """
    yield from repeated("store", stores)
    yield from repeated("site", sites)
    yield from repeated("destination set", destinations)
    yield from repeated("rule", rules)
    yield from _recognition(stores)
    yield from _copies(stores)
    yield from overlaps(stores)
    yield from _own_networks(sites, destinations)
    sets = {*shipped_sets, *(d.id for d in destinations)}
    by_id = {s.id: s for s in stores}
    groups = {group for s in stores if s.value for group in s.value.groups}
    for rule in rules:
        yield from _rule_names(rule, by_id, groups, sets, asleep_sets, home.get(rule.id))
    yield from contradictions(rules, stores)


def _recognition(stores: Sequence[Placed[Store]]) -> Iterator[Fault]:
    for store in stores:
        if store.value and store.value.recognise.is_empty():
            message = f"nothing tells the traffic of store `{store.id}` from other traffic"
            yield store.fault(message, "write `hosts: [this]` if it is on this host", ("recognise",))


def _copies(stores: Sequence[Placed[Store]]) -> Iterator[Fault]:
    origin = {s.id: s.value.copy_of for s in stores if s.value}
    known = {s.id for s in stores}
    circles = dict(_circles(origin))
    for store in stores:
        of = store.value.copy_of if store.value else None
        if of is None:
            continue
        if of not in known:
            advice = nearest(of, sorted(known))
            yield store.fault(f"`{store.id}` is a copy of `{of}`, which is no store", advice, ("copy_of",))
        elif circle := circles.get(store.id):
            begins = circle.index(store.id)
            turned = [*circle[begins:], *circle[:begins], store.id]
            shown = turned if len(turned) <= MOST_SHOWN else [*turned[: MOST_SHOWN - 1], "…", turned[-1]]
            yield store.fault(f"is a copy of itself: {' -> '.join(shown)}", "name the original", ("copy_of",))


def _circles(origin: Mapping[str, str | None]) -> Iterator[tuple[str, list[str]]]:
    """(member, its circle) for all stores that are copies of themselves; each store is walked over once."""
    done: set[str] = set()
    for start in origin:
        chain: dict[str, int] = {}
        at: str | None = start
        while at is not None and at not in done and at not in chain:
            chain[at] = len(chain)
            at = origin.get(at)
        if at is not None and at in chain:
            circle = list(chain)[chain[at] :]
            yield from ((member, circle) for member in circle)
        done.update(chain)


def _own_networks(
    sites: Sequence[Placed[Site]], destinations: Sequence[Placed[DestinationSet]]
) -> Iterator[Fault]:
    own = [(network, site) for site in sites if site.value for network in site.value.networks]
    for placed in destinations:
        for index, network in enumerate(placed.value.networks if placed.value else ()):
            for mine, site in own:
                if network.version == mine.version and network.subnet_of(mine):  # type: ignore[arg-type]
                    yield placed.fault(
                        f"{network} lies in your own site `{site.id}` ({site.where}), so it is never a destination",
                        "take it out of one of the two",
                        ("networks", index),
                    )


def _rule_names(
    rule: Placed[Rule],
    by_id: Mapping[str, Placed[Store]],
    groups: Collection[str],
    sets: Collection[str],
    asleep_sets: Mapping[str, str],
    home: str | None,
) -> Iterator[Fault]:
    if rule.value is None:
        return
    for index, name in enumerate(rule.value.stores):
        if name in groups:
            continue
        if name not in by_id:
            yield rule.fault(
                f"rule `{rule.id}` names store `{name}`, which is not there",
                nearest(name, sorted(by_id)) or "add it under `stores:`",
                ("stores", index),
            )
        elif (store := by_id[name].value) and store.copy_of:
            yield rule.fault(
                f"rule `{rule.id}` names `{name}`, whose traffic counts for `{store.copy_of}`",
                f"name `{store.copy_of}`",
                ("stores", index),
            )
    for key in ("destinations", "except_destinations"):
        for index, name in enumerate(getattr(rule.value, key)):
            pack = asleep_sets.get(name)
            if name not in sets and (pack is None or pack != home):
                yield rule.fault(
                    f"rule `{rule.id}` names destination set `{name}`, which is "
                    + (f"part of pack `{pack}` and asleep" if pack else "not there"),
                    f"attest `{pack}`, or write a set of your own" if pack else nearest(name, sorted(sets)),
                    (key, index),
                )


def expected_twice(hosts: Sequence[Placed[ExpectedHost]]) -> Iterator[Fault]:
    """A fault for each host that was expected already."""
    first: dict[str, Placed[ExpectedHost]] = {}
    for placed in hosts:
        if placed.value is None:
            continue
        before = first.setdefault(placed.value.host.lower(), placed)
        if before is not placed:
            yield placed.fault(
                f"host `{placed.value.host}` is expected twice, first at {before.where}",
                "remove one",
                ("host",),
            )
