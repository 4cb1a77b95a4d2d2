"""JSON lines: every column and fact, whole lines only."""

from __future__ import annotations

import errno
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from agent.core.accounts import Accounts
from agent.core.errors import SinkError
from agent.core.finding import Notice
from agent.core.flow import COLUMNS, BatchHeader, FlowBatch, Kind
from agent.core.stages import Context
from agent.words.escape import is_harmless
from sinks.jsonl import JsonLines, Settings, flow_lines, notice_line
from tests.tools import notices
from tests.tools.rows import BATCHES, batch_of

FULL = Path("/dev/full")


def sink(path: Path | str, **settings: Any) -> JsonLines:
    return Settings(file=str(path), **settings).build(Context(accounts=Accounts(), state_dir=Path("unused")))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def rfc3339(time_ns: int) -> str:
    whole = datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{time_ns % 10**9:09d}Z"


# what a line holds


def test_a_flow_line_holds_every_column() -> None:
    """A row becomes one object with every column by name, null as null, times to the nanosecond."""
    header = BatchHeader(agent_id="a1", run_id="r1")
    batch = batch_of(
        [{"process": 'a"b\n%s', "local_port": None, "start_ns": 1_700_000_000_123_456_789, "store": "医療"}],
        header,
    )
    row = json.loads(flow_lines(batch))
    assert list(row) == ["record", "run_id", *(c.name for c in COLUMNS)]
    assert (row["record"], row["agent_id"], row["run_id"]) == ("flow", "a1", "r1")
    assert (row["process"], row["local_port"], row["store"]) == ('a"b\n%s', None, "医療")
    assert (row["local_address"], row["start_ns"]) == ("192.0.2.1", "2023-11-14T22:13:20.123456789Z")


@settings(deadline=None)
@given(BATCHES)
def test_lines_equal_the_rows(batch: FlowBatch) -> None:
    """Whatever the columns hold, the parsed lines are the batch's rows."""
    parsed = [json.loads(line) for line in flow_lines(batch).decode().split("\n") if line]
    times = [c.name for c in COLUMNS if c.kind is Kind.TIME]
    wanted = [row | {name: rfc3339(row[name]) for name in times} for row in batch.named().rows()]
    names = {c.name for c in COLUMNS}
    assert [{k: v for k, v in row.items() if k in names} for row in parsed] == wanted


def test_no_rows_make_no_line() -> None:
    """An empty batch writes nothing."""
    assert flow_lines(FlowBatch.empty()) == b""


@pytest.mark.parametrize("notice", [notices.opened(), notices.unverified(), notices.event()])
def test_a_notice_line_can_be_read_back(notice: Notice) -> None:
    """A notice's line holds its id and every field."""
    values = json.loads(notice_line(notice))
    assert (values.pop("record"), values.pop("id")) == ("notice", notice.id)
    assert Notice.model_validate(values) == notice


# where it goes


def test_flows_and_notices_are_appended(tmp_path: Path) -> None:
    """What is written comes after what was there, in order."""
    path = tmp_path / "out.jsonl"
    path.write_text('{"old":1}\n')
    out = sink(path)
    out.write_flows(batch_of([{}, {}]))
    out.write_notice(notices.event())
    out.close()
    assert [row.get("record", "old") for row in lines(path)] == ["old", "flow", "flow", "notice"]


def test_building_opens_nothing(tmp_path: Path) -> None:
    """The file appears with the first line, readable by its owner alone."""
    path = tmp_path / "out.jsonl"
    out = sink(path)
    assert not path.exists()
    out.write_flows(batch_of([{}]))
    out.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_torn_line_is_ended_first(tmp_path: Path) -> None:
    """Half a line that a crash left stays alone; the next line begins on its own."""
    path = tmp_path / "out.jsonl"
    path.write_text('{"torn":')
    out = sink(path)
    out.write_notice(notices.event())
    out.close()
    torn, whole = path.read_text("utf-8").splitlines()
    assert (torn, json.loads(whole)["record"]) == ('{"torn":', "notice")


def test_dash_is_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """The file - writes to standard output."""
    out = sink("-")
    out.write_flows(batch_of([{}]))
    out.close()
    assert json.loads(capfd.readouterr().out)["record"] == "flow"


VERSIONS = {"country": "dbip-country-lite 2026-09-01 sha256:0123456789ab", "policy": "fbe6cf32de26"}


def versioned(versions: dict[str, str]) -> FlowBatch:
    return batch_of([{}, {}], BatchHeader(agent_id="a1", run_id="r1", versions=versions))


def test_what_facts_are_from_is_told_once_in_each_file(tmp_path: Path) -> None:
    """Each file holds a line of versions before the first flow that names it: after a change, in a file that was
    renamed by others, and after a restart."""
    path = tmp_path / "out.jsonl"
    out = sink(path)
    for versions in (VERSIONS, VERSIONS, {**VERSIONS, "policy": "0"}, VERSIONS):
        out.write_flows(versioned(versions))
    path.rename(tmp_path / "moved.jsonl")
    out.write_flows(versioned(VERSIONS))
    out.close()
    again = sink(path)
    again.write_flows(versioned(VERSIONS))
    again.close()
    kinds = {f.name: "".join(row["record"][0] for row in lines(f)) for f in tmp_path.iterdir()}
    assert kinds == {"moved.jsonl": "vffffvffff", "out.jsonl": "vffvff"}
    seen = {}
    for file in tmp_path.iterdir():
        known = {row["id"]: row["versions"] for row in lines(file) if row["record"] == "versions"}
        seen[file.name] = [known[row["versions"]] for row in lines(file) if row["record"] == "flow"]
    other = {**VERSIONS, "policy": "0"}
    assert seen == {"moved.jsonl": [VERSIONS] * 4 + [other] * 2 + [VERSIONS] * 2, "out.jsonl": [VERSIONS] * 4}


def test_a_rotated_file_begins_with_the_versions_it_needs(tmp_path: Path) -> None:
    """Rotation by size never parts a flow from the line that its versions name."""
    path = tmp_path / "out.jsonl"
    out = sink(path, rotate_octets=3 * len(flow_lines(versioned(VERSIONS))) // 2, keep=5)
    for _ in range(4):
        out.write_flows(versioned(VERSIONS))
    out.close()
    assert [[row["record"] for row in lines(f)] for f in sorted(tmp_path.iterdir())] == [
        ["versions", "flow", "flow"]
    ] * 4


def test_a_full_file_makes_room_by_renaming(tmp_path: Path) -> None:
    """Past the size a new file begins; at most the given number of old ones stay, newest first."""
    path = tmp_path / "out.jsonl"
    size = len(notice_line(notices.event("n0")))
    out = sink(path, rotate_octets=2 * size, keep=2)
    for i in range(9):
        out.write_notice(notices.event(f"n{i}"))
    out.close()
    names = {f.name: [row["event"]["name"] for row in lines(f)] for f in sorted(tmp_path.iterdir())}
    assert names == {"out.jsonl": ["n8"], "out.jsonl.1": ["n6", "n7"], "out.jsonl.2": ["n4", "n5"]}


def test_a_file_renamed_by_another_program_is_opened_anew(tmp_path: Path) -> None:
    """After another program moved the file away, lines go to a new one of the old name."""
    path = tmp_path / "out.jsonl"
    out = sink(path)
    out.write_notice(notices.event("before"))
    path.rename(tmp_path / "moved.jsonl")
    out.write_notice(notices.event("after"))
    out.close()
    assert [row["event"]["name"] for row in lines(path)] == ["after"]


# faults


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_may_pass() -> None:
    """No space left is a fault that may be tried again."""
    with pytest.raises(SinkError, match="free some space") as caught:
        sink(FULL).write_flows(batch_of([{}]))
    assert caught.value.retriable is True


def test_a_write_cut_by_a_full_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When space ends in the middle of a write, the file is as it was before; later lines are whole again."""
    path = tmp_path / "out.jsonl"
    out = sink(path)
    out.write_notice(notices.event("first"))
    real, calls = os.write, []

    def half(fd: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(fd, bytes(data)[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(SinkError):
        patched.setattr(os, "write", half)
        out.write_notice(notices.event("second"))
    out.write_notice(notices.event("third"))
    out.close()
    assert (len(calls), [row["event"]["name"] for row in lines(path)]) == (2, ["first", "third"])


def test_a_missing_folder_does_not_pass(tmp_path: Path) -> None:
    """A path that cannot exist is a fault that names it and is not tried again."""
    with pytest.raises(SinkError, match="look at the path") as caught:
        sink(tmp_path / "none" / "out.jsonl").write_notice(notices.event())
    assert caught.value.retriable is False


def test_lines_on_standard_output_command_no_terminal() -> None:
    """DEL, C1 escapes and turned letters of a process's name leave as ``\\uXXXX``, and read back as they were."""
    name = "a\x7fb\x9b31m\u202ec医"
    text = flow_lines(batch_of([{"process": name}])).decode()
    assert is_harmless(text.removesuffix("\n"))
    assert (json.loads(text)["process"], "医" in text) == (name, True)
