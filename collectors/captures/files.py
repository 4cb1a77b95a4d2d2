"""Capture files read a piece at a time: plain, gzip, xz or zstd, a pipe, or a file that still grows.

One buffer is filled again and again, so memory does not grow with the file. What a file says of itself is decided
in :mod:`collectors.captures.classic` and :mod:`collectors.captures.pcapng`; here it is only opened and read.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import select
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import zstandard

from agent.core.errors import CaptureError, DecodeError, SekishoError
from collectors.captures.classic import Classic
from collectors.captures.frames import Container, Frames
from collectors.captures.pcapng import Pcapng
from collectors.packets.decode import PAD
from collectors.packets.links import Bytes

CHUNK: Final = 3 << 20
"""Octets read at once to begin with: some 30,000 short frames, enough for numpy's fixed cost not to be felt."""
MOST_CHUNK: Final = 8 << 20
FEW: Final = 4096
"""With fewer frames than this in a chunk, numpy's fixed cost is felt: the chunk is doubled, up to ``MOST_CHUNK``."""
STDIN: Final = Path("-")
_HEAD: Final = 24
_LOOK_MS: Final = 200
_SKIPPABLE: Final = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""How a zstd frame begins that only tells of others (RFC 8878 section 3.1.2); pzstd writes one first."""
_CORRUPT: Final = (zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstandard.ZstdError)


class CaptureFile:
    """One capture file, or standard input for ``-``. Opens nothing until :meth:`frames` is asked.

    A regular file is read up to the size that it had when it was opened, so that a file that grows ends too. A pipe that
    nobody writes to is waited for until ``stopped`` says that the wait is over; then it ends there.
    """

    def __init__(
        self, path: Path, *, chunk_octets: int = CHUNK, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self.path = path
        self._stopped = stopped
        self.name = "stdin" if path == STDIN else path.name
        self.interfaces: list[str] = []
        """Names that ``Frames.interface`` points into; grows while the file is read."""
        self.torn: tuple[int, int] = (0, 0)
        """(frames, octets) of an incomplete record at the end, known once it is read."""
        self._chunk = max(chunk_octets, _HEAD)
        self._source: _Source | None = None
        self._container: Container | None = None
        self._fault: SekishoError | None = None

    @property
    def read_octets(self) -> int:
        """Octets of the file, as it lies, that were read."""
        return self._source.taken if self._source else 0

    @property
    def offset(self) -> int:
        """Octets of the capture, uncompressed, whose records were given."""
        return self._container.offset if self._container else 0

    def frames(self) -> Generator[Frames, None, None]:
        """Chunks of frames, each valid until the next is asked for. Blocks on reading; closes the file when it ends.

        Raises :class:`~agent.core.errors.CaptureError` (cannot be opened or read) and
        :class:`~agent.core.errors.DecodeError` (is no capture, or is corrupt), the latter after every whole record
        before the fault was given. A record that the end of the file cuts is no fault: see ``torn``.
        """
        with _open(self.path, self._stopped) as source:
            self._source = source
            try:
                yield from self._read(_decompressed(source))
            finally:
                source.file.close()

    def _read(self, pull: Callable[[memoryview], int]) -> Iterator[Frames]:
        buffer, filled, ended = np.zeros(self._chunk + PAD, np.uint8), 0, False
        while True:
            filled, ended = self._fill(pull, buffer, filled)
            at = 0
            if self._container is None:
                if not ended and filled < _HEAD:
                    continue
                if filled < _HEAD and self._stopped():
                    return
                self._container = self._begin(buffer[: min(filled, _HEAD)].tobytes())
                at = self._container.offset
            seen = 0
            while True:
                frames, used = self._container.take(buffer[at:], filled - at)
                if len(frames) or frames.lost:
                    yield frames
                at += used
                seen += len(frames)
                if not used:
                    break
            if ended:
                break
            full = filled == len(buffer) - PAD
            small = not at or (seen < FEW and len(buffer) < MOST_CHUNK)
            rest = buffer[at:filled]
            if full and small:
                buffer = np.zeros(2 * (len(buffer) - PAD) + PAD, np.uint8)
            buffer[: len(rest)] = rest
            filled = len(rest)
        self._end(buffer[at:filled].tobytes())

    def _begin(self, head: bytes) -> Container:
        if self._fault and len(head) < _HEAD:
            raise self._fault
        if not head and self.read_octets:
            raise DecodeError(
                "its compression is cut off before anything came out of it; copy the file again",
                source=str(self.path),
            )
        container = recognise(head, str(self.path))
        container.interfaces = self.interfaces
        return container

    def _end(self, rest: bytes) -> None:
        if self._fault:
            raise self._fault
        if not self.offset and not self._stopped():
            raise DecodeError(
                f"ends inside the first section header, after {len(rest)} octets; copy the file again",
                source=str(self.path),
                offset=len(rest),
            )
        if rest and self._container:
            self.torn = self._container.torn(rest)

    def _fill(self, pull: Callable[[memoryview], int], buffer: Bytes, filled: int) -> tuple[int, bool]:
        """Read on: (octets in the buffer, whether there will be no more). From a pipe, only what there is now."""
        room = memoryview(buffer.data)[: len(buffer) - PAD]
        try:
            while filled < len(room):
                got = pull(room[filled:])
                if not got:
                    return filled, True
                filled += got
                if self._source and self._source.total is None:
                    break
        except EOFError:
            # Compressed data that stops in the middle is read to where it stops, as a plain file would be.
            return filled, True
        except _CORRUPT as error:
            self._fault = DecodeError(
                _why(error),
                source=str(self.path),
                offset=self.read_octets,
            )
            return filled, True
        except OSError as error:
            self._fault = CaptureError(
                f"{self.path}: cannot be read on at byte {self.read_octets}: {error.strerror or error}"
            )
            return filled, True
        return filled, False


def _why(error: Exception) -> str:
    """What is wrong with the compression, and how to mend it."""
    if "too much memory" in str(error):
        return "its zstd window is over 128 MiB; unpack it beforehand (zstd -d --long=31) or pack it without --long"
    return f"the compression is corrupt ({error}); copy the file again"


def looks_like_capture(path: Path) -> bool:
    """Whether a file, decompressed if need be, begins as a capture does. Raises ``CaptureError`` if it cannot be opened."""
    with _open(path, lambda: False) as source:
        try:
            head = bytearray(_HEAD)
            got = _decompressed(source)(memoryview(head))
            recognise(bytes(head[:got]), str(path))
        except (*_CORRUPT, EOFError, DecodeError):
            return False
        finally:
            source.file.close()
    return True


def recognise(head: bytes, source: str) -> Container:
    """The container that ``head``, the first 24 octets or all there are, belongs to. Raises ``DecodeError``."""
    if not head:
        raise DecodeError("is empty; expected a pcap or pcapng capture", source=source, offset=0)
    if head[:4] == b"\x0a\x0d\x0d\x0a":
        return Pcapng(source)
    for order in "<>":
        magic: int = struct.unpack(order + "I", head[:4].ljust(4, b"\0"))[0]
        if magic in Classic.MAGIC:
            if len(head) < _HEAD:
                raise DecodeError(
                    f"ends inside the file header, after {len(head)} of {_HEAD} octets; copy the file again",
                    source=source,
                    offset=len(head),
                )
            return Classic(source, magic, order, head)
    raise DecodeError(
        f"begins with {head[:4].hex(' ')}; expected a pcap or pcapng capture, plain or compressed by gzip, xz or zstd; "
        "convert it (editcap -F pcapng) or leave it out",
        source=source,
        offset=0,
    )


class _Source(io.RawIOBase):
    """The octets of a file as it lies: those already looked at first, never more than it had when it was opened."""

    def __init__(self, file: IO[bytes], total: int | None, stopped: Callable[[], bool]) -> None:
        self.file, self.total, self.taken = file, total, 0
        self._stopped = stopped
        self._poll = select.poll()
        self._poll.register(file, select.POLLIN)
        self.head = b""
        while len(self.head) < 6 and self._has_more() and (more := file.read(6 - len(self.head))):
            self.head += more

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        view = memoryview(room).cast("B")
        if self.total is not None:
            view = view[: max(self.total - self.taken, 0)]
        if head := self.head[: len(view)]:
            view[: len(head)] = head
            self.head = self.head[len(head) :]
            got = len(head)
        else:
            got = self.file.readinto(view) if len(view) and self._has_more() else 0  # type: ignore[attr-defined]
        self.taken += got
        return got

    def _has_more(self) -> bool:
        """Wait until a pipe has something or has ended; False if the wait was called off."""
        if self.total is not None:
            return True
        while not self._poll.poll(_LOOK_MS):
            if self._stopped():
                return False
        return True


def _open(path: Path, stopped: Callable[[], bool]) -> _Source:
    try:
        if path == STDIN:
            # Unbuffered: what a buffer has taken in, poll does not see.
            return _Source(open(sys.stdin.fileno(), "rb", buffering=0, closefd=False), None, stopped)
        file = os.fdopen(_open_now(path), "rb", buffering=0)
        status = os.fstat(file.fileno())
        return _Source(file, status.st_size if stat.S_ISREG(status.st_mode) else None, stopped)
    except FileNotFoundError as error:
        raise CaptureError(f"{path}: there is no such file; give the path of a capture") from error
    except IsADirectoryError as error:
        raise CaptureError(f"{path}: is a folder; give the capture files in it") from error
    except OSError as error:
        what = "its permissions" if isinstance(error, PermissionError) else "the path"
        raise CaptureError(f"{path}: cannot be opened ({error.strerror}); check {what}") from error


def _open_now(path: Path) -> int:
    """A descriptor at once, also of a named pipe that nobody writes to yet."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    return descriptor


def _decompressed(source: _Source) -> Callable[[memoryview], int]:
    """Reads what the source holds once it is decompressed, at most one decompression step at a time.

    (A step that fails must not take the octets of the steps before it along.)
    """
    stream = cast(IO[bytes], source)
    if source.head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream).readinto1
    if source.head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(stream).readinto1
    if source.head.startswith(b"\x28\xb5\x2f\xfd") or _SKIPPABLE.match(source.head):
        return zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True).readinto1
    return source.readinto
