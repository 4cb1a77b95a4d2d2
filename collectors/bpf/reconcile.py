"""Rows beside the counters of the interfaces: what left the host and is in no row is told, as octets and as a share.

Interface counters count frames. Taken off are the link layer's header of each frame, and frames that are no IP packets
(ARP and the like), which are known from the IP layer's own counters: at most ``_NOT_IP`` octets each, so that large
frames that the IP layer never saw (packet sockets, bridged guests) stay unexplained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.core.accounts import Reconciled
from agent.core.clock import HOUR_NS, SECOND_NS
from collectors.host.interfaces import Host

_NOT_IP: Final = 46
"""Octets of an Ethernet frame's payload after padding (IEEE 802.3); an ARP packet has 28."""
_NET: Final = Path("/proc/thread-self/net")


@dataclass(frozen=True, slots=True)
class Counters:
    """Sums over the uplinks of this thread's network namespace at one moment."""

    links: dict[int, tuple[int, int, int, int]]
    """Interface index -> (packets in, packets out, octets in, octets out), octets without the link layer's header."""
    ip_in: int
    """Packets that the IP layer took from any interface but ``lo``."""
    ip_out: int

    @classmethod
    def read(cls, host: Host, net: Path = _NET) -> Counters:
        """Those of now. What the kernel does not tell is 0."""
        links = {}
        for i in host.uplinks():
            t = i.traffic
            links[i.index] = (
                t.packets_in,
                t.packets_out,
                max(t.octets_in - i.link_header * t.packets_in, 0),
                max(t.octets_out - i.link_header * t.packets_out, 0),
            )
        within = sum(i.traffic.packets_out for i in host.interfaces.values() if i.loopback)
        taken, sent = _ip_packets(net)
        return cls(links, max(taken - within, 0), max(sent - within, 0))

    def since(self, before: Counters) -> tuple[int, int, int, int, int, int]:
        """(packets in, packets out, octets in, octets out, IP packets in, IP packets out) from ``before`` to this."""
        sums = [0, 0, 0, 0]
        for index, now in self.links.items():
            # An interface that is new, or that was made anew, began at 0.
            then = before.links.get(index, (0, 0, 0, 0))
            if any(a < b for a, b in zip(now, then, strict=True)):
                then = (0, 0, 0, 0)
            sums = [s + a - b for s, a, b in zip(sums, now, then, strict=True)]
        return (*sums, max(self.ip_in - before.ip_in, 0), max(self.ip_out - before.ip_out, 0))  # type: ignore[return-value]


class Reckoning:
    """Compares once an hour of the clock on the wall, and at the end."""

    def __init__(self, counters: Counters, wall_ns: int, boot_ns: int) -> None:
        self._before, self._began_ns, self._hour = counters, boot_ns, wall_ns // HOUR_NS
        self._rows = [0, 0]

    def add(self, octets_out: int, octets_in: int) -> None:
        """Take up what a reading counted, but for what stayed within the host."""
        self._rows[0] += octets_out
        self._rows[1] += octets_in

    def due(self, wall_ns: int) -> bool:
        """Whether another hour has begun."""
        return wall_ns // HOUR_NS != self._hour

    def close(self, counters: Counters, wall_ns: int, boot_ns: int) -> Reconciled:
        """The comparison since the last one; the next one begins."""
        packets_in, packets_out, octets_in, octets_out, ip_in, ip_out = counters.since(self._before)
        out = Reconciled(
            seconds=(boot_ns - self._began_ns) / SECOND_NS,
            interfaces_out=octets_out,
            rows_out=self._rows[0],
            not_ip_out=min(max(packets_out - ip_out, 0) * _NOT_IP, octets_out),
            interfaces_in=octets_in,
            rows_in=self._rows[1],
            not_ip_in=min(max(packets_in - ip_in, 0) * _NOT_IP, octets_in),
        )
        self._before, self._began_ns, self._hour, self._rows = counters, boot_ns, wall_ns // HOUR_NS, [0, 0]
        return out


def _ip_packets(net: Path) -> tuple[int, int]:
    """(packets taken in, packets sent on or out) by IPv4 and IPv6 together (proc(5): net/snmp; net/snmp6)."""
    numbers: dict[str, int] = {}
    try:
        lines = [line.split() for line in (net / "snmp").read_text().splitlines() if line.startswith("Ip:")]
        numbers |= {
            f"4{name}": int(value) for name, value in zip(*lines[:2], strict=False) if value.isdigit()
        }
    except (OSError, TypeError):
        pass
    try:
        pairs = (line.split() for line in (net / "snmp6").read_text().splitlines())
        numbers |= {f"6{name.removeprefix('Ip6')}": int(value) for name, value in pairs}
    except (OSError, ValueError):
        pass

    def total(*names: str) -> int:
        return sum(numbers.get(family + name, 0) for family in "46" for name in names)

    return total("InReceives"), total("OutRequests", "ForwDatagrams", "OutForwDatagrams")
