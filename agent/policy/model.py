"""What operators write down, joined: stores, own sites, destinations, rules; and the packs and overrides we join to them.

pydantic models, read by :mod:`agent.policy.load`, exported as JSON Schema by ``sekisho policy schema``. Unknown keys
are refused. Every description is what a person sees in the schema and in ``sekisho init``'s comments. The parts stand in
modules of their own, by subject, and can be had from here too.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.policy.destinations import DestinationSet, Override
from agent.policy.recognition import THIS_HOST, Recognition, same_host
from agent.policy.regimes import Attestation, CategoryThreshold, Pack, PackState, Source
from agent.policy.registers import Category, ExpectedHost, Site, Store
from agent.policy.rules import Rule, RuleTest, WindowName
from agent.policy.values import (
    AddressField,
    Country,
    DurationNs,
    Entry,
    ExecutableField,
    Id,
    Octets,
    PortField,
    SeverityName,
    UnitField,
    duration_ns,
    octets,
)

__all__ = [
    "THIS_HOST",
    "AddressField",
    "Attestation",
    "Category",
    "CategoryThreshold",
    "Country",
    "DestinationSet",
    "DurationNs",
    "ExecutableField",
    "ExpectedHost",
    "Id",
    "Octets",
    "Override",
    "Pack",
    "PackState",
    "Policy",
    "PolicyFile",
    "PortField",
    "Recognition",
    "Rule",
    "RuleTest",
    "SeverityName",
    "Site",
    "Source",
    "Store",
    "UnitField",
    "WindowName",
    "duration_ns",
    "octets",
    "same_host",
]


class PolicyFile(Entry):
    """One policy file. Several are joined; ids must be unique over all of them."""

    version: Literal[1] = 1
    tenant: Id = "default"
    sites: tuple[Site, ...] = ()
    stores: tuple[Store, ...] = ()
    destinations: tuple[DestinationSet, ...] = ()
    rules: tuple[Rule, ...] = ()
    overrides: tuple[Override, ...] = ()
    attestations: tuple[Attestation, ...] = ()
    expected_hosts: tuple[ExpectedHost, ...] = Field(
        (), description="Hosts that the detector expects to hear from; may stand in a file of its own"
    )


class Policy(Entry):
    """All policy files joined, checked against each other, with the packs that are awake."""

    tenant: str = "default"
    sites: tuple[Site, ...] = ()
    stores: tuple[Store, ...] = ()
    destinations: tuple[DestinationSet, ...] = ()
    rules: tuple[tuple[str, Rule], ...] = Field(
        (), description="(pack id, rule): enabled rules of awake packs"
    )
    overrides: tuple[Override, ...] = ()
    packs: tuple[Pack, ...] = Field((), description="Every known pack")
    awake: tuple[str, ...] = Field((), description="Ids of the packs that are awake")
    attestations: tuple[Attestation, ...] = ()
    expected_hosts: tuple[ExpectedHost, ...] = ()
    version: str = Field("", description="sha256 of everything that was read, first 12 hex digits")

    def store(self, store_id: str) -> Store | None:
        """The store of that id."""
        return next((s for s in self.stores if s.id == store_id), None)

    def sharing(self, store_id: str) -> tuple[str, ...]:
        """Other stores that may be in the same place, in file order.

        A row that belongs to a store only by its place (``same_host``, ``same_pod``) is given to the first of them.
        """
        store = self.store(store_id)
        if store is None:
            return ()
        return tuple(
            other.id for other in self.stores if other is not store and other.recognise.meets(store.recognise)
        )

    def reads(self, rule: Rule, store_id: str, basis: str | None = None) -> bool:
        """Whether the rule reads rows of this store.

        With ``basis`` ``same_host`` or ``same_pod`` also if it reads another store of the same place: such a row may
        be any one's, but carries one id. Without ``basis`` the answer is for rows of any basis, so the wider one.
        """
        store = self.store(store_id)
        if store is None:
            return False
        if _selects(rule, store):
            return True
        if basis is not None and basis not in ("same_host", "same_pod"):
            return False
        return any(_selects(rule, s) for s in self.stores if s.id in self.sharing(store_id))

    def destination(self, set_id: str) -> DestinationSet | None:
        """The destination set of that id."""
        return next((d for d in self.destinations if d.id == set_id), None)


def _selects(rule: Rule, store: Store) -> bool:
    by_id = not rule.stores or store.id in rule.stores
    return by_id and (not rule.categories or bool(set(rule.categories) & set(store.categories)))
