"""One file of the spool: written once from its head to its foot, then only read, then removed.

Frames as :mod:`agent.core.frames` has them. The first is the head (where in the lane the file begins), then records,
last the foot (where it ends); a file whose writer was killed has no foot. Head and foot carry running sums over the whole
lane, so what a damaged file has lost is known exactly, in flows and octets, without reading it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.core.accounts import Amounts
from agent.core.frames import HEAD, LARGEST_BODY, FrameFile

_MARK: Final = struct.Struct("<4sQQQQ")
"""Kind, then the running sums: records, flows, octets out, octets in."""
_RECORD: Final = struct.Struct("<4sQQQQ")
"""Kind, then the record's own: number in its lane, flows, octets out, octets in."""
_BEGIN: Final = b"SKS1"
_RECORD_KIND: Final = b"SKSR"
_END: Final = b"SKSE"
_MARK_OCTETS: Final = HEAD.size + _MARK.size
OVERHEAD: Final = 2 * _MARK_OCTETS
"""Octets of a file besides its records."""
RECORD_OVERHEAD: Final = HEAD.size + _RECORD.size
"""Octets of a record besides its body."""
LARGEST_RECORD: Final = LARGEST_BODY - _RECORD.size


@dataclass(frozen=True, slots=True)
class Tally:
    """Running sums over a lane, or the difference of two."""

    records: int = 0
    amounts: Amounts = field(default_factory=Amounts)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.records + other.records, self.amounts + other.amounts)

    def __sub__(self, other: Tally) -> Tally:
        return Tally(self.records - other.records, self.amounts - other.amounts)

    def __bool__(self) -> bool:
        return bool(self.records)


@dataclass(frozen=True, slots=True)
class Segment:
    """A file and what of the lane stands in it: everything after ``begin`` up to ``end``."""

    path: Path
    number: int
    begin: Tally
    end: Tally
    octets: int
    """What it takes on the disk."""


class SegmentWriter:
    """The file that is written now. Not thread-safe."""

    def __init__(self, folder: Path, number: int, begin: Tally, octets: int) -> None:
        """Make the file with its room set aside. Raises ``OSError``, such as where the disk has no room."""
        self.number, self.begin, self.end = number, begin, begin
        self.octets = octets
        self._file = FrameFile(folder / name_of(number), reserve=octets)
        self.path = self._file.path
        try:
            self._file.append(_mark(_BEGIN, begin))
        except OSError:
            self._file.close()
            self.path.unlink()
            raise

    def fits(self, body: bytes) -> bool:
        """Whether a record still has room, with the foot after it."""
        return self._file.size + RECORD_OVERHEAD + len(body) + _MARK_OCTETS <= self.octets

    def append(self, amounts: Amounts, body: bytes) -> None:
        """Add a record, whole or not at all. Raises ``OSError``."""
        number = self.end.records
        head = _RECORD.pack(_RECORD_KIND, number, amounts.flows, amounts.octets_out, amounts.octets_in)
        self._file.append(head + body)
        self.end += Tally(1, amounts)

    @property
    def size(self) -> int:
        """Octets of whole frames; what stands before may be read by others."""
        return self._file.size

    def sync(self) -> None:
        """Wait until everything is on the disk. Raises ``OSError``."""
        self._file.sync()

    def close(self) -> Segment:
        """Write the foot, bring all to the disk, and let go. Raises ``OSError``; the file is then without a foot."""
        try:
            self._file.append(_mark(_END, self.end))
            self._file.sync()
        finally:
            size = self._file.size
            self._file.close()
        return Segment(self.path, self.number, self.begin, self.end, size)

    def leave(self) -> None:
        """Let go of the file as it is."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Read:
    """A record as it was read: where the next one begins, its number in the lane, its amounts, its body."""

    next_offset: int
    number: int
    amounts: Amounts
    body: bytes


class SegmentReader:
    """Reads one file from an offset on, also while it is written."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Open the file. Raises ``OSError``."""
        # Unbuffered: a buffer would still hold the zeros of reserved room where a record stands by now.
        self._file = path.open("rb", buffering=0)
        self.offset = max(offset, _MARK_OCTETS)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def records(self, end: int | None = None) -> Iterator[Read]:
        """Whole records up to offset ``end`` (None: to the end of the file). What is damaged is stepped over where the
        length of the frame still leads to another one; else the rest is given up. Raises ``OSError``.
        """
        while (found := self._frame(self.offset, end)) is not None:
            length, body = found
            self.offset += HEAD.size + length
            if body is None or len(body) < _RECORD.size or body[:4] != _RECORD_KIND:
                continue
            _, number, flows, octets_out, octets_in = _RECORD.unpack_from(body)
            yield Read(self.offset, number, Amounts(flows, octets_out, octets_in), body[_RECORD.size :])

    def _frame(self, offset: int, end: int | None) -> tuple[int, bytes | None] | None:
        """Length and body of the frame at an offset; body None where its checksum is wrong; None where there is no more."""
        if end is not None and offset >= end:
            return None
        self._file.seek(offset)
        head = self._file.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        length, check = HEAD.unpack(head)
        if not 0 < length <= LARGEST_BODY:
            return None
        body = self._file.read(length)
        if len(body) < length:
            return None
        return length, body if zlib.crc32(body) == check else None


def name_of(number: int) -> str:
    """The file's name; names sort as numbers do."""
    return f"{number:012d}.segment"


def number_of(path: Path) -> int | None:
    """The number in a file's name; None for a file that is not ours."""
    stem, _, kind = path.name.partition(".")
    return int(stem) if kind == "segment" and stem.isdecimal() else None


def inspect(path: Path, number: int) -> Segment | None:
    """What stands in a file that nobody writes any more; None where its head cannot be read.

    Reads head and foot; all of it only where there is no foot. Raises ``OSError``.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = _unmark(file.read(_MARK_OCTETS), _BEGIN)
        if begin is None:
            return None
        file.seek(max(size - _MARK_OCTETS, 0))
        end = _unmark(file.read(_MARK_OCTETS), _END)
    if end is None:
        end = begin
        reader = SegmentReader(path)
        try:
            for record in reader.records():
                end = Tally(record.number + 1, end.amounts + record.amounts)
        finally:
            reader.close()
    return Segment(path, number, begin, end, size)


def _mark(kind: bytes, tally: Tally) -> bytes:
    amounts = tally.amounts
    return _MARK.pack(kind, tally.records, amounts.flows, amounts.octets_out, amounts.octets_in)


def _unmark(frame: bytes, kind: bytes) -> Tally | None:
    if len(frame) < _MARK_OCTETS:
        return None
    length, check = HEAD.unpack_from(frame)
    body = frame[HEAD.size :]
    if length != _MARK.size or zlib.crc32(body) != check or body[:4] != kind:
        return None
    _, records, flows, octets_out, octets_in = _MARK.unpack(body)
    return Tally(records, Amounts(flows, octets_out, octets_in))
