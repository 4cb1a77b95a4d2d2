"""Twelve months of one store and destination from a long ledger, in SQLite and in PostgreSQL.

    python -m tests.bench ledger [MILLIONS OF ROWS [sqlite]]

A year of 50 stores; each pair has ten rows a day (five processes, two countries), however many rows there are in all, but
for one pair of each store, which stands for a large provider: 400 rows a day, of 200 networks. The database makes the rows
itself, in the order of the key, and the index last. Each question is asked three times: the first time, as a person asks,
and twice more for what the machine's other work adds. Wall time counts; every answer is checked.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

from agent.store.database import Database, open_database
from agent.store.ledger import Ledger
from agent.store.postgres import open_postgres
from agent.store.schema import LEDGER_KEY, LEDGER_SUMS, ledger_pairs, summed_days, summed_pairs
from agent.store.schema import ledger as ledger_table
from tests.bench.page import Bar, Report
from tests.tools.postgres import serving

DAYS, STORES, PROCESSES, COUNTRIES = 366, 50, 5, 2
FIRST = 20_000
ASKED = 200
BAR_MS = 50.0

LARGE = 200
"""Networks of a store's largest destination, which is the first."""
ROUNDS = 3
DAYS_AT_ONCE = 10
"""In one transaction: a write-ahead log of the whole year would double what the disk must hold."""

_ROWS = f"""
INSERT INTO ledger ({", ".join((*LEDGER_KEY, *LEDGER_SUMS))})
WITH RECURSIVE d(i) AS (SELECT CAST(:first AS INTEGER) UNION ALL SELECT i + 1 FROM d WHERE i < CAST(:last AS INTEGER)),
  s(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < {STORES - 1}),
  e(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM e WHERE i < CAST(:entities AS INTEGER) - 1),
  n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {LARGE - 1}),
  p(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM p WHERE i < {PROCESSES - 1}),
  c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < {COUNTRIES - 1}),
  k(e, n, p, c) AS (
    SELECT e.i, 0, p.i, c.i FROM e CROSS JOIN c CROSS JOIN p WHERE e.i > 0
    UNION ALL SELECT 0, n.i, 0, c.i FROM n CROSS JOIN c)
SELECT {FIRST} + d.i, 'default', 'store-' || CAST(s.i AS TEXT), 'personal_health',
  'as:' || CAST(64500 + k.e AS TEXT), 64500 + k.e, 'Example Networks ' || CAST(k.n AS TEXT), '', '',
  CASE k.c WHEN 0 THEN 'JP' ELSE 'US' END, 'program-' || CAST(k.p AS TEXT), 'local', 'ebpf:all',
  1, 1040 * (1 + k.e), 1, 40, 1, 1000 * (1 + k.e), 0
FROM d CROSS JOIN s CROSS JOIN k
"""


def fill(database: Database, entities: int) -> float:
    """Make the rows and their sums; seconds. The index is made of what is there, as a copy that is put back has it."""
    begin = time.perf_counter()
    index = next(iter(ledger_table.indexes))
    with database.write() as connection:
        index.drop(connection)
    for first in range(0, DAYS, DAYS_AT_ONCE):
        last = min(first + DAYS_AT_ONCE, DAYS) - 1
        with database.write() as connection:
            connection.execute(sa.text(_ROWS), {"entities": entities, "first": first, "last": last})
    with database.write() as connection:
        index.create(connection)
    with database.write() as connection:
        connection.execute(summed_days())
        connection.execute(summed_pairs())
    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    return time.perf_counter() - begin


def ask(database: Database, entities: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each question: asked for the first time, and the least of all times."""
    ledger, first, least = Ledger(database), [], []
    for number in range(ASKED):
        store, entity = f"store-{number * 7 % STORES}", number * 13 % entities
        took = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            sent = ledger.sent(
                "default", store, f"as:{64500 + entity}", since_day=FIRST + 1, until_day=FIRST + DAYS - 1
            )
            took.append((time.perf_counter() - begin) * 1000)
            rows = LARGE if entity == 0 else PROCESSES
            if sent != (DAYS - 1) * rows * COUNTRIES * 1000 * (1 + entity):
                raise SystemExit(f"wrong: {sent}")
        first.append(took[0])
        least.append(min(took))
    with database.read() as connection:
        kept = connection.execute(sa.select(sa.func.count()).select_from(ledger_pairs)).scalar_one()
    if kept != DAYS * STORES * entities:
        raise SystemExit(f"wrong: {kept} days of pairs")
    return first, least


def main(arguments: list[str]) -> None:
    """The table."""
    millions = float(arguments[0]) if arguments else 50.0
    of_store = millions * 1e6 / (DAYS * STORES) - LARGE * COUNTRIES
    entities = 1 + max(0, round(of_store / (PROCESSES * COUNTRIES)))
    rows = DAYS * STORES * ((entities - 1) * PROCESSES + LARGE) * COUNTRIES
    table, bars = [["database", "median ms", "slowest ms", "slowest, best of three ms", "made in s"]], []

    def measured(name: str, database: Database) -> None:
        took_s = fill(database, entities)
        first, least = ask(database, entities)
        figures = (statistics.median(first), max(first), max(least))
        table.append([name, *(f"{ms:.2f}" for ms in figures), f"{took_s:.0f}"])
        bars.append(Bar(name, BAR_MS, max(first), "ms", at_most=True))
        print("   ", *table[-1], file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        database = open_database(path, create=True, whole=False, now_ns=0, busy_timeout_s=5)
        measured("SQLite", database)
        database.close()
        size = path.stat().st_size
        notes = [f"SQLite: {size / 2**30:.1f} GiB, {size / rows:.0f} octets a row, all three tables."]
    if "sqlite" not in arguments:
        with serving() as server:
            shared = open_postgres(server.fresh(), holder="bench", create=True, now_ns=0, busy_timeout_s=5)
            measured("PostgreSQL", shared)
            shared.close()
    title = f"Twelve months of one pair in a ledger of {rows:,} rows, {ASKED} questions"
    Report("ledger", title, table, bars, notes=notes, partial=bool(arguments)).publish()


if __name__ == "__main__":
    main(sys.argv[1:])
