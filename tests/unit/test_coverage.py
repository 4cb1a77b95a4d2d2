"""Coverage by worst case: holes of a host's time, hours, and what may be said of windows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.core.clock import HOUR_NS, SECOND_NS
from agent.detection.coverage import (
    OPEN,
    UNBOUNDED,
    VERDICTS,
    Hole,
    Holes,
    Run,
    Verdict,
    hours,
    judge,
    runs,
    seen,
)

S = SECOND_NS
_TIMES = st.integers(0, 40 * 10)  # tenths of seconds


@st.composite
def _hole(draw: st.DrawFn) -> Hole:
    from_ns = draw(_TIMES) * S // 10
    to_ns = from_ns + draw(st.integers(1, 100)) * S // 10
    return Hole(
        from_ns,
        draw(st.sampled_from([to_ns, OPEN])),
        draw(st.sampled_from(["gap", "silent", "dropped"])),
        draw(st.sampled_from([UNBOUNDED, 0, 7, 100])),
        draw(st.booleans()),
    )


_HOLES = st.lists(_hole(), max_size=8)


def _arrays(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _all_verdicts(codes: np.ndarray) -> list[Verdict]:
    return [VERDICTS[c] for c in codes.tolist()]


@given(_HOLES, _TIMES, st.integers(1, 100))
def test_columns_say_what_a_look_at_each_hole_says(kept: list[Hole], begin: int, length: int) -> None:
    """Lost octets, seconds not observed and reasons of any stretch equal those counted hole by hole and second by second."""
    a, b = begin * S // 10, (begin + length) * S // 10
    holes = Holes(kept)
    touching = [h for h in kept if h.from_ns < b and h.to_ns > a]
    lost = UNBOUNDED if any(h.octets < 0 for h in touching) else sum(h.octets for h in touching)
    seconds = {
        second
        for h in kept
        if h.uncovers
        for second in range(a // S, -(-b // S))
        if h.from_ns < (second + 1) * S and h.to_ns > second * S
    }
    assert (
        holes.lost(_arrays(a), _arrays(b)).tolist(),
        holes.uncovered_s(_arrays(a), _arrays(b)).tolist(),
        holes.reasons(a, b),
        holes.touches(_arrays(a), _arrays(b)).tolist(),
    ) == ([lost], [len(seconds)], tuple(sorted({h.reason for h in touching})), [bool(touching)])


@given(_HOLES, _hole(), st.integers(0, 50), st.integers(0, 200))
def test_a_further_hole_never_makes_anything_better(
    kept: list[Hole], more: Hole, amount: int, over: int
) -> None:
    """With one hole more, covered seconds do not rise, and what was not observed does not become observed."""
    froms, tos = np.arange(0, 40) * S, np.arange(5, 45) * S
    nothing = np.zeros(40, bool)
    before, after = (seen([Holes(h)], froms, tos) for h in (kept, [*kept, more]))
    amounts = np.full(40, amount)
    said = [judge(amounts, s.lost, nothing, nothing, over) for s in (before, after)]
    assert (after.covered <= before.covered).all()
    assert ((after.lost < 0) | ((before.lost >= 0) & (after.lost >= before.lost))).all()
    assert not ((said[0] == 2) & (said[1] == 1)).any()


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 60), st.integers(0, 120), st.data()
)
def test_no_finding_stands_whatever_the_lost_octets_did(
    sums: list[int], lost: int, over: int, data: st.DataObject
) -> None:
    """Where no_finding is said, no way to share the lost octets out among destinations passes the threshold."""
    (code,) = judge(_arrays(max(sums)), _arrays(lost), np.array([False]), np.array([False]), over).tolist()
    left, shares = lost, []
    for _ in sums:
        share = data.draw(st.integers(0, left))
        shares.append(share)
        left -= share
    worst = max(s + x for s, x in zip(sums, shares, strict=True))
    if VERDICTS[code] is Verdict.NO_FINDING:
        assert worst <= over
    else:
        assert max(sums) + lost > over


def test_what_is_said_of_a_window() -> None:
    """A finding wins; exactly the threshold is none; one octet more, unbounded loss or an estimate are not observed."""
    amount = _arrays(10, 10, 10, 10, 10)
    lost = _arrays(UNBOUNDED, 90, 91, UNBOUNDED, 0)
    found = np.array([True, False, False, False, False])
    estimated = np.array([False, False, False, False, True])
    assert _all_verdicts(judge(amount, lost, found, estimated, 100)) == [
        Verdict.FINDING,
        Verdict.NO_FINDING,
        Verdict.NOT_OBSERVED,
        Verdict.NOT_OBSERVED,
        Verdict.NOT_OBSERVED,
    ]


def test_hours_of_a_host_with_a_gap_and_a_loss() -> None:
    """A gap takes its seconds from both hours that it lies in, a loss of octets takes none."""
    holes = Holes(
        [
            Hole(HOUR_NS - 90 * S, HOUR_NS + 30 * S, "gap", 500),
            Hole(HOUR_NS + 5, HOUR_NS + 6, "dropped", 8, False),
        ]
    )
    found = hours(holes, 0, 2)
    assert (found.covered_s.tolist(), found.lost.tolist(), found.reasons) == (
        [3510, 3570, 3600],
        [500, 508, 0],
        (("gap",), ("dropped", "gap"), ()),
    )


def test_a_store_on_no_known_host_was_not_seen() -> None:
    """Without any host nothing is covered and nothing bounds the loss; of two hosts the losses add up."""
    froms, tos = _arrays(0), _arrays(10 * S)
    none = seen([], froms, tos)
    two = seen([Holes([Hole(0, S, "gap", 5)]), Holes([Hole(0, 2 * S, "gap", 6)])], froms, tos)
    assert (none.covered.tolist(), none.lost.tolist()) == ([0], [UNBOUNDED])
    assert (two.covered.tolist(), two.lost.tolist()) == ([8], [11])


def test_windows_of_which_the_same_is_said_are_one_run() -> None:
    """A run has the least covered seconds and the most lost octets of its windows, and may grow."""
    froms, tos = np.arange(4) * S, np.arange(1, 5) * S
    stretch = seen([Holes([Hole(3 * S, 4 * S, "silent")])], froms, tos)
    codes = judge(_arrays(1, 2, 3, 4), stretch.lost, np.zeros(4, bool), np.zeros(4, bool), 10)
    found = runs(stretch, codes, _arrays(1, 2, 3, 4), [(), (), (), ("silent",)])
    first = Run(S, 3 * S, Verdict.NO_FINDING, 1, 0, 3, ())
    last = Run(4 * S, 4 * S, Verdict.NOT_OBSERVED, 0, UNBOUNDED, 4, ("silent",))
    assert found == [first, last]
    more = Run(5 * S, 9 * S, Verdict.NOT_OBSERVED, 0, 3, 2, ("silent",))
    assert last.joined(more) == Run(4 * S, 9 * S, Verdict.NOT_OBSERVED, 0, UNBOUNDED, 4, ("silent",))
