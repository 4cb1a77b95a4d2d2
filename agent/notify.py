"""What a service says to its manager: sd_notify(3) over the datagram socket in ``NOTIFY_SOCKET``, in own words.

No library: see docs/dependencies.md. Sending never blocks and never fails the program; what went wrong is kept in
``fault`` for whoever logs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

_MOST: Final = 4000
"""Octets of a message; the manager takes a page (sd-messages.h: NOTIFY_BUFFER_MAX)."""


@dataclass(frozen=True, slots=True)
class Watchdog:
    """How often the manager wants a sign of life, or why none is given."""

    interval_ns: int = 0
    """Nanoseconds after which the manager takes the program for stuck; 0: nobody waits."""
    fault: str = ""
    """What was wrong with the two variables; empty if nothing was."""

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> Self:
        """From ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` (sd_watchdog_enabled(3))."""
        given, whose = environ.get("WATCHDOG_USEC"), environ.get("WATCHDOG_PID")
        if given is None:
            return cls()
        if whose is not None and not (whose.isascii() and whose.isdecimal()):
            return cls(fault=f"WATCHDOG_PID={whose}: expected a process id")
        if whose is not None and int(whose) != pid:
            return cls()  # it is for another process, as sd_watchdog_enabled(3) says
        if not (given.isascii() and given.isdecimal()) or int(given) == 0:
            return cls(fault=f"WATCHDOG_USEC={given}: expected microseconds, such as 60000000")
        return cls(int(given) * 1000)


class Notifier:
    """The way to the service manager. Not thread-safe."""

    def __init__(self, address: str | None) -> None:
        """``address``: value of ``NOTIFY_SOCKET``; None where nobody listens."""
        self.fault = ""
        """Why the last message was not sent; empty if it was, or if nobody listens."""
        self._address = _address(address) if address else b""
        if address and not self._address:
            self.fault = f"NOTIFY_SOCKET={address}: expected a path from / on, or @ and an abstract name"

    @property
    def listened(self) -> bool:
        """Whether there is somebody to tell."""
        return bool(self._address)

    def send(self, **fields: object) -> None:
        """Send fields such as ``READY=1`` in one message; texts are cut to one line."""
        if not self._address:
            return
        lines = [f"{name}={' '.join(str(value).split())}" for name, value in fields.items()]
        message = "\n".join(lines).encode(errors="replace")[:_MOST]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(message, self._address)
            self.fault = ""
        except OSError as error:
            self.fault = f"NOTIFY_SOCKET={os.fsdecode(self._address)}: {error.strerror or error}".replace(
                "\0", "@"
            )


def _address(text: str) -> bytes:
    """For ``sendto``: an abstract name begins with NUL. Empty for what is neither, such as ``vsock:``."""
    if text.startswith("@") and len(text) > 1:
        return b"\0" + os.fsencode(text[1:])
    return os.fsencode(text) if text.startswith("/") else b""
