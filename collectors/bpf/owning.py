"""Whose flows they are: what the kernel noted at the socket, with what /proc and the control group's path add to it.

The kernel's note has process id, name, user and control group, so a process that is gone is named all the same. What
/proc adds (executable, unit where version 1 is used) is taken only if the process there began before the socket did:
ids are used again. Never read: command line and environment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import SECOND_NS
from agent.core.flow import ColumnData, Text
from collectors.bpf.layout import Source
from collectors.bpf.merge import Flows
from collectors.host.cgroups import Groups, Place, place_of
from collectors.host.pods import Pods
from collectors.host.processes import Process, process

BASES: Final = ("process", "listener", "holder", "kernel", "unattributed")
"""Values of the column ``attribution``."""
_SLACK_NS: Final = SECOND_NS // 50
"""/proc tells the start of a process in ticks of 10 ms."""
_MOST: Final = 20_000
_OFTEN: Final = 8


@dataclass(frozen=True, slots=True)
class _Seen:
    process: Process | None
    began_ns: int
    looked_ns: int


class Owning:
    """Fills the columns of the stage ``process``. Not thread-safe."""

    def __init__(
        self, groups: Groups, *, back_filled: bool, proc: Path = Path("/proc"), pods: Pods | None = None
    ) -> None:
        """``back_filled``: older sockets were stamped too, so that one without a stamp is no process's."""
        self._groups = groups
        self._nobody = BASES.index("kernel" if back_filled else "unattributed")
        self._proc, self._pods = proc, pods or Pods()
        self._seen: dict[int, _Seen] = {}
        self._tick_ns = SECOND_NS // os.sysconf("SC_CLK_TCK")

    def look(self, now_ns: int) -> None:
        """Between two readings: learn the control groups that have come, which may be gone at the next one."""
        self._groups.look(now_ns)

    def columns(self, flows: Flows, now_ns: int) -> dict[str, ColumnData]:
        """All columns of the stage by name. ``now_ns``: CLOCK_BOOTTIME."""
        owner = flows.owner
        source = owner["source"]
        known = source != Source.NOBODY
        pids, which = _distinct(np.where(known, owner["tgid"].astype(np.int64), -1))
        latest = np.zeros(len(pids), np.int64)
        np.maximum.at(latest, which, owner["since_ns"])
        seen = [
            self._look(pid, since, now_ns) for pid, since in zip(pids.tolist(), latest.tolist(), strict=True)
        ]
        began = np.array([s.began_ns for s in seen], np.int64)
        alive = np.array([s.process is not None for s in seen], bool)
        there = (alive[which] & (owner["since_ns"] >= began[which] - _SLACK_NS)) if len(seen) else known
        of_process = np.where(there, which, -1).astype(np.int32)
        processes = [s.process for s in seen]
        groups, group = _distinct(owner["cgroup"])
        places = [self._place(g, now_ns) for g in groups.tolist()]
        names = _either(_text([p.name if p else None for p in processes], of_process), _names(owner["comm"]))
        out: dict[str, ColumnData] = {
            "process": Text(np.where(known, names.codes, -1).astype(np.int32), names.values),
            "pid": np.where(known, owner["tgid"].astype(np.int64), -1),
            "executable": _text([p.executable if p else None for p in processes], of_process),
            "parent": _text([p.parent if p else None for p in processes], of_process),
            "parent_pid": np.array([*((p and p.parent_pid) or -1 for p in processes), -1], np.int64)[
                of_process
            ],
            "uid": np.where(known, owner["uid"].astype(np.int64), -1),
            "attribution": Text(self._basis(flows), BASES),
        }
        homes = [self._pods.named(p.place, now_ns) if p else None for p in processes]
        for name in ("cgroup", "unit", "container", "pod", "pod_uid"):
            by_socket = _text([getattr(p, name) for p in places], group.astype(np.int32))
            by_process = _text([getattr(h, name) if h else None for h in homes], of_process)
            out[name] = _either(by_socket, by_process)
        return out

    def _basis(self, flows: Flows) -> NDArray[np.int32]:
        source = flows.owner["source"]
        basis = np.full(len(flows), BASES.index("process"), np.int32)
        basis[source == Source.FOUND] = BASES.index("holder")
        basis[flows.listening & (source != Source.FOUND)] = BASES.index("listener")
        basis[source == Source.NOBODY] = self._nobody
        return basis

    def _place(self, group: int, now_ns: int) -> Place:
        path = self._groups.path(group, now_ns) if group > 0 else None
        # The root is what a socket gets where version 2 is mounted but not used: it says nothing.
        return self._pods.named(place_of(path), now_ns) if path not in (None, "/") else Place()

    def _look(self, pid: int, since_ns: int, now_ns: int) -> _Seen:
        """The process of that id now; asked again if a socket is younger than the last answer."""
        found = self._seen.get(pid)
        if found is not None and since_ns <= found.looked_ns:
            return found
        if len(self._seen) >= _MOST:
            self._seen.clear()
        began_ns = self._began(pid) if pid > 0 else None
        known = process(pid, self._proc) if began_ns is not None else None
        found = _Seen(known, began_ns or 0, now_ns)
        self._seen[pid] = found
        return found

    def _began(self, pid: int) -> int | None:
        """When a process began, CLOCK_BOOTTIME in ns; None where there is none (proc(5): stat, field 22)."""
        try:
            stat = (self._proc / str(pid) / "stat").read_bytes()
        except OSError:
            return None
        fields = stat.rpartition(b")")[2].split()
        return int(fields[19]) * self._tick_ns if len(fields) > 19 else None


def _distinct(column: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """(distinct values in any order, which of them each row has). A few processes have most flows: theirs are told by
    comparing, and only what is left over is sorted.
    """
    codes, often = np.zeros(len(column), np.int64), list[Any]()
    left = np.arange(len(column))
    while len(left) and len(often) < _OFTEN:
        value = column[left[0]]
        same = column[left] == value
        codes[left[same]] = len(often)
        often.append(value)
        left = left[~same]
    others, which = np.unique(column[left], return_inverse=True)
    codes[left] = which + len(often)
    return np.concatenate((np.array(often, column.dtype), others)), codes


def _text(values: Sequence[str | None], codes: NDArray[np.int32]) -> Text:
    """The text of each row by its code, -1 for none."""
    index: dict[str, int] = {}
    translate = [-1 if not v else index.setdefault(v, len(index)) for v in values]
    return Text(np.array([*translate, -1], np.int32)[codes], tuple(index))


def _either(first: Text, second: Text) -> Text:
    """The first text of each row where there is one, else the second; their dictionary may hold a text twice."""
    other = np.where(second.codes < 0, -1, second.codes + len(first.values))
    codes = np.where(first.codes < 0, other, first.codes).astype(np.int32)
    return Text(codes, first.values + second.values).compact()


def _names(names: NDArray[np.bytes_]) -> Text:
    """The kernel's names of processes: at most 15 octets, any but NUL."""
    distinct, codes = _distinct(names)
    return _text(
        [name.decode(errors="replace") or None for name in distinct.tolist()], codes.astype(np.int32)
    )
