"""The state file: what a commit writes, what a restart reads, and what is refused."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.clock import DAY_NS, DataClock
from agent.core.decision import Decision
from agent.core.errors import StateError
from agent.store import schema
from agent.store.retention import Retention
from agent.store.state import Commit, State
from tests.tools.faults import FakeDetector, ledger_row, tables, work
from tests.tools.notices import START_NS, case, event, finding, notice
from tests.tools.places import ROOT
from tests.tools.states import Place

CLOCK = DataClock(START_NS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def state(place: Place) -> Iterator[State]:
    with place.open(CLOCK) as opened:
        yield opened


def _commit(state: State, **fields: object) -> None:
    facts = {"decision": Decision(), "position": "", "now_ns": START_NS}
    state.commit(Commit(**(facts | fields)))  # type: ignore[arg-type]


def test_a_commit_is_read_back_whole(place: Place) -> None:
    """Snapshot, later deltas, sequences, position, number and last action are what the last run left."""
    detector = FakeDetector()
    with place.open(CLOCK) as first:
        for step in range(7):
            first.commit(replace(work(detector, step), last_action=step))
    with place.open(CLOCK) as second:
        restored = second.load()
    again = FakeDetector()
    again.restore(restored.snapshot, restored.deltas)
    assert (again.total, again.revisions) == (detector.total, detector.revisions)
    assert len(restored.deltas) == 2
    assert (restored.position, restored.number, restored.last_action) == ("6", 7, 6)
    assert [restored.taken.of(("agent", "run", lane)).text() for lane in (0, 1)] == ["0-3", "0-2"]


def test_an_empty_position_leaves_the_last_one(state: State) -> None:
    """A commit that moved nothing in its input keeps the position and the last action heard of."""
    _commit(state, position="17", last_action=3)
    _commit(state)
    restored = state.load()
    assert (restored.position, restored.last_action, restored.number) == ("17", 3, 2)


def test_a_batch_is_new_duplicate_or_in_conflict(state: State) -> None:
    """The same id is a duplicate, with other bytes a conflict; without bytes on either side the id decides."""
    _commit(state, batches=((("a", "r", 0, 1), b"x" * 32), (("a", "r", 0, 2), None)))
    asked = [
        ((("a", "r", 0, 1)), b"x" * 32),
        ((("a", "r", 0, 1)), b"y" * 32),
        ((("a", "r", 0, 1)), None),
        ((("a", "r", 0, 2)), b"y" * 32),
        ((("a", "r", 0, 3)), b"x" * 32),
        ((("a", "r", 1, 1)), b"x" * 32),
    ]
    assert [state.taken(*a) for a in asked] == [
        "duplicate",
        "conflict",
        "duplicate",
        "duplicate",
        "new",
        "new",
    ]


def test_a_batch_taken_before_is_refused(state: State, place: Place) -> None:
    """A commit that holds a duplicate writes nothing at all."""
    _commit(state, batches=((("a", "r", 0, 1), None),))
    before = place.tables()
    with pytest.raises(StateError, match="committed before"):
        _commit(state, batches=((("a", "r", 0, 2), None), (("a", "r", 0, 1), None)), position="9")
    assert place.tables() == before
    assert state.taken(("a", "r", 0, 2), None) == "new"


def test_an_older_revision_does_not_replace_a_newer_one(state: State) -> None:
    """Findings and cases only ever move to a higher revision."""
    _commit(state, decision=Decision(findings=(finding(revision=3),), cases=(case(revision=3),)))
    _commit(state, decision=Decision(findings=(finding(revision=2),), cases=(case(revision=2),)))
    assert state.cases.get_case("2026-1117-07") == case(revision=3)
    assert state.cases.findings_of() == [finding(revision=3)]


def test_the_ledger_adds(state: State) -> None:
    """Rows of one key add up; another process, day or entity is another row."""
    day = ledger_row("as:64500").day
    for _ in range(2):
        rows = (
            ledger_row("as:64500", octets=5),
            ledger_row("as:64500", octets=7, day=day + 2),
            ledger_row("as:64501", octets=100, late_octets=8),
        )
        _commit(state, decision=Decision(ledger=rows))
    sums = state.ledger.sums(since_day=day)
    assert [(s.key, s.days, s.first_day, s.last_day, s.content_octets_out, s.flows) for s in sums] == [
        (("ehr-main", "as:64501"), 1, day, day, 200, 2),
        (("ehr-main", "as:64500"), 2, day, day + 2, 24, 4),
    ]
    assert sums[0].late_octets == 16
    assert [s.content_octets_out for s in state.ledger.sums(("store",), since_day=day + 1)] == [14]
    assert state.ledger.days_observed("ehr-main") == 2
    assert state.ledger.first_seen("ehr-main", "as:64500") == day
    assert state.ledger.first_seen("ehr-main", "as:64999") is None
    assert [row.content_octets_out for row in state.ledger.rows(since_day=day + 1)] == [14]
    with pytest.raises(ValueError, match="not in the ledger's key: flows"):
        state.ledger.sums(("flows",))


def test_age_is_counted_in_days_of_running(state: State, place: Place) -> None:
    """Ledger, sequences and events older than so many days with a commit go; a clock ten years ahead removes nothing."""
    keep = Retention(sequences=2, digests=2, ledger=2, events=2)
    state._keep = keep
    for number, day in enumerate([100, 101, 101 + 3650]):
        row = ledger_row("as:64500", day=day)
        told = (event("run_started", number=number),)
        _commit(
            state,
            now_ns=day * DAY_NS,
            decision=Decision(ledger=(row,), notices=told),
            batches=((("a", f"r{number}", 0, 0), b"d" * 32),),
            notice_sinks=("paper",),
        )
        for delivery in state.deliveries.heads("paper"):
            state.deliveries.sent(delivery, day * DAY_NS)
    assert [row.day for row in state.ledger.rows()] == [101, 3751]
    found = place.tables()
    assert [row[1] for row in found["sequences"]] == ["r1", "r2"]
    assert [row[2] for row in found["streams"]] == ["r1", "r2"]
    assert [row[0] for row in found["fresh_digests"]] == [2, 3]
    assert len(found["notices"]) == 2
    assert [state.taken(("a", f"r{n}", 0, 0), None) for n in range(3)] == ["new", "duplicate", "duplicate"]


def test_a_second_runtime_is_refused(path: Path) -> None:
    """Only one program at a time; the message names the pid that holds the state."""
    with (
        State.open(path, clock=CLOCK),
        pytest.raises(StateError, match=rf"in use by another sekisho \(pid {os.getpid()}\)"),
    ):
        State.open(path, clock=CLOCK)


def test_the_role_is_free_after_closing(place: Place) -> None:
    """A closed state may be opened again; closing twice is harmless."""
    first = place.open(CLOCK)
    first.close()
    first.close()
    place.open(CLOCK).close()


def test_a_runtime_that_was_taken_over_writes_nothing(path: Path) -> None:
    """When the lock file was removed and another runtime opened the state, the older one's commit is refused."""
    state = State.open(path, clock=CLOCK)
    path.with_name("state.db.lock").unlink()
    with state, State.open(path, clock=CLOCK) as other:
        with pytest.raises(StateError, match="taken this state over"):
            _commit(state, position="old")
        _commit(other, position="new")
        assert other.load().position == "new"


def test_commands_read_while_the_runtime_commits(state: State, place: Place) -> None:
    """Reading and people's actions need no role and see each commit; a reader changes nothing."""
    _commit(state, decision=Decision(cases=(case(),)))
    with place.beside(CLOCK, read_only=True) as reader:
        assert [c.id for c in reader.cases.list_cases()] == ["2026-1117-07"]
        with pytest.raises(StateError, match="only the runtime commits"):
            _commit(reader)
        with pytest.raises(StateError, match="for reading only"):
            reader.cases.acknowledge("2026", "alice")
    with place.beside(CLOCK, read_only=False) as desk:
        desk.cases.acknowledge("2026", "alice")
    assert [a.who for a in state.actions_after(0)] == ["alice"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"just some text, long enough", "no state file of sekisho"),
        (b"SQLite format 3\0" + b"\xff" * 5000, "SQLITE_NOTADB|SQLITE_CORRUPT"),
    ],
)
def test_a_file_that_is_no_state_is_refused(path: Path, content: bytes, said: str) -> None:
    """Text and rubbish are refused by name with what to do, and stay as they are."""
    path.write_bytes(content)
    with pytest.raises(StateError, match=said) as refused:
        State.open(path, clock=CLOCK)
    assert str(path) in str(refused.value)
    assert "keep the file aside" in str(refused.value)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(path: Path) -> None:
    """An SQLite file that is not ours gets no tables of ours."""
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE places (id)")
    foreign.close()
    with pytest.raises(StateError, match="belongs to another program"):
        State.open(path, clock=CLOCK)


def test_a_damaged_page_is_found_at_the_start(path: Path) -> None:
    """A page overwritten in the middle of the file is told before anything is read from it."""
    with State.open(path, clock=CLOCK) as state:
        for octets in range(200):
            _commit(state, decision=Decision(delta=b"x" * 2000, ledger=(ledger_row(f"as:{octets}"),)))
    with path.open("r+b") as file:
        file.seek(4096 * 30)
        file.write(b"\xa5" * 4096 * 20)
    with pytest.raises(StateError, match="damaged") as refused:
        State.open(path, clock=CLOCK)
    assert str(path) in str(refused.value)


def test_a_newer_state_is_refused_politely(path: Path) -> None:
    """A file of a later version names both versions and stays as it is."""
    State.open(path, clock=CLOCK).close()
    with sqlite3.connect(path) as later:
        later.execute("UPDATE head SET schema_version = 99")
    later.close()
    with pytest.raises(StateError, match=f"state version 99, this one knows {schema.SCHEMA_VERSION}"):
        State.open(path, clock=CLOCK)


@pytest.mark.parametrize("how", [{"create": False}, {"read_only": True}, {"people": True}])
def test_a_missing_state_is_told_and_not_made(path: Path, how: dict[str, bool]) -> None:
    """Commands that only look make no file."""
    with pytest.raises(StateError, match="there is no state yet"):
        State.open(path, clock=CLOCK, **how)  # type: ignore[arg-type]
    assert not path.exists()


def test_a_locked_file_is_told_and_the_commit_may_be_tried_again(path: Path) -> None:
    """Another process that keeps the file locked makes a commit fail whole; afterwards the same commit succeeds."""
    with State.open(path, clock=CLOCK, busy_timeout_s=0.05) as state:
        detector = FakeDetector()
        state.commit(work(detector, 0))
        before, again = tables(path), work(detector, 1)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateError, match="another process keeps the file locked"):
            state.commit(again)
        other.execute("ROLLBACK")
        other.close()
        assert tables(path) == before
        state.commit(again)
        assert state.load().position == "1"


def test_a_full_database_is_told_and_the_commit_may_be_tried_again(path: Path) -> None:
    """'database or disk is full' in the middle of a commit undoes all of it; with room it succeeds."""
    with State.open(path, clock=CLOCK) as state:
        _commit(state, position="1")
        before = tables(path)
        pages = state._database.run_alone("PRAGMA page_count")
        connect = state._database._connect

        def small() -> sqlite3.Connection:
            connection = connect()
            connection.execute(f"PRAGMA max_page_count = {pages}")
            return connection

        state._database._connect = small  # type: ignore[method-assign]
        state._database._writing = state._database._engine("BEGIN IMMEDIATE")
        big = Commit(
            decision=Decision(delta=b"x" * 100_000, ledger=(ledger_row("as:64500"),)),
            position="2",
            now_ns=START_NS,
            batches=((("a", "r", 0, 0), None),),
        )
        with pytest.raises(StateError, match="no room is left on its volume"):
            state.commit(big)
        assert tables(path) == before
        state._database._connect = connect  # type: ignore[method-assign]
        state._database._writing = state._database._engine("BEGIN IMMEDIATE")
        state.commit(big)
        assert (state.load().position, len(state.ledger.rows())) == ("2", 1)


LIMITED = """
import resource, sys
from pathlib import Path
from agent.core.errors import StateError
from agent.store.state import Commit, State
from agent.core.decision import Decision
from agent.core.clock import DataClock
path = Path(sys.argv[1])
with State.open(path, clock=DataClock(0)) as state:
    state.commit(Commit(decision=Decision(delta=b"a" * 1000), position="1", now_ns=0))
    big = Commit(decision=Decision(delta=b"b" * 3_000_000), position="2", now_ns=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        state.commit(big)
    except StateError as error:
        print(error)
    print(state.load().position)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    state.commit(big)
    print(state.load().position)
"""


def test_a_limit_on_file_size_is_told_and_the_commit_may_be_tried_again(path: Path) -> None:
    """A write that the kernel cuts off (ulimit -f, quota) fails whole; once lifted, the same commit succeeds."""
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    said, before, after = done.stdout.splitlines()
    assert "the disk or a limit (quota, ulimit -f) refused it" in said
    assert (before, after) == ("1", "2")


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A state_dir that runs through a file is refused with its name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"file/state\.db"):
        State.open(tmp_path / "file" / "state.db", clock=CLOCK)


def test_versions_are_kept_where_they_change(place: Place) -> None:
    """What was in force is written once per change, also over a restart."""
    for policy in ("1", "1", "2", "2"):
        with place.open(CLOCK) as state:
            _commit(state, versions={"policy": policy})
    assert [row[0] for row in place.tables()["versions"]] == [1, 3]


def test_a_notice_is_queued_once_per_sink(state: State) -> None:
    """The same notice queued again, in a commit or outside, stays one; another kind of the same case is another."""
    told = (notice(), event(), event(file="other"))
    _commit(state, decision=Decision(cases=(case(),), notices=told), notice_sinks=("paper", "stone"))
    state.deliveries.post(told, ("paper", "stone"), START_NS)
    assert [len(state.deliveries.heads(sink)) for sink in ("paper", "stone", "none")] == [3, 3, 0]
