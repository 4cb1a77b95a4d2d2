"""What the outbox holds: each notice once, and for each sink how far its delivery got."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from agent.core.finding import Notice
from agent.store import schema
from agent.store.database import Database
from agent.store.kept import Delivery as Delivery
from agent.store.kept import DeliveryState as DeliveryState
from agent.store.kept import Waiting as Waiting
from agent.store.kept import key_of as key_of


class Deliveries:
    """Questions and changes to the outbox's tables. Each is one short transaction; blocks on the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def post(self, notices: Sequence[Notice], sinks: Sequence[str], now_ns: int) -> None:
        """Queue notices outside a commit, such as events about sekisho itself. Raises ``StateError``."""
        with self._database.write() as connection:
            queue(connection, notices, sinks, now_ns)

    def heads(self, sink: str) -> list[Delivery]:
        """The first waiting delivery of each case and every waiting event of a sink, oldest first."""
        n, d = schema.notices.c, schema.deliveries.c
        waiting = sa.and_(d.sink == sink, d.state == DeliveryState.WAITING.value)
        group = sa.case((n.case_id == "", n.key), else_=n.case_id)
        first = (
            sa.select(sa.func.min(d.id)).join(schema.notices, n.id == d.notice).where(waiting).group_by(group)
        )
        return self._select(d.id.in_(first))

    def of_case(self, case_id: str) -> list[Delivery]:
        """Every delivery of a case's notices, in order."""
        return self._select(schema.notices.c.case_id == case_id)

    def notice(self, delivery: Delivery) -> Notice:
        """What is to be delivered."""
        question = sa.select(schema.notices.c.body).where(schema.notices.c.key == delivery.key)
        with self._database.read() as connection:
            return Notice.from_json(connection.execute(question).scalar_one())

    def sent(self, delivery: Delivery, now_ns: int) -> None:
        """The sink has taken it."""
        self._update(delivery, state=DeliveryState.SENT.value, done_ns=now_ns)

    def failed(self, delivery: Delivery, error: str, due_ns: int) -> None:
        """The sink has not taken it; try again at ``due_ns``."""
        self._update(delivery, attempts=delivery.attempts + 1, error=error, due_ns=due_ns)

    def dead(self, delivery: Delivery, error: str, now_ns: int) -> None:
        """It is given up."""
        self._update(
            delivery,
            state=DeliveryState.DEAD.value,
            attempts=delivery.attempts + 1,
            error=error,
            done_ns=now_ns,
        )

    def waiting(self) -> dict[str, Waiting]:
        """What waits and what is dead, by sink."""
        n, d = schema.notices.c, schema.deliveries.c
        counts = (
            sa.select(d.sink, d.state, sa.func.count(), sa.func.min(n.created_ns))
            .join(schema.notices, n.id == d.notice)
            .where(d.state != DeliveryState.SENT.value)
            .group_by(d.sink, d.state)
        )
        found: dict[str, dict[str, Any]] = {}
        with self._database.read() as connection:
            for sink, state, count, oldest in connection.execute(counts):
                fields = found.setdefault(sink, {})
                fields[state] = count
                if state == DeliveryState.WAITING.value:
                    fields["oldest_ns"] = oldest
        return {sink: Waiting(**fields) for sink, fields in found.items()}

    def _select(self, where: sa.ColumnElement[bool]) -> list[Delivery]:
        n, d = schema.notices.c, schema.deliveries.c
        question = (
            sa.select(
                d.id,
                n.key,
                n.case_id,
                d.sink,
                d.state,
                d.attempts,
                n.created_ns,
                d.due_ns,
                d.done_ns,
                d.error,
            )
            .join(schema.notices, n.id == d.notice)
            .where(where)
            .order_by(d.id)
        )
        with self._database.read() as connection:
            rows = connection.execute(question).all()
        return [Delivery(**{**row._mapping, "state": DeliveryState(row.state)}) for row in rows]

    def _update(self, delivery: Delivery, **values: Any) -> None:
        change = sa.update(schema.deliveries).where(schema.deliveries.c.id == delivery.id).values(values)
        with self._database.write() as connection:
            connection.execute(change)


def queue(connection: sa.Connection, notices: Iterable[Notice], sinks: Sequence[str], now_ns: int) -> None:
    """Put notices into the outbox, once per sink; what is queued already stays as it is."""
    for notice in notices:
        row = {
            "key": key_of(notice),
            "case_id": notice.case.id if notice.case else "",
            "created_ns": now_ns,
            "body": notice.as_json(),
        }
        statement = schema.insert(connection.dialect.name, schema.notices).on_conflict_do_nothing(
            index_elements=["key"]
        )
        connection.execute(statement, row)
        number = connection.execute(
            sa.select(schema.notices.c.id).where(schema.notices.c.key == row["key"])
        ).scalar_one()
        rows = [
            {
                "notice": number,
                "sink": sink,
                "state": DeliveryState.WAITING.value,
                "attempts": 0,
                "due_ns": now_ns,
                "error": "",
                "done_ns": 0,
            }
            for sink in sinks
        ]
        if rows:
            statement = schema.insert(connection.dialect.name, schema.deliveries)
            connection.execute(statement.on_conflict_do_nothing(index_elements=["notice", "sink"]), rows)


def forget_events(connection: sa.Connection, before_ns: int) -> None:
    """Forget notices made before ``before_ns`` that wait nowhere and belong to no case."""
    n, d = schema.notices.c, schema.deliveries.c
    waits = sa.select(d.notice).where(d.state == DeliveryState.WAITING.value)
    old = sa.select(n.id).where(n.created_ns < before_ns, n.case_id == "", n.id.not_in(waits))
    connection.execute(sa.delete(schema.deliveries).where(d.notice.in_(old)))
    connection.execute(sa.delete(schema.notices).where(n.id.in_(old)))
