"""Packets as columns: what a decoder gives and the flow table takes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.core.address import Addresses


@dataclass(frozen=True, slots=True)
class Packets:
    """n packets in the order in which they were captured. Equal lengths; no link-layer fact is left in here."""

    time_ns: NDArray[np.int64]
    """Capture time, UTC nanoseconds; may run backwards."""
    source: Addresses
    target: Addresses
    source_port: NDArray[np.int32]
    """-1 where the protocol has no ports, or the packet is a later fragment."""
    target_port: NDArray[np.int32]
    protocol: NDArray[np.uint8]
    """Transport protocol after all IPv6 extension headers."""
    octets: NDArray[np.int64]
    """IP layer, headers included; for a segmentation-offload frame, of all packets it becomes where that is known."""
    content_octets: NDArray[np.int64]
    """octets less IP and transport headers, floor 0."""
    packets: NDArray[np.int64]
    """1, or the number of packets an offload frame becomes where that is known."""
    tcp_flags: NDArray[np.int16]
    """-1 where there are none."""
    sent: NDArray[np.int8]
    """1: sent by this host, 0: received or passing, -1: the link layer does not tell."""
    interface: NDArray[np.int32]
    """Index into the collector's own list of interface names; -1 unknown."""

    def __len__(self) -> int:
        return len(self.time_ns)

    def take(self, index: NDArray[Any] | slice) -> Packets:
        """Rows by index, mask or slice."""
        return Packets(*(getattr(self, f.name)[index] for f in fields(self)))


def concat(parts: list[Packets]) -> Packets:
    """Packets one after another. ``parts`` is not empty."""
    if len(parts) == 1:
        return parts[0]
    return Packets(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Packets)))
