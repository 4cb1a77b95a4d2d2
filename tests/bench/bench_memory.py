"""What the detector holds in memory with very many keys.

    python -m tests.bench memory [THOUSANDS OF KEYS]

So many keys (stores and networks) are seen once, with the limits of the tables as `sekisho detect` has them; then every bucket of
every window, and of the days, has a cell for one key in twenty. Largest resident memory of the process counts.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from agent.detection import stage2
from agent.detection.detector import Detector
from agent.detection.windows import Parts
from agent.detection.years import DAYS
from agent.policy.model import Policy, Rule
from agent.roles import Detecting
from tests.bench.page import Bar, Report
from tests.tools.recount import Sent
from tests.tools.transfers import T0, policy, sent, store

ACTIVE = 20
BAR_GIB = 6.0
STORES = 20
BATCH = 50_000


def gib() -> float:
    """The largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rules() -> Policy:
    """Thirty rules over all windows and groupings, none of which ever finds anything."""
    windows = ("5m", "1h", "24h", "30d", "12mo")
    every = [
        Rule(
            id=f"rule-{window}-{i}",
            over=10**17 + i,
            window=window,
            group_by="store" if i == 5 else "destination",
        )
        for window in windows
        for i in range(6)
    ]
    return policy(*every, stores=[store(f"store-{i:02}") for i in range(STORES)])


def learn(detector: Detector, keys: int) -> None:
    """Let it see each key once."""
    for begin in range(0, keys, BATCH):
        rows = [
            Sent(f"store-{i % STORES:02}", 1 + i // STORES, T0, T0, 1000)
            for i in range(begin, min(begin + BATCH, keys))
        ]
        detector.take(sent(rows), T0)


def fill(held: stage2.Stage2, keys: int) -> int:
    """Fill the rings; how many cells they have."""
    random, cells = np.random.default_rng(1), 0
    for ring in held.rings.values():
        last = T0 // ring.window.grain_ns
        for bucket in range(ring.window.kept_from(last), last + 1):
            paths = np.sort(random.choice(keys, keys // ACTIVE, replace=False))
            buckets = np.full(len(paths), bucket, np.int64)
            ring.add(Parts.of(buckets, paths, np.full(len(paths), 1000, np.int64)))
            cells += len(paths)
    return cells


def main(arguments: list[str]) -> None:
    """The table."""
    keys = int(float(arguments[0]) * 1000) if arguments else 1_000_000
    begin_gib, begin = gib(), time.process_time()
    detector = Detector(rules(), None, replay=True, most_paths=Detecting().paths)
    learn(detector, keys)
    known = detector._cube.paths.count
    if known != keys or DAYS.name not in detector._stage2.rings:
        raise SystemExit(f"wrong: {known} keys")
    seen_gib, seen_s = gib(), time.process_time() - begin
    cells = fill(detector._stage2, keys)
    table = [
        ["what", "GiB"],
        ["before", f"{begin_gib:.2f}"],
        [f"{keys:,} keys seen once ({seen_s / keys * 1e6:.0f} us of CPU each)", f"{seen_gib:.2f}"],
        [f"{cells:,} cells in five rings", f"{gib():.2f}"],
    ]
    bars = [Bar("resident memory", BAR_GIB, gib(), "GiB", at_most=True)]
    title = f"{keys:,} live keys, one in {ACTIVE} of them active in every bucket"
    Report("memory", title, table, bars, partial=bool(arguments)).publish()


if __name__ == "__main__":
    main(sys.argv[1:])
