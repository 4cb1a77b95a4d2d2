"""Writes messages of the connection tracking table as the kernel does (linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_NESTED = 0x8000


def attribute(kind: int, content: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def nest(kind: int, *inside: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(inside))


@dataclass(frozen=True)
class Way:
    """One direction."""

    source: str
    target: str
    source_port: int
    target_port: int
    packets: int
    octets: int


@dataclass(frozen=True)
class Entry:
    """One entry of the table."""

    orig: Way
    reply: Way
    protocol: int = 6
    identity: int = 1
    zone: int | None = None
    status: int | None = None
    state: int | None = None
    start_ns: int | None = None
    counted: bool = True

    def attributes(self) -> list[bytes]:
        """Its attributes, in the kernel's order."""
        out = [self._ends(1, self.orig), self._ends(2, self.reply)]
        if self.status is not None:
            out.append(attribute(3, struct.pack(">I", self.status)))
        if self.state is not None:
            out.append(nest(4, nest(1, attribute(1, bytes([self.state])), attribute(2, b"\x07"))))
        if self.counted:
            for kind, way in ((9, self.orig), (10, self.reply)):
                counts = (
                    attribute(1, struct.pack(">Q", way.packets)),
                    attribute(2, struct.pack(">Q", way.octets)),
                )
                out.append(nest(kind, *counts))
        if self.start_ns is not None:
            out.append(nest(20, attribute(1, struct.pack(">Q", self.start_ns))))
        out.append(attribute(12, struct.pack(">I", self.identity)))
        if self.zone is not None:
            out.append(attribute(18, struct.pack(">H", self.zone)))
        return out

    def _ends(self, kind: int, way: Way) -> bytes:
        source, target = ipaddress.ip_address(way.source), ipaddress.ip_address(way.target)
        first = 1 if source.version == 4 else 3
        ip = nest(1, attribute(first, source.packed), attribute(first + 1, target.packed))
        if self.protocol in (1, 58):
            base = 4 if self.protocol == 1 else 7
            rest = [attribute(base, struct.pack(">H", way.source_port))]
            rest += [attribute(base + 1, b"\x08"), attribute(base + 2, b"\x00")]
        else:
            rest = [
                attribute(2, struct.pack(">H", way.source_port)),
                attribute(3, struct.pack(">H", way.target_port)),
            ]
        return nest(kind, ip, nest(2, attribute(1, bytes([self.protocol])), *rest))


def message(entry: Entry, *, kind: int = 0x100, attributes: Sequence[bytes] | None = None) -> bytes:
    """A whole message: new (0x100, what a dump holds) or delete (0x102)."""
    family = 2 if ":" not in entry.orig.source else 10
    body = struct.pack("=BBH", family, 0, 0) + b"".join(attributes or entry.attributes())
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body
