"""The spool: nothing is let go unless it is counted, whatever happens to the process or to the files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.core.accounts import Amounts
from agent.core.errors import StateError
from agent.spool.segments import Tally
from agent.spool.spool import LANES, Limits, Spool

ROOMY = Limits(most_octets=64 * 2**20, min_free_octets=0)
TIGHT = Limits(most_octets=6 * 64 * 2**10, min_free_octets=0)
"""Six segments of the smallest size."""


def amounts(of: int) -> Amounts:
    """Amounts that tell one record from another."""
    return Amounts(1, 1000 + of, of)


def body(of: int, octets: int = 200) -> bytes:
    """A body that tells one record from another."""
    return of.to_bytes(8, "big") + bytes(octets - 8)


def which(taken: bytes) -> int:
    """The inverse of :func:`body`."""
    return int.from_bytes(taken[:8], "big")


def kill(spool: Spool) -> None:
    """As a kill -9 leaves it: nothing is flushed, noted or closed, but the lock is gone."""
    os.close(spool._held)
    for lane in spool._lanes.values():
        lane._shut_reader()
        if lane._writer is not None:
            os.close(lane._writer._file._file)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "spool"


def test_what_was_appended_is_taken_in_order_and_goes_when_acknowledged(folder: Path) -> None:
    """Records come out as they went in, and leave only by an acknowledgement."""
    spool = Spool(folder, ROOMY)
    for i in range(5):
        assert spool.append(1, amounts(i), body(i))
    taken = spool.take(1, 10_000)
    assert [(which(r.body), r.amounts) for r in taken] == [(i, amounts(i)) for i in range(5)]
    assert spool.take(1, 10_000) == []
    assert spool.waiting() == Tally(5, sum(map(amounts, range(5)), Amounts()))
    assert spool.acknowledge(taken[1]) == Tally()
    assert spool.acknowledge(taken[0]) == Tally(2, amounts(0) + amounts(1))
    assert spool.waiting(1) == Tally(3, amounts(2) + amounts(3) + amounts(4))
    spool.close()


def test_what_was_not_acknowledged_comes_again_after_a_restart(folder: Path) -> None:
    """A restart hands out exactly what had no acknowledgement, and says how much it found."""
    spool = Spool(folder, ROOMY)
    for i in range(4):
        spool.append(0, amounts(i), body(i))
    first = spool.take(0, 10_000)
    spool.acknowledge(first[0])
    spool.close()
    again = Spool(folder, ROOMY)
    assert again.inherited == Tally(3, amounts(1) + amounts(2) + amounts(3))
    assert [which(r.body) for r in again.take(0, 10_000)] == [1, 2, 3]
    again.close()


def test_after_a_kill_at_most_what_was_acknowledged_lately_comes_twice(folder: Path) -> None:
    """Without a note of the acknowledgements everything is taken again, and nothing is missing."""
    spool = Spool(folder, ROOMY)
    for i in range(4):
        spool.append(1, amounts(i), body(i))
    for record in spool.take(1, 500):
        spool.acknowledge(record)
    kill(spool)
    again = Spool(folder, ROOMY)
    assert [which(r.body) for r in again.take(1, 10_000)] == [0, 1, 2, 3]
    assert again.append(1, amounts(9), body(9))
    assert [which(r.body) for r in again.take(1, 10_000)] == [9]
    again.close()


def test_what_came_after_a_note_survives_several_kills(folder: Path) -> None:
    """Records appended since the last note keep their numbers, and no later life gives one of them anew."""
    lives = ((0, 1, 2), (3, 4), (5,))
    for records in lives:
        spool = Spool(folder, ROOMY)
        assert spool.next_number(0) == records[0]
        for i in records:
            spool.append(0, amounts(i), body(i))
            if i == records[0]:
                spool.note()
        kill(spool)
    again = Spool(folder, ROOMY)
    taken = again.take(0, 10_000)
    assert [(which(r.body), r.number) for r in taken] == [(i, i) for i in range(6)]
    assert (again.dropped(), again.next_number(0)) == ({}, 6)
    again.close()


def test_rewind_takes_again_what_is_not_acknowledged(folder: Path) -> None:
    """After a broken connection the same records come again, those acknowledged do not."""
    spool = Spool(folder, ROOMY)
    for i in range(3):
        spool.append(1, amounts(i), body(i))
    spool.acknowledge(spool.take(1, 10_000)[0])
    spool.rewind()
    assert [which(r.body) for r in spool.take(1, 10_000)] == [1, 2]
    spool.close()


def test_what_was_acknowledged_out_of_turn_does_not_come_again(folder: Path) -> None:
    """One record is refused while those behind it are taken: after the connection is made anew only it comes again."""
    spool = Spool(folder, ROOMY)
    for i in range(4):
        spool.append(1, amounts(i), body(i))
    first, second, third, _ = spool.take(1, 10_000)
    left = [spool.acknowledge(first), spool.acknowledge(third)]
    for _ in range(2):
        spool.rewind()
        again = spool.take(1, 10_000)
        assert [which(r.body) for r in again] == [1, 3]
    left += [spool.acknowledge(record) for record in again]
    assert left == [Tally(1, amounts(0)), Tally(), Tally(2, amounts(1) + amounts(2)), Tally(1, amounts(3))]
    assert (spool.waiting(), second.number) == (Tally(), 1)
    spool.close()


def test_take_gives_no_more_than_asked_for(folder: Path) -> None:
    """Memory is bounded by what the taker asks for, never by what waits."""
    spool = Spool(folder, ROOMY)
    for i in range(1000):
        spool.append(0, amounts(i), body(i, 1000))
    assert [len(spool.take(0, 5_000)) for _ in range(3)] == [5, 5, 5]
    assert len(spool.take(0, 1)) == 1
    spool.close()


def test_segments_that_are_through_leave_the_disk(folder: Path) -> None:
    """What is acknowledged takes no room once it is noted."""
    spool = Spool(folder, TIGHT)
    for i in range(300):
        spool.append(1, amounts(i), body(i, 1000))
    before = len(list(folder.rglob("*.segment")))
    while records := spool.take(1, 50_000):
        for record in records:
            spool.acknowledge(record)
    spool.note()
    assert (before, len(list(folder.rglob("*.segment")))) == (5, 1)
    assert spool.octets == 65536
    assert spool.waiting() == Tally()
    spool.close()
    again = Spool(folder, TIGHT)
    assert again.inherited == Tally()
    again.close()


def test_without_room_the_oldest_of_the_others_goes_first(folder: Path) -> None:
    """Rows of stores push out the rest; each record that goes is counted, and none goes besides."""
    spool = Spool(folder, TIGHT)
    for i in range(200):
        spool.append(0, amounts(i), body(i, 1000))
    for i in range(200, 500):
        assert spool.append(1, amounts(i), body(i, 1000))
    dropped = spool.dropped()
    left = [which(r.body) for lane in LANES for r in spool.take(lane, 10**9)]
    assert set(dropped) == {"spool_full"}
    assert dropped["spool_full"].records + len(left) == 500
    assert [i for i in left if i >= 200] == list(range(200, 500))
    assert dropped["spool_full"].amounts + sum(map(amounts, left), Amounts()) == sum(
        map(amounts, range(500)), Amounts()
    )
    spool.close()


def test_the_rest_never_pushes_out_rows_of_stores(folder: Path) -> None:
    """A full spool of store rows lets the other lane's new rows go."""
    spool = Spool(folder, TIGHT)
    kept = [i for i in range(340) if spool.append(1, amounts(i), body(i, 1000))]
    assert not spool.append(0, amounts(999), body(999, 1000))
    assert spool.dropped() == {"spool_full": Tally(1, amounts(999))}
    assert [which(r.body) for r in spool.take(1, 10**9)] == kept
    spool.close()


def test_policy_newest_keeps_what_is_there(folder: Path) -> None:
    """With ``newest`` a full spool takes nothing more in."""
    spool = Spool(folder, Limits(TIGHT.most_octets, 0, "newest"))
    kept = [i for i in range(1000) if spool.append(0, amounts(i), body(i, 1000))]
    assert kept == list(range(len(kept)))
    assert spool.dropped() == {
        "spool_full": Tally(1000 - len(kept), sum(map(amounts, range(len(kept), 1000)), Amounts()))
    }
    spool.close()


def test_what_is_in_flight_is_never_dropped(folder: Path) -> None:
    """A record that was taken stays until it is acknowledged, however full the spool becomes."""
    spool = Spool(folder, TIGHT)
    spool.append(0, amounts(0), body(0, 1000))
    taken = spool.take(0, 1)
    for i in range(1, 1000):
        spool.append(0, amounts(i), body(i, 1000))
    spool.rewind()
    assert which(spool.take(0, 1)[0].body) == which(taken[0].body) == 0
    spool.close()


def test_too_large_a_record_is_counted(folder: Path) -> None:
    """A record over 64 MiB is let go by name."""
    spool = Spool(folder, ROOMY)
    assert not spool.append(1, amounts(1), bytes(64 * 2**20))
    assert spool.dropped() == {"record_too_large": Tally(1, amounts(1))}
    spool.close()


def test_a_second_agent_is_refused(folder: Path) -> None:
    """Two agents never share a spool; the message names the process that has it."""
    spool = Spool(folder, ROOMY)
    with pytest.raises(StateError) as caught:
        Spool(folder, ROOMY)
    assert str(caught.value) == (
        f"spool {folder} is in use by process {os.getpid()}; give each agent a spool.folder of its own"
    )
    spool.close()
    Spool(folder, ROOMY).close()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A file in the way is one sentence."""
    (tmp_path / "spool").write_text("")
    with pytest.raises(StateError, match=r"set spool\.folder to a folder this user can write"):
        Spool(tmp_path / "spool", ROOMY)


def test_a_tail_torn_at_any_octet_is_cut(folder: Path, tmp_path: Path) -> None:
    """Power lost within the last record: that record is gone, all others are there, and writing goes on."""
    spool = Spool(folder, ROOMY)
    for i in range(3):
        spool.append(1, amounts(i), body(i, 64))
    file = next((folder / "lane1").glob("*.segment"))
    kill(spool)
    whole = file.read_bytes().rstrip(b"\0")
    frame = 8 + 36 + 64
    end = 2 * 0 + 44 + 3 * frame
    assert len(whole) <= end
    for cut in range(end - frame, end):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        os.truncate(copy / "lane1" / file.name, cut)
        again = Spool(copy, ROOMY)
        assert [which(r.body) for r in again.take(1, 10**6)] == [0, 1], cut
        again.append(1, amounts(7), body(7))
        assert [which(r.body) for r in again.take(1, 10**6)] == [7], cut
        assert again.dropped() == {}
        again.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_counted_to_the_octet(data: st.DataObject, tmp_path: Path) -> None:
    """Whatever octet of a closed segment is changed: each record comes out as it went in, or is counted."""
    folder = tmp_path / "spool"
    shutil.rmtree(folder, ignore_errors=True)
    spool = Spool(folder, TIGHT)
    for i in range(150):
        spool.append(1, amounts(i), body(i, 1000))
    spool.close()
    files = sorted((folder / "lane1").glob("*.segment"))
    for _ in range(data.draw(st.integers(1, 3))):
        file = data.draw(st.sampled_from(files[:-1]))
        at = data.draw(st.integers(0, file.stat().st_size - 1))
        content = bytearray(file.read_bytes())
        content[at] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
    again = Spool(folder, TIGHT)
    seen = []
    while records := again.take(1, 10_000):
        for record in records:
            assert (record.body, record.amounts) == (
                body(which(record.body), 1000),
                amounts(which(record.body)),
            )
            seen.append(which(record.body))
            again.acknowledge(record)
    gone = again.dropped().get("spool_corrupt", Tally())
    assert seen == sorted(set(seen))
    assert gone == Tally(150 - len(seen), sum(map(amounts, set(range(150)) - set(seen)), Amounts()))
    assert again.waiting() == Tally()
    again.close()


def test_a_damaged_note_sends_again(folder: Path) -> None:
    """Where it cannot be read how far acknowledgements went, all is taken again."""
    spool = Spool(folder, ROOMY)
    for i in range(3):
        spool.append(1, amounts(i), body(i))
    spool.acknowledge(spool.take(1, 1)[0])
    spool.close()
    (folder / "lane1" / "acknowledged.json").write_text("{")
    again = Spool(folder, ROOMY)
    assert [which(r.body) for r in again.take(1, 10**6)] == [0, 1, 2]
    again.close()


_CHILD = """
import sys
from pathlib import Path
from agent.core.accounts import Amounts
from agent.core.faults import arm
from agent.spool.spool import Limits, Spool
spool = Spool(Path(sys.argv[1]), Limits(64 * 2**20, 0))
arm(sys.argv[2])
for i in range(10):
    spool.append(1, Amounts(1, 1000 + i, i), i.to_bytes(8, "big") + bytes(192))
    print(i, flush=True)
    if i % 2:
        spool.acknowledge(spool.take(1, 1)[0])
        spool.note()
"""


@pytest.mark.parametrize("point", ["spool.after_append:4", "spool.after_append:10", "spool.after_note:3"])
def test_a_kill_at_a_named_point_loses_nothing(folder: Path, point: str) -> None:
    """Killed at that point, what ``append`` had taken and nobody had acknowledged is there afterwards."""
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), point], capture_output=True, text=True, check=False
    )
    assert child.returncode == -9, child.stderr
    told = [int(line) for line in child.stdout.split()]
    spool = Spool(folder, ROOMY)
    there = [which(r.body) for r in spool.take(1, 10**6)]
    assert there == list(range(there[0], there[-1] + 1))
    assert there[0] <= len(told) // 2
    assert there[-1] >= told[-1]
    spool.close()


class Life(RuleBasedStateMachine):
    """A spool's life beside a plain list: the same records in the same order, every difference counted."""

    folders = iter(range(10**9))

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.home = Path(tempfile.mkdtemp(prefix="spool-"))
        self.limits = TIGHT
        self.spool = Spool(self.home / "spool", self.limits)
        self.next = 0
        self.out: dict[int, list[tuple[int, object]]] = {0: [], 1: []}
        self.seen: set[int] = set()
        """Acknowledged in any run."""
        self.done: set[int] = set()
        """Acknowledged in this run: they never come again."""
        self.gone = Tally()
        """Dropped in earlier runs."""
        self.acked = Tally()
        self.before = Tally()

    def teardown(self) -> None:
        """Every record was acknowledged, is still there, or was counted as it went."""
        self.spool.rewind()
        for lane in LANES:
            there = [which(r.body) for r in self.spool.take(lane, 10**9)]
            assert there == sorted(set(there))
            self.seen.update(there)
        gone = sum(self.spool.dropped().values(), self.gone)
        assert len(self.seen) + gone.records >= self.next
        self.spool.close()
        shutil.rmtree(self.home)

    @rule(lane=st.sampled_from(LANES), octets=st.integers(8, 30_000), times=st.integers(1, 10))
    def append(self, lane: int, octets: int, times: int) -> None:
        for _ in range(times):
            self.spool.append(lane, amounts(self.next), body(self.next, octets))
            self.next += 1

    @rule(lane=st.sampled_from(LANES), octets=st.integers(1, 60_000))
    def take(self, lane: int, octets: int) -> None:
        for record in self.spool.take(lane, octets):
            assert which(record.body) not in self.done
            self.out[lane].append((which(record.body), record))

    @precondition(lambda self: self.out[0] or self.out[1])
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from([lane for lane in LANES if self.out[lane]]))
        at = data.draw(st.integers(0, len(self.out[lane]) - 1))
        number, record = self.out[lane].pop(at)
        self.acked += self.spool.acknowledge(record)  # type: ignore[arg-type]
        self.seen.add(number)
        self.done.add(number)

    @rule()
    def note(self) -> None:
        self.spool.note()

    @rule()
    def rewind(self) -> None:
        self.spool.rewind()
        self.out = {0: [], 1: []}

    @rule()
    def restart(self) -> None:
        """An orderly one: what is acknowledged in order stays so; the rest of the account starts anew."""
        waiting = self.spool.waiting()
        self.gone = sum(self.spool.dropped().values(), self.gone)
        self.spool.close()
        self.spool = Spool(self.home / "spool", self.limits)
        assert self.spool.inherited == waiting
        self._new_run(waiting)

    @rule()
    def killed(self) -> None:
        self.gone = sum(self.spool.dropped().values(), self.gone)
        kill(self.spool)
        self.spool = Spool(self.home / "spool", self.limits)
        self._new_run(self.spool.inherited)

    def _new_run(self, inherited: Tally) -> None:
        self.out = {0: [], 1: []}
        self.done.clear()
        self.before, self.acked = inherited, Tally()
        self.start = self.next

    start = 0

    @invariant()
    def account(self) -> None:
        """inherited + appended = acknowledged + waiting + dropped, in records and octets."""
        appended = Tally(self.next - self.start, sum(map(amounts, range(self.start, self.next)), Amounts()))
        dropped = sum(self.spool.dropped().values(), Tally())
        assert self.before + appended == self.acked + self.spool.waiting() + dropped
        assert set(self.spool.dropped()) <= {"spool_full"}
        assert self.spool.octets <= self.limits.most_octets


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
