"""What every job of :mod:`tests.capture.senders` begins and ends with: where it runs, and its sockets."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path
from typing import Any

CHUNK = 1 << 16
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def enter(given: dict[str, Any]) -> None:
    """Join the cgroup, then the namespace, then become the user."""
    if given.get("cgroup"):
        Path(given["cgroup"]).write_text(str(os.getpid()))
    with Path(given["net"]).open() as handle:
        if _LIBC.setns(handle.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    if given.get("uid"):
        os.setgid(given["uid"])
        os.setuid(given["uid"])


def connected(given: dict[str, Any], port: int | None = None) -> socket.socket:
    """A TCP connection to the peer."""
    return socket.create_connection((given["to"], given["port"] if port is None else port))


def datagrams(given: dict[str, Any]) -> socket.socket:
    """A UDP socket of the peer's family."""
    return socket.socket(family_of(given["to"]), socket.SOCK_DGRAM)


def finish(link: socket.socket) -> None:
    """End what is sent, and wait until the other end has read it all and closed."""
    link.shutdown(socket.SHUT_WR)
    while link.recv(CHUNK):
        pass
    link.close()


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
