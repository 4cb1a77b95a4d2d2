"""The ledger by another table of owners: its entity follows from its network facts, so a corrected owner re-sums the past.

The entity of a row is only kept so that a pair is found at once; :func:`move` writes it anew, in one transaction with the
decision that takes the new table. Octets are IP-layer unless the name says content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

import sqlalchemy as sa

from agent.policy.entity import Recorded
from agent.store import schema
from agent.store.database import Database
from agent.store.schema import DAYS_KEY, DAYS_SUMS, LEDGER_KEY, LEDGER_SUMS

FACTS: Final = tuple(field.name for field in fields(Recorded))
"""What the entity of a row rests on, and whose it is."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Rows whose entity is another by another table."""

    facts: Recorded
    entity: str
    """The new one."""
    first_day: int
    last_day: int
    """Days since 1970-01-01 UTC."""
    flows: int
    octets_out: int
    content_octets_out: int


Namer = Callable[[Recorded], str]
"""The entity of network facts by a table of owners."""


class Entities:
    """Questions to the ledger about its entities. Blocks on the disk; reads every row since ``since_day``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def groups(self, since_day: int = 0) -> list[Moved]:
        """The sums of each combination of network facts, with the entity that it has."""
        with self._database.read() as connection:
            return _groups(connection, since_day)

    def moved(self, entity_of: Namer, since_day: int = 0) -> list[Moved]:
        """What another table of owners would move, most content octets first."""
        return _moved(self.groups(since_day), entity_of)

    def days(self, since_day: int = 0) -> dict[Recorded, dict[int, int]]:
        """Content octets of each combination of network facts by day since 1970-01-01 UTC."""
        table = schema.ledger.c
        keys = [table[name] for name in FACTS]
        question = sa.select(*keys, table.day, sa.cast(sa.func.sum(table.content_octets_out), sa.BigInteger))
        question = question.where(table.day >= since_day).group_by(*keys, table.day)
        found: dict[Recorded, dict[int, int]] = {}
        with self._database.read() as connection:
            for *facts, day, octets in connection.execute(question):
                found.setdefault(Recorded(*facts), {})[day] = octets
        return found


def move(connection: sa.Connection, entity_of: Namer) -> int:
    """Give every row the entity that its network facts have now; sums of equal keys are added. How many combinations of
    facts moved."""
    moved = _moved(_groups(connection, 0), entity_of)
    for one in moved:
        _rename(connection, one, schema.ledger, LEDGER_KEY, LEDGER_SUMS)
        _rename(connection, one, schema.ledger_days, DAYS_KEY, DAYS_SUMS)
    touched = {
        (one.facts.tenant, one.facts.store, name) for one in moved for name in (one.facts.entity, one.entity)
    }
    for pair in sorted(touched):
        _sum_anew(connection, *pair)
    return len(moved)


def _sum_anew(connection: sa.Connection, tenant: str, store: str, entity: str) -> None:
    """The days of a pair, from what its networks sent."""

    def _of(table: sa.Table) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.tenant == tenant, table.c.store == store, table.c.entity == entity)

    connection.execute(sa.delete(schema.ledger_pairs).where(_of(schema.ledger_pairs)))
    connection.execute(schema.summed_pairs(_of(schema.ledger_days)))


def _groups(connection: sa.Connection, since_day: int) -> list[Moved]:
    table = schema.ledger.c
    keys = [table[name] for name in FACTS]
    sums = [
        sa.cast(sa.func.sum(table[name]), sa.BigInteger)
        for name in ("flows", "octets_out", "content_octets_out")
    ]
    question = sa.select(*keys, sa.func.min(table.day), sa.func.max(table.day), *sums).group_by(*keys)
    rows = connection.execute(question.where(table.day >= since_day)).all()
    return [Moved(Recorded(*row[: len(FACTS)]), row.entity, *row[len(FACTS) :]) for row in rows]


def _moved(groups: Iterable[Moved], entity_of: Namer) -> list[Moved]:
    found = []
    for group in groups:
        entity = entity_of(group.facts)
        if entity != group.facts.entity:
            sums = (group.flows, group.octets_out, group.content_octets_out)
            found.append(Moved(group.facts, entity, group.first_day, group.last_day, *sums))
    return sorted(found, key=lambda one: (-one.content_octets_out, one.entity, one.facts.store))


def _rename(
    connection: sa.Connection, one: Moved, table: sa.Table, keys: tuple[str, ...], sums: tuple[str, ...]
) -> None:
    columns = [*keys, *sums]
    values: list[Any] = [sa.literal(one.entity) if name == "entity" else table.c[name] for name in columns]
    statement = schema.insert(connection.dialect.name, table)
    statement = statement.from_select(columns, sa.select(*values).where(_is(one.facts, table)))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=list(keys),
            set_={name: table.c[name] + statement.excluded[name] for name in sums},
        )
    )
    connection.execute(sa.delete(table).where(_is(one.facts, table)))


def _is(facts: Recorded, table: sa.Table = schema.ledger) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == getattr(facts, name) for name in FACTS))
