"""Copies of the state: made beside a running program, looked through, put back."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from pathlib import Path

import pytest

from agent.core.clock import DAY_NS, DataClock
from agent.core.decision import Decision, LedgerDay, LedgerRow
from agent.core.errors import StateError
from agent.store import keeping
from agent.store.database import SqliteDatabase, open_database
from agent.store.state import Commit, State
from tests.tools.program import sekisho

NOW_NS = 20_500 * DAY_NS
ROWS = 40


def row(number: int, **changed) -> LedgerRow:
    """A row of the ledger; ten processes share a day, store and network."""
    fields = {
        "day": 20_400 + number // 10, "tenant": "default", "store": f"store-{number // 20}",
        "categories": "personal_health", "entity": "as:64500", "asn": 64500, "as_org": "Example", "provider": "",
        "owner": "", "country": "JP", "process": f"program-{number % 10}", "initiator": "local", "vantage": "ebpf:all",
        "flows": 1, "octets_out": 1_040, "packets_out": 1, "octets_in": 40, "packets_in": 1,
        "content_octets_out": 1_000 + number, "late_octets": 0,
    }  # fmt: skip
    return LedgerRow(**fields | changed)


def commit(state: State, *rows: LedgerRow, number: int = 0) -> None:
    """One transaction with these rows."""
    batch = (("agent", "run", 1, number), bytes(32))
    state.commit(Commit(Decision(ledger=rows, delta=b"step"), "", NOW_NS, batches=(batch,)))


@pytest.fixture
def made(tmp_path: Path):
    """A state with forty rows, open as the runtime has it."""
    path = tmp_path / "state.db"
    with State.open(path, clock=DataClock(NOW_NS)) as state:
        commit(state, *(row(n) for n in range(ROWS)))
        commit(state, row(3, content_octets_out=5), number=1)
        yield path, state


def opened(path: Path) -> SqliteDatabase:
    """The file, for reading."""
    return open_database(path, create=False, whole=False, now_ns=NOW_NS, busy_timeout_s=1)


def told(path: Path) -> list[tuple]:
    """Everything of every table but who leads, and the epoch, which grows with each opening."""
    with sqlite3.connect(path) as connection:
        names = [
            n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
        ]
        kept = [n for n in names if n not in ("head", "leases", "sqlite_sequence")]
        return [(n, sorted(connection.execute(f'SELECT * FROM "{n}"'))) for n in kept]


def test_sums_by_day_are_those_of_the_rows(made):
    """Added row by row, they are what the ledger gives when all of it is summed."""
    _, state = made
    sums = defaultdict(int)
    for r in state.ledger.rows():
        sums[r.day, r.tenant, r.store, r.initiator, r.asn, r.as_org, r.provider, r.owner, r.country] += (
            r.content_octets_out
        )
    assert state.ledger.days(0) == [LedgerDay(*key, octets) for key, octets in sorted(sums.items())]
    assert (
        state.ledger.sent("default", "store-0", "as:64500", since_day=20_400, until_day=20_401)
        == sum(1_000 + n for n in range(20)) + 5
    )
    assert state.ledger.sent("default", "store-0", "as:64500", since_day=20_401, until_day=20_401) == sum(
        1_000 + n for n in range(10, 20)
    )
    assert state.ledger.sent("other", "store-0", "as:64500", since_day=0, until_day=99_999) == 0


def test_a_copy_holds_one_moment_while_the_program_goes_on(made, tmp_path):
    """What is committed afterwards is not in it; what was before is, to the row."""
    path, state = made
    before = told(path)
    seen = []
    manifest = keeping.backup(
        opened(path), tmp_path / "copy.db", now_ns=NOW_NS, progress=lambda a, b: seen.append((a, b))
    )
    commit(state, row(99), number=2)
    assert told(tmp_path / "copy.db") == before != told(path)
    assert manifest == keeping.Manifest.beside(tmp_path / "copy.db")
    assert (manifest.rows["ledger"], manifest.rows["ledger_days"], manifest.source) == (ROWS, 4, str(path))
    assert seen[-1][0] == seen[-1][1] > 0
    assert not list(tmp_path.glob("*.part"))
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600


def test_a_copy_replaces_another_only_if_told(made, tmp_path):
    """A slip of the name costs no copy."""
    path, _ = made
    keeping.backup(opened(path), tmp_path / "copy.db", now_ns=NOW_NS)
    with pytest.raises(StateError, match="is there already"):
        keeping.backup(opened(path), tmp_path / "copy.db", now_ns=NOW_NS)
    keeping.backup(opened(path), tmp_path / "copy.db", now_ns=NOW_NS + 1, overwrite=True)
    assert keeping.Manifest.beside(tmp_path / "copy.db").made_ns == NOW_NS + 1


def test_a_copy_that_is_put_back_is_the_state_as_it_was(made, tmp_path):
    """The next program finds what the copy holds, fences off whoever wrote before, and the old file lies beside it."""
    path, state = made
    copy = tmp_path / "copy.db"
    keeping.backup(opened(path), copy, now_ns=NOW_NS)
    as_it_was = told(path)
    commit(state, row(99), number=2)
    with pytest.raises(StateError, match="in use by another"):
        keeping.restore_file(copy, path, overwrite=True)
    later = told(path)
    state.close()
    with pytest.raises(StateError, match="say --overwrite"):
        keeping.restore_file(copy, path)
    assert told(path) == later
    keeping.restore_file(copy, path, overwrite=True)
    assert told(path) == as_it_was
    assert told(path.with_name("state.db" + keeping.BEFORE)) == later
    with State.open(path, clock=DataClock(NOW_NS)) as again:
        assert again.number == 2
        commit(again, row(99), number=2)
    assert told(path) == later


def test_a_copy_into_an_empty_place_needs_no_word(made, tmp_path):
    """On a new machine there is nothing to overwrite."""
    path, _ = made
    keeping.backup(opened(path), tmp_path / "copy.db", now_ns=NOW_NS)
    keeping.restore_file(tmp_path / "copy.db", tmp_path / "new/state.db")
    assert told(tmp_path / "new/state.db") == told(path)


@pytest.mark.parametrize("fault", ["cut", "flipped", "no list", "bad list", "missing"])
def test_a_copy_that_is_not_as_it_was_made_is_refused(made, tmp_path, fault):
    """Nothing of the state that is there is touched."""
    path, state = made
    copy = tmp_path / "copy.db"
    keeping.backup(opened(path), copy, now_ns=NOW_NS)
    state.close()
    before = told(path)
    whole = copy.read_bytes()
    {
        "cut": lambda: copy.write_bytes(whole[:-4096]),
        "flipped": lambda: copy.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]),
        "no list": keeping.manifest_of(copy).unlink,
        "bad list": lambda: keeping.manifest_of(copy).write_text("{}"),
        "missing": copy.unlink,
    }[fault]()
    with pytest.raises(StateError, match="copy"):
        keeping.restore_file(copy, path, overwrite=True)
    with pytest.raises(StateError, match="copy"):
        keeping.verify_copy(copy, now_ns=NOW_NS)
    assert told(path) == before


def faults(path: Path) -> dict[str, int]:
    """What does not hold."""
    database = opened(path)
    found = {c.name: c.faults for c in keeping.verify(database, now_ns=NOW_NS) if not c.holds}
    database.close()
    return found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("SELECT 1", {}),
        ("DELETE FROM ledger_days WHERE day = 20401", {"days_not_summed": 1, "pairs_without_days": 1}),
        ("UPDATE ledger SET content_octets_out = 0 WHERE process = 'program-0'",
         {"days_not_summed": 4, "days_without_rows": 4}),
        ("DELETE FROM ledger WHERE day = 20402", {"days_without_rows": 1}),
        ("DELETE FROM ledger_pairs WHERE day = 20401", {"pairs_not_summed": 1}),
        ("UPDATE ledger_pairs SET flows = flows + 1 WHERE day = 20400",
         {"pairs_not_summed": 1, "pairs_without_days": 1}),
        ("UPDATE ledger SET day = 29999 WHERE day = 20400; UPDATE ledger_days SET day = 29999 WHERE day = 20400;"
         "UPDATE ledger_pairs SET day = 29999 WHERE day = 20400",
         {"future": 10}),
        ("UPDATE ledger SET packets_in = -1 WHERE process = 'program-1'", {"amounts": 4}),
        ("UPDATE ledger SET entity = '' WHERE day = 20400; UPDATE ledger_days SET entity = '' WHERE day = 20400;"
         "UPDATE ledger_pairs SET entity = '' WHERE day = 20400",
         {"keys": 10}),
        ("INSERT INTO identities VALUES ('a', x'00', 'first', 0, '', 'db-1')", {"agents": 1}),
        ("INSERT INTO identities VALUES ('a', zeroblob(32), 'enrolled', 0, '', 'db-1');"
         "INSERT INTO ended_keys VALUES ('a', zeroblob(32), 1)", {"agents": 1}),
        ("INSERT INTO identities VALUES ('a', zeroblob(32), 'enrolled', 0, '', 'db-1')", {}),
    ],
)  # fmt: skip
def test_what_must_hold_of_the_ledger_is_looked_at(made, change, found):
    """Each check finds its own fault, and as many as there are."""
    path, _ = made
    with sqlite3.connect(path) as connection:
        connection.executescript(change)
    assert faults(path) == found


@pytest.mark.parametrize(
    ("version", "gone"),
    [(3, "DROP TABLE ledger_days; DROP TABLE ledger_pairs"), (4, "DROP TABLE ledger_pairs")],
)
def test_an_older_state_gets_its_sums_by_day(made, version, gone):
    """A database of an older version has them made from its ledger at the first start."""
    path, state = made

    def sums(of: State) -> tuple:
        asked = {"since_day": 20_400, "until_day": 20_402}
        return of.ledger.days(0), [
            of.ledger.sent("default", f"store-{n}", "as:64500", **asked) for n in (0, 1)
        ]

    before = sums(state)
    state.close()
    with sqlite3.connect(path) as connection:
        connection.executescript(f"{gone}; UPDATE head SET schema_version = {version}")
    with State.open(path, clock=DataClock(NOW_NS)) as again:
        assert sums(again) == before and all(before[1])
    assert faults(path) == {}


def test_the_commands_copy_verify_and_put_back(made, tmp_path):
    """As a person does it, with exit codes; JSON is one document, or a line for each check."""
    path, state = made
    state.close()
    copy = str(tmp_path / "monday.db")

    def run(*line: str):
        return sekisho("ledger", *line, home=tmp_path, state_dir=path.parent)

    copied = run("backup", copy, "--json")
    assert copied.code == 0, copied.text
    assert json.loads(copied.out)["rows"]["ledger"] == ROWS
    checks = [json.loads(line) for line in run("verify", copy, "--json").out.splitlines()]
    assert {c["name"] for c in checks if c["holds"]} >= {"counts", "pages", "days_not_summed", "agents"}
    assert run("backup", copy).code == 1
    assert run("restore", copy).code == 1
    assert run("restore", copy, "--overwrite").code == 0
    assert run("verify").code == 0
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM ledger_days")
    assert run("verify").code == 1
