"""The tables of the state database, in SQLAlchemy Core: SQLite embedded, PostgreSQL shared.

Times are nanoseconds since the epoch (UTC), days are whole days since it. Bodies of findings, cases and notices are
the JSON of :mod:`agent.core.finding`; the columns beside them exist to be searched.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

SCHEMA_VERSION: Final = 5
"""Raised with every change of a table below; :mod:`agent.store.database` refuses what is newer.

2: inputs, identities, gaps, leases, tokens, ended_keys, enrolment_actions, agents, taken, coverage, receipts,
maintenance.
3: dead, streams, fresh_digests, digest_blocks; the last three in place of digests.
4: ledger_days.
5: ledger_pairs."""

metadata = sa.MetaData()

_Int = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _int(name: str, *args: Any, **more: Any) -> sa.Column[int]:
    # Else PostgreSQL would count a lone key of whole numbers up by itself.
    return sa.Column(name, _Int, *args, nullable=False, **{"autoincrement": False, **more})


def _text(name: str, *args: Any, **more: Any) -> sa.Column[str]:
    return sa.Column(name, sa.Text, *args, nullable=False, **more)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _table(name: str, *parts: Any, rowid: bool = True) -> sa.Table:
    return sa.Table(name, metadata, *parts, sqlite_strict=True, sqlite_with_rowid=rowid)


head = _table(
    "head",
    _int("id", primary_key=True),
    _int("schema_version"),
    _int("epoch"),
    _int("commit_no"),
    _text("position"),
    _int("last_action"),
    _int("created_ns"),
)
"""One row: which shape the tables have, who may write (fencing epoch), and how far the input was taken."""

run_days = _table("run_days", _int("day", primary_key=True))
"""Days on which something was committed. Ages are counted in these, so that a clock that jumps ahead empties nothing."""

sequences = _table(
    "sequences",
    _text("agent_id", primary_key=True),
    _text("run_id", primary_key=True),
    _int("lane", primary_key=True),
    _text("intervals"),
    _int("day"),
    rowid=False,
)

streams = _table(
    "streams",
    _int("number", primary_key=True),
    _text("agent_id"),
    _text("run_id"),
    _int("lane"),
    _int("folded"),
    sa.UniqueConstraint("agent_id", "run_id", "lane"),
)
"""Short numbers for the streams whose digests are kept; ``folded``: the commit up to which they are in blocks."""

fresh_digests = _table("fresh_digests", _int("commit_no", primary_key=True), _blob("body"), _int("day"))
digest_blocks = _table(
    "digest_blocks",
    _int("stream", primary_key=True),
    _int("block", primary_key=True),
    _int("commit_no", primary_key=True),
    _blob("body"),
    _int("day", index=True),
    rowid=False,
)
"""SHA-256 of batches that came as bytes, to tell a duplicate from a conflict; see :mod:`agent.store.digests`."""

REPLACED: Final = ("digests",)
"""Tables of older versions that nobody reads any more."""

inputs = _table(
    "inputs",
    _text("topic", primary_key=True),
    _int("partition", primary_key=True),
    _text("topic_id"),
    _int("next_offset"),
)
"""How far each partition of a Kafka topic was taken; of a topic that was deleted and made again the id differs."""

identities = _table(
    "identities",
    _text("agent_id", primary_key=True),
    _blob("public_key"),
    _text("how"),
    _int("pinned_ns"),
    _text("token"),
    _text("host"),
)
"""The Ed25519 key that may sign for an agent; ``how``: ``first`` (the first that came), ``enrolled`` or ``revoked``."""

ended_keys = _table(
    "ended_keys",
    _text("agent_id"),
    _blob("public_key"),
    _int("ended_ns"),
    sa.PrimaryKeyConstraint("agent_id", "public_key"),
)
"""Keys that once signed for an agent and never may again."""

tokens = _table(
    "tokens",
    _text("id", primary_key=True),
    _blob("public_key"),
    _text("agent_id"),
    _text("note"),
    _text("made_by"),
    _int("made_ns"),
    _int("expires_ns"),
    _int("uses"),
    _int("used"),
    _int("revoked_ns"),
)
"""Rights to enrol an agent, each as the public half of what it proves; with ``agent_id`` only that one, whose key it may replace."""

enrolment_actions = _table(
    "enrolment_actions",
    sa.Column("id", _Int, primary_key=True, autoincrement=True),
    _int("time_ns"),
    _text("who"),
    _text("kind"),
    _text("subject"),
    _text("note"),
)
"""What people did to tokens and identities; only ever added to, ids increase. The running detector follows it."""

gaps = _table(
    "gaps",
    _text("agent_id", primary_key=True),
    _text("run_id", primary_key=True),
    _int("lane", primary_key=True),
    _int("low_water"),
    _text("dropped"),
    _text("missing"),
    _int("told"),
    _int("day"),
    rowid=False,
)
"""What agents said of their own batches, and which of these are missing; sequences as intervals."""

dead = _table(
    "dead",
    _text("agent_id"),
    _text("run_id"),
    _int("lane"),
    _blob("public_key"),
    _text("reason"),
    _text("sequences"),
    _text("unread"),
    _int("flows"),
    _int("octets_out"),
    _int("octets_in"),
    _int("day"),
    sa.PrimaryKeyConstraint("agent_id", "run_id", "lane", "public_key", "reason"),
    rowid=False,
)
"""Batches that were refused and signed by that key; ``unread``: those whose rows nobody could read."""

leases = _table("leases", _int("id", primary_key=True), _text("holder"), _int("renewed_ms"), _int("lease_ms"))
"""One row, PostgreSQL only: who leads, and when it last said so by the server's clock."""

agents = _table(
    "agents",
    _text("agent_id", primary_key=True),
    _text("host", index=True),
    _text("state"),
    _int("heard_ns"),
    _text("body"),
    rowid=False,
)
"""What each agent told of itself last, and its holes (:class:`agent.detection.fleet.Known`)."""

taken = _table(
    "taken",
    _text("agent_id", primary_key=True),
    _text("run_id", primary_key=True),
    _int("flows"),
    _int("octets_out"),
    _int("octets_in"),
    _int("day"),
    rowid=False,
)
"""What was decided of each run, so that an agent's account can be closed to the octet."""

coverage = _table(
    "coverage",
    _text("host", primary_key=True),
    _int("from_hour", primary_key=True),
    _int("to_hour"),
    _int("covered_s"),
    _int("lost"),
    _text("reasons"),
    _int("made", index=True),
    _int("sent"),
    rowid=False,
)
"""Hours of a host in a row of equal value, both ends included; ``lost`` -1: nothing bounds it. ``made`` grows with every
change of any row, ``sent`` is the value of it that the topic has."""

receipts = _table(
    "receipts",
    _text("store", primary_key=True),
    _text("rule", primary_key=True),
    _int("first_ns", primary_key=True),
    _int("last_ns"),
    _text("tenant"),
    _text("pack"),
    _text("window"),
    _text("verdict"),
    _int("covered_s"),
    _int("lost"),
    _int("amount"),
    _int("threshold"),
    _text("reasons"),
    _int("made", index=True),
    _int("sent"),
    rowid=False,
)
"""Windows of a rule and store in a row of which the same is said; times are their ends."""

maintenance = _table(
    "maintenance",
    sa.Column("id", _Int, primary_key=True, autoincrement=True),
    _text("host"),
    _int("from_ns"),
    _int("until_ns"),
    _text("reason"),
    _text("who"),
    _text("second"),
    _int("ended_ns"),
    _text("ended_by"),
)
"""Times in which people work on hosts and nobody is paged; ``host`` is empty for all. ``ended_ns`` 0: not ended early."""

snapshots = _table("snapshots", _int("commit_no", primary_key=True), _blob("body"))
deltas = _table("deltas", _int("commit_no", primary_key=True), _blob("body"))
versions = _table("versions", _int("commit_no", primary_key=True), _int("time_ns"), _text("body"))
"""Databases, policy and program in force from this commit on; a row only where they changed."""

LEDGER_KEY: Final = (
    "day",
    "tenant",
    "store",
    "categories",
    "entity",
    "asn",
    "as_org",
    "provider",
    "owner",
    "country",
    "process",
    "initiator",
    "vantage",
)
LEDGER_SUMS: Final = (
    "flows",
    "octets_out",
    "packets_out",
    "octets_in",
    "packets_in",
    "content_octets_out",
    "late_octets",
)

ledger = _table(
    "ledger",
    *(
        _int(name, primary_key=True) if name in ("day", "asn") else _text(name, primary_key=True)
        for name in LEDGER_KEY
    ),
    *(_int(name) for name in LEDGER_SUMS),
    sa.Index("ledger_store", "store", "entity", "day"),
    rowid=False,
)

DAYS_KEY: Final = (
    "tenant",
    "store",
    "entity",
    "asn",
    "as_org",
    "provider",
    "owner",
    "country",
    "initiator",
    "day",
)
DAYS_SUMS: Final = ("flows", "content_octets_out")

ledger_days = _table(
    "ledger_days",
    *(_int(name) if name in ("day", "asn") else _text(name) for name in DAYS_KEY),
    *(_int(name) for name in DAYS_SUMS),
    sa.PrimaryKeyConstraint(*DAYS_KEY),
    rowid=False,
)
"""The ledger's rows summed over processes, vantages and categories, a store and its destination side by side: what
an ownership correction finds its rows by. Written with the ledger, in the same transaction."""

PAIRS_KEY: Final = ("tenant", "store", "entity", "day")

ledger_pairs = _table(
    "ledger_pairs",
    *(_int(name) if name == "day" else _text(name) for name in PAIRS_KEY),
    *(_int(name) for name in DAYS_SUMS),
    sa.PrimaryKeyConstraint(*PAIRS_KEY),
    rowid=False,
)
"""``ledger_days`` summed over the networks of a destination: twelve months of a pair are at most 366 rows side by side,
however many networks its owner has. Written with the ledger, in the same transaction."""

findings = _table(
    "findings",
    _text("id", primary_key=True),
    _int("revision"),
    _text("tenant"),
    _text("store"),
    _text("entity"),
    _text("rule"),
    _text("state"),
    _int("severity"),
    _int("opened_ns"),
    _int("updated_ns"),
    _text("body"),
    sa.Index("findings_store", "store", "updated_ns"),
)

cases = _table(
    "cases",
    _text("id", primary_key=True),
    _int("revision"),
    _text("tenant"),
    _text("store"),
    _text("entity"),
    _text("state"),
    _int("severity"),
    _int("opened_ns"),
    _int("updated_ns", index=True),
    _text("body"),
    sa.Index("cases_store", "store", "updated_ns"),
)

case_actions = _table(
    "case_actions",
    sa.Column("id", _Int, primary_key=True, autoincrement=True),
    _text("case_id", sa.ForeignKey("cases.id"), index=True),
    _text("kind"),
    _text("who"),
    _text("note"),
    _text("verdict"),
    _int("time_ns"),
)
"""What people did; only ever added to, ids increase. ``verdict``: of a closing; of an assignment, to whom."""

notices = _table(
    "notices",
    sa.Column("id", _Int, primary_key=True, autoincrement=True),
    _text("key", unique=True),
    _text("case_id", index=True),
    _int("created_ns"),
    _text("body"),
)

deliveries = _table(
    "deliveries",
    sa.Column("id", _Int, primary_key=True, autoincrement=True),
    _int("notice", sa.ForeignKey("notices.id")),
    _text("sink"),
    _text("state"),
    _int("attempts"),
    _int("due_ns"),
    _text("error"),
    _int("done_ns"),
    sa.UniqueConstraint("notice", "sink"),
    sa.Index("deliveries_sink", "sink", "state", "id"),
)
"""The outbox: one row per notice and sink; ``state`` is waiting, sent or dead."""


def summed_days() -> Any:
    """The statement that makes ``ledger_days`` from the ledger, in a database that had none."""
    keys = [ledger.c[name] for name in DAYS_KEY]
    totals = [sa.cast(sa.func.sum(ledger.c[name]), sa.BigInteger) for name in DAYS_SUMS]
    return ledger_days.insert().from_select(
        [*DAYS_KEY, *DAYS_SUMS], sa.select(*keys, *totals).group_by(*keys)
    )


def summed_pairs(*where: Any) -> Any:
    """The statement that makes ``ledger_pairs`` from ``ledger_days``, of all or of some of its rows."""
    keys = [ledger_days.c[name] for name in PAIRS_KEY]
    totals = [sa.cast(sa.func.sum(ledger_days.c[name]), sa.BigInteger) for name in DAYS_SUMS]
    return ledger_pairs.insert().from_select(
        [*PAIRS_KEY, *DAYS_SUMS], sa.select(*keys, *totals).where(*where).group_by(*keys)
    )


def insert(dialect: str, table: sa.Table) -> Any:
    """An INSERT that knows ``on_conflict_do_update`` in that dialect."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # a tenth of a start, and of no use to SQLite

        return postgresql.insert(table)
    return sqlite.insert(table)


def put(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Insert whole rows, or replace those of the same primary key; where there is a revision, never by an older one."""
    if rows:
        connection.execute(_putting(connection.dialect.name, table), rows)


@cache
def _putting(dialect: str, table: sa.Table) -> Any:
    statement = insert(dialect, table)
    keys, new = [column.name for column in table.primary_key], statement.excluded
    return statement.on_conflict_do_update(
        index_elements=keys,
        set_={column.name: new[column.name] for column in table.c if column.name not in keys},
        where=new.revision >= table.c.revision if "revision" in table.c else None,
    )
