"""Whose sockets the flows of this host are: a memory of sockets with their processes, and rows filled from it.

The kernel's sockets are sampled while flows live, in a thread of its own; a flow's row, which comes when the flow is
over, is then matched by its addresses and ports. Whoever opened and closed a socket between two samples is not known,
unless the socket was accepted: then the listening socket answers for it. Everything here works in the network
namespace of the thread that enters it: a container's own namespace has sockets of its own, which are not seen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import SECOND_NS, Clock
from agent.core.errors import CaptureError
from agent.core.flow import ColumnData, FlowBatch, Text
from agent.core.log import Log
from collectors.flowtable.table import KeyHash
from collectors.host.cgroups import Groups, Place, mounted, place_of
from collectors.host.pods import Pods
from collectors.host.processes import Holders, Process
from collectors.host.sockets import LISTEN, TCP, SocketDiag, Sockets

_LOG: Final = Log(part="af_packet")

REMEMBERED_NS: Final = 180 * SECOND_NS
"""How long a socket is known after it was last seen: a row comes up to 80 s after the last packet but one."""
MOST_REMEMBERED: Final = 300_000
_LEAST_NS: Final = SECOND_NS
_MOST_NS: Final = 30 * SECOND_NS
_REST: Final = 100
"""A sample is followed by a rest of so many times the CPU it took: about 1 % of a core at most."""
_BUDGET_NS: Final = 30_000_000
"""CPU that looking for holders may take at one sample."""
_FIRST_BUDGET_NS: Final = 2 * SECOND_NS
_ANY: Final = ((0, 0xFFFF << 32), (0, 0))
"""The unspecified address of each family: a socket bound to it takes what comes to any address."""
_MOST_CODES: Final = 10_000

Numbers = NDArray[np.int64]
Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Owned:
    """Owners of sockets as columns: whose process (a place in a list, -1 unknown), user and control group."""

    process: NDArray[np.int32]
    uid: Numbers
    cgroup: Numbers

    def take(self, index: NDArray[np.generic]) -> Owned:
        """Rows by index or mask."""
        return Owned(self.process[index], self.uid[index], self.cgroup[index])


@dataclass(frozen=True, slots=True)
class Index:
    """Owners found by keys of five words; equal hashes are told apart by the whole key."""

    hashes: Words
    """Sorted."""
    keys: Words
    """(n, 5)"""
    owned: Owned

    @classmethod
    def of(cls, hasher: KeyHash, keys: Words, owned: Owned) -> Index:
        """Of several owners of one key, the first one counts."""
        hashes = hasher(np.ascontiguousarray(keys.T))
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], keys[order], owned.take(order))

    def find(self, hasher: KeyHash, keys: Words) -> Numbers:
        """The place of each key, -1 where it is not there."""
        if not len(self.hashes) or not len(keys):
            return np.full(len(keys), -1, np.int64)
        wanted = hasher(np.ascontiguousarray(keys.T))
        at = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return np.where((self.keys[at] == keys).all(axis=1), at, -1)


@dataclass(frozen=True, slots=True)
class Book:
    """What is known of sockets at one moment; never changed, so that another thread may read it."""

    connected: Index
    bound: Index
    """Listening and unconnected sockets, by local address and port alone."""
    processes: Sequence[Process]
    places: Mapping[int, Place]
    """Control group id -> what its path says."""
    hasher: KeyHash

    def fill(self, batch: FlowBatch) -> FlowBatch:
        """The rows with process, pid, executable, uid, cgroup, unit, container and pod, where known."""
        if not len(batch):
            return batch
        owned = self._owners(batch)
        known = np.flatnonzero((owned.process >= 0) | (owned.uid >= 0) | (owned.cgroup >= 0))
        return batch.with_columns(**self._columns(owned)) if len(known) else batch

    def _owners(self, batch: FlowBatch) -> Owned:
        n = len(batch)
        out = Owned(np.full(n, -1, np.int32), np.full(n, -1, np.int64), np.full(n, -1, np.int64))
        local, remote = batch["local_address"], batch["remote_address"]
        port, protocol = batch["local_port"], batch["protocol"]
        has_port = port >= 0
        whole = keys_of(protocol, local, port, remote, batch["remote_port"])
        todo = np.flatnonzero(has_port)
        todo = self._take(out, self.connected, whole, todo)
        # What nobody was seen to have connected belongs to whoever takes what comes to that port.
        accepted = (protocol != TCP) | ~batch.text("initiator").where("local")
        todo = todo[accepted[todo]]
        zero = np.zeros_like(remote)
        for address in (None, *_ANY):
            here = local if address is None else np.broadcast_to(np.array(address, np.uint64), local.shape)
            todo = self._take(out, self.bound, keys_of(protocol, here, port, zero, np.zeros_like(port)), todo)
        return out

    def _take(self, out: Owned, index: Index, keys: Words, todo: Numbers) -> Numbers:
        """Write the owners that are found into ``out``; the rows still to do."""
        at = index.find(self.hasher, keys[todo])
        hit = at >= 0
        rows, at = todo[hit], at[hit]
        out.process[rows], out.uid[rows] = index.owned.process[at], index.owned.uid[at]
        out.cgroup[rows] = index.owned.cgroup[at]
        return todo[~hit]

    def _columns(self, owned: Owned) -> dict[str, ColumnData]:
        """Columns of the schema: what the process is in now, else what its socket was made in."""
        processes = self.processes
        pids = np.array([*(p.pid for p in processes), -1], np.int64)
        groups, which = np.unique(owned.cgroup, return_inverse=True)
        of_socket = [self.places.get(group, Place()) for group in groups.tolist()]
        out: dict[str, ColumnData] = {
            "process": _chosen([p.name for p in processes], owned.process),
            "executable": _chosen([p.executable for p in processes], owned.process),
            "pid": pids[owned.process],
            "parent": _chosen([p.parent for p in processes], owned.process),
            "parent_pid": np.array([*(p.parent_pid or -1 for p in processes), -1], np.int64)[owned.process],
            "uid": owned.uid,
        }
        for name in ("unit", "container", "pod", "pod_uid"):
            out[name] = _either(
                _chosen([getattr(p.place, name) for p in processes], owned.process),
                _chosen([getattr(p, name) for p in of_socket], which),
            )
        # The root control group is what a socket gets where version 2 is mounted but not used.
        out["cgroup"] = _either(
            _chosen([None if p.cgroup == "/" else p.cgroup for p in of_socket], which),
            _chosen([p.place.cgroup for p in processes], owned.process),
        )
        return out


def keys_of(
    protocol: NDArray[np.uint8],
    local: Words,
    local_port: NDArray[np.int32],
    remote: Words,
    remote_port: NDArray[np.int32],
) -> Words:
    """Keys (n, 5) of sockets or rows; a port of -1 is 0."""
    keys = np.empty((len(protocol), 5), np.uint64)
    keys[:, 0:2], keys[:, 2:4] = local, remote
    ports = (
        np.maximum(local_port, 0).astype(np.int64) << 24 | np.maximum(remote_port, 0).astype(np.int64) << 8
    )
    keys[:, 4] = ports | protocol
    return keys


def _chosen(values: Sequence[str | None], codes: NDArray[np.integer[Any]]) -> Text:
    """The text of each row by its code, -1 for none; dictionary of distinct texts."""
    index: dict[str, int] = {}
    translate = [-1 if v is None else index.setdefault(v, len(index)) for v in values]
    return Text(np.array([*translate, -1], np.int32)[codes], tuple(index))


def _either(first: Text, second: Text) -> Text:
    """The first text of each row where there is one, else the second."""
    other = np.where(second.codes < 0, -1, second.codes + len(first.values))
    return Text(np.where(first.codes < 0, other, first.codes).astype(np.int32), first.values + second.values)


class Owners:
    """Samples sockets in a thread while it is entered; ``fill`` gives rows their owners. See the module.

    ``diag``, ``holders`` and ``groups`` are for tests. Raises nothing once it runs: without sockets from the kernel the
    columns stay null, and the log says why once.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        diag: SocketDiag | None = None,
        holders: Holders | None = None,
        groups: Groups | None = None,
    ) -> None:
        self._clock = clock
        self._diag = diag or SocketDiag()
        self._holders = holders or Holders()
        self._groups, self._pods = groups or Groups(mounted()), Pods()
        self._hasher = KeyHash()
        self._memory = _Memory()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._budget_ns = _FIRST_BUDGET_NS
        self.samples = 0
        """Samples taken."""
        self.cost_ns = 0
        """CPU time of the last one."""
        self._book = self._memory.book(self._hasher, {})

    def __enter__(self) -> Self:
        self._wake.set()
        self._thread = threading.Thread(target=self._run, name="sockets", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def traffic(self) -> None:
        """Packets were seen: sockets are worth a look."""
        self._wake.set()

    def fill(self, batch: FlowBatch) -> FlowBatch:
        """The rows with what is known of their owners."""
        return self._book.fill(batch)

    def sample(self) -> None:
        """Look at the sockets once, and at processes for those that are new. Raises :class:`CaptureError`."""
        began = time.thread_time_ns()
        now_ns = self._clock.monotonic_ns()
        sockets = self._diag.read()
        self._memory.take(sockets, now_ns)
        self._holders.forget(set(sockets.inode.tolist()) if self._holders.waiting else set())
        self._holders.want(self._memory.unknown(sockets))
        self._memory.name(self._holders.look(self._budget_ns))
        self._budget_ns = _BUDGET_NS
        self._book = self._memory.book(self._hasher, self._places(now_ns))
        self.samples += 1
        self.cost_ns = time.thread_time_ns() - began

    def _places(self, now_ns: int) -> dict[int, Place]:
        groups = [g for g in np.unique(self._memory.owned().cgroup).tolist() if g >= 0]
        paths = {group: self._groups.path(group, now_ns) for group in groups}
        named = self._pods.named
        return {group: named(place_of(path), now_ns) for group, path in paths.items() if path is not None}

    def _run(self) -> None:
        try:
            with self._diag:
                while not self._stop.is_set():
                    self._wake.clear()
                    self.sample()
                    self._stop.wait(min(max(self.cost_ns * _REST, _LEAST_NS), _MOST_NS) / SECOND_NS)
                    if not self._stop.is_set() and not self._holders.waiting:
                        self._wake.wait()
        except CaptureError as error:
            _LOG.warning("processes_unknown", reason=str(error))


class _Memory:
    """Sockets seen lately, newest sample last; what each inode's process is."""

    def __init__(self) -> None:
        none = np.zeros(0, np.int64)
        self._keys: Words = np.zeros((0, 5), np.uint64)
        self._inode: Numbers = none
        self._uid: Numbers = none
        self._cgroup: Numbers = none
        self._seen_ns: Numbers = none
        self._is_bound: NDArray[np.bool_] = np.zeros(0, bool)
        self._code: dict[int, int] = {}
        """Inode -> place of its process."""
        self._processes: list[Process] = []
        self._places: dict[Process, int] = {}
        self._asked: set[int] = set()

    def owned(self) -> Owned:
        """Owners of all sockets that are remembered."""
        inodes, which = np.unique(self._inode, return_inverse=True)
        codes = np.array([self._code.get(inode, -1) for inode in inodes.tolist()], np.int32)
        process = codes[which] if len(inodes) else np.zeros(0, np.int32)
        return Owned(process, self._uid, self._cgroup)

    def take(self, sockets: Sockets, now_ns: int) -> None:
        """Put the sockets that live now in front of those remembered; forget the old ones."""
        is_bound = ((sockets.protocol == TCP) & (sockets.state == LISTEN)) | (
            (sockets.protocol != TCP) & (sockets.remote_port == 0)
        )
        held = (sockets.inode > 0) & (sockets.local_port > 0)
        keys = keys_of(
            sockets.protocol, sockets.local, sockets.local_port, sockets.remote, sockets.remote_port
        )
        keys[is_bound, 2:4] = 0
        stay = (~np.isin(self._inode, sockets.inode)) & (self._seen_ns >= now_ns - REMEMBERED_NS)
        room = max(MOST_REMEMBERED - int(np.count_nonzero(held)), 0)
        kept = np.flatnonzero(stay)[:room]
        self._keys = np.concatenate((keys[held], self._keys[kept]))
        self._inode = np.concatenate((sockets.inode[held], self._inode[kept]))
        self._uid = np.concatenate((sockets.uid[held], self._uid[kept]))
        self._cgroup = np.concatenate((sockets.cgroup[held], self._cgroup[kept]))
        self._seen_ns = np.concatenate(
            (np.full(int(np.count_nonzero(held)), now_ns, np.int64), self._seen_ns[kept])
        )
        self._is_bound = np.concatenate((is_bound[held], self._is_bound[kept]))
        if len(self._asked) > 2 * len(self._inode) + 1024:
            self._asked &= set(self._inode.tolist())
            self._code = {inode: code for inode, code in self._code.items() if inode in self._asked}
        if len(self._processes) > _MOST_CODES:
            self._compact()

    def unknown(self, sockets: Sockets) -> list[int]:
        """Inodes that have not been asked for yet."""
        inodes = sockets.inode[sockets.inode > 0].tolist()
        fresh = [inode for inode in inodes if inode not in self._asked]
        self._asked.update(fresh)
        return fresh

    def name(self, found: Mapping[int, Process]) -> None:
        """Remember whose the sockets are."""
        for inode, process in found.items():
            place = self._places.get(process)
            if place is None:
                place = self._places[process] = len(self._processes)
                self._processes.append(process)
            self._code[inode] = place

    def book(self, hasher: KeyHash, places: Mapping[int, Place]) -> Book:
        """All of it, to read from."""
        owned, bound = self.owned(), self._is_bound
        return Book(
            connected=Index.of(hasher, self._keys[~bound], owned.take(~bound)),
            bound=Index.of(hasher, self._keys[bound], owned.take(bound)),
            processes=tuple(self._processes),
            places=places,
            hasher=hasher,
        )

    def _compact(self) -> None:
        used = {inode: self._processes[code] for inode, code in self._code.items()}
        self._processes, self._places, self._code = [], {}, {}
        self.name(used)
