"""How long the state is kept.

Ages are counted in days on which something was committed, never in days of the clock: a clock that jumps ten years
ahead would else empty the ledger and forget which batches were taken. What pauses, keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from agent.core.clock import DAY_NS
from agent.store import deliveries, schema
from agent.store.digests import drop_streams
from agent.store.sequences import Stream


@dataclass(frozen=True, slots=True)
class Retention:
    """Days for which things are kept. Findings, cases and what people did about them are kept for good."""

    sequences: int = 40
    """Batch ids: longer than any queue or spool may bring a batch again."""
    digests: int = 14
    """SHA-256 of batches: a week in the topic after a week in a spool; later, the same id counts as a duplicate whatever
    its bytes."""
    ledger: int = 400
    events: int = 40
    """Notices that belong to no case and wait nowhere."""


def begin_day(connection: sa.Connection, day: int, keep: Retention) -> list[Stream]:
    """Note that something is committed on ``day``; if it is the first time, forget what has grown too old.

    Gives the streams whose sequences were forgotten.
    """
    if connection.execute(sa.select(schema.run_days.c.day).where(schema.run_days.c.day == day)).first():
        return []
    connection.execute(schema.run_days.insert(), {"day": day})
    of, forgotten = schema.sequences.c, []
    if (before := _day_before(connection, keep.sequences)) is not None:
        old = sa.select(of.agent_id, of.run_id, of.lane).where(of.day < before)
        forgotten = [(agent, run, lane) for agent, run, lane in connection.execute(old)]
        connection.execute(sa.delete(schema.sequences).where(of.day < before))
        connection.execute(sa.delete(schema.gaps).where(schema.gaps.c.day < before))
        connection.execute(sa.delete(schema.dead).where(schema.dead.c.day < before))
        connection.execute(sa.delete(schema.taken).where(schema.taken.c.day < before))
        drop_streams(connection, forgotten)
    if (before := _day_before(connection, keep.digests)) is not None:
        for table_of in (schema.digest_blocks, schema.fresh_digests):
            connection.execute(sa.delete(table_of).where(table_of.c.day < before))
    if (before := _day_before(connection, keep.ledger)) is not None:
        _forget_ledger(connection, before)
        connection.execute(sa.delete(schema.coverage).where(schema.coverage.c.to_hour < before * 24))
        connection.execute(sa.delete(schema.receipts).where(schema.receipts.c.last_ns < before * DAY_NS))
    if (before := _day_before(connection, keep.events)) is not None:
        deliveries.forget_events(connection, before * DAY_NS)
    return forgotten


def _forget_ledger(connection: sa.Connection, before: int) -> None:
    """Its rows lie by day, so they tell which of the sums by day go with them: those have no index by day."""
    old = schema.ledger.c.day < before
    for table, names in (
        (schema.ledger_days, schema.DAYS_KEY),
        (schema.ledger_pairs, schema.PAIRS_KEY),
    ):
        keys = [schema.ledger.c[name] for name in names]
        sums = sa.tuple_(*(table.c[name] for name in names))
        connection.execute(sa.delete(table).where(sums.in_(sa.select(*keys).where(old).distinct())))
    connection.execute(sa.delete(schema.ledger).where(old))


def _day_before(connection: sa.Connection, days: int) -> int | None:
    """The first of the newest ``days`` days on which something was committed; None if there are fewer."""
    day = schema.run_days.c.day
    newest = sa.select(day).order_by(day.desc()).offset(days - 1).limit(1)
    return connection.execute(newest).scalar_one_or_none()
