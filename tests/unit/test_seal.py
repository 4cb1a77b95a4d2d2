"""Sealing: lanes, joining, numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from agent.core.accounts import Accounts, Amounts
from agent.core.clock import SECOND_NS
from agent.core.flow import BatchHeader, FlowBatch
from agent.seal import MAX_ROWS, Sealer, in_order, join_rows
from tests.tools.rows import BATCHES, batch_of

HEADER = BatchHeader(agent_id="agent", run_id="run", host="db-01")


def _sealer() -> tuple[Sealer, Accounts]:
    accounts = Accounts()
    return Sealer(HEADER, accounts), accounts


def test_store_rows_have_a_lane_of_their_own() -> None:
    """Rows of stores go to lane 1, others to lane 0, each numbered from 0."""
    sealer, _ = _sealer()
    assert list(sealer.add(batch_of([{"store": "a"}, {}, {"store": "b"}]), 0)) == []
    assert [(b.header.batch_id, len(b)) for b in sealer.flush()] == [
        (("agent", "run", 1, 0), 2),
        (("agent", "run", 0, 0), 1),
    ]


def test_a_full_batch_is_sealed_at_once_and_the_rest_waits() -> None:
    """At 1,000 rows a batch is handed out; what is over stays for the next."""
    sealer, _ = _sealer()
    sealed = list(sealer.add(batch_of([{"store": "a", "local_port": n} for n in range(MAX_ROWS + 7)]), 0))
    assert [(b.header.sequence, len(b)) for b in sealed] == [(0, MAX_ROWS)]
    assert [(b.header.sequence, len(b)) for b in sealer.flush()] == [(1, 7)]


def test_store_rows_wait_a_second_and_others_ten() -> None:
    """A batch is sealed 1 s (stores) or 10 s (others) after its first row."""
    sealer, _ = _sealer()
    list(sealer.add(batch_of([{"store": "a"}, {}]), 0))
    assert [b.header.lane for b in sealer.due(SECOND_NS - 1)] == []
    assert [b.header.lane for b in sealer.due(SECOND_NS)] == [1]
    assert [b.header.lane for b in sealer.due(10 * SECOND_NS)] == [0]


def test_in_step_rows_of_stores_go_before_full_batches_of_others() -> None:
    """Where no batch grows old, a few rows of stores are handed out before the many others of the same time."""
    many = [{"local_port": n} for n in range(MAX_ROWS)]
    rows = batch_of([{"store": "a"}, *many])
    alone, in_step = Sealer(HEADER, Accounts()), Sealer(HEADER, Accounts(), in_step=True)
    assert [b.header.lane for b in alone.add(rows, 0)] == [0]
    assert [b.header.lane for b in in_step.add(rows, 0)] == [1, 0]


def _alike(of: range) -> FlowBatch:
    """Two connections to each of many services: one row each once joined."""
    return batch_of(
        [{"initiator": "local", "local_port": 40000 + n, "remote_port": p} for p in of for n in range(2)]
    )


def test_a_batch_is_full_when_its_joined_rows_fill_it() -> None:
    """1,000 rows that join to 500 wait for more; sealed are 1,000 joined rows, in the order they came."""
    sealer, _ = _sealer()
    half = MAX_ROWS // 2
    assert list(sealer.add(_alike(range(half)), 0)) == []
    assert list(sealer.add(_alike(range(half - 1, MAX_ROWS - 1)), 0)) == []
    (sealed,) = sealer.add(_alike(range(MAX_ROWS - 1, MAX_ROWS + half)), 0)
    assert sealed["remote_port"].tolist() == list(range(MAX_ROWS))
    assert sealed["flows"].tolist() == [4 if p == half - 1 else 2 for p in range(MAX_ROWS)]
    assert [b["remote_port"].tolist() for b in sealer.flush()] == [list(range(MAX_ROWS, MAX_ROWS + half))]


def test_rows_that_join_without_end_are_sealed_by_age() -> None:
    """However many rows come, those that all join stay one row, and it goes when its first has waited long enough."""
    sealer, accounts = _sealer()
    rows = _alike(range(1)).take(np.zeros(MAX_ROWS, np.intp))
    for turn in range(10):
        accounts.capture(rows.amounts(), held_in="batches")
        assert list(sealer.add(rows, turn * SECOND_NS)) == []
    assert sealer.amounts() == Amounts(10 * MAX_ROWS, 10_000 * MAX_ROWS, 5_000 * MAX_ROWS)
    (sealed,) = sealer.due(10 * SECOND_NS)
    assert (len(sealed), sealed.amounts()) == (1, accounts.read().sealed)
    assert accounts.read().residue == Amounts()


def test_what_is_let_go_stands_in_the_account() -> None:
    """Rows that are held when a run is stopped are forgotten as dropped."""
    sealer, accounts = _sealer()
    rows = batch_of([{"store": "a"}, {}])
    accounts.capture(rows.amounts(), held_in="batches")
    list(sealer.add(rows, 0))
    sealer.let_go()
    assert (sealer.amounts(), list(sealer.flush())) == (Amounts(), [])
    assert (accounts.read().dropped, accounts.read().residue) == ({"stopped": rows.amounts()}, Amounts())


def test_sealing_is_accounted() -> None:
    """What is sealed leaves the place it was held in, joined or not."""
    sealer, accounts = _sealer()
    rows = batch_of([{"local_port": 40000 + n, "initiator": "local"} for n in range(5)])
    accounts.capture(rows.amounts())
    accounts.move(None, "batches", rows.amounts())
    list(sealer.add(rows, 0))
    assert sealer.amounts() == rows.amounts()
    assert [len(b) for b in sealer.flush()] == [1]
    assert (accounts.read().sealed, accounts.read().in_memory, accounts.read().residue) == (
        rows.amounts(),
        Amounts(),
        Amounts(),
    )


def test_rows_alike_but_for_the_ephemeral_port_join() -> None:
    """The opener's port is nulled; times span both rows, flags are joined, a differing end reason is null."""
    second = 10**9
    joined = join_rows(
        batch_of(
            [
                {
                    "initiator": "local",
                    "local_port": 40001,
                    "start_ns": 5 * second,
                    "end_ns": 8 * second,
                    "tcp_flags": 2,
                    "end_reason": "idle",
                },
                {
                    "initiator": "local",
                    "local_port": 40002,
                    "start_ns": 3 * second,
                    "end_ns": 7 * second,
                    "tcp_flags": 16,
                    "end_reason": "end",
                },
            ]
        )
    )
    expected = {
        "initiator": "local",
        "local_port": None,
        "start_ns": 3 * second,
        "end_ns": 8 * second,
        "tcp_flags": 18,
        "flows": 2,
        "octets_out": 2000,
        "packets_out": 20,
        "octets_in": 1000,
        "packets_in": 10,
        "content_octets_out": 960,
    }
    assert list(joined.rows()) == list(batch_of([expected]).rows())


def test_rows_of_different_minutes_stay_apart() -> None:
    """A joined row never covers more than one minute."""
    rows = batch_of(
        [
            {"initiator": "local", "end_ns": 59 * 10**9, "start_ns": 0},
            {"initiator": "local", "end_ns": 61 * 10**9, "start_ns": 0},
        ]
    )
    assert len(join_rows(rows)) == 2


@given(BATCHES)
def test_joining_keeps_every_amount(batch: FlowBatch) -> None:
    """Joining changes no sum, forgets no direction and never makes rows of unequal vantage one."""
    joined = join_rows(batch)
    names = ("flows", "octets_out", "packets_out", "octets_in", "packets_in", "content_octets_out")
    assert [joined[n].sum() for n in names] == [batch[n].sum() for n in names]
    assert set(joined.text("vantage").decode()) == set(batch.text("vantage").decode())


@given(BATCHES)
def test_order_depends_on_the_rows_alone(batch: FlowBatch) -> None:
    """Two orders of the same rows become one, up to rows alike in time, ends and protocol."""
    names = ("end_ns", "start_ns", "local_address", "remote_address", "local_port", "remote_port", "protocol")
    backwards = batch.take(slice(None, None, -1))
    keys = [
        [tuple(row[n] for n in names) for part in in_order(b, 3) for row in part.rows()]
        for b in (batch, backwards)
    ]
    assert keys[0] == keys[1]
