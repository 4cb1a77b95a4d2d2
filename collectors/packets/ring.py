"""A TPACKET_V2 ring: the kernel writes packet headers into memory that we share, and numpy reads them as columns.

Kernel documentation: networking/packet_mmap.rst; structures: linux/if_packet.h. One socket sees all interfaces, those
that come later too. It is a raw socket (not a cooked one), for only there the kernel adds the virtio header
(linux/virtio_net.h) that says how many packets a segmentation-offload frame stands for.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import socket
import struct
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from agent.core.errors import CaptureError

_SOL_PACKET: Final = 263
_RX_RING, _STATISTICS, _VERSION, _VNET_HDR = 5, 6, 10, 15
_ATTACH_FILTER: Final = 26
_ALL_PROTOCOLS: Final = 3
_V2: Final = 1
_BLOCK: Final = 1 << 16
_BEFORE_FRAME: Final = 96
"""Octets of a ring slot before the link header: tpacket2_hdr, sockaddr_ll, virtio_net_hdr, padding."""
_VIRTIO: Final = 10
_USER: Final = 1
_VLAN_VALID: Final = 0x10
_SEGMENTED: Final = np.zeros(256, bool)
_SEGMENTED[[1, 4, 5, 0x81, 0x84]] = True
"""GSO types TCPv4, TCPv6 and UDP_L4, the first two also with the ECN bit."""
_UDP_L4, _ECN, _NEEDS_CHECKSUM = 5, 0x80, 1
HOST, BROADCAST, MULTICAST, OTHER_HOST, OUTGOING = range(5)
MOST_AT_ONCE: Final = 16_384
_MOST_IN_FILTER: Final = 200
"""Interfaces that fit a filter (a jump spans at most 255 instructions); frames of further ones are left out later."""

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Frames:
    """n frames in the ring, as columns. Valid until ``Ring.release``."""

    data: NDArray[np.uint8]
    """The whole ring."""
    link: NDArray[np.int64]
    """Where the link header begins in ``data``."""
    network: NDArray[np.int64]
    """Where the network layer begins."""
    captured: NDArray[np.int64]
    """Octets captured from the network layer on."""
    length: NDArray[np.int64]
    """Octets the frame had from the network layer on."""
    time_ns: NDArray[np.int64]
    ethertype: NDArray[np.uint16]
    index: NDArray[np.int64]
    """Interface index."""
    packet_type: NDArray[np.uint8]
    hardware: NDArray[np.uint16]
    """ARPHRD_ number of the interface."""
    vlan: NDArray[np.int64]
    """VLAN id that the kernel took out of the frame; -1 for none."""
    segment: NDArray[np.int64]
    """Content octets of each packet that an offload frame stands for; 0 for a plain frame."""
    headers: NDArray[np.int64]
    """Octets from the network layer on that each packet of an offload frame repeats, through all tunnel headers; 0 where
    the kernel does not say."""
    more: bool
    """Whether further frames may wait: the reading ended at its limit or at the ring's end."""

    def __len__(self) -> int:
        return len(self.time_ns)


class Ring:
    """A packet socket with its ring, capturing as soon as it is entered. Reading does not block. Close it; not thread-safe."""

    def __init__(self, *, mib: int, snap: int) -> None:
        self._snap = snap
        slot = 1 << (_BEFORE_FRAME + snap - 1).bit_length()
        self._blocks = mib * (1 << 20) // _BLOCK
        self._slot = slot
        self.slots = self._blocks * (_BLOCK // slot)
        self._next = 0
        self._taken = 0
        self._fence = threading.Lock()

    def __enter__(self) -> Self:
        self._socket = _open()
        try:
            self._prepare()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        # The arrays must go before the mapping can.
        del self._bytes, self._words, self._halves
        with contextlib.suppress(
            BufferError
        ):  # a caller still holds Frames; the mapping goes with the last of them
            self._memory.close()
        self._socket.close()

    def leave_out(self, indexes: Collection[int]) -> None:
        """Let the kernel pass no frames of these interfaces, nor any that this host neither sends nor is meant to get.

        Interfaces that are not known yet pass, so that nothing of theirs is missed.
        """
        program = _filter(sorted(indexes), self._snap)
        code = ctypes.create_string_buffer(program)
        head = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, head)

    def read(self) -> Frames | None:
        """Frames that wait, at most ``MOST_AT_ONCE``; None where there are none. ``release`` them before the next call."""
        first = self._next
        end = min(first + MOST_AT_ONCE, self.slots)
        if not self._words[first, 0] & _USER:
            return None
        ready = self._words[first:end, 0] & _USER != 0
        more = bool(ready.all())
        count = len(ready) if more else int(ready.argmin())
        # A lock orders memory: nothing below may be read before the states above (weakly ordered processors would).
        with self._fence:
            self._taken = count
        return self._columns(slice(first, first + count), more)

    def release(self) -> None:
        """Give the frames that were read back to the kernel."""
        with self._fence:
            self._words[self._next : self._next + self._taken, 0] = 0
        self._next = (self._next + self._taken) % self.slots
        self._taken = 0

    def lost(self) -> int:
        """Frames that the kernel dropped since the last call, because the ring was full."""
        _seen, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        return int(dropped)

    def error(self) -> int:
        """The socket's pending error number, such as ``ENETDOWN``, which is thereby cleared; 0 for none."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _prepare(self) -> None:
        self._socket.setsockopt(_SOL_PACKET, _VERSION, _V2)
        self._socket.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
        self.leave_out(())
        request = struct.pack("4I", _BLOCK, self._blocks, self._slot, self.slots)
        size = _BLOCK * self._blocks
        try:
            self._socket.setsockopt(_SOL_PACKET, _RX_RING, request)
            self._memory = mmap.mmap(self._socket.fileno(), size)
        except OSError as error:
            raise CaptureError(
                f"the kernel has no {size >> 20} MiB for the packet ring ({error.strerror}); "
                "lower ring_mib in the settings of af_packet"
            ) from error
        self.lost()
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self._words = self._bytes.view(np.uint32).reshape(self.slots, -1)
        self._halves = self._bytes.view(np.uint16).reshape(self.slots, -1)

    def _columns(self, rows: slice, more: bool) -> Frames:
        words, halves = self._words[rows], self._halves[rows]
        slot = np.arange(rows.start, rows.stop) * self._slot
        link, network = halves[:, 6].astype(np.int64), halves[:, 7].astype(np.int64)
        head = network - link
        virtio = slot + link - _VIRTIO
        segment = np.where(_SEGMENTED[self._bytes[virtio + 1]], self._u16(virtio + 4), 0)
        tagged = words[:, 0] & _VLAN_VALID != 0
        return Frames(
            data=self._bytes,
            link=slot + link,
            network=slot + network,
            captured=np.maximum(words[:, 2].astype(np.int64) - head, 0),
            length=np.maximum(words[:, 1].astype(np.int64) - head, 0),
            time_ns=words[:, 4].astype(np.int64) * 1_000_000_000 + words[:, 5],
            ethertype=halves[:, 17].byteswap() if np.little_endian else halves[:, 17].copy(),
            index=words[:, 9].astype(np.int64),
            packet_type=self._bytes[slot + 42],
            hardware=halves[:, 20].copy(),
            vlan=np.where(tagged, halves[:, 12] & 0xFFF, -1).astype(np.int64),
            segment=segment,
            headers=self._headers(slot + link, head, segment, words[:, 2].astype(np.int64)),
            more=more,
        )

    def _headers(self, link: Places, head: Places, segment: Places, captured: Places) -> Places:
        """``Frames.headers``: up to the innermost transport header, which is where the kernel's checksum starts, and its own."""
        out = np.zeros(len(link), np.int64)
        rows = np.flatnonzero(segment)
        if not len(rows):
            return out
        virtio = link[rows] - _VIRTIO
        starts = self._u16(virtio + 6)
        length = np.full(len(rows), 8, np.int64)
        if (tcp := self._bytes[virtio + 1] & ~np.uint8(_ECN) != _UDP_L4).any():
            at = starts + 12
            seen = at < captured[rows]
            words = self._bytes[link[rows] + np.where(seen, at, 0)] >> 4
            # Beyond what was captured: the octets that the kernel holds in one piece, of TCP's own frames the headers.
            length[tcp] = np.where(seen, words.astype(np.int64) * 4, self._u16(virtio + 2) - starts)[tcp]
        known = (self._bytes[virtio] & _NEEDS_CHECKSUM != 0) & (length >= 8) & (length <= 60)
        out[rows] = np.where(known, starts + length - head[rows], 0)
        return out

    def _u16(self, at: Places) -> Places:
        """Numbers of the virtio header, which are in the machine's own order."""
        first, second = self._bytes[at].astype(np.int64), self._bytes[at + 1].astype(np.int64)
        return first | second << 8 if np.little_endian else first << 8 | second


def _open() -> socket.socket:
    try:
        # Bound to no interface. What it queues before the ring stands is thrown away when the ring is made.
        every = socket.htons(_ALL_PROTOCOLS)
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, every)
    except PermissionError as error:
        raise CaptureError(
            "no permission to capture packets: run as root, or give the program the capability "
            "(systemd: AmbientCapabilities=CAP_NET_RAW; else: setcap cap_net_raw+ep on the python that runs it)"
        ) from error
    except OSError as error:
        why = "the kernel has no packet sockets" if error.errno == errno.EAFNOSUPPORT else str(error.strerror)
        raise CaptureError(
            f"cannot open a packet socket: {why}; load the module af_packet or use another collector"
        ) from error


def _filter(left_out: list[int], snap: int) -> bytes:
    """A classic BPF program (linux/filter.h): ``snap`` octets of a wanted frame, 0 of any other."""
    load, jump_if, jump_over, give = 0x20, 0x15, 0x25, 0x06
    extension = 0xFFFFF000
    packet_type, interface = extension + 4, extension + 8
    left_out = left_out[:_MOST_IN_FILTER]
    rest = len(left_out)
    steps = [
        (load, 0, 0, packet_type),
        (jump_over, rest + 3, 0, OUTGOING),
        (jump_if, rest + 2, 0, OTHER_HOST),
        (load, 0, 0, interface),
        *((jump_if, rest - at, 0, index) for at, index in enumerate(left_out)),
        (give, 0, 0, snap),
        (give, 0, 0, 0),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
