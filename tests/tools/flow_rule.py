"""The flow rule of docs/flow-rule.md once more, packet by packet in plain Python: the truth that tests compare with.

Shares no code with collectors/packets. Slow on purpose: read it beside the rule.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

SECOND = 1_000_000_000
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
TCP = 6
TRANSIT, MIDSTREAM = 64, 128

COLUMNS = (
    "local_address", "remote_address", "local_port", "remote_port", "protocol", "initiator", "interface", "flows",
    "octets_out", "packets_out", "octets_in", "packets_in", "content_octets_out", "start_ns", "end_ns", "tcp_flags",
    "end_reason", "vantage", "marks",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet; ports and flags None where there are none."""

    time_ns: int
    source: str
    target: str
    source_port: int | None
    target_port: int | None
    protocol: int
    octets: int
    content_octets: int
    packets: int = 1
    tcp_flags: int | None = None
    interface: str | None = None


End = tuple[str, int | None]


def number(end: End) -> tuple[int, int]:
    """An end as something to sort by."""
    address = ipaddress.ip_address(end[0])
    value = int(address) + (0xFFFF << 32 if address.version == 4 else 0)
    return value, -1 if end[1] is None else end[1]


@dataclass(slots=True)
class Row:
    """What one interval of a flow held, by sender."""

    minute: int
    interface: str | None
    flows: int
    start: int
    end: int
    flags: int | None = None
    octets: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    packets: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    content: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})


@dataclass(slots=True)
class Flow:
    """A live flow: its two ends by number 0 and 1, what it has shown so far, and its one open row."""

    ends: tuple[End, End]
    protocol: int
    first_sender: int
    begin_seen: bool
    last: int
    clock: int
    row: Row
    syn_from: int | None = None
    syn_ack_to: int | None = None
    fin_from: set[int] = field(default_factory=set)
    reset: bool = False
    closed: bool = False

    @property
    def finished(self) -> bool:
        """FIN from both ends, or RST."""
        return self.reset or self.fin_from == {0, 1}


class FlowRule:
    """Takes packets one at a time; ``rows`` collects the rows as dicts of ``COLUMNS``."""

    def __init__(
        self,
        local: Callable[[str], bool],
        *,
        vantage: str | None = None,
        idle_ns: int = 15 * SECOND,
        active_ns: int = 60 * SECOND,
    ) -> None:
        self.local, self.vantage = local, vantage
        self.idle, self.active = idle_ns, active_ns
        self.flows: dict[tuple[Any, ...], Flow] = {}
        self.rows: list[dict[str, Any]] = []
        self.clock: int | None = None
        self.first: int | None = None

    def add(self, packet: Packet) -> None:
        """One packet, in capture order."""
        time = packet.time_ns
        self.first = time if self.first is None else self.first
        self.clock = time if self.clock is None else max(self.clock, time)
        source, target = (packet.source, packet.source_port), (packet.target, packet.target_port)
        ends = (source, target) if number(source) <= number(target) else (target, source)
        sender = 0 if ends[0] == source else 1
        key = (ends, packet.protocol)
        flags = packet.tcp_flags or 0
        opens = flags & (SYN | ACK) == SYN
        flow = self.flows.get(key)
        if flow is not None:
            moved = self.clock > flow.clock and self.clock - flow.last >= self.idle
            if moved or time - flow.last >= self.idle:
                self.close(flow, "end" if flow.finished else "idle")
                flow = None
            elif opens and flow.closed:
                self.close(flow, "end")
                flow = None
        if flow is None:
            seen = time - self.first >= self.idle
            row = Row(time // self.active, packet.interface, 1, time, time)
            flow = Flow(ends, packet.protocol, sender, seen, time, self.clock, row)
            self.flows[key] = flow
        elif flow.row.minute != time // self.active:
            self.close(flow, "active")
            flow.row = Row(time // self.active, packet.interface, 0, time, time)
        self.count(flow, packet, sender)

    def count(self, flow: Flow, packet: Packet, sender: int) -> None:
        """Add the packet to the flow's open row."""
        assert self.clock is not None
        flow.last = max(flow.last, packet.time_ns)
        flow.clock = self.clock
        row = flow.row
        row.start, row.end = min(row.start, packet.time_ns), max(row.end, packet.time_ns)
        row.octets[sender] += packet.octets
        row.packets[sender] += packet.packets
        row.content[sender] += packet.content_octets
        if packet.tcp_flags is None:
            return
        flags = packet.tcp_flags
        row.flags = (row.flags or 0) | flags
        if flags & (SYN | ACK) == SYN:
            flow.closed = False
            if flow.syn_from is None:
                flow.syn_from = sender
        if flags & (SYN | ACK) == SYN | ACK and flow.syn_ack_to is None:
            flow.syn_ack_to = 1 - sender
        if flags & FIN:
            flow.fin_from.add(sender)
        flow.reset = flow.reset or bool(flags & RST)
        flow.closed = flow.closed or bool(flags & (FIN | RST))

    def expire(self, now_ns: int) -> None:
        """Close the flows that are idle at ``now_ns``."""
        for key, flow in list(self.flows.items()):
            if now_ns - flow.last >= self.idle:
                self.close(flow, "end" if flow.finished else "idle")
                del self.flows[key]

    def flush(self) -> list[dict[str, Any]]:
        """Close everything; all rows so far."""
        for flow in self.flows.values():
            assert self.clock is not None
            idle = self.clock > flow.clock and self.clock - flow.last >= self.idle
            self.close(flow, "end" if flow.finished else "idle" if idle else "forced")
        self.flows.clear()
        return self.rows

    def opener(self, flow: Flow) -> int | None:
        """Which end opened the flow, as far as is known."""
        if flow.syn_from is not None:
            return flow.syn_from
        if flow.syn_ack_to is not None:
            return flow.syn_ack_to
        if flow.protocol != TCP and flow.begin_seen:
            return flow.first_sender
        ports = [end[1] for end in flow.ends]
        if ports[0] is None or ports[1] is None:
            return None
        for limit in (1024, 32768):
            low = [port < limit for port in ports if port is not None]
            if low[0] != low[1]:
                return low.index(False)
        return None

    def close(self, flow: Flow, reason: str) -> None:
        """Write the flow's open row, once for each local end."""
        own = [n for n in (0, 1) if self.local(flow.ends[n][0])]
        marks = 0 if own else TRANSIT
        if flow.protocol == TCP and flow.syn_from is None and flow.syn_ack_to is None:
            marks |= MIDSTREAM
        opener = self.opener(flow)
        row = flow.row
        for here in own or [flow.first_sender]:
            there = 1 - here
            values = (
                flow.ends[here][0], flow.ends[there][0], flow.ends[here][1], flow.ends[there][1], flow.protocol,
                None if opener is None else "local" if opener == here else "remote", row.interface, row.flows,
                row.octets[here], row.packets[here], row.octets[there], row.packets[there], row.content[here],
                row.start, row.end, row.flags, reason, self.vantage, marks,
            )  # fmt: skip
            self.rows.append(dict(zip(COLUMNS, values, strict=True)))


def rows_of(
    packets: Iterable[Packet], local: Callable[[str], bool], *, vantage: str | None = None, **rest: int
) -> list[dict[str, Any]]:
    """All rows of all packets, flushed at the end."""
    rule = FlowRule(local, vantage=vantage, **rest)
    for packet in packets:
        rule.add(packet)
    return rule.flush()


def comparable(rows: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows cut to ``COLUMNS`` and put in a fixed order, so that two sets of rows compare whole."""
    return sorted((tuple(row[name] for name in COLUMNS) for row in rows), key=repr)
