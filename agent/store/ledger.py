"""The ledger: what each store sent to each destination, by UTC day and network facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from agent.core.decision import LedgerDay, LedgerRow
from agent.store import schema
from agent.store.database import Database
from agent.store.schema import DAYS_KEY, DAYS_SUMS, LEDGER_KEY, LEDGER_SUMS, PAIRS_KEY


@dataclass(frozen=True, slots=True)
class LedgerSum:
    """The sums of all ledger rows that agree in ``key``."""

    key: tuple[str | int, ...]
    """Values of the columns asked for, in that order."""
    first_day: int
    last_day: int
    """Days since 1970-01-01 UTC of the first and last row."""
    days: int
    """Days with a row."""
    flows: int
    octets_out: int
    packets_out: int
    octets_in: int
    packets_in: int
    content_octets_out: int
    late_octets: int


_DAY_KEY: Final = tuple(f.name for f in fields(LedgerDay) if f.name != "content_octets_out")
STORE_ENTITY: Final = ("store", "entity")


class Ledger:
    """Questions to the ledger. Blocks on the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sums(
        self,
        by: Sequence[str] = STORE_ENTITY,
        *,
        since_day: int | None = None,
        until_day: int | None = None,
        store: str | None = None,
        entity: str | None = None,
    ) -> list[LedgerSum]:
        """Sums grouped by columns of the ledger's key, most content octets first; both days included.

        Sums run over all vantages: where more than one reports the same host, put ``vantage`` into ``by``.
        Raises ``ValueError`` for a column that is not in the key.
        """
        if unknown := set(by) - set(LEDGER_KEY):
            raise ValueError(f"not in the ledger's key: {', '.join(sorted(unknown))}")
        table = schema.ledger.c
        keys = [table[name] for name in by]
        # PostgreSQL sums to numeric.
        totals = [sa.cast(sa.func.sum(table[name]), sa.BigInteger).label(name) for name in LEDGER_SUMS]
        days = [sa.func.min(table.day), sa.func.max(table.day), sa.func.count(sa.distinct(table.day))]
        question = sa.select(*keys, *days, *totals).group_by(*keys)
        question = question.order_by(sa.desc("content_octets_out"), *keys)
        for column, wanted in ((table.store, store), (table.entity, entity)):
            if wanted is not None:
                question = question.where(column == wanted)
        if since_day is not None:
            question = question.where(table.day >= since_day)
        if until_day is not None:
            question = question.where(table.day <= until_day)
        with self._database.read() as connection:
            rows = connection.execute(question).all()
        return [LedgerSum(tuple(row[: len(keys)]), *row[len(keys) :]) for row in rows]

    def sent(self, tenant: str, store: str, entity: str, *, since_day: int, until_day: int) -> int:
        """Content octets that a store sent to an entity on these days, both included; of twelve months in one look."""
        table = schema.ledger_pairs.c
        total = sa.cast(sa.func.coalesce(sa.func.sum(table.content_octets_out), 0), sa.BigInteger)
        question = sa.select(total).where(
            table.tenant == tenant,
            table.store == store,
            table.entity == entity,
            table.day >= since_day,
            table.day <= until_day,
        )
        with self._database.read() as connection:
            return int(connection.execute(question).scalar_one())

    def days_observed(self, store: str) -> int:
        """Days on which the store sent or received anything."""
        days = sa.select(sa.func.count(sa.distinct(schema.ledger.c.day)))
        with self._database.read() as connection:
            return connection.execute(days.where(schema.ledger.c.store == store)).scalar_one()

    def first_seen(self, store: str, entity: str | None = None) -> int | None:
        """The first day with a row of this store (to this entity); None if there is none."""
        table = schema.ledger.c
        question = sa.select(sa.func.min(table.day)).where(table.store == store)
        if entity is not None:
            question = question.where(table.entity == entity)
        with self._database.read() as connection:
            day: int | None = connection.execute(question).scalar_one()
        return day

    def days(self, since_day: int) -> list[LedgerDay]:
        """Content octets by day, store and network from a day on, over all processes and vantages."""
        table = schema.ledger_days.c
        keys = [table[name] for name in _DAY_KEY]
        total = sa.cast(sa.func.sum(table.content_octets_out), sa.BigInteger)
        question = (
            sa.select(*keys, total.label("content_octets_out"))
            .where(table.day >= since_day)
            .group_by(*keys)
            .order_by(*keys)
        )
        with self._database.read() as connection:
            return [LedgerDay(**row._mapping) for row in connection.execute(question)]

    def rows(self, *, since_day: int = 0, store: str | None = None) -> list[LedgerRow]:
        """The rows themselves, in the order of their key."""
        table = schema.ledger.c
        question = sa.select(schema.ledger).where(table.day >= since_day)
        if store is not None:
            question = question.where(table.store == store)
        with self._database.read() as connection:
            found = connection.execute(question.order_by(*schema.ledger.primary_key)).all()
        return [LedgerRow(**row._mapping) for row in found]


def add_rows(connection: sa.Connection, rows: Sequence[LedgerRow]) -> None:
    """Add the sums of rows to those of the same key."""
    if rows:
        values = [{name: getattr(row, name) for name in (*LEDGER_KEY, *LEDGER_SUMS)} for row in rows]
        dialect = connection.dialect.name
        connection.execute(_adding(dialect, schema.ledger, LEDGER_KEY, LEDGER_SUMS), values)
        for table, keys in ((schema.ledger_days, DAYS_KEY), (schema.ledger_pairs, PAIRS_KEY)):
            connection.execute(_adding(dialect, table, keys, DAYS_SUMS), _summed(rows, keys))


def _summed(rows: Sequence[LedgerRow], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    key_of = attrgetter(*keys)
    sums: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        total = sums.setdefault(key_of(row), [0] * len(DAYS_SUMS))
        for place, name in enumerate(DAYS_SUMS):
            total[place] += getattr(row, name)
    names = (*keys, *DAYS_SUMS)
    return [dict(zip(names, (*key, *total), strict=True)) for key, total in sums.items()]


@cache
def _adding(dialect: str, table: sa.Table, keys: tuple[str, ...], sums: tuple[str, ...]) -> Any:
    """Building the statement takes longer than running it, so it is built once."""
    statement = schema.insert(dialect, table)
    return statement.on_conflict_do_update(
        index_elements=list(keys),
        set_={name: table.c[name] + statement.excluded[name] for name in sums},
    )
