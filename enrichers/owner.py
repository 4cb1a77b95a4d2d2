"""Who runs the remote end, and who owns them: provider, ultimate owner, its country, and how sure.

By AS number through the ownership table, by the provider's own list of ranges where the table does not know the AS, and
by the operator's overrides; never from a name, and never from a place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agent.core.clock import SECOND_NS, Clock
from agent.core.finding import Confidence, Event, OwnerFact
from agent.core.flow import FlowBatch, Text
from agent.core.stages import Context, EnricherSettings
from agent.policy.model import Override
from agent.policy.ownership import Ownership
from enrichers.ranges import SIX_TO_FOUR, from_networks
from enrichers.ranges.clouds import operates

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
_FEW = 1 << 16
"""Combinations that are counted through rather than sorted, however short the batch."""

_Key = tuple[int, int, int, str | None, str | None]
"""Override's index, row of the AS in the table, row of the second AS (-1 for none), provider by range, its region."""
_Answer = tuple[str | None, str | None, str | None, str]
"""Provider, owner, owner's country, confidence."""


class Settings(EnricherSettings):
    """Who owns the network at the other end."""

    ownership: Path | None = Field(
        None,
        description="Ownership table in place of the one in sekisho; files that only add to it go under `ownership:`",
    )

    def build(self, context: Context) -> Owner:
        """The enricher, its table loaded. Raises :class:`~agent.core.errors.PolicyError` for a table with faults."""
        overrides = context.policy.overrides if context.policy is not None else ()
        table = Ownership.load(self.ownership) if self.ownership or context.ownership is None else None
        return Owner(table or context.ownership, overrides, context.clock)


class Owner:
    """Adds ``remote_provider``, ``remote_owner`` (ids), ``remote_owner_country`` and ``owner_confidence``."""

    name = "owner"
    reads = frozenset(
        {"remote_address", "remote_asn", "remote_asn_witness", "remote_cloud", "remote_cloud_region"}
    )
    adds = frozenset({"remote_provider", "remote_owner", "remote_owner_country", "owner_confidence"})

    def __init__(self, ownership: Ownership, overrides: Sequence[Override], clock: Clock) -> None:
        self._ownership = ownership
        self._overrides = tuple(overrides)
        self._by_prefix = from_networks([o.network for o in overrides], {}, (SIX_TO_FOUR,))
        self._clock = clock
        self._known: dict[_Key, _Answer] = {}
        self._day = date.min

    def enrich(self, batch: FlowBatch) -> FlowBatch:
        """The same rows with operator and owner filled in; ``owner_confidence`` is never null."""
        self._forget()
        keys, back = self._keys(batch)
        answers = [self._answer(key) for key in keys]
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

    def _keys(self, batch: FlowBatch) -> tuple[list[_Key], NDArray[np.intp]]:
        """The distinct (override, row of the AS, row of the second AS, provider by range, its region) of a batch, and the
        one of each row: all that an answer depends on. Networks that the table does not know are all alike."""
        cloud, region = batch.text("remote_cloud"), batch.text("remote_cloud_region")
        index = np.full(len(batch), -1, np.int64)
        if self._overrides:
            index = self._by_prefix.find(batch["remote_address"]).astype(np.int64)
        said, back = _distinct([index, cloud.codes, region.codes])
        find = self._ownership.columns.find
        rows, back = _distinct([back, find(batch["remote_asn"]), find(batch["remote_asn_witness"])])
        keys = []
        for place, row, second in rows:
            o, c, r = said[place]
            listed = cloud.values[c] if c >= 0 else None
            keys.append((o, row, second, listed, region.values[r] if r >= 0 else None))
        return keys, back

    def _forget(self) -> None:
        today = datetime.fromtimestamp(self._clock.now_ns() // SECOND_NS, UTC).date()
        if today != self._day or len(self._known) > MAX_REMEMBERED:
            self._known, self._day = {}, today

    def _answer(self, key: _Key) -> _Answer:
        known = self._known.get(key)
        if known is None:
            index, row, second, cloud, region = key
            rows = self._ownership.rows
            fact, worth = judged(
                self._ownership,
                asn=rows[row].asns[0] if row >= 0 else None,
                witness_asn=rows[second].asns[0] if second >= 0 else None,
                cloud=cloud,
                region=region,
                override=self._overrides[index] if index >= 0 else None,
                today=self._day,
            )
            known = self._known[key] = (
                fact.provider or None,
                fact.owner_id or None,
                fact.owner_country,
                worth.value,
            )
        return known


def _distinct(columns: Sequence[NDArray[Any]]) -> tuple[list[tuple[int, ...]], NDArray[np.intp]]:
    """The distinct combinations of some columns of small numbers from -1 on, and the one of each row."""
    sizes = [int(column.max(initial=-1)) + 2 for column in columns]
    code = np.zeros(len(columns[0]), np.int64)
    for column, size in zip(columns, sizes, strict=True):
        code = code * size + column + 1
    if (whole := math.prod(sizes)) <= max(_FEW, 4 * len(code)):
        seen = np.zeros(whole, bool)
        seen[code] = True
        values = np.flatnonzero(seen)
        place = np.zeros(whole, np.intp)
        place[values] = np.arange(len(values))
        back = place[code]
    else:
        values, back = np.unique(code, return_inverse=True)
    parts = []
    for size in reversed(sizes):
        values, part = np.divmod(values, size)
        parts.append((part - 1).tolist())
    return list(zip(*reversed(parts), strict=True)), back


def judged(
    ownership: Ownership,
    *,
    asn: int | None,
    as_org: str | None = None,
    witness_asn: int | None = None,
    cloud: str | None = None,
    region: str | None = None,
    override: Override | None = None,
    today: date,
) -> tuple[OwnerFact, Confidence]:
    """Who runs and owns one network, and how far to trust the owner. docs/databases.md has the rules as a table.

    A provider's own list names the operator only where the ownership table does not know the AS, and only in regions
    that the provider runs itself. A list, or a second database's AS, that leads to another owner makes the first one
    doubtful; one that leads to the same owner proves nothing new.
    """
    row = ownership.asn(asn) if asn is not None else None
    listed = cloud if cloud is not None and operates(cloud, region) else None
    provider = listed if row is None else None
    fact = ownership.fact(asn=asn, as_org=as_org, provider=provider, today=today, override=override)
    worth = confidence(fact)
    if override is not None and (override.owner or override.owner_country):
        return fact, worth
    rivals = (
        ownership.provider(listed) if listed is not None else None,
        ownership.asn(witness_asn) if witness_asn is not None else None,
    )
    if worth is not Confidence.NONE and any(r is not None and r.owner != fact.owner_id for r in rivals):
        worth = Confidence.LOW
    return fact, worth


def confidence(fact: OwnerFact) -> Confidence:
    """How far to trust what is on record of an owner, by its mark; a disputed or undecided record is low."""
    if not fact.owner_id and not fact.owner_country:
        return Confidence.NONE
    if fact.disputed or fact.review:
        return Confidence.LOW
    return _WORTH.get(fact.mark, Confidence.LOW)
