"""Whole lines to a file or to standard output: what ``jsonl`` and ``ocsf`` share. No stage of its own.

A file is opened with ``O_APPEND`` and mode 0600 and locked for each write. A write that cannot be finished is taken
back, so that readers never meet half a line; a torn line that a crash left behind is ended before the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from agent.core.errors import SinkError

_MAY_PASS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.ESTALE}
)  # fmt: skip
STDOUT = "-"


class Lines:
    """A file of lines, or standard output for ``-``. Opens at the first write; not thread-safe.

    ``rotate_octets``: a file that would grow past this is renamed to ``name.1`` first, older ones move up, and at
    most ``keep`` of them stay. A file that was renamed or removed by another program is opened anew.
    """

    def __init__(self, path: Path | str, *, rotate_octets: int | None = None, keep: int = 5) -> None:
        self.path = str(path)
        self._rotate_octets, self._keep = rotate_octets, keep
        self._fd: int | None = None
        self._heads: set[bytes] = set()
        """Written into the file that is open."""

    def write(self, data: bytes, head: bytes = b"") -> None:
        """Append whole lines (``data`` ends with a line feed). Raises :class:`~agent.core.errors.SinkError`.

        ``head``: lines to which ``data`` refers; each file gets them once, before it.
        """
        if not data:
            return
        with self._faults():
            if self.path == STDOUT:
                _write_stdout(self._after(head, data))
                self._heads.add(head)
                return
            self._open(len(head) + len(data))
            assert self._fd is not None
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                _append(self._fd, self._after(head, data))
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            self._heads.add(head)

    def _after(self, head: bytes, data: bytes) -> bytes:
        return data if head in self._heads else head + data

    def flush(self) -> None:
        """Make what was written durable. Raises :class:`~agent.core.errors.SinkError`."""
        with self._faults():
            if self.path == STDOUT:
                sys.stdout.flush()
            elif self._fd is not None and stat.S_ISREG(os.fstat(self._fd).st_mode):
                os.fsync(self._fd)

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            self._close()

    def _open(self, coming: int) -> None:
        if self._fd is not None and not self._is_current(self._fd):
            self._close()
        if self._fd is None:
            self._fd = self._opened()
        size = os.fstat(self._fd).st_size
        if self._rotate_octets and size and size + coming > self._rotate_octets:
            self._rotate()

    def _opened(self) -> int:
        self._heads.clear()
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_size and os.pread(fd, 1, status.st_size - 1) != b"\n":
            os.write(fd, b"\n")
        return fd

    def _is_current(self, fd: int) -> bool:
        try:
            there, here = Path(self.path).stat(), os.fstat(fd)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _rotate(self) -> None:
        self._close()
        for i in range(self._keep, 0, -1):
            newer = Path(f"{self.path}.{i - 1}" if i > 1 else self.path)
            with contextlib.suppress(FileNotFoundError):
                newer.replace(f"{self.path}.{i}")
        self._fd = self._opened()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = "standard output" if self.path == STDOUT else self.path
            advice = {errno.ENOSPC: "free some space", errno.EACCES: "give this user the right to write it"}
            hint = advice.get(error.errno or 0, "look at the path in the settings")
            raise SinkError(
                f"cannot write {where}: {error.strerror or error} ({hint})",
                retriable=error.errno in _MAY_PASS,
            ) from error


def _append(fd: int, data: bytes) -> None:
    status = os.fstat(fd)
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        if stat.S_ISREG(status.st_mode):
            os.ftruncate(fd, status.st_size)
        raise


def _write_stdout(data: bytes) -> None:
    # Written as text where the stream has been replaced by one without bytes, as tests and notebooks do.
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(data.decode())
        return
    sys.stdout.flush()
    buffer.write(data)
    buffer.flush()
