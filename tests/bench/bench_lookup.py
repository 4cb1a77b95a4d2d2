"""How fast addresses find their rows, beside ``maxminddb`` in the same run: python -m tests.bench.bench_lookup.

Reads the installed databases (TESTS_DATABASES or .cache/databases), else two made-up ones. Sides take turns,
five times each; the median of processor time counts. Bars: flattening 1 s, reload from the cache 100 ms, look-ups of a million IPv4
addresses in Zipf order with country, network and owner in one table 10 times ``maxminddb`` of one database per
address, IPv6 5 times. Exit code 1 below a bar.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import maxminddb
import numpy as np

from agent.core.accounts import Accounts
from agent.core.address import Addresses, from_v4, texts
from agent.core.stages import Context
from enrichers import geo
from enrichers.ranges import flatten, open_database
from enrichers.ranges.facts import KINDS, READINGS
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
        flat = {
            kind: _seconds(lambda kind=kind: _flatten(databases / f"{kind}.mmdb", kind)) for kind in KINDS
        }  # type: ignore[misc]
        for kind, seconds in flat.items():
            print(f"flatten {kind}: {seconds:.2f} s (bar 1 s)")
        settings = geo.Settings(country=databases / "country.mmdb", network=databases / "network.mmdb")
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
        )
        worst = min(
            _compare(databases / "network.mmdb", name, batch, table.find) / bar
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


def _batches(table: geo.RangeTable) -> list[tuple[str, Addresses, float]]:
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
    return [("IPv4 uniform", uniform, 6), ("IPv4 Zipf", zipf, 10), ("IPv6", six, 5)]


def _compare(path: Path, name: str, batch: Addresses, find: Callable[[Addresses], object]) -> float:
    """Times faster than ``maxminddb`` per address; the network database's records are the quicker ones to decode.

    ``maxminddb`` is given ready-made texts, its fastest way; making them is not counted.
    """
    peer = [text for text in texts(batch[:PEER_N]) if text is not None]
    ours, theirs, small = [], [], []
    with maxminddb.open_database(path) as reader:
        get = reader.get
        for _ in range(REPEATS):
            ours.append(_once(lambda: find(batch)) / len(batch))
            theirs.append(_once(lambda: [get(a) for a in peer]) / len(peer))
            small.append(_once(lambda: [find(batch[i : i + 1000]) for i in range(0, PEER_N, 1000)]) / PEER_N)
    mine, peers, thousand = (statistics.median(t) for t in (ours, theirs, small))
    print(
        f"{name}: {1e-6 / mine:.1f} M/s in one batch ({peers / mine:.0f} x), {1e-6 / thousand:.1f} M/s by the thousand"
        f" ({peers / thousand:.0f} x); maxminddb {1e-6 / peers:.2f} M/s"
    )
    return peers / mine


def _flatten(path: Path, kind: geo.Kind) -> None:
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
