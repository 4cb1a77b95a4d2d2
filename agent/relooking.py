"""What other databases would say of where stores sent: the archive's rows of the past looked up once more, before they
are in force. Nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.core.flow import FlowBatch
from agent.core.grouping import groups
from agent.core.stages import Enricher
from agent.policy.entity import entity_of, fact_of
from agent.policy.ownership import Ownership

READ = ("store", "remote_address", "remote_scope", "content_octets_out")
"""Columns of the archive that are read."""
_TEXTS = ("remote_country", "remote_as_org", "remote_provider", "remote_owner")


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of the other end."""

    country: str | None
    asn: int | None
    entity: str


@dataclass(frozen=True, slots=True)
class Relooked:
    """Traffic of a store whose place, network or entity becomes another."""

    store: str
    before: Said
    after: Said
    content_octets_out: int


def relook(
    batches: Iterable[FlowBatch],
    before: Sequence[Enricher],
    after: Sequence[Enricher],
    ownership: Ownership,
    today: date,
) -> list[Relooked]:
    """What the enrichers ``after`` say otherwise than those ``before`` of the rows of stores, most octets first."""
    sums: Counter[tuple[str, Said, Said]] = Counter()
    known: dict[tuple[object, ...], Said] = {}
    for batch in batches:
        kept = np.flatnonzero(batch["store"] >= 0)
        if not len(kept):
            continue
        rows = batch.take(kept)
        sides = [_enriched(rows, enrichers) for enrichers in (before, after)]
        order, starts = groups([rows["store"], *(column for side in sides for column in _columns(side))])
        octets = np.add.reduceat(rows["content_octets_out"][order], starts)
        stores = rows.text("store")
        for row, total in zip(order[starts].tolist(), octets.tolist(), strict=True):
            said = [_said(side, row, known, ownership, today) for side in sides]
            if said[0] != said[1]:
                sums[stores.values[stores.codes[row]], said[0], said[1]] += total
    found = [Relooked(store, old, new, total) for (store, old, new), total in sums.items()]
    return sorted(found, key=lambda one: (-one.content_octets_out, one.store, one.after.entity))


def _enriched(batch: FlowBatch, stages: Sequence[Enricher]) -> FlowBatch:
    for stage in stages:
        batch = stage.enrich(batch)
    return batch


def _columns(batch: FlowBatch) -> list[NDArray[Any]]:
    return [batch["remote_asn"], *(batch.text(name).codes for name in _TEXTS)]


def _said(
    batch: FlowBatch, row: int, known: dict[tuple[object, ...], Said], ownership: Ownership, today: date
) -> Said:
    asn = int(batch["remote_asn"][row])
    texts = [batch.text(name) for name in _TEXTS]
    values = [text.values[code] if (code := text.codes[row]) >= 0 else None for text in texts]
    key = (asn, *values)
    if key not in known:
        country, as_org, provider, owner = values
        fact = fact_of(
            ownership, asn=asn, as_org=as_org or "", provider=provider or "", owner=owner or "", today=today
        )
        entity = entity_of(fact, asn=asn, provider=provider or "")
        known[key] = Said(country, asn if asn >= 0 else None, entity)
    return known[key]
