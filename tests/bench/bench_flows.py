"""How fast the flow table is, in process: python -m tests.bench flows [sessions] [packets].

Sessions are open all the time and send in random order, half of them answer; the bar is 2 M packets/s at 25,000
sessions and 2,000,000 packets, and 300 octets for each flow.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from agent.core.accounts import Accounts, Amounts
from agent.core.address import NetworkSet, from_v4
from collectors.flowtable.flows import FlowTable
from collectors.packets.packet import Packets

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


def run(packets: Packets, chunk: int) -> tuple[float, FlowTable, int]:
    """CPU seconds, the table as it was before the flush, rows given out; checks the sums."""
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
    print(f"flows at the end {peak[0]}, {peak[1] / max(peak[0], 1):.0f} octets each, {rows} rows")
    return used, table, rows


def main(arguments: list[str]) -> None:
    """Print the median of five runs."""
    sessions, n = (*map(int, arguments), *(25_000, 2_000_000)[len(arguments) :])
    packets = traffic(sessions, n)
    used = sorted(run(packets, 16_384)[0] for _ in range(5))[2]
    print(f"{sessions} sessions, {n} packets: {used:.2f} s CPU, {n / used / 1e6:.2f} M packets/s")


if __name__ == "__main__":
    main(sys.argv[1:])
