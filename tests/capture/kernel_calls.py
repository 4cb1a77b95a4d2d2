"""Jobs of :mod:`tests.capture.senders` that need the kernel's own structures: sendmmsg, MSG_ZEROCOPY, io_uring."""

from __future__ import annotations

import ctypes
import errno
import mmap
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

from ends import CHUNK, connected, datagrams, finish  # beside this file, which is where Python was started

Said = dict[str, Any]
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Head(ctypes.Structure):
    """struct msghdr of socket.h."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Message(ctypes.Structure):
    """struct mmsghdr of socket.h."""

    _fields_ = [("head", _Head), ("sent", ctypes.c_uint)]


def sendmmsg(given: dict[str, Any]) -> Iterator[Said]:
    """sendmmsg(2): many datagrams in one call."""
    batch = 100
    body = ctypes.create_string_buffer(500)
    vectors = [_Iovec(ctypes.addressof(body), 100 + n * 4) for n in range(batch)]
    messages = (_Message * batch)(
        *(_Message(_Head(iov=ctypes.pointer(vector), iovlen=1)) for vector in vectors)
    )  # fmt: skip
    sent = 0
    with datagrams(given) as link:
        link.connect((given["to"], given["port"]))
        for _ in range(given["count"]):
            done = _LIBC.sendmmsg(link.fileno(), messages, batch, 0)
            sent += sum(message.sent for message in messages[:done])
    yield {"sent": sent}


def zerocopy(given: dict[str, Any]) -> Iterator[Said]:
    """MSG_ZEROCOPY: the kernel sends out of the program's own pages."""
    so_zerocopy, msg_zerocopy = 60, 0x4000000
    link = connected(given)
    link.setsockopt(socket.SOL_SOCKET, so_zerocopy, 1)
    body = mmap.mmap(-1, 1 << 20)
    view, sent = memoryview(body), 0
    while sent < given["octets"]:
        try:
            sent += link.send(view[: min(len(view), given["octets"] - sent)], msg_zerocopy)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        # Each word of a finished send takes room until it is read.
        while select.select([], [], [link], 0)[2]:
            link.recvmsg(1, 512, socket.MSG_ERRQUEUE)
    finish(link)
    yield {"sent": sent}


_SETUP, _ENTER = 425, 426
_OP_SEND = 26


class _Ring:
    """io_uring with one entry (linux/io_uring.h), by system calls alone."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        self.fd = _LIBC.syscall(_SETUP, 1, parameters)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        entries = struct.unpack_from("II", parameters)
        at = struct.unpack_from("20I", parameters, 40)
        self._sq, self._cq = at[:7], at[10:17]
        size = max(self._sq[6] + 4 * entries[0], self._cq[5] + 16 * entries[1])
        shared = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        self._rings = mmap.mmap(self.fd, size, shared)
        self._completions = mmap.mmap(self.fd, size, shared, offset=0x8000000)
        self._entries = mmap.mmap(self.fd, 64 * entries[0], shared, offset=0x10000000)

    def send(self, fd: int, address: int, length: int) -> int:
        """One send through the ring; the octets it took."""
        self._entries[:64] = struct.pack(
            "=BBHiQQIIQQQQ", _OP_SEND, 0, 0, fd, 0, address, length, 0, 1, 0, 0, 0
        )
        (tail,) = struct.unpack_from("I", self._rings, self._sq[1])
        struct.pack_into("I", self._rings, self._sq[6], 0)
        struct.pack_into("I", self._rings, self._sq[1], tail + 1)
        if _LIBC.syscall(_ENTER, self.fd, 1, 1, 1, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        (head,) = struct.unpack_from("I", self._completions, self._cq[0])
        (mask,) = struct.unpack_from("I", self._completions, self._cq[2])
        _data, result = struct.unpack_from("=Qi", self._completions, self._cq[5] + 16 * (head & mask))
        struct.pack_into("I", self._completions, self._cq[0], head + 1)
        if result < 0:
            raise OSError(-result, "send through io_uring")
        return int(result)


def io_uring(given: dict[str, Any]) -> Iterator[Said]:
    """IORING_OP_SEND."""
    link = connected(given)
    ring = _Ring()
    body = ctypes.create_string_buffer(CHUNK)
    sent = 0
    while sent < given["octets"]:
        sent += ring.send(link.fileno(), ctypes.addressof(body), min(CHUNK, given["octets"] - sent))
    finish(link)
    yield {"sent": sent}
