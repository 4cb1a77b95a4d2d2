"""How fast addresses find their rows, beside ``maxminddb`` in the same run.

    TESTS_DATABASES=FOLDER python -m tests.bench lookup [REPEATS]

Reads the installed databases (TESTS_DATABASES or .cache/databases). A million addresses to a country and an AS number
as columns, against one ``maxminddb`` look-up (C extension) of the AS database alone, whose records are flat and the
quicker ones to decode; it is given ready-made texts, its fastest way. Ours reads the table that was made of both.
In one process, sides taking turns, the median of CPU time. The answers are held to the peer's before anything is timed.
Witnesses and provider ranges that lie beside the databases are merged in, and held to the same bars.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
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
from tests.bench.measure import REPEATS
from tests.bench.page import Bar, Report
from tests.tools.places import DATABASES

N = 1_000_000
PEER_N = 200_000


@dataclass(frozen=True, slots=True)
class _Rates:
    """Addresses a second of CPU."""

    name: str
    ours: float
    by_thousand: float
    peer: float
    known: float

    def bars(self, least: float, goal: float | None, behind_dict: float | None) -> list[Bar]:
        """What was promised of it."""
        made = [Bar(f"{self.name}, beside maxminddb", least, self.ours / self.peer)]
        if goal:
            made.append(Bar(f"goal: {self.name}, beside maxminddb", goal, self.ours / self.peer))
        if behind_dict:
            made.append(Bar(f"{self.name}, beside it behind a dict", behind_dict, self.ours / self.known))
        return made


def main(arguments: list[str]) -> int:
    """The tables of look-ups and of building what is looked up in."""
    if DATABASES is None:
        print(
            "no databases to look up in: `make test` installs them, or name a folder of them in TESTS_DATABASES"
        )
        return 1
    repeats = int(arguments[0]) if arguments else REPEATS
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Accounts(), Path(folder))
        settings = _settings(DATABASES)
        flat: dict[Kind, float] = {}
        for kind in (k for k in KINDS if k in NEEDED):
            flat[kind] = _seconds(partial(_flatten, DATABASES / f"{kind}.mmdb", kind), repeats)
        first = _seconds(lambda: settings.build(context), 1)
        again = _seconds(lambda: settings.build(context), repeats)
        enricher = settings.build(context)
        assert enricher._answers is not None
        table = enricher._answers.table
        batches = _batches(table)
        index = _once(lambda: [_columns(table, batch) for _, batch in batches])
        found = [_compare(DATABASES / "network.mmdb", name, batch, table, repeats) for name, batch in batches]
    rows = [
        ["addresses", "one batch of a million", "by the thousand", "maxminddb .get", "a dict of its answers"]
    ]
    rows += [
        [r.name, *(f"{rate / 1e6:.2f} M/s" for rate in (r.ours, r.by_thousand, r.peer, r.known))]
        for r in found
    ]
    zipf, uniform, six = found
    bars = [*zipf.bars(10, 50, 3), *uniform.bars(10, 50, None), *six.bars(5, None, None)]
    bars += [
        Bar(f"flattening the {kind} database", 1, seconds, "s", at_most=True)
        for kind, seconds in flat.items()
    ]
    bars.append(Bar("start from the cache", 100, again * 1e3, "ms", at_most=True))
    notes = [
        f"maxminddb {version('maxminddb')}, C extension, `.get` of ready-made texts, {PEER_N:,} addresses a run",
        f"sources: {', '.join(_sources(DATABASES))}; {sum(table.intervals):,} intervals, {table.octets / 2**20:.0f} MiB of arrays"
        f" and 64 MiB for the direct index, which the first large batch makes (the first pass over the three took {index:.2f} s and is"
        f" not in the rates); first start {first:.1f} s",
    ]
    title = f"a country and an AS number of each address, as columns, {repeats} runs; answers equal"
    Report("lookup", title, rows, bars, notes, partial=bool(arguments)).publish()
    return 0


def _settings(databases: Path) -> geo.Settings:
    """The databases of a folder, witnesses and provider ranges with them."""
    return geo.Settings.model_validate(_sources(databases))


def _sources(databases: Path) -> dict[str, Path]:
    files = {kind: databases / f"{kind}.mmdb" for kind in KINDS} | {"providers": databases / "providers.csv"}
    return {name: path for name, path in files.items() if path.exists()}


def _batches(table: RangeTable) -> list[tuple[str, Addresses]]:
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
    return [("IPv4, 50,000 in Zipf order", zipf), ("IPv4, uniform", uniform), ("IPv6", six)]


def _compare(path: Path, name: str, batch: Addresses, table: RangeTable, repeats: int) -> _Rates:
    """Rates of all sides, taking turns."""
    peer = [text for text in texts(batch[:PEER_N]) if text is not None]
    parts = [batch[i : i + 1000] for i in range(0, PEER_N, 1000)]
    took: dict[str, list[float]] = {"ours": [], "by_thousand": [], "peer": [], "known": []}
    with maxminddb.open_database(path, maxminddb.MODE_MMAP_EXT) as reader:
        get = reader.get
        known = {text: get(text) for text in peer}
        told = np.asarray(table.take("asn", table.find(batch[:PEER_N]))).tolist()
        read = READINGS["network"].read
        if told != [read(known[text])[0] or -1 for text in peer]:
            raise SystemExit(f"wrong: answers for {name} differ from maxminddb's")
        asked = known.get
        sides: dict[str, tuple[Callable[[], object], int]] = {
            "ours": (lambda: _columns(table, batch), len(batch)),
            "by_thousand": (lambda: [_columns(table, part) for part in parts], PEER_N),
            "peer": (lambda: [get(a) for a in peer], len(peer)),
            "known": (lambda: [asked(a) for a in peer], len(peer)),
        }
        for _ in range(repeats):
            for side, (work, count) in sides.items():
                took[side].append(_once(work) / count)
    return _Rates(name, **{side: 1 / statistics.median(seconds) for side, seconds in took.items()})


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
