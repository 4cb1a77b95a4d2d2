"""Which process holds a socket, and what may be known of it: name, executable, control group. Read from /proc.

Never read, by design: the command line and the environment, which hold secrets and personal data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from collectors.host.cgroups import Place, path_of, place_of

_MOST_PROCESSES: Final = 100_000
_TRIES: Final = 2
"""Whole rounds over all processes after which a socket that nobody holds is let be."""
_DELETED: Final = " (deleted)"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds a socket. None: not known."""

    pid: int
    name: str | None = None
    executable: str | None = None
    place: Place = field(default_factory=Place)
    parent_pid: int | None = None
    parent: str | None = None
    """Name of the process that started it, or of the one that took it over."""


class Holders:
    """Finds the holders of sockets by their inodes, a bounded piece of work at a time. Not thread-safe."""

    def __init__(self, proc: Path = Path("/proc"), clock: Callable[[], int] = time.thread_time_ns) -> None:
        self._proc = os.fsencode(proc)
        self._clock = clock
        self._wanted: dict[int, int] = {}
        """Inode -> whole rounds in which it was not found."""
        self._known: dict[int, None] = {}
        """Processes that hold sockets, or that are new: the likeliest to hold new ones, latest last."""
        self._fresh = False
        """Whether sockets were asked for since the last look."""
        self._seen: set[int] = set()
        self._round: list[int] = []
        """Processes still to be looked at in this round."""
        self._in_round: set[int] = set()
        """Inodes that have been wanted since the round began."""
        self.denied = 0
        """Processes of the last whole round whose sockets this one may not see (no CAP_SYS_PTRACE)."""
        self._denied = 0

    def want(self, inodes: Iterable[int]) -> None:
        """Sockets to find the holders of."""
        for inode in inodes:
            if inode not in self._wanted:
                self._wanted[inode] = 0
                self._fresh = True

    def forget(self, alive: set[int]) -> None:
        """Stop looking for sockets that are not among those alive."""
        for inode in [inode for inode in self._wanted if inode not in alive]:
            del self._wanted[inode]

    @property
    def waiting(self) -> int:
        """Sockets that are still looked for."""
        return len(self._wanted)

    def look(self, budget_ns: int) -> dict[int, Process]:
        """Holders found in about ``budget_ns`` of CPU time; what was not reached is for the next call."""
        found: dict[int, Process] = {}
        if not self._wanted:
            return found
        end = self._clock() + budget_ns
        pids = self._pids()
        if not pids:
            return found
        fresh = [pid for pid in pids if pid not in self._seen]
        self._seen = set(pids)
        likely = [pid for pid in reversed(self._known) if pid in self._seen]
        self._known = dict.fromkeys(reversed(likely))
        first = (*(likely if self._fresh else ()), *sorted(set(fresh) - self._known.keys()))
        self._fresh = False
        for pid in first:
            if not self._wanted or self._clock() >= end:
                return found
            self._ask(pid, found)
        while self._wanted and self._clock() < end:
            if not self._round:
                self._begin_round(pids)
            self._ask(self._round.pop(), found)
            if not self._round:
                self._end_round()
                break
        return found

    def _begin_round(self, pids: list[int]) -> None:
        self._round = sorted(pids, reverse=True)
        self._in_round = set(self._wanted)
        self._denied = 0

    def _end_round(self) -> None:
        self.denied = self._denied
        for inode in self._in_round & self._wanted.keys():
            self._wanted[inode] += 1
            if self._wanted[inode] >= _TRIES:
                del self._wanted[inode]

    def _pids(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(self._proc) if name.isdigit()][:_MOST_PROCESSES]  # noqa: PTH208
        except OSError:
            return []

    def _ask(self, pid: int, found: dict[int, Process]) -> None:
        mine = [inode for inode in self._sockets(pid) if inode in self._wanted]
        if not mine:
            return
        process = self._process(pid)
        self._known.pop(pid, None)
        self._known[pid] = None
        for inode in mine:
            self._wanted.pop(inode, None)
            found[inode] = process

    def _sockets(self, pid: int) -> Iterator[int]:
        folder = b"%s/%d/fd" % (self._proc, pid)
        try:
            names = os.listdir(folder)  # noqa: PTH208  no object per handle
        except PermissionError:
            self._denied += 1
            return
        except OSError:
            return  # it has ended
        for name in names:
            try:
                link = os.readlink(folder + b"/" + name)  # noqa: PTH115
            except OSError:
                continue
            if link.startswith(b"socket:["):
                yield int(link[8:-1])

    def _process(self, pid: int) -> Process:
        return process(pid, Path(os.fsdecode(self._proc)))


def process(pid: int, proc: Path = Path("/proc")) -> Process:
    """What may be known of one process. Texts are its owner's own words: they may hold any character but NUL."""
    folder = os.fsencode(proc / str(pid))
    name = _read(folder + b"/comm")
    path = path_of(_read(folder + b"/cgroup") or "")
    return Process(
        pid,
        name.removesuffix("\n") or None if name is not None else None,
        _executable(folder),
        place_of(path) if path else Place(),
        *_parent(folder, os.fsencode(proc)),
    )


def _parent(folder: bytes, proc: bytes) -> tuple[int | None, str | None]:
    """Id and name of the parent (proc(5): stat, field 4); id 0 is none, or one of another pid namespace."""
    fields = (_read(folder + b"/stat") or "").rpartition(")")[2].split()
    pid = int(fields[1]) if len(fields) > 1 else 0
    if pid <= 0:
        return None, None
    name = _read(b"%s/%d/comm" % (proc, pid))
    return pid, name.removesuffix("\n") or None if name is not None else None


def may_see_others(proc: Path = Path("/proc")) -> bool:
    """Whether this process may see which sockets the first process of the system holds."""
    try:
        next((proc / "1" / "fd").iterdir(), None)
    except OSError:
        return False
    return True


def _executable(folder: bytes) -> str | None:
    try:
        target = os.readlink(folder + b"/exe")  # noqa: PTH115  octets: a path may be no text
    except OSError:
        return None
    return target.decode(errors="replace").removesuffix(_DELETED) or None


def _read(path: bytes) -> str | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  paths of /proc are octets here
            return file.read(1 << 16).decode(errors="replace")
    except OSError:
        return None
