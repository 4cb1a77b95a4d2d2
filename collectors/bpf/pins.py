"""Maps and links kept in the BPF file system, so that counting goes on while no agent runs.

    <folder>/<instance>/<name of a set of maps>/{map and link names}

A set is made in this order: maps, then links. So a set without all its links was cut off while it was made, and one
whose notes are missing holds nothing. Unlinking a link's pin takes its program off; ``rm -r`` of the folder undoes all.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from agent.core.errors import CaptureError

_BPF_FS_MAGIC: Final = 0xCAFE4A11
LINK: Final = "link_"


class _StatFs(ctypes.Structure):
    _fields_ = [("type", ctypes.c_long), ("rest", ctypes.c_long * 31)]


def is_bpf_fs(path: Path) -> bool:
    """Whether the folder, or the nearest one above it that exists, lies in a BPF file system."""
    there = next(p for p in (path, *path.parents) if p.exists())
    answer = _StatFs()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(there), ctypes.byref(answer)):
        return False
    return bool(answer.type & 0xFFFFFFFF == _BPF_FS_MAGIC)


class Pins:
    """The folder of one agent. One process at a time holds it. Close it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = -1

    @classmethod
    def open(cls, folder: Path, tier: str = "ebpf") -> Self:
        """Take the folder. Raises ``OSError`` where nothing can be pinned there, :class:`CaptureError` where another agent
        holds it, with the setting of ``tier`` to change.
        """
        if not is_bpf_fs(folder):
            raise OSError(f"{folder} lies in no BPF file system (mount -t bpf bpf /sys/fs/bpf)")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        made = cls(folder)
        made._held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(made._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            made.close()
            raise CaptureError(
                f"another agent counts with {folder}; stop it, or give this one an instance of its own ({tier}.instance)"
            ) from None
        return made

    def sets(self) -> Sequence[Path]:
        """The sets that are there."""
        return sorted(path for path in self.folder.iterdir() if path.is_dir())

    def close(self) -> None:
        """Let go; what is pinned stays. An empty folder is removed, unless somebody else made it."""
        if self._held >= 0:
            for folder in (self.folder, self.folder.parent):
                try:
                    if folder.stat().st_uid != os.geteuid():
                        break  # made at boot for the agent's user, who could not make it again
                    folder.rmdir()
                except OSError:
                    break
            os.close(self._held)
            self._held = -1


def detach(folder: Path) -> None:
    """Take the programs of a set off their hooks; its maps stay."""
    for path in sorted(folder.glob(LINK + "*")):
        path.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Undo a set, or a folder of them: programs first, then maps."""
    for path in sorted(folder.rglob(LINK + "*")):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
