"""A collector that reads the connection tracking table of a namespace made for it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.core.accounts import Accounts
from agent.core.clock import Clock, SystemClock
from agent.core.flow import FlowBatch, concat
from agent.core.stages import Context
from collectors.conntrack import Settings
from tests.tools.netns import Namespace, wait_for

Rows = list[dict[str, Any]]
TRACK = (
    "add table inet tracked; add chain inet tracked out { type filter hook output priority 0; }; "
    "add rule inet tracked out ct state new counter"
)
"""The least that makes the kernel track connections."""


def track(namespace: Namespace, *, counted: bool = True) -> None:
    """Have connections tracked in a namespace, and counted."""
    namespace.run("sysctl", "-qw", f"net.netfilter.nf_conntrack_acct={int(counted)}")
    namespace.run("nft", TRACK)


def tracked(namespace: Namespace) -> int:
    """Entries in its table."""
    return int(namespace.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count"))


class Reading:
    """A collector at work in a namespace, in a thread that this can hold up."""

    def __init__(self, namespace: Namespace, clock: Clock, **settings: Any) -> None:
        self.accounts = Accounts()
        self.batches: list[FlowBatch] = []
        self.error: BaseException | None = None
        self.stop, self.started, self.go_on = threading.Event(), threading.Event(), threading.Event()
        self.go_on.set()
        context = Context(accounts=self.accounts, state_dir=Path("/nonexistent"), clock=clock)
        self.collector = Settings.model_validate({"processes": False, "interval": 1} | settings).build(
            context
        )
        self._namespace = namespace
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    def _collect(self) -> None:
        try:
            self._namespace.enter()
            for batch in self.collector.collect(self.stop):
                self.batches.append(batch)
                self.started.set()
                self.go_on.wait()
        except BaseException as error:  # noqa: BLE001  handed to the test
            self.error = error

    def sent(self, port: int) -> int:
        """Octets to or from that port of the other end, so far."""
        rows = [b.take(b["remote_port"] == port) for b in list(self.batches)]
        return sum(int(b["octets_out"].sum()) for b in rows)

    def until_sent(self, port: int, octets: int) -> None:
        """Wait until so much to that port was handed out."""
        wait_for(lambda: self.sent(port) >= octets, f"{octets} octets to port {port}")

    def more(self, batches: int) -> None:
        """Wait until it has yielded so many more."""
        enough = len(self.batches) + batches
        wait_for(lambda: len(self.batches) >= enough, f"{batches} batches")

    def rows(self) -> Rows:
        """Stop it; all its rows. Raises what it raised, and checks the account."""
        self.stop.set()
        self.go_on.set()
        self.thread.join(30)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        whole = concat(self.batches)
        account = self.accounts.check().read()
        assert account.in_memory == whole.amounts()
        return list(whole.rows())


@contextlib.contextmanager
def reading(namespace: Namespace, clock: Clock | None = None, **settings: Any) -> Iterator[Reading]:
    """A collector that has begun; stopped in any case."""
    made = Reading(namespace, clock or SystemClock(), **settings)
    try:
        wait_for(lambda: made.started.is_set() or not made.thread.is_alive(), "the collector to begin")
        yield made
    finally:
        made.stop.set()
        made.go_on.set()
        made.thread.join(30)


def datagrams(target: str, port: int, sizes: list[int], source_port: int = 0) -> None:
    """Send datagrams from the namespace of the calling thread."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sender.bind(("", source_port))
        for size in sizes:
            sender.sendto(bytes(size), (target, port))


def exchange(client: Namespace, server: Namespace, address: str, port: int, up: int, down: int) -> None:
    """One TCP connection: the client sends, the server answers, both close."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ready = threading.Event()

    def serve() -> None:
        server.enter()
        with socket.create_server((address, port), family=family) as listening:
            ready.set()
            with listening.accept()[0] as link:
                while link.recv(1 << 16):
                    pass
                link.sendall(bytes(down))

    def ask() -> None:
        with socket.create_connection((address, port)) as link:
            link.sendall(bytes(up))
            link.shutdown(socket.SHUT_WR)
            while link.recv(1 << 16):
                pass

    serving = threading.Thread(target=serve)
    serving.start()
    assert ready.wait(10)
    client.call(ask)
    serving.join(30)
