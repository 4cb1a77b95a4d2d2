"""What must hold between the entries of policy files, whichever file they stand in.

Two stores *overlap* when some row could belong to both and nothing tells which. That is so when they may be in one
place (a common host name, overlapping addresses, a common pod, or no place named by either), and

* both name the same port, process, executable, unit or container there, or
* neither names any of these, so that both claim all that leaves the place.

Stores in one place that are told apart by such a name do not overlap.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations

from agent.core.errors import Fault
from agent.policy.faults import nearest
from agent.policy.model import DestinationSet, ExpectedHost, Recognition, Rule, Site, Store
from agent.policy.placed import Placed, repeated

_SELECTORS = ("ports", "processes", "executables", "units", "containers")


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
    yield from _overlaps(stores)
    yield from _own_networks(sites, destinations)
    sets = {*shipped_sets, *(d.id for d in destinations)}
    for rule in rules:
        yield from _rule_names(rule, stores, sets, asleep_sets, home.get(rule.id))


def _recognition(stores: Sequence[Placed[Store]]) -> Iterator[Fault]:
    for store in stores:
        if store.value and store.value.recognise.is_empty():
            message = f"nothing tells the traffic of store `{store.id}` from other traffic"
            yield store.fault(message, "write `hosts: [this]` if it is on this host", ("recognise",))


def _copies(stores: Sequence[Placed[Store]]) -> Iterator[Fault]:
    origin = {s.id: s.value.copy_of for s in stores if s.value}
    known = {s.id for s in stores}
    for store in stores:
        of = store.value.copy_of if store.value else None
        if of is None:
            continue
        if of not in known:
            advice = nearest(of, sorted(known))
            yield store.fault(f"`{store.id}` is a copy of `{of}`, which is no store", advice, ("copy_of",))
            continue
        chain = [store.id]
        while (following := origin.get(chain[-1])) is not None and following not in chain:
            chain.append(following)
        if following == store.id:
            circle = " -> ".join([*chain, following])
            yield store.fault(f"is a copy of itself: {circle}", "name the original", ("copy_of",))


def _overlaps(stores: Sequence[Placed[Store]]) -> Iterator[Fault]:
    for first, second in combinations(stores, 2):
        if first.value is None or second.value is None or first.id == second.id:
            continue
        a, b = first.value.recognise, second.value.recognise
        if a.is_empty() or b.is_empty() or not a.meets(b):
            continue
        if common := _common(a, b):
            message = f"stores `{second.id}` and `{first.id}` ({first.where}) both claim {common}"
            advice = "take it out of one, name other hosts or ports, or make them one store"
            yield second.fault(message, advice, ("recognise",))


def _common(a: Recognition, b: Recognition) -> str:
    if not any(getattr(r, name) for r in (a, b) for name in _SELECTORS):
        return "everything that leaves the same place"
    for name in _SELECTORS[:-1]:
        if both := sorted(set(getattr(a, name)) & set(getattr(b, name))):
            return f"{name[:-2] if name == 'processes' else name[:-1]} {both[0]}"
    for name in ("executables", "units"):
        for one in getattr(a, name):
            for other in getattr(b, name):
                if fnmatchcase(one, other) or fnmatchcase(other, one):
                    return f"{name[:-1]} {max(one, other, key=len)}"
    for one in a.containers:
        for other in b.containers:
            if one.startswith(other) or other.startswith(one):
                return f"container {max(one, other, key=len)}"
    return ""


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
    stores: Sequence[Placed[Store]],
    sets: Collection[str],
    asleep_sets: Mapping[str, str],
    home: str | None,
) -> Iterator[Fault]:
    if rule.value is None:
        return
    by_id = {s.id: s for s in stores}
    for index, name in enumerate(rule.value.stores):
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
