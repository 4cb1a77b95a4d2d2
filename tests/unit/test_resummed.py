"""The ledger by another table of owners: the twelve months' sum of a past transfer follows the corrected owner."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.accounts import Accounts
from agent.core.clock import DAY_NS, HOUR_NS, DataClock
from agent.core.finding import Severity
from agent.deciding import LocalDecide
from agent.detection.detector import Detector
from agent.policy.model import Override, Rule
from agent.policy.ownership import Ownership
from agent.store.database import open_database
from agent.store.keeping import verify
from agent.store.ledger import LedgerSum
from agent.store.state import State
from tests.tools.recount import Sent
from tests.tools.transfers import MB, T0, policy, sent
from tests.unit.test_reclassification import table, transfer

QUIET = Rule(id="any", over=10**12, window="24h", severity=Severity.MEDIUM)
ASKED = ("store", "entity")


class Home:
    """A state database that is opened with one table of owners after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.sequence = folder, DataClock(T0), 0

    def run(
        self, ownership: Ownership, *transfers: list[Sent], clean: bool = True, **columns: object
    ) -> None:
        """Open, take transfers, close."""
        with State.open(self.folder / "state.db", clock=self.clock) as state:
            decide = LocalDecide(Detector(policy(QUIET), ownership), state, Accounts(), self.clock, "db-1")
            decide.restore()
            for rows in transfers:
                batch = sent(rows, **columns)
                batch = batch.with_header(run_id="r", sequence=self.sequence)
                self.sequence += 1
                self.clock.set(max(r.end_ns for r in rows))
                decide.take([batch], self.clock.now_ns())
            decide.tick(self.clock.now_ns() + HOUR_NS)
            if clean:
                decide.finish()

    def sums(self) -> dict[str, int]:
        """Content octets by entity over twelve months; each pair by itself has the same."""
        today = T0 // DAY_NS
        with State.open(self.folder / "state.db", clock=self.clock, read_only=True) as state:
            found: list[LedgerSum] = state.ledger.sums(ASKED, since_day=today - 365)
            by_entity: dict[str, int] = {}
            for one in found:
                store, entity = map(str, one.key)
                by_entity[entity] = by_entity.get(entity, 0) + one.content_octets_out
                asked = {"since_day": today - 365, "until_day": one.last_day}
                assert state.ledger.sent("default", store, entity, **asked) == one.content_octets_out
        path = self.folder / "state.db"
        database = open_database(
            path, create=False, whole=False, now_ns=self.clock.now_ns(), busy_timeout_s=5
        )
        faults = [c.name for c in verify(database, now_ns=self.clock.now_ns()) if not c.holds]
        database.close()
        assert faults == []
        return by_entity


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A state database of its own."""
    return Home(tmp_path)


@pytest.mark.parametrize("clean", [True, False])
def test_another_table_at_the_next_start_moves_the_sum(home: Home, tmp_path: Path, clean: bool) -> None:
    """One edge is corrected: the sum of a transfer of eleven months ago is the other owner's from the next start on,
    whether or not the last run ended well."""
    home.run(table(tmp_path, "north"), transfer("ehr", 600 * MB), clean=clean)
    home.clock.set(T0 + 330 * DAY_NS)
    assert home.sums() == {"owner:north": 600 * MB}
    later = transfer("ehr", 60 * MB, asn=64502, start_s=330 * 86_400)
    home.run(table(tmp_path, "east"), later)
    assert home.sums() == {"owner:east": 660 * MB}


def test_a_table_that_comes_by_a_reload_moves_the_sum(home: Home, tmp_path: Path) -> None:
    """A reload moves the past in the transaction that takes the new table; rows of equal keys are added up."""
    with State.open(home.folder / "state.db", clock=home.clock) as state:
        decide = LocalDecide(
            Detector(policy(QUIET), table(tmp_path, "north")), state, Accounts(), home.clock, "db-1"
        )
        decide.restore()
        for number, start_s in enumerate((0, 7200)):
            rows = transfer("ehr", 60 * MB, start_s=start_s)
            home.clock.set(max(r.end_ns for r in rows))
            decide.take([sent(rows).with_header(run_id="r", sequence=number)], home.clock.now_ns())
            if not number:
                decide.change_policy(lambda d: d.set_policy(d.policy, table(tmp_path, "east")))
                assert list(home.sums()) == ["owner:east"]
                decide.change_policy(lambda d: d.set_policy(d.policy, table(tmp_path, "north")))
                decide.change_policy(lambda d: d.set_policy(d.policy, table(tmp_path, "east", 75)))
        decide.finish()
        assert len({(r.day, r.entity, r.asn) for r in state.ledger.rows()}) == len(state.ledger.rows())
    assert home.sums() == {"owner:east": 120 * MB}


def test_the_senders_word_is_a_witness_only(home: Home, tmp_path: Path) -> None:
    """What an agent with an older table wrote of the owner does not decide where the detector's table knows the network."""
    home.run(table(tmp_path, "east"), transfer("ehr", 60 * MB), remote_owner="north", remote_provider="n")
    assert home.sums() == {"owner:east": 60 * MB}


def test_an_overrides_word_stands_whatever_the_table_says(tmp_path: Path) -> None:
    """An owner that an override states is kept as stated, and no other table moves it."""
    mine = Override(network="203.0.113.0/24", owner="mine", source="contract")
    watched = policy(QUIET).model_copy(update={"overrides": (mine,)})
    clock = DataClock(T0 + HOUR_NS)
    with State.open(tmp_path / "state.db", clock=clock) as state:
        decide = LocalDecide(Detector(watched, table(tmp_path, "north")), state, Accounts(), clock, "db-1")
        decide.restore()
        batch = sent([Sent("ehr", 64500, T0, T0 + 10**9, MB)], remote_owner="mine")
        decide.take([batch.with_header(run_id="r", sequence=0)], clock.now_ns())
        decide.change_policy(lambda d: d.set_policy(d.policy, table(tmp_path, "east")))
        decide.finish()
        assert [(r.entity, r.owner) for r in state.ledger.rows()] == [("owner:mine", "=mine")]


def test_what_a_table_would_move_is_told_before(home: Home, tmp_path: Path) -> None:
    """Asked beforehand, the ledger tells which sums another table would move, and nothing moves."""
    home.run(table(tmp_path, "north"), transfer("ehr", 60 * MB), transfer("ehr", MB * 60, asn=64502))
    east = Detector(policy(QUIET), table(tmp_path, "east"))
    with State.open(home.folder / "state.db", clock=home.clock, read_only=True) as state:
        (moved,) = state.entities.moved(east.recorded_entity)
        assert (moved.facts.entity, moved.entity, moved.content_octets_out) == (
            "owner:north",
            "owner:east",
            60 * MB,
        )
        assert state.entities.days()[moved.facts] == {T0 // DAY_NS: 60 * MB}
    assert home.sums() == {"owner:north": 60 * MB, "owner:east": 60 * MB}
