"""How many persons' records may be in what left: intervals, and nothing where the register says nothing."""

from __future__ import annotations

from datetime import UTC
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.clock import DAY_NS, HOUR_NS
from agent.core.finding import CaseState, EstimateState, NoticeKind, Severity
from agent.detection.detector import Detector
from agent.detection.estimate import NEVER, Inputs, estimate, over_octets
from agent.policy.model import Rule
from agent.policy.rules import SubjectTest
from agent.words.alert import render
from tests.tools.recount import Sent
from tests.tools.transfers import MB, T0, Run, policy, run, sent, store

WHOLE = Inputs(1000, (1000.0, 2000.0), (2.0, 5.0), (0.5, 1.0))
"""1,000 to 10,000 octets a person."""
POSITIVE = st.floats(0.001, 10**6).map(lambda x: round(x, 3))
PAIRS = st.tuples(POSITIVE, POSITIVE).map(lambda p: (min(p), max(p)))
INPUTS = st.builds(Inputs, st.integers(0, 10**7), PAIRS, PAIRS, PAIRS, st.booleans())
AMOUNTS = st.integers(0, 10**14)


@pytest.mark.parametrize(
    ("octets", "largest", "attested", "expected"),
    [
        (0, 0, True, (EstimateState.BELOW, 0, 0)),
        (100_000, 100_000, True, (EstimateState.BELOW, 10, 100)),
        (100_001, 100_001, True, (EstimateState.POSSIBLE, 10, 101)),
        (1_009_999, 1_009_999, True, (EstimateState.POSSIBLE, 100, 1000)),
        (1_010_000, 1_010_000, True, (EstimateState.LIKELY, 101, 1000)),
        (1_010_000, 1_009_999, True, (EstimateState.POSSIBLE, 100, 1000)),
        (10**12, 10**12, False, (EstimateState.POSSIBLE, 0, 1000)),
    ],
)
def test_an_estimate_is_an_interval_and_a_state(octets, largest, attested, expected):
    """The most by the smallest record, the least by the largest and only where it is attested; never over the store's."""
    inputs = Inputs(1000, (1000.0, 2000.0), (2.0, 5.0), (0.5, 1.0), attested)
    found = estimate(inputs, 100, octets, largest)
    assert (found.state, found.lowest, found.highest) == expected
    assert (found.octets, found.subjects, found.record_octets) == (octets, 1000, (1000.0, 2000.0))


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ({"subjects": None}, ("subjects",)),
        ({"record_octets": None}, ("record_octets",)),
        ({"records_per_subject": (0.0, 5.0)}, ("records_per_subject",)),
        ({"wire_per_octet": None, "subjects": None}, ("subjects", "wire_per_octet")),
    ],
)
def test_a_missing_input_gives_no_estimate_and_is_named(gone, named):
    """There is no default; then the rule finds at its octets."""
    inputs = Inputs(**{name: getattr(WHOLE, name) for name in WHOLE.__slots__} | gone)
    found = estimate(inputs, 100, 10**9, 10**9)
    assert (found.state, found.lowest, found.highest, found.missing) == (None, None, None, named)
    assert over_octets(inputs, 100, 77) == 77


@given(INPUTS, st.integers(0, 10**6), AMOUNTS, AMOUNTS)
def test_the_octets_of_a_rule_are_where_its_number_of_persons_becomes_possible(inputs, over, octets, part):
    """Strictly above them, and nowhere else."""
    found = estimate(inputs, over, octets, min(part, octets))
    assert (found.state is not EstimateState.BELOW) == (octets > over_octets(inputs, over, 0))
    assert 0 <= found.lowest <= found.highest <= inputs.subjects


@given(INPUTS, st.integers(0, 10**6), AMOUNTS)
def test_what_is_likely_is_so_for_every_record_that_the_register_allows(inputs, over, octets):
    """Even if every person's records were as large as can be, more than the rule's number of persons fit."""
    found = estimate(inputs, over, octets, octets)
    person = Fraction(1)
    for pair in (inputs.record_octets, inputs.records_per_subject, inputs.wire_per_octet):
        person *= Fraction(str(pair[1]))
    likely = inputs.attested and inputs.subjects > over and octets >= (over + 1) * person
    assert (found.state is EstimateState.LIKELY) == likely


def ehr(**changed):
    """A store of which the register says all."""
    fields = {
        "subjects": 1000, "record_octets": (1000, 2000), "records_per_subject": (2.0, 5.0), "compression": (0.5, 1.0),
    }  # fmt: skip
    return store("ehr", **fields | changed)


RULE = Rule(
    id="persons",
    over=3 * MB,
    window="24h",
    subjects=SubjectTest(over=100),
    severity=Severity.HIGH,
    quiet="24h",
)
NEXT_NS = 60 * 10**9


def text_of(notice, language: str) -> str:
    """The whole alert."""
    return render(notice, language=language, zone=UTC, detail="full")


def amounts(*octets: int) -> list[Sent]:
    """One row a minute."""
    return [Sent("ehr", 64500, T0 + i * NEXT_NS, T0 + i * NEXT_NS, n) for i, n in enumerate(octets)]


def test_possible_alone_is_noted_and_pages_nobody_until_the_octets_of_the_rule():
    """Under the floor the case is informational and silent; past it people are told, as of an opening."""
    made = Run(Detector(policy(RULE, stores=[ehr()]), None, replay=True))
    for row in amounts(90_000, 30_000):
        made.take([row])
    (finding,) = made.findings.values()
    assert (finding.severity, finding.severity_reasons) == (Severity.INFORMATIONAL, ("subjects_possible",))
    assert (finding.threshold_octets, finding.estimate.state) == (100_000, EstimateState.POSSIBLE)
    assert [c.state for c in made.cases.values()] == [CaseState.OPEN]
    assert not made.notices
    later = T0 + HOUR_NS
    for i in range(4):
        made.take([Sent("ehr", 64500, later + i * HOUR_NS, later + i * HOUR_NS, MB)])
    made.heard(made.detector.finish())
    (finding,) = made.findings.values()
    assert (finding.severity, finding.severity_reasons) == (Severity.HIGH, ())
    assert finding.estimate.highest == 1000
    assert [n.kind for n in made.notices] == [NoticeKind.OPENED]
    assert made.notices[0].severity is Severity.HIGH


def test_a_note_ends_as_quietly_as_it_began():
    """Its case closes itself."""
    made = Run(Detector(policy(RULE, stores=[ehr()]), None, replay=True))
    for row in amounts(120_000):
        made.take([row])
    made.heard(made.detector.finish(T0 + 5 * DAY_NS))
    assert [c.state for c in made.cases.values()] == [CaseState.CLOSED]
    assert not made.notices


def test_without_an_input_the_rule_finds_at_its_octets_and_says_what_is_missing():
    """No estimate, no guess."""
    asks = policy(RULE, stores=[ehr(compression=None)])
    assert not run(asks, amounts(2 * MB)).findings
    made = run(asks, amounts(2 * MB, 2 * MB))
    (finding,) = made.findings.values()
    assert (finding.threshold_octets, finding.severity) == (3 * MB, Severity.HIGH)
    assert (finding.estimate.state, finding.estimate.missing) == (None, ("wire_per_octet",))
    told = {lang: text_of(made.notices[0], lang) for lang in ("en", "ja")}
    assert "no estimate, the register lacks octets sent per octet of record" in " ".join(told["en"].split())
    assert "推定なし" in told["ja"]


def test_a_store_with_no_more_persons_than_the_rule_asks_for_is_never_found():
    """Whatever leaves, it cannot be more persons than there are."""
    assert over_octets(Inputs(100, *[(1.0, 1.0)] * 3), 100, 5) == NEVER
    assert not run(policy(RULE, stores=[ehr(subjects=100)]), amounts(900 * MB)).findings


@pytest.mark.parametrize(
    ("port", "initiator", "lowest"), [(5432, "remote", 900), (5433, "remote", 0), (5432, "local", 0)]
)
def test_the_least_counts_only_what_left_on_an_attested_port(port, initiator, lowest):
    """Of flows that the other end opened to that port; anything else may be no records at all."""
    of = ehr(records_on_ports=(5432,), records_by="A. Person")
    made = Run(Detector(policy(RULE, stores=[of]), None, replay=True))
    rows = [Sent("ehr", 64500, T0, T0, 9 * MB, initiator)]
    made.heard(made.detector.take(sent(rows, local_port=port), T0))
    made.heard(made.detector.finish())
    (finding,) = made.findings.values()
    assert (finding.estimate.lowest, finding.estimate.highest) == (lowest, 1000)
    assert finding.estimate.state is (EstimateState.LIKELY if lowest else EstimateState.POSSIBLE)
    text = " ".join(text_of(made.notices[0], "en").split())
    assert f"between {lowest} and 1,000, against more than 100" in text


def test_the_largest_day_is_the_stretch_of_a_year():
    """Twelve months of the same record sent again and again are not twelve records."""
    of = ehr(records_on_ports=(5432,), records_by="A. Person")
    made = Run(Detector(policy(RULE.model_copy(update={"window": "12mo"}), stores=[of]), None, replay=True))
    for day, octets in enumerate((2 * MB, 500_000, 2 * MB)):
        at = T0 + day * DAY_NS
        made.heard(
            made.detector.take(sent([Sent("ehr", 64500, at, at, octets, "remote")], local_port=5432), at)
        )
    made.heard(made.detector.finish())
    (finding,) = made.findings.values()
    assert (finding.content_octets_out, finding.estimate.largest_octets) == (4_500_000, 2 * MB)
    assert (finding.estimate.lowest, finding.estimate.highest) == (200, 1000)
