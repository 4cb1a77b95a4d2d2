"""What must hold between the entries of the registers: who answers for what, and approvals that can hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeVar

from agent.core.errors import Fault
from agent.policy.approvals import Approval
from agent.policy.faults import nearest
from agent.policy.placed import Placed
from agent.policy.regimes import Attestation
from agent.policy.registers import Forwarder, LegalEntity, Site, Store

Owned = TypeVar("Owned", Store, Forwarder, Site)

_FAR: Final = timedelta(days=5 * 366)
"""An approval that ends later than this has no end that anybody would see."""


def entities(
    entries: Sequence[Placed[LegalEntity]], attestations: Sequence[Placed[Attestation]]
) -> Iterator[Fault]:
    """Attestations of bodies that the register does not hold. Without a register any name may be written."""
    if not entries:
        return
    known = {e.id for e in entries} | {n for e in entries if e.value for n in (e.value.name, *e.value.names)}
    for placed in attestations:
        if placed.value and placed.value.entity not in known:
            yield placed.fault(
                f"there is no legal entity `{placed.value.entity}`",
                nearest(placed.value.entity, sorted(known)) or "add it under `entities:`",
                ("entity",),
            )


def answering(owned: Sequence[Placed[Owned]], entries: Sequence[Placed[LegalEntity]]) -> Iterator[Fault]:
    """Entries that name a legal entity which is not there."""
    known = sorted(e.id for e in entries)
    advice = cache(lambda name: nearest(name, known) or "add it under `entities:`")
    there = set(known)
    for placed in owned:
        name = placed.value.entity if placed.value else None
        if name is not None and name not in there:
            yield placed.fault(f"there is no legal entity `{name}`", advice(name), ("entity",))


def stores(entries: Sequence[Placed[Store]], today: date) -> Iterator[Fault]:
    """Statements from days to come, statements of nobody, and groups that bear a store's name."""
    known = {s.id: s for s in entries}
    for placed in entries:
        if (store := placed.value) is None:
            continue
        if store.subjects_on is not None and store.subjects_on > today:
            message = f"the date {store.subjects_on} lies ahead"
            yield placed.fault(message, "give the day on which it was stated", ("subjects_on",))
        if store.records_on_ports and not store.records_by:
            message = "nobody attests that what leaves these ports is records"
            yield placed.fault(message, "name who does: `records_by`", ("records_on_ports",))
        for index, group in enumerate(store.groups):
            if group in known:
                message = f"group `{group}` bears the name of a store ({known[group].where})"
                yield placed.fault(message, "give the group a name of its own", ("groups", index))


def forwarders(entries: Sequence[Placed[Forwarder]]) -> Iterator[Fault]:
    """Forwarders that nothing tells."""
    for placed in entries:
        if placed.value and placed.value.recognise.is_empty():
            message = f"nothing tells forwarder `{placed.id}` from other machines"
            yield placed.fault(message, "name its `hosts` or `addresses`", ("recognise",))


def sites(entries: Sequence[Placed[Site]]) -> Iterator[Fault]:
    """A network that is given to two sites."""
    first: dict[IPv4Network | IPv6Network, Placed[Site]] = {}
    for placed in entries:
        for index, network in enumerate(placed.value.networks if placed.value else ()):
            before = first.setdefault(network, placed)
            if before is not placed and before.id != placed.id:
                message = f"{network} is of site `{before.id}` ({before.where}) already"
                yield placed.fault(message, "take it out of one of the two", ("networks", index))


def approvals(
    entries: Sequence[Placed[Approval]], register: Sequence[Placed[Store]], today: date
) -> Iterator[Fault]:
    """Approvals of stores that are not there, from days to come, and such as would outlive whoever gave them."""
    names = {s.id for s in register} | {g for s in register if s.value for g in s.value.groups}
    copies = {s.id: s.value.copy_of for s in register if s.value and s.value.copy_of}
    for placed in entries:
        if (value := placed.value) is None:
            continue
        for index, name in enumerate(value.stores):
            if name not in names:
                message = f"approval `{placed.id}` names store `{name}`, which is not there"
                advice = nearest(name, sorted(names)) or "add it under `stores:`"
                yield placed.fault(message, advice, ("stores", index))
            elif name in copies:
                message = f"approval `{placed.id}` names `{name}`, whose traffic counts for `{copies[name]}`"
                yield placed.fault(message, f"name `{copies[name]}`", ("stores", index))
        if value.approved_on is not None and value.approved_on > today:
            message = f"the date {value.approved_on} lies ahead"
            yield placed.fault(message, "give the day on which it was approved", ("approved_on",))
        if value.valid_to - max(today, value.valid_from) > _FAR:
            message = f"ends {value.valid_to}, in more than five years"
            yield placed.fault(message, "give an end at which somebody looks again", ("valid_to",))
