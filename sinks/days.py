"""The archive of many hosts: journals by day that become Parquet. A library of the archiver, no sink.

    <directory>/flows/day=2026-11-21/hosts=all/part-<run>-<n>.parquet      rows of all hosts; columns agent_host and agent_id
                                              .part-<run>-<n>.journal

All hosts of a day share a file: a file for each of ten thousand hosts would be a million a day. Whoever reads batches
commits how far it read together with :meth:`Days.sizes`; what stands behind these sizes after a crash was not committed,
will be read again, and is cut. So each batch is in the archive once, wherever the program died.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.core.clock import MINUTE_NS, Clock
from agent.core.errors import DecodeError
from agent.core.faults import faultpoint
from agent.core.flow import FlowBatch
from agent.core.frames import claim
from agent.core.log import Log
from sinks.parquet import (
    MANY,
    MOST_DAYS,
    NULL,
    Filing,
    Part,
    Shape,
    by_day,
    forget_old_days,
    joined,
    need_room,
    pack,
    seal_leftover,
)


class Days:
    """The one writer of such an archive. Not thread-safe."""

    def __init__(self, filing: Filing, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self.files = 0
        """Parquet files finished by this run."""
        self.missing_octets = 0
        """Of journals that were committed and found shorter, or not readable, at the start."""
        self._filing, self._clock = filing, clock
        self._flows = directory / "flows"
        self._shape = Shape(filing.compression, filing.rows_per_group)
        self._run = uuid.uuid4().hex
        self._parts: dict[str, Part] = {}
        self._whole: dict[str, tuple[int, int]] = {}
        """By folder: octets and rows of its journal at the last commit."""
        self._log = Log(part="archive")

    def begin(self, committed: Mapping[str, int]) -> None:
        """Cut what an earlier run left behind to what it committed (:meth:`sizes`), and finish it. Raises ``OSError``."""
        self._flows.mkdir(parents=True, exist_ok=True, mode=0o750)
        for journal in sorted(self._flows.glob(f"day=*/{MANY}/.part-*.journal")):
            held = claim(journal)
            if held is not None:
                with held:
                    self._finish(journal, committed.get(self._name(journal), 0))

    def add(self, batches: Sequence[FlowBatch]) -> None:
        """Take all rows of these batches; on return they outlast a loss of power. Raises ``OSError``: see :meth:`undo`."""
        need_room(self.directory, self._filing.min_free)
        now_ns = self._clock.now_ns()
        days: dict[str | None, list[FlowBatch]] = {}
        for batch in batches:
            for day, rows in by_day(batch.named(), now_ns):
                days.setdefault(day, []).append(rows)
        for day, pieces in days.items():
            for rows in joined(pieces):
                self._part(day).add(pack(rows), len(rows))
                faultpoint("archive.after_journal")
        for part in self._parts.values():
            part.sync()

    def sizes(self) -> dict[str, int]:
        """How much of each journal is to be committed."""
        return {self._name(part.journal): part.size for part in self._parts.values()}

    def undo(self) -> None:
        """Take back what was added since the last commit. Raises ``OSError``."""
        for folder, part in self._parts.items():
            octets, rows = self._whole.get(folder, (0, 0))
            if part.size != octets:
                part.cut(octets, rows)

    @property
    def uncommitted(self) -> bool:
        """Whether something was added since the last commit."""
        return any(part.size != self._whole.get(name, (0, 0))[0] for name, part in self._parts.items())

    def settled(self) -> None:
        """All that was added is committed."""
        self._whole = {folder: (part.size, part.rows) for folder, part in self._parts.items()}

    def finish_due(self, *, all_of_them: bool = False) -> None:
        """Turn journals that are old or long enough into Parquet; only between :meth:`settled` and the next :meth:`add`."""
        for folder, part in list(self._parts.items()):
            if not (all_of_them or self._is_due(part)):
                continue
            try:
                part.seal(self._shape)
            except OSError as error:
                part.opened_ns = self._clock.monotonic_ns()
                self._log.error("archive_file_not_finished", journal=str(part.journal), reason=str(error))
            else:
                self.files += 1
                del self._parts[folder]
                self._whole.pop(folder, None)

    def close(self) -> None:
        """Let go of the journals; the next start finishes them."""
        for part in self._parts.values():
            part.leave()
        self._parts.clear()

    def _part(self, day: str | None) -> Part:
        folder = f"day={day or NULL}/{MANY}"
        if folder not in self._parts and len(self._parts) >= MOST_DAYS:
            folder = f"day={NULL}/{MANY}"
        part = self._parts.get(folder)
        if part is None:
            place = self._flows / folder
            if not place.is_dir():
                place.mkdir(parents=True)
                for old in forget_old_days(self._flows, self._filing.keep_days):
                    self._log.info("archive_day_removed", day=old, setting="archiver.keep_days")
            part = self._parts[folder] = Part(place, self._run, self._clock.monotonic_ns())
            for made in (place, place.parent, self._flows):
                _sync(made)
        return part

    def _is_due(self, part: Part) -> bool:
        age_ns = self._clock.monotonic_ns() - part.opened_ns
        limit_ns = self._filing.minutes_per_file * MINUTE_NS
        return part.rows >= self._filing.rows_per_file or not 0 <= age_ns < limit_ns

    def _finish(self, journal: Path, committed: int) -> None:
        there = journal.stat().st_size
        if there < committed:
            self.missing_octets += committed - there
            self._log.error(
                "archive_journal_short", file=journal.name, octets=there, octets_committed=committed
            )
        if min(there, committed) == 0:
            journal.unlink()
            return
        os.truncate(journal, min(there, committed))
        try:
            rows, torn = seal_leftover(journal, self._shape)
        except DecodeError as error:
            self.missing_octets += committed
            aside = journal.rename(journal.with_name(journal.name + ".bad"))
            self._log.error("archive_journal_unreadable", file=str(aside), reason=str(error))
            return
        self.missing_octets += torn
        self.files += 1
        self._log.info("archive_salvaged", file=journal.name, rows=rows, octets_cut=there - committed)

    def _name(self, journal: Path) -> str:
        return str(journal.relative_to(self._flows))


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
