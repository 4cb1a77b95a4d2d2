"""Another table of owners: what was sent before counts for the entities that it names, and people are told once."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.finding import CaseState, NoticeKind, Severity, TrafficState
from agent.detection.detector import Detector
from agent.policy.model import DestinationSet, Recognition, Rule
from agent.policy.ownership import Ownership
from tests.tools.recount import Sent
from tests.tools.transfers import MB, T0, Run, policy, store

HEAD = "version: 1\nupdated: 2025-11-01\nowners:\n"
OWNERS = (
    "  - {id: north, name: North Group, country: 'NO', mark: V, source: report, checked: 2025-11-01}\n"
    "  - {id: east, name: East Group, country: RU, mark: V, source: report, checked: 2025-11-01}\n"
    "  - {id: cloud, name: Cloud Ltd, mark: V, source: report, checked: 2025-11-01}\n"
)
NETWORKS = (
    "networks:\n"
    "  - {asns: [64500], provider: cloud, provider_name: Cloud, organisation: Cloud Ltd, owner: cloud}\n"
    "  - {asns: [64501], provider: n, provider_name: N, organisation: N, owner: north}\n"
    "  - {asns: [64502], provider: e, provider_name: E, organisation: E, owner: east}\n"
)
SET = DestinationSet(id="restricted", owner_countries=("RU",))
ANY = Rule(id="any", over=500 * MB, window="24h", severity=Severity.MEDIUM)
RESTRICTED = Rule(
    id="restricted", over=100 * MB, window="24h", severity=Severity.HIGH, destinations=("restricted",)
)


def table(folder: Path, by: str, share: float = 60) -> Ownership:
    """Cloud Ltd, of which ``by`` holds a share."""
    edge = f"  - {{of: cloud, by: {by}, share: {share}, mark: V, source: filing, checked: 2025-11-01}}\n"
    file = folder / f"{by}-{share}.yaml"
    file.write_text(HEAD + OWNERS + "stakes:\n" + edge + NETWORKS)
    return Ownership.load(file)


def transfer(store_id: str, total: int, asn: int = 64500, start_s: int = 0) -> list[Sent]:
    """A transfer of an hour in steps of a minute."""
    ends = [T0 + (start_s + 60 * i) * SECOND_NS for i in range(1, 61)]
    return [Sent(store_id, asn, end - 5 * SECOND_NS, end, total // 60) for end in ends]


def started(
    ownership: Ownership, stores: tuple[str, ...] = ("ehr",), rules: tuple[Rule, ...] = (ANY,)
) -> Run:
    registered = [
        store(name, recognise=Recognition(addresses=(f"192.0.2.{i + 1}",))) for i, name in enumerate(stores)
    ]
    return Run(Detector(policy(*rules, stores=registered, destinations=(SET,)), ownership))


def sum_of(run: Run, entity: str, store_id: str = "ehr") -> int | None:
    bucket = (T0 + HOUR_NS) // (15 * MINUTE_NS)
    return run.detector.window_sum("default", store_id, entity, "24h", bucket)


def test_one_edge_changed_moves_what_was_sent_before(tmp_path: Path) -> None:
    """A stake that passes from one owner to another takes the windows' sums of a past transfer along."""
    run = started(table(tmp_path, "north"))
    run.take(transfer("ehr", 600 * MB))
    assert (sum_of(run, "owner:north"), sum_of(run, "owner:east")) == (600 * MB, 0)
    run.heard(run.detector.set_policy(run.detector.policy, table(tmp_path, "east")))
    assert (sum_of(run, "owner:north"), sum_of(run, "owner:east")) == (0, 600 * MB)
    run.ledger.clear()
    run.take(transfer("ehr", MB, start_s=7200))
    run.heard(run.detector.finish())
    assert {(row.entity, row.asn) for row in run.ledger} == {("owner:east", 64500)}


def test_an_open_case_goes_along_and_keeps_its_id(tmp_path: Path) -> None:
    """Finding and case keep their ids; only entity, owner and revision change, and nobody is told of that alone."""
    run = started(table(tmp_path, "north"))
    run.take(transfer("ehr", 600 * MB))
    (case,) = run.cases.values()
    (finding,) = run.findings.values()
    told = len(run.notices)
    run.heard(run.detector.set_policy(run.detector.policy, table(tmp_path, "east")))
    (after,) = run.cases.values()
    (moved,) = run.findings.values()
    assert (case.destination.entity, after.destination.entity) == ("owner:north", "owner:east")
    assert (after.id, after.state, after.traffic) == (case.id, CaseState.OPEN, case.traffic)
    assert (moved.id, moved.entity, moved.first_bucket_ns) == (
        finding.id,
        "owner:east",
        finding.first_bucket_ns,
    )
    assert moved.revision > finding.revision
    assert after.destination.addresses == case.destination.addresses
    assert after.destination.owner.chain[0].by == "east"
    assert len(run.notices) == told


def test_twenty_stores_that_sent_there_are_told_once(tmp_path: Path) -> None:
    """An owner that turns out to be restricted opens a case for every store that sent there; people are told of one."""
    stores = tuple(f"store-{n:02}" for n in range(20))
    run = started(table(tmp_path, "north"), stores, (RESTRICTED,))
    for name in stores:
        run.take(transfer(name, 200 * MB))
    assert (run.cases, run.notices) == ({}, [])
    run.heard(run.detector.set_policy(run.detector.policy, table(tmp_path, "east")))
    for name in stores:
        run.take([Sent(name, 64501, T0 + 2 * HOUR_NS, T0 + 2 * HOUR_NS, 1)])
    assert {case.store.id for case in run.cases.values()} == set(stores)
    assert {case.destination.entity for case in run.cases.values()} == {"owner:east"}
    assert {reason for f in run.findings.values() for reason in f.reasons} >= {"reclassified"}
    assert [notice.kind for notice in run.notices] == [NoticeKind.OPENED, NoticeKind.CLOSED]
    assert len({notice.case.id for notice in run.notices if notice.case}) == 1


def test_what_is_sent_after_the_change_is_told_of_every_store(tmp_path: Path) -> None:
    """Only what the past alone passes is held back: a store that first passes the threshold afterwards is told."""
    run = started(table(tmp_path, "north"), ("one", "two"), (RESTRICTED,))
    run.take(transfer("one", 200 * MB))
    run.take(transfer("two", 50 * MB))
    run.heard(run.detector.set_policy(run.detector.policy, table(tmp_path, "east")))
    run.take(transfer("one", MB, start_s=7200))
    run.take(transfer("two", 200 * MB, start_s=7200))
    assert [notice.case.store.id for notice in run.notices if notice.case] == ["one", "two"]


def test_a_case_that_is_there_already_goes_on(tmp_path: Path) -> None:
    """Where the new owner has a case of that store already, the old one's findings end and the new one goes on."""
    run = started(table(tmp_path, "north"))
    run.take(transfer("ehr", 600 * MB))
    run.take(transfer("ehr", 600 * MB, asn=64502))
    run.heard(run.detector.set_policy(run.detector.policy, table(tmp_path, "east")))
    run.take(transfer("ehr", MB, asn=64502, start_s=7200))
    by_entity = {case.destination.entity: case for case in run.cases.values()}
    assert {entity: case.traffic_state for entity, case in by_entity.items()} == {
        "owner:north": TrafficState.STOPPED,
        "owner:east": TrafficState.ONGOING,
    }
    assert sum_of(run, "owner:east") == 1200 * MB
    assert by_entity["owner:north"].findings[0].reasons[-1] == "reclassified"


@pytest.mark.parametrize("live", [True, False])
def test_a_restart_with_another_table_is_the_same_as_a_reload(tmp_path: Path, live: bool) -> None:
    """A start with another table than the snapshot's moves the past as a reload does."""
    run = started(table(tmp_path, "north"))
    run.take(transfer("ehr", 600 * MB))
    east = table(tmp_path, "east")
    if live:
        run.heard(run.detector.set_policy(run.detector.policy, east))
    else:
        snapshot, again = run.detector.snapshot(), Run(Detector(run.detector.policy, east))
        again.detector.restore(snapshot, ())
        again.cases, again.findings = run.cases, run.findings
        run = again
    run.take([Sent("ehr", 64501, T0 + 2 * HOUR_NS, T0 + 2 * HOUR_NS, 1)])
    (case,) = run.cases.values()
    assert (case.destination.entity, sum_of(run, "owner:east")) == ("owner:east", 600 * MB)


def test_the_same_table_moves_nothing(tmp_path: Path) -> None:
    """A table that names the same owners changes no key, though its version is another."""
    run = started(table(tmp_path, "north"))
    run.take(transfer("ehr", 600 * MB))
    before = dict(run.cases)
    run.heard(run.detector.set_policy(run.detector.policy, table(tmp_path, "north", 75)))
    assert {c.destination.entity for c in run.cases.values()} == {"owner:north"}
    assert run.cases.keys() == before.keys()
    assert sum_of(run, "owner:north") == 600 * MB


def test_a_snapshot_remembers_what_moved(tmp_path: Path) -> None:
    """After a restart a finding that rests on moved traffic alone still says so, and is still told once."""
    run = started(table(tmp_path, "north"), ("one", "two"), (RESTRICTED,))
    for name in ("one", "two"):
        run.take(transfer(name, 200 * MB))
    east = table(tmp_path, "east")
    run.heard(run.detector.set_policy(run.detector.policy, east))
    run.take([Sent("one", 64501, T0 + 2 * HOUR_NS, T0 + 2 * HOUR_NS, 1)])
    again = Run(Detector(run.detector.policy, east))
    again.detector.restore(run.detector.snapshot(), ())
    again.take([Sent("two", 64501, T0 + DAY_NS // 4, T0 + DAY_NS // 4, 1)])
    told = [*run.notices, *again.notices]
    assert [notice.kind for notice in told].count(NoticeKind.OPENED) == 1
    assert {notice.case.store.id for notice in told if notice.case} == {"one"}
