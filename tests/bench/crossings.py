"""The two ends of the traffic of ``python -m tests.bench alert``; needs nothing but the standard library.

    python -m tests.bench.crossings sink
    python -m tests.bench.crossings send SOURCE NETWORK COUNT FIRST LAST SECONDS

``send``: COUNT connections to ``NETWORK:20::1`` and so on, begun over SECONDS. Each sends FIRST octets, waits for some
seconds, and sends LAST octets more: with these it passes the threshold. Prints {number: time just before that call, ns}.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

PORT = 5002
FIRST = 32
"""Number of the first receiver; other traffic goes to those below."""
WAIT_S = (2.0, 6.0)


async def sink() -> None:
    """Take everything that comes, until it is ended."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass
        writer.close()

    async with await asyncio.start_server(take, "::", PORT, backlog=1024) as server:
        print("ready", flush=True)
        await server.serve_forever()


async def send(source: str, network: str, count: int, first: int, last: int, seconds: float) -> None:
    """All transfers; says when each passed the threshold."""
    crossed: dict[int, int] = {}
    chance = random.Random(7)

    async def one(number: int, begin_s: float, wait_s: float) -> None:
        await asyncio.sleep(begin_s)
        _, writer = await asyncio.open_connection(f"{network}:{number:x}::1", PORT, local_addr=(source, 0))
        writer.write(bytes(first))
        await writer.drain()
        await asyncio.sleep(wait_s)
        crossed[number] = time.time_ns()
        writer.write(bytes(last))
        await writer.drain()
        await asyncio.sleep(1.0)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(
        *(one(FIRST + n, chance.uniform(0, seconds), chance.uniform(*WAIT_S)) for n in range(count))
    )
    print(json.dumps(crossed), flush=True)


def main() -> None:
    """See the module's text."""
    what, *rest = sys.argv[1:]
    if what == "sink":
        asyncio.run(sink())
    else:
        source, network, *numbers = rest
        count, first, last = map(int, numbers[:3])
        asyncio.run(send(source, network, count, first, last, float(numbers[3])))


if __name__ == "__main__":
    main()
