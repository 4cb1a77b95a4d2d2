"""The other ends of live traffic, and rows summed as the peer's counters have them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tests.tools.netns import Count, Namespace, Task, wait_for

PORT = 5001
Rows = Sequence[dict[str, Any]]


@contextlib.contextmanager
def serving(
    where: Namespace, address: str, *, answer: int = 0, port: int = PORT, times: int = 1
) -> Iterator[None]:
    """A server that reads everything, answers and closes."""
    ready = threading.Event()

    def serve() -> None:
        with socket.create_server((address, port), family=_family(address), backlog=1000) as server:
            ready.set()
            for _ in range(times):
                with server.accept()[0] as link:
                    while link.recv(1 << 16):
                        pass
                    link.sendall(bytes(answer))

    task = Task(where, serve)
    wait_for(ready.is_set, "the server")
    yield
    task.result()


@contextlib.contextmanager
def sink(where: Namespace, address: str, port: int = PORT) -> Iterator[None]:
    """A socket that takes datagrams, so that none is answered with an error."""
    with where.call(lambda: socket.socket(_family(address), socket.SOCK_DGRAM)) as taking:
        taking.bind((address, port))
        yield


def total(rows: Rows) -> dict[tuple[str, str, int], Count]:
    """As ``Pair.counts``: what left here came into the peer."""
    out = {(w, f, p): (0, 0) for w in ("in", "out") for f in ("ip", "ip6") for p in (6, 17)}
    for row in rows:
        family = "ip6" if ":" in row["local_address"] else "ip"
        for way, side in (("in", "out"), ("out", "in")):
            key = (way, family, row["protocol"])
            out[key] = (out[key][0] + row[f"packets_{side}"], out[key][1] + row[f"octets_{side}"])
    return out


def sums(rows: Rows, *names: str) -> tuple[int, ...]:
    """The sum of each column."""
    return tuple(sum(row[name] for row in rows) for name in names)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
