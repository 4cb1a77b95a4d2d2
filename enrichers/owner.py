"""Who runs the remote end, and who owns them: provider, ultimate owner, its country, and how sure.

By AS number through the ownership table, and by the operator's overrides; never from a name, and never from a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agent.core.address import Addresses
from agent.core.clock import SECOND_NS, Clock
from agent.core.finding import Confidence, Event, OwnerFact
from agent.core.flow import FlowBatch, Text
from agent.core.stages import Context, EnricherSettings
from agent.policy.model import Override
from agent.policy.ownership import Ownership
from enrichers.ranges import SIX_TO_FOUR, from_networks

MAX_REMEMBERED = 200_000
"""Networks whose answer is kept; there are about 85,000 autonomous systems."""

_WORTH = {
    "V": Confidence.HIGH,
    "V2": Confidence.MEDIUM,
    "N": Confidence.MEDIUM,
    "S": Confidence.MEDIUM,
    "O": Confidence.MEDIUM,
    "K": Confidence.LOW,
}
_ASN_BITS = 33

_Answer = tuple[str | None, str | None, str | None, str]
"""Provider, owner, owner's country, confidence."""


class Settings(EnricherSettings):
    """Who owns the network at the other end."""

    ownership: Path | None = Field(
        None, description="Ownership table of your own; default: the one in sekisho"
    )

    def build(self, context: Context) -> Owner:
        """The enricher, its table loaded. Raises :class:`~agent.core.errors.PolicyError` for a table with faults."""
        overrides = context.policy.overrides if context.policy is not None else ()
        return Owner(Ownership.load(self.ownership), overrides, context.clock)


class Owner:
    """Adds ``remote_provider``, ``remote_owner`` (ids), ``remote_owner_country`` and ``owner_confidence``."""

    name = "owner"
    reads = frozenset({"remote_address", "remote_asn"})
    adds = frozenset({"remote_provider", "remote_owner", "remote_owner_country", "owner_confidence"})

    def __init__(self, ownership: Ownership, overrides: Sequence[Override], clock: Clock) -> None:
        self._ownership = ownership
        self._overrides = tuple(overrides)
        self._by_prefix = from_networks([o.network for o in overrides], {}, (SIX_TO_FOUR,))
        self._clock = clock
        self._known: dict[int, _Answer] = {}
        self._day = date.min

    def enrich(self, batch: FlowBatch) -> FlowBatch:
        """The same rows with operator and owner filled in; ``owner_confidence`` is never null."""
        key = self._keys(batch["remote_address"], batch["remote_asn"])
        distinct, back = np.unique(key, return_inverse=True)
        self._forget()
        answers = [self._answer(k) for k in distinct.tolist()]
        providers, owners, countries, worths = zip(*answers, strict=True) if answers else ((), (), (), ())
        return batch.with_columns(
            remote_provider=Text.of(providers).take(back),
            remote_owner=Text.of(owners).take(back),
            remote_owner_country=Text.of(countries).take(back),
            owner_confidence=Text.of(worths).take(back),
        )

    def reload(self) -> bool:
        """Nothing of its own changes while it runs: a new policy makes a new enricher."""
        return False

    def troubles(self, now_ns: int) -> tuple[Event, ...]:
        """None: what it answers from is read whole, or not at all."""
        return ()

    def versions(self) -> dict[str, str]:
        """``ownership``: day and hash of the table."""
        return {"ownership": self._ownership.version}

    def _keys(self, addresses: Addresses, asns: NDArray[np.int64]) -> NDArray[np.int64]:
        """One number per (override, AS): all that an answer depends on."""
        key = asns + 1
        if self._overrides:
            key = (self._by_prefix.find(addresses).astype(np.int64) + 1 << _ASN_BITS) + key
        return np.asarray(key)

    def _forget(self) -> None:
        today = datetime.fromtimestamp(self._clock.now_ns() // SECOND_NS, UTC).date()
        if today != self._day or len(self._known) > MAX_REMEMBERED:
            self._known, self._day = {}, today

    def _answer(self, key: int) -> _Answer:
        known = self._known.get(key)
        if known is None:
            index, asn = (key >> _ASN_BITS) - 1, (key & (1 << _ASN_BITS) - 1) - 1
            fact = self._ownership.fact(
                asn=asn if asn >= 0 else None,
                as_org=None,
                today=self._day,
                override=self._overrides[index] if index >= 0 else None,
            )
            known = self._known[key] = (
                fact.provider or None,
                fact.owner_id or None,
                fact.owner_country,
                confidence(fact).value,
            )
        return known


def confidence(fact: OwnerFact) -> Confidence:
    """How far to trust what is on record of an owner, by its mark; a disputed or undecided record is low."""
    if not fact.owner_id and not fact.owner_country:
        return Confidence.NONE
    if fact.disputed or fact.review:
        return Confidence.LOW
    return _WORTH.get(fact.mark, Confidence.LOW)
