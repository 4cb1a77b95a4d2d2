"""The flow table by itself, in one process, on packets that are decoded already: what it takes of the road.

    python -m tests.bench flows [SESSIONS PACKETS]

Sessions are open all the time and send in random order, half of the packets are answers. Sums are checked.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from agent.core.accounts import Accounts, Amounts
from agent.core.address import NetworkSet, from_v4
from collectors.flowtable.flows import FlowTable
from collectors.packets.packet import Packets
from tests.bench.measure import REPEATS
from tests.bench.page import Report

CHUNK = 1 << 15
_T0 = 1_800_000_000 * 10**9


def traffic(sessions: int, n: int, seconds: float = 57.0) -> Packets:
    """``n`` packets of ``sessions`` sessions spread over ``seconds``; a quarter IPv6, an eighth UDP, half answers."""
    random = np.random.default_rng(1)
    session = random.integers(0, sessions, n)
    here = from_v4((0xC000_0200 + np.arange(sessions) % 250).astype(np.uint32))
    there = from_v4((0xC633_6400 + np.arange(sessions) // 250 % 250).astype(np.uint32))
    six = np.arange(sessions) % 4 == 0
    here[six, 0] = there[six, 0] = 0x2001_0DB8 << 32
    port = (20_000 + np.arange(sessions) // 20 % 40_000).astype(np.int32)
    protocol = np.where(np.arange(sessions) % 8 == 1, 17, 6).astype(np.uint8)
    out = random.integers(0, 2, n).astype(bool)
    octets = random.integers(60, 1500, n)
    first = np.zeros(n, bool)
    first[np.unique(session, return_index=True)[1]] = True
    flags = np.where(first, 2, 16).astype(np.int16)
    protocols = protocol[session]
    flags[protocols != 6] = -1
    return Packets(
        time_ns=_T0 + np.sort(random.integers(0, int(seconds * 1e9), n)),
        source=np.where(out[:, None], here[session], there[session]),
        target=np.where(out[:, None], there[session], here[session]),
        source_port=np.where(out, port[session], 443).astype(np.int32),
        target_port=np.where(out, 443, port[session]).astype(np.int32),
        protocol=protocols,
        octets=octets,
        content_octets=octets - 40,
        packets=np.ones(n, np.int64),
        tcp_flags=flags,
        sent=out.astype(np.int8),
        interface=np.zeros(n, np.int32),
    )


def run(packets: Packets, chunk: int) -> tuple[float, float, int]:
    """CPU seconds, octets of memory for each flow before the flush, rows given out; checks the sums."""
    own = NetworkSet(["192.0.2.0/24", "2001:db8::ffff:c000:200/120"])
    accounts = Accounts()
    table = FlowTable(local=own.contains, vantage="bench", interfaces=["eth0"], accounts=accounts)
    parts = [packets.take(slice(at, at + chunk)) for at in range(0, len(packets), chunk)]
    start = time.process_time()
    amounts, rows = Amounts(), 0
    for part in parts:
        batch = table.add(part)
        amounts += batch.amounts()
        rows += len(batch)
    used = time.process_time() - start
    peak = len(table), table._slots._top * 152 + table._slots._index.nbytes
    start = time.process_time()
    batch = table.flush()
    used += time.process_time() - start
    amounts += batch.amounts()
    rows += len(batch)
    assert amounts == accounts.check().read().captured
    assert amounts.octets_out + amounts.octets_in == int(packets.octets.sum())
    return used, peak[1] / max(peak[0], 1), rows


def main(arguments: list[str]) -> None:
    """The table of the flow table."""
    sizes = [(25_000, 2_000_000), (500_000, 2_000_000)]
    if arguments:
        sizes = [(*map(int, arguments), *sizes[0][len(arguments) :])]  # type: ignore[list-item]
    given = {size: traffic(*size) for size in sizes}
    ended: dict[tuple[int, int], list[tuple[float, float, int]]] = {size: [] for size in sizes}
    for _ in range(REPEATS):
        for size, packets in given.items():
            ended[size].append(run(packets, CHUNK))
    rows = [["flows open at once", "M packets/s of CPU", "octets of memory each", "rows"]]
    for (sessions, n), runs in ended.items():
        rate = n / statistics.median(seconds for seconds, _, _ in runs) / 1e6
        rows.append([f"{sessions:,}", f"{rate:.2f}", f"{runs[0][1]:.0f}", f"{runs[0][2]:,}"])
    title = f"{sizes[0][1]:,} decoded packets in pieces of {CHUNK:,}, {REPEATS} runs; sums exact"
    Report("flows", title, rows, partial=bool(arguments)).publish()
