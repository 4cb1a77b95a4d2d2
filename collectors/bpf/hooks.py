"""Programs on an interface's own hooks: tcx where the kernel has it (Linux 6.6), else a filter under a clsact qdisc.

Ours stands first on its hook, so that what another tool's program drops or redirects is counted too. Interfaces are
those of the calling thread's network namespace. Every failure is an ``OSError``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from enum import StrEnum
from typing import Final

from agent.core.errors import CaptureError
from collectors.bpf import libbpf
from collectors.host.interfaces import asked

_TCX: Final = {"ingress": 46, "egress": 47}  # BPF_TCX_INGRESS, BPF_TCX_EGRESS (linux/bpf.h)
_POINT: Final = {"ingress": 1, "egress": 2}  # enum bpf_tc_attach_point (bpf/libbpf.h)
_PARENT: Final = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_…)
_BEFORE: Final = 1 << 3  # BPF_F_BEFORE; with no program named: before all
_REPLACE: Final = 1  # BPF_TC_F_REPLACE
_HANDLE: Final = 0x5EC
_FIRST: Final = 1
"""Priority of a filter: the lower, the earlier."""
_MOST: Final = 64
_GETTFILTER: Final = 46
SIDES: Final = ("ingress", "egress")


class Way(StrEnum):
    """How a program is put on an interface."""

    TCX = "tcx"
    CLSACT = "clsact"


class _LinkOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("zero", ctypes.c_uint32)]


class TcxInfo(ctypes.Structure):
    """The first fields of ``struct bpf_link_info``, of a tcx link."""

    _fields_ = [
        (name, ctypes.c_uint32) for name in ("type", "id", "program", "zero", "ifindex", "attach_type")
    ]


class _ProgramInfo(ctypes.Structure):
    """The first fields of ``struct bpf_prog_info``."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("between", ctypes.c_uint8 * 56),
        ("name", ctypes.c_char * 16),
    ]


class _Hook(ctypes.Structure):
    """``struct bpf_tc_hook``."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    ]


class _Filter(ctypes.Structure):
    """``struct bpf_tc_opts``."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("program", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("program_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    ]


def has_tcx() -> bool:
    """Whether this kernel has tcx: asked of the loopback interface, which is everywhere."""
    try:
        order(1, "ingress")
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.ENOTSUP)
    return True


def put_tcx(program: int, index: int, side: str) -> int:
    """Put a program before all others; the link's file descriptor, with whose last holder it ends."""
    options = _LinkOptions(ctypes.sizeof(_LinkOptions), _BEFORE, 0)
    return libbpf.call("bpf_link_create", program, index, _TCX[side], ctypes.byref(options))


def place_of_tcx(link: int) -> tuple[int, str]:
    """(interface index, side) of a link; index 0 if its interface is gone."""
    info, size = TcxInfo(), ctypes.c_uint32(ctypes.sizeof(TcxInfo))
    libbpf.call("bpf_obj_get_info_by_fd", link, ctypes.byref(info), ctypes.byref(size))
    sides = {kind: side for side, kind in _TCX.items()}
    return info.ifindex, sides.get(info.attach_type, "")


def order(index: int, side: str) -> list[int]:
    """Ids of the programs on a tcx hook, in the order in which they run."""
    ids, count = (ctypes.c_uint32 * _MOST)(), ctypes.c_uint32(_MOST)
    libbpf.call("bpf_prog_query", index, _TCX[side], 0, None, ctypes.byref(ids), ctypes.byref(count))
    return list(ids[: count.value])


def program_id(fd: int) -> int:
    """The id of a program."""
    return int(_info(fd).id)


def name_of(number: int) -> str:
    """The name of a program by its id; its number where this process may not see that."""
    try:
        fd = libbpf.call("bpf_prog_get_fd_by_id", number)
    except OSError:
        return f"program {number}"
    try:
        return bytes(_info(fd).name).decode(errors="replace") or f"program {number}"
    finally:
        os.close(fd)


def name_of_device(index: int) -> str:
    """The name of an interface; empty if it is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _info(fd: int) -> _ProgramInfo:
    info, size = _ProgramInfo(), ctypes.c_uint32(ctypes.sizeof(_ProgramInfo))
    libbpf.call("bpf_obj_get_info_by_fd", fd, ctypes.byref(info), ctypes.byref(size))
    return info


def put_clsact(program: int, index: int, side: str) -> bool:
    """Put a program in the first filter of a clsact qdisc; whether the qdisc was made for it. It stays until removed."""
    hook = _hook(index, side)
    made = True
    try:
        libbpf.call("bpf_tc_hook_create", ctypes.byref(hook))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        made = False
    there = id_in_clsact(index, side)
    mine = there and name_of(there).startswith("sekisho_")
    entry = _filter(flags=_REPLACE if mine else 0, program=program)
    try:
        libbpf.call("bpf_tc_attach", ctypes.byref(hook), ctypes.byref(entry))
    except OSError:
        if made:
            remove_clsact(index)
        raise
    return made


def take_clsact(index: int, side: str) -> None:
    """Take the program out again; nothing where it is not there."""
    hook, entry = _hook(index, side), _filter()
    try:
        libbpf.call("bpf_tc_detach", ctypes.byref(hook), ctypes.byref(entry))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise


def id_in_clsact(index: int, side: str) -> int:
    """Id of the program in the filter that would be ours; 0 where there is none."""
    hook, entry = _hook(index, side), _filter()
    try:
        libbpf.call("bpf_tc_query", ctypes.byref(hook), ctypes.byref(entry))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            return 0
        raise
    return int(entry.program_id)


def remove_clsact(index: int) -> None:
    """Remove the qdisc, unless somebody else's filters are in it by now, or its interface is gone."""
    for side in SIDES:
        try:
            if asked(_GETTFILTER, struct.pack("=BxxxiIII", 0, index, 0, _PARENT[side], 0)):
                return
        except CaptureError:
            return
    hook = _Hook(ctypes.sizeof(_Hook), index, sum(_POINT.values()), 0)
    try:
        libbpf.call("bpf_tc_hook_destroy", ctypes.byref(hook))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise


def _hook(index: int, side: str) -> _Hook:
    return _Hook(ctypes.sizeof(_Hook), index, _POINT[side], 0)


def _filter(*, flags: int = 0, program: int = 0) -> _Filter:
    return _Filter(ctypes.sizeof(_Filter), program, flags, 0, _HANDLE, _FIRST)
