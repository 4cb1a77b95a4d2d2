"""Classic BPF programs (linux/filter.h) for packet sockets: the kernel leaves out what is not wanted."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

LONGEST: Final = 2_048
"""Octets of a packet that may hold a name: a ClientHello with post-quantum key shares has some 1,800."""

_ATTACH_FILTER: Final = 26
_B, _H, _W = 0x10, 0x08, 0x00
_ABS, _IND = 0x20, 0x40
_JUMP, _JEQ, _JSET = 0x05, 0x15, 0x45
_EXTENSION: Final = 0xFFFFF000
_PROTOCOL, _PACKET_TYPE = _EXTENSION + 0, _EXTENSION + 4
_HOST, _OUTGOING = 0, 4
_IPV4, _IPV6, _TCP, _UDP, _DNS = 0x0800, 0x86DD, 6, 17, 53

Step = str | tuple[int, int] | tuple[int, int, str, str]
"""A label; (operation, value); or a jump: (operation, value, label if true, label if not; empty: the next step)."""


def attach(to: socket.socket, program: bytes) -> None:
    """Let the kernel run a program on everything that comes to a socket."""
    code = ctypes.create_string_buffer(program)
    head = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    to.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, head)


def assemble(steps: Sequence[Step]) -> bytes:
    """The program as the kernel reads it; a jump goes forward, at most 255 steps."""
    places: dict[str, int] = {}
    plain: list[tuple[int, int, str, str]] = []
    for step in steps:
        if isinstance(step, str):
            places[step] = len(plain)
        else:
            plain.append(step if len(step) == 4 else (*step, "", ""))

    def jump(label: str, here: int) -> int:
        return places[label] - here - 1 if label else 0

    out = b""
    for here, (operation, value, yes, no) in enumerate(plain):
        if operation == _JUMP:
            out += struct.pack("HBBI", operation, 0, 0, jump(yes, here))
        else:
            out += struct.pack("HBBI", operation, jump(yes, here), jump(no, here), value)
    return out


def names_filter() -> bytes:
    """For a cooked packet socket, whose octets begin with the IP header: unfragmented UDP from port 53 that came to this
    host, and TCP segments from it whose content begins with a ClientHello; at most ``LONGEST`` octets of each.
    """
    load = 0x00
    header_length = (0xB1, 0)  # X = 4 * (P[0] & 15)
    return assemble(
        [
            (load | _W | _ABS, _PACKET_TYPE),
            (_JEQ, _OUTGOING, "sent", ""),
            (_JEQ, _HOST, "", "drop"),
            (load | _H | _ABS, _PROTOCOL),
            (_JEQ, _IPV6, "came6", ""),
            (_JEQ, _IPV4, "", "drop"),
            (load | _B | _ABS, 9),
            (_JEQ, _UDP, "", "drop"),
            (load | _H | _ABS, 6),
            (_JSET, 0x3FFF, "drop", ""),
            header_length,
            (load | _H | _IND, 0),
            (_JEQ, _DNS, "take", "drop"),
            "came6",
            (load | _B | _ABS, 6),
            (_JEQ, _UDP, "", "drop"),
            (load | _H | _ABS, 40),
            (_JEQ, _DNS, "take", "drop"),
            "sent",
            (load | _H | _ABS, _PROTOCOL),
            (_JEQ, _IPV6, "sent6", ""),
            (_JEQ, _IPV4, "", "drop"),
            (load | _B | _ABS, 9),
            (_JEQ, _TCP, "", "drop"),
            (load | _H | _ABS, 6),
            (_JSET, 0x3FFF, "drop", ""),
            header_length,
            (load | _B | _IND, 12),
            (0x54, 0xF0),  # A &= 0xf0
            (0x74, 2),  # A >>= 2
            (0x0C, 0),  # A += X
            (_JUMP, 0, "content", ""),
            "sent6",
            (load | _B | _ABS, 6),
            (_JEQ, _TCP, "", "drop"),
            (load | _B | _ABS, 52),
            (0x54, 0xF0),
            (0x74, 2),
            (0x04, 40),  # A += 40
            "content",
            (0x07, 0),  # X = A
            (load | _H | _IND, 0),
            (_JEQ, 0x1603, "", "drop"),
            (load | _B | _IND, 5),
            (_JEQ, 1, "take", "drop"),
            "take",
            (0x06, LONGEST),
            "drop",
            (0x06, 0),
        ]
    )
