"""Keep every flow as Parquet, in folders by UTC day of its end and by host, for ``sekisho flows`` and other tools.

    <directory>/flows/day=2026-11-21/host=db-1/part-<run>-<n>.parquet      whole files only, never changed again
                                               .part-<run>-<n>.journal     rows on their way into the next one

Rows go to the journal as they come, one checksummed frame per batch, and are in the kernel's hands when
``write_flows`` returns. A journal becomes Parquet after some minutes or rows: written beside it, synced, renamed, and
only then is the journal removed. So a kill loses nothing: the next start turns the leftover into Parquet. A batch
that an earlier process archived and that comes again, as in a replay that goes on, is known by its id and left out.
Rows whose day cannot be believed (after tomorrow) stand in the folder of the null day, as Hive names it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from agent.core.accounts import Amounts
from agent.core.clock import MINUTE_NS, SECOND_NS, Clock
from agent.core.errors import DecodeError, SinkError
from agent.core.faults import faultpoint
from agent.core.finding import Notice
from agent.core.flow import FlowBatch
from agent.core.frames import claim
from agent.core.log import Log
from agent.core.stages import Context, SinkSettings
from sinks.parquet import (
    MOST_DAYS,
    BatchId,
    Filing,
    Part,
    Shape,
    by_day,
    day_folder,
    forget_old_days,
    held_by,
    need_room,
    pack,
    seal_leftover,
)

SYNC_EVERY_NS = 10 * SECOND_NS
"""A host that loses power loses at most so much."""


class Settings(Filing, SinkSettings):
    """Settings of the archive."""

    held_octets: int = Field(
        16 * 2**20, ge=0, description="Memory for compressed rows while the volume takes none"
    )

    def build(self, context: Context) -> Archive:
        """Make the sink; touches no file yet."""
        return Archive(self, self.directory or context.state_dir / "archive", context.clock, context.host)


@dataclass(frozen=True, slots=True)
class _Held:
    """One batch's rows of one day, ready to be journalled."""

    folder: str
    batch: BatchId
    frame: bytes
    rows: int


class Archive:
    """The archive sink. Not thread-safe: flows come from one thread."""

    takes_flows = True
    takes_notices = False

    def __init__(self, settings: Settings, directory: Path, clock: Clock, host: str) -> None:
        self.name = "archive"
        self.directory = directory
        self.refused = Amounts()
        """What was not taken because the volume took nothing and memory was full. It was decided all the same."""
        self.salvaged = 0
        """Leftover journals of killed runs that became Parquet."""
        self.trouble = ""
        """Why nothing is written now; empty while all is well."""
        self._settings = settings
        self._clock = clock
        self._host = host
        self._shape = Shape(settings.compression, settings.rows_per_group)
        self._parts: dict[str, Part] = {}
        self._before: dict[tuple[str, str], set[BatchId]] = {}
        """By folder and run: the batches that an earlier process archived there."""
        self._held: deque[_Held] = deque()
        self._held_octets = 0
        self._opened = False
        self._synced_ns = 0
        self._log = Log(part="archive")

    def write_flows(self, batch: FlowBatch) -> None:
        """Journal a batch. While the volume takes nothing, hold it in memory.

        Raises :class:`SinkError` (retriable) when memory is full too: then no row of the batch was taken, and they
        are counted in :attr:`refused`.
        """
        if not len(batch):
            return
        pieces = self._pieces(batch)
        self._attempt()
        octets = sum(len(piece.frame) for piece in pieces)
        if self.trouble and self._held_octets + octets > self._settings.held_octets:
            self.refused += batch.amounts()
            raise SinkError(f"{len(batch)} rows were not taken: {self.trouble}", retriable=True)
        self._held.extend(pieces)
        self._held_octets += octets
        if not self.trouble:
            self._attempt()

    def write_notice(self, notice: Notice) -> None:
        """Archives no notices."""
        raise SinkError("the archive takes flows only", retriable=False)

    def flush(self) -> None:
        """Make all that was taken outlast a loss of power. Raises :class:`SinkError` (retriable) if it cannot."""
        if self._opened or self._held:
            self._attempt(sync=True)
        if self.trouble:
            raise SinkError(f"{self._held_rows()} rows wait in memory: {self.trouble}", retriable=True)

    def close(self) -> None:
        """Turn every journal into Parquet. Raises :class:`SinkError` if rows in memory found no room: they are lost.

        A journal that cannot be turned stays for the next start.
        """
        if self._held:
            self._attempt()
        for folder in list(self._parts):
            self._seal(folder)
        for part in self._parts.values():
            part.leave()
        self._parts.clear()
        lost, self._held, self._held_octets = self._held_rows(), deque(), 0
        if lost:
            raise SinkError(
                f"{lost} rows found no room and are not archived: {self.trouble}", retriable=False
            )

    def _attempt(self, *, sync: bool = False) -> None:
        """Bring memory to the journals, turn those that are due; note the trouble, or its end."""
        try:
            self._open()
            if self._held:
                need_room(self.directory, self._settings.min_free)
            while self._held:
                self._journal(self._held[0])
                self._held_octets -= len(self._held.popleft().frame)
            now_ns = self._clock.monotonic_ns()
            if sync or not 0 <= now_ns - self._synced_ns < SYNC_EVERY_NS:
                self._synced_ns = now_ns
                for part in self._parts.values():
                    part.sync()
        except OSError as error:
            self._stopped(str(error))
            return
        if self.trouble:
            self._log.info("archive_resumed", directory=str(self.directory))
            self.trouble = ""
        for folder in [folder for folder, part in self._parts.items() if self._is_due(part)]:
            self._seal(folder)

    def _stopped(self, reason: str) -> None:
        if not self.trouble:
            self._log.error(
                "archive_stopped",
                directory=str(self.directory),
                reason=reason,
                setting="sinks.archive.min_free",
            )
        self.trouble = reason

    def _pieces(self, batch: FlowBatch) -> list[_Held]:
        """The batch by day, each piece packed."""
        host, batch_id = batch.header.host or self._host, batch.header.batch_id
        return [
            _Held(day_folder(day, host), batch_id, pack(rows), len(rows))
            for day, rows in by_day(batch.named(self._host), self._clock.now_ns())
        ]

    def _journal(self, piece: _Held) -> None:
        folder = piece.folder
        if folder not in self._parts and len(self._parts) >= MOST_DAYS:
            folder = day_folder(None, self._host)
        place, run = self.directory / "flows" / folder, piece.batch[1]
        if (folder, run) not in self._before:
            self._before[folder, run] = held_by(place, run)
        if piece.batch in self._before[folder, run]:
            return
        part = self._parts.get(folder)
        if part is None:
            if not place.is_dir():
                place.mkdir(parents=True)
                self._forget_old_days()
            part = self._parts[folder] = Part(place, run, self._clock.monotonic_ns())
        part.add(piece.frame, piece.rows)
        faultpoint("archive.after_journal")

    def _is_due(self, part: Part) -> bool:
        age_ns = self._clock.monotonic_ns() - part.opened_ns
        limit_ns = self._settings.minutes_per_file * MINUTE_NS
        return part.rows >= self._settings.rows_per_file or not 0 <= age_ns < limit_ns

    def _seal(self, folder: str) -> None:
        """Turn one journal into Parquet. If that fails it goes on growing and is tried again when next due."""
        part = self._parts[folder]
        try:
            part.seal(self._shape)
        except OSError as error:
            part.opened_ns = self._clock.monotonic_ns()
            self._stopped(str(error))
        else:
            del self._parts[folder]

    def _open(self) -> None:
        if self._opened:
            return
        flows = self.directory / "flows"
        flows.mkdir(parents=True, exist_ok=True, mode=0o750)
        for journal in sorted(flows.glob("day=*/host=*/.part-*.journal")):
            self._salvage(journal)
        self._opened = True

    def _salvage(self, journal: Path) -> None:
        held = claim(journal)
        if held is None:
            return  # another process writes it
        try:
            rows, cut = seal_leftover(journal, self._shape)
        except DecodeError as error:
            aside = journal.rename(journal.with_name(journal.name + ".bad"))
            self._log.error("archive_journal_unreadable", file=str(aside), reason=str(error))
        else:
            self.salvaged += 1
            self._log.warning("archive_salvaged", file=journal.name, rows=rows, octets_cut=cut)
        finally:
            held.close()

    def _forget_old_days(self) -> None:
        for day in forget_old_days(self.directory / "flows", self._settings.keep_days):
            self._log.info("archive_day_removed", day=day, setting="sinks.archive.keep_days")

    def _held_rows(self) -> int:
        return sum(piece.rows for piece in self._held)
