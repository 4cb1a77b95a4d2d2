"""Keys, buckets and rings: the sums that everything else rests on."""

from __future__ import annotations

import ipaddress
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import address
from agent.core.clock import DAY_NS, SECOND_NS
from agent.detection.detector import Detector
from agent.detection.keys import OVERFLOW, Keys, Names
from agent.detection.spans import Spans
from agent.detection.windows import WINDOWS, Parts, Ring, cells_of, summed
from tests.tools import recount
from tests.tools.recount import Sent
from tests.tools.transfers import MB, T0, pieces, policy, sent, store

NUMBERS = st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0, 1, 2**62, -(2**63)])), max_size=80)


def columns(keys: list[tuple[int, int]]) -> list[np.ndarray]:
    return [np.array([k[i] for k in keys], np.int64) for i in range(2)]


@given(NUMBERS, NUMBERS)
def test_equal_keys_have_one_id_and_others_have_others(first, second):
    """An id stands for one key and a key for one id, over calls, and ids are dense."""
    keys = Keys(2, 10**6)
    ids = np.concatenate([keys.ids(columns(first)), keys.ids(columns(second))]).tolist()
    pairs = set(zip(first + second, ids, strict=True))
    assert len(pairs) == len(set(first + second)) == keys.count
    assert {i for _, i in pairs} == set(range(keys.count))
    assert [tuple(k) for k in keys.columns.T.tolist()] == [k for k, _ in sorted(pairs, key=lambda p: p[1])]


def test_a_key_of_zeros_is_a_key_like_any_other():
    """Zeros, which free places hold too, get an id of their own in an empty table and are found again."""
    keys = Keys(2, 10)
    zeros, ones = np.zeros(1, np.int64), np.ones(1, np.int64)
    assert keys.ids([zeros, zeros]).tolist() == [0]
    assert (keys.count, keys.ids([ones, zeros]).tolist(), keys.ids([zeros, zeros]).tolist()) == (1, [1], [0])


def test_equal_hashes_are_told_apart_by_the_whole_key(monkeypatch):
    """Keys stay apart when every hash is the same."""
    monkeypatch.setattr("agent.detection.keys._hash", lambda key: np.ones(len(key[0]), np.uint64))
    keys = Keys(1, 100)
    assert sorted(keys.ids([np.array([7, 8, 9, 8])]).tolist()) == [0, 1, 1, 2]
    assert keys.ids([np.array([9, 8, 7])]).tolist() == [keys.ids([np.array([k])])[0] for k in (9, 8, 7)]


def test_keys_grow_and_come_back_in_their_order():
    """A table of many keys made again from its columns gives the same ids."""
    keys = Keys(1, 10**6)
    wanted = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 50_000)
    ids = keys.ids([wanted])
    again = Keys.of(keys.columns.copy(), 10**6)
    assert np.array_equal(again.ids([wanted]), ids)
    with pytest.raises(ValueError, match="two keys are equal"):
        Keys.of(np.array([[4, 4]]), 10)


def test_a_full_table_keeps_what_it_has_and_answers_minus_one():
    """Past the limit new keys get -1 and old ones their id."""
    keys = Keys(1, 3)
    assert sorted(keys.ids([np.arange(10)]).tolist()) == [-1] * 7 + [0, 1, 2]
    known = keys.columns[0].tolist()
    assert keys.ids([np.array([known[2], 77, known[0]])]).tolist() == [2, -1, 0]


def test_names_past_the_limit_are_one_name():
    """The table of texts is bounded."""
    names = Names(limit=2)
    assert [names.code(t) for t in ("a", None, "b", "c", "d", "a")] == [0, -1, 1, 2, 2, 0]
    assert names.text(2) == OVERFLOW


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(20, 32)), max_size=12), st.integers(0, 2**32 - 1))
def test_the_longest_prefix_wins(made, probe):
    """A span look-up equals trying every network, longest prefix first."""
    nets = [
        (ipaddress.ip_network((f"203.0.{high}.0", prefix), strict=False), i)
        for i, (high, prefix) in enumerate(made)
    ]
    probes = ["203.0.113.7", "2001:db8::1", str(ipaddress.IPv4Address(probe))]
    probes += [str(n.network_address) for n, _ in nets] + [str(n.broadcast_address) for n, _ in nets]
    probes += [str(n.broadcast_address + 1) for n, _ in nets]
    got = Spans.of(nets).values(address.parse(probes)).tolist()

    def expected(text):
        one = ipaddress.ip_address(text)
        inside = [(-n.prefixlen, i) for n, i in nets if n.version == one.version and one in n]
        return min(inside)[1] if inside else -1

    assert got == [expected(p) for p in probes]


def test_a_row_of_up_to_a_bucket_counts_where_it_ends_and_a_longer_one_is_spread():
    """Ten seconds are one bucket; a longer row gives each bucket its part and the last one the remainder."""
    second = SECOND_NS
    starts = np.array([5, 5, 0]) * second
    ends = np.array([15, 16, 35]) * second
    none = np.full(3, -(10**9))
    cells = cells_of(starts, ends, np.array([100, 101, 1003]), WINDOWS["5m"], none)
    assert list(zip(cells.row.tolist(), cells.bucket.tolist(), cells.amount.tolist(), strict=True)) == [
        (0, 1, 100),
        (1, 0, 50),
        (1, 1, 51),
        (2, 0, 250),
        (2, 1, 250),
        (2, 2, 250),
        (2, 3, 253),
    ]


@given(
    st.integers(0, 10**7), st.integers(0, 40 * 86_400), st.integers(0, 10**12), st.sampled_from(list(WINDOWS))
)
def test_spreading_equals_the_recount_in_every_grain(start_s, length_s, octets, window):
    """A coarse grain holds what its base buckets hold, and nothing is lost in spreading."""
    row = Sent("ehr", 64500, start_s * SECOND_NS, (start_s + length_s % 90_000) * SECOND_NS, octets)
    cells = cells_of(
        *(np.array([v]) for v in (row.start_ns, row.end_ns, row.octets)),
        WINDOWS[window],
        np.array([-(10**9)]),
    )
    assert dict(zip(cells.bucket.tolist(), cells.amount.tolist(), strict=True)) == recount.buckets_of(
        [row], window
    )
    assert cells.amount.sum() == octets


def test_a_row_since_1970_costs_no_more_than_a_ring():
    """A row with an absurd beginning gives at most the buckets that the ring holds."""
    end = 10**18
    for window in WINDOWS.values():
        due = end // window.grain_ns
        cells = cells_of(*(np.array([v]) for v in (0, end, 10**15)), window, np.array([due - 2 * window.n]))
        assert len(cells.bucket) == 2 * window.n + 1


def jittered(seed: int, n: int = 2500) -> list[Sent]:
    """Rows out of order, some long, some hours late."""
    rng = random.Random(seed)
    rows, now = [], T0
    for _ in range(n):
        now += int(rng.choice([0.1, 1, 5, 20, 200]) * rng.random() * SECOND_NS)
        end = now - int(rng.choice([0, 1, 30, 100, 3000, 40_000]) * rng.random() * SECOND_NS)
        length = int(rng.choice([0, 5, 10, 60, 1800, 20_000]) * rng.random() * SECOND_NS)
        who = (rng.choice(["ehr", "bank"]), rng.choice([64500, 64501, 64502]))
        rows.append(Sent(*who, end - length, end, rng.randrange(10**7)))
    return rows


def test_windows_equal_a_brute_force_recount():
    """1,000 random sums (key, window, bucket) of jittered, late and out-of-order rows equal the recount's."""
    rng = random.Random(7)
    rows = jittered(7)
    detector = Detector(policy(stores=(store("ehr"), store("bank"))), None, replay=True)
    checked = late = 0
    held: dict[tuple[str, tuple[str, str]], dict[int, int]] = {}
    for piece in pieces(rows, 250):
        decision = detector.take(sent(piece), 0)
        late += decision.reasons.get("rows_late", 0)
        for row in piece:
            for name in WINDOWS:
                series = held.setdefault((name, row.key), {})
                for bucket, octets in recount.parts(row, name):
                    series[bucket] = series.get(bucket, 0) + octets
        watermark = detector.watermark_ns
        assert watermark is not None
        for _ in range(100):
            name = rng.choice(list(WINDOWS))
            bucket = WINDOWS[name].last_due(watermark) + rng.randrange(-WINDOWS[name].n, 20)
            key = (rng.choice(["ehr", "bank"]), f"as:{rng.choice([64500, 64501, 64502])}")
            expected = recount.window_sum(held.get((name, key), {}), name, bucket)
            assert detector.window_sum("default", *key, name, bucket) == expected
            checked += 1
    assert checked == 1000
    assert late > 300


def test_the_bound_is_never_below_a_sum_that_is_to_come():
    """What a ring promises of a pair is at least every window not evaluated yet, and falls to nothing with time."""
    ring = Ring(WINDOWS["5m"])
    rng = np.random.default_rng(3)
    one = np.zeros(1, np.int64)
    held: dict[int, int] = {}
    for due in range(100, 400, 3):
        bucket, amount = due + int(rng.integers(-40, 12)), int(rng.integers(1, MB))
        parts = Parts.of(np.array([bucket]), one, np.array([amount]))
        ring.add_bound(parts, one, 1)
        ring.add(parts)
        held[bucket] = held.get(bucket, 0) + amount
        coming = range((ring.due or 99) + 1, due + 60)
        assert int(ring.bound[0]) >= max(recount.window_sum(held, "5m", j) for j in coming)
        ring.retire(due, one)
    ring.retire(10**6, one)
    assert int(ring.bound[0]) == 0
    assert ring.series(np.ones(1, bool)) == {}


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 5), st.integers(0, 100)), min_size=1),
    st.sampled_from([1, 6, 90]),
)
def test_sums_by_bucket_and_path_equal_a_loop(cells, factor):
    """Grouped, coarsened and put into a ring, every amount is where a loop over the rows puts it."""
    buckets, paths, amounts = (np.array(column, np.int64) for column in zip(*cells, strict=True))
    ring = Ring(WINDOWS["5m"])
    for some in (slice(0, len(cells) // 2), slice(len(cells) // 2, None)):
        if len(buckets[some]):
            ring.add(summed(buckets[some], paths[some], amounts[some], 6).coarser(factor))
    for path in range(6):
        expected: dict[int, int] = {}
        for bucket, of_path, amount in cells:
            if of_path == path and amount:
                expected[bucket // factor] = expected.get(bucket // factor, 0) + amount
        assert ring.series(np.arange(6) == path) == expected


def test_a_bucket_of_many_pieces_holds_what_was_added():
    """However often rows come for one bucket, its sums are exact, dense or not."""
    rng = np.random.default_rng(5)
    for paths_in_all in (40, 100_000):
        ring, expected = Ring(WINDOWS["1h"]), np.zeros(paths_in_all, np.int64)
        for _ in range(50):
            paths, amounts = rng.integers(0, paths_in_all, 20), rng.integers(0, MB, 20)
            np.add.at(expected, paths, amounts)
            ring.add(Parts.of(np.full(20, 7), paths, amounts))
        wanted = rng.integers(0, 2, paths_in_all).astype(bool)
        assert ring.series(wanted) == {7: int(expected[wanted].sum())}
        cells = ring.arrays()
        assert cells["path"].tolist() == np.flatnonzero(expected).tolist()
        assert cells["amount"].tolist() == expected[expected > 0].tolist()


def test_an_empty_decade_costs_nothing():
    """Rows ten years apart are taken without going through the time between."""
    detector = Detector(policy(), None, replay=True)
    gap = 3650 * DAY_NS
    rows = [Sent("ehr", 64500, T0 + i * gap, T0 + i * gap, MB) for i in range(5)]
    for row in rows:
        detector.take(sent([row]), row.end_ns)
    assert (
        detector.window_sum("default", "ehr", "as:64500", "30d", rows[-1].end_ns // WINDOWS["30d"].grain_ns)
        == MB
    )


def test_a_bucket_of_rows_that_sent_nothing_is_let_go_like_any_other():
    """Acknowledgements alone hold no octets of content: a bucket of many of them has no cells in the end."""
    ring = Ring(WINDOWS["5m"])
    for _ in range(50):
        ring.add(Parts.of(np.array([7]), np.array([0]), np.array([0])))
    ring.retire(7, np.zeros(1, np.int64))
    ring.retire(7 + 3 * WINDOWS["5m"].n, np.zeros(1, np.int64))
    assert (ring.series(np.ones(1, bool)), ring.bound[0]) == ({}, 0)
