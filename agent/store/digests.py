"""SHA-256 of every batch that came as bytes: by it a batch that comes again is told from another one under the same id.

Many agents send one message each, so a row for each message would be nearly all overhead. A commit writes one row with all
of its digests (*fresh*). What lies there of one stream becomes, once it is enough, rows of blocks: of so many numbers in a
row of the stream, behind a short number that stands for (agent, run, lane). Both happen in the commit itself, a little in
each, and depend on nothing but what was committed: a start after a crash goes on alike.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import sqlalchemy as sa

from agent.store import schema
from agent.store.database import Database
from agent.store.sequences import BatchId, Stream

BLOCK_BITS: Final = 4
"""16 numbers make a block: more of them would not fit into a page of SQLite's index."""
MOST_FRESH: Final = 131_072
"""Digests in rows of commits, of all streams; beyond, those of the oldest commits are made blocks."""
MOST_OF_STREAM: Final = 64
"""Of one stream."""
_FRESH: Final = struct.Struct("<QQ32s")
"""Number of the stream, sequence, digest; in memory: number of the commit, sequence, digest."""
_SLOT: Final = struct.Struct("<B32s")
"""Place in the block, digest."""
_KNOWN: Final = sa.select(schema.digest_blocks.c.body).where(
    schema.digest_blocks.c.stream == sa.bindparam("number"),
    schema.digest_blocks.c.block == sa.bindparam("place"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """What one commit changes; made by :meth:`Digests.step`, told to :meth:`Digests.committed`."""

    number: int
    streams: dict[Stream, int] = field(default_factory=dict)
    """Those that are new."""
    fresh: dict[int, bytes] = field(default_factory=dict)
    """Stream -> what was added to it."""
    folded: dict[int, bytes] = field(default_factory=dict)
    """Stream -> all that lay fresh of it, with what was added."""
    emptied: tuple[int, ...] = ()
    """Commits of which nothing is fresh any more."""


class Digests:
    """What is known of digests. Read from the database when it is first asked. Not thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read = False
        self._numbers: dict[Stream, int] = {}
        self._next = 1
        self._fresh: dict[int, bytearray] = {}
        self._rows: dict[int, set[int]] = {}
        """Commit -> streams of which digests lie fresh in its row; oldest first."""
        self._count = 0

    def known(self, batch_id: BatchId) -> bytes | None:
        """The digest under which a batch was taken; None where none is kept."""
        self._begin()
        number, sequence = self._numbers.get(batch_id[:3]), batch_id[3]
        if number is None:
            return None
        for _, at, digest in _FRESH.iter_unpack(self._fresh.get(number, b"")):
            if at == sequence:
                return bytes(digest)
        asked = {"number": number, "place": sequence >> BLOCK_BITS}
        with self._database.read() as connection:
            for body in connection.execute(_KNOWN, asked).scalars():
                for slot, digest in _SLOT.iter_unpack(body):
                    if slot == sequence & (1 << BLOCK_BITS) - 1:
                        return bytes(digest)
        return None

    def step(self, number: int, batches: Sequence[tuple[BatchId, bytes | None]]) -> Step:
        """What commit ``number`` writes for these batches."""
        came = [(batch_id, digest) for batch_id, digest in batches if digest is not None]
        if not came:
            return Step(number)
        self._begin()
        streams: dict[Stream, int] = {}
        added: dict[int, bytearray] = {}
        for batch_id, digest in came:
            stream = batch_id[:3]
            place = self._numbers.get(stream) or streams.get(stream)
            if place is None:
                place = streams[stream] = self._next + len(streams)
            added.setdefault(place, bytearray()).extend(_FRESH.pack(number, batch_id[3], digest))
        folded = self._due(added)
        commits = {at for entries in folded.values() for at, _, _ in _FRESH.iter_unpack(entries)}
        emptied = [at for at in sorted(commits - {number}) if self._rows[at] <= folded.keys()]
        fresh = {place: bytes(entries) for place, entries in added.items() if place not in folded}
        return Step(number, streams, fresh, folded, tuple(emptied))

    def committed(self, step: Step) -> None:
        """That is durable."""
        self._numbers.update(step.streams)
        self._next += len(step.streams)
        for place in step.folded:
            self._count -= len(self._fresh.pop(place, b"")) // _FRESH.size
        for entries in step.folded.values():
            for at, _, _ in _FRESH.iter_unpack(entries):
                if at in self._rows:
                    self._rows[at] -= step.folded.keys()
        for at in step.emptied:
            del self._rows[at]
        for place, entries in step.fresh.items():
            self._fresh.setdefault(place, bytearray()).extend(entries)
            self._count += len(entries) // _FRESH.size
        if step.fresh:
            self._rows[step.number] = set(step.fresh)

    def forget(self) -> None:
        """Something was removed for its age: what is left is read anew."""
        self._read = False

    def _due(self, added: dict[int, bytearray]) -> dict[int, bytes]:
        """Streams whose digests are made blocks now, with all of them."""
        count = self._count + sum(map(len, added.values())) // _FRESH.size
        due: dict[int, bytes] = {}

        def fold(place: int) -> int:
            due[place] = bytes(self._fresh.get(place, b"")) + bytes(added.get(place, b""))
            return len(due[place]) // _FRESH.size

        for place, entries in added.items():
            if len(self._fresh.get(place, b"")) + len(entries) >= MOST_OF_STREAM * _FRESH.size:
                count -= fold(place)
        for places in self._rows.values():
            if count <= MOST_FRESH:
                break
            count -= sum(fold(place) for place in sorted(places) if place not in due)
        return due

    def _begin(self) -> None:
        if self._read:
            return
        s, f = schema.streams.c, schema.fresh_digests.c
        with self._database.read() as connection:
            rows = connection.execute(sa.select(s.agent_id, s.run_id, s.lane, s.number, s.folded)).all()
            kept = connection.execute(sa.select(f.commit_no, f.body).order_by(f.commit_no)).all()
        self._numbers = {(agent, run, lane): number for agent, run, lane, number, _ in rows}
        folded = {number: upto for *_, number, upto in rows}
        self._next = max(self._numbers.values(), default=0) + 1
        self._fresh, self._rows, self._count = {}, {}, 0
        for commit, body in kept:
            places = self._rows[commit] = set()
            for place, sequence, digest in _FRESH.iter_unpack(body):
                if folded.get(place, commit) < commit:
                    self._fresh.setdefault(place, bytearray()).extend(_FRESH.pack(commit, sequence, digest))
                    places.add(place)
                    self._count += 1
        self._read = True


def put_step(connection: sa.Connection, step: Step, day: int) -> None:
    """Write what a commit changes."""
    if step.streams:
        names = ("agent_id", "run_id", "lane")
        rows = [
            {**dict(zip(names, s, strict=True)), "number": n, "folded": -1} for s, n in step.streams.items()
        ]
        connection.execute(schema.streams.insert(), rows)
    if step.fresh:
        body = b"".join(
            _FRESH.pack(place, sequence, digest)
            for place, entries in step.fresh.items()
            for _, sequence, digest in _FRESH.iter_unpack(entries)
        )
        connection.execute(
            schema.fresh_digests.insert(), {"commit_no": step.number, "body": body, "day": day}
        )
    if blocks := [row for place, entries in step.folded.items() for row in _blocks(place, entries)]:
        connection.execute(
            schema.digest_blocks.insert(), [{**row, "commit_no": step.number, "day": day} for row in blocks]
        )
        upto = sa.update(schema.streams).where(schema.streams.c.number == sa.bindparam("place"))
        connection.execute(upto.values(folded=step.number), [{"place": place} for place in step.folded])
    if step.emptied:
        gone = sa.delete(schema.fresh_digests).where(schema.fresh_digests.c.commit_no == sa.bindparam("gone"))
        connection.execute(gone, [{"gone": at} for at in step.emptied])


def drop_streams(connection: sa.Connection, gone: Iterable[Stream]) -> None:
    """Streams of which nothing is remembered any more, and so no digest either."""
    s = schema.streams.c
    for agent, run, lane in gone:
        mine = sa.and_(s.agent_id == agent, s.run_id == run, s.lane == lane)
        connection.execute(sa.delete(schema.streams).where(mine))


def _blocks(place: int, entries: bytes) -> Iterator[dict[str, Any]]:
    found = sorted((sequence, digest) for _, sequence, digest in _FRESH.iter_unpack(entries))
    for block, members in groupby(found, lambda one: one[0] >> BLOCK_BITS):
        slots = (_SLOT.pack(at & (1 << BLOCK_BITS) - 1, digest) for at, digest in members)
        yield {"stream": place, "block": block, "body": b"".join(slots)}
