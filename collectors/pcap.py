"""Capture files as a source of flows: pcap and pcapng, plain or compressed by gzip, xz or zstd, or standard input.

Time is the data's own. Each file is a vantage by itself (``pcap:<file name>``) with its own flow table, so files of one
capture that was cut by size cut the flows that run from one into the next. Needs no rights.
"""

from __future__ import annotations

import functools
import stat
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import Field

from agent.core.accounts import Accounts
from agent.core.address import SPECIAL_SCOPES, Network, NetworkSet
from agent.core.clock import SECOND_NS
from agent.core.errors import CaptureError, SekishoError
from agent.core.flow import BatchHeader, FlowBatch, concat
from agent.core.grouping import distinct
from agent.core.log import Log
from agent.core.stages import CollectorSettings, Context
from agent.policy.networks import NetworkField
from collectors.captures.files import CHUNK, STDIN, CaptureFile
from collectors.captures.folders import GONE, choose
from collectors.captures.frames import Frames
from collectors.flowtable.flows import FlowTable
from collectors.packets.decode import Decoded
from collectors.packets.inner import Decode, decode_inner
from collectors.packets.links import NO_LOSS
from collectors.packets.odd import decode_any, merge
from collectors.packets.packet import Packets

if TYPE_CHECKING:
    from agent.policy.model import Policy
    from collectors.packets.names import Names

_LOG: Final = Log(part="pcap")
_LONG_AGO = -(1 << 62)
_PEEK = 1 << 16
_OWN_SCOPES = ("loopback", "link_local", "private", "shared")


class Settings(CollectorSettings):
    """Which captures, and whose addresses are the reporting side's."""

    files: tuple[Path, ...] = Field(
        min_length=1,
        description="Captures (pcap, pcapng; .gz, .xz, .zst), or folders of them; - is standard input",
    )
    local: tuple[NetworkField, ...] = Field(
        (),
        description="Networks whose addresses are local. Default: loopback, link-local, private, unique local and "
        "shared ranges, and the sites of the policy",
    )
    idle_s: int = Field(15, ge=1, le=3600, description="Seconds of silence after which a flow is over")
    active_s: int = Field(60, ge=1, le=60, description="Longest span of one row in seconds")
    max_flows: int = Field(
        1_000_000, ge=1000, description="Flows held at once; above that the longest idle are given out early"
    )
    tunnels: Literal["outer", "inner"] = Field(
        "outer",
        description="Of tunnels count the outer packets, for those leave the host, or the packets inside "
        "(only where the tunnels are your own: what is inside is what its sender wrote)",
    )
    names: bool = Field(
        False,
        description="Name remote ends from DNS answers and TLS server names in the capture: the host name alone is kept",
    )

    def build(self, context: Context) -> Pcap:
        """The collector; opens nothing yet."""
        return Pcap(
            self, NetworkSet(self.local or own_networks(context.policy)), context.accounts, context.host
        )


def _names() -> Names:
    # Loaded where it is needed.
    from collectors.packets.names import Names

    return Names()


def own_networks(policy: Policy | None) -> tuple[Network | str, ...]:
    """What counts as local where nobody says: addresses that are nobody else's, and the policy's sites."""
    special = tuple(
        network for scope, networks in SPECIAL_SCOPES if scope in _OWN_SCOPES for network in networks
    )
    return (
        special + tuple(network for site in policy.sites for network in site.networks) if policy else special
    )


class _Reading:
    """A file that is being read: ``rows`` gives what each chunk ended, ``clock_ns`` is the time of its newest frame."""

    def __init__(self, file: CaptureFile, rows: Callable[[_Reading], Generator[FlowBatch]]) -> None:
        self.file = file
        self.clock_ns = _LONG_AGO
        self.rows = rows(self)


@dataclass(slots=True)
class Seen:
    """What became of the frames read so far."""

    frames: int = 0
    packets: int = 0
    odd: int = 0
    """Frames that scapy was given."""
    repaired: int = 0
    """Packets counted by their frame because their IP header claims more octets than the frame had."""
    unopened: int = 0
    """Tunnel packets counted as they are, although what is inside was asked for, because it could not be read."""


class Pcap:
    """Reads captures one after another. See :class:`~agent.core.stages.Collector`."""

    name = "pcap"
    live = False
    not_seen: tuple[str, ...] = ("processes", "bypass", "local_sockets", "other_interfaces", "before_start")

    def __init__(
        self,
        settings: Settings,
        local: NetworkSet,
        accounts: Accounts,
        host: str,
        *,
        chunk_octets: int = CHUNK,
    ) -> None:
        self._settings, self._local, self._accounts, self._host = settings, local, accounts, host
        self._chunk = chunk_octets
        self._names = _names() if settings.names else None
        self._reading: list[_Reading] = []
        self._read_before = 0
        self._total: int | None = None
        self._decode = (
            functools.partial(decode_inner, decode_any) if settings.tunnels == "inner" else decode_any
        )
        self.left_out: dict[Path, str] = {}
        """What lies in the folders given and is not read, and why; known once ``collect`` has ended."""
        self._found: frozenset[Path] = frozenset()
        self.seen = Seen()

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Rows of every file; blocks on reading. Files that overlap in time are read side by side, the least first,
        and their rows yielded in one order of time; others one after another, whatever the order given.

        A file with a fault is read up to it: rows of all whole records before it are yielded, then the other files are
        read, and the fault is raised last (:class:`~agent.core.errors.CaptureError` or
        :class:`~agent.core.errors.DecodeError`; several faults as one ``CaptureError``). ``stop`` is seen between two
        chunks; what is held then is yielded.
        """
        faults: list[SekishoError] = []
        chosen = choose(self._settings.files)
        faults += chosen.faults
        self.left_out |= chosen.left_out
        self._found = chosen.found
        for path, reason in chosen.left_out.items():
            _LOG.info("left_out", file=str(path), reason=reason)
        self._total = _total(chosen.files)
        waiting = deque(_by_beginning(chosen.files))
        held: list[FlowBatch] = []
        try:
            while self._reading or (waiting and not stop.is_set()):
                while waiting and (not self._reading or waiting[0][0] <= self._least().clock_ns):
                    self._reading.append(self._open(waiting.popleft()[1], stop, faults))
                reading = self._least()
                rows = next(reading.rows, None)
                if rows is None:
                    self._read_before += reading.file.read_octets
                    self._reading.remove(reading)
                    rows = FlowBatch.empty()
                clocks = [waiting[0][0]] if waiting else []
                clocks += [reading.clock_ns for reading in self._reading]
                passed_ns = min(clocks) if len(clocks) > 1 else None
                yield self._headed(_in_turn(held, rows, passed_ns), reading.file)
        finally:
            for reading in self._reading:
                reading.rows.close()
        if len(faults) == 1:
            raise faults[0]
        if faults:
            raise CaptureError("\n".join(str(fault) for fault in faults))

    def progress(self) -> tuple[int, int] | None:
        """(octets of the files as they lie read, octets in all); None where standard input or a pipe is among them."""
        if self._total is None:
            return None
        return self._read_before + sum(r.file.read_octets for r in self._reading), self._total

    def _least(self) -> _Reading:
        return min(self._reading, key=lambda reading: reading.clock_ns)

    def _open(self, path: Path, stop: threading.Event, faults: list[SekishoError]) -> _Reading:
        return _Reading(
            CaptureFile(path, chunk_octets=self._chunk, stopped=stop.is_set),
            lambda reading: self._rows(reading, stop, faults),
        )

    def _rows(
        self, reading: _Reading, stop: threading.Event, faults: list[SekishoError]
    ) -> Generator[FlowBatch]:
        """Rows of one file, a chunk at a time."""
        file = reading.file
        table = self._table(file)
        try:
            with closing(file.frames()) as chunks:
                for frames in chunks:
                    if len(frames):
                        reading.clock_ns = int(frames.time_ns[-1])
                    yield self._named(table.add(self._packets(frames)))
                    if stop.is_set():
                        break
        except SekishoError as fault:
            if file.path in self._found and not file.read_octets and not file.path.exists():
                # A ring of files lives on: its writer removes the oldest, and that is no fault of the rest.
                self.left_out[file.path] = GONE
                _LOG.info("left_out", file=str(file.path), reason=GONE)
            else:
                faults.append(fault)
        yield from map(self._named, table.drain())
        if file.torn != (0, 0):
            self._accounts.lose_frames("torn_tail", *file.torn)

    def _table(self, file: CaptureFile) -> FlowTable:
        return FlowTable(
            local=self._local.contains,
            vantage=f"pcap:{file.name}",
            interfaces=file.interfaces,
            accounts=self._accounts,
            idle_ns=self._settings.idle_s * SECOND_NS,
            active_ns=self._settings.active_s * SECOND_NS,
            max_flows=self._settings.max_flows,
        )

    def _headed(self, batch: FlowBatch, file: CaptureFile) -> FlowBatch:
        header = BatchHeader(host=self._host, collector=self.name, position=f"{file.name}:{file.offset}")
        return FlowBatch({column.name: data for column, data in batch.columns()}, header)

    def _named(self, batch: FlowBatch) -> FlowBatch:
        return batch if self._names is None else self._names.fill(batch)

    def _packets(self, frames: Frames) -> Packets:
        """Packets of a chunk; what is lost in it is counted."""
        found = _decode(frames, self._decode)
        if self._names is not None:
            _hear(self._names, frames, found)
        for reason, (lost, octets) in (*frames.lost.items(), *found.skipped.items()):
            if reason not in NO_LOSS:
                self._accounts.lose_frames(reason, lost, octets)
        self.seen.frames += len(frames)
        self.seen.packets += len(found.packets)
        self.seen.odd += len(found.odd)
        over = found.repaired.get("length_over_wire", 0)
        self.seen.repaired += over
        self.seen.unopened += sum(found.repaired.values()) - over
        return found.packets


def _hear(names: Names, frames: Frames, found: Decoded) -> None:
    """Hand the frames to ``names``, those of one link type at a time."""
    if isinstance(frames.link, int):
        where = (frames.data, frames.starts, frames.captured, frames.time_ns)
        names.hear_frames(*where, frames.link, found.packets, found.order)
        return
    for link in np.unique(frames.link).tolist():
        rows = np.flatnonzero(frames.link == link)
        some = np.flatnonzero(frames.link[found.order] == link)
        order = np.searchsorted(rows, found.order[some])
        parts = (frames.starts[rows], frames.captured[rows], frames.time_ns[rows])
        names.hear_frames(frames.data, *parts, link, found.packets.take(some), order)


def _decode(frames: Frames, decode: Decode) -> Decoded:
    if isinstance(frames.link, int):
        return _decode_link(frames, decode, frames.link, slice(None))
    parts = []
    for link in distinct(frames.link).tolist():
        rows = np.flatnonzero(frames.link == link)
        part = _decode_link(frames, decode, link, rows)
        parts.append(replace(part, order=rows[part.order], odd=rows[part.odd]))
    return merge(parts, odd=np.sort(np.concatenate([part.odd for part in parts])))


def _decode_link(
    frames: Frames, decode: Decode, link: int, rows: slice | np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Decoded:
    return decode(
        frames.data,
        frames.starts[rows],
        frames.captured[rows],
        frames.length[rows],
        frames.time_ns[rows],
        link,
        frames.interface if isinstance(frames.interface, int) else frames.interface[rows],
        frames.sent if frames.sent is None else frames.sent[rows],
    )


def _by_beginning(paths: Sequence[Path]) -> list[tuple[int, Path]]:
    """Each file with the time of its first frame, oldest first; what cannot tell beforehand is read at once."""
    if len(paths) == 1:
        return [(_LONG_AGO, paths[0])]
    return sorted(((_beginning(path), path) for path in paths), key=lambda item: item[0])


def _beginning(path: Path) -> int:
    try:
        if not path.is_file():
            return _LONG_AGO
        with closing(CaptureFile(path, chunk_octets=_PEEK).frames()) as chunks:
            return next((int(frames.time_ns[0]) for frames in chunks if len(frames)), _LONG_AGO)
    except (SekishoError, OSError):
        return _LONG_AGO  # whoever reads the file says what is wrong with it


def _in_turn(held: list[FlowBatch], rows: FlowBatch, passed_ns: int | None) -> FlowBatch:
    """The rows that may go: those up to the time that every file still to be read has passed; None: all."""
    if not held and passed_ns is None:
        return rows
    joined = concat([batch for batch in (*held, rows) if len(batch)])
    held.clear()
    if passed_ns is None:
        return joined
    ready = joined["end_ns"] <= passed_ns
    if not ready.all():
        held.append(joined.take(~ready))
    return joined.take(ready)


def _total(files: tuple[Path, ...]) -> int | None:
    """Octets of all files; one that is not there counts nothing, for it will be a fault of its own."""
    total = 0
    for path in files:
        try:
            status = path.stat() if path != STDIN else None
        except OSError:
            continue
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        total += status.st_size
    return total
