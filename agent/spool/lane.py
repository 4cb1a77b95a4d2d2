"""One lane of the spool: records in order, appended at one end, taken at the other, gone once acknowledged.

Each record is taken once and acknowledged once, in any order; what was taken and not acknowledged is taken again after
:meth:`Lane.rewind` or a restart. So a record is sent at least once. How far acknowledgements go is noted beside the
segments, at most a second late.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.core.accounts import Amounts
from agent.core.faults import faultpoint
from agent.core.log import Log
from agent.spool.segments import (
    OVERHEAD,
    RECORD_OVERHEAD,
    Segment,
    SegmentReader,
    SegmentWriter,
    Tally,
    inspect,
    number_of,
)

_LOG: Final = Log(part="spool")
_NOTE: Final = "acknowledged.json"


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was taken. ``number`` is its name within the lane."""

    lane: int
    number: int
    amounts: Amounts
    body: bytes


@dataclass(slots=True)
class _Place:
    """A place between two records: in which segment, at which offset, and the running sums up to there."""

    segment: int = 0
    offset: int = 0
    tally: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class _Flight:
    """Something taken: where the lane stands behind it, and whether it may go."""

    number: int
    tally: Tally
    behind: _Place
    done: bool
    lost: bool = False


class Lane:
    """One lane. Not thread-safe: :class:`agent.spool.spool.Spool` locks."""

    def __init__(self, folder: Path, lane: int, lost: Callable[[int, str, int, Tally], None]) -> None:
        """Find what an earlier run left. ``lost`` hears of records that cannot be read: lane, reason, number of the
        first, and how many. Raises ``OSError``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._lane, self._lost = folder, lane, lost
        self._writer: SegmentWriter | None = None
        self._reader: SegmentReader | None = None
        self._flights: deque[_Flight] = deque()
        self._answered: set[int] = set()
        """Numbers that were acknowledged and then rewound, because an earlier one was not."""
        self._done = _Place()
        self._segments: list[Segment] = []
        self._next, self._end = 1, Tally()
        self._take_up()
        self._read = self._start()
        self._said = (-1, -1, -1)
        """What the note on the disk says: place and next number."""

    # appending

    def fits(self, body: bytes) -> bool:
        """Whether a record goes into the segment that is open."""
        return self._writer is not None and self._writer.fits(body)

    def begin(self, octets: int) -> None:
        """Close the open segment and begin one with room for ``octets``. Raises ``OSError``."""
        self.end_segment()
        self._writer = SegmentWriter(self._folder, self._next, self._end, octets)
        self._next += 1

    def append(self, amounts: Amounts, body: bytes) -> None:
        """Add a record that fits, whole or not at all. Raises ``OSError``."""
        assert self._writer is not None
        self._writer.append(amounts, body)
        self._end = self._writer.end
        faultpoint("spool.after_append")

    def end_segment(self) -> None:
        """Close the open segment, so that what is in it may be dropped or removed. Raises ``OSError``."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            self._segments.append(writer.close())
        except OSError:
            # Without a foot all the same readable, and its sums are known here.
            self._segments.append(Segment(writer.path, writer.number, writer.begin, writer.end, writer.size))
            raise

    def sync(self) -> None:
        """Wait until everything is on the disk. Raises ``OSError``."""
        if self._writer is not None:
            self._writer.sync()

    # taking

    def take(self, most_octets: int) -> list[Record]:
        """The next records, in order: at least one if there is one, else as many as ``most_octets`` of bodies allow.

        Raises ``OSError``.
        """
        out: list[Record] = []
        octets = 0
        while octets < most_octets:
            end = self._open_next()
            if self._reader is None:
                return out
            for record in self._reader.records(end):
                at = self._read
                at.offset, at.tally = record.next_offset, at.tally + Tally(1, record.amounts)
                behind = _Place(at.segment, at.offset, at.tally)
                done = record.number in self._answered
                self._flights.append(_Flight(record.number, Tally(1, record.amounts), behind, done=done))
                if done:
                    self._answered.remove(record.number)
                    continue
                out.append(Record(self._lane, record.number, record.amounts, record.body))
                octets += len(record.body)
                if octets >= most_octets:
                    return out
            if not self._leave_segment():
                return out
        return out

    def acknowledge(self, number: int) -> Tally:
        """Let a taken record go; gives what left the lane by it: nothing while an earlier one is still out."""
        for flight in self._flights:
            if flight.number == number and not flight.lost:
                flight.done = True
                break
        left = Tally()
        while self._flights and self._flights[0].done:
            flight = self._flights.popleft()
            self._done = flight.behind
            if flight.lost:
                first = flight.behind.tally.records - flight.tally.records
                self._lost(self._lane, "spool_corrupt", first, flight.tally)
            else:
                left += flight.tally
        return left

    def rewind(self) -> None:
        """Take again everything that was not acknowledged, and nothing else."""
        self._answered.update(f.number for f in self._flights if f.done and f.number >= 0)
        self._flights.clear()
        self._shut_reader()
        self._read = self._start()

    def note(self) -> None:
        """Write down how far acknowledgements go, and remove the segments that are through. Raises ``OSError``."""
        place = self._done
        say = (place.segment, place.offset, self._next)
        if say == self._said:
            return
        text = json.dumps(
            {
                "segment": place.segment,
                "offset": place.offset,
                "tally": _plain(place.tally),
                "next": self._next,
                "end": _plain(self._end),
            }
        )
        try:
            self._write_note(text)
        except OSError:
            # The segments that are through may be all that fills the disk; what the note still says of them is sent twice.
            if not self._forget_done():
                raise
            self._write_note(text)
        self._said = say
        faultpoint("spool.after_note")
        self._forget_done()

    def _write_note(self, text: str) -> None:
        temporary = self._folder / f".{_NOTE}"
        temporary.write_text(text)
        temporary.replace(self._folder / _NOTE)

    # size

    def waiting(self) -> Tally:
        """What was appended and has not gone, taken or not."""
        total = Tally()
        for segment in (*self._segments, *self._open()):
            if segment.number > self._done.segment:
                total += segment.end - segment.begin
            elif segment.number == self._done.segment:
                total += segment.end - self._done.tally
        return total

    @property
    def octets(self) -> int:
        """What it takes on the disk, with the room set aside."""
        return sum(s.octets for s in self._segments) + (self._writer.octets if self._writer else 0)

    @property
    def octets_waiting(self) -> int:
        """Octets of segments behind what is acknowledged, without room set aside."""
        total = sum(s.octets for s in self._segments if s.number >= self._done.segment)
        total += self._writer.size if self._writer else 0
        return max(0, total - self._done.offset)

    @property
    def next_number(self) -> int:
        """The number that the next record gets."""
        return self._end.records

    def drop_oldest(self) -> Segment | None:
        """Remove the oldest segment of which nothing was taken yet; gives what it was, None if there is none."""
        for at, segment in enumerate(self._segments):
            if segment.number > self._read.segment:
                segment.path.unlink(missing_ok=True)
                del self._segments[at]
                return segment
        return None

    @property
    def droppable(self) -> int:
        """Octets that :meth:`drop_oldest` could free, all in all."""
        return sum(s.octets for s in self._segments if s.number > self._read.segment)

    def close(self) -> None:
        """Note what is acknowledged and let go of every file. Raises ``OSError``."""
        self._shut_reader()
        try:
            self.end_segment()
            self.note()
        finally:
            if self._writer is not None:
                self._writer.leave()

    # finding one's place

    def _take_up(self) -> None:
        """Find the segments of earlier runs, and how far acknowledgements went."""
        noted = self._noted()
        self._segments = self._found(noted.tally if noted else Tally())
        if noted:
            self._done = noted
        elif self._segments:
            self._done = _Place(self._segments[0].number, 0, self._segments[0].begin)
        if self._segments:
            last = self._segments[-1]
            self._next = max(self._next, last.number + 1)
            if last.end.records > self._end.records:  # appended to it after the note was written
                self._end = last.end
        self._forget_done()

    def _noted(self) -> _Place | None:
        """How far acknowledgements went, as the last run noted it; sets the next number and the lane's end too."""
        try:
            note = json.loads((self._folder / _NOTE).read_text())
            place = _Place(int(note["segment"]), int(note["offset"]), _tally(note["tally"]))
            self._next, self._end = int(note["next"]), _tally(note["end"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            _LOG.warning("spool_note_damaged", lane=self._lane, cost="what is left is sent again")
            return None
        return place

    def _found(self, end: Tally) -> list[Segment]:
        """The segments of earlier runs, in order. A head that cannot be read is taken from its neighbours."""
        numbered = sorted((n, p) for p in self._folder.iterdir() if (n := number_of(p)) is not None)
        out: list[Segment] = []
        unread: list[tuple[int, Path]] = []
        for number, path in numbered:
            segment = inspect(path, number)
            if segment is None:
                unread.append((number, path))
                continue
            out += self._damaged(unread, end, segment.begin)
            unread.clear()
            out.append(segment)
            end = segment.end
        return out + self._damaged(unread, end, end)

    def _damaged(self, unread: list[tuple[int, Path]], begin: Tally, end: Tally) -> list[Segment]:
        """Segments without a readable head; what they held is between their neighbours, all of it put on the last."""
        out = []
        for at, (number, path) in enumerate(unread):
            _LOG.error("spool_segment_damaged", file=path.name, lane=self._lane)
            upto = end if at == len(unread) - 1 else begin
            out.append(Segment(path, number, begin, upto, path.stat().st_size))
        return out

    def _start(self) -> _Place:
        """Where taking begins: behind what is acknowledged, or with the first segment after it."""
        return _Place(self._done.segment, self._done.offset, self._done.tally)

    def _open(self) -> list[Segment]:
        writer = self._writer
        if writer is None:
            return []
        return [Segment(writer.path, writer.number, writer.begin, writer.end, writer.octets)]

    def _open_next(self) -> int | None:
        """Have a reader at the place where reading goes on, if there is anything; gives up to where may be read."""
        writer = self._writer
        if self._reader is None:
            for segment in (*self._segments, *self._open()):
                if segment.number == self._read.segment:
                    self._reader = SegmentReader(segment.path, self._read.offset)
                    break
                if segment.number > self._read.segment:
                    self._read = _Place(segment.number, 0, segment.begin)
                    self._reader = SegmentReader(segment.path)
                    break
        return writer.size if writer is not None and writer.number == self._read.segment else None

    def _leave_segment(self) -> bool:
        """Go on behind a segment that was read to its end; False where it is still written."""
        segment = next((s for s in self._segments if s.number == self._read.segment), None)
        if segment is None:
            return False
        missing = segment.end - self._read.tally
        behind = _Place(segment.number + 1, 0, segment.end)
        self._flights.append(_Flight(-1, missing, behind, done=True, lost=bool(missing or missing.amounts)))
        if missing or missing.amounts:
            _LOG.error(
                "spool_segment_damaged", file=segment.path.name, lane=self._lane, records=missing.records
            )
        self._shut_reader()
        self._read = _Place(behind.segment, behind.offset, behind.tally)
        if len(self._flights) == 1 or all(flight.done for flight in self._flights):
            self.acknowledge(-1)
        return True

    def _shut_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _forget_done(self) -> bool:
        """Remove the segments that are acknowledged whole; False if there is none."""
        done = [s for s in self._segments if s.number < self._done.segment]
        for segment in done:
            segment.path.unlink(missing_ok=True)
            self._segments.remove(segment)
        return bool(done)


def octets_of(body: bytes) -> int:
    """Room that a segment of this one record needs."""
    return OVERHEAD + RECORD_OVERHEAD + len(body)


def _plain(tally: Tally) -> dict[str, int]:
    return {"records": tally.records, **tally.amounts.as_dict()}


def _tally(plain: dict[str, int]) -> Tally:
    records, flows, octets_out, octets_in = (
        int(plain[name]) for name in ("records", "flows", "octets_out", "octets_in")
    )
    return Tally(records, Amounts(flows, octets_out, octets_in))
