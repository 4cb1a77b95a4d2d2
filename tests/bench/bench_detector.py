"""Rows a second that the detector takes on one core, beside a loop over records in the same run.

    python -m tests.bench detector [MILLIONS OF ROWS]

Batches of 1,000 rows, gathered to 50,000 as the program gathers them before it decides. The end of a row is up to 30 s
off its turn, one in a hundred is up to an hour late. The rows fill an hour of each day over so many days that the
longest window of the program lets go of buckets too. 150,000 keys (store, country, network), skewed.

"one key set" takes decoded columns through keys and five rings with their bounds; the loop does the same sums in a
dict for each window, record by record. "thirty rules" is the whole detector on enriched rows, of which 5 % are of a
store: admission, paths, windows, facts, addresses, ledger, delta. All sums are checked against the generator's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from agent.core import address
from agent.core.clock import DAY_NS, HOUR_NS, SECOND_NS
from agent.core.flow import BatchHeader, FlowBatch, Text
from agent.detection.detector import Detector
from agent.detection.keys import Ints, Keys
from agent.detection.windows import BASE_NS, WINDOWS, Ring, Window, summed
from agent.policy.model import DestinationSet, Policy, Recognition, Rule, RuleTest, Store
from tests.bench.measure import REPEATS
from tests.bench.page import Bar, Report

START_NS = 1_763_712_000 * SECOND_NS
BATCH, GATHERED = 1_000, 50_000
KEYS, DAYS = 150_000, 70
PEER_ROWS = 500_000
STORES, COUNTRIES = 8, 60
FIVE = (*WINDOWS.values(), Window("365d", 122, 3 * DAY_NS))
STORE_SHARE = 0.05


class Rows:
    """Rows in order of arrival: key, store, octets, end."""

    def __init__(self, n: int) -> None:
        random = np.random.default_rng(11)
        self.n = n
        self.network = np.minimum(random.zipf(1.1, n) - 1, 10**9) * 7_919 % KEYS
        self.country, self.place = self.network % COUNTRIES, self.network % STORES
        self.octets = (random.pareto(1.2, n) * 1000).astype(np.int64) + 64
        turn = np.arange(n) * DAYS
        self.end_ns = START_NS + turn // n * DAY_NS + turn % n * HOUR_NS // n
        self.end_ns += random.integers(0, 30 * SECOND_NS, n)
        late = np.flatnonzero(random.random(n) < 0.01)
        self.end_ns[late] -= random.integers(0, HOUR_NS, len(late))
        self.of_store = random.random(n) < STORE_SHARE
        self.remote = address.from_v4((2**24 + self.network).astype(np.uint32))

    def batches(self) -> list[FlowBatch]:
        """Enriched, 1,000 rows each, dictionaries compacted as after sealing."""
        return [self._batch(slice(i, i + BATCH)).compact() for i in range(0, self.n, BATCH)]

    def _batch(self, rows: slice) -> FlowBatch:
        n = len(self.octets[rows])
        ones = np.ones(n, np.int64)
        store = np.where(self.of_store[rows], self.place[rows], -1).astype(np.int32)
        texts = {
            "store": Text(store, tuple(f"store-{i}" for i in range(STORES))),
            "remote_country": Text(self.country[rows].astype(np.int32), _PLACES),
            "remote_as_org": Text((self.network[rows] % 2_000).astype(np.int32), _ORGANISATIONS),
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
            "remote_asn": self.network[rows] % 2_000 + 64_500,
        }
        texts |= {name: Text.full(n, text) for name, text in same.items()}
        return FlowBatch.build(n, {**columns, **texts}, BatchHeader(agent_id="bench"))


_PLACES = tuple(f"{chr(65 + i // 26)}{chr(65 + i % 26)}" for i in range(COUNTRIES))
_ORGANISATIONS = tuple(f"Example {i}" for i in range(2_000))


def windows(rows: Rows) -> int:
    """Keys and five rings over decoded columns; gives the octets that went in."""
    keys = Keys(3, 10**6)
    rings = [Ring(window) for window in FIVE]
    pair_of = np.arange(KEYS * STORES)
    newest = passed = taken = 0
    for first in range(0, rows.n, GATHERED):
        part = [slice(i, i + BATCH) for i in range(first, min(first + GATHERED, rows.n), BATCH)]

        def joined(column: Ints, part: list[slice] = part) -> Ints:
            return np.concatenate([column[piece] for piece in part])

        ids = keys.ids([joined(rows.place), joined(rows.country), joined(rows.network)])
        ends, octets = joined(rows.end_ns), joined(rows.octets)
        base = summed(ends // BASE_NS, ids, octets, keys.count)
        pairs = pair_of[base.paths]
        newest = max(newest, int(ends.max()))
        taken += int(octets.sum())
        for ring in rings:
            parts = base.coarser(ring.window.grain_ns // BASE_NS)
            ring.add_bound(parts, pairs, keys.count)
            passed += int((ring.bound[pairs] > 10**15).sum())
            ring.add(parts)
            ring.retire(ring.window.last_due(newest - 120 * SECOND_NS), pair_of)
    assert passed == 0
    assert all(
        ring.due is not None and min(ring._buckets) > START_NS // ring.window.grain_ns for ring in rings[:4]
    )
    return taken


def loop(rows: Rows, n: int) -> float:
    """The peer: for each of five windows a dict of (key, bucket) to octets, row by row; gives its CPU seconds."""
    columns = (rows.place, rows.country, rows.network, rows.octets, rows.end_ns)
    lists = [column[:n].tolist() for column in columns]
    held: list[dict[object, int]] = [{} for _ in FIVE]
    grains = [window.grain_ns for window in FIVE]
    begin = time.process_time()
    for store, country, network, octets, end_ns in zip(*lists, strict=True):
        key = (store, country, network)
        for sums, grain in zip(held, grains, strict=True):
            place = (key, end_ns // grain)
            sums[place] = sums.get(place, 0) + octets
    seconds = time.process_time() - begin
    assert sum(held[-1].values()) == int(rows.octets[:n].sum())
    return seconds


def policy() -> Policy:
    """Thirty rules: by everything, by country, by network, by first sight, by direction."""
    stores = tuple(
        Store(id=f"store-{i}", categories=("research",), recognise=Recognition(ports=(5000 + i,)))
        for i in range(STORES)
    )
    sets = (
        DestinationSet(id="far", countries=_PLACES[:20]),
        DestinationSet(id="some", asns=tuple(range(64_500, 64_800))),
    )
    kinds = {
        "all": {},
        "country": {"destinations": ("far",)},
        "network": {"destinations": ("some",)},
        "first": {"any_of": RuleTest(first_seen=True)},
        "sent": {"initiator": "local"},
    }
    wanted = [
        (kind, fields, window)
        for kind, fields in kinds.items()
        for window in ("5m", "5m", "1h", "24h", "24h", "30d")
    ]
    rules = tuple(
        ("operator", Rule(id=f"{kind}-{i}", over=10**13 + i, window=window, **fields))  # type: ignore[arg-type]
        for i, (kind, fields, window) in enumerate(wanted)
    )
    assert len(rules) == 30
    return Policy(stores=stores, destinations=sets, rules=rules)


def detector(batches: list[FlowBatch], rules: Policy) -> int:
    """The whole core; gives the ledger's octets."""
    made = Detector(rules, None, replay=True)
    octets = 0
    step = GATHERED // BATCH
    for first in range(0, len(batches), step):
        gathered = batches[first : first + step]
        decision = made.take_all(gathered, int(gathered[-1]["end_ns"][-1]))
        octets += sum(row.content_octets_out for row in decision.ledger)
    return octets + sum(row.content_octets_out for row in made.finish().ledger)


def _timed(job: Callable[[], int], expected: int) -> float:
    begin = time.process_time()
    result = job()
    seconds = time.process_time() - begin
    if result != expected:
        raise SystemExit(f"wrong: {result} instead of {expected}")
    return seconds


def main(arguments: list[str]) -> None:
    """The table of detection."""
    n = int(float(arguments[0]) * 1e6) if arguments else 5_000_000
    rows, rules = Rows(n), policy()
    batches = rows.batches()
    whole, of_stores = int(rows.octets.sum()), int(rows.octets[rows.of_store].sum())
    took: dict[str, list[float]] = {"one key set": [], "the loop": [], "thirty rules": []}
    for _ in range(REPEATS):
        took["one key set"].append(_timed(lambda: windows(rows), whole))
        took["the loop"].append(loop(rows, min(n, PEER_ROWS)))
        took["thirty rules"].append(_timed(lambda: detector(batches, rules), of_stores))
        print(f"    {[f'{name} {seconds[-1]:.2f} s' for name, seconds in took.items()]}", file=sys.stderr)
    counts = {"one key set": n, "the loop": min(n, PEER_ROWS), "thirty rules": n}
    rate = {name: counts[name] / statistics.median(seconds) / 1e6 for name, seconds in took.items()}
    beside = {"one key set": f"{rate['one key set'] / rate['the loop']:.1f} times"}
    table = [["what", "M rows/s of CPU", "beside the loop"]]
    table += [[name, f"{value:.2f}", beside.get(name, "")] for name, value in rate.items()]
    bars = [
        Bar("one key set", 2.5, rate["one key set"], "M rows/s"),
        Bar("goal: one key set", 5, rate["one key set"], "M rows/s"),
        Bar("one key set beside the loop", 15, rate["one key set"] / rate["the loop"]),
        Bar(
            "thirty rules over five key sets, 5 % of the rows of a store", 1, rate["thirty rules"], "M rows/s"
        ),
    ]
    title = f"{n:,} rows in batches of {BATCH:,}, {KEYS:,} keys, {DAYS} days, {REPEATS} runs; sums exact"
    Report("detector", title, table, bars, partial=bool(arguments)).publish()
