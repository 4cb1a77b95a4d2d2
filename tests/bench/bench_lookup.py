"""How fast addresses find their rows, beside ``maxminddb`` in the same run: python -m tests.bench.bench_lookup.

Reads the installed databases (TESTS_DATABASES or .cache/databases), else two made-up ones. Sides take turns,
five times each; the median of processor time counts. Bars: flattening 1 s, reload from the cache 100 ms; a million
addresses to a country and an AS number as columns, against one ``maxminddb`` look-up of the AS database alone (the
quicker one to decode): IPv4 in Zipf order of 50,000 and uniform 10 times, 3 times a dict in front of it, IPv6 5 times.
Witnesses and provider ranges that lie beside the databases are merged in, and held to the same bars. Exit code 1 below
a bar.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import maxminddb
import numpy as np

from agent.core.accounts import Accounts
from agent.core.address import Addresses, from_v4, texts
from agent.core.flow import ColumnData
from agent.core.stages import Context
from enrichers import geo
from enrichers.ranges import RangeTable, flatten, open_database
from enrichers.ranges.facts import KINDS, NEEDED, READINGS, Kind
from tests.tools import mmdb
from tests.tools.places import DATABASES

N = 1_000_000
PEER_N = 200_000
REPEATS = 5


def main() -> int:
    """Run all of it and print one line each."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        databases = _databases(state)
        before = _resident_mib()
        flat: dict[Kind, float] = {}
        for kind in (k for k in KINDS if k in NEEDED):
            flat[kind] = _seconds(partial(_flatten, databases / f"{kind}.mmdb", kind))
        for kind, seconds in flat.items():
            print(f"flatten {kind}: {seconds:.2f} s (bar 1 s)")
        settings = _settings(databases)
        context = Context(Accounts(), state)
        first = _seconds(lambda: settings.build(context), 1)
        reload = _seconds(lambda: settings.build(context))
        enricher = settings.build(context)
        assert enricher._answers is not None
        table = enricher._answers.table
        print(
            f"first start, both flattened and merged: {first:.2f} s; from the cache: {reload * 1e3:.0f} ms (bar 100)"
        )
        print(
            f"table: {table.intervals} intervals, {len(table)} rows, {table.octets / 2**20:.1f} MiB of arrays"
            " (64 MiB more once much is asked: the direct index)"
        )
        worst = min(
            _compare(databases / "network.mmdb", name, batch, table, bar)
            for name, batch, bar in _batches(table)
        )
        print(
            f"resident memory: {before:.0f} MiB before, {_resident_mib():.0f} MiB now (with the bench's own batches)"
        )
    return int(max(flat.values()) > 1 or reload > 0.1 or worst < 1)


def _databases(state: Path) -> Path:
    if DATABASES is not None:
        return DATABASES
    print("no databases installed: two small made-up ones instead, figures mean little")
    mmdb.write(state / "country.mmdb", mmdb.COUNTRIES, aliases=mmdb.MAXMIND_ALIASES)
    mmdb.write(state / "network.mmdb", mmdb.NETWORKS, aliases=mmdb.MAXMIND_ALIASES)
    return state


def _settings(databases: Path) -> geo.Settings:
    """The databases of a folder, witnesses and provider ranges with them."""
    files = {kind: databases / f"{kind}.mmdb" for kind in KINDS} | {"providers": databases / "providers.csv"}
    there = {name: path for name, path in files.items() if path.exists()}
    print(f"sources: {', '.join(there)}")
    return geo.Settings.model_validate(there)


def _batches(table: RangeTable) -> list[tuple[str, Addresses, float]]:
    random = np.random.default_rng(1)
    uniform = from_v4(random.integers(0x01000000, 0xDF000000, N, dtype=np.uint32))
    zipf = from_v4(random.integers(0x01000000, 0xDF000000, 50_000, dtype=np.uint32))[
        np.minimum(random.zipf(1.2, N), 50_000) - 1
    ]
    six = np.zeros((N, 2), np.uint64)
    six[:, 0] = table.v6_high[random.integers(0, len(table.v6_high), N)] + random.integers(
        0, 1 << 16, N
    ).astype(np.uint64)
    six[:, 1] = random.integers(0, 1 << 63, N)
    return [("IPv4 uniform", uniform, 10), ("IPv4 Zipf", zipf, 10), ("IPv6", six, 5)]


def _compare(path: Path, name: str, batch: Addresses, table: RangeTable, bar: float) -> float:
    """How many times its bar is reached. Prints the figures; checks the answers against the peer's.

    ``maxminddb`` is given ready-made texts, its fastest way; making them is not counted.
    """
    peer = [text for text in texts(batch[:PEER_N]) if text is not None]
    ours, theirs, small, dictionary = [], [], [], []
    with maxminddb.open_database(path) as reader:
        get = reader.get
        known = {text: get(text) for text in peer}
        told = np.asarray(table.take("asn", table.find(batch[:PEER_N]))).tolist()
        read = READINGS["network"].read
        assert told == [read(known[text])[0] or -1 for text in peer], "answers differ"
        asked = known.get
        for _ in range(REPEATS):
            ours.append(_once(lambda: _columns(table, batch)) / len(batch))
            theirs.append(_once(lambda: [get(a) for a in peer]) / len(peer))
            dictionary.append(_once(lambda: [asked(a) for a in peer]) / len(peer))
            parts = [batch[i : i + 1000] for i in range(0, PEER_N, 1000)]
            small.append(_once(lambda: [_columns(table, part) for part in parts]) / PEER_N)  # noqa: B023
    mine, peers, cached, thousand = (statistics.median(t) for t in (ours, theirs, dictionary, small))
    print(
        f"{name}: {1e-6 / mine:.1f} M/s in one batch ({peers / mine:.0f} x, bar {bar:.0f}), {1e-6 / thousand:.1f} M/s by"
        f" the thousand ({peers / thousand:.0f} x); maxminddb {1e-6 / peers:.2f} M/s, a dict that knows all answers"
        f" {1e-6 / cached:.1f} M/s ({cached / mine:.1f} x)"
    )
    return min(peers / mine / bar, cached / mine / 3 if "Zipf" in name else np.inf)


def _columns(table: RangeTable, batch: Addresses) -> tuple[ColumnData, ColumnData]:
    rows = table.find(batch)
    return table.take("country", rows), table.take("asn", rows)


def _flatten(path: Path, kind: Kind) -> None:
    flatten(open_database(path), READINGS[kind])


def _once(work: Callable[[], object]) -> float:
    start = time.process_time()  # processor time: the bars must hold on a busy machine too
    work()
    return time.process_time() - start


def _seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    return statistics.median(_once(work) for _ in range(repeats))


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    sys.exit(main())
