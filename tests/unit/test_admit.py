"""What of a batch the detector reads."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.clock import SECOND_NS
from agent.core.flow import Mark
from agent.detection.admit import admit, packed, unpacked
from agent.detection.sources import Sources
from tests.tools.rows import batch_of
from tests.tools.transfers import T0

ROW = {"start_ns": T0, "end_ns": T0 + SECOND_NS, "store": "ehr", "remote_scope": "external"}


def read(*rows):
    """The step of one batch of such rows."""
    return admit(
        [batch_of([ROW | row for row in rows])], T0, Sources(120 * SECOND_NS, replay=True), replay=True
    )


def test_rows_of_stores_to_own_hosts_are_a_table_of_their_own():
    """Those to external ends are read on, those to other own hosts stand beside them, with all columns and in order."""
    step = read(
        {"content_octets_out": 1},
        {"content_octets_out": 2, "remote_scope": "private", "store": "bank"},
        {"content_octets_out": 3, "remote_scope": "private", "store": None},
        {"content_octets_out": 4, "remote_scope": "internal"},
        {"content_octets_out": 5, "remote_scope": "internal", "marks": int(Mark.SELF)},
        {"content_octets_out": 6, "remote_scope": "multicast"},
    )
    assert step.arrays["content_octets_out"].tolist() == [1]
    inner = step.internal
    assert inner.arrays["content_octets_out"].tolist() == [2, 4]
    store = inner.text("store")
    assert [store.values[code] for code in store.codes] == ["bank", "ehr"]
    assert set(inner.arrays) == {name for name in step.arrays if not name.startswith("internal.")}
    assert (step.meta["reasons"]["rows_internal"], step.meta["reasons"]["rows_short_path"]) == (2, 3)


@pytest.mark.parametrize("scope", ["external", "shared"])
def test_a_step_comes_back_from_its_bytes_with_both_tables(scope):
    """Packed and unpacked, columns and texts of both tables are the same."""
    step = read({}, {"remote_scope": scope})
    (again,) = unpacked(packed([step]))
    assert again.meta == step.meta
    assert {n: a.tolist() for n, a in again.arrays.items()} == {n: a.tolist() for n, a in step.arrays.items()}
    assert again.internal.rows == (scope == "shared")
    assert np.array_equal(again.arrays["remote"], step.arrays["remote"])
