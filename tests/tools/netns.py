"""Network namespaces for live tests: two of them joined by a veth, with nft counters in the peer as the truth.

Needs root, iproute2, nftables and ethtool. Only documentation addresses are used, nothing leaves the namespaces, and
everything is removed at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

HOST4, PEER4 = "192.0.2.1", "192.0.2.2"
HOST6, PEER6 = "2001:db8::1", "2001:db8::2"
_CLONE_NEWNET = 0x40000000
_counter = itertools.count()
T = TypeVar("T")


def run(*command: str) -> str:
    """Run a command; its output. Raises with what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait until ``condition`` holds; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace."""

    name: str

    def run(self, *command: str) -> str:
        """Run a command in it."""
        return run("ip", "netns", "exec", self.name, *command)

    def ip(self, *words: str) -> str:
        """Run ip in it."""
        return run("ip", "-n", self.name, *words)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program in it."""
        line = ("ip", "netns", "exec", self.name, *command)
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def enter(self) -> None:
        """Put the calling thread into it, for good."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{self.name}").open() as handle:
            if libc.setns(handle.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def call(self, function: Callable[[], T]) -> T:
        """What ``function`` gives when a thread in this namespace calls it."""
        task = Task(self, function)
        return task.result()


class Task:
    """A function that runs in a thread inside a namespace."""

    def __init__(self, namespace: Namespace, function: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None

        def work() -> None:
            try:
                namespace.enter()
                self._value = function()
            except BaseException as error:  # noqa: BLE001  handed to whoever asks for the result
                self._error = error

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def result(self, seconds: float = 60.0) -> Any:
        """Its value, or the error it raised."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"still running after {seconds} s"
        if self._error is not None:
            raise self._error
        return self._value


Count = tuple[int, int]
"""(packets, octets at the IP layer)."""


@dataclass(slots=True)
class Pair:
    """``host`` is watched; ``peer`` is the other end. ``link`` joins them: h0 in host, p0 in peer."""

    host: Namespace
    peer: Namespace

    def counts(self) -> dict[tuple[str, str, int], Count]:
        """(in or out of the peer, ip or ip6, protocol) -> what nft counted there, of TCP and UDP."""
        found = json.loads(self.peer.run("nft", "-j", "list", "counters", "table", "inet", "truth"))
        out = {}
        for entry in found["nftables"]:
            if counter := entry.get("counter"):
                way, family, protocol = counter["name"].split("_")
                out[way, family, {"tcp": 6, "udp": 17}[protocol]] = (counter["packets"], counter["bytes"])
        return out

    def settle(self) -> None:
        """Wait until the peer counts no more."""
        seen: list[Any] = []

        def still() -> bool:
            seen.append(self.counts())
            time.sleep(0.05)
            return len(seen) > 4 and seen[-1] == seen[-2] == seen[-3] == seen[-4]

        wait_for(still, "traffic to end")


_COUNTERS = """
table inet truth {
    %s
    chain in { type filter hook prerouting priority -400; %s }
    chain out { type filter hook postrouting priority 400; %s }
}
"""


def count_in(namespace: Namespace) -> None:
    """Set up nft counters for TCP and UDP of both families, by way."""
    names, rules = [], {"in": [], "out": []}
    for way, family, protocol in itertools.product(("in", "out"), ("ip", "ip6"), ("tcp", "udp")):
        name = f"{way}_{family}_{protocol}"
        names.append(f"counter {name} {{ }}")
        version = {"ip": "ipv4", "ip6": "ipv6"}[family]
        rules[way].append(f"meta nfproto {version} meta l4proto {protocol} counter name {name};")
    text = _COUNTERS % ("\n".join(names), "\n".join(rules["in"]), "\n".join(rules["out"]))
    subprocess.run(
        ("ip", "netns", "exec", namespace.name, "nft", "-f", "-"), input=text, text=True, check=True
    )


@contextlib.contextmanager
def pair(*, offload: bool = False) -> Iterator[Pair]:
    """Two joined namespaces with addresses ``HOST4``, ``HOST6`` and ``PEER4``, ``PEER6``; removed at the end.

    ``offload`` leaves segmentation offload on, so that frames of many packets travel whole.
    """
    number = f"{os.getpid()}{next(_counter)}"
    made = Pair(Namespace(f"skh{number}"), Namespace(f"skp{number}"))
    try:
        for namespace in (made.host, made.peer):
            run("ip", "netns", "add", namespace.name)
            namespace.ip("link", "set", "lo", "up")
        join(made, "h0", "p0", offload=offload)
        address(made.host, "h0", HOST4, HOST6)
        address(made.peer, "p0", PEER4, PEER6)
        count_in(made.peer)
        yield made
    finally:
        for namespace in (made.host, made.peer):
            subprocess.run(("ip", "netns", "del", namespace.name), check=False, capture_output=True)


def join(between: Pair, host_end: str, peer_end: str, *, offload: bool = False) -> None:
    """Add a veth between the two and set it up."""
    host, peer = between.host, between.peer
    host.ip("link", "add", host_end, "type", "veth", "peer", "name", peer_end, "netns", peer.name)
    for namespace, end in ((host, host_end), (peer, peer_end)):
        if not offload:
            namespace.run("ethtool", "-K", end, "tso", "off", "gso", "off", "gro", "off")
            # TCP hands whole super-packets to nft even so, unless the link takes one segment at a time.
            namespace.ip("link", "set", end, "gso_max_segs", "1")
        namespace.ip("link", "set", end, "up")


def address(namespace: Namespace, interface: str, v4: str, v6: str) -> None:
    """Give an interface its addresses, usable at once."""
    namespace.ip("addr", "add", f"{v4}/24", "dev", interface)
    namespace.ip("addr", "add", f"{v6}/64", "dev", interface, "nodad")
