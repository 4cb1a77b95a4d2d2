"""What makes several records and the position behind them durable in one step, for collectors whose source waits for it.

The group is written here first, whole or not at all, then appended to its lanes. Whoever is killed in between finds it
at the next start and appends what is missing: the same octets, so the same ids and digests, never the same rows under
another number. Two files take turns, so that the last whole group outlives a torn write of the next.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.core.accounts import Amounts
from agent.core.errors import StateError
from agent.core.faults import faultpoint
from agent.core.log import Log

_LOG: Final = Log(part="spool")
_HEAD: Final = struct.Struct("<QIQ")
"""Length of the body, its CRC-32, and the number of the group."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a group. ``number`` is the one that its lane gives it."""

    lane: int
    number: int
    amounts: Amounts
    body: bytes


@dataclass(frozen=True, slots=True)
class _Group:
    number: int
    position: str
    entries: tuple[Entry, ...]


class Journal:
    """The last group of one spool. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Find the last whole group. Raises :class:`StateError`."""
        self._paths = (folder / "group0", folder / "group1")
        try:
            found = [group for path in self._paths if (group := _read(path)) is not None]
        except OSError as error:
            raise StateError(f"spool {folder}: {error.strerror}") from error
        self._last = max(found, key=lambda group: group.number, default=_Group(0, "", ()))

    @property
    def position(self) -> str:
        """Where in its input the last group ends."""
        return self._last.position

    def missing(self, next_numbers: Mapping[int, int]) -> tuple[Entry, ...]:
        """What of the last group its lanes do not have; lane -> the number that its next record would get."""
        return tuple(e for e in self._last.entries if e.number >= next_numbers[e.lane])

    def write(self, position: str, entries: Sequence[Entry], *, sync: bool) -> None:
        """Make a group durable: against a kill, with ``sync`` against a power cut. Raises ``OSError``."""
        group = _Group(self._last.number + 1, position, tuple(entries))
        body = _packed(group)
        file = os.open(self._paths[group.number % 2], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            data = memoryview(_HEAD.pack(len(body), zlib.crc32(body), group.number) + body)
            written = 0
            while written < len(data):
                written += os.pwrite(file, data[written:], written)
            if sync:
                os.fdatasync(file)
        finally:
            os.close(file)
        self._last = _Group(group.number, position, ())
        faultpoint("send.after_journal")


def _packed(group: _Group) -> bytes:
    about = {
        "position": group.position,
        "entries": [[e.lane, e.number, *e.amounts.as_dict().values(), len(e.body)] for e in group.entries],
    }
    return json.dumps(about).encode() + b"\n" + b"".join(e.body for e in group.entries)


def _read(path: Path) -> _Group | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < _HEAD.size:
        return None
    length, check, number = _HEAD.unpack_from(data)
    body = data[_HEAD.size : _HEAD.size + length]
    if len(body) < length or zlib.crc32(body) != check:
        _LOG.warning("spool_group_torn", file=path.name)
        return None
    head, _, rest = body.partition(b"\n")
    about = json.loads(head)
    entries, at = [], 0
    for lane, record, flows, octets_out, octets_in, octets in about["entries"]:
        entries.append(Entry(lane, record, Amounts(flows, octets_out, octets_in), rest[at : at + octets]))
        at += octets
    return _Group(number, about["position"], tuple(entries))
