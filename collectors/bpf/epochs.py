"""Reading what the programs count, an epoch at a time, so that a crash at any moment neither loses nor doubles a row.

1. The number of the epoch is noted, beside the maps.
2. The empty map takes the full one's place; the kernel returns once no program counts into the full one any more.
3. The full map is read, nothing is deleted, and what it held is noted.
4. Its rows travel with the epoch in their header and are made durable together.
5. Only then is the map emptied.

Whoever starts after a crash finds either an epoch that is durable, and empties its map, or one that is not, and reads
it again. The maps are the journal; no file of ours is needed.
"""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.faults import faultpoint
from collectors.bpf import libbpf
from collectors.bpf.layout import KEY, TOTALS, VALUE
from collectors.bpf.programs import Programs

_CHUNK: Final = 1 << 14
_OVER: Final = ("octets_out", "octets_in", "packets_out", "packets_in", "content_out")


@dataclass(frozen=True, slots=True)
class Drained:
    """All rows of one epoch: ``keys`` (n,) of ``layout.KEY``, ``values`` (n,) of ``layout.VALUE``."""

    number: int
    keys: NDArray[np.void]
    values: NDArray[np.void]
    over: dict[str, int] = field(default_factory=dict)
    """Sums of what had no room in the map."""

    @property
    def octets_out(self) -> int:
        """Sent, including what had no room."""
        return int(self.values["octets_out"].sum()) + self.over["octets_out"]

    @property
    def octets_in(self) -> int:
        """Received, including what had no room."""
        return int(self.values["octets_in"].sum()) + self.over["octets_in"]


class Epochs:
    """The reader of one set of maps. Not thread-safe."""

    def __init__(self, programs: Programs, name: str = "ebpf") -> None:
        """``name``: the reader's, one word; positions begin with it."""
        self._programs = programs
        self._name = name
        self._flows = (programs.maps["sekisho_flows_a"], programs.maps["sekisho_flows_b"])
        self._notes = programs.notes()
        self._token = np.zeros(libbpf.BATCH_TOKEN_OCTETS, np.uint8)
        self._cpus = libbpf.cpus()
        self._swapped_at_inserts = 0
        self.instance = programs.instance
        self.entries = libbpf.map_info(self._flows[0]).max_entries
        self.pending: Drained | None = None
        """The epoch that was read and is not settled."""

    def position(self, number: int) -> str:
        """An epoch as it stands in the headers of its rows."""
        return f"{self._name} {self.instance} {number}"

    def settled_in(self, position: str) -> int:
        """The newest epoch of this set that a position tells durable; -1 if none. A position may have several lines."""
        for line in position.splitlines():
            parts = line.split(" ")
            if len(parts) == 3 and parts[:2] == [self._name, self.instance] and parts[2].isdecimal():
                return int(parts[2])
        return -1

    def resume(self, position: str) -> None:
        """Take up where the last reader was cut off, told which epoch is durable. Then ``pending`` is what it left."""
        number = int(self._notes["epoch"])
        if number <= self.settled_in(position):
            # Perhaps it is emptied in part already: what it held is as noted then.
            keys, values = self._rows(self._flows[1 - self._active()])
            self.pending = Drained(number, keys, values)
            faultpoint("ebpf.in_resume")
            self.settle()
            return
        self.pending = self._read(number)
        faultpoint("ebpf.in_resume")
        if not len(self.pending.keys) and not any(self.pending.over.values()):
            self.pending = None

    def swap(self) -> Drained:
        """Begin a new epoch and read the one that ended; nothing may be pending. Blocks for a grace period of the kernel
        (10 to 30 ms). Raises ``OSError``.
        """
        assert self.pending is None
        number = int(self._notes["epoch"]) + 1
        self._notes["epoch"] = number
        self._programs.note(self._notes)
        faultpoint("ebpf.after_note")
        zero, idle = ctypes.c_uint32(0), ctypes.c_uint32(self._flows[1 - self._active()])
        self._swapped_at_inserts = int(self.totals()["inserts"])
        outer = self._programs.maps["sekisho_active"]
        libbpf.call("bpf_map_update_elem", outer, ctypes.addressof(zero), ctypes.addressof(idle), 0)
        faultpoint("ebpf.after_swap")
        self.pending = self._read(number)
        return self.pending

    def let_go(self) -> None:
        """The pending epoch's rows are handed out: what they were made of is needed no more, but for the keys."""
        if self.pending is not None:
            self.pending = replace(self.pending, values=self.pending.values[:0].copy())

    def settle(self) -> None:
        """Empty the map that was read: its rows are durable."""
        drained = self.pending
        assert drained is not None
        faultpoint("ebpf.before_clear")
        idle = self._flows[1 - self._active()]
        for at in range(0, len(drained.keys), _CHUNK):
            part = drained.keys[at : at + _CHUNK]
            count = ctypes.c_uint32(len(part))
            libbpf.call("bpf_map_delete_batch", idle, part.ctypes.data, ctypes.addressof(count), None)
            faultpoint("ebpf.in_clear")
        self._notes["settled"] = self._notes["read"]
        self._programs.note(self._notes)
        faultpoint("ebpf.after_clear")
        self.pending = None

    def totals(self) -> NDArray[np.void]:
        """One ``layout.TOTALS``: the sums over all CPUs since the maps were made."""
        each: NDArray[np.void] = np.zeros(self._cpus, TOTALS)
        zero = ctypes.c_uint32(0)
        fd = self._programs.maps["sekisho_totals"]
        libbpf.call("bpf_map_lookup_elem", fd, ctypes.addressof(zero), each.ctypes.data)
        out: NDArray[np.void] = np.zeros((), TOTALS)
        for name in TOTALS.names or ():
            out[name] = each[name].sum()
        return out

    def unread(self) -> tuple[int, int]:
        """(octets out, octets in) that are counted and not yet part of any epoch that was read."""
        totals, read = self.totals(), self._notes["read" if self.pending else "settled"]
        return tuple(int(totals[name]) - int(read[name]) for name in ("octets_out", "octets_in"))  # type: ignore[return-value]

    def fill(self) -> float:
        """Share of the map in use, 0 to 1 (an estimate from rows made since the last exchange)."""
        made = int(self.totals()["inserts"]) - self._swapped_at_inserts
        return made / int(self.entries)

    def _active(self) -> int:
        """Which of the two maps is counted into."""
        found, zero = ctypes.c_uint32(0), ctypes.c_uint32(0)
        outer = self._programs.maps["sekisho_active"]
        libbpf.call("bpf_map_lookup_elem", outer, ctypes.addressof(zero), ctypes.addressof(found))
        ids = [libbpf.map_info(fd).id for fd in self._flows]
        return ids.index(found.value)

    def _read(self, number: int) -> Drained:
        """All rows of the idle map, and what had no room; noted beside the maps."""
        keys, values = self._rows(self._flows[1 - self._active()])
        totals, settled = self.totals(), self._notes["settled"]
        over = {name: int(totals[f"over_{name}"]) - int(settled[f"over_{name}"]) for name in _OVER}
        drained = Drained(number, keys, values, over)
        read: Any = totals.copy()
        read["octets_out"] = int(settled["octets_out"]) + drained.octets_out
        read["octets_in"] = int(settled["octets_in"]) + drained.octets_in
        self._notes["read"], self._notes["read_epoch"] = read, number
        self._programs.note(self._notes)
        faultpoint("ebpf.after_read")
        return drained

    def _rows(self, fd: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """All of a map, read a chunk at a time to where it stays: no octet is copied, and room is touched as it is filled."""
        keys: NDArray[np.void] = np.empty(self.entries + _CHUNK, KEY)
        values: NDArray[np.void] = np.empty(self.entries + _CHUNK, VALUE)
        token = self._token.ctypes.data
        at, more, count = 0, True, ctypes.c_uint32(0)
        while more:
            count.value = min(_CHUNK, len(keys) - at)
            try:
                libbpf.call(
                    "bpf_map_lookup_batch",
                    fd,
                    token if at else None,
                    token,
                    keys.ctypes.data + at * KEY.itemsize,
                    values.ctypes.data + at * VALUE.itemsize,
                    ctypes.addressof(count),
                    None,
                )
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                more = False
            at += count.value
            faultpoint("ebpf.in_read")
        # Cut where they are, nothing is copied. The keys stay until their rows are durable, and room that is held can
        # never go back to the system, though nothing is in it.
        keys.resize(at, refcheck=False)
        values.resize(at, refcheck=False)
        return keys, values
