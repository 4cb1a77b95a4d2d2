"""Where control groups of version 2 are mounted: at the usual place, beside version 1, or, as a last resort, by ourselves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import CaptureError
from collectors.host.cgroups import mounted

_MNT_DETACH = 2


@dataclass(frozen=True, slots=True)
class Root:
    """The control group that is watched."""

    folder: Path
    """Its folder, as long as the program runs."""
    name: str
    """Its path below the mount, for the vantage: ``/`` is the whole host."""
    mount: Path
    """Where paths of control groups begin."""


@contextlib.contextmanager
def watched(wanted: Path | None) -> Iterator[Root]:
    """The control group ``wanted`` (a folder; None: the root of what is mounted).

    Raises :class:`CaptureError` where version 2 is neither mounted nor can be.
    """
    mount = mounted()
    if wanted is not None:
        if not (wanted / "cgroup.procs").exists():
            raise CaptureError(f"{wanted} is no control group (version 2); change ebpf.cgroup")
        below = mount is not None and wanted.is_relative_to(mount)
        name = f"/{wanted.relative_to(mount)}" if below and mount is not None else str(wanted)
        yield Root(wanted, "/" if name == "/." else name, mount or wanted)
    elif mount is not None:
        yield Root(mount, "/", mount)
    else:
        with _mounted_here() as folder:
            yield Root(folder, "/", folder)


@contextlib.contextmanager
def _mounted_here() -> Iterator[Path]:
    """A mount that no other process sees: reached through a file descriptor alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory() as place:
        if libc.mount(b"none", os.fsencode(place), b"cgroup2", 0, None):
            raise CaptureError(
                "control groups of version 2 are not mounted, and mounting them was refused "
                f"({os.strerror(ctypes.get_errno())}): mount -t cgroup2 none /sys/fs/cgroup/unified"
            )
        try:
            folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            libc.umount2(os.fsencode(place), _MNT_DETACH)
    try:
        yield Path(f"/proc/self/fd/{folder}")
    finally:
        os.close(folder)
