"""Agents, what was decided of their runs, coverage, receipts and maintenance, in the state database.

Rows of coverage and receipts are runs of equal value. Each change gives a row the next number of ``made``; what the topic
has is ``sent``. So a crash between sending and marking sends a row again with the same id, and loses none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from agent.core.accounts import Amounts
from agent.core.errors import StateError
from agent.core.said import said
from agent.store import schema
from agent.store.database import Database

RunKey = tuple[str, str]
"""(agent id, run id)."""


@dataclass(frozen=True, slots=True)
class CoveredHours:
    """Hours of a host in a row, both included, of equal value."""

    host: str
    from_hour: int
    to_hour: int
    covered_s: int
    lost: int
    """Octets at most; -1: nothing bounds them."""
    reasons: tuple[str, ...] = ()
    made: int = 0

    @property
    def id(self) -> str:
        """The same in every message about these hours."""
        return f"{self.host}/{self.from_hour}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Windows of one store and rule of which the same is said."""

    tenant: str
    store: str
    pack: str
    rule: str
    window: str
    first_ns: int
    """End of the first window."""
    last_ns: int
    verdict: str
    covered_s: int
    lost: int
    amount: int
    threshold: int
    reasons: tuple[str, ...] = ()
    made: int = 0

    @property
    def id(self) -> str:
        """The same in every message about this receipt."""
        return f"{self.store}/{self.rule}/{self.first_ns}"


@dataclass(frozen=True, slots=True)
class Maintained:
    """A time in which people work on a host."""

    id: int
    host: str
    """Empty: all hosts."""
    from_ns: int
    until_ns: int
    reason: str
    who: str
    second: str = ""
    ended_ns: int = 0
    ended_by: str = ""

    @property
    def to_ns(self) -> int:
        """When it was, or will be, over."""
        return min(self.ended_ns, self.until_ns) if self.ended_ns else self.until_ns

    def holds(self, host: str, from_ns: int, to_ns: int) -> bool:
        """Whether it covers some of this time of a host."""
        return self.host.lower() in ("", host.lower()) and self.from_ns < to_ns and self.to_ns > from_ns


@dataclass(frozen=True, slots=True)
class Covered:
    """What one commit changes here."""

    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Agent id -> its state as plain values."""
    gone: tuple[str, ...] = ()
    """Agents that are forgotten."""
    taken: Mapping[RunKey, Amounts] = field(default_factory=dict)
    """Run -> all that was decided of it."""
    hours: tuple[CoveredHours, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    hours_over: tuple[tuple[str, int, int], ...] = ()
    """(host, first, last): rows that lie in there are removed before."""
    receipts_over: tuple[tuple[str, str, int, int], ...] = ()
    """(store, rule, first, last): the same for receipts."""


_HOURS = ("host", "from_hour", "to_hour", "covered_s", "lost", "reasons", "made")
_RECEIPTS = (
    "tenant", "store", "pack", "rule", "window", "first_ns", "last_ns", "verdict", "covered_s", "lost", "amount",
    "threshold", "reasons", "made",
)  # fmt: skip


class Coverage:
    """Questions to these tables. Blocks on the disk; raises :class:`~agent.core.errors.StateError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def agents(self) -> dict[str, dict[str, Any]]:
        """Every agent's state as plain values."""
        t = schema.agents.c
        with self._database.read() as connection:
            rows = connection.execute(sa.select(t.agent_id, t.body)).all()
        return {agent: json.loads(body) for agent, body in rows}

    def taken(self) -> dict[RunKey, Amounts]:
        """What was decided of every run."""
        t = schema.taken.c
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(t.agent_id, t.run_id, t.flows, t.octets_out, t.octets_in)
            ).all()
        return {(agent, run): Amounts(flows, out, in_) for agent, run, flows, out, in_ in rows}

    def hours(self, host: str | None = None, since_hour: int = 0) -> list[CoveredHours]:
        """Coverage of a host, or of all, oldest first."""
        t = schema.coverage.c
        question = sa.select(*(t[name] for name in _HOURS)).where(t.to_hour >= since_hour)
        if host is not None:
            question = question.where(t.host == host)
        with self._database.read() as connection:
            rows = connection.execute(question.order_by(t.host, t.from_hour)).all()
        return [CoveredHours(**{**row._mapping, "reasons": _words(row.reasons)}) for row in rows]

    def receipts(self, store: str | None = None, rule: str | None = None, since_ns: int = 0) -> list[Receipt]:
        """Receipts, oldest first within each store and rule."""
        t = schema.receipts.c
        question = sa.select(*(t[name] for name in _RECEIPTS)).where(t.last_ns >= since_ns)
        for column, wanted in ((t.store, store), (t.rule, rule)):
            if wanted is not None:
                question = question.where(column == wanted)
        with self._database.read() as connection:
            rows = connection.execute(question.order_by(t.store, t.rule, t.first_ns)).all()
        return [Receipt(**{**row._mapping, "reasons": _words(row.reasons)}) for row in rows]

    def made(self) -> int:
        """The highest number of any change."""
        with self._database.read() as connection:
            found = [
                connection.execute(sa.select(sa.func.max(t.c.made))).scalar_one_or_none() or 0
                for t in (schema.coverage, schema.receipts)
            ]
        return max(found)

    def unsent(self, limit: int) -> list[CoveredHours | Receipt]:
        """What the topic does not have yet, in the order of the changes."""
        found: list[CoveredHours | Receipt] = []
        with self._database.read() as connection:
            for table, names, kind in (
                (schema.coverage, _HOURS, CoveredHours),
                (schema.receipts, _RECEIPTS, Receipt),
            ):
                question = sa.select(*(table.c[n] for n in names)).where(table.c.sent < table.c.made)
                rows = connection.execute(question.order_by(table.c.made).limit(limit))
                found += [kind(**{**row._mapping, "reasons": _words(row.reasons)}) for row in rows]
        return sorted(found, key=lambda one: one.made)[:limit]

    def sent(self, what: Sequence[CoveredHours | Receipt]) -> None:
        """The topic has these. A row that was changed meanwhile stays to be sent."""
        with self._database.write() as connection:
            for table, kind in ((schema.coverage, CoveredHours), (schema.receipts, Receipt)):
                rows = [{"number": one.made} for one in what if isinstance(one, kind)]
                if rows:
                    change = sa.update(table).where(table.c.made == sa.bindparam("number"))
                    connection.execute(change.values(sent=sa.bindparam("number")), rows)

    # maintenance

    def maintenance(self, since_ns: int = 0) -> list[Maintained]:
        """Every maintenance that ended after ``since_ns``, oldest first."""
        t = schema.maintenance
        with self._database.read() as connection:
            rows = connection.execute(sa.select(t).where(t.c.until_ns >= since_ns).order_by(t.c.id)).all()
        found = [Maintained(**row._mapping) for row in rows]
        return [one for one in found if one.to_ns >= since_ns]

    def begin_maintenance(
        self, host: str, from_ns: int, until_ns: int, reason: str, who: str, second: str
    ) -> Maintained:
        """Note that people work on a host."""
        row = {
            "host": host, "from_ns": from_ns, "until_ns": until_ns, "reason": reason, "who": who,
            "second": second, "ended_ns": 0, "ended_by": "",
        }  # fmt: skip
        with self._database.write() as connection:
            key = connection.execute(schema.maintenance.insert(), row).inserted_primary_key
        assert key is not None
        return Maintained(id=int(key[0]), **row)  # type: ignore[arg-type]

    def end_maintenance(self, number: int, who: str, now_ns: int) -> Maintained:
        """End one before its time. Raises :class:`StateError` if it is not under way."""
        t = schema.maintenance
        with self._database.write() as connection:
            changed = connection.execute(
                sa.update(t)
                .where(t.c.id == number, t.c.ended_ns == 0, t.c.until_ns > now_ns)
                .values(ended_ns=now_ns, ended_by=who)
            ).rowcount
            if changed != 1:
                raise StateError(
                    said(
                        "no maintenance {number} is under way; `sekisho maintenance list` shows those there are",
                        number=number,
                    )
                )
            row = connection.execute(sa.select(t).where(t.c.id == number)).one()
        return Maintained(**row._mapping)


def put_covered(connection: sa.Connection, covered: Covered, day: int) -> None:
    """Write one commit's changes."""
    schema.put(
        connection,
        schema.agents,
        [
            {
                "agent_id": agent,
                "host": body["host"],
                "state": body["state"],
                "heard_ns": body["heard_ns"],
                "body": json.dumps(body, separators=(",", ":"), ensure_ascii=False),
            }
            for agent, body in covered.agents.items()
        ],
    )
    if covered.gone:
        connection.execute(sa.delete(schema.agents).where(schema.agents.c.agent_id.in_(covered.gone)))
    schema.put(
        connection,
        schema.taken,
        [
            {"agent_id": agent, "run_id": run, "day": day, **amounts.as_dict()}
            for (agent, run), amounts in covered.taken.items()
        ],
    )
    for host, first, last in covered.hours_over:
        t = schema.coverage.c
        inside = sa.and_(t.host == host, t.from_hour >= first, t.from_hour <= last)
        connection.execute(sa.delete(schema.coverage).where(inside))
    for store, rule, first, last in covered.receipts_over:
        r = schema.receipts.c
        within = sa.and_(r.store == store, r.rule == rule, r.first_ns >= first, r.first_ns <= last)
        connection.execute(sa.delete(schema.receipts).where(within))
    schema.put(connection, schema.coverage, [_row(one, _HOURS) for one in covered.hours])
    schema.put(connection, schema.receipts, [_row(one, _RECEIPTS) for one in covered.receipts])


def _row(one: CoveredHours | Receipt, names: Sequence[str]) -> dict[str, Any]:
    row = {name: getattr(one, name) for name in names}
    return {**row, "reasons": ",".join(one.reasons), "sent": 0}


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))
