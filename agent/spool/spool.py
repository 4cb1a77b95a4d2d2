"""The spool: everything that is sealed and not yet acknowledged, on the disk, within bounds.

Two lanes, rows of stores and the rest, so that a backlog of the many never stands before the few. What has no room is
let go by ``policy``, counted by reason in records, flows and octets; nothing else is ever let go. Nothing is loaded
whole: memory holds one line per segment and what is taken at the moment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agent.core.accounts import Amounts
from agent.core.errors import StateError
from agent.core.log import Log
from agent.spool.lane import Lane, Record, octets_of
from agent.spool.segments import LARGEST_RECORD, Tally

_LOG: Final = Log(part="spool")
LANES: Final = (0, 1)
MOST_OCTETS: Final = 2 * 2**30
MOST_SHARE: Final = 0.05
MIN_FREE_SHARE: Final = 0.10
SEGMENT_OCTETS: Final = 16 * 2**20
_SMALLEST_SEGMENT: Final = 64 * 2**10
_SEGMENTS: Final = 16
"""A lane's share of the spool is at least so many segments, so that dropping one drops little."""
_LEAST: Final = 4
"""Where room is short a segment may be smaller, down to this part of its size."""

Policy = Literal["oldest", "newest"]


@dataclass(frozen=True, slots=True)
class Gone:
    """Records that were let go."""

    lane: int
    reason: str
    first: int
    """Number of the first; -1 for one that never came in."""
    tally: Tally


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of the disk the spool may take, in octets, and what goes where that is not enough."""

    most_octets: int
    min_free_octets: int
    policy: Policy = "oldest"
    volume_octets: int | None = None
    """What there is for it on a volume with nothing else on it; None is enough."""

    @classmethod
    def of(cls, folder: Path, most_octets: int | None = None, policy: Policy = "oldest") -> Limits:
        """What is left out is min(2 GiB, 5 % of the volume), and 10 % of it stays free. Raises ``OSError``."""
        total = shutil.disk_usage(folder).total
        most = min(MOST_OCTETS, int(total * MOST_SHARE)) if most_octets is None else most_octets
        min_free = int(total * MIN_FREE_SHARE)
        return cls(most, min_free, policy, total - min_free)

    @property
    def segment_octets(self) -> int:
        """The size of a segment: a share of what the spool can ever take, whatever it may."""
        most = self.most_octets if self.volume_octets is None else min(self.most_octets, self.volume_octets)
        return max(_SMALLEST_SEGMENT, min(SEGMENT_OCTETS, most // _SEGMENTS))


class Spool:
    """One agent's spool. Thread-safe: one thread appends, another takes and acknowledges."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        """Take up what an earlier run left. Raises :class:`StateError` where another agent uses the folder or it cannot
        be written.
        """
        self._folder, self._limits = folder, limits
        self._lock = threading.Lock()
        self._dropped: dict[str, Tally] = {}
        self._gone: list[Gone] = []
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._held = _only_one(folder)
        except OSError as error:
            raise StateError(
                f"spool {folder}: {error.strerror}; set spool.folder to a folder this user can write"
            ) from error
        try:
            self._lanes = {n: Lane(folder / f"lane{n}", n, self._count) for n in LANES}
        except OSError as error:
            os.close(self._held)
            raise StateError(
                f"spool {folder}: {error.strerror}; check the disk, or move the folder away"
            ) from error
        self.inherited = self.waiting()
        """What an earlier run left in it."""

    def append(self, lane: int, amounts: Amounts, body: bytes) -> bool:
        """Keep a record; False where it was let go (and counted). When this returns, a kill of the process loses
        nothing; a power cut loses what was appended since :meth:`sync`.
        """
        with self._lock:
            try:
                kept = self._append(self._lanes[lane], lane, body, amounts)
            except OSError as error:
                kept = False
                reason = _REASONS.get(error.errno or 0, "spool_unwritable")
                self._let_go(lane, reason, amounts, error.strerror or "")
            return kept

    def take(self, lane: int, most_octets: int) -> list[Record]:
        """The next records of a lane that were not taken yet. Raises :class:`StateError`."""
        with self._lock:
            try:
                return self._lanes[lane].take(most_octets)
            except OSError as error:
                raise StateError(f"spool {self._folder}: {error.strerror}") from error

    def acknowledge(self, record: Record) -> Tally:
        """The receiver has it for good. Gives what left the spool by that (see :meth:`Lane.acknowledge`)."""
        with self._lock:
            return self._lanes[record.lane].acknowledge(record.number)

    def rewind(self) -> None:
        """Take again everything that was not acknowledged; for a connection that broke."""
        with self._lock:
            for lane in self._lanes.values():
                lane.rewind()

    def note(self) -> None:
        """Write down how far acknowledgements go; call it every second or so. Raises :class:`StateError`."""
        with self._lock:
            try:
                for lane in self._lanes.values():
                    lane.note()
            except OSError as error:
                raise StateError(f"spool {self._folder}: {error.strerror}") from error

    def sync(self) -> None:
        """Wait until everything that was appended is on the disk. Raises :class:`StateError`."""
        with self._lock:
            try:
                for lane in self._lanes.values():
                    lane.sync()
            except OSError as error:
                raise StateError(f"spool {self._folder}: {error.strerror}") from error

    def waiting(self, lane: int | None = None) -> Tally:
        """What is kept and not acknowledged, in one lane or in all."""
        with self._lock:
            lanes = self._lanes.values() if lane is None else [self._lanes[lane]]
            return sum((each.waiting() for each in lanes), Tally())

    def dropped(self) -> Mapping[str, Tally]:
        """What this run let go, by reason: ``spool_full``, ``spool_disk_full``, ``spool_unwritable``, ``spool_corrupt``,
        ``record_too_large``.
        """
        with self._lock:
            return dict(self._dropped)

    @property
    def octets_waiting(self) -> int:
        """What waits to be acknowledged, roughly: whole segments count as they lie."""
        with self._lock:
            return sum(lane.octets_waiting for lane in self._lanes.values())

    def gone(self) -> list[Gone]:
        """What was let go since this was last asked."""
        with self._lock:
            told, self._gone = self._gone, []
            return told

    def next_number(self, lane: int) -> int:
        """The number that the next record of a lane gets."""
        with self._lock:
            return self._lanes[lane].next_number

    @property
    def octets(self) -> int:
        """What it takes on the disk."""
        with self._lock:
            return sum(lane.octets for lane in self._lanes.values())

    def close(self) -> None:
        """Let go of the folder; what is in it stays for the next run."""
        with self._lock:
            try:
                for lane in self._lanes.values():
                    lane.close()
            except OSError as error:
                _LOG.warning("spool_not_closed", reason=error.strerror, cost="some records are sent twice")
            finally:
                os.close(self._held)

    def _append(self, lane: Lane, number: int, body: bytes, amounts: Amounts) -> bool:
        if len(body) > LARGEST_RECORD:
            return self._let_go(number, "record_too_large", amounts, f"{len(body)} octets")
        if not lane.fits(body):
            lane.end_segment()
            octets, lacking = self._make_room(number, octets_of(body))
            if not octets:
                return self._let_go(number, lacking, amounts, "")
            lane.begin(octets)
        lane.append(amounts, body)
        return True

    def _make_room(self, number: int, need: int) -> tuple[int, str]:
        """How much a new segment may take, old ones dropped for it where they must be; 0 and why where there is no room.

        Rows of stores may push out others, never the other way about. Nothing is dropped in vain.
        """
        want = max(self._limits.segment_octets, need)
        least = max(need, want // _LEAST)
        room, lacking = self._room()
        victims = [n for n in LANES if n <= number] if self._limits.policy == "oldest" else []
        if room < least and self._room(0, self._droppable(victims))[0] < least:
            for below in victims[:-1]:
                self._lanes[below].end_segment()  # what is written now may be dropped only when it is closed
            room, lacking = self._room()
            if room < least and self._room(0, self._droppable(victims))[0] < least:
                return 0, lacking
        freed = 0
        while room < least:
            dropped = ((n, self._lanes[n].drop_oldest()) for n in victims)
            victim, gone = next(((n, d) for n, d in dropped if d is not None), (0, None))
            if gone is None:
                return 0, lacking
            freed += gone.octets
            self._count(victim, lacking, gone.begin.records, gone.end - gone.begin)
            room, lacking = self._room(freed)
        return min(want, room), ""

    def _room(self, freed: int = 0, more: int = 0) -> tuple[int, str]:
        """How much may be taken and what bounds it, where ``freed`` was dropped for it and ``more`` would be.

        On a volume that others have filled the spool grows no more, but what it drops it may fill again.
        """
        most = self._limits.most_octets - sum(lane.octets for lane in self._lanes.values()) + more
        free = shutil.disk_usage(self._folder).free + more
        disk = min(free, max(free - self._limits.min_free_octets, freed + more))
        return (most, "spool_full") if most <= disk else (disk, "spool_disk_full")

    def _droppable(self, lanes: Sequence[int]) -> int:
        return sum(self._lanes[n].droppable for n in lanes)

    def _let_go(self, lane: int, reason: str, amounts: Amounts, detail: str) -> bool:
        if reason not in self._dropped:
            _LOG.error("spool_lets_go", reason=reason, detail=detail, octets_out=amounts.octets_out)
        self._count(lane, reason, -1, Tally(1, amounts))
        return False

    def _count(self, lane: int, reason: str, first: int, what: Tally) -> None:
        self._gone.append(Gone(lane, reason, first, what))
        self._dropped[reason] = self._dropped.get(reason, Tally()) + what


_REASONS: Final = {errno.ENOSPC: "spool_disk_full", errno.EDQUOT: "spool_disk_full"}


def _only_one(folder: Path) -> int:
    """Lock the folder for this process. Raises :class:`StateError` where another holds it, ``OSError``."""
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 32, 0).decode("ascii", "replace").strip()
        os.close(file)
        raise StateError(
            f"spool {folder} is in use by process {holder or '?'}; give each agent a spool.folder of its own"
        ) from None
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return file
