"""Append-only files of framed byte strings that survive a kill: the archive's journals, the spool's segments.

A frame is ``length`` and CRC-32 of the body (two little-endian uint32), then the body, which is never empty: zeros are
room that was reserved and not used. What was appended is in the kernel's hands when :meth:`FrameFile.append` returns, so
it outlives the process; :meth:`FrameFile.sync` makes it outlive the host. A torn tail is told from a whole frame by its
checksum and cut.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

HEAD: Final = struct.Struct("<II")
LARGEST_BODY: Final = 64 * 2**20
"""A length above this is no frame."""


class FrameFile:
    """The one writer of a file of frames. Holds an exclusive ``flock`` as long as it is open; not thread-safe."""

    def __init__(self, path: Path, *, reserve: int = 0) -> None:
        """Make the file, with room for ``reserve`` octets set aside on the disk.

        Raises ``FileExistsError`` if there is one, ``OSError`` if it cannot be made or the room is not there.
        """
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        if os.fstat(self._file).st_nlink == 0:  # someone claimed it as a leftover before it was locked
            self.close()
            raise FileExistsError(path)
        self.size = 0
        """Octets of whole frames."""
        self._synced = 0
        self._reserved = 0
        if reserve:
            try:
                os.posix_fallocate(self._file, 0, reserve)
            except OSError:
                self.close()
                path.unlink()
                raise
            self._reserved = reserve

    def append(self, body: bytes) -> None:
        """Add one frame, whole or not at all. Raises ``OSError``; then the file is as before and may be tried again."""
        assert body
        data = memoryview(HEAD.pack(len(body), zlib.crc32(body)) + body)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self.size + written)
        except OSError:
            os.ftruncate(self._file, self.size)
            self._reserved = 0
            raise
        self.size += len(data)

    def cut(self, size: int) -> None:
        """Take back what was appended behind the first ``size`` octets, a border of frames. Raises ``OSError``."""
        assert size <= self.size
        os.ftruncate(self._file, size)
        self.size, self._reserved = size, 0
        self._synced = min(self._synced, size)

    def sync(self) -> None:
        """Wait until what was appended is on the disk. Raises ``OSError``."""
        if self._synced != self.size:
            os.fdatasync(self._file)
            self._synced = self.size

    def close(self) -> None:
        """Let go of the file; it stays, without the room that was not used."""
        if self._file >= 0:
            if self._reserved > self.size:
                os.ftruncate(self._file, self.size)
            os.close(self._file)
            self._file = -1


def frames(path: Path) -> Iterator[bytes]:
    """The whole frames of a file, up to its end or to the first that is torn. Safe beside its writer.

    Raises ``OSError``.
    """
    with path.open("rb") as file:
        while len(head := file.read(HEAD.size)) == HEAD.size:
            length, check = HEAD.unpack(head)
            if not 0 < length <= LARGEST_BODY:
                return
            body = file.read(length)
            if len(body) < length or zlib.crc32(body) != check:
                return
            yield body


def claim(path: Path) -> BinaryIO | None:
    """Lock a file of frames that its writer left behind; None if the writer lives or the file is gone.

    Closing what is given ends the claim. Raises ``OSError``.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if os.fstat(file.fileno()).st_nlink == 0:  # its writer has turned it meanwhile
        file.close()
        return None
    return file
