"""What operators write down, joined: stores, own sites, destinations, rules; and the packs and overrides we join to them.

pydantic models, read by :mod:`agent.policy.load`, exported as JSON Schema by ``sekisho policy schema``. Unknown keys
are refused. Every description is what a person sees in the schema and in ``sekisho init``'s comments. The parts stand in
modules of their own, by subject, and can be had from here too.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import Field

from agent.policy.approvals import Approval, ApprovedEnd
from agent.policy.destinations import DestinationSet, Override
from agent.policy.meeting import StoreIndex, selects
from agent.policy.recognition import THIS_HOST, Recognition, same_host
from agent.policy.regimes import Attestation, CategoryThreshold, Pack, PackState, Source
from agent.policy.registers import (
    Bound,
    Calendar,
    Category,
    Contact,
    EntityRole,
    ExpectedHost,
    Forwarder,
    ForwarderRole,
    LegalEntity,
    Site,
    Store,
)
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
    "Approval",
    "ApprovedEnd",
    "Attestation",
    "Bound",
    "Calendar",
    "Category",
    "CategoryThreshold",
    "Contact",
    "Country",
    "DestinationSet",
    "DurationNs",
    "EntityRole",
    "ExecutableField",
    "ExpectedHost",
    "Forwarder",
    "ForwarderRole",
    "Id",
    "LegalEntity",
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
    "selects",
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
    forwarders: tuple[Forwarder, ...] = Field(
        (), description="Proxies, NAT and other machines that pass on what they are sent"
    )
    entities: tuple[LegalEntity, ...] = Field((), description="Legal entities that answer for stores")
    approvals: tuple[Approval, ...] = Field((), description="Transfers that people have agreed to")
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
    expected_hosts: tuple[ExpectedHost, ...] = ()
    forwarders: tuple[Forwarder, ...] = ()
    entities: tuple[LegalEntity, ...] = ()
    approvals: tuple[Approval, ...] = ()
    attestations: tuple[Attestation, ...] = Field(
        (), description="Who says that which entity is bound; those of `entities` too"
    )
    commit: str = Field(
        "",
        description="git commit of the work tree that holds the files, 12 hex digits; +changed if they differ from it",
    )
    version: str = Field("", description="sha256 of everything that was read, first 12 hex digits")

    def store(self, store_id: str) -> Store | None:
        """The store of that id."""
        return self.index.by_id.get(store_id)

    def sharing(self, store_id: str) -> tuple[str, ...]:
        """Other stores that may be in the same place, in file order.

        A row that belongs to a store only by its place (``same_host``, ``same_pod``) is given to the first of them.
        """
        store = self.store(store_id)
        return () if store is None else tuple(s.id for s in self.index.meeting(store) if s is not store)

    def reads(self, rule: Rule, store_id: str, basis: str | None = None) -> bool:
        """Whether the rule reads rows of this store.

        With ``basis`` ``same_host`` or ``same_pod`` also if it reads another store of the same place: such a row may
        be any one's, but carries one id. Without ``basis`` the answer is for rows of any basis, so the wider one.
        """
        store = self.store(store_id)
        if store is None:
            return False
        if selects(rule.stores, rule.categories, store):
            return True
        if basis is not None and basis not in ("same_host", "same_pod"):
            return False
        return self.index.reaches(rule.stores, rule.categories, store)

    def destination(self, set_id: str) -> DestinationSet | None:
        """The destination set of that id."""
        return next((d for d in self.destinations if d.id == set_id), None)

    @property
    def index(self) -> StoreIndex:
        """The stores by id and by place."""
        if self._indexed.stores is not self.stores:  # model_copy takes what was cached along
            self.__dict__["_indexed"] = StoreIndex(self.stores)
        return self._indexed

    @cached_property
    def _indexed(self) -> StoreIndex:
        return StoreIndex(self.stores)
