"""pcapng, without I/O (draft-ietf-opsawg-pcapng; limits as libpcap's sf-pcapng.c has them)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import SECOND_NS
from agent.core.errors import DecodeError
from agent.core.grouping import distinct
from collectors.captures.frames import MOST_SECONDS, MOST_SNAPSHOT, Frames
from collectors.packets.links import Bytes, Offsets

MOST_BLOCK: Final = 16 << 20
"""Octets of a block (libpcap's limit)."""


@dataclass(slots=True)
class _Interface:
    link: int
    snapshot: int
    name: int = -1
    units: int = 1_000_000
    """Ticks of a second."""
    offset_s: int = 0


_SECTION, _DESCRIPTION, _PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_LEAST: Final = {_SECTION: 28, _DESCRIPTION: 20, _PACKET: 32, _SIMPLE: 16, _ENHANCED: 32}


class Pcapng:
    """pcapng: sections of either byte order, any number of interfaces, each with its own link type and clock."""

    def __init__(self, source: str) -> None:
        self._source, self._order = source, "<"
        self._interfaces: list[_Interface] = []
        self._last_ns = 0
        self.interfaces: list[str] = []
        self.offset = 0

    def take(self, data: Bytes, filled: int) -> tuple[Frames, int]:
        """See :meth:`Container.take`."""
        blocks: list[int] = []
        add, unpack = blocks.append, struct.Struct(self._order + "II").unpack_from
        octets, at = data.data, 0
        while at + 12 <= filled:
            kind, size = unpack(octets, at)
            if kind == _ENHANCED and 32 <= size <= MOST_BLOCK and not size & 3:
                if at + size > filled:
                    break
                add(at)
                at += size
                continue
            if kind == _SECTION:
                if blocks:
                    break  # the frames so far are in the old section's byte order
                unpack = struct.Struct(self._begin_section(data, at) + "II").unpack_from
                size = unpack(octets, at)[1]
            if fault := self._fault(data, at, kind, size, filled):
                if at == 0:
                    raise DecodeError(fault, source=self._source, offset=self.offset)
                break
            if at + size > filled:
                break
            if kind in (_PACKET, _SIMPLE):
                add(at)
            elif kind == _DESCRIPTION:
                self._describe(data[at : at + size].tobytes())
            at += size
        frames, fault_at = self._frames(data, np.array(blocks, np.int64))
        used = at if fault_at is None else fault_at
        self.offset += used
        return frames, used

    def _begin_section(self, data: Bytes, at: int) -> str:
        magic = data[at + 8 : at + 12].tobytes()
        if magic in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
            self._order = "<" if magic[0] == 0x4D else ">"
            self._interfaces = []
        return self._order

    def _fault(self, data: Bytes, at: int, kind: int, size: int, filled: int) -> str:
        """What is wrong with a block, or nothing."""
        least = _LEAST.get(kind, 12)
        if size < least or size > MOST_BLOCK or size & 3:
            return (
                f"a block of type {kind:#x} claims {size} octets; expected a multiple of 4 from {least} to {MOST_BLOCK}; "
                "what came before it was read"
            )
        if kind == _SECTION and data[at + 8 : at + 12].tobytes() not in (
            b"\x4d\x3c\x2b\x1a",
            b"\x1a\x2b\x3c\x4d",
        ):
            return "a section header has no byte-order magic"
        if at + size <= filled and struct.unpack_from(self._order + "I", data.data, at + size - 4)[0] != size:
            return f"a block of type {kind:#x} does not end with its own length {size}; what came before it was read"
        return ""

    def _describe(self, block: bytes) -> None:
        """Take up an interface description: link type, and the options if_name, if_tsresol and if_tsoffset."""
        order = self._order
        link, _, snapshot = struct.unpack_from(order + "HHI", block, 8)
        interface = _Interface(link, snapshot)
        at = 16
        while at + 8 <= len(block):
            code, size = struct.unpack_from(order + "HH", block, at)
            value = block[at + 4 : min(at + 4 + size, len(block) - 4)]
            if code == 0:
                break
            if code == 2:
                interface.name = len(self.interfaces)
                self.interfaces.append(value.decode("utf-8", "replace").rstrip("\0"))
            elif code == 9 and value:
                interface.units = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
            elif code == 14 and len(value) == 8:
                interface.offset_s = struct.unpack(order + "q", value)[0]
            at += 4 + (size + 3 & ~3)
        self._interfaces.append(interface)

    def _frames(self, data: Bytes, blocks: Offsets) -> tuple[Frames, int | None]:
        """Frames of packet blocks, and where the first faulty block lies."""
        n = len(data)
        u32 = np.ndarray((n - 3,), self._order + "u4", data, 0, (1,))
        kind, size = u32[blocks].astype(np.int64), u32[blocks + 4].astype(np.int64)
        simple = kind == _SIMPLE
        # A simple block ends before the fields of the others, but some block or the buffer's end always follows.
        where = np.minimum(blocks, n - 32)
        interface = np.where(kind == _PACKET, self._u16(data, where + 8), u32[where + 8].astype(np.int64))
        interface[simple] = 0
        captured = np.where(simple, 0, u32[where + 20].astype(np.int64))
        length = np.where(simple, u32[where + 8], u32[where + 24]).astype(np.int64)
        if simple.any() and self._interfaces:
            most = self._interfaces[0].snapshot or MOST_SNAPSHOT
            captured = np.where(simple, np.minimum(np.minimum(length, most), size - 16), captured)
        faulty = np.flatnonzero(
            (interface >= len(self._interfaces))
            | (captured > size - np.where(simple, 16, 32))
            | (u32[blocks + size - 4] != size)
        )
        fault_at = None
        if len(faulty):
            fault_at = int(blocks[faulty[0]])
            if fault_at == 0:
                raise DecodeError(
                    "a packet block names an unknown interface, claims more octets than it holds, or does not end with its "
                    "own length; what came before it was read",
                    source=self._source,
                    offset=self.offset,
                )
        rows = slice(0, int(faulty[0]) if len(faulty) else len(blocks))
        blocks, simple, interface = blocks[rows], simple[rows], interface[rows]
        captured, length = captured[rows], length[rows]
        ticks = u32[where[rows] + 12].astype(np.uint64) << np.uint64(32) | u32[where[rows] + 16]
        time_ns, told = self._times(ticks, interface, simple)
        frames = Frames(
            data=data,
            starts=blocks + np.where(simple, 12, 28),
            captured=captured,
            length=length,
            time_ns=time_ns,
            link=_one_or_each(self._column(interface, "link")),
            interface=_one_or_each(self._column(interface, "name")),
            sent=self._directions(data, blocks, captured, size[rows], simple),
        )
        return frames if told.all() else _without(frames, ~told), fault_at

    def _u16(self, data: Bytes, at: Offsets) -> Offsets:
        return np.ndarray((len(data) - 1,), self._order + "u2", data, 0, (1,))[at].astype(np.int64)

    def _column(self, interface: Offsets, name: str) -> NDArray[np.int32]:
        return np.array([getattr(i, name) for i in self._interfaces] or [-1], np.int32)[interface]

    def _times(
        self, ticks: NDArray[np.uint64], interface: Offsets, simple: NDArray[np.bool_]
    ) -> tuple[Offsets, NDArray[np.bool_]]:
        """(UTC nanoseconds, where they fit in 64 bits). A simple block has no time: it takes that of the one before."""
        time_ns, told = np.zeros(len(ticks), np.int64), np.ones(len(ticks), bool)
        for number in distinct(interface).tolist():
            rows = np.flatnonzero(interface == number)
            time_ns[rows], told[rows] = _nanoseconds(ticks[rows], self._interfaces[number])
        if simple.any():
            told |= simple
            before = np.maximum.accumulate(np.where(simple | ~told, -1, np.arange(len(ticks))))
            time_ns = np.where(simple, np.where(before < 0, self._last_ns, time_ns[before]), time_ns)
        if told.any():
            self._last_ns = int(time_ns[told][-1])
        return time_ns, told

    def _directions(
        self, data: Bytes, blocks: Offsets, captured: Offsets, size: Offsets, simple: NDArray[np.bool_]
    ) -> NDArray[np.int8] | None:
        """What epb_flags says of each frame, where it is the first option."""
        at = blocks + 28 + (captured + 3 & ~3)
        rows = np.flatnonzero((at + 12 <= blocks + size) & ~simple)
        if not len(rows):
            return None
        at = at[rows]
        flags = np.where(
            self._u16(data, at) == 2,
            np.ndarray((len(data) - 3,), self._order + "u4", data, 0, (1,))[at + 4] & 3,
            0,
        )
        sent = np.full(len(blocks), -1, np.int8)
        sent[rows] = np.array([-1, 0, 1, -1], np.int8)[flags]
        return sent if (sent >= 0).any() else None

    def torn(self, rest: bytes) -> tuple[int, int]:
        """See :meth:`Container.torn`."""
        is_packet = len(rest) >= 28 and struct.unpack_from(self._order + "I", rest)[0] in (_ENHANCED, _PACKET)
        return (1, struct.unpack_from(self._order + "I", rest, 24)[0] if is_packet else 0)


def _nanoseconds(ticks: NDArray[np.uint64], interface: _Interface) -> tuple[Offsets, NDArray[np.bool_]]:
    """Ticks of an interface's clock as UTC nanoseconds, and where those fit in 64 bits."""
    units = interface.units
    whole = np.uint64(units) if units < 1 << 64 else None
    seconds = ticks // whole if whole else np.zeros_like(ticks)
    rest = ticks % whole if whole else ticks
    if units <= 1 << 34:
        nanoseconds = rest * np.uint64(SECOND_NS) // np.uint64(units)
    else:
        # Finer than the product has room for: ticks that are far below a nanosecond are given up first.
        step = units // SECOND_NS
        nanoseconds = rest // np.uint64(step) if step < 1 << 64 else np.zeros_like(rest)
        nanoseconds = np.minimum(nanoseconds, np.uint64(SECOND_NS - 1))
    fits = seconds < np.uint64(1 << 40)
    offset = max(-MOST_SECONDS, min(MOST_SECONDS, interface.offset_s))
    moved = np.where(fits, seconds, 0).astype(np.int64) + offset
    fits &= np.abs(moved) < MOST_SECONDS
    return np.where(fits, moved, 0) * SECOND_NS + nanoseconds.astype(np.int64), fits


def _without(frames: Frames, lost: NDArray[np.bool_]) -> Frames:
    """Frames whose time can be told; the others are counted."""
    keep = np.flatnonzero(~lost)
    return Frames(
        data=frames.data,
        starts=frames.starts[keep],
        captured=frames.captured[keep],
        length=frames.length[keep],
        time_ns=frames.time_ns[keep],
        link=frames.link if isinstance(frames.link, int) else frames.link[keep],
        interface=frames.interface if isinstance(frames.interface, int) else frames.interface[keep],
        sent=None if frames.sent is None else frames.sent[keep],
        lost={"time_out_of_range": (int(lost.sum()), int(frames.length[lost].sum()))},
    )


def _one_or_each(column: NDArray[np.int32]) -> NDArray[np.int32] | int:
    """The one value of a column if it has only one."""
    if not len(column):
        return -1
    first = int(column[0])
    return first if (column == first).all() else column
