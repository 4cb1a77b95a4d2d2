"""Twelve months of one store and destination from a long ledger, in SQLite and in PostgreSQL.

    python -m tests.bench ledger [MILLIONS OF ROWS]

A year of 50 stores; each pair has ten rows a day (five processes, two countries), however many rows there are in all.
The database makes the rows itself. Wall time counts, for people wait for it; every answer is checked.
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
from agent.store.schema import DAYS_KEY, DAYS_SUMS, LEDGER_KEY, LEDGER_SUMS, ledger_days, summed_days
from tests.bench.page import Bar, Report
from tests.tools.postgres import serving

DAYS, STORES, PROCESSES, COUNTRIES = 366, 50, 5, 2
FIRST = 20_000
ASKED = 200
BAR_MS = 50.0

_ROWS = f"""
INSERT INTO ledger ({", ".join((*LEDGER_KEY, *LEDGER_SUMS))})
WITH RECURSIVE d(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM d WHERE i < {DAYS - 1}),
  s(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < {STORES - 1}),
  e(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM e WHERE i < :entities - 1),
  p(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM p WHERE i < {PROCESSES - 1}),
  c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < {COUNTRIES - 1})
SELECT {FIRST} + d.i, 'default', 'store-' || CAST(s.i AS TEXT), 'personal_health',
  'as:' || CAST(64500 + e.i AS TEXT), 64500 + e.i, 'Example Networks ' || CAST(e.i AS TEXT), '', '',
  CASE c.i WHEN 0 THEN 'JP' ELSE 'US' END, 'program-' || CAST(p.i AS TEXT), 'local', 'ebpf:all',
  1, 1040 * (1 + e.i), 1, 40, 1, 1000 * (1 + e.i), 0
FROM d, s, e, p, c ORDER BY d.i, s.i, e.i, c.i, p.i
"""


def fill(database: Database, entities: int) -> float:
    """Make the rows and their sums by day; seconds."""
    begin = time.perf_counter()
    with database.write() as connection:
        connection.execute(sa.text(_ROWS), {"entities": entities})
        connection.execute(summed_days())
    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    return time.perf_counter() - begin


def ask(database: Database, entities: int) -> list[float]:
    """Milliseconds of each question."""
    ledger, took = Ledger(database), []
    for number in range(ASKED):
        store, entity = f"store-{number * 7 % STORES}", number * 13 % entities
        begin = time.perf_counter()
        sent = ledger.sent(
            "default", store, f"as:{64500 + entity}", since_day=FIRST + 1, until_day=FIRST + DAYS - 1
        )
        took.append((time.perf_counter() - begin) * 1000)
        if sent != (DAYS - 1) * PROCESSES * COUNTRIES * 1000 * (1 + entity):
            raise SystemExit(f"wrong: {sent}")
    with database.read() as connection:
        kept = connection.execute(sa.select(sa.func.count()).select_from(ledger_days)).scalar_one()
    assert kept == DAYS * STORES * entities * COUNTRIES and len(DAYS_KEY) > len(DAYS_SUMS)
    return took


def main(arguments: list[str]) -> None:
    """The table."""
    millions = float(arguments[0]) if arguments else 50.0
    entities = max(1, round(millions * 1e6 / (DAYS * STORES * PROCESSES * COUNTRIES)))
    rows = DAYS * STORES * entities * PROCESSES * COUNTRIES
    table, bars = [["database", "median ms", "slowest ms", "made in s"]], []

    def measured(name: str, database: Database) -> None:
        took_s = fill(database, entities)
        took = ask(database, entities)
        table.append([name, f"{statistics.median(took):.2f}", f"{max(took):.2f}", f"{took_s:.0f}"])
        bars.append(Bar(name, BAR_MS, max(took), "ms", at_most=True))
        print("   ", *table[-1], file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        database = open_database(path, create=True, whole=False, now_ns=0, busy_timeout_s=5)
        measured("SQLite", database)
        database.close()
        notes = [f"SQLite: {path.stat().st_size / rows:.0f} octets a row, both tables"]
    with serving() as server:
        shared = open_postgres(server.fresh(), holder="bench", create=True, now_ns=0, busy_timeout_s=5)
        measured("PostgreSQL", shared)
        shared.close()
    title = f"Twelve months of one pair in a ledger of {rows:,} rows, {ASKED} questions"
    Report("ledger", title, table, bars, notes=notes, partial=bool(arguments)).publish()


if __name__ == "__main__":
    main(sys.argv[1:])
