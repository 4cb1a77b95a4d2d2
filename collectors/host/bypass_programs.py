"""Programs that bring a network stack of their own: sandboxes, virtual machines, packet processors. Read from /proc.

Never read, by design: command lines and environments.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOST: Final = 100_000
_MOST_NAMED: Final = 5
_DEVICE: Final = re.compile(r"/dev/(?:vfio/\d+|vfio/devices/vfio\d+|uio\d+|infiniband/uverbs\d+|vhost-net|vhost-vdpa-\d+)$")  # fmt: skip
_VIRTUAL: Final = re.compile(r"(?:qemu-system-.+|qemu-kvm|kvm|cloud-hypervisor|firecracker|crosvm|lkvm|VBoxHeadless|stratovirt)$")  # fmt: skip
_KATA: Final = re.compile(r"(?:containerd-shim-kata-v2|kata-runtime|virtiofsd-kata)$")
_GVISOR: Final = re.compile(r"runsc(?:-.+)?$")


@dataclass(frozen=True, slots=True)
class Program:
    """One running process."""

    pid: int
    name: str
    """File name of its executable; where that may not be read its own short name."""
    folder: str
    """Folder of the executable; empty where it may not be read."""
    devices: tuple[str, ...]
    """Device files it holds with which a network can be reached past the kernel."""

    @property
    def is_virtual(self) -> bool:
        """Whether it runs a virtual machine."""
        return bool(_VIRTUAL.match(self.name))


def running(root: Path) -> tuple[Program, ...]:
    """All processes below ``root``/proc, by id. What may not be read is left out."""
    proc = root / "proc"
    try:
        pids = sorted(int(name) for name in os.listdir(proc) if name.isdigit())[:_MOST]  # noqa: PTH208
    except OSError:
        return ()
    return tuple(program for pid in pids if (program := _program(proc / str(pid), pid)))


def _program(folder: Path, pid: int) -> Program | None:
    try:
        name = (folder / "comm").read_text(errors="replace").strip()
    except OSError:
        return None  # it has ended
    try:
        executable = os.readlink(folder / "exe").removesuffix(" (deleted)")  # noqa: PTH115  may lead nowhere
    except OSError:
        executable = ""
    path, _, file = executable.rpartition("/")
    return Program(pid, file or name, path, _devices(folder / "fd"))


def _devices(folder: Path) -> tuple[str, ...]:
    found = set()
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return ()
    for name in names:
        try:
            link = os.readlink(folder / name)  # noqa: PTH115
        except OSError:
            continue
        if _DEVICE.match(link):
            found.add(link)
    return tuple(sorted(found))


def gvisor(programs: Sequence[Program]) -> Mapping[str, str | int]:
    """Sandboxes of gVisor."""
    mine = [p for p in programs if _GVISOR.match(p.name)]
    return {"n": len(mine), "programs": named(mine)} if mine else {}


def virtual_machines(programs: Sequence[Program]) -> Mapping[str, str | int]:
    """Virtual machines, and how many of them are handed packets by the kernel (vhost-net) or a card (vfio)."""
    mine = [p for p in programs if p.is_virtual]
    if not mine:
        return {}
    vhost = sum(any("vhost" in d for d in p.devices) for p in mine)
    passed = sum(any("vfio" in d for d in p.devices) for p in mine)
    return {"n": len(mine), "programs": named(mine), "vhost": vhost, "passed": passed}


def kata(programs: Sequence[Program]) -> Mapping[str, str | int]:
    """Containers that run in virtual machines of Kata."""
    mine = [p for p in programs if _KATA.match(p.name) or (p.is_virtual and "/kata" in p.folder)]
    return {"n": len(mine), "programs": named(mine)} if mine else {}


def named(programs: Sequence[Program]) -> str:
    """The first few by name and id."""
    first = ", ".join(f"{p.name} (pid {p.pid})" for p in programs[:_MOST_NAMED])
    return first + (", …" if len(programs) > _MOST_NAMED else "")
