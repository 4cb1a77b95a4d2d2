"""What a capture container is: octets in, frames as columns out, no I/O.

A container is handed the octets it has not used yet, as often as there are more; it gives the whole records among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import SECOND_NS
from collectors.packets.links import Bytes, Offsets

MOST_CAPTURED: Final = 262_144
"""Octets of one frame that a capture may hold unless its own snapshot length says more (libpcap's limit)."""
MOST_SNAPSHOT: Final = 256 << 20
"""A snapshot length above this is taken for a mistake."""
MOST_SECONDS: Final = (1 << 62) // SECOND_NS
"""Seconds from the epoch that the flow table can hold: until the year 2116."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of one link type. ``data`` is the reader's own buffer: gone when the next frames are asked for."""

    data: Bytes
    starts: Offsets
    captured: Offsets
    length: Offsets
    """Octets on the wire."""
    time_ns: Offsets
    link: NDArray[np.int32] | int
    """LINKTYPE_ number, of each frame where they differ."""
    interface: NDArray[np.int32] | int = -1
    """Index into the container's ``interfaces``."""
    sent: NDArray[np.int8] | None = None
    """1 sent, 0 received, -1 unknown; None: the container does not tell."""
    lost: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Reason -> (frames, octets) left out of these columns."""

    def __len__(self) -> int:
        return len(self.starts)


class Container(Protocol):
    """A capture format."""

    interfaces: list[str]
    """Names of the interfaces seen so far; grows."""
    offset: int
    """Octets used since the beginning: where the next record begins."""

    def take(self, data: Bytes, filled: int) -> tuple[Frames, int]:
        """Frames of the whole records that ``data[:filled]`` begins with, and how many octets they fill.

        Records before a fault are given first; the next call, which finds the fault in front, raises
        :class:`~agent.core.errors.DecodeError`.
        """

    def torn(self, rest: bytes) -> tuple[int, int]:
        """(frames, octets on the wire, 0 if unknown) of the incomplete record that the source ended with."""
