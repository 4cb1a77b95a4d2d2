"""Rows beside the counters of the interfaces: what left the host and is in no row is told, as octets and as a share.

Interface counters count frames. Taken off are the link layer's header of each frame, and frames that are no IP packets
(ARP and the like), which are known from the IP layer's own counters: at most ``_NOT_IP`` octets each, so that large
frames that the IP layer never saw (packet sockets, bridged guests) stay unexplained.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

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
    forwarded: int
    """Packets of others, such as containers', that the IP layer sent on."""

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
        taken, sent, forwarded = _ip_packets(net)
        return cls(links, max(taken - within, 0), max(sent + forwarded - within, 0), forwarded)

    def since(self, before: Counters) -> Counters:
        """From ``before`` to this, summed over the interfaces under index 0."""
        sums = [0, 0, 0, 0]
        for index, now in self.links.items():
            # An interface that is new, or that was made anew, began at 0.
            then = before.links.get(index, (0, 0, 0, 0))
            if any(a < b for a, b in zip(now, then, strict=True)):
                then = (0, 0, 0, 0)
            sums = [s + a - b for s, a, b in zip(sums, now, then, strict=True)]
        return Counters(
            {0: (sums[0], sums[1], sums[2], sums[3])},
            max(self.ip_in - before.ip_in, 0),
            max(self.ip_out - before.ip_out, 0),
            max(self.forwarded - before.forwarded, 0),
        )

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        links = {str(index): list(counts) for index, counts in self.links.items()}
        return {"links": links, "ip": [self.ip_in, self.ip_out, self.forwarded]}

    @classmethod
    def from_json(cls, value: Any) -> Counters:
        """What :meth:`as_json` gave. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        links = {int(index): tuple(map(int, counts)) for index, counts in value["links"].items()}
        if any(len(counts) != 4 for counts in links.values()):
            raise ValueError("an interface has four counters")
        return cls(links, *map(int, value["ip"]))  # type: ignore[arg-type]


@dataclass(slots=True)
class Rows:
    """Sums of rows, and of those of other network namespaces apart."""

    own_out: int = 0
    own_in: int = 0
    others_out: int = 0
    others_in: int = 0
    others_packets_out: int = 0
    others_packets_in: int = 0

    def add(self, other: Rows) -> None:
        """Take up more."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def explained(self, forwarded: int) -> tuple[int, int]:
        """(octets out, octets in) that passed the uplinks: one's own, and of others' as many packets as were forwarded."""
        packets = max(self.others_packets_out + self.others_packets_in, 1)
        share = min(forwarded / packets, 1.0)
        return self.own_out + int(self.others_out * share), self.own_in + int(self.others_in * share)


class Reckoning:
    """Compares once an hour of the clock on the wall, and at the end."""

    def __init__(self, counters: Counters, wall_ns: int, boot_ns: int) -> None:
        self._before, self._began_ns, self._hour = counters, boot_ns, wall_ns // HOUR_NS
        self._rows = Rows()

    def add(self, rows: Rows) -> None:
        """Take up what a reading counted, but for what stayed within the host."""
        self._rows.add(rows)

    def due(self, wall_ns: int) -> bool:
        """Whether another hour has begun."""
        return wall_ns // HOUR_NS != self._hour

    def close(self, counters: Counters, wall_ns: int, boot_ns: int) -> Reconciled:
        """The comparison since the last one; the next one begins."""
        passed = counters.since(self._before)
        packets_in, packets_out, octets_in, octets_out = passed.links[0]
        rows_out, rows_in = self._rows.explained(passed.forwarded)
        out = Reconciled(
            seconds=(boot_ns - self._began_ns) / SECOND_NS,
            interfaces_out=octets_out,
            rows_out=rows_out,
            not_ip_out=min(max(packets_out - passed.ip_out, 0) * _NOT_IP, octets_out),
            interfaces_in=octets_in,
            rows_in=rows_in,
            not_ip_in=min(max(packets_in - passed.ip_in, 0) * _NOT_IP, octets_in),
        )
        self._before, self._began_ns, self._hour, self._rows = counters, boot_ns, wall_ns // HOUR_NS, Rows()
        return out


def _ip_packets(net: Path) -> tuple[int, int, int]:
    """(packets taken in, sent, sent on) by IPv4 and IPv6 together (proc(5): net/snmp; net/snmp6)."""
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

    return total("InReceives"), total("OutRequests"), total("ForwDatagrams", "OutForwDatagrams")
