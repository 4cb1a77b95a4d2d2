"""Flows of one epoch become rows of the schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import Addresses
from agent.core.flow import ColumnData, FlowBatch, Mark, Text
from collectors.bpf.known import Told
from collectors.bpf.merge import TCP, Flows

REASONS: Final = ("active", "end", "forced", "resources")
OVERFLOW_PROTOCOL: Final = 255
"""IANA "reserved": the row of what had no room has no ends and no protocol."""


@dataclass(frozen=True, slots=True)
class Times:
    """How times of the kernel become times of day, at one moment."""

    wall_ns: int
    boot_ns: int

    def wall(self, boot_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """CLOCK_BOOTTIME as nanoseconds since the epoch, UTC; nothing lies after the moment itself."""
        return np.minimum(boot_ns, self.boot_ns) + (self.wall_ns - self.boot_ns)


def batch(
    flows: Flows,
    told: Told,
    *,
    times: Times,
    vantage: str,
    interface: Text,
    owners: dict[str, ColumnData],
    forced: bool,
) -> FlowBatch:
    """One row for each flow. ``forced``: the capture ends here."""
    n = len(flows)
    reason = np.where(told.ended, 1, 2 if forced else 0).astype(np.int32)
    tcp = flows.protocol == TCP
    flags = (flows.flags_out | flows.flags_in) & 0xFF
    columns: dict[str, ColumnData] = {
        "local_address": flows.local,
        "remote_address": flows.remote,
        "local_port": flows.local_port,
        "remote_port": flows.remote_port,
        "protocol": flows.protocol,
        "initiator": Text(told.initiator, ("local", "remote")),
        "interface": interface,
        "nat_address": flows.nat,
        "service_address": flows.service,
        "service_port": flows.service_port,
        "flows": told.flows,
        "octets_out": flows.sums["octets_out"],
        "packets_out": flows.sums["packets_out"],
        "octets_in": flows.sums["octets_in"],
        "packets_in": flows.sums["packets_in"],
        "content_octets_out": flows.sums["content_out"],
        "start_ns": times.wall(flows.first_ns),
        "end_ns": times.wall(flows.last_ns),
        "tcp_flags": np.where(tcp, flags, -1),
        "end_reason": Text(reason, REASONS),
        "vantage": Text.full(n, vantage),
        "marks": np.where(told.midstream, int(Mark.MIDSTREAM), 0),
    }
    return FlowBatch.build(n, columns | owners)


def overflow(over: dict[str, int], *, start_ns: int, end_ns: int, vantage: str) -> FlowBatch:
    """One row of all that had no room in the map: its amounts are exact, its ends unknown (``::``)."""
    nowhere: Addresses = np.zeros((1, 2), np.uint64)

    def one(value: int) -> NDArray[np.int64]:
        return np.array([value], np.int64)

    columns: dict[str, ColumnData] = {
        "local_address": nowhere,
        "remote_address": nowhere,
        "protocol": np.array([OVERFLOW_PROTOCOL], np.uint8),
        "flows": one(0),
        "octets_out": one(over["octets_out"]),
        "packets_out": one(over["packets_out"]),
        "octets_in": one(over["octets_in"]),
        "packets_in": one(over["packets_in"]),
        "content_octets_out": one(over["content_out"]),
        "start_ns": one(start_ns),
        "end_ns": one(end_ns),
        "end_reason": Text.full(1, "resources"),
        "attribution": Text.full(1, "unattributed"),
        "vantage": Text.full(1, vantage),
    }
    return FlowBatch.build(1, columns)
