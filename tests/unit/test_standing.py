"""How a host and the fleet stand: the account closed to the octet, hours, and what was not observed."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from agent.cli.status import strip
from agent.core.accounts import Accounts, Amounts
from agent.core.clock import HOUR_NS, SECOND_NS, DataClock
from agent.core.errors import PolicyError, StateError
from agent.detection.fleet import Known
from agent.policy import load as policy_files
from agent.policy.model import Policy
from agent.receiving import standing
from agent.receiving.standing import HourSeen
from agent.sending import telling
from agent.store.coverage import Maintained
from agent.store.inputs import Covered, Intake
from agent.store.state import Commit, State
from tests.tools.beats import RUN, Arrived, Beating, lane
from tests.tools.program import sekisho

S = SECOND_NS
NOW = 490_000 * HOUR_NS


def _account(**terms: int) -> dict[str, Any]:
    """The account of an agent that captured and sealed so much."""
    accounts = Accounts()
    accounts.capture(Amounts(1, terms["captured"], 0), held_in="batches")
    if dropped := terms.get("dropped"):
        accounts.drop("map_full", _Only(Amounts(0, dropped, 0)), held_in="batches")
    accounts.seal(Amounts(1, terms["sealed"], 0), held_in="batches")
    accounts.wait(Amounts(1, terms["sealed"], 0))
    accounts.spool(Amounts(1, terms["sealed"], 0))
    if gone := terms.get("gone"):
        accounts.spool_drop("spool_full", Amounts(0, gone, 0), spooled=True)
    accounts.acknowledge(Amounts(1, terms.get("acked", 0), 0))
    return accounts.read().as_dict()


class _Only:
    def __init__(self, amounts: Amounts) -> None:
        self._amounts = amounts

    def amounts(self) -> Amounts:
        return self._amounts


def _path(account: dict[str, Any], decided: int | None, **how: bool) -> tuple[dict[str, int], int]:
    whole = None if decided is None else Amounts(1, decided, 0)
    terms, residue = standing.path_of(
        account, whole, ended=how.get("ended", False), gap=how.get("gap", False)
    )
    return {name: amounts.octets_out for name, amounts in terms.items()}, residue.octets_out


def test_the_path_of_a_run_that_goes_on() -> None:
    """What is sealed and neither let go nor decided is on the way."""
    account = _account(captured=1000, dropped=50, sealed=900, gone=100, acked=500)
    assert _path(account, 600) == (
        {
            "captured": 1000,
            "dropped (map_full)": 50,
            "in memory": 50,
            "sealed": 900,
            "spool dropped (spool_full)": 100,
            "decided": 600,
            "on the way": 200,
        },
        0,
    )


def test_rows_decided_after_the_last_heartbeat_are_named() -> None:
    """The detector may be ahead of what the agent told last; that is no residue."""
    found, residue = _path(_account(captured=100, sealed=100), 130)
    assert (found["newer than the heartbeat"], residue) == (30, 0)


@pytest.mark.parametrize(
    ("decided", "gap", "terms", "residue"),
    [(900, False, {}, 0), (880, True, {"gap": 20}, 0), (880, False, {}, 20), (930, False, {}, -30)],
)
def test_the_account_of_a_run_that_has_ended_is_closed(
    decided: int, gap: bool, terms: dict[str, int], residue: int
) -> None:
    """What is missing then is a gap where batches are known to be, else a residue; so is what is too much."""
    found, left = _path(_account(captured=900, sealed=900, acked=900), decided, ended=True, gap=gap)
    assert ({k: v for k, v in found.items() if k in ("gap", "on the way")}, left) == (terms, residue)


def test_the_agents_own_residue_is_shown() -> None:
    """An account that does not close on the agent does not close here."""
    account = _account(captured=1000, sealed=1000)
    account["residue"] = {"flows": 0, "octets_out": 7, "octets_in": 0}
    assert _path(account, None)[1] == 7


def _policy(folder: Path, text: str) -> Policy:
    (folder / "p.yaml").write_text("version: 1\ntenant: example\n" + text)
    return policy_files.load([folder / "p.yaml"], today=date(2026, 1, 1))


EXPECTED = """expected_hosts:
  - host: db-1
  - host: web-1
  - {host: nas-1, no_agent: appliance}
stores:
  - {id: patients, categories: [personal_health], recognise: {hosts: [db-1]}}
"""


def _known(time_ns: int) -> Known:
    known, arrived = Known("a", "db-1"), Arrived()
    agent = Beating("a", "db-1", started_ns=NOW - 3 * HOUR_NS)
    known.hear(agent.beat(time_ns, lanes=lane(0), account=_account(captured=90, sealed=90)), time_ns)
    known.settle(lambda run, on, first, last: False, known.low_water, 0)
    del arrived
    return known


def test_hosts_that_were_heard_and_hosts_that_are_expected(tmp_path: Path) -> None:
    """Each by name with its state, its last 24 hours and its stores; one without an agent says why."""
    work = Maintained(1, "web-1", NOW - S, NOW + S, "new disks", "ann")
    policy = _policy(tmp_path, EXPECTED)
    found = standing.of_agents([_known(NOW - 5 * S)], {("a", RUN): Amounts(1, 60, 0)}, policy, [work], NOW)
    assert [(h.host, h.state, h.stores, h.maintained, h.no_agent) for h in found] == [
        ("db-1", "talking", ("patients",), "", ""),
        ("nas-1", "no_agent", (), "", "appliance"),
        ("web-1", "never_heard", (), "new disks", ""),
    ]
    hours = found[0].hours
    assert hours is not None
    assert [h.covered_s for h in hours] == [0] * 21 + [3600, 3600, 3595]
    assert strip(hours, plain=True) == "." * 21 + "##-"
    assert [(u.reason, u.to_ns) for u in found[0].unseen] == [("not_heard_before", NOW - 3 * HOUR_NS)]
    whole, residue = standing.summed(found)
    assert (whole["on the way"].octets_out, residue) == (30, Amounts())


def test_a_host_that_is_expected_twice_is_a_fault_with_its_line(tmp_path: Path) -> None:
    """As is one without a name; all at once."""
    with pytest.raises(PolicyError) as told:
        _policy(tmp_path, "expected_hosts:\n  - host: db-1\n  - host: DB-1\n  - {no_agent: x}\n")
    said = [(f.line, f.message) for f in told.value.faults]
    assert [line for line, _ in said] == [5, 6] and "expected twice, first at" in said[0][1]


def test_a_letter_for_each_hour() -> None:
    """Whole only where nothing was lost either."""
    hours = [HourSeen(0, 3600, 0, ()), HourSeen(0, 3600, 5, ()), HourSeen(0, 0, None, ())]
    assert (strip(hours, plain=False), strip(hours, plain=True)) == ("█▒·", "#-.")


# the commands


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a detector's state: one agent on a host with a store."""
    (tmp_path / "policy.yaml").write_text("version: 1\ntenant: example\n" + EXPECTED)
    (tmp_path / "sekisho.yaml").write_text("policy: [policy.yaml]\nenrichers: {}\n")
    clock = DataClock(NOW)
    known = _known(NOW - 5 * S)
    with State.open(tmp_path / "state" / "state.db", clock=clock) as state:
        covered = Covered(agents={"a": known.as_dict()}, taken={("a", RUN): Amounts(1, 60, 0)})
        from agent.core.decision import Decision

        state.commit(Commit(Decision(), "", NOW, intake=Intake(covered=covered)))
    return tmp_path


def test_status_shows_one_host_whole_and_the_fleet_as_a_table(home: Path) -> None:
    """In both languages; a host nobody knows is an error that says what to do."""
    fleet = sekisho("status", home=home)
    assert fleet.code == 0, fleet.text
    for said in ("3 hosts: ", "db-1", "nas-1", "never heard", "on the way", "not explained"):
        assert said in fleet.out, said
    one = sekisho("status", "--host", "DB-1", home=home)
    assert "db-1: silent, heard" in one.out and "stores here: patients" in one.out
    assert "to now: silent; no bound of what may be lost" in one.out
    japanese = sekisho("--set", "language=ja", "status", "--host", "nas-1", home=home)
    assert "エージェントなし" in japanese.out
    missing = sekisho("status", "--host", "nobody", home=home)
    assert (missing.code, "nothing is known of host 'nobody'" in missing.err) == (1, True)
    for text in (fleet.out, one.out):
        assert "clean" not in text and "compliant" not in text


def test_maintenance_of_a_host_with_a_store_needs_a_second_person(home: Path) -> None:
    """Not oneself under another spelling; a host without a store needs nobody; all hosts do where there is any store."""
    start = ("maintenance", "start", "--reason", "new disks", "--as", "ann")
    refused = sekisho(*start, "--host", "db-1", home=home)
    assert (refused.code, "holds patients; name a second person" in refused.err) == (1, True)
    same = sekisho(*start, "--host", "db-1", "--second", " Ann ", home=home)
    assert (same.code, "another person than yourself" in same.err) == (1, True)
    everywhere = sekisho(*start, home=home)
    assert everywhere.code == 1
    assert sekisho(*start, "--host", "web-1", home=home).code == 0
    made = sekisho(*start, "--host", "db-1", "--second", "ben", "--until", "90m", "--json", home=home)
    told = json.loads(made.out)
    assert (told["host"], told["second"], told["until_ns"] - told["from_ns"]) == ("db-1", "ben", 5400 * S)
    assert sekisho("maintenance", "end", str(told["id"]), "--as", "ben", home=home).code == 0
    again = sekisho("maintenance", "end", str(told["id"]), home=home)
    assert (again.code, "no maintenance" in again.err) == (1, True)
    listed = [
        json.loads(line) for line in sekisho("maintenance", "list", "--json", home=home).out.splitlines()
    ]
    assert [(m["host"], m["reason"], m["ended_by"]) for m in listed] == [
        ("web-1", "new disks", ""),
        ("db-1", "new disks", "ben"),
    ]
    assert "new disks" in sekisho("maintenance", "list", home=home).out


@pytest.mark.parametrize("more", [["--until", "8d"], ["--until", "soon"], ["--reason", " "]])
def test_a_maintenance_without_an_end_or_a_reason_is_wrong_usage(home: Path, more: list[str]) -> None:
    """At most seven days, and never without a word why."""
    assert sekisho("maintenance", "start", "--reason", "x", *more, home=home).code == 2


def test_what_a_program_wrote_of_itself_is_read_back_or_refused(tmp_path: Path) -> None:
    """A torn file is named; none is none."""
    assert telling.read(tmp_path) is None
    telling.write(tmp_path, {"role": "agent", "host": "db-1", "account": _account(captured=5, sealed=5)})
    table = telling.read(tmp_path)
    assert table is not None
    host = standing.of_file(table)
    assert (host.host, host.account["sealed"].octets_out, host.residue) == ("db-1", 5, Amounts())
    for torn in ("{", "[]"):
        (tmp_path / telling.FILE).write_text(torn)
        with pytest.raises(StateError):
            telling.read(tmp_path)
