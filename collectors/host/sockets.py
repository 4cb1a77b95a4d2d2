"""This network namespace's sockets, asked of the kernel over sock_diag(7) and read as columns.

The dump is parsed by numpy: a library that makes an object per socket needs seventy times the CPU (pyroute2: 138 µs a
socket; here about 2 µs, nearly all of it the kernel's). Message layouts: linux/inet_diag.h, linux/sock_diag.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from agent.core.address import V4_PREFIX, Addresses
from agent.core.errors import CaptureError

TCP, UDP, UDP_LITE = 6, 17, 136
LISTEN: Final = 10
"""State of a TCP socket that accepts connections (include/net/tcp_states.h)."""

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_DUMP: Final = 0x0301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3
_TIME_WAIT, _NEW_SYN = 6, 12
_WITH_OWNER: Final = 0xFFFF & ~(1 << _TIME_WAIT | 1 << _NEW_SYN)
"""States to ask for: sockets in the two left out belong to nobody any more, or not yet."""
_HEADER: Final = 16
_MESSAGE: Final = 72
_CGROUP_ID: Final = 21  # INET_DIAG_CGROUP_ID, Linux 5.8
_MOST_ATTRIBUTES: Final = 24
_BUFFER: Final = 1 << 16
MOST: Final = 200_000
"""Sockets that one reading takes; a host with more is read in part."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sockets:
    """n sockets as columns. An unconnected end has address and port 0."""

    protocol: NDArray[np.uint8]
    local: Addresses
    """IPv4 v4-mapped; a socket of both families that is bound to nothing has ``::``."""
    remote: Addresses
    local_port: NDArray[np.int32]
    remote_port: NDArray[np.int32]
    state: NDArray[np.uint8]
    inode: Numbers
    """Names the socket in ``/proc/*/fd``; 0 once no process holds it."""
    uid: Numbers
    cgroup: Numbers
    """Id of the control group (v2) in which it was made; -1 where the kernel does not tell (before 5.8)."""

    def __len__(self) -> int:
        return len(self.inode)


class SocketDiag:
    """Asks the kernel for sockets. Works in the network namespace in which it is entered. Close it; not thread-safe."""

    def __init__(self) -> None:
        self._buffer = bytearray(_BUFFER)
        self._silent: set[tuple[int, int]] = set()
        """(family, protocol) that this kernel does not know."""

    def __enter__(self) -> Self:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
            )
            self._socket.settimeout(5)
        except OSError as error:
            raise CaptureError(
                f"cannot ask the kernel for sockets (sock_diag): {error.strerror}; a sandbox may forbid AF_NETLINK "
                "sockets, or the kernel lacks CONFIG_INET_DIAG. Set processes: false for af_packet to do without"
            ) from error
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def read(self) -> Sockets:
        """Every TCP, UDP and UDP-Lite socket now, at most ``MOST``. Raises :class:`CaptureError` where none is told."""
        parts: list[bytes] = []
        starts: list[int] = []
        protocols: list[NDArray[np.uint8]] = []
        at = 0
        for protocol in (TCP, UDP, UDP_LITE):
            before = len(starts)
            for family in (socket.AF_INET, socket.AF_INET6):
                if (family, protocol) not in self._silent and len(starts) < MOST:
                    at = self._dump(family, protocol, parts, starts, at)
            protocols.append(np.full(len(starts) - before, protocol, np.uint8))
        if len(self._silent) == 6:
            raise CaptureError(
                "the kernel tells no sockets (no CONFIG_INET_DIAG); set processes: false for af_packet"
            )
        return parse(b"".join(parts), np.array(starts, np.int64), np.concatenate(protocols))

    def _dump(self, family: int, protocol: int, parts: list[bytes], starts: list[int], at: int) -> int:
        """Append the answer of one dump, and where in all answers each message begins; the octets so far."""
        body = struct.pack("=BBBxI48x", family, protocol, 0, _WITH_OWNER)
        try:
            self._socket.send(struct.pack("=IHHII", _HEADER + len(body), _BY_FAMILY, _DUMP, 1, 0) + body)
            while True:
                size = self._socket.recv_into(self._buffer)
                taken, end = self._messages(size, starts, at)
                if taken:
                    parts.append(bytes(self._buffer[:taken]))
                    at += taken
                if end is not None:
                    break
        except OSError as error:
            raise CaptureError(f"the kernel did not tell its sockets: {error}") from error
        if end in (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):
            self._silent.add((family, protocol))
        elif end:
            raise CaptureError(f"the kernel did not tell its sockets: {os.strerror(end)}")
        return at

    def _messages(self, size: int, starts: list[int], at: int) -> tuple[int, int | None]:
        """(octets of whole messages, None while more will come, 0 at the end of the dump or an error number)."""
        words = memoryview(self._buffer)[: size & ~3].cast("I")
        place, append = 0, starts.append
        while place + _HEADER <= size:
            length = words[place >> 2]
            kind = words[(place >> 2) + 1] & 0xFFFF if _LITTLE else words[(place >> 2) + 1] >> 16
            if kind == _DONE:
                return place, 0
            if kind == _ERROR:
                return place, -struct.unpack_from("=i", self._buffer, place + _HEADER)[0]
            if length < _HEADER + _MESSAGE or place + length > size:
                return place, errno.EBADMSG
            append(at + place)
            place += length + 3 & ~3
        return place, None


_LITTLE: Final = bool(np.little_endian)


def parse(data: bytes, starts: Numbers, protocol: NDArray[np.uint8]) -> Sockets:
    """Columns of the inet_diag messages that begin at ``starts`` in ``data``, each whole."""
    octets = np.frombuffer(data + bytes(8), np.uint8)
    body = starts + _HEADER

    def number(at: Numbers, kind: str) -> NDArray[Any]:
        view: NDArray[Any] = np.ndarray((len(octets) - 7,), kind, octets, 0, (1,))
        return view[at]

    four = octets[body] == socket.AF_INET
    return Sockets(
        protocol=protocol,
        local=_address(number(body + 8, ">u8"), number(body + 16, ">u8"), four),
        remote=_address(number(body + 24, ">u8"), number(body + 32, ">u8"), four),
        local_port=number(body + 4, ">u2").astype(np.int32),
        remote_port=number(body + 6, ">u2").astype(np.int32),
        state=octets[body + 1],
        inode=number(body + 68, "=u4").astype(np.int64),
        uid=number(body + 64, "=u4").astype(np.int64),
        cgroup=_cgroups(octets, starts, number),
    )


def _address(high: NDArray[Any], low: NDArray[Any], four: NDArray[np.bool_]) -> Addresses:
    out = np.empty((len(high), 2), np.uint64)
    out[:, 0] = np.where(four, 0, high)
    out[:, 1] = np.where(four, high >> 32 | V4_PREFIX, low)
    return out


def _cgroups(octets: NDArray[np.uint8], starts: Numbers, number: Any) -> Numbers:
    """The control group of each message, by walking the attributes of all messages at once."""
    found = np.full(len(starts), -1, np.int64)
    end = starts + number(starts, "=u4").astype(np.int64)
    at = starts + _HEADER + _MESSAGE
    rows = np.arange(len(starts))
    for _ in range(_MOST_ATTRIBUTES):
        rows = rows[at[rows] + 4 <= end[rows]]
        if not len(rows):
            break
        size = number(at[rows], "=u2").astype(np.int64)
        here = (number(at[rows] + 2, "=u2") == _CGROUP_ID) & (size == 12) & (at[rows] + 12 <= end[rows])
        found[rows[here]] = number(at[rows[here]] + 4, "=i8")
        rows, size = rows[~here & (size >= 4)], size[~here & (size >= 4)]
        at[rows] += size + 3 & ~3
    return found
