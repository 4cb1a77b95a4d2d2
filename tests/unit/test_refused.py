"""A batch that was refused stands in one term of its agent's account, and only where the agent's own key signed it."""

from __future__ import annotations

import pytest

from agent.core.accounts import Amounts
from agent.core.clock import SECOND_NS, DataClock
from agent.core.decision import Decision
from agent.core.message import HEADER_KEY, SIGNATURE_KEY, Message
from agent.detection.coverage import Hole
from agent.detection.fleet import Known
from agent.receiving import refused as refused_module
from agent.receiving.checking import Checker, Refused, Sealed
from agent.receiving.gaps import Gaps
from agent.receiving.refused import Refusals, by_run
from agent.receiving.standing import path_of
from agent.store.inputs import Dead, Intake, Pin
from agent.store.sequences import Intervals
from agent.store.state import Commit
from tests.tools.beats import Arrived, Beating, amounts, lane
from tests.tools.fleet import FakeAgent
from tests.tools.notices import START_NS
from tests.tools.states import Place

S = SECOND_NS


def _check(checker: Checker, message: Message) -> Sealed | Refused:
    return checker.check({HEADER_KEY: message.header, SIGNATURE_KEY: message.signature}, message.value)


def _refused(checker: Checker, message: Message) -> Refused:
    found = _check(checker, message)
    assert isinstance(found, Refused)
    return found


def _missing(dead: Intervals, sequence: int) -> str:
    """What is missing of a stream of which this batch alone was taken."""
    taken = dead.copy()
    taken.add(sequence)
    header = FakeAgent("db-1").message([{}], sequence=sequence).read_header()
    said = Gaps({}).hear([header], {header.batch_id[:3]: taken}, begins=False)
    return said[header.batch_id[:3]].missing.text()


def test_batches_from_before_the_enrolment_are_dead_and_no_gap() -> None:
    """Refused with the key that signed them; once that key is the agent's, they explain the hole, with their octets."""
    agent, checker = FakeAgent("db-1"), Checker({}, "enrolled")
    found = [_refused(checker, agent.message([{"octets_out": 100, "octets_in": 7}])) for _ in range(3)]
    assert {(one.reason, one.key) for one in found} == {("unknown_key", agent.key.public)}
    refusals = Refusals({})
    changed = refusals.hear(found, [], {})
    key = ("db-1", agent.run, 1, agent.key.public, "unknown_key")
    assert {k: (d.sequences.text(), d.amounts) for k, d in changed.items()} == {
        key: ("0-2", Amounts(3, 300, 21))
    }
    refusals.put(changed)
    stream = key[:3]
    assert refusals.of(stream, frozenset()).text() == ""
    assert _missing(refusals.of(stream, frozenset()), 5) == "0-4"
    assert _missing(refusals.of(stream, frozenset([agent.key.public])), 5) == "3-4"
    pins = {"db-1": Pin(agent.key.public, "enrolled")}
    assert by_run(changed, pins, {}) == {("db-1", agent.run): {"unknown_key": Amounts(3, 300, 21)}}
    assert by_run(changed, {}, {}) == {}


def test_nobody_else_can_hide_a_gap() -> None:
    """Batches that a stranger signs in an agent's name, or that nobody signed, explain nothing of it."""
    agent, thief, checker = FakeAgent("db-1"), FakeAgent("db-1"), Checker({}, "enrolled")
    told = [_refused(checker, thief.message([{}], sequence=n)) for n in range(5)]
    unsigned = agent.message([{}], sequence=4)
    nobody = _refused(checker, Message(unsigned.header, b"\0" * 64, unsigned.value))
    assert (nobody.key, nobody.header) == (b"", None)
    refusals = Refusals({})
    refusals.put(refusals.hear([*told, nobody], [], {}))
    assert _missing(refusals.of(("db-1", agent.run, 1), frozenset([agent.key.public])), 5) == "0-4"
    pinned = Checker({"db-1": Pin(agent.key.public, "first")})
    assert _refused(pinned, thief.message([{}])).header is None


def test_a_batch_that_nobody_can_read_is_dead_with_an_unknown_amount() -> None:
    """Rightly signed, and broken inside: its number is explained, its octets are what the account leaves over."""
    agent = FakeAgent("db-1")
    checker = Checker({"db-1": Pin(agent.key.public, "first")})
    found = _refused(checker, agent.message([]))
    assert (found.reason, found.key, found.amounts) == ("impossible", agent.key.public, None)
    refusals = Refusals({})
    changed = refusals.hear([found], [], {"db-1": frozenset([agent.key.public])})
    assert by_run(changed, checker.pins, {}) == {("db-1", agent.run): {"impossible": None}}
    account = {"sealed": amounts(100), "captured": amounts(100)}
    for gap, terms in (
        (False, {"dead (impossible)": 40, "gap": 0}),
        (True, {"dead (impossible)": 0, "gap": 40}),
    ):
        whole, residue = path_of(account, Amounts(1, 60, 0), ended=True, gap=gap, dead={"impossible": None})
        shown = {name: whole.get(name, Amounts()).octets_out for name in terms}
        assert (shown, residue) == (terms, Amounts())


def test_what_was_refused_stands_in_the_account_of_the_whole_path() -> None:
    """Sealed is decided, refused by reason, and gap; nothing stands in two of them."""
    account = {"sealed": amounts(100), "captured": amounts(100)}
    dead = {"unknown_key": Amounts(0, 30, 0)}
    whole, residue = path_of(account, Amounts(1, 60, 0), ended=True, gap=True, dead=dead)
    shown = {name: whole[name].octets_out for name in ("sealed", "decided", "dead (unknown_key)", "gap")}
    assert (shown, residue) == (
        {"sealed": 100, "decided": 60, "dead (unknown_key)": 30, "gap": 10},
        Amounts(),
    )
    going, residue = path_of(account, Amounts(1, 60, 0), ended=False, gap=False, dead=dead)
    assert (going["on the way"].octets_out, residue) == (10, Amounts())


def test_a_batch_is_dead_once_and_never_beside_being_decided() -> None:
    """It comes twice: counted once. It comes again and is taken: dead no more."""
    agent, checker = FakeAgent("db-1"), Checker({}, "enrolled")
    message = agent.message([{"octets_out": 100}])
    one, refusals = _refused(checker, message), Refusals({})
    changed = refusals.hear([one, one], [], {})
    assert [d.amounts.octets_out for d in changed.values()] == [100]
    refusals.put(changed)
    assert refusals.hear([one], [], {}) == {}
    checker.kept({"db-1": Pin(agent.key.public, "enrolled")})
    sealed = _check(checker, message)
    assert isinstance(sealed, Sealed)
    refusals.put(refusals.hear([], [sealed], {}))
    assert refusals.of(("db-1", agent.run, 1), frozenset([agent.key.public])).text() == ""
    assert refusals.hear([], [sealed], {}) == {}


def test_strangers_fill_neither_memory_nor_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many streams of keys that are nobody's are kept; and sums that no column takes count as unread."""
    monkeypatch.setattr(refused_module, "MOST_STRANGERS", 2)
    checker, refusals = Checker({}, "enrolled"), Refusals({})
    for n in range(4):
        refusals.put(refusals.hear([_refused(checker, FakeAgent(f"db-{n}").message([{}]))], [], {}))
    assert len(refusals._streams) == 2
    ours = _refused(checker, FakeAgent("db-9").message([{}]))
    assert len(refusals.hear([ours], [], {"db-9": frozenset([ours.key])})) == 1
    monkeypatch.setattr(refused_module, "MOST_SUM", 50)
    large = _refused(checker, FakeAgent("db-0").message([{"octets_out": 51}]))
    (dead,) = refusals.hear([large], [], {"db-0": frozenset([large.key])}).values()
    assert (dead.unread.text(), dead.amounts) == ("0", Amounts())


def test_what_was_refused_is_kept_with_its_commit(place: Place) -> None:
    """In both databases, and forgotten with the numbers of its stream."""
    dead = Dead(Intervals.parse("0-2,7"), Intervals.parse("7"), Amounts(4, 300, 21))
    key = ("db-1", "0" * 32, 1, b"k" * 32, "unknown_key")
    with place.open(DataClock(START_NS)) as state:
        state.commit(Commit(Decision(), "", START_NS, intake=Intake(dead={key: dead})))
        assert state.inputs.dead() == {key: dead}
        state.commit(Commit(Decision(), "", START_NS, intake=Intake(dead={key: Dead()})))
        assert state.inputs.dead() == {key: Dead()}


def test_coverage_says_refused_where_the_batches_came() -> None:
    """The rows are in no window, so the time is a hole all the same; its reason is that they were refused."""
    begin = 1_000_000 * S
    agent, arrived, dead = Beating("db-1", started_ns=begin), Arrived(), Arrived()

    def has(of: Arrived, run: str, on: int, first: int, last: int) -> bool:
        both = of(("db-1", run, on)).copy()
        for a, b in arrived(("db-1", run, on)):
            both.add_range(a, b)
        return next(both.absent(first, last), None) is None

    arrived.add("db-1", 3, 4)
    for refused, reason in (((0, 2), "refused"), ((0, 1), "gap")):
        known = Known("db-1", "db-1")
        dead.sets.clear()
        dead.add("db-1", *refused)
        for at in (100, 110):
            beat = agent.beat(begin + at * S, lanes=lane(5), account={"sealed": amounts(5000)})
            known.hear(beat, begin + at * S)
            known.settle(
                lambda *span: has(Arrived(), *span),
                known.low_water,
                begin + 200 * S,
                lambda *span: has(dead, *span),
            )
        assert [hole.hole() for hole in known.holes] == [Hole(begin, begin + 100 * S, reason, 5000)]
