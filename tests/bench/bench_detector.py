"""How many enriched rows a second the detector takes on one core, beside the same sums in Python dicts.

    python -m tests.bench.bench_detector [rows]

Three sides, interleaved, medians of CPU time: the windows alone (keys, buckets, five rings with their bounds) on
decoded columns; one Python dict per window, row by row; and the whole detector (admission, attribution to paths and
details, windows, facts, addresses, ledger, delta), once with the same 150,000 keys and 50,000 addresses, and once as
one host sends: three stores, fifty networks, 2,000 addresses. Every side's sums are checked against the generator's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from agent.core import address
from agent.core.clock import SECOND_NS
from agent.core.flow import BatchHeader, FlowBatch, Text
from agent.detection.detector import Detector
from agent.detection.keys import Keys, grown
from agent.detection.windows import BASE_NS, WINDOWS, Ring, Window, summed
from agent.policy.model import Policy, Recognition, Rule, Store

START_NS = 1_763_712_000 * SECOND_NS
BATCH = 10_000
PEER_ROWS = 500_000
STORES, COUNTRIES, NETWORKS = 100, 60, 1500
FIVE = (*WINDOWS.values(), Window("365d", 122, 3 * 86_400 * SECOND_NS))


class Rows:
    """Skewed rows over an hour: store, country, network, octets, end."""

    def __init__(self, n: int, stores: int = STORES, places: int = 1500, addresses: int = 50_000) -> None:
        random = np.random.default_rng(11)

        def zipf(k: int) -> np.ndarray:
            return np.minimum(random.zipf(1.25, n) - 1, 10**9) % k

        network_of, country_of = random.integers(0, NETWORKS, places), random.integers(0, COUNTRIES, places)
        self.n = n
        self.store, pair = zipf(stores), zipf(places)
        self.country, self.network = country_of[pair], network_of[pair]
        self.octets = (random.pareto(1.2, n) * 1000).astype(np.int64) + 64
        self.end_ns = START_NS + np.sort(random.integers(0, 3600 * SECOND_NS, n))
        self.remote = address.from_v4(random.integers(2**24, 2**24 + addresses, n).astype(np.uint32))

    def batch(self, rows: slice) -> FlowBatch:
        n = len(self.store[rows])
        ones = np.ones(n, np.int64)
        texts = {
            "store": Text(self.store[rows].astype(np.int32), tuple(f"store-{i}" for i in range(STORES))),
            "remote_country": Text(
                self.country[rows].astype(np.int32), tuple(f"{i:02d}" for i in range(COUNTRIES))
            ),
            "remote_as_org": Text(
                self.network[rows].astype(np.int32), tuple(f"Example {i}" for i in range(NETWORKS))
            ),
        }
        same = {
            "tenant": "default",
            "remote_scope": "external",
            "initiator": "local",
            "basis": "process",
            "process": "postgres",
            "vantage": "af_packet:eth0",
        }
        columns = {
            "local_address": np.repeat(address.parse(["192.0.2.1"]), n, axis=0),
            "remote_address": self.remote[rows],
            "local_port": ones * 40_000,
            "remote_port": ones * 443,
            "protocol": ones * 6,
            "flows": ones,
            "octets_out": self.octets[rows] + 40,
            "packets_out": ones,
            "octets_in": ones * 40,
            "packets_in": ones,
            "content_octets_out": self.octets[rows],
            "start_ns": self.end_ns[rows] - SECOND_NS,
            "end_ns": self.end_ns[rows],
            "remote_asn": self.network[rows] + 64_500,
        }
        texts |= {name: Text.full(n, text) for name, text in same.items()}
        return FlowBatch.build(n, {**columns, **texts}, BatchHeader(agent_id="bench"))

    def batches(self) -> list[FlowBatch]:
        return [self.batch(part) for part in cut(self.n)]


def cut(n: int) -> list[slice]:
    return [slice(i, min(i + BATCH, n)) for i in range(0, n, BATCH)]


def windows(rows: Rows) -> int:
    """Keys and five rings over decoded columns; gives the sum of the bounds of the longest."""
    keys = Keys(3, 10**6)
    rings = [Ring(window) for window in FIVE]
    pair_of = np.zeros(0, np.int64)
    passed = 0
    for part in cut(rows.n):
        ids = keys.ids([rows.store[part], rows.country[part], rows.network[part]])
        pair_of = grown(pair_of, keys.count)
        pair_of[:] = np.arange(len(pair_of))
        buckets = rows.end_ns[part] // BASE_NS
        base = summed(buckets, ids, rows.octets[part], keys.count)
        for ring in rings:
            parts = base.coarser(ring.window.grain_ns // BASE_NS)
            ring.add_bound(parts, parts.paths, keys.count)
            passed += int((ring.bound[parts.paths] > 10**12).sum())
            ring.add(parts)
            ring.retire(ring.window.last_due(int(rows.end_ns[part][-1]) - 120 * SECOND_NS), pair_of)
    assert passed == 0
    return int(rings[-1].bound.sum())


def dicts(rows: Rows, n: int, sums_each: int) -> float:
    """The peer: for each of five windows a dict of (key, bucket) to its sums; gives its CPU seconds.

    With three sums (octets, packets, rows) it is the peer against which the bar of 25 was set; with one it does the
    work that the rings do and no more.
    """
    columns = (rows.store, rows.country, rows.network, rows.octets, rows.end_ns)
    lists = [column[:n].tolist() for column in columns]
    held: list[dict[object, list[int]]] = [{} for _ in FIVE]
    grains = [window.grain_ns for window in FIVE]
    three = sums_each == 3
    start = time.process_time()
    for store, country, network, octets, end_ns in zip(*lists, strict=True):
        key = (store, country, network)
        for sums, grain in zip(held, grains, strict=True):
            place = (key, end_ns // grain)
            entry = sums.get(place)
            if entry is None:
                sums[place] = [octets, 1, 1] if three else [octets]
            else:
                entry[0] += octets
                if three:
                    entry[1] += 1
                    entry[2] += 1
    seconds = time.process_time() - start
    assert sum(entry[0] for entry in held[-1].values()) == int(rows.octets[:n].sum())
    return seconds


def detector(rows: Rows, batches: list[FlowBatch]) -> tuple[int, int]:
    """The whole core; gives the ledger's octets and those of the deltas."""
    stores = tuple(
        Store(id=f"store-{i}", categories=("research",), recognise=Recognition(ports=(5000 + i,)))
        for i in range(STORES)
    )
    rules = tuple(("operator", Rule(id=f"r-{w}", over=10**13, window=w)) for w in WINDOWS)
    made = Detector(Policy(stores=stores, rules=rules), None, replay=True)
    octets = size = 0
    for batch in batches:
        decision = made.take(batch, int(batch["end_ns"][-1]))
        octets += sum(row.content_octets_out for row in decision.ledger)
        size += len(decision.delta)
    octets += sum(row.content_octets_out for row in made.finish().ledger)
    return octets, size


def timed(job: Callable[[], object]) -> tuple[object, float]:
    start = time.process_time()
    result = job()
    return result, time.process_time() - start


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000
    rows = Rows(n)
    wide, host = Rows(300_000), Rows(1_000_000, 3, 50, 2_000)
    whole = {"wide": (wide, wide.batches()), "host": (host, host.batches())}
    times: dict[str, list[float]] = {"windows": [], "dicts": [], "dicts1": [], "wide": [], "host": []}
    sizes: dict[str, float] = {}
    for _ in range(3):
        total, seconds = timed(lambda: windows(rows))
        assert total == int(rows.octets.sum())
        times["windows"].append(seconds)
        times["dicts"].append(dicts(rows, PEER_ROWS, 3))
        times["dicts1"].append(dicts(rows, PEER_ROWS, 1))
        for name, (some, batches) in whole.items():
            (octets, size), seconds = timed(lambda some=some, batches=batches: detector(some, batches))  # type: ignore[misc]
            assert octets == int(some.octets.sum())
            times[name].append(seconds)
            sizes[name] = size / some.n
    counts = {"windows": n, "dicts": PEER_ROWS, "dicts1": PEER_ROWS, "wide": wide.n, "host": host.n}
    rate = {name: counts[name] / statistics.median(taken) for name, taken in times.items()}
    for name, value in rate.items():
        delta = f"  delta {sizes[name]:5.1f} octets a row" if name in sizes else ""
        print(
            f"{name:8} {value / 1e6:7.3f} M rows/s  {value / rate['dicts']:6.1f} x dicts {value / rate['dicts1']:6.1f} x dicts1{delta}"
        )


if __name__ == "__main__":
    main()
