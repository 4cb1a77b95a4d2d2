"""Devices and settings with which packets pass the kernel by: found in /sys, /proc/net and Open vSwitch's database."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from collectors.host.bypass_programs import Program, named

_USER_DRIVERS: Final = ("vfio-pci", "uio_pci_generic", "igb_uio")
"""Drivers that hand a card to a program (docs of DPDK, linux_drivers)."""
_NETWORK_CLASS: Final = "0x02"
_OVS: Final = ("etc/openvswitch/conf.db", "var/lib/openvswitch/conf.db")
_MOST_READ: Final = 64 << 20
_OFFLOAD: Final = re.compile(rb'\[\s*"hw-offload"\s*,\s*"(true|false)"\s*\]')

Blanks = Mapping[str, str | int]


def sr_iov(root: Path) -> Blanks:
    """Cards that have made functions of their own for guests (SR-IOV), and how many of those no interface here is for."""
    cards, functions, away = [], 0, 0
    for card in _entries(root / "sys/bus/pci/devices"):
        made = _number(card / "sriov_numvfs")
        if not made or not _text(card / "class").startswith(_NETWORK_CLASS):
            continue
        interfaces = [entry.name for entry in _entries(card / "net")]
        cards.append("+".join(interfaces) or card.name)
        functions += made
        for function in _entries(card):
            if function.name.startswith("virtfn"):
                away += not _entries(function / "net")
    return {"cards": ", ".join(cards), "n": functions, "away": away} if cards else {}


def dpdk(root: Path, programs: Sequence[Program]) -> Blanks:
    """Cards that a program drives, programs that drive one, DPDK's own files, and huge pages that are in use."""
    cards = [
        f"{card.name} ({driver})"
        for driver in _USER_DRIVERS
        for card in _entries(root / "sys/bus/pci/drivers" / driver)
        if _text(card / "class").startswith(_NETWORK_CLASS) and not (card / "physfn").exists()
    ]
    mine = [p for p in programs if not p.is_virtual and any("vfio" in d or "uio" in d for d in p.devices)]
    files = [entry.name for entry in _entries(root / "run/dpdk")]
    if not (cards or mine or files):
        return {}
    what = [*cards, *([named(mine)] if mine else []), *(f"/run/dpdk/{name}" for name in files)]
    return {"what": ", ".join(what), "huge": _huge_mib(root)}


def _huge_mib(root: Path) -> int:
    """Huge pages in use, in MiB."""
    kib = 0
    for pool in _entries(root / "sys/kernel/mm/hugepages"):
        size = re.fullmatch(r"hugepages-(\d+)kB", pool.name)
        used = (_number(pool / "nr_hugepages") or 0) - (_number(pool / "free_hugepages") or 0)
        kib += int(size[1]) * max(used, 0) if size else 0
    return kib >> 10


def ovs_offload(root: Path, offloads: Callable[[str], bool]) -> Blanks:
    """Open vSwitch with hardware offload, and the cards that take part."""
    said = b""
    for name in _OVS:
        try:
            with (root / name).open("rb") as file:
                found = _OFFLOAD.findall(file.read(_MOST_READ))
        except OSError:
            continue
        # The file is a log of changes: the last one holds.
        said = found[-1] if found else said
    if said != b"true":
        return {}
    cards = [i.name for i in _entries(root / "sys/class/net") if (i / "device").exists() and offloads(i.name)]
    return {"cards": ", ".join(cards) or "?"}


def rdma(root: Path, programs: Sequence[Program]) -> Blanks:
    """RDMA devices, and programs that hold one."""
    devices = [entry.name for entry in _entries(root / "sys/class/infiniband")]
    mine = [p for p in programs if any("uverbs" in d for d in p.devices)]
    return {"devices": ", ".join(devices), "programs": named(mine) or "-"} if devices else {}


def af_xdp(root: Path) -> Blanks:
    """AF_XDP sockets, of the network namespace of whoever asks (``/proc/net/protocols``)."""
    for line in _text(root / "proc/net/protocols").splitlines():
        words = line.split()
        if len(words) > 2 and words[0] == "XDP" and words[2].isdigit() and int(words[2]):
            return {"n": int(words[2])}
    return {}


def xdp(programs: Mapping[str, int]) -> Blanks:
    """Interfaces with an XDP program, which may send, redirect or drop before the network stack."""
    if not programs:
        return {}
    return {"interfaces": ", ".join(f"{name} (program {program})" for name, program in programs.items())}


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing where it cannot be read."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return []
    return list(_below(folder, names))


def _below(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    # Drivers' folders hold files of their own beside the cards: those have no class, and so fall out.
    return (folder / name for name in names)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None
