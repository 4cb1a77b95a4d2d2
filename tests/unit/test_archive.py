"""The archive: every row once, in the folder of its day, whatever the disk does."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.core import wire
from agent.core.accounts import Accounts, Amounts
from agent.core.clock import DAY_NS, MINUTE_NS, DataClock
from agent.core.errors import SinkError, StateError
from agent.core.flow import BatchHeader, FlowBatch
from agent.core.frames import FrameFile, claim, frames
from agent.core.stages import Context
from agent.store.flows import read_flows
from sinks.archive import Archive, Settings
from sinks.parquet import pack
from tests.tools.notices import START_NS, notice
from tests.tools.rows import ROW, batch_of

DAY = "day=2026-11-17"


class Room(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def clock() -> DataClock:
    return DataClock(START_NS)


@pytest.fixture
def make(tmp_path: Path, clock: DataClock) -> Callable[..., Archive]:
    def build(**settings: Any) -> Archive:
        context = Context(Accounts(), tmp_path, clock, host="db-1")
        return Settings(**({"min_free": 0} | settings)).build(context)

    return build


def _batch(first: int, count: int = 1, *, end_ns: int = START_NS, sequence: int = 0, **row: Any) -> FlowBatch:
    header = BatchHeader(agent_id="agent", run_id="0123456789abcdef", lane=1, sequence=sequence)
    return batch_of([{"pid": n, "end_ns": end_ns, **row} for n in range(first, first + count)], header)


def _pids(directory: Path, **question: Any) -> list[int]:
    return [pid for batch in read_flows(directory, **question) for pid in batch["pid"].tolist()]


def _files(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


@settings(max_examples=40)
@given(rows=st.lists(ROW, min_size=1, max_size=6))
def test_rows_come_back_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    """Any row of the schema, of any time, comes back equal from journal and from Parquet."""
    folder = tmp_path_factory.mktemp("archive")
    sink = Settings(min_free=0).build(Context(Accounts(), folder, DataClock(START_NS), host="db-1"))
    batch = batch_of(rows)
    sink.write_flows(batch)
    wanted = sorted(map(repr, batch.named("db-1").rows()))
    assert sorted(repr(row) for b in read_flows(folder / "archive") for row in b.rows()) == wanted
    sink.close()
    assert sorted(repr(row) for b in read_flows(folder / "archive") for row in b.rows()) == wanted


def test_rows_are_filed_by_the_day_of_their_end(make: Callable[..., Archive], tmp_path: Path) -> None:
    """UTC day of end_ns and host make the folders, as Hive names them; files carry run and number."""
    sink = make()
    last_ns = START_NS - START_NS % DAY_NS + DAY_NS - 1
    sink.write_flows(_batch(1, end_ns=last_ns))
    sink.write_flows(_batch(2, end_ns=last_ns + 1).with_header(host="a/../b"))
    sink.close()
    assert _files(tmp_path) == [
        f"archive/flows/{DAY}/host=db-1/part-0123456789ab-000000.parquet",
        "archive/flows/day=2026-11-18/host=a%2F..%2Fb/part-0123456789ab-000000.parquet",
    ]
    table = pads.dataset(tmp_path / "archive/flows", partitioning="hive").to_table(
        columns=["day", "host", "pid"]
    )
    assert sorted(table.to_pylist(), key=lambda row: row["pid"]) == [
        {"day": "2026-11-17", "host": "db-1", "pid": 1},
        {"day": "2026-11-18", "host": "a/../b", "pid": 2},
    ]


def test_a_file_has_the_schema_and_says_whose_rows_it_holds(
    make: Callable[..., Archive], tmp_path: Path
) -> None:
    """The Arrow schema with its meanings, zstd, row groups of the size set, and the batches in the file's metadata."""
    sink = make(rows_per_group=4)
    for sequence in (3, 4, 6):
        sink.write_flows(_batch(sequence * 10, 3, sequence=sequence))
    sink.close()
    (file,) = (tmp_path / "archive").rglob("*.parquet")
    found = pq.ParquetFile(file)
    assert found.schema_arrow.equals(wire.arrow_schema(), check_metadata=False)
    assert found.schema_arrow.field("octets_out").metadata[b"unit"] == b"octets"
    groups = [found.metadata.row_group(n) for n in range(found.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [4, 4, 1]
    assert groups[0].column(0).compression == "ZSTD"
    assert json.loads(found.metadata.metadata[b"sekisho.batches"]) == [
        {"agent": "agent", "run": "0123456789abcdef", "lane": 1, "sequences": [[3, 4], [6, 6]]}
    ]
    found.close()


def test_a_file_appears_only_whole(make: Callable[..., Archive], clock: DataClock, tmp_path: Path) -> None:
    """Until its time or its rows are full a part is a journal, which readers see and other tools do not."""
    sink = make(rows_per_file=10, minutes_per_file=2)
    sink.write_flows(_batch(0, 9))
    journal = f"{DAY}/host=db-1/.part-0123456789ab-000000.journal"
    assert _files(tmp_path / "archive/flows") == [journal]
    assert pads.dataset(tmp_path / "archive/flows", format="parquet").count_rows() == 0
    assert len(_pids(tmp_path / "archive")) == 9
    sink.write_flows(_batch(9, 1))
    assert _files(tmp_path / "archive/flows") == [f"{DAY}/host=db-1/part-0123456789ab-000000.parquet"]
    sink.write_flows(_batch(10, 1))
    clock.set(clock.now_ns() + 2 * MINUTE_NS)
    sink.flush()
    assert [name[-14:] for name in _files(tmp_path / "archive/flows")] == ["000000.parquet", "000001.parquet"]
    assert sorted(_pids(tmp_path / "archive")) == list(range(11))
    sink.close()


def test_a_batch_that_comes_again_after_a_restart_is_left_out(
    make: Callable[..., Archive], tmp_path: Path
) -> None:
    """What an earlier process archived is known by its batch id, journal or Parquet; a batch in part is completed."""
    both_days = batch_of(
        [{"pid": 1, "end_ns": START_NS}, {"pid": 2, "end_ns": START_NS + DAY_NS}],
        BatchHeader(agent_id="agent", run_id="0123456789abcdef", lane=1, sequence=7),
    )
    first = make()
    first.write_flows(_batch(10, 3, sequence=3))
    first.close()
    killed = make()
    killed.write_flows(_batch(20, 3, sequence=4))
    killed.write_flows(both_days.take(slice(0, 1)))
    for part in killed._parts.values():
        part.leave()
    again = make()
    for sequence in (3, 4, 5):
        again.write_flows(_batch((sequence - 2) * 10, 3, sequence=sequence))
    again.write_flows(both_days)
    again.write_flows(_batch(40, sequence=3, end_ns=START_NS).with_header(agent_id="other"))
    again.close()
    pids = sorted(_pids(tmp_path / "archive"))
    assert pids == [1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40]


def test_a_leftover_of_a_killed_run_is_salvaged(make: Callable[..., Archive], tmp_path: Path) -> None:
    """The next start turns a journal that nobody holds into Parquet, cuts a torn tail, and says so."""
    killed = make()
    killed.write_flows(_batch(0, 5))
    killed.write_flows(_batch(5, 5))
    (journal,) = (tmp_path / "archive").rglob(".*.journal")
    left = journal.read_bytes() + pack(_batch(10))[:40]
    for part in killed._parts.values():
        part.leave()
    journal.write_bytes(left)
    journal.with_name(".part-0123456789ab-000000.parquet.tmp").write_bytes(b"half a file")
    sink = make()
    with capture_logs() as logs:
        sink.write_flows(_batch(20, sequence=1))
    assert [(e["event"], e["rows"], e["octets_cut"]) for e in logs] == [("archive_salvaged", 10, 40)]
    assert sink.salvaged == 1
    sink.close()
    assert sorted(_pids(tmp_path / "archive")) == [*range(10), 20]
    assert [name[-14:] for name in _files(tmp_path / "archive/flows")] == ["000000.parquet", "000001.parquet"]


def test_a_journal_that_lives_is_left_alone(make: Callable[..., Archive], tmp_path: Path) -> None:
    """Two programs may write one archive: neither takes the other's journal for a leftover."""
    one, other = make(), make()
    one.write_flows(_batch(0))
    other.write_flows(_batch(1))
    one.write_flows(_batch(2))
    assert (other.salvaged, sorted(_pids(tmp_path / "archive"))) == (0, [0, 1, 2])
    one.close()
    other.close()
    assert sorted(_pids(tmp_path / "archive")) == [0, 1, 2]


def test_a_journal_that_cannot_be_read_is_put_aside(make: Callable[..., Archive], tmp_path: Path) -> None:
    """A whole frame that holds no batch is kept under another name and told; archiving goes on."""
    folder = tmp_path / "archive/flows" / DAY / "host=db-1"
    folder.mkdir(parents=True)
    bad = FrameFile(folder / ".part-x-000000.journal")
    bad.append(b"no zstd")
    bad.close()
    with pytest.raises(StateError, match=r"part-x-000000\.journal.*move it away"):
        _pids(tmp_path / "archive")
    sink = make()
    with capture_logs() as logs:
        sink.write_flows(_batch(1))
    sink.close()
    assert [e["event"] for e in logs] == ["archive_journal_unreadable"]
    assert _pids(tmp_path / "archive") == [1]
    assert (folder / ".part-x-000000.journal.bad").exists()


def test_a_full_volume_stops_the_archive_and_nothing_else(
    make: Callable[..., Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the free share rows wait in memory; what memory cannot hold is refused and counted; with room all is written."""
    free = 50

    def usage(_path: Path) -> Room:
        return Room(100, 100 - free, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    octets = len(pack(_batch(0, 5)))
    sink = make(min_free=0.10, held_octets=int(octets * 2.5))
    sink.write_flows(_batch(0, 5))
    free = 9
    with capture_logs() as logs:
        sink.write_flows(_batch(5, 5))
        sink.write_flows(_batch(10, 5))
        with pytest.raises(
            SinkError, match=r"5 rows were not taken: .*9.0 % of the volume is free"
        ) as refused:
            sink.write_flows(_batch(15, 5))
    assert refused.value.retriable
    assert [(e["event"], e["setting"]) for e in logs] == [("archive_stopped", "sinks.archive.min_free")]
    assert sink.refused == Amounts(5, 5000, 2500)
    with pytest.raises(SinkError, match="10 rows wait in memory"):
        sink.flush()
    assert sorted(_pids(tmp_path / "archive")) == list(range(5))
    free = 10
    with capture_logs() as logs:
        sink.flush()
    assert [e["event"] for e in logs] == ["archive_resumed"]
    sink.write_flows(_batch(20))
    sink.close()
    assert sorted(_pids(tmp_path / "archive")) == [*range(15), 20]


def test_rows_that_find_no_room_to_the_end_are_told(
    make: Callable[..., Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing on a full volume says how many rows are lost from the archive."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Room(100, 100, 0))
    sink = make(min_free=0.10)
    sink.write_flows(_batch(0, 7))
    with pytest.raises(SinkError, match="7 rows found no room") as lost:
        sink.close()
    assert not lost.value.retriable
    sink.close()


@pytest.mark.parametrize("failing", ["append", "seal"])
def test_a_disk_error_loses_nothing(
    make: Callable[..., Archive],
    clock: DataClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:
    """'No space left on device' while journalling or while making Parquet leaves every row for the next try."""
    sink = make(rows_per_file=4)
    sink.write_flows(_batch(0, 3))

    def full(*_args: Any, **_more: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(*(("os.pwrite", full) if failing == "append" else ("sinks.parquet._write", full)))
        sink.write_flows(_batch(3, 2))
        assert "No space left" in sink.trouble
    clock.set(clock.now_ns() + 20 * MINUTE_NS)
    sink.write_flows(_batch(5))
    assert sink.trouble == ""
    sink.close()
    assert sorted(_pids(tmp_path / "archive")) == list(range(6))
    assert not list((tmp_path / "archive").rglob(".*"))


def test_days_after_tomorrow_and_before_1970_make_no_folders(
    make: Callable[..., Archive], clock: DataClock, tmp_path: Path
) -> None:
    """Times that cannot be believed go to the null day, and are found by time all the same."""
    sink = make()
    far_ns = START_NS + 3650 * DAY_NS
    sink.write_flows(_batch(1, end_ns=far_ns))
    sink.write_flows(_batch(2, end_ns=-5))
    sink.write_flows(_batch(3, end_ns=START_NS + DAY_NS))
    sink.close()
    folders = sorted(p.name for p in (tmp_path / "archive/flows").iterdir())
    assert folders == ["day=2026-11-18", "day=__HIVE_DEFAULT_PARTITION__"]
    assert _pids(tmp_path / "archive", since_ns=far_ns) == [1]
    assert sorted(_pids(tmp_path / "archive", limit=9)) == [1, 2, 3]
    assert _pids(tmp_path / "archive", limit=2) == [1, 3]


def test_a_thousand_days_at_once_open_few_files(make: Callable[..., Archive], tmp_path: Path) -> None:
    """Rows of ever other days fill 32 folders and the null day, no more, and none is lost."""
    sink = make()
    sink.write_flows(batch_of([{"pid": n, "end_ns": START_NS - n * DAY_NS} for n in range(1000)]))
    sink.write_flows(
        batch_of([{"pid": 1000 + n, "end_ns": START_NS - (200 + n) * DAY_NS} for n in range(100)])
    )
    assert len(list((tmp_path / "archive/flows").iterdir())) <= 33
    sink.close()
    assert sorted(_pids(tmp_path / "archive")) == list(range(1100))
    assert _pids(tmp_path / "archive", limit=40) == list(range(40))


def test_the_oldest_days_are_removed(make: Callable[..., Archive], clock: DataClock, tmp_path: Path) -> None:
    """Only the newest day folders are kept; what is not ours in an old one stays."""
    sink = make(keep_days=3, minutes_per_file=1)
    for day in range(5):
        sink.write_flows(_batch(day, end_ns=START_NS - (5 - day) * DAY_NS))
        clock.set(clock.now_ns() + MINUTE_NS)
        sink.flush()
        if day == 0:
            (tmp_path / "archive/flows/day=2026-11-12/note.txt").write_text("mine")
    sink.close()
    name = "host=db-1/part-0123456789ab-000000.parquet"
    assert _files(tmp_path / "archive/flows") == [
        "day=2026-11-12/note.txt",
        f"day=2026-11-14/{name}",
        f"day=2026-11-15/{name}",
        f"day=2026-11-16/{name}",
    ]
    assert sorted(p.name[-2:] for p in (tmp_path / "archive/flows").iterdir()) == ["12", "14", "15", "16"]


def test_flows_are_asked_for_by_time_store_and_remote(make: Callable[..., Archive], tmp_path: Path) -> None:
    """[since, until), one store, one network: from journal and Parquet alike; columns left out are null."""
    sink = make(rows_per_file=5)
    for n, (store, remote) in enumerate(
        [("a", "203.0.113.7"), ("b", "203.0.113.200"), (None, "198.51.100.1"), ("a", "2001:db8::1")] * 2
    ):
        sink.write_flows(_batch(n, end_ns=START_NS + n, store=store, remote_address=remote))
    directory = tmp_path / "archive"
    for _ in range(2):
        assert sorted(_pids(directory, since_ns=START_NS + 2, until_ns=START_NS + 6)) == [2, 3, 4, 5]
        assert sorted(_pids(directory, store="a")) == [0, 3, 4, 7]
        assert sorted(_pids(directory, remote=ipaddress.ip_network("203.0.113.0/25"))) == [0, 4]
        assert sorted(_pids(directory, remote=ipaddress.ip_network("2001:db8::/32"), store="a")) == [3, 7]
        assert _pids(directory, limit=3) == [7, 6, 5]
        assert _pids(directory, limit=3, until_ns=START_NS + 5) == [4, 3, 2]
        assert _pids(directory, store="none") == []
        sink.close()
    (first, *_) = read_flows(directory, columns=["pid"], store="b")
    assert [(row["pid"], row["process"], row["octets_out"], row["store"]) for row in first.rows()] == [
        (1, None, 1000, "b")
    ]
    with pytest.raises(ValueError, match="no such column: payload"):
        list(read_flows(directory, columns=["payload"]))


def test_a_reader_beside_the_writer_sees_each_row_once(
    make: Callable[..., Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that becomes Parquet between the reader's two looks is neither missed nor read twice."""
    sink = make()
    sink.write_flows(_batch(0, 4))
    rows = read_flows(tmp_path / "archive")
    seen = next(rows)["pid"].tolist()
    sink.close()
    assert seen + [pid for batch in rows for pid in batch["pid"].tolist()] == [0, 1, 2, 3]


def test_a_folder_without_an_archive_is_told(tmp_path: Path) -> None:
    """Asking where nothing was ever archived is an error, not an empty answer."""
    with pytest.raises(StateError, match="there is no archive here"):
        list(read_flows(tmp_path))


def test_a_damaged_file_is_named(make: Callable[..., Archive], tmp_path: Path) -> None:
    """A Parquet file that cannot be read is named with what to do."""
    sink = make()
    sink.write_flows(_batch(0))
    sink.close()
    (file,) = (tmp_path / "archive").rglob("*.parquet")
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(StateError, match=r"part-0123456789ab-000000\.parquet: cannot be read"):
        list(read_flows(tmp_path / "archive"))


def test_the_archive_takes_no_notices(make: Callable[..., Archive]) -> None:
    """It says so, and a notice offered all the same is refused for good."""
    sink = make()
    assert (sink.takes_flows, sink.takes_notices) == (True, False)
    with pytest.raises(SinkError, match="flows only"):
        sink.write_notice(notice())


def test_half_a_write_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system takes half a frame and then no more, the file is as before and the next frame follows the last."""
    file = FrameFile(tmp_path / "f")
    file.append(b"one")
    write, calls = os.pwrite, [0]

    def half(handle: int, data: memoryview, offset: int) -> int:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(28, "No space left on device")
        return write(handle, data[:9], offset)

    with monkeypatch.context() as broken:
        broken.setattr("os.pwrite", half)
        with pytest.raises(OSError, match="No space"):
            file.append(b"a longer one")
    assert (tmp_path / "f").stat().st_size == file.size == 11
    file.append(b"two")
    file.close()
    assert list(frames(tmp_path / "f")) == [b"one", b"two"]


@pytest.mark.parametrize("cut", range(0, 24, 3))
def test_a_torn_frame_is_no_frame(tmp_path: Path, cut: int) -> None:
    """Of a file cut anywhere, or with a flipped bit, the whole frames before come out and nothing else."""
    file = FrameFile(tmp_path / "f")
    for body in (b"one", b"2", b"three"):
        file.append(body)
    file.sync()
    assert claim(tmp_path / "f") is None
    file.close()
    whole = (tmp_path / "f").read_bytes()
    ends = {11: [b"one"], 20: [b"one", b"2"], 33: [b"one", b"2", b"three"]}
    (tmp_path / "f").write_bytes(whole[: len(whole) - cut])
    kept = max((end for end in ends if end <= len(whole) - cut), default=0)
    assert list(frames(tmp_path / "f")) == ends.get(kept, [])
    (tmp_path / "f").write_bytes(whole[:-1] + b"X")
    assert list(frames(tmp_path / "f")) == [b"one", b"2"]
    with pytest.raises(FileExistsError):
        FrameFile(tmp_path / "f")
    held = claim(tmp_path / "f")
    assert held is not None
    held.close()
