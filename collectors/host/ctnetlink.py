"""This network namespace's connection tracking table, asked of the kernel over ctnetlink: all of it, or word of each end.

Word of ends comes through a buffer that may run full; how many were lost is counted by the kernel and read here. The
kernel's "reliable" delivery (NETLINK_BROADCAST_ERROR) is not used, by design: it keeps ended entries in the table until
somebody has read of them, so that a reader that hangs would fill the table and stop new connections of the host.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import numpy as np

from agent.core.errors import CaptureError
from collectors.host.tracked import HEAD, Numbers, Tracked, parse

_NETLINK_NETFILTER: Final = 12
_GET: Final = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_NEW: Final = 1 << 8 | 0  # what answers a dump
_DELETE: Final = 1 << 8 | 2
_DUMP: Final = 0x0301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3
_DESTROYED: Final = 1 << 3 - 1  # NFNLGRP_CONNTRACK_DESTROY
_HEADER: Final = 16
_LONGEST: Final = 1 << 15
"""Octets of a netlink datagram at most; a dump's are up to 32 KiB."""
_DUMP_CHUNK: Final = 1 << 21
_WORD_CHUNK: Final = 1 << 20
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO, _SK_MEMINFO_DROPS = 55, 8
_WAIT_S: Final = 10

SYSCTLS: Final = Path("/proc/sys/net/netfilter")
"""Those of the network namespace of the calling thread."""


def sysctl(name: str, folder: Path = SYSCTLS) -> int | None:
    """Value of ``net.netfilter.nf_conntrack_<name>``; None where this kernel has none."""
    try:
        return int((folder / f"nf_conntrack_{name}").read_text())
    except (OSError, ValueError):
        return None


class Table:
    """Asks for the whole table. Works in the network namespace in which it is entered. Close it; not thread-safe."""

    def __enter__(self) -> Self:
        self._socket = _opened()
        self._socket.settimeout(_WAIT_S)
        self._buffer = bytearray(_DUMP_CHUNK + _LONGEST)
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def read(self) -> Iterator[Tracked]:
        """The entries, some thousands at a time. Raises :class:`CaptureError` where the kernel does not tell."""
        message = struct.pack("=IHHIIBBH", HEAD, _GET, _DUMP, 1, 0, socket.AF_UNSPEC, 0, 0)
        try:
            self._socket.send(message)
            end: int | None = None
            while end is None:
                at, starts = 0, list[int]()
                while end is None and at < _DUMP_CHUNK:
                    size = self._socket.recv_into(memoryview(self._buffer)[at:])
                    end = _split(self._buffer, at, at + size, _NEW, starts)
                    at += size + 3 & ~3
                yield _columns(self._buffer, at, starts)
        except OSError as error:
            raise CaptureError(f"the kernel did not tell its connection tracking table: {error}") from error
        if end:
            raise CaptureError(_refused(end))


class Endings:
    """Word of entries that leave the table, each with its last counts. Close it; not thread-safe."""

    def __init__(self, buffer_octets: int = 8 << 20) -> None:
        self._room = buffer_octets
        self._lost = 0
        self._broken = 0
        """Words that could not be read."""

    def __enter__(self) -> Self:
        self._socket = _opened()
        try:
            # Both double what they are told; the first is not held to net.core.rmem_max.
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, self._room)
        except OSError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._room)
        try:
            self._socket.bind((0, _DESTROYED))
        except OSError as error:
            self._socket.close()
            raise CaptureError(_refused(error.errno or errno.EPERM)) from error
        self._socket.setblocking(False)
        self._buffer = bytearray(_WORD_CHUNK + _LONGEST)
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def read(self) -> Iterator[Tracked]:
        """All that has come, oldest first, some thousands at a time. Does not block. Raises :class:`CaptureError`."""
        more = True
        while more:
            at, starts = 0, list[int]()
            while at < _WORD_CHUNK:
                try:
                    size = self._socket.recv_into(memoryview(self._buffer)[at:])
                except BlockingIOError:
                    more = False
                    break
                except OSError as error:
                    if error.errno == errno.ENOBUFS:
                        continue  # said once for each time the buffer ran full; ``lost`` tells how many
                    raise CaptureError(f"the kernel tells no more of ended connections: {error}") from error
                self._broken += _split(self._buffer, at, at + size, _DELETE, starts) == errno.EBADMSG
                at += size + 3 & ~3
            if starts:
                yield _columns(self._buffer, at, starts)

    def lost(self) -> int:
        """Words for which there was no room, since the last call: the kernel's own count (Linux 4.12); and broken ones."""
        broken, self._broken = self._broken, 0
        try:
            told = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_SK_MEMINFO_DROPS + 1))
        except OSError:
            return broken
        now = int(struct.unpack_from("=I", told, 4 * _SK_MEMINFO_DROPS)[0])
        lost, self._lost = (now - self._lost) & 0xFFFFFFFF, now
        return lost + broken


def _opened() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as error:
        raise CaptureError(_refused(error.errno or errno.EPERM)) from error


def _refused(code: int) -> str:
    """What a refusal of the kernel means."""
    if code in (errno.EPERM, errno.EACCES):
        return (
            "no permission to read the connection tracking table: run as root (sudo), or give the service CAP_NET_ADMIN "
            "(AmbientCapabilities in its unit)"
        )
    if code in (errno.EPROTONOSUPPORT, errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
        return (
            "the kernel offers no connection tracking over netlink: load it (sudo modprobe nf_conntrack_netlink), or use "
            "a kernel with CONFIG_NF_CT_NETLINK; a sandbox may forbid AF_NETLINK sockets"
        )
    return f"the kernel did not tell its connection tracking table: {os.strerror(code)}"


def _split(buffer: bytearray, at: int, end: int, wanted: int, starts: list[int]) -> int | None:
    """Append where each wanted message begins; None while more will come, 0 at the end of a dump, or an error number."""
    words = memoryview(buffer)[: end & ~3].cast("I")
    while at + _HEADER <= end:
        length = words[at >> 2]
        kind = words[(at >> 2) + 1] & 0xFFFF if _LITTLE else words[(at >> 2) + 1] >> 16
        if kind == _DONE:
            return 0
        if kind == _ERROR:
            return -int(struct.unpack_from("=i", buffer, at + _HEADER)[0])
        if length < HEAD or at + length > end:
            return errno.EBADMSG
        if kind == wanted:
            starts.append(at)
        at += length + 3 & ~3
    return None


_LITTLE: Final = bool(np.little_endian)


def _columns(buffer: bytearray, end: int, starts: list[int]) -> Tracked:
    data = memoryview(buffer)[:end]
    begin: Numbers = np.array(starts, np.int64)
    sizes = np.frombuffer(data, np.uint32, end >> 2)[begin >> 2] if len(starts) else np.zeros(0, np.uint32)
    return parse(data, begin, begin + sizes.astype(np.int64))
