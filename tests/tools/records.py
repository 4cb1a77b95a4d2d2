"""Capture files walked record by record, as plainly as their formats are written: what a reader must find in them."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """A packet's record: where it ends in the file, the octets captured, and those it had on the wire."""

    end: int
    octets: bytes
    length: int


def walk(file: bytes) -> list[Record]:
    """The whole packet records of a right classic pcap or pcapng file, up to the first that is not whole."""
    return _blocks(file) if file[:4] == b"\x0a\x0d\x0d\x0a" else _classic(file)


def _classic(file: bytes) -> list[Record]:
    order = "<" if file[0] in (0xD4, 0x4D, 0x34) else ">"
    head = 24 if file[:4] in (b"\x34\xcd\xb2\xa1", b"\xa1\xb2\xcd\x34") else 16
    found, at = [], 24
    while at + head <= len(file):
        captured, length = struct.unpack_from(order + "II", file, at + 8)
        end = at + head + captured
        if end > len(file):
            break
        found.append(Record(end, file[at + head : end], max(captured, length)))
        at = end
    return found


def _blocks(file: bytes) -> list[Record]:
    order, snap, found, at = "<", 0, [], 0
    while at + 12 <= len(file):
        if file[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order, snap = ("<" if file[at + 8] == 0x4D else ">"), 0
        kind, size = struct.unpack_from(order + "II", file, at)
        end = at + size
        if end > len(file):
            break
        if kind == 1 and not snap:
            snap = struct.unpack_from(order + "I", file, at + 12)[0] or 1 << 18
        if kind in (2, 6):
            captured, length = struct.unpack_from(order + "II", file, at + 20)
            found.append(Record(end, file[at + 28 : at + 28 + captured], max(captured, length)))
        elif kind == 3:
            length = struct.unpack_from(order + "I", file, at + 8)[0]
            captured = min(length, snap, size - 16)
            found.append(Record(end, file[at + 12 : at + 12 + captured], max(captured, length)))
        at = end
    return found
