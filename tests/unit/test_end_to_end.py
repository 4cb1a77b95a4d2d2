"""The whole road in one process: the same findings however the data is cut, one case for one transfer, none for downloads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent import pipeline, seal
from agent.core.accounts import Amounts
from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.finding import NoticeKind, TrafficState
from agent.core.flow import FlowBatch
from tests.tools import spine
from tests.tools.feed import Outcome, run
from tests.tools.rows import batch_of

T0 = spine.BEGIN_S * SECOND_NS
GB = 10**9
RESTRICTED = "203.0.113.5"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Policy and overrides."""
    return spine.write_policy(tmp_path_factory.mktemp("policy"))


def _row(start_ns: int, seconds: float, content: int, **more: Any) -> dict[str, Any]:
    packets = max(1, content // 1408)
    return {
        "local_address": "10.0.0.1",
        "remote_address": RESTRICTED,
        "start_ns": start_ns,
        "end_ns": start_ns + int(seconds * SECOND_NS),
        "octets_out": content + 52 * packets,
        "packets_out": packets,
        "content_octets_out": content,
        "octets_in": 52 * packets,
        "packets_in": packets,
        "initiator": "local",
        **more,
    }


def _two_days(seed: int) -> list[dict[str, Any]]:
    """Rows of two days in order of arrival: up to a minute out of order, small talk and bursts that pass rules."""
    seeded = random.Random(seed)
    locals_ = [*spine.STORES.values(), "10.9.0.1"]
    remotes = ["203.0.113.5", "203.0.113.70", "203.0.113.200", "198.51.100.9", "198.51.100.150"]
    rows = [
        _row(
            T0 + seeded.randrange(2 * DAY_NS),
            seeded.choice([0, 3, 45]),
            seeded.randrange(200_000),
            local_address=seeded.choice(locals_),
            remote_address=seeded.choice(remotes),
            initiator=seeded.choice(["local", "remote", None]),
        )
        for _ in range(1400)
    ]
    for _ in range(14):
        begins, local, remote = (
            T0 + seeded.randrange(2 * DAY_NS),
            seeded.choice(locals_[:3]),
            seeded.choice(remotes),
        )
        size = seeded.choice([2, 5, 12]) * 10**6
        rows += [
            _row(begins + n * 20 * SECOND_NS, 19, size, local_address=local, remote_address=remote)
            for n in range(8)
        ]
    arrival = {id(row): row["end_ns"] + seeded.randrange(MINUTE_NS) for row in rows}
    return sorted(rows, key=lambda row: arrival[id(row)])


def _pieces(rows: Sequence[dict[str, Any]], size: int) -> list[FlowBatch]:
    return [batch_of(rows[at : at + size]) for at in range(0, len(rows), size)]


def test_findings_do_not_depend_on_how_the_data_is_cut(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of collected batches, sealed batches and commits: equal findings, ledger and cases.

    Rows in equal order give equal ids and notices too; the order changes where a collected batch sorts fewer rows.
    """
    rows = _two_days(11)
    whole = run(tmp_path / "whole", [batch_of(rows)], *files)
    assert {key[2] for key in whole.found()} == {"burst", "hourly", "bulk-external", "bulk-restricted-owner"}
    assert {f.state.value for f in whole.findings.values()} == {"open", "closed"}
    for collected in (1500, 40, 1):
        cuts = []
        for sealed, committed in ((1000, 1), (33, 500)):
            monkeypatch.setattr(seal, "MAX_ROWS", sealed)
            name = f"{collected}-{sealed}-{committed}"
            cut = run(tmp_path / name, _pieces(rows, collected), *files, commit_rows=committed)
            assert {found[1:] for found in cut.found()} == {found[1:] for found in whole.found()}, name
            assert cut.left["ledger"] == whole.left["ledger"], name
            cuts.append((cut.found(), _cases(cut), [(n.id, n.kind) for n in cut.notices]))
        assert cuts[0] == cuts[1], collected


def _cases(outcome: Outcome) -> set[tuple[Any, ...]]:
    """Cases less the amounts of those that are over: these are told as they stood when their commit was decided."""
    return {
        (c.id, c.revision, c.state, c.traffic_state, c.severity, c.opened_ns, c.updated_ns)
        + tuple(f.id for f in c.findings)
        + ((c.traffic, c.destination) if c.traffic_state is TrafficState.ONGOING else ())
        for c in outcome.cases.values()
    }


def test_findings_do_not_depend_on_where_a_run_was_stopped(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay that is asked to stop, again and again, and goes on each time leaves what an unbroken one leaves."""
    monkeypatch.setattr(seal, "MAX_ROWS", 50)
    monkeypatch.setattr(pipeline, "GATHER_ROWS", 60)
    batches = _pieces(_two_days(12), 60)
    whole = run(tmp_path / "whole", batches, *files, commit_rows=1)
    for stops in [(1,), (2, 9), (5, 5, 20), (1, 1, 1, 1)]:
        name = "-".join(map(str, stops))
        kinds: set[tuple[str, NoticeKind]] = set()
        for stop in (*stops, 0):
            part = run(tmp_path / name, batches, *files, commit_rows=1, stop_after=stop)
            kinds |= {(n.id, n.kind) for n in part.notices}
            assert (part.account.residue, part.account.sealed_residue) == (Amounts(), Amounts()), name
        assert part.left == whole.left | {"sequences": part.left["sequences"]}, name
        assert [row[2:] for row in part.left["sequences"]] == [row[2:] for row in whole.left["sequences"]]
        assert kinds == {(n.id, n.kind) for n in whole.notices}, name


def test_a_stopped_replay_lets_go_of_what_comes_again(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was held when it stopped stands in the account as dropped, and is decided by the run that goes on."""
    monkeypatch.setattr(pipeline, "GATHER_ROWS", 500)
    monkeypatch.setattr(seal, "MAX_ROWS", 100)
    batches = _pieces(_two_days(13), 400)
    part = run(tmp_path / "a", batches, *files, commit_rows=1, stop_after=1)
    gone = sum((*part.account.dropped.values(), *part.account.dead.values()), Amounts())
    assert set(part.account.dropped) | set(part.account.dead) == {"stopped"}
    assert part.account.captured == part.account.decided + gone
    ended = run(tmp_path / "a", batches, *files, commit_rows=1)
    assert ended.account.captured == ended.account.decided


def test_rows_of_stores_are_not_late_for_want_of_company(tmp_path: Path, files: tuple[Path, Path]) -> None:
    """A burst of a few rows between many rows of hosts without a store passes a rule of five minutes."""
    burst = [_row(T0 + 600 * SECOND_NS + n * SECOND_NS, 1, 3_000_000) for n in range(3)]
    others = [
        _row(T0 + n * SECOND_NS, 1, 1000, local_address="10.9.0.1", remote_address=f"198.51.100.{n % 250}")
        for n in range(7200)
    ]
    rows = sorted([*burst, *others], key=lambda row: row["end_ns"])
    outcome = run(tmp_path / "a", _pieces(rows, 1000), *files)
    assert [f.rule for f in outcome.findings.values()] == ["burst"]
    assert outcome.cases["2025-1120-01"].traffic.late_octets == 0


@pytest.mark.parametrize("hours", [0.5, 5, 60])
def test_forty_gigabytes_are_one_case_and_at_most_four_notices(
    tmp_path: Path, files: tuple[Path, Path], hours: float
) -> None:
    """A transfer that trips every rule, however long it takes, then silence until every episode has closed."""
    minutes = int(hours * 60)
    rows = [_row(T0 + n * MINUTE_NS, 59, 40 * GB // minutes) for n in range(minutes)]
    after = T0 + minutes * MINUTE_NS
    rows += [_row(after + n * HOUR_NS, 1, 100, local_address="10.0.0.2") for n in range(96)]
    outcome = run(tmp_path / "a", _pieces(rows, 500), *files, commit_rows=1)
    (case,) = outcome.cases.values()
    wanted = {"burst", "hourly", "bulk-external", "bulk-restricted-owner"}
    assert {f.rule for f in outcome.findings.values()} == wanted
    assert case.traffic.content_octets_out == sum(r["content_octets_out"] for r in rows[:minutes])
    kinds = [n.kind for n in outcome.notices]
    assert (kinds[0], kinds[-1], len(kinds) <= 4) == (NoticeKind.OPENED, NoticeKind.CLOSED, True)
    assert {n.case.id for n in outcome.notices if n.case} == {case.id}


def test_a_download_of_ten_gigabytes_is_no_case(tmp_path: Path, files: tuple[Path, Path]) -> None:
    """Bare acknowledgements of a download pass 100 MB at the IP layer and are no data sent."""
    acks = 10 * GB // 1448 // 2
    rows = [
        _row(
            T0 + n * MINUTE_NS,
            59,
            0,
            octets_in=10 * GB // 30,
            packets_in=2 * acks // 30,
            octets_out=52 * acks // 30,
            packets_out=acks // 30,
        )
        for n in range(30)
    ]
    assert sum(row["octets_out"] for row in rows) > 100_000_000
    outcome = run(tmp_path / "a", _pieces(rows, 10), *files, commit_rows=1)
    assert (outcome.findings, outcome.cases, outcome.notices) == ({}, {}, [])
    assert outcome.account.decided == batch_of(rows).amounts()
