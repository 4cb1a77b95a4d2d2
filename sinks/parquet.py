"""One part of the archive: a journal of batches that becomes one Parquet file, and what all archives share.
A library of the archive, no sink.

Arrow is imported where it is used: it takes a twentieth of a second, and a replay without an archive needs none.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import numpy as np
import zstandard
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from agent.core.clock import DAY_NS, iso
from agent.core.errors import DecodeError
from agent.core.faults import faultpoint
from agent.core.flow import BatchHeader, FlowBatch, concat
from agent.core.frames import FrameFile, frames
from agent.core.grouping import distinct

NULL: Final = "__HIVE_DEFAULT_PARTITION__"
"""How Hive, Spark, DuckDB and Arrow name the folder of rows without a value."""

BatchId = tuple[str, str, int, int]
"""(agent id, run id, lane, sequence)."""

_BATCHES: Final = b"sekisho.batches"
_JOINED: Final = "batches "
"""What the position of a frame begins with that holds the rows of several batches; their ids follow, as JSON."""
FRAME_ROWS: Final = 50_000
"""Of several batches in one frame."""
_Whose = tuple[str, str, int, str]
"""Agent, run, lane, versions as JSON."""

MANY: Final = "hosts=all"
"""Folder, within a day, of the rows of many hosts; which host each is of stands in its column."""
MOST_DAYS: Final = 32
"""Days that are written at a time; rows of further days go to the null day, so that wild times make few files."""

LARGEST_BATCH: Final = 256 * 2**20
"""Octets of one unpacked batch; more is not ours."""


class Filing(BaseModel):
    """Settings of every archive: how its files are cut, and how long they stay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: Path | None = Field(None, description="Default: archive in state_dir")
    compression: Literal["zstd", "snappy", "none"] = Field("zstd", description="Of the Parquet files")
    rows_per_group: int = Field(65_536, ge=1, description="Rows that a reader takes or skips at a time")
    rows_per_file: int = Field(262_144, ge=1, description="A file is finished with so many rows")
    minutes_per_file: int = Field(15, ge=1, description="And at the latest after so many minutes")
    keep_days: int = Field(90, ge=1, description="Newest day folders that are kept; older ones are removed")
    min_free: float = Field(
        0.10, ge=0, lt=1, description="Stop while less than this share of the volume is free"
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """How Parquet is written."""

    compression: str
    rows_per_group: int


class Part:
    """A journal that grows, and the Parquet file it becomes. Not thread-safe."""

    def __init__(self, folder: Path, run: str, now_ns: int) -> None:
        """Begin a part in ``folder``. Raises ``OSError``."""
        self.opened_ns = now_ns
        self.rows = 0
        number = 0
        while True:
            stem = f"{_stem(run)}-{number:06d}"
            number += 1
            if (folder / f"{stem}.parquet").exists():
                continue
            try:
                self._journal = FrameFile(folder / f".{stem}.journal")
            except FileExistsError:
                continue
            return

    def add(self, frame: bytes, rows: int) -> None:
        """Append one packed batch, whole or not at all. Raises ``OSError``."""
        self._journal.append(frame)
        self.rows += rows

    @property
    def journal(self) -> Path:
        """Where the rows wait."""
        return self._journal.path

    @property
    def size(self) -> int:
        """Octets of the journal."""
        return self._journal.size

    def cut(self, size: int, rows: int) -> None:
        """Go back to what it was when it had so many octets and rows. Raises ``OSError``."""
        self._journal.cut(size)
        self.rows = rows

    def sync(self) -> None:
        """Bring the journal to the disk. Raises ``OSError``."""
        self._journal.sync()

    def seal(self, shape: Shape) -> None:
        """Turn the journal into Parquet and remove it. Raises ``OSError``; the journal is then as before."""
        _turn(self._journal.path, shape)
        self._journal.close()

    def leave(self) -> None:
        """Let go of the journal; the next start turns it."""
        self._journal.close()


def day_folder(day: str | None, host: str) -> str:
    """``day=2026-11-21/host=db-1``, as Hive names it. No host name leads out of its folder."""
    return f"day={day or NULL}/host={quote(host, safe='')[:200] or NULL}"


def by_day(batch: FlowBatch, now_ns: int) -> Iterator[tuple[str | None, FlowBatch]]:
    """The rows by UTC day of their end; None for days after tomorrow, before 1970, or beyond the newest so many."""
    days = batch["end_ns"] // DAY_NS
    seen = distinct(days)
    known = seen[(seen >= 0) & (seen <= now_ns // DAY_NS + 1)][-MOST_DAYS:]
    masks: dict[str | None, NDArray[np.bool_]] = {
        iso(day * DAY_NS)[:10]: days == day for day in known.tolist()
    }
    masks[None] = ~np.isin(days, known)
    for day, mask in masks.items():
        if mask.any():
            yield day, batch if mask.all() else batch.take(mask)


def need_room(directory: Path, min_free: float) -> None:
    """Raises ``OSError`` where less than this share of the volume is free."""
    usage = shutil.disk_usage(directory)
    if usage.free < usage.total * min_free:
        raise OSError(
            f"{directory}: {100 * usage.free / usage.total:.1f} % of the volume is free, less than min_free "
            f"({100 * min_free:g} %); free some room or lower it"
        )


def forget_old_days(flows: Path, keep_days: int) -> list[str]:
    """Remove all but the newest day folders; names of those removed. Raises ``OSError``."""
    old = sorted(flows.glob("day=[0-9]*"))[:-keep_days]
    for day in old:
        for file in day.glob("host*=*/part-*.parquet"):
            file.unlink(missing_ok=True)
        for folder in (*day.glob("host*=*"), day):
            if not any(folder.iterdir()):
                folder.rmdir()
    return [day.name for day in old]


def joined(batches: Sequence[FlowBatch]) -> Iterator[FlowBatch]:
    """The rows of many batches in few, with the ids of all: a frame of ten rows costs half as much as one of thousands."""
    groups: dict[str, list[list[FlowBatch]]] = {}
    for batch in batches:
        parts = groups.setdefault(json.dumps(dict(batch.header.versions), sort_keys=True), [[]])
        if parts[-1] and sum(map(len, parts[-1])) + len(batch) > FRAME_ROWS:
            parts.append([])
        parts[-1].append(batch)
    for part in (part for parts in groups.values() for part in parts):
        if len(part) == 1:
            yield part[0]
        else:
            ids = json.dumps([batch.header.batch_id for batch in part], separators=(",", ":"))
            header = BatchHeader(versions=part[0].header.versions, position=_JOINED + ids)
            yield concat(part).under(header)


def _ids_of(batch: FlowBatch) -> list[BatchId]:
    position = batch.header.position
    if not position.startswith(_JOINED):
        return [batch.header.batch_id]
    return [
        (str(agent), str(run), int(lane), int(n))
        for agent, run, lane, n in json.loads(position[len(_JOINED) :])
    ]


def pack(batch: FlowBatch) -> bytes:
    """A batch as the body of a frame: an Arrow IPC stream under zstd."""
    from agent.core import wire

    return zstandard.ZstdCompressor(level=1).compress(wire.encode(batch))


def batches(journal: Path) -> Iterator[FlowBatch]:
    """The batches of a journal, also while it grows. Raises ``OSError`` and :class:`DecodeError`."""
    from agent.core import wire

    for number, body in enumerate(frames(journal)):
        try:
            message = zstandard.ZstdDecompressor().decompress(body, max_output_size=LARGEST_BATCH)
        except zstandard.ZstdError as error:
            raise DecodeError(f"frame {number} is no zstd: {error}", source=str(journal)) from error
        yield wire.decode(message)


def parquet_of(journal: Path) -> Path:
    """The file that a journal becomes."""
    return journal.with_name(journal.name.removeprefix(".").removesuffix(".journal") + ".parquet")


def seal_leftover(journal: Path, shape: Shape) -> tuple[int, int]:
    """Turn a journal whose writer is gone into Parquet: (its rows, octets of a torn tail that were cut).

    One whose Parquet was finished but which was not yet removed gives the same Parquet once more. Raises ``OSError`` and :class:`DecodeError`; the journal then stays.
    """
    whole = sum(len(body) + 8 for body in frames(journal))
    cut = journal.stat().st_size - whole
    return _turn(journal, shape), cut


def _turn(journal: Path, shape: Shape) -> int:
    target = parquet_of(journal)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        rows = _write(journal, temporary, shape)
        if rows:
            _sync(temporary)
            faultpoint("archive.after_parquet")
            temporary.rename(target)
            _sync(target.parent)
            faultpoint("archive.after_rename")
    finally:
        temporary.unlink(missing_ok=True)
    journal.unlink()
    faultpoint("archive.after_unlink")
    return rows


def _write(journal: Path, target: Path, shape: Shape) -> int:
    import pyarrow.parquet as pq

    from agent.core import wire

    rows = 0
    taken: dict[_Whose, list[int]] = {}
    # Given a path, Arrow expands ~ in it and takes it for UTF-8.
    with (
        target.open("wb") as file,
        pq.ParquetWriter(file, wire.arrow_schema(), compression=shape.compression) as writer,
    ):
        for group in _groups(batches(journal), shape.rows_per_group, taken):
            writer.write_table(_table(group), row_group_size=shape.rows_per_group)
            rows += len(group)
        writer.add_key_value_metadata({_BATCHES.decode(): _ranges(taken)})
    return rows


def _table(rows: FlowBatch) -> Any:
    import pyarrow as pa

    from agent.core import wire

    table = pa.Table.from_batches([wire.to_arrow(rows)])
    return table.replace_schema_metadata(wire.arrow_schema().metadata)


def _groups(source: Iterator[FlowBatch], size: int, taken: dict[_Whose, list[int]]) -> Iterator[FlowBatch]:
    """Rows in groups of ``size``, the last one smaller; notes in ``taken`` whose they are."""
    waiting: list[FlowBatch] = []
    count = 0
    for batch in source:
        versions = json.dumps(dict(batch.header.versions), sort_keys=True)
        for agent, run, lane, sequence in _ids_of(batch):
            taken.setdefault((agent, run, lane, versions), []).append(sequence)
        waiting.append(batch)
        count += len(batch)
        while count >= size:
            joined = concat(waiting)
            yield joined.take(slice(0, size))
            waiting, count = [joined.take(slice(size, None))], count - size
    if count:
        yield concat(waiting)


def _ranges(taken: dict[_Whose, list[int]]) -> str:
    """Which sealed batches gave rows to the file: agent, run, lane, the sequences as [first, last], both included, and
    what their facts are from: each database, list and register with its version and hash."""
    rows = []
    for (agent, run, lane, versions), numbers in taken.items():
        row: dict[str, Any] = {"agent": agent, "run": run, "lane": lane, "sequences": _runs(numbers)}
        rows.append(row | ({"versions": json.loads(versions)} if versions != "{}" else {}))
    return json.dumps(rows)


def _runs(numbers: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs


def held_by(folder: Path, run: str) -> set[BatchId]:
    """The batches of a run that gave rows to the Parquet files of a folder. Raises ``OSError``.

    A file that cannot be read says nothing; whoever reads its rows is told.
    """
    held: set[BatchId] = set()
    files = list(folder.glob(f"{_stem(run)}-*.parquet"))
    if not files:
        return held
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            with file.open("rb") as opened:
                told = (pq.read_metadata(opened).metadata or {}).get(_BATCHES, b"[]")
            for part in json.loads(told):
                for first, last in part["sequences"] if part["run"] == run else ():
                    held |= {(part["agent"], run, part["lane"], n) for n in range(first, last + 1)}
        except (pa.ArrowException, ValueError, KeyError):
            continue
    return held


def _stem(run: str) -> str:
    return f"part-{quote(run[:12], safe='') or 'run'}"


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
