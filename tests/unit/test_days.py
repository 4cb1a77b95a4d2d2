"""The archive of many hosts: what was committed is there once, what was not is cut, whatever is left behind."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agent.core.clock import DAY_NS, MINUTE_NS, DataClock
from agent.core.flow import BatchHeader, FlowBatch
from agent.store.asking import Question
from agent.store.flows import ask, read_flows
from sinks.days import Days
from sinks.parquet import Filing, Part
from tests.tools.notices import START_NS
from tests.tools.rows import batch_of

DAY = "day=2026-11-17"


@pytest.fixture
def clock() -> DataClock:
    return DataClock(START_NS)


def _days(
    folder: Path, clock: DataClock, committed: Mapping[str, int] | None = None, **filing: object
) -> Days:
    made = Days(Filing.model_validate({"min_free": 0, **filing}), folder, clock)
    made.begin(committed or {})
    return made


def _batch(
    first: int, count: int = 2, *, host: str = "db-1", end_ns: int = START_NS, sequence: int = 0
) -> FlowBatch:
    header = BatchHeader(agent_id=f"a-{host}", run_id="0" * 32, lane=1, sequence=sequence, host=host)
    return batch_of([{"pid": n, "end_ns": end_ns} for n in range(first, first + count)], header)


def _rows(folder: Path) -> list[tuple[str, str, int]]:
    found = []
    for batch in read_flows(folder):
        hosts, agents = batch.text("agent_host").decode(), batch.text("agent_id").decode()
        found += list(zip(hosts, agents, batch["pid"].tolist(), strict=True))
    return sorted(found)


def test_rows_of_many_hosts_share_a_file_and_say_whose_they_are(tmp_path: Path, clock: DataClock) -> None:
    """Two hosts, one day: one Parquet file, in which host and agent stand in columns, from the journal on."""
    days = _days(tmp_path, clock)
    days.add([_batch(0), _batch(10, host="db-2")])
    wanted = [("db-1", "a-db-1", 0), ("db-1", "a-db-1", 1), ("db-2", "a-db-2", 10), ("db-2", "a-db-2", 11)]
    assert _rows(tmp_path) == wanted
    days.settled()
    days.finish_due(all_of_them=True)
    assert _rows(tmp_path) == wanted
    (file,) = tmp_path.rglob("*.parquet")
    assert file.parent == tmp_path / "flows" / DAY / "hosts=all"
    held = json.loads(pq.read_metadata(file).metadata[b"sekisho.batches"])
    assert [(h["agent"], h["sequences"]) for h in held] == [("a-db-1", [[0, 0]]), ("a-db-2", [[0, 0]])]
    assert pq.read_table(file).column("agent_host").to_pylist() == ["db-1", "db-1", "db-2", "db-2"]
    assert sum(map(len, ask(tmp_path, Question(texts={"agent_host": ("db-2",)})))) == 2
    days.close()


def test_what_was_not_committed_is_cut_at_the_start(tmp_path: Path, clock: DataClock) -> None:
    """Rows behind the committed sizes are gone after a crash, also those of a second day; the ones before are there once."""
    days = _days(tmp_path, clock)
    days.add([_batch(0)])
    committed = days.sizes()
    days.settled()
    days.add([_batch(10), _batch(20, end_ns=START_NS - DAY_NS)])
    days.close()
    again = _days(tmp_path, clock, committed)
    assert [pid for *_, pid in _rows(tmp_path)] == [0, 1]
    assert not list(tmp_path.rglob("*.journal"))
    again.add([_batch(10), _batch(20, end_ns=START_NS - DAY_NS)])
    assert [pid for *_, pid in _rows(tmp_path)] == [0, 1, 10, 11, 20, 21]
    again.close()


def test_a_write_that_fails_is_taken_back_whole(
    tmp_path: Path, clock: DataClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume that fills between two days of one batch leaves nothing of it; the next try writes it once."""
    days = _days(tmp_path, clock)
    days.add([_batch(0)])
    days.settled()
    add, calls = Part.add, Counter[str]()

    def full(self: Part, frame: bytes, rows: int) -> None:
        calls["add"] += 1
        if calls["add"] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, frame, rows)

    monkeypatch.setattr(Part, "add", full)
    turn = [_batch(10), _batch(20, end_ns=START_NS - DAY_NS)]
    with pytest.raises(OSError, match="No space"):
        days.add(turn)
    assert days.uncommitted
    days.undo()
    assert not days.uncommitted
    assert [pid for *_, pid in _rows(tmp_path)] == [0, 1]
    days.add(turn)
    days.settled()
    assert [pid for *_, pid in _rows(tmp_path)] == [0, 1, 10, 11, 20, 21]
    days.close()


def test_a_journal_that_turned_before_the_crash_is_not_turned_twice(tmp_path: Path, clock: DataClock) -> None:
    """Sizes of a journal that has become Parquet since the commit name nothing that is still there."""
    days = _days(tmp_path, clock)
    days.add([_batch(0)])
    committed = days.sizes()
    days.settled()
    days.finish_due(all_of_them=True)
    days.close()
    again = _days(tmp_path, clock, committed)
    assert ([pid for *_, pid in _rows(tmp_path)], again.missing_octets) == ([0, 1], 0)
    again.close()


def test_a_journal_shorter_than_committed_is_told(tmp_path: Path, clock: DataClock) -> None:
    """A disk that forgot what it had promised is counted, and what is left is kept."""
    days = _days(tmp_path, clock)
    days.add([_batch(0)])
    first = sum(days.sizes().values())
    days.add([_batch(10)])
    committed = days.sizes()
    days.close()
    (journal,) = tmp_path.rglob("*.journal")
    with journal.open("r+b") as file:
        file.truncate(first + 5)
    again = _days(tmp_path, clock, committed)
    assert [pid for *_, pid in _rows(tmp_path)] == [0, 1]
    assert again.missing_octets == sum(committed.values()) - first
    again.close()


def test_files_are_finished_by_rows_and_by_age_and_old_days_go(tmp_path: Path, clock: DataClock) -> None:
    """A file ends with so many rows or minutes; only the newest days stay."""
    days = _days(tmp_path, clock, rows_per_file=4, minutes_per_file=5, keep_days=1)
    days.add([_batch(0, end_ns=START_NS - DAY_NS), _batch(2, count=4, end_ns=START_NS - DAY_NS)])
    days.settled()
    days.finish_due()
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    days.add([_batch(10)])
    days.settled()
    days.finish_due()
    assert [f.parent.parent.name for f in tmp_path.rglob("*.parquet")] == []
    clock.set(START_NS + 6 * MINUTE_NS)
    days.finish_due()
    assert [f.parent.parent.name for f in tmp_path.rglob("*.parquet")] == [DAY]
    days.close()
