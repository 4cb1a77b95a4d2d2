"""Disks that are full, lose power or bits, between sealing and Kafka: what is lost is counted, bounded, and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.accounts import Amounts
from agent.core.kafka import Connection
from agent.spool.journal import Entry, Journal
from agent.spool.segments import RECORD_OVERHEAD
from agent.spool.spool import LANES, Limits, Spool
from tests.faults.scale import chance
from tests.tools.brokers import Cluster
from tests.tools.plan import Plan
from tests.tools.road import Facts, Road, lost

Page = Callable[..., None]
ROOMY = Limits(most_octets=2**30, min_free_octets=0)
SLOW_STEPS_S = 50
AWAY = {"servers": ("127.0.0.1:1",), "connect_s": 0.5}
"""Nobody listens there."""
REMEMBERS_WHAT_IS_ON_THE_DISK = """
import os, pathlib, shutil, sys
before = os.fdatasync
def fdatasync(file):
    before(file)
    path = pathlib.Path(os.readlink(f"/proc/self/fd/{file}"))
    if "spool" in path.parts:
        kept = DISK / pathlib.Path(*path.parts[path.parts.index("spool") + 1:])
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept.with_name("." + kept.name))
        kept.with_name("." + kept.name).replace(kept)
os.fdatasync = fdatasync
"""
"""Keeps, of each file of the spool, what it was at its last fdatasync: all that a power cut leaves for sure."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A volume of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a volume")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.root
def test_the_disk_of_the_spool_is_full(
    broker: Cluster, kafka: Connection, tmp_path: Path, small_disk: Path, undisturbed: Facts, page: Page
) -> None:
    """Rows of stores push out the others; each row that goes is in the account, to the octet, and is no gap."""
    plan = Plan.of_now(110, 200)
    with Road(tmp_path, kafka, plan) as road:
        detector = road.detector()
        soon = kafka.model_copy(update={"request_s": 2.0})
        agent = road.agent(folder=str(small_disk / "spool"), most_octets=1_050_000, kafka=soon)
        road.let(10)
        road.until_delivered(10 * plan.rows, agent, detector)
        broker.brokers[0].kill()
        (small_disk / "of another program").write_bytes(bytes(1_034_000))
        road.let(20)
        road.until(lambda: road.logged("agent", "kafka_not_reached"), "word of the outage", agent, detector)
        road.let(plan.steps)
        road.until(lambda: _is_through(small_disk / "spool", plan), "a full disk", agent, detector)
        broker.start()
        road.until(lambda: _all_since(road, plan.steps - 1), "the newest", agent, detector)
        road.until(lambda: _idle(road), "the rest", agent, detector)
        road.end()
        assert agent.wait() == 0
        road.until_decided(detector)
        assert detector.stop() == 0
        gone = lost(road)
        account = road.beats()[-1]["account"]
        let_go = [a for name, a in account.items() if name.startswith("spool dropped (")]
        octets = plan.octets_out()
        assert sum(a["octets_out"] for a in let_go) == sum(int(octets[m - 1]) for m in gone) > 0
        assert sum(a["flows"] for a in let_go) == len(gone)
        of_store = plan.of_store()
        assert not any(of_store[(m - 1) % plan.rows] for m in gone), "rows of a store were let go"
        assert account["sealed residue"] == {"flows": 0, "octets_out": 0, "octets_in": 0}
        assert {n for n in account if n.startswith("spool dropped (")} == {"spool dropped (spool_disk_full)"}
        assert road.facts() == undisturbed
        page("agent's disk full", road, loss=f"{len(gone):,} rows of no store, each counted by its reason")


def _idle(road: Road) -> bool:
    """Nothing more has come for two seconds."""
    before = road.recount.rows
    end = time.monotonic() + 2
    while time.monotonic() < end:
        road.recount.look()
    return road.recount.rows == before


@pytest.mark.parametrize("sync", ["seconds", "always"])
def test_power_is_lost(kafka: Connection, tmp_path: Path, undisturbed: Facts, page: Page, sync: str) -> None:
    """Everything since the last fdatasync is gone. With ``always`` no row that was sealed is lost; with ``seconds`` those
    of the last second or so; what the disk has comes once.
    """
    keeping = sync == "always"
    plan, disk = Plan.of_now(200), tmp_path / "disk"
    disk.mkdir()
    watched = f"import pathlib\nDISK = pathlib.Path({str(disk)!r})\n{REMEMBERS_WHAT_IS_ON_THE_DISK}"
    with Road(tmp_path, kafka, plan) as road:
        away = kafka.model_copy(update=AWAY)
        first = road.agent(keeping=keeping, rate=SLOW_STEPS_S, code=watched, kafka=away, sync=sync)
        spool = road.at / "state" / "spool"
        moment = chance(f"power {sync}").uniform(2.0, 3.0)
        road.until(lambda: spool.exists(), "a spool", first)
        road.let(plan.steps)
        begun = time.monotonic()
        road.until(lambda: time.monotonic() - begun > moment, "the power cut", first)
        first.process.kill()
        first.process.wait()
        seen = road.begun
        shutil.rmtree(spool)
        shutil.copytree(disk, spool)
        detector, second = road.detector(), road.agent(keeping=keeping, sync=sync)
        road.until(lambda: _all_since(road, seen), "the rest", second, detector)
        road.until(lambda: _idle(road), "the rest", second, detector)
        road.end()
        assert second.wait() == 0
        road.until_decided(detector)
        assert detector.stop() == 0
        gone = lost(road)
        if keeping:
            assert gone == []
            assert road.facts() == undisturbed
        else:
            most = 4 * SLOW_STEPS_S * plan.rows  # a second unsealed, one unsynced, and a busy machine
            others = [m for m in gone if not plan.of_store()[(m - 1) % plan.rows]]
            of_store = [m for m in gone if plan.of_store()[(m - 1) % plan.rows]]
            assert len(of_store) <= most and all((m - 1) // plan.rows < seen for m in gone)
            assert others == [] or min(others) > 0
            assert {f[2] for f in road.facts().findings} <= {f[2] for f in undisturbed.findings}
        page(
            f"power lost, spool.sync: {sync}", road, findings="equal" if keeping else "as of the rows that are left",
            loss="nothing" if keeping else f"{len(gone):,} rows: those in memory (1 s of stores, 10 to 30 s of others) and of the last second",
        )  # fmt: skip


def _all_since(road: Road, step: int) -> bool:
    marks = road.recount.marks()[:, 0]
    first = step * road.plan.rows
    return int((marks > first).sum()) >= road.plan.marks - first


def test_power_lost_at_every_octet_of_the_last_record(tmp_path: Path) -> None:
    """Spool and journal of a group whose writing was cut anywhere: at the start all of it is there once, or none of it and
    the position is the one before.
    """
    folder = tmp_path / "spool"
    _groups(folder, 3)
    sizes = {path: path.stat().st_size for path in (folder / "group0", folder / "group1")}
    newest = folder / "group1"
    for cut in range(sizes[newest] + 1):
        work = _copied(folder, tmp_path / f"journal{cut}")
        with (work / "group1").open("r+b") as file:
            file.truncate(cut)
        found, position = _restarted(work)
        # Written before its records: where it is torn, no power was left to write them; here they are, and stay one each.
        assert found == _expected(3)
        assert position == ("paced plan 2" if cut == sizes[newest] else "paced plan 1")
        shutil.rmtree(work)
    segment = sorted((folder / "lane1").glob("*.segment"))[-1]
    end = _end_of(segment)
    for cut in range(end - RECORD_OVERHEAD - len(_body(1, 2)), end + 1):
        work = _copied(folder, tmp_path / f"lane{cut}")
        with (work / "lane1" / segment.name).open("r+b") as file:
            file.truncate(cut)
        found, position = _restarted(work)
        assert (found, position) == (_expected(3), "paced plan 2"), cut
        shutil.rmtree(work)


def _groups(folder: Path, count: int) -> None:
    """Groups of one record for each lane, as an agent writes them that is then killed."""
    spool = Spool(folder, ROOMY)
    journal = Journal(folder)
    for n in range(count):
        entries = [
            Entry(lane, spool.next_number(lane), Amounts(1, n, lane), _body(lane, n)) for lane in LANES
        ]
        journal.write(f"paced plan {n}", entries, sync=True)
        for entry in entries:
            assert spool.append(entry.lane, entry.amounts, entry.body)
        spool.sync()
    for lane in spool._lanes.values():
        lane._writer.leave()  # type: ignore[union-attr]
    os.close(spool._held)


def _body(lane: int, n: int) -> bytes:
    return bytes([lane, n]) * 300


def _expected(count: int) -> list[tuple[int, int, bytes]]:
    return [(lane, n, _body(lane, n)) for lane in LANES for n in range(count)]


def _restarted(folder: Path) -> tuple[list[tuple[int, int, bytes]], str]:
    """What the next run sends, and where its source goes on, as :meth:`agent.sending.Send.restore` does it."""
    spool = Spool(folder, ROOMY)
    journal = Journal(folder)
    for entry in journal.missing({lane: spool.next_number(lane) for lane in LANES}):
        assert spool.append(entry.lane, entry.amounts, entry.body)
    found = [(lane, r.number, r.body) for lane in LANES for r in spool.take(lane, 2**20)]
    assert spool.dropped() == {}
    spool.close()
    return found, journal.position


def _copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def _end_of(segment: Path) -> int:
    """Where the last record ends: behind it stands only room that was set aside."""
    return len(segment.read_bytes().rstrip(b"\0"))


def test_a_segment_of_the_spool_is_damaged(
    kafka: Connection, tmp_path: Path, undisturbed: Facts, page: Page
) -> None:
    """Bits flipped in one of the others' segments: what it held is lost and said so, by reason and as a gap; no more."""
    plan = Plan.of_now(150, 200)
    with Road(tmp_path, kafka, plan) as road:
        away = kafka.model_copy(update=AWAY)
        first = road.agent(kafka=away, most_octets=4 * 2**20)
        spool = road.at / "state" / "spool"
        road.let(plan.steps)
        road.until(lambda: _is_through(spool, plan), "a spool with all of it", first)
        first.process.kill()
        first.process.wait()
        segment = sorted((spool / "lane0").glob("*.segment"))[0]
        _flip(segment)
        detector, second = road.detector(), road.agent(most_octets=4 * 2**20)
        road.until(lambda: road.recount.rows > 0 and _idle(road), "what is left", second, detector)
        road.end()
        assert second.wait() == 0
        road.until_decided(detector)
        assert detector.stop() == 0
        gone = lost(road)
        assert gone and not any(plan.of_store()[(m - 1) % plan.rows] for m in gone)
        dropped = road.beats()[-1]["spool"]["dropped"]["spool_corrupt"]
        octets = plan.octets_out()
        assert (dropped["flows"], dropped["octets_out"]) == (len(gone), sum(int(octets[m - 1]) for m in gone))
        facts = road.facts()
        assert (facts.findings, facts.ledger) == (undisturbed.findings, undisturbed.ledger)
        page(
            "spool segment damaged on the disk", road,
            loss=f"{len(gone):,} rows of {dropped['records']} batches: the octets that the heartbeat names",
        )  # fmt: skip


def _is_through(spool: Path, plan: Plan) -> bool:
    groups = [spool / "group0", spool / "group1"]
    with contextlib.suppress(OSError):
        return any(f"paced plan {plan.steps - 1}".encode() in g.read_bytes()[:200] for g in groups)
    return False


def _flip(segment: Path) -> None:
    """Change octets in the body of its first record."""
    data = bytearray(segment.read_bytes())
    for at in range(200, 220):
        data[at] ^= 0xFF
    segment.write_bytes(data)
