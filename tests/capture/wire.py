"""Three network namespaces: the watched host, the wire, and the peer that counts what the wire carried.

The wire is a bridge that cuts offload frames into packets, so that the host works with every offload it has and the
peer still sees each packet by itself. nft counts in the peer, before anything else there looks at a packet.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.tools.netns import Namespace, run

TCP, UDP, ICMP, GRE, ICMP6, SCTP, TESTING = 6, 17, 1, 47, 58, 132, 253
FAMILIES = (4, 6)
_RUN = os.getpid() % 60 * 4
"""A collector that sees every namespace of the machine shall not take one run's traffic for another's."""


def _ends(v4: str, v6: str, number: int) -> dict[int, str]:
    return {4: f"{v4}.{_RUN + number}", 6: f"2001:db8:{os.getpid() % 0xFFFF:x}:{v6}::{number}"}


HOST, PEER = _ends("192.0.2", "1", 1), _ends("192.0.2", "1", 2)
ALIAS = _ends("192.0.2", "1", 3)
"""What the host's address is translated to."""
SERVICE = _ends("203.0.113", "2", 3)
"""A service's address that is translated to the peer's."""
INNER_HOST, INNER_PEER = _ends("198.51.100", "3", 1), _ends("198.51.100", "3", 2)
"""The ends of a tunnel."""
BOX, BOX_GATE = _ends("203.0.113", "4", 2), _ends("203.0.113", "4", 1)
"""A container on the host, in a namespace of its own, and the host's end towards it."""

_numbers = itertools.count()
_MACS = {"h0": "02:00:00:00:00:01", "p0": "02:00:00:00:00:02"}
_IP_HEADER = {4: 20, 6: 40}
_HEADER = {UDP: 8, SCTP: 12}
_NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp", GRE: "gre", ICMP6: "icmpv6", SCTP: "sctp", TESTING: "253"}


@dataclass(frozen=True, slots=True)
class Counts:
    """What one family's packets of some protocols were: octets at the IP layer, headers included."""

    octets_out: int = 0
    packets_out: int = 0
    octets_in: int = 0
    packets_in: int = 0
    content_octets_out: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(mine - its for mine, its in zip(self.as_tuple(), other.as_tuple(), strict=True)))

    def as_tuple(self) -> tuple[int, int, int, int, int]:
        """The five numbers in order."""
        return (
            self.octets_out,
            self.packets_out,
            self.octets_in,
            self.packets_in,
            self.content_octets_out,
        )


@dataclass(slots=True)
class Wire:
    """The three namespaces, and those that a scenario adds."""

    host: Namespace
    bridge: Namespace
    peer: Namespace
    local: dict[int, set[str]] = field(default_factory=lambda: {f: {HOST[f]} for f in FAMILIES})
    """Addresses that are the host's, as the peer sees them; :meth:`count` again after a change."""
    behind: dict[int, set[str]] = field(default_factory=lambda: {f: set() for f in FAMILIES})
    """Addresses that rows may bear instead, for they are translated before the peer sees them."""
    more: list[Namespace] = field(default_factory=list)

    def count(self) -> None:
        """Set up the counters anew."""
        with contextlib.suppress(RuntimeError):
            self.peer.run("nft", "delete", "table", "inet", "truth")
        self.rules(self.peer, _ruleset(self.local))

    @staticmethod
    def chain(namespace: Namespace, name: str, head: str, *rules: str) -> None:
        """Add a chain with rules, in a table of its own."""
        lines = "\n".join((f"type {head};", *rules))
        Wire.rules(namespace, f"table inet {name} {{\nchain only {{\n{lines}\n}}\n}}\n")

    @staticmethod
    def rules(namespace: Namespace, text: str) -> None:
        """Load nft rules in a namespace."""
        line = ("ip", "netns", "exec", namespace.name, "nft", "-f", "-")
        done = subprocess.run(line, input=text, text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"nft: {done.stderr}")

    def read(self) -> dict[str, tuple[int, int]]:
        """Every counter: name -> (packets, octets)."""
        found = json.loads(self.peer.run("nft", "-j", "list", "counters", "table", "inet", "truth"))
        counters = (entry["counter"] for entry in found["nftables"] if "counter" in entry)
        return {c["name"]: (c["packets"], c["bytes"]) for c in counters}

    def truth(self, family: int, protocols: tuple[int, ...]) -> Counts:
        """What nft counted of the host's packets, there and back."""
        found = self.read()
        out = [found[_name("in", family, p)] for p in protocols]
        back = [found[_name("out", family, p)] for p in protocols]
        headers = sum(_headers(found, family, p) for p in protocols)
        octets = sum(o for _p, o in out)
        return Counts(
            octets, sum(p for p, _o in out), sum(o for _p, o in back), sum(p for p, _o in back), octets - headers
        )  # fmt: skip

    def resets(self, family: int) -> int:
        """Resets of the host with no option at all: those that belong to no connection (the others carry timestamps)."""
        return self.read()[f"reset_{family}"][0]

    def namespace(self, what: str) -> Namespace:
        """A further namespace, removed with the others."""
        made = Namespace(f"sk{what}{os.getpid()}x{next(_numbers)}")
        self.more.append(made)
        run("ip", "netns", "add", made.name)
        made.ip("link", "set", "lo", "up")
        return made


def _name(way: str, family: int, protocol: int) -> str:
    return f"{way}_{family}_{_NAMES[protocol]}"


def _headers(found: dict[str, tuple[int, int]], family: int, protocol: int) -> int:
    """Octets of IP and transport headers that came in, by docs/decoding.md; of TCP by each packet's data offset."""
    packets = found[_name("in", family, protocol)][0]
    if protocol == TCP:
        return packets * _IP_HEADER[family] + sum(
            4 * words * found[f"doff_{family}_{words}"][0] for words in range(5, 16)
        )
    return packets * (_IP_HEADER[family] + _HEADER.get(protocol, 0))


def _ruleset(local: dict[int, set[str]]) -> str:
    names, rules = [], {"in": [], "out": []}
    for family in FAMILIES:
        word = {4: "ip", 6: "ip6"}[family]
        hosts = "{ " + ", ".join(sorted(local[family])) + " }"
        for protocol, text in _NAMES.items():
            for way, end in (("in", "saddr"), ("out", "daddr")):
                names.append(name := _name(way, family, protocol))
                rules[way].append(f"{word} {end} {hosts} meta l4proto {text} counter name {name};")
        for words in range(5, 16):
            names.append(name := f"doff_{family}_{words}")
            rules["in"].append(f"{word} saddr {hosts} tcp doff {words} counter name {name};")
        names.append(name := f"reset_{family}")
        bare = "tcp flags & rst == rst tcp doff 5"
        rules["in"].append(f"{word} saddr {hosts} {bare} counter name {name};")
    counters = "\n".join(f"counter {name} {{ }}" for name in names)
    return f"""
    table inet truth {{
        {counters}
        chain in {{ type filter hook prerouting priority -450; {" ".join(rules["in"])} }}
        chain out {{ type filter hook postrouting priority 450; {" ".join(rules["out"])} }}
    }}"""


@contextlib.contextmanager
def wire() -> Iterator[Wire]:
    """The namespaces with their addresses and counters; all that is in them goes with them."""
    number = f"{os.getpid()}x{next(_numbers)}"
    made = Wire(*(Namespace(f"sk{what}{number}") for what in "hwp"))
    try:
        _make(made)
        made.count()
        yield made
    finally:
        for namespace in (made.host, made.bridge, made.peer, *made.more):
            subprocess.run(("ip", "netns", "del", namespace.name), check=False, capture_output=True)


def _make(made: Wire) -> None:
    for namespace in (made.host, made.bridge, made.peer):
        run("ip", "netns", "add", namespace.name)
        namespace.ip("link", "set", "lo", "up")
    made.bridge.ip("link", "add", "b0", "type", "bridge", "mcast_snooping", "0")
    for namespace, end, port in ((made.host, "h0", "w0"), (made.peer, "p0", "w1")):
        namespace.ip(
            "link", "add", end, "address", _MACS[end], "type", "veth", "peer", "name", port, "netns", made.bridge.name
        )  # fmt: skip
        made.bridge.ip("link", "set", port, "master", "b0", "up")
    made.bridge.ip("link", "set", "b0", "up")
    made.host.run("ethtool", "-K", "h0", "gro", "on")
    plain = ("tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off")
    for namespace, end in ((made.bridge, "w1"), (made.peer, "p0")):
        namespace.run("ethtool", "-K", end, *plain)
    # TCP hands whole super-packets to nft even so, unless the link takes one segment at a time.
    made.peer.ip("link", "set", "p0", "gso_max_segs", "1")
    for namespace, end, other, mine, its in (
        (made.host, "h0", "p0", HOST, PEER),
        (made.peer, "p0", "h0", PEER, HOST),
    ):
        namespace.ip("link", "set", end, "up")
        for family, length in ((4, "24"), (6, "64")):
            quick = ("nodad",) if family == 6 else ()
            namespace.ip("addr", "add", f"{mine[family]}/{length}", "dev", end, *quick)
            namespace.ip(
                "neigh", "replace", its[family], "lladdr", _MACS[other], "dev", end, "nud", "permanent"
            )
