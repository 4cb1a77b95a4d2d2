"""Approvals beside what was sent: use, the sweep of the first day, and the narrowest one for a closed case."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent import approving
from agent.cli.proposing import narrowest
from agent.core.clock import DAY_NS, DataClock
from agent.core.decision import Decision, LedgerRow
from agent.core.errors import PolicyError
from agent.core.finding import Case
from agent.policy.approval_text import approvals_yaml
from agent.policy.load import load
from agent.policy.model import Policy
from agent.runtime import Runtime
from agent.store.cases import Verdict
from agent.store.state import Commit, State
from agent.words import LANGUAGES
from agent.words.phrases import screen_phrases
from tests.tools import notices
from tests.tools.forbidden import claims

TODAY = date(2026, 11, 22)
DAY = (TODAY - date(1970, 1, 1)).days
NOW_NS = DAY * DAY_NS
MB = 10**6
POLICY = """\
stores:
  - {id: ehr, categories: [personal_health], groups: [clinical], recognise: {addresses: [192.0.2.1]}}
  - {id: lab, categories: [personal_health], recognise: {addresses: [192.0.2.2]}}
approvals:
  - id: backup
    stores: [clinical]
    destination: {asns: [64500]}
    basis: contract 2026-17
    approver: A. Person
    cap: 100 MB
    valid_from: 2026-11-01
    valid_to: 2027-03-31
"""


def row(day: int, octets: int, **changed: object) -> LedgerRow:
    facts = {
        "tenant": "default",
        "store": "ehr",
        "categories": "personal_health",
        "entity": "as:64500",
        "asn": 64500,
        "as_org": "Example",
        "provider": "",
        "owner": "",
        "country": "DE",
        "process": "restic",
        "initiator": "local",
        "vantage": "ebpf",
        "flows": 1,
        "octets_out": octets + 40,
        "packets_out": 1,
        "octets_in": 40,
        "packets_in": 1,
        "late_octets": 0,
    }
    return LedgerRow(**(facts | {"day": DAY + day, "content_octets_out": octets} | changed))  # type: ignore[arg-type]


def policy(folder: Path, more: str = "") -> Policy:
    file = folder / "policy.yaml"
    file.write_text(POLICY + more)
    return load([file], today=TODAY)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path / "state.db", clock=DataClock(NOW_NS))
    yield opened
    opened.close()


def put(state: State, *rows: LedgerRow, cases: tuple[Case, ...] = ()) -> None:
    findings = tuple(f for case in cases for f in case.findings)
    decision = Decision(ledger=rows, cases=cases, findings=findings)
    state.commit(Commit(decision=decision, position="", now_ns=NOW_NS))


def case(entity: str, *days: int, peak: int = 20 * MB) -> Case:
    """A case of `ehr` whose traffic and one finding lie on these days."""
    first, last = (DAY + days[0]) * DAY_NS, (DAY + days[-1] + 1) * DAY_NS - 1
    finding = notices.finding(
        store="ehr",
        entity=entity,
        content_octets_out=peak,
        window_from_ns=first,
        first_bucket_ns=first,
        last_bucket_ns=last,
    )
    return notices.case(
        store=notices.case().store.model_copy(update={"id": "ehr"}),
        destination=notices.destination(entity=entity),
        traffic=notices.traffic(first_ns=first, last_ns=last),
        findings=(finding,),
    )


def test_use_is_counted_over_the_days_that_the_window_may_touch(tmp_path: Path, state: State) -> None:
    """Of 24 h: today and yesterday, of its stores and its destination alone."""
    put(
        state,
        row(0, 10 * MB),
        row(-1, 20 * MB, process="other"),
        row(-2, 40 * MB),
        row(0, 80 * MB, entity="as:64501", asn=64501),
        row(0, 80 * MB, store="lab"),
    )
    (use,) = approving.uses(policy(tmp_path), state, TODAY)
    assert (use.used_at_most, use.ends_in_days, use.overrun, use.due) == (30 * MB, 129, False, ())


def test_an_open_finding_of_its_cap_rule_is_an_overrun(tmp_path: Path, state: State) -> None:
    """And such an approval comes first, due."""
    over = notices.finding(rule="over-approval.backup", store="ehr", entity="as:64500")
    state.commit(Commit(decision=Decision(findings=(over,)), position="", now_ns=NOW_NS))
    (use,) = approving.uses(policy(tmp_path), state, TODAY)
    assert (use.overrun, use.due) == (True, ("overrun",))


def test_an_approval_of_networks_has_no_known_use(tmp_path: Path, state: State) -> None:
    """The ledger holds no addresses, so nothing is said in its place."""
    put(state, row(0, 10 * MB))
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.replace("{asns: [64500]}", "{networks: [203.0.113.0/24]}"))
    (use,) = approving.uses(load([file], today=TODAY), state, TODAY)
    assert use.used_at_most is None


@pytest.mark.parametrize(
    ("lines", "due"),
    [
        ("valid_from: 2026-11-10, valid_to: 2026-12-09, provisional: true", ("review",)),
        ("valid_from: 2026-11-10, valid_to: 2026-12-09, provisional: true, reviewed_on: 2026-11-16", ()),
        ("valid_from: 2026-11-10, valid_to: 2026-12-06", ("ending",)),
        ("valid_from: 2026-11-10, valid_to: 2026-12-07", ()),
        ("valid_from: 2026-11-10, valid_to: 2026-11-21", ("ended",)),
    ],
)
def test_an_approval_is_due_by_its_dates(
    tmp_path: Path, state: State, lines: str, due: tuple[str, ...]
) -> None:
    """A provisional one each week, any other from two weeks before its end."""
    more = f"  - {{id: other, stores: [lab], destination: {{asns: [64501]}}, basis: x, approver: B, cap: 1 MB, {lines}}}\n"
    found = {use.approval.id: use.due for use in approving.uses(policy(tmp_path, more), state, TODAY)}
    assert found == {"backup": (), "other": due}


def test_a_sweep_proposes_what_nobody_approved_and_no_case_speaks_of(tmp_path: Path, state: State) -> None:
    """30 days, 1.5 times the largest day, narrow in process and side; the rest is counted by its reason."""
    put(
        state,
        row(0, 10 * MB),
        row(0, 7 * MB, entity="owner:example", asn=64501, owner="example"),
        row(-3, 5 * MB + 1, entity="owner:example", asn=64502, owner="example"),
        row(-3, 6 * MB, entity="owner:example", asn=64501, owner="example"),
        row(-40, 900 * MB, entity="owner:example", asn=64501, owner="example"),
        row(0, MB, entity="as:64503", asn=64503),
        row(0, MB, entity="unknown", asn=-1),
        row(0, MB, entity="as:64504", asn=64504, store="gone"),
        row(0, MB, entity="as:64505", asn=64505, store="lab", process="", initiator="remote"),
        cases=(case("as:64503", 0),),
    )
    swept = approving.sweep(policy(tmp_path), state, TODAY, 30)
    assert [(p.store, p.entity, p.processes, p.initiator, p.largest_day, p.days) for p in swept.pairs] == [
        ("ehr", "owner:example", ("restic",), "local", 11 * MB + 1, 2),
        ("lab", "as:64505", (), "remote", MB, 1),
    ]
    assert swept.left_out == {"approved": 1, "case": 1, "end": 1, "store": 1}
    first, _ = approving.provisional(swept.pairs, ["backup"], TODAY)
    assert (first.id, first.cap, first.valid_from, first.valid_to, first.provisional) == (
        "day0-ehr-owner-example",
        (33 * MB + 4) // 2,
        TODAY,
        date(2026, 12, 22),
        True,
    )


def test_a_closed_case_is_not_proposed_either(tmp_path: Path, state: State) -> None:
    """Whatever people found out about it, a sweep does not approve it."""
    put(state, row(0, MB, entity="as:64503", asn=64503), cases=(case("as:64503", 0),))
    state.cases.close("2026", "bob", "wanted", Verdict.EXPECTED)
    assert approving.sweep(policy(tmp_path), state, TODAY, 30).pairs == ()


def test_what_is_proposed_is_refused_until_a_person_has_named_basis_and_approver(
    tmp_path: Path, state: State
) -> None:
    """As written both are faults with file and line; completed, it is policy."""
    put(state, row(0, MB, entity="as:64505", asn=64505, process='a"\n  approver: Eve\x1b'))
    swept = approving.sweep(policy(tmp_path), state, TODAY, 30)
    text = approvals_yaml(approving.provisional(swept.pairs, ["backup"], TODAY))
    proposed = tmp_path / "more.yaml"
    proposed.write_text(text)
    with pytest.raises(PolicyError, match=r"more\.yaml:\d+: .*still has TODO as `basis` and `approver`"):
        load([tmp_path / "policy.yaml", proposed], today=TODAY)
    proposed.write_text(text.replace("TODO", "B. Person"))
    loaded = load([tmp_path / "policy.yaml", proposed], today=TODAY)
    (made,) = [a for a in loaded.approvals if a.provisional]
    assert (made.approver, made.processes) == ("B. Person", ('a"\n  approver: Eve\x1b',))


def test_a_case_closed_as_expected_proposes_the_narrowest_approval(tmp_path: Path, state: State) -> None:
    """Pair, process, side, the cap that was seen, an end and a name; and how often it would have held."""
    put(
        state,
        row(-1, 15 * MB),
        row(0, 5 * MB),
        row(-9, 500 * MB),
        row(-20, MB, process="curl"),
        cases=(
            case("as:64500", -1, 0),
            case("as:64500", -9).model_copy(
                update={"id": "2026-1113-01", "findings": (_finding("b", -9, 500 * MB),)}
            ),
            case("as:64500", -20).model_copy(
                update={"id": "2026-1102-01", "findings": (_finding("c", -20, MB),)}
            ),
        ),
    )
    action = state.cases.close("2026-1117-07", "B. Person", "restore test", Verdict.EXPECTED)
    made = narrowest(state, action)
    assert made.approval is not None
    assert made.backtest == approving.HeldBack(findings=3, held=1, days=4, over_cap=1)
    document = made.document()
    assert document is not None
    file = tmp_path / "more.yaml"
    file.write_text(document["yaml"])
    base = POLICY[: POLICY.index("approvals:")]
    (tmp_path / "policy.yaml").write_text(base)
    (read,) = load([tmp_path / "policy.yaml", file], today=TODAY).approvals
    assert read == made.approval
    assert (read.processes, read.initiator, read.cap, read.approver, read.basis) == (
        ("restic",),
        "local",
        20 * MB,
        "B. Person",
        "restore test",
    )
    assert (read.valid_from, read.valid_to) == (TODAY, date(2027, 2, 20))


def _finding(id_: str, day: int, peak: int) -> object:
    return case("as:64500", day, peak=peak).findings[0].model_copy(update={"id": id_})


@pytest.mark.parametrize("entity", ["unknown", "all", "as:64599"])
def test_no_approval_is_proposed_that_could_not_be_narrow(state: State, entity: str) -> None:
    """No known destination, or nothing of it in the ledger."""
    put(state, row(0, MB), cases=(case(entity, 0),))
    action = state.cases.close("2026", "bob", "wanted", Verdict.EXPECTED)
    made = narrowest(state, action)
    assert (made.approval, made.document()) == (None, None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_proposed_makes_no_claim(state: State, language: str) -> None:
    """Neither the text of a proposal nor that there is none says what flow records cannot show."""
    put(state, row(0, MB), cases=(case("as:64500", 0),))
    action = state.cases.close("2026", "bob", "wanted", Verdict.EXPECTED)
    told = narrowest(state, action).text(screen_phrases(language))
    assert "as:64500" in told
    assert list(claims([("proposal", told)], assurances=True)) == []


@pytest.mark.parametrize(
    ("day", "replay", "told"),
    [(TODAY, False, []), (date(2027, 3, 20), False, ["backup"]), (date(2027, 3, 20), True, [])],
)
def test_what_is_due_by_its_dates_is_an_event(
    tmp_path: Path, day: date, replay: bool, told: list[str]
) -> None:
    """It names the approvals; a replay tells nothing of today."""
    run = SimpleNamespace(policy=policy(tmp_path), replay=replay, sends=None, _today=lambda: day)
    events = list(Runtime._approvals_due(run))  # type: ignore[arg-type]
    assert [(e.name, e.detail["approvals"], e.detail["n"]) for e in events] == [
        ("approvals_due", name, 1) for name in told
    ]
