"""What a simulated fleet is: hosts, stores, destinations, incidents; all of it follows from the seed.

Every name says that it is simulated, every address is from a documentation or private range (RFC 5737, RFC 3849,
RFC 1918), every AS number from a private one (RFC 6996), unless the user gives destinations of their own.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import Addresses, Network, parse, span
from agent.core.clock import HOUR_NS, MINUTE_NS, SECOND_NS

DESTINATIONS: Final = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/33")
"""The documentation ranges; the other half of the last is the receivers' of incidents."""
RECEIVERS: Final = "2001:db8:8000::/33"
SIMULATED: Final = "simulated"
"""What the names of agents, hosts, stores and topics begin with or hold."""
TENANT: Final = "simulated"
DIFFERENT: Final = 20_000
"""Destinations that the fleet knows."""
NETWORKS: Final = 400
FIRST_ASN: Final = 64_512
RECEIVER_ASN: Final = 4_200_000_000
HOSTS_OF_A_STORE: Final = 10
BACKLOG_NS: Final = 10 * MINUTE_NS
_COUNTRIES: Final = ("JP", "US", "DE", "FR", "SG", "BR", "GB", "AU", "KR", "NL")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked for."""

    hosts: int
    rate: float
    """Rows a second and host, on average over the run, as collectors hand them over."""
    seconds: int
    begin_ns: int
    """Event time of the first rows, but for their jitter."""
    seed: int = 1
    backlog_share: float = 0.01
    """Of the hosts: those that send what they have kept for 10 minutes, beside what is new."""
    store_share: float = 0.02
    """Of the hosts: those on which a store runs, at least one."""
    incidents: int = 0
    jitter_s: float = 30.0
    """How far the end of a row may lie before it is handed over."""
    destinations: tuple[str, ...] = DESTINATIONS

    def tag(self, *more: object) -> bytes:
        """16 octets that follow from all of it."""
        return hashlib.sha256(repr((asdict(self), more)).encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class Incident:
    """A transfer that a detector should find. The amounts are exact."""

    number: int
    host: str
    agent_id: str
    store: str
    entity: str
    """As findings name the receiver."""
    kind: str
    begin_ns: int
    end_ns: int
    content_octets_out: int
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """The fleet that was asked for."""

    asked: Asked
    incidents: tuple[Incident, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "incidents", tuple(map(self._incident, range(self.asked.incidents))))

    # hosts

    @cached_property
    def store_hosts(self) -> int:
        """The first so many hosts run a store."""
        return max(1, min(self.asked.hosts, round(self.asked.hosts * self.asked.store_share)))

    @cached_property
    def backlogged(self) -> frozenset[int]:
        """Hosts that replay a backlog; store hosts among them in proportion."""
        asked = self.asked
        count = round(asked.hosts * asked.backlog_share)
        random = np.random.default_rng([asked.seed, 2])
        return frozenset(random.choice(asked.hosts, count, replace=False).tolist())

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """How much of the average rate each host sends; the mean is 1."""
        drawn = np.random.default_rng([self.asked.seed, 3]).lognormal(0.0, 0.5, self.asked.hosts)
        return np.asarray(drawn / drawn.mean())

    @cached_property
    def phases_ns(self) -> NDArray[np.int64]:
        """When each host's agent hands over its rows within each 10 s: agents do not start together."""
        random = np.random.default_rng([self.asked.seed, 4])
        return random.integers(0, 10 * SECOND_NS, self.asked.hosts)

    def agent_id(self, host: int) -> str:
        """``simulated-SEED-NUMBER``: another seed has other keys, so it has other agents."""
        return f"{SIMULATED}-{self.asked.seed}-{host:06d}"

    def store_of(self, host: int) -> str:
        """The store on a host; empty where there is none."""
        return f"{SIMULATED}-store-{host // HOSTS_OF_A_STORE:03d}" if host < self.store_hosts else ""

    @property
    def stores(self) -> tuple[str, ...]:
        """Every store."""
        return tuple(dict.fromkeys(self.store_of(host) for host in range(self.store_hosts)))

    def policy(self) -> str:
        """A policy (YAML) under which a detector knows the stores."""
        lines = [
            "# Written by `sekisho simulate fleet`: stores of hosts that do not exist.",
            "version: 1",
            f"tenant: {TENANT}",
            "stores:",
        ]
        for number, store in enumerate(self.stores):
            first = number * HOSTS_OF_A_STORE
            hosts = range(first, min(first + HOSTS_OF_A_STORE, self.store_hosts))
            lines += [
                f"  - id: {store}",
                "    name: simulated, of no real data",
                "    categories: [personal_health]",
                f"    recognise: {{hosts: [{', '.join(self.agent_id(host) for host in hosts)}]}}",
            ]
        return "\n".join(lines) + "\n"

    def rhythm(self, at_ns: int) -> float:
        """How busy the hour is beside the run's average: half as much again at three in the afternoon, half at night."""
        return _busy(at_ns) / self._mean_busy

    @cached_property
    def _mean_busy(self) -> float:
        steps = np.linspace(0, self.asked.seconds * SECOND_NS, 500)
        return float(np.mean([_busy(self.asked.begin_ns + int(step)) for step in steps]))

    # destinations

    @cached_property
    def addresses(self) -> Addresses:
        """Destinations, those that most flows go to first."""
        return _spread(self.asked.destinations, DIFFERENT, self.asked.seed)

    @cached_property
    def network_of(self) -> NDArray[np.int64]:
        """By destination: the number of its network."""
        random = np.random.default_rng([self.asked.seed, 5])
        return np.minimum(random.zipf(1.3, DIFFERENT) - 1, NETWORKS - 1)

    @property
    def organisations(self) -> tuple[str, ...]:
        """By network."""
        return tuple(f"Simulated Network {n} Ltd" for n in range(NETWORKS))

    @property
    def owners(self) -> tuple[str, ...]:
        """By network, modulo their number."""
        return tuple(f"Simulated Owner {n}" for n in range(120))

    @property
    def countries(self) -> tuple[str, ...]:
        """By network, modulo their number."""
        return _COUNTRIES

    @cached_property
    def receivers(self) -> Addresses:
        """16 addresses for each incident."""
        return _spread((RECEIVERS,), max(16 * self.asked.incidents, 1), self.asked.seed + 1)

    def _incident(self, number: int) -> Incident:
        """One in four trickles over three quarters of the run, the others are bursts."""
        asked, random = self.asked, np.random.default_rng([self.asked.seed, 6, number])
        host = number * 7 % self.store_hosts
        trickles = number % 4 == 3
        run_ns = asked.seconds * SECOND_NS
        lasts_ns = max(run_ns * 3 // 4 if trickles else min(run_ns // 3, 5 * MINUTE_NS), SECOND_NS)
        begin_ns = (
            asked.begin_ns + int(self.phases_ns[host]) + int(random.integers(0, max(run_ns - lasts_ns, 1)))
        )
        rows = max(1, lasts_ns // SECOND_NS * (1 if trickles else 4))
        return Incident(
            number=number,
            host=self.agent_id(host),
            agent_id=self.agent_id(host),
            store=self.store_of(host),
            entity=f"as:{RECEIVER_ASN + number}",
            kind="trickle" if trickles else "burst",
            begin_ns=begin_ns,
            end_ns=begin_ns + lasts_ns,
            content_octets_out=int(random.integers(1_500, 6_000)) * 10**6 + number,
            rows=int(rows),
        )


def _busy(at_ns: int) -> float:
    return 1.0 + 0.5 * float(np.sin(2 * np.pi * (at_ns % (24 * HOUR_NS) / HOUR_NS - 9) / 24))


def _spread(networks: Sequence[str], count: int, seed: int) -> Addresses:
    """Addresses of some networks in turn; one comes again where a network has fewer."""
    spans = [span(_network(text)) for text in networks]
    random = np.random.default_rng([seed, 1])
    out = []
    for n, part in enumerate(random.integers(0, 2**62, count).tolist()):
        low, high = spans[n % len(spans)]
        out.append(str(ipaddress.IPv6Address(low + part % (high - low + 1))))
    return parse(out)


def _network(text: str) -> Network:
    return ipaddress.ip_network(text)
