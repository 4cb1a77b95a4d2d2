"""Spark Structured Streaming as a peer of the fleet bench: a JSON object for each row, a five-minute window of rows of stores.

PYTHON tests/bench/spark.py JARS SERVER TOPIC RECORDS   # an interpreter that has pyspark; imports nothing of ours

The topic is read from its beginning several times in one session, each time by a query with a checkpoint of its own. The
first few warm the virtual machine, which compiles while it runs, and are told apart, as the start is. A query costs something by
itself, planned and started once and then run for months: after each reading another query reads the last record of each
partition, and its CPU is taken away. CPU is that of Python and the virtual machine under it, all threads, compiler and
collector with them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

READINGS, WARMING = 8, 4
"""How many, and how many of the first are not counted: with 300,000 records the fourth and fifth took about the same."""
_FIELDS = "store STRING, content_octets_out BIGINT, end_ns BIGINT"
"""Only what the window needs is taken out of each object."""
_TICK = os.sysconf("SC_CLK_TCK")


def main(jars: str, server: str, topic: str, records: int) -> None:
    """Read the topic's records; one line of JSON with the CPU that took."""
    from pyspark import __version__
    from pyspark.sql import SparkSession

    with tempfile.TemporaryDirectory() as folder:
        session = (
            SparkSession.builder.master("local[1]")
            .config("spark.driver.extraClassPath", f"{jars}/*")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.memory", "2g")
            .config("spark.ui.enabled", "false")
            # One core, so one partition of state instead of 200.
            .config("spark.sql.shuffle.partitions", "1")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.sql.warehouse.dir", f"{folder}/warehouse")
            .config("spark.local.dir", folder)
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("ERROR")
        start_s = _cpu_s(os.getpid())
        runs, lasts = [], []
        for n in range(READINGS):
            runs.append(_read(session, f"reading{n}", folder, server, topic, "earliest"))
            lasts.append(_read(session, f"last{n}", folder, server, topic, _lasts(runs[-1].pop("ends"))))
        session.stop()
    counted = runs[WARMING:]
    results = {(run["rows"], run["ledger"]) for run in runs}
    if len(results) > 1:
        raise SystemExit(f"readings differ: {results}")
    if runs[0]["rows"] != records:
        raise SystemExit(f"{runs[0]['rows']} records instead of {records}")
    few = lasts[-1]["rows"]
    alone_s = statistics.median(run["cpu_s"] for run in lasts[WARMING:])
    told = {
        "rows": records,
        "ledger": runs[0]["ledger"],
        # Of the rows beyond those few, and as much for each of the few.
        "cpu_s": (statistics.median(run["cpu_s"] for run in counted) - alone_s) * records / (records - few),
        "wall_s": statistics.median(run["wall_s"] for run in counted),
        "start_s": start_s,
        "warming_s": sum(run["cpu_s"] for run in (*runs[:WARMING], *lasts[:WARMING])),
        "alone_s": alone_s,
        "every_s": [[round(run["cpu_s"], 2) for run in side] for side in (runs, lasts)],
        "version": __version__,
    }
    print("RESULT " + json.dumps(told))


def _lasts(ends: dict[str, dict[str, int]]) -> str:
    """Where a query begins that reads only the last record of each partition."""
    return json.dumps(
        {topic: {n: max(0, end - 1) for n, end in parts.items()} for topic, parts in ends.items()}
    )


def _read(session: Any, name: str, folder: str, server: str, topic: str, begin: str) -> dict[str, Any]:
    """One query over the topic to its end, with its result."""
    from pyspark.sql import functions as f

    start_s, wall_s = _cpu_s(os.getpid()), time.monotonic()
    row = f.from_json(f.col("value").cast("string"), _FIELDS)
    frame = (
        session.readStream.format("kafka")
        .option("kafka.bootstrap.servers", server)
        .option("subscribe", topic)
        .option("startingOffsets", begin)
        .load()
        .select(f.col("key").cast("string").alias("agent"), row.alias("row"))
        .select("agent", "row.*")
        .where("store IS NOT NULL")
        .withColumn("ended", f.timestamp_micros(f.expr("end_ns div 1000")))
        .withWatermark("ended", "1 hour")
        .groupBy("agent", f.window("ended", "5 minutes"))
        .agg(f.sum("content_octets_out").alias("octets"))
    )
    query = (
        frame.writeStream.outputMode("update")
        .format("memory")
        .queryName(name)
        .option("checkpointLocation", str(Path(folder) / name))
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination()
    taken = {"cpu_s": _cpu_s(os.getpid()) - start_s, "wall_s": time.monotonic() - wall_s}
    # A window's sum only grows, so its last one is its largest.
    last = session.sql(f"SELECT max(octets) AS octets FROM {name} GROUP BY agent, window")
    ledger = last.agg(f.sum("octets")).first()[0]
    rows = sum(progress.numInputRows for progress in query.recentProgress)
    ends = json.loads(query.recentProgress[-1].sources[0].endOffset)
    session.catalog.dropTempView(name)
    return {**taken, "rows": rows, "ledger": int(ledger or 0), "ends": ends}


def _cpu_s(pid: int) -> float:
    """User and system of a process and all under it, what has ended there included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / _TICK
    children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    return own + sum(_cpu_s(int(child)) for child in children.split())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
