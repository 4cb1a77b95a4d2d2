"""Grouping by one sort, and what rests on it: batches taken together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.clock import SECOND_NS
from agent.core.flow import concat
from agent.core.grouping import distinct, groups
from agent.detection.detector import Detector
from agent.policy.model import Rule
from tests.tools.recount import Sent
from tests.tools.transfers import MB, T0, policy, sent

NUMBERS = st.sampled_from([-1, 0, 1, 7, 2**31, 2**40, 2**62])


@given(st.lists(NUMBERS, max_size=40))
def test_distinct_values_are_those_of_unique(values: list[int]) -> None:
    """The distinct values come once each, sorted, as ``np.unique`` gives them, and the input stays as it was."""
    column = np.array(values, np.int64)
    assert distinct(column).tolist() == np.unique(column).tolist()
    assert column.tolist() == values


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=40))
def test_groups_are_those_of_a_sort_by_every_column(rows: list[tuple[int, int, int]]) -> None:
    """The order is that of lexsort, and a group begins where any column changes."""
    columns = list(np.array(rows, np.int64).reshape(-1, 3).T)
    order, starts = groups(columns)
    expected = np.lexsort(columns)
    assert order.tolist() == expected.tolist()
    sorted_rows = [rows[i] for i in expected]
    assert starts.tolist() == [i for i, row in enumerate(sorted_rows) if i == 0 or row != sorted_rows[i - 1]]


@pytest.mark.parametrize("live", [False, True])
def test_batches_taken_together_are_as_one(live: bool) -> None:
    """Same findings, same ledger, same state, same delta as one joined batch; rows of no store only move the time."""
    rule = Rule(id="five", over=20 * MB, window="5m", quiet="10m")
    batches = []
    for n in range(12):
        rows = [Sent("ehr", 64500 + i % 3, T0, T0 + (n * 40 + i) * SECOND_NS, MB) for i in range(9)]
        batches.append(sent(rows, **({"store": None} if n % 3 == 2 else {})))
    one, many = (Detector(policy(rule), None, replay=not live) for _ in range(2))
    received = T0 + 600 * SECOND_NS
    first, second = one.take(concat(batches), received), many.take_all(batches, received)
    assert first.findings
    assert (first.findings, first.cases, first.ledger, first.delta) == (
        second.findings,
        second.cases,
        second.ledger,
        second.delta,
    )
    assert one.snapshot() == many.snapshot()
