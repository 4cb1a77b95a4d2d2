"""What goes wrong beside a program that runs: it says so, keeps the last good answer, and goes on."""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.core.accounts import Amounts
from agent.core.clock import DAY_NS, SECOND_NS
from agent.core.flow import FlowBatch, Mark
from agent.store.state import State
from tests.tools import mmdb
from tests.tools.rows import batch_of
from tests.tools.watching import SteppingClock, Watching, watching

GB = 10**9
TEN_YEARS_NS = 3650 * DAY_NS
POLICY = """\
version: 1
stores:
  - {id: ehr, categories: [personal_health], recognise: {addresses: [192.0.2.1]}}
"""
OTHER_STORE = "  - {id: claims, categories: [personal_health], recognise: {addresses: [192.0.2.2]}}\n"


def rows(
    remote: str = "20.0.0.7",
    content: int = 1000,
    end_ns: int = 0,
    number: int = 1,
    local: str = "192.0.2.1",
) -> FlowBatch:
    """So many rows of the store that end now, or at ``end_ns``."""
    end_ns = end_ns or time.time_ns()
    return batch_of(
        [
            {
                "local_address": local,
                "remote_address": remote,
                "start_ns": end_ns - SECOND_NS,
                "end_ns": end_ns,
                "octets_out": content + 520,
                "content_octets_out": content,
                "local_port": 40_000 + i,
                "initiator": "local",
            }
            for i in range(number)
        ]
    )


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    return file


def country_of(watch: Watching) -> Any:
    """The country of a row that is brought now."""
    watch.bring(rows())
    return watch.kept.batches[-1].text("remote_country").decode()[0]


def databases(folder: Path, country: str) -> Path:
    """A country database that says one thing of one network (documentation networks have no country), put in place in one step as `sekisho db` does."""
    (folder / "databases").mkdir(parents=True, exist_ok=True)
    new = mmdb.write(folder / "new.mmdb", {"20.0.0.0/24": {"country_code": country}})
    return new.replace(folder / "databases" / "country.mmdb")


def test_a_database_deleted_while_running_goes_on_answering_and_a_new_one_is_taken_up(
    tmp_path: Path, policy: Path
) -> None:
    """Deleted: the last good one answers and people are told; broken: the same; a new one: in use from then on."""
    folder = tmp_path / "state"
    path = databases(folder, "DE")
    with watching(folder, settings={"policy": [policy]}) as watch:
        assert country_of(watch) == "DE"
        path.unlink()
        watch.look()
        watch.told("database_refused")
        assert watch.said("database_refused") == (
            f"{path}: there is no country database; run `sekisho db install`; the last good databases still answer"
        )
        assert country_of(watch) == "DE"
        path.write_bytes(b"this is no database")
        watch.look()
        watch.told("database_refused", 2)
        assert "not a MaxMind DB that can be read" in watch.said("database_refused")
        assert country_of(watch) == "DE"
        databases(folder, "FR")
        watch.look()
        watch.told("data_reloaded")
        assert country_of(watch) == "FR"
        path.unlink()
        watch.look()
        watch.told("database_refused", 3)


def test_a_faulty_policy_is_refused_while_running_and_taken_up_once_mended(
    tmp_path: Path, policy: Path
) -> None:
    """The last good policy stays in force, the refusal names file, line and advice, and mending it is told too."""
    folder = tmp_path / "state"
    with watching(folder, settings={"policy": [policy]}) as watch:
        before = watch.run.policy.version
        policy.write_text(POLICY.replace("recognise", "recognize"))
        watch.look()
        watch.told("reload_refused")
        assert watch.said("reload_refused").endswith(
            f"{policy}:3: stores[0]: unknown key `recognize` (did you mean `recognise`?)"
        )
        assert watch.run.policy.version == before
        watch.look()
        watch.told("reload_refused", 2)
        policy.write_text(POLICY)
        watch.look()
        watch.told("policy_reloaded")
        assert watch.run.policy.version == before
        policy.write_text(POLICY + OTHER_STORE)
        watch.look()
        watch.told("policy_reloaded", 2)
        assert [store.id for store in watch.run.policy.stores] == ["ehr", "claims"]
        policy.unlink()
        watch.look()
        watch.told("reload_refused", 3)
        assert (
            watch.said("reload_refused")
            == f"{policy}: cannot be read: No such file or directory (check the path)"
        )
        watch.bring(rows())
    assert [store.id for store in watch.run.policy.stores] == ["ehr", "claims"]


def test_registers_in_a_git_work_tree_are_taken_up_with_their_commit(tmp_path: Path) -> None:
    """A commit alone makes a running program take it up; an approval without an end is refused, and the last good one
    stays in force.
    """
    folder, policies = tmp_path / "state", tmp_path / "policies"
    policies.mkdir()

    def commit() -> str:
        plain = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        who = ["git", "-c", "user.name=A. Person", "-c", "user.email=a@example.org", "-C", str(policies)]
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "change"]):
            subprocess.run([*who, *words], check=True, env=plain)
        done = subprocess.run([*who, "rev-parse", "HEAD"], check=True, env=plain, capture_output=True)
        return done.stdout.decode()[:12]

    (policies / "assets.yaml").write_text(POLICY)
    first = commit()
    with watching(folder, settings={"policy": [policies]}) as watch:
        assert watch.run.policy.commit == first
        approvals = policies / "approvals.yaml"
        approvals.write_text(
            "approvals:\n  - {id: a, stores: [ehr], destination: {asns: [64500]}, basis: b, approver: c, cap: 1 GB, "
            "valid_from: 2026-11-01}\n"
        )
        watch.look()
        watch.told("reload_refused")
        assert f"{approvals}:2: approvals[0]: `valid_to` is missing" in watch.said("reload_refused")
        assert watch.run.policy.commit == first
        approvals.unlink()
        watch.look()
        watch.told("policy_reloaded")
        (policies / "notes.txt").write_text("why")
        second = commit()
        watch.look()
        watch.told("policy_reloaded", 2)
        assert watch.run.policy.commit == second != first


def test_a_policy_folder_is_read_again_whatever_its_files_are_called(tmp_path: Path) -> None:
    """A .yml file that appears in a policy folder is taken up like a .yaml file; the folder's loss is refused."""
    folder, policies = tmp_path / "state", tmp_path / "policies"
    policies.mkdir()
    (policies / "a.yaml").write_text(POLICY)
    clock = SteppingClock()
    with watching(folder, clock=clock, settings={"policy": [policies]}) as watch:
        (policies / "b.yml").write_text("stores:\n" + OTHER_STORE)
        clock.steady_ahead_ns += 6 * SECOND_NS
        watch.told("policy_reloaded")
        shutil.rmtree(policies)
        clock.steady_ahead_ns += 6 * SECOND_NS
        watch.told("reload_refused")
        assert [store.id for store in watch.run.policy.stores] == ["ehr", "claims"]


def test_a_locked_state_holds_the_run_back_and_loses_nothing(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locked by another process for longer than the busy timeout: nothing is decided until it is free, then all is."""
    folder = tmp_path / "state"
    monkeypatch.setattr(State, "open", functools.partial(State.open, busy_timeout_s=0.05))
    with capture_logs() as log, watching(folder, settings={"policy": [policy]}) as watch:
        watch.bring(rows())
        other = sqlite3.connect(folder / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for _ in range(20):
            watch.feed.coming.put(rows(number=5))

        def refused() -> list[str]:
            return [line["reason"] for line in log if line["event"] == "commit_failed"]

        watch.until(lambda: len(refused()) >= 2, "the failed commits to be logged")
        assert "another process keeps the file locked, such as a backup" in refused()[0]
        assert watch.run.accounts.read().decided == Amounts(1, 1520, 500)
        other.execute("ROLLBACK")
        other.close()
        watch.until(lambda: watch.run.accounts.read().decided.flows == 101, "all to be decided")
    assert watch.run.accounts.read().captured == Amounts(101, 101 * 1520, 101 * 500)


def test_a_clock_that_jumps_ten_years_and_back_loses_no_octet_and_no_alert(
    tmp_path: Path, policy: Path
) -> None:
    """Rows of the jump are marked and decided, people are told once, and bulk after it still opens its case."""
    folder, clock = tmp_path / "state", SteppingClock()
    with watching(folder, clock=clock, settings={"policy": [policy]}) as watch:
        watch.bring(rows())
        for ahead_ns in (TEN_YEARS_NS, -TEN_YEARS_NS):
            clock.wall_ahead_ns = ahead_ns
            watch.bring(rows(end_ns=clock.now_ns()))
            clock.steady_ahead_ns += 6 * SECOND_NS
            watch.bring(rows(end_ns=clock.now_ns()))
            watch.told("clock_stepped", 1 if ahead_ns > 0 else 2)
            clock.wall_ahead_ns = 0
            clock.steady_ahead_ns += 6 * SECOND_NS
            watch.bring(rows(end_ns=clock.now_ns()))
        watch.bring(rows(content=2 * GB, end_ns=clock.now_ns()))
        watch.until(lambda: watch.cases, "a case")
    assert [case.store.id for case in watch.cases.values()] == ["ehr"]
    marks = [mark for batch in watch.kept.batches for mark in batch["marks"].tolist()]
    assert sorted(mark & Mark.CLOCK_SUSPECT for mark in marks) == [0] * 4 + [Mark.CLOCK_SUSPECT] * 4


def test_a_clock_that_was_set_right_is_believed(tmp_path: Path, policy: Path) -> None:
    """A step that lasts is followed after some minutes, so that a host that came up in 1970 ends in the present."""
    folder, clock = tmp_path / "state", SteppingClock()
    clock.wall_ahead_ns = -time.time_ns()
    with watching(folder, clock=clock, settings={"policy": [policy]}) as watch:
        watch.bring(rows(local="192.0.2.9", end_ns=clock.now_ns()))
        clock.wall_ahead_ns = 0
        assert watch.run.clock.now_ns() < DAY_NS
        clock.steady_ahead_ns += 601 * SECOND_NS
        assert abs(watch.run.clock.now_ns() - clock.now_ns()) < SECOND_NS
        watch.bring(rows("20.0.0.8", content=2 * GB, end_ns=clock.now_ns()))
        watch.until(lambda: watch.cases, "a case")


def test_a_hundred_thousand_new_destinations_a_second_stay_within_memory(
    tmp_path: Path, policy: Path
) -> None:
    """Every row to an address never seen before: nothing is lost, and memory does not grow with the addresses."""
    many = rows(number=100_000)
    count = np.arange(100_000, dtype=np.uint64)

    def second(number: int, now_ns: int) -> FlowBatch:
        remote = many["remote_address"].copy()
        remote[:, 1] = np.uint64(0xFFFF << 32 | 20 << 24) + count + np.uint64(number * 100_000)
        end_ns = np.full(100_000, now_ns, np.int64)
        return many.with_columns(remote_address=remote, start_ns=end_ns - SECOND_NS, end_ns=end_ns)

    with watching(tmp_path / "state", settings={"policy": [policy], "sinks": {"archive": {}}}) as watch:
        grown = []
        for number in range(5):
            watch.bring(second(number, watch.clock.now_ns()))
            watch.kept.forget()
            grown.append(_resident_octets())
        account = watch.run.accounts.read()
    assert (account.decided, account.residue) == (Amounts(500_000, 500_000 * 1520, 500_000 * 500), Amounts())
    assert grown[-1] - grown[0] < 100 * 2**20, grown
    assert len(watch.cases) <= 1


def _resident_octets() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
