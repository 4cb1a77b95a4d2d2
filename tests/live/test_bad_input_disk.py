"""A volume that fills up under state and archive: said, waited for, and nothing lost once there is room again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from agent.core.accounts import Amounts
from agent.core.clock import SECOND_NS
from agent.core.flow import FlowBatch
from agent.store.flows import read_flows
from tests.tools.netns import run
from tests.tools.program import sekisho
from tests.tools.rows import batch_of
from tests.tools.truth import write_pcap
from tests.tools.watching import watching

pytestmark = pytest.mark.root

POLICY = (
    "stores: [{id: ehr, categories: [personal_health], recognise: {addresses: [192.0.2.1, 10.0.0.0/16]}}]\n"
)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of two megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(("umount", "-l", str(place)), check=False)


def rows(number: int) -> FlowBatch:
    """So many rows that end now."""
    end_ns = time.time_ns()
    return batch_of(
        [{"local_port": 1024 + i, "start_ns": end_ns - SECOND_NS, "end_ns": end_ns} for i in range(number)]
    )


def test_a_full_disk_holds_a_live_run_back_until_there_is_room(volume: Path, tmp_path: Path) -> None:
    """Nothing is decided that cannot be kept; both state and archive say so; with room again every row is in both."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    filler = volume / "filler"
    with capture_logs() as log:

        def said(event: str) -> list[str]:
            return [line["reason"] for line in log if line["event"] == event]

        with watching(volume / "state", settings={"policy": [policy], "sinks": {"archive": {}}}) as watch:
            watch.bring(rows(10))
            with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as full:
                while True:
                    full.write(bytes(4096))
            for _ in range(30):
                watch.feed.coming.put(rows(50))
            # Decided rows of the first batches may still fit into what is allocated; then it stops.
            watch.until(lambda: said("commit_failed"), "the failed commit", passing_ns=SECOND_NS // 2)
            assert "no room is left on its volume; free some, or move state_dir" in said("commit_failed")[0]
            held = watch.run.accounts.read()
            assert held.decided.flows < 1510
            filler.unlink()
            watch.until(lambda: watch.kept.flows == 1510, "all to be decided", passing_ns=SECOND_NS // 2)
    account = watch.run.accounts.read()
    assert (account.decided, account.dropped) == (Amounts(1510, 1510 * 1000, 1510 * 500), {})
    archived = list(read_flows(volume / "state" / "archive"))
    assert sum(len(batch) for batch in archived) == 1510
    assert list((volume / "state").rglob("*.tmp")) == []


def test_an_archive_without_room_stops_and_goes_on_by_itself(volume: Path, tmp_path: Path) -> None:
    """Below its share of free space the archive holds rows in memory and says so; deciding goes on meanwhile."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    filler = volume / "filler"
    archive = {"archive": {"directory": str(volume / "archive")}}
    with capture_logs() as log:
        settings = {"policy": [policy], "sinks": archive}
        with watching(tmp_path / "state", settings=settings) as watch:
            watch.bring(rows(10))
            filler.write_bytes(bytes(1_900_000))
            watch.bring(rows(500))
            stopped = [line for line in log if line["event"] == "archive_stopped"]
            assert "less than min_free (10 %); free some room or lower it" in stopped[0]["reason"]
            filler.unlink()
            watch.bring(rows(10))
        assert [line["event"] for line in log if line["event"].startswith("archive_r")] == ["archive_resumed"]
    assert sum(len(batch) for batch in read_flows(volume / "archive")) == 520


def test_a_replay_whose_archive_found_no_room_says_so_and_makes_up_for_it(
    volume: Path, tmp_path: Path
) -> None:
    """Rows that are decided but not archived are an error with exit code 1; the same command with room archives them."""
    run("mount", "-o", "remount,size=40m", str(volume))
    write_pcap(tmp_path / "big.pcap", packets=20_000, sessions=5_000)
    command = ("replay", "--quiet", "--state", volume / "kept", "big.pcap")
    (volume / "filler").write_bytes(bytes(38_000_000))
    outcome = sekisho(*command, home=tmp_path)
    assert (outcome.code, len(outcome.said)) == (1, 1), outcome.err
    assert " rows found no room and are not archived: " in outcome.said[0]
    (volume / "filler").unlink()
    assert sekisho(*command, home=tmp_path).code == 0
    kept = ("flows", "--since", "2000-01-01", "--archive", volume / "kept/archive", "--by", "store", "--json")
    assert json.loads(sekisho(*kept, home=tmp_path).out)["flows"] == 5_000


def test_a_replay_onto_a_full_disk_ends_with_a_clear_error_and_whole_files(
    volume: Path, tmp_path: Path
) -> None:
    """Exit code 1, one sentence, every Parquet file whole; with room the same command goes on to the end."""
    write_pcap(tmp_path / "big.pcap", packets=200_000, sessions=40_000)
    (tmp_path / "policy.yaml").write_text(POLICY)
    command = ("replay", "--json", "--policy", "policy.yaml", "--state", volume / "kept", "big.pcap")
    (volume / "filler").write_bytes(bytes(1_900_000))
    outcome = sekisho(*command, home=tmp_path)
    assert outcome.code == 1, outcome.text
    assert any("no room is left" in line for line in outcome.said), outcome.err
    for file in volume.rglob("*.parquet"):
        assert pq.read_table(file).num_rows > 0
    assert list(volume.rglob("*.tmp")) == []
    (volume / "filler").unlink()
    run("mount", "-o", "remount,size=64m", str(volume))
    outcome = sekisho(*command, home=tmp_path)
    assert outcome.code == 0, outcome.text
    account = json.loads(outcome.out)["account"]
    assert (account["residue"]["flows"], account["captured"]["flows"]) == (0, 40_000)
    kept = sekisho(
        "flows",
        "--since",
        "2000-01-01",
        "--archive",
        volume / "kept/archive",
        "--by",
        "store",
        "--json",
        home=tmp_path,
    )
    assert (
        sum(json.loads(line)["octets_out"] for line in kept.out.splitlines())
        == account["captured"]["octets_out"]
    )
