"""Approved transfers: recorded like any other, and nobody is told while they keep to what was agreed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date
from pathlib import Path

import pytest

from agent.core.clock import DAY_NS, HOUR_NS, SECOND_NS
from agent.core.finding import NoticeKind
from agent.detection.detector import Detector
from agent.policy.load import load
from agent.policy.model import Policy
from agent.words import LANGUAGES, render
from tests.tools.recount import Sent
from tests.tools.transfers import MB, T0, Run

TODAY = date(2025, 11, 21)
"""The day of T0."""
STORE = """\
stores:
  - {id: ehr, categories: [personal_health], groups: [clinical], recognise: {addresses: [192.0.2.1]}}
rules:
  - {id: bulk-external, enabled: false}
  - {id: bulk-restricted-owner, enabled: false}
  - {id: mine, over: 10 MB, window: 1h}
"""
APPROVAL = """\
approvals:
  - id: backup
    stores: [clinical]
    destination: {asns: [64500]}
    processes: [postgres]
    initiator: local
    basis: contract 2026-17
    approver: A. Person
    cap: 100 MB
    window: 24h
    valid_from: 2025-11-01
    valid_to: 2025-11-22
"""


def policy(folder: Path, approval: str = APPROVAL) -> Policy:
    file = folder / "policy.yaml"
    file.write_text(STORE + approval)
    return load([file], today=TODAY)


def row(at_ns: int, octets: int, asn: int = 64500, initiator: str = "local") -> Sent:
    return Sent("ehr", asn, at_ns, at_ns + SECOND_NS, octets, initiator)


def told(run: Run) -> list[tuple[NoticeKind, list[str]]]:
    """Kind of each notice, and the rules of its case's findings."""
    return [(n.kind, sorted(f.rule for f in n.case.findings)) for n in run.notices if n.case]


def recorded(run: Run) -> list[tuple[str, str]]:
    """Rule and approval of each finding, by rule."""
    return sorted((f.rule, f.approval) for f in run.findings.values())


def taken(policy: Policy, rows: Sequence[Sent]) -> Run:
    run = Run(Detector(policy, None))
    for one in rows:
        run.take([one])
    return run


def test_an_approved_transfer_is_recorded_and_tells_nobody(tmp_path: Path) -> None:
    """Its finding names the approval; no case is opened and no notice made."""
    run = taken(policy(tmp_path), [row(T0, 20 * MB), row(T0 + 60 * SECOND_NS, 30 * MB)])
    assert (recorded(run), told(run), run.cases) == ([("mine", "backup")], [], {})
    bare = taken(policy(tmp_path, ""), [row(T0, 20 * MB)])
    assert (recorded(bare), told(bare)) == ([("mine", "")], [(NoticeKind.OPENED, ["mine"])])


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        (("cap: 100 MB", "cap: 100 MB"), row(T0, 20 * MB, asn=64501)),
        (("cap: 100 MB", "cap: 100 MB"), row(T0, 20 * MB, initiator="remote")),
        (("[postgres]", "[rsync]"), row(T0, 20 * MB)),
        (("cap: 100 MB", "cap: 100 MB"), row(T0 + 2 * DAY_NS, 20 * MB)),
        (("valid_from: 2025-11-01", "valid_from: 2025-11-22"), row(T0, 20 * MB)),
    ],
    ids=["another destination", "opened by the other end", "another process", "after its end", "before it begins"],
)  # fmt: skip
def test_what_was_not_agreed_is_told(tmp_path: Path, change: tuple[str, str], sent: Sent) -> None:
    """Another end, initiator, process or day: people are told as if there were no approval."""
    run = taken(policy(tmp_path, APPROVAL.replace(*change)), [sent])
    assert (recorded(run), told(run)) == ([("mine", "")], [(NoticeKind.OPENED, ["mine"])])


def test_more_than_was_agreed_is_told(tmp_path: Path) -> None:
    """Over the cap a rule of the approval's own finds; exactly the cap is within it."""
    within = [row(T0 + n * HOUR_NS, 20 * MB) for n in range(5)]
    run = taken(policy(tmp_path), within)
    assert (told(run), {approval for _, approval in recorded(run)}) == ([], {"backup"})
    run.take([row(T0 + 6 * HOUR_NS, 1)])
    assert told(run) == [(NoticeKind.OPENED, ["over-approval.backup"])]


def test_a_transfer_that_goes_on_past_the_end_is_told(tmp_path: Path) -> None:
    """The episode that was held back tells people with its first exceedance after the approval's last day."""
    run = taken(policy(tmp_path), [row(T0 + n * HOUR_NS, 11 * MB) for n in (0, 20, 38)])
    assert told(run) == []
    run.take([row(T0 + 45 * HOUR_NS, 11 * MB)])
    run.take([row(T0 + 47 * HOUR_NS, 1)])
    assert [kind for kind, _ in told(run)] == [NoticeKind.OPENED]
    assert recorded(run) == [("mine", "")]


def test_a_new_end_of_the_same_transfer_is_told(tmp_path: Path) -> None:
    """What another initiator adds to an episode that was held back ends the silence."""
    run = taken(policy(tmp_path), [row(T0, 20 * MB)])
    assert told(run) == []
    run.take([row(T0 + 10 * SECOND_NS, 20 * MB, initiator="remote")])
    assert told(run) == [(NoticeKind.OPENED, ["mine"])]


def test_restart_and_reload_keep_what_was_held_back(tmp_path: Path) -> None:
    """A detector restored from its state goes on holding back; without the approval after a reload people are told."""
    before = taken(policy(tmp_path), [row(T0, 20 * MB)])
    after = Run(Detector(policy(tmp_path), None))
    after.detector.restore(before.detector.snapshot(), [])
    after.take([row(T0 + 60 * SECOND_NS, 20 * MB)])
    assert told(after) == []
    after.heard(after.detector.set_policy(policy(tmp_path, ""), None))
    assert told(after) == [(NoticeKind.OPENED, ["mine"])]


def test_findings_bear_the_commit_of_the_policy(tmp_path: Path) -> None:
    """Where the policy's files are of a commit, each finding's versions name it beside the policy's own."""
    known = policy(tmp_path, "")
    run = taken(known.model_copy(update={"commit": "0123456789ab+changed"}), [row(T0, 20 * MB)])
    (finding,) = run.findings.values()
    assert finding.versions["policy_commit"] == "0123456789ab+changed"
    (finding,) = taken(known, [row(T0, 20 * MB)]).findings.values()
    assert "policy_commit" not in finding.versions


def beside(run: Run) -> list[tuple[str, str, int | None]]:
    """What the last notice says of approvals: id, standing, octets used."""
    case = run.notices[-1].case
    assert case is not None
    return [(fact.id, fact.standing.value, fact.used_octets) for fact in case.approvals]


@pytest.mark.parametrize(
    ("change", "rows", "expected"),
    [
        (("", ""), [row(T0, 60 * MB), row(T0 + HOUR_NS, 90 * MB)], ("overrun", 150 * MB)),
        (("valid_to: 2025-11-22", "valid_to: 2025-11-20"), [row(T0, 60 * MB)], ("expired", 60 * MB)),
        (("valid_from: 2025-11-01", "valid_from: 2025-11-22"), [row(T0, 60 * MB)], ("not_yet", 60 * MB)),
        (("[postgres]", "[restic]"), [row(T0, 60 * MB)], ("other_process", 60 * MB)),
        (("initiator: local", "initiator: remote"), [row(T0, 60 * MB)], ("other_side", 60 * MB)),
        (("[64500]", "[64501]"), [row(T0, 60 * MB)], ("other_end", None)),
    ],
)
def test_a_case_says_how_approvals_of_its_store_stand_to_it(
    tmp_path: Path, change: tuple[str, str], rows: list[Sent], expected: tuple[str, int | None]
) -> None:
    """Over the cap, expired, not yet begun, for another process, side or destination; with what was used."""
    run = taken(policy(tmp_path, APPROVAL.replace(*change)), rows)
    assert beside(run) == [("backup", *expected)]


def test_the_alert_names_approver_end_cap_and_use(tmp_path: Path) -> None:
    """In both languages, whatever the basis holds on one line."""
    run = taken(policy(tmp_path), [row(T0, 60 * MB), row(T0 + HOUR_NS, 90 * MB)])
    said = {
        language: render(run.notices[-1], language=language, zone=UTC, detail="full")
        for language in LANGUAGES
    }
    assert (
        "Over the cap of approved transfer backup: approved by A. Person until 2025-11-22 (contract 2026-17), "
        "cap 100 MB in 24 h, used 150 MB."
    ) in said["en"]
    assert (
        "A. Person が承認、期限 2025-11-22（contract 2026-17）、上限 24時間で 100 MB、使用量 150 MB"
        in said["ja"]
    )
