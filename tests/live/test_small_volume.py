"""The spool on a real volume of a few MiB: it holds what fits, counts what does not, and goes on once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.accounts import Amounts
from agent.spool.segments import Tally
from agent.spool.spool import LANES, Limits, Spool

pytestmark = pytest.mark.root

MIB = 2**20
FAR_ABOVE = 2 * 2**30
RECORD = 2000


@pytest.fixture(params=["tmpfs", "ext4"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Eight MiB of their own, in memory and on a disk made of a file."""
    folder = tmp_path / "volume"
    folder.mkdir()
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    else:
        disk = tmp_path / "disk"
        disk.write_bytes(bytes(8 * MIB))
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(disk)], check=True)
        subprocess.run(["mount", "-o", "loop", str(disk), str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Filled:
    """A spool, and what was handed to it."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.given = Tally()

    def put(self, lane: int = 0) -> bool:
        """Hand over one record more."""
        number = self.given.records
        amounts = Amounts(1 + number % 3, 1000 + number, number)
        self.given += Tally(1, amounts)
        return self.spool.append(lane, amounts, number.to_bytes(8, "big") + bytes(RECORD - 8))

    def check(self) -> None:
        """All that was handed over waits or was let go, in records, flows and octets."""
        let_go = sum(self.spool.dropped().values(), Tally())
        assert self.spool.waiting() + let_go == self.given

    def numbers(self) -> list[int]:
        """Everything in it, oldest first."""
        return sorted(
            int.from_bytes(r.body[:8], "big") for lane in LANES for r in self.spool.take(lane, FAR_ABOVE)
        )


def filled_to(folder: Path, limits: Limits) -> Filled:
    """A spool that was handed 12 MiB."""
    filled = Filled(Spool(folder / "spool", limits))
    for _ in range(12 * MIB // RECORD):
        filled.put()
    filled.check()
    return filled


def free(volume: Path) -> int:
    """Octets."""
    return shutil.disk_usage(volume).free


def taken_by_others(volume: Path) -> Path:
    """A file of another program, in every octet that was left."""
    path = volume / "of another program"
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space left"):
        while True:
            os.write(file, bytes(512))
    os.close(file)
    return path


def test_what_the_volume_can_hold_is_held(volume: Path) -> None:
    """``most_octets`` far above the volume: nine tenths are used to the last segment, the newest go, each counted."""
    before, total = free(volume), shutil.disk_usage(volume).total
    filled = filled_to(volume, Limits.of(volume, FAR_ABOVE, "newest"))
    assert total // 10 <= free(volume) < total // 10 + 40_000
    assert set(filled.spool.dropped()) == {"spool_disk_full"}
    held = filled.numbers()
    assert held == list(range(len(held)))
    assert len(held) * RECORD > 0.93 * (before - total // 10)
    filled.spool.close()


def test_the_newest_are_held_and_it_goes_on_when_they_are_through(volume: Path) -> None:
    """With ``oldest`` the last MiBs are there; once they are acknowledged there is room for as many again."""
    before, total = free(volume), shutil.disk_usage(volume).total
    filled = filled_to(volume, Limits.of(volume, FAR_ABOVE))
    assert set(filled.spool.dropped()) == {"spool_disk_full"}
    taken = filled.spool.take(0, FAR_ABOVE)
    held = [int.from_bytes(r.body[:8], "big") for r in taken]
    assert held == list(range(filled.given.records - len(held), filled.given.records))
    assert len(held) * RECORD > 0.85 * (before - total // 10)
    for record in taken:
        filled.given -= filled.spool.acknowledge(record)
    filled.spool.note()
    dropped = filled.spool.dropped()
    assert all(filled.put() for _ in range(2 * MIB // RECORD))
    filled.check()
    assert filled.spool.dropped() == dropped
    filled.spool.close()


def test_what_is_not_set_is_a_twentieth(volume: Path) -> None:
    """Nothing said: 5 % of the volume and no octet more, and the reason names the setting, not the disk."""
    total = shutil.disk_usage(volume).total
    limits = Limits.of(volume)
    assert (limits.most_octets, limits.min_free_octets) == (total // 20, total // 10)
    filled = filled_to(volume, limits)
    assert 0.7 * limits.most_octets < filled.spool.octets <= limits.most_octets
    assert set(filled.spool.dropped()) == {"spool_full"}
    filled.spool.close()


def test_a_volume_that_others_fill_costs_nothing_in_vain(volume: Path) -> None:
    """Another program takes every octet: the spool grows no more, yet keeps what it has and changes the oldest for the
    newest; as soon as there is room again it grows.
    """
    filled = Filled(Spool(volume / "spool", Limits.of(volume, FAR_ABOVE)))
    assert all(filled.put() for _ in range(3 * MIB // RECORD))
    held = filled.spool.octets
    other = taken_by_others(volume)
    for _ in range(2 * MIB // RECORD):
        filled.put()
    filled.check()
    assert held - 3 * filled.spool._limits.segment_octets < filled.spool.octets <= held
    numbers = filled.numbers()
    filled.spool.rewind()
    assert numbers[-1] == filled.given.records - 1
    assert numbers[0] > 0
    dropped = filled.spool.dropped()
    assert set(dropped) == {"spool_disk_full"}
    other.unlink()
    assert all(filled.put() for _ in range(2 * MIB // RECORD))
    filled.check()
    assert filled.spool.dropped() == dropped
    assert filled.spool.octets > held + MIB
    filled.spool.close()


def test_what_is_through_frees_a_volume_without_an_octet(volume: Path) -> None:
    """Nothing is left even for the note of what was acknowledged: the segments that are through go all the same."""
    filled = Filled(Spool(volume / "spool", Limits.of(volume, FAR_ABOVE)))
    assert all(filled.put() for _ in range(3 * MIB // RECORD))
    filled.spool.note()
    for record in filled.spool.take(0, FAR_ABOVE):
        filled.given -= filled.spool.acknowledge(record)
    taken_by_others(volume)
    filled.spool.note()
    assert filled.spool.octets < 2 * filled.spool._limits.segment_octets
    assert filled.put()
    filled.check()
    filled.spool.close()


def test_rows_of_stores_have_room_where_the_others_took_all(volume: Path) -> None:
    """What is written now in the other lane is closed and goes too, where nothing else is left to go."""
    limits = Limits(200_000, 0)
    spool = Spool(volume / "spool", limits)
    assert spool.append(0, Amounts(1, 1, 1), bytes(190_000))
    assert spool.append(1, Amounts(2, 2, 2), bytes(150_000))
    assert spool.dropped() == {"spool_full": Tally(1, Amounts(1, 1, 1))}
    assert not spool.append(0, Amounts(4, 4, 4), bytes(150_000))
    assert spool.waiting(1) == Tally(1, Amounts(2, 2, 2))
    spool.close()
