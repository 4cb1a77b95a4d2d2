"""Capabilities of the calling thread: which it has, and giving them up for good.

Linux keeps them for each thread (capabilities(7)), and a thread that is started has those of its maker. glibc has the
two calls, without a header.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import Final

# linux/capability.h
NUMBERS: Final = {
    "dac_override": 1,
    "dac_read_search": 2,
    "net_admin": 12,
    "net_raw": 13,
    "sys_ptrace": 19,
    "sys_admin": 21,
    "perfmon": 38,
    "bpf": 39,
}
_VERSION_3: Final = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def _call(name: str, data: ctypes.Array[_Data]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(_VERSION_3, 0)
    if getattr(libc, name)(ctypes.byref(header), data):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _read() -> ctypes.Array[_Data]:
    data = (_Data * 2)()
    _call("capget", data)
    return data


def held() -> frozenset[str]:
    """The capabilities that this thread may use, of those in ``NUMBERS``."""
    data = _read()
    return frozenset(n for n, bit in NUMBERS.items() if data[bit // 32].permitted >> bit % 32 & 1)


def keep_only(names: Iterable[str]) -> frozenset[str]:
    """Give up, in this thread and all it will start, every capability but ``names``; those it then has. Cannot be undone.

    Raises ``OSError``.
    """
    data, keep = _read(), [0, 0]
    for name in names:
        keep[NUMBERS[name] // 32] |= 1 << NUMBERS[name] % 32
    for part, mask in zip(data, keep, strict=True):
        part.permitted &= mask
        part.effective &= mask
        part.inheritable &= mask
    # What is neither permitted nor inheritable leaves the ambient set by itself.
    _call("capset", data)
    return held()
