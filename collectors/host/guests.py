"""Who is behind an interface: the virtual machine that holds a tap, or the pod whose network namespace a veth leads to.

- A tap's machine: libvirt's status files (``/run/libvirt/qemu/NAME.xml``) name the taps of each machine. Where there are
  none, the process that holds the tap, by ``iff:`` in its ``/proc/PID/fdinfo`` (tun driver, Linux 2.6.36).
- A veth's pod: the processes in the network namespace of its other end, by their control group.

Never read, by design: command lines and environments, which would tell more.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from collectors.host.cgroups import Place
from collectors.host.interfaces import Interface, number_of_netns
from collectors.host.processes import Process, process

LIBVIRT: Final = Path("/run/libvirt/qemu")
_MOST_XML: Final = 4 << 20
_MOST_OF_A_POD: Final = 64
"""Processes of one namespace that are asked for their control group."""


@dataclass(frozen=True, slots=True)
class Guest:
    """What is known of whoever is behind an interface. None: not known."""

    machine: str | None = None
    """Name of the virtual machine."""
    process: Process | None = None
    """What holds the tap: the machine, seen from this host."""
    place: Place = field(default_factory=Place)
    """The pod and container, or the unit and control group that the machine runs in."""

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return self != _NOBODY


_NOBODY: Final = Guest()


class Guests:
    """Asks who is behind interfaces. Reads the network namespace of the calling thread."""

    def __init__(self, proc: Path = Path("/proc"), libvirt: Path = LIBVIRT) -> None:
        self._proc, self._libvirt = proc, libvirt

    def of(self, interfaces: Iterable[Interface]) -> dict[int, Guest]:
        """Interface index -> who is behind it. Costs a look at every process."""
        wanted = list(interfaces)
        out: dict[int, Guest] = {}
        taps = {i.name: i.index for i in wanted if i.kind == "tun"}
        if taps:
            machines = dict(self._machines())
            holders = self._holders(taps.keys())
            for name, index in taps.items():
                holder = holders.get(name)
                found = process(holder, self._proc) if holder is not None else None
                out[index] = Guest(machines.get(name), found, found.place if found else Place())
        behind = {i.netns for i in wanted if i.netns >= 0}
        pods = self._pods(behind) if behind else {}
        out |= {i.index: Guest(place=pods[i.netns]) for i in wanted if i.netns in pods}
        return {i.index: out.get(i.index, _NOBODY) for i in wanted}

    def _machines(self) -> Iterator[tuple[str, str]]:
        """(tap, machine's name) of all that libvirt runs."""
        try:
            paths = sorted(self._libvirt.glob("*.xml"))
        except OSError:
            return
        for path in paths:
            try:
                if path.stat().st_size > _MOST_XML:
                    continue
                tree = ElementTree.fromstring(path.read_bytes())  # noqa: S314  root's own file
            except (OSError, ElementTree.ParseError):
                continue  # it is being written, or the machine has ended
            domain = tree if tree.tag == "domain" else tree.find("domain")
            name = domain.findtext("name") if domain is not None else None
            if domain is None or not name:
                continue
            for target in domain.iterfind("devices/interface/target"):
                if tap := target.get("dev"):
                    yield tap, name

    def _holders(self, taps: Iterable[str]) -> dict[str, int]:
        """Tap -> process that holds it. One in this namespace goes before others, whose taps may have the same names."""
        wanted = frozenset(taps)
        here = self._netns(f"{os.getpid()}/task/{threading.get_native_id()}")
        out: dict[str, int] = {}
        at_home: set[str] = set()
        for pid in self._pids():
            held = [name for name in self._taps(pid) if name in wanted]
            if not held:
                continue
            is_here = self._netns(str(pid)) == here
            for name in held:
                if name not in out or (is_here and name not in at_home):
                    out[name] = pid
                if is_here:
                    at_home.add(name)
        return out

    def _taps(self, pid: int) -> Iterator[str]:
        folder = f"{self._proc}/{pid}"
        try:
            numbers = os.listdir(f"{folder}/fd")  # noqa: PTH208  no object per handle
        except OSError:
            return  # it has ended, or is not ours to see
        for number in numbers:
            try:
                if os.readlink(f"{folder}/fd/{number}") != "/dev/net/tun":  # noqa: PTH115
                    continue
                told = Path(f"{folder}/fdinfo/{number}").read_text(errors="replace")
            except OSError:
                continue
            for line in told.splitlines():
                if line.startswith("iff:"):
                    yield line[4:].strip()

    def _pods(self, wanted: Set[int]) -> dict[int, Place]:
        """Number of a network namespace -> what its processes' control groups agree on."""
        by_netns: dict[str, list[int]] = {}
        for pid in self._pids():
            if netns := self._netns(str(pid)):
                by_netns.setdefault(netns, []).append(pid)
        out: dict[int, Place] = {}
        for pids in by_netns.values():
            # The first may have ended meanwhile.
            number = next((n for n in map(number_of_netns, pids[:3]) if n >= 0), -1)
            if number in wanted:
                out[number] = _agreed([process(pid, self._proc).place for pid in pids[:_MOST_OF_A_POD]])
        return out

    def _netns(self, process_path: str) -> str | None:
        try:
            return os.readlink(f"{self._proc}/{process_path}/ns/net")  # noqa: PTH115
        except OSError:
            return None

    def _pids(self) -> list[int]:
        try:
            return sorted(int(name) for name in os.listdir(self._proc) if name.isdigit())  # noqa: PTH208
        except OSError:
            return []


def _agreed(places: list[Place]) -> Place:
    """Of each part what all that say anything of it say alike: a pod with two containers is one pod and no container."""
    said = {f.name: {getattr(place, f.name) for place in places} - {None} for f in fields(Place)}
    return Place(**{name: values.pop() if len(values) == 1 else None for name, values in said.items()})
