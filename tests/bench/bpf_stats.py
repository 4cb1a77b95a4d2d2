"""What a process's eBPF programs cost: the kernel's own stopwatch (BPF_ENABLE_STATS, Linux 5.8).

The stopwatch itself costs some 20 ns a run, which is in what it says; so speeds are never measured under it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from collectors.bpf import libbpf

_INFO = 232
_NAME, _TIME, _RUNS = 64, 192, 200
"""struct bpf_prog_info of linux/bpf.h."""
_RUN_TIME = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """How long a program ran, and how often."""

    ns: int
    runs: int

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.ns - other.ns, self.runs - other.runs)

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.ns + other.ns, self.runs + other.runs)


@contextlib.contextmanager
def stopwatch() -> Iterator[None]:
    """The kernel measures while this lasts. Raises where it cannot."""
    number = _library().bpf_enable_stats(_RUN_TIME)
    if number < 0:
        raise OSError(-number, "BPF_ENABLE_STATS")
    try:
        yield
    finally:
        os.close(number)


def spent(pids: list[int]) -> dict[str, Spent]:
    """By name, what every program has spent that these processes hold, themselves or by a link."""
    out: dict[str, Spent] = {}
    for number in _programs(pids):
        name, one = _read(number)
        out[name] = out.get(name, Spent(0, 0)) + one
    return out


def _programs(pids: list[int]) -> set[int]:
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for each in Path(f"/proc/{pid}/fdinfo").iterdir():
                with contextlib.suppress(OSError):
                    found |= {
                        int(x.split()[1]) for x in each.read_text().splitlines() if x.startswith("prog_id:")
                    }
    return found


def _read(number: int) -> tuple[str, Spent]:
    library = _library()
    opened = library.bpf_prog_get_fd_by_id(number)
    if opened < 0:
        return "", Spent(0, 0)
    try:
        info, size = ctypes.create_string_buffer(_INFO), ctypes.c_uint32(_INFO)
        if library.bpf_obj_get_info_by_fd(opened, info, ctypes.byref(size)):
            return "", Spent(0, 0)
    finally:
        os.close(opened)
    name = info.raw[_NAME : _NAME + 16].split(b"\0")[0].decode()
    return name, Spent(*struct.unpack_from("=Q", info.raw, _TIME), *struct.unpack_from("=Q", info.raw, _RUNS))


def _library() -> ctypes.CDLL:
    if lacking := libbpf.missing():
        raise RuntimeError(f"libbpf cannot be used: {lacking}")
    return ctypes.CDLL("libbpf.so.1", use_errno=True)
