"""How this process uses memory, threads and plugins; to be settled once, before numpy is loaded for the first time.

Needs nothing but the standard library, and changes no result: what cannot be set is left as it is.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable
from functools import cache
from typing import Any, Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""Numbers of glibc's ``mallopt`` (<malloc.h>)."""
LARGEST_KEPT: Final = 32 << 20
"""Octets: glibc's own upper limit (DEFAULT_MMAP_THRESHOLD_MAX, 64-bit) for what is not asked from the kernel anew."""
FREE_KEPT: Final = 64 << 20
"""Octets of free memory at the top of the heap above which the rest goes back to the kernel."""


OBJECTS_BETWEEN: Final = 20_000
"""New objects between two searches for cycles. Columns are few objects."""
WHILE_LOADING: Final = 250_000
"""The same until :func:`settled`: loading modules makes many objects that stay, and searching them is 5 % of the start."""


def prepare() -> None:
    """Keep freed arrays for the next chunk (glibc only), and let numpy's algebra start no threads.

    A column of a chunk is some hundred kilobytes: by default glibc takes each from the kernel, which clears it page by page,
    and gives it back. OpenBLAS starts one thread per core when numpy is loaded; nothing here multiplies matrices. The
    user's own OPENBLAS_NUM_THREADS and MALLOC_ settings stay as they are. Pydantic is to load no plugins: what else is
    installed beside this program must not change how it reads its settings (and searching for them takes time).
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    # Its other allocator starts a thread as soon as it is loaded; that one would keep the rights which the rest gives up.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    gc.set_threshold(WHILE_LOADING, 10, 10)
    if any(
        name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    ):
        return
    import ctypes

    try:
        # musl and macOS have no mallopt.
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(M_TRIM_THRESHOLD, FREE_KEPT)
    # One heap for all threads: Python lets one of them run at a time, and what one frees the others then use.
    # Arrow's own pool would be one more.
    mallopt(M_ARENA_MAX, 1)


def settled(*, for_long: bool = True) -> None:
    """What is there now stays for good: no later search for cycles looks at it.

    What is already garbage goes first: frozen, it would stay as long as the process. Where that is not ``for_long``, the
    search costs more than the garbage does.
    """
    if for_long:
        gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN, 10, 10)


def give_back() -> None:
    """Hand free memory back to the system (glibc only): what lasts for months is to be as large as it is, not as it was."""
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], Any] | None:
    """glibc's ``malloc_trim``, found once: each handle of a library is a class of its own, in a cycle with itself, which
    stays until the next search for cycles."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library has another way
        return ctypes.CDLL(None).malloc_trim
    return None


@cache
def program_version() -> str:
    """The version that is installed, looked up once: that reads the names of all packages, and leaves cycles of them."""
    from importlib.metadata import version

    return version("sekisho")


def let_go(descriptor: int) -> None:
    """Tell the kernel that a file just read or written will not be read on: what it keeps of it counts as this group's
    memory. Nothing is lost; a later reader waits for the disk."""
    with contextlib.suppress(OSError, AttributeError):  # not on every system
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
