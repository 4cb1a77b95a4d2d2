"""Rows of the kernel's map become flows: what belongs together is joined, nothing else, and no octet is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.core.address import parse, texts
from agent.core.clock import SECOND_NS
from collectors.bpf import merge as merging
from collectors.bpf.known import Known
from collectors.bpf.layout import FIN, KEY, PURE_SYN, SYN, VALUE, Bits, Role, Source
from collectors.bpf.merge import Flows, merge
from collectors.bpf.owning import _distinct
from collectors.flowtable.table import KeyHash

HASHER = KeyHash(1)
HOST, PEER, NAT, SERVICE = "192.0.2.1", "192.0.2.2", "192.0.2.77", "198.51.100.9"
DEFAULTS: dict[str, Any] = {
    "cookie": 7, "local": HOST, "remote": PEER, "local_port": 40000, "remote_port": 443, "protocol": 6,
    "own": HOST, "own_port": 40000, "out": 100, "in": 50, "bits": Bits.CONNECTED, "source": Source.MADE,
    "role": Role.INITIATED, "origin": 7, "tgid": 11, "first": 0, "last": 1, "flags_out": 0, "flags_in": 0,
}  # fmt: skip


def rows_of(*given_rows: dict[str, Any]) -> tuple[Any, Any]:
    keys, values = np.zeros(len(given_rows), KEY), np.zeros(len(given_rows), VALUE)
    for n, row in enumerate(given_rows):
        full = DEFAULTS | row
        for name in ("cookie", "local_port", "remote_port", "protocol"):
            keys[name][n] = full[name]
        keys["local"][n], keys["remote"][n] = parse([full["local"]])[0], parse([full["remote"]])[0]
        values["own"][n] = parse([full["own"]])[0]
        for name in ("own_port", "bits", "source", "role", "origin", "tgid", "flags_out", "flags_in"):
            values[name][n] = full[name]
        values["octets_out"][n], values["octets_in"][n] = full["out"], full["in"]
        values["packets_out"][n], values["packets_in"][n] = full["out"] > 0, full["in"] > 0
        values["first_ns"][n], values["last_ns"][n] = full["first"], full["last"]
    return keys, values


def told(flows: Flows) -> list[tuple[Any, ...]]:
    columns = (
        texts(flows.local), flows.local_port.tolist(), texts(flows.nat), texts(flows.remote),
        flows.remote_port.tolist(), flows.sums["octets_out"].tolist(), flows.sums["octets_in"].tolist(),
        flows.owner["tgid"].tolist(),
    )  # fmt: skip
    return sorted(zip(*columns, strict=True), key=str)


def test_a_listener_s_packets_are_the_connection_s() -> None:
    """SYN and SYN-ACK under the listener's cookie join the accepted socket, whose owner stays."""
    listener = {
        "cookie": 3, "origin": 3, "own": "0.0.0.0", "own_port": 5432, "local_port": 5432, "remote_port": 50000,
        "bits": 0, "role": Role.UNKNOWN, "tgid": 1, "out": 60, "in": 112, "flags_in": SYN | PURE_SYN,
    }  # fmt: skip
    child = listener | {
        "cookie": 9, "own": HOST, "bits": Bits.CONNECTED, "role": Role.ACCEPTED, "tgid": 2, "out": 1000, "in": 52,
        "flags_in": FIN,
    }  # fmt: skip
    other = child | {"cookie": 10, "remote_port": 50001}
    flows = merge(*rows_of(listener, child, other), HASHER)
    assert told(flows) == [
        (HOST, 5432, None, PEER, 50000, 1060, 164, 2),
        (HOST, 5432, None, PEER, 50001, 1000, 52, 2),
    ]
    assert flows.listening.tolist() == [True, True]


def test_translated_ends_are_one_flow() -> None:
    """A connection behind SNAT and to a service behind DNAT is one flow, with its real far end, the one that was asked for
    and both near ones; one that nothing translates has neither."""
    sent = {"local": NAT, "local_port": 61000, "in": 0}
    got = {"remote": SERVICE, "remote_port": 80, "out": 0}
    flows = merge(*rows_of(sent, got), HASHER)
    assert told(flows) == [(HOST, 40000, NAT, PEER, 443, 100, 50, 11)]
    assert (texts(flows.service), flows.service_port.tolist()) == ([SERVICE], [80])
    plain = merge(*rows_of({"in": 0}, {"out": 0}), HASHER)
    assert (told(plain), texts(plain.service), plain.service_port.tolist()) == (
        [(HOST, 40000, None, PEER, 443, 100, 50, 11)],
        [None],
        [-1],
    )


def test_datagrams_of_one_socket_to_many_ends_stay_apart() -> None:
    """An unconnected socket that hears from one end and speaks to another makes two flows."""
    udp = {"protocol": 17, "bits": 0, "own": "0.0.0.0"}
    flows = merge(*rows_of(udp | {"in": 0}, udp | {"remote": SERVICE, "out": 0}), HASHER)
    assert told(flows) == [
        (HOST, 40000, None, PEER, 443, 100, 0, 11),
        (HOST, 40000, None, SERVICE, 443, 0, 50, 11),
    ]


def test_what_the_kernel_sends_for_a_closed_socket_is_the_connection_s() -> None:
    """The last acknowledgement joins the only flow with its ends; one without such a flow stays the kernel's."""
    last = {
        "cookie": 1, "origin": 1, "source": Source.NOBODY, "bits": Bits.NO_SOCKET, "role": Role.UNKNOWN, "tgid": 0,
        "out": 52, "in": 0,
    }  # fmt: skip
    own = {"flags_out": FIN}
    flows = merge(*rows_of(last, own, last | {"remote_port": 9}), HASHER)
    assert told(flows) == [
        (HOST, 40000, None, PEER, 443, 152, 50, 11),
        (HOST, 40000, None, PEER, 9, 52, 0, 0),
    ]
    assert Known().take(flows).ended.tolist() == [bool(n) for n in flows.owner["tgid"]]


_row = st.fixed_dictionaries(
    {
        "cookie": st.integers(1, 4), "origin": st.integers(0, 4), "local": st.sampled_from([HOST, NAT, "2001:db8::1"]),
        "remote": st.sampled_from([PEER, SERVICE]), "local_port": st.integers(1, 3), "remote_port": st.integers(1, 2),
        "own": st.sampled_from([HOST, "0.0.0.0"]), "own_port": st.integers(1, 3), "protocol": st.sampled_from([6, 17, 1]),
        "out": st.integers(0, 99), "in": st.integers(0, 99), "bits": st.integers(0, 7), "source": st.integers(0, 4),
        "role": st.integers(0, 2), "flags_out": st.integers(0, 511), "flags_in": st.integers(0, 511),
        "first": st.integers(0, 9),
    }
)  # fmt: skip


@given(st.lists(_row, min_size=1, max_size=30))
def test_no_octet_is_lost_or_made(given_rows: list[dict[str, Any]]) -> None:
    """Whatever the rows, their sums are the flows' sums, and each flow stands once."""
    flows = merge(*rows_of(*given_rows), HASHER)
    assert int(flows.sums["octets_out"].sum()) == sum(row["out"] for row in given_rows)
    assert int(flows.sums["octets_in"].sum()) == sum(row["in"] for row in given_rows)
    assert (np.diff(flows.identity.astype(object)) > 0).all()
    known = Known().take(flows)
    assert known.flows.min() >= 1


def test_a_flow_is_counted_once_until_it_is_idle() -> None:
    """A flow counts as begun in its first epoch, not in later ones, and again after 15 s of silence or a new SYN."""
    known = Known()

    def take(at_s: float, **row: Any) -> tuple[int, int]:
        ends = {"first": int(at_s * SECOND_NS), "last": int(at_s * SECOND_NS), **row}
        answer = known.take(merge(*rows_of(ends), HASHER))
        return int(answer.flows[0]), int(answer.initiator[0])

    assert take(0, flags_out=SYN | PURE_SYN) == (1, 0)
    assert take(10, role=Role.UNKNOWN) == (0, 0)
    assert take(24) == (0, 0)
    assert take(39) == (1, 0)
    assert take(40, flags_out=FIN) == (0, 0)
    assert take(41, flags_in=SYN | PURE_SYN) == (1, 1)


_SOME_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "cookie": st.integers(1, 4),
            "origin": st.integers(1, 4),
            "remote_port": st.integers(1, 2),
            "bits": st.sampled_from((0, Bits.CONNECTED, Bits.CONNECTED | Bits.FIRST_OUT, Bits.NO_SOCKET)),
            "source": st.sampled_from((Source.NOBODY, Source.MADE)),
            "out": st.integers(0, 2),
            "in": st.integers(0, 2),
            "first": st.integers(0, 2**40),
            "last": st.integers(0, 2**40),
            "flags_out": st.sampled_from((0, SYN | PURE_SYN, FIN)),
            "flags_in": st.sampled_from((0, SYN, FIN)),
        }
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: (row["cookie"], row["remote_port"], row["first"]),
)


@given(_SOME_ROWS)
def test_columns_say_what_a_row_at_a_time_would(given_rows: list[dict[str, Any]]) -> None:
    """Sums, times, flags and sockets of each flow equal those of a plain loop over its rows."""
    keys, values = rows_of(*given_rows)
    each = merging._rows(keys, values)
    merging._meet_translated(each, values)
    identity = merging._identity(each, HASHER)
    merging._adopt_orphans(each, identity, HASHER)
    expected = []
    for flow in sorted(set(identity.tolist())):
        its = np.flatnonzero(identity == flow).tolist()
        aside = each.listener | each.orphan
        best = min(its, key=lambda n: (aside[n], each.cookie[n]))
        out = int(np.bitwise_or.reduce(values["flags_out"][its]))
        into = int(np.bitwise_or.reduce(values["flags_in"][its]))
        if not aside[best] and (each.orphan & each.out)[its].any() and out & FIN:
            into |= FIN
        expected.append(
            (
                flow, int(values["octets_out"][its].sum()), int(values["packets_in"][its].sum()),
                int(values["first_ns"][its].min()), int(values["last_ns"][its].max()), out, into,
                max(len({each.cookie[n].item() for n in its if not aside[n]}), 1),
            )
        )  # fmt: skip
    flows = merge(keys, values, HASHER)
    columns = (
        flows.identity, flows.sums["octets_out"], flows.sums["packets_in"], flows.first_ns, flows.last_ns,
        flows.flags_out, flows.flags_in, flows.connections,
    )  # fmt: skip
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected


@given(st.lists(st.sampled_from([b"", b"a", *(b"n%d" % n for n in range(20))])))
def test_distinct_values_stand_for_their_rows(names: list[bytes]) -> None:
    """Each row's code leads back to its value, and no value stands there twice."""
    column = np.array(names, "S16")
    values, codes = _distinct(column)
    assert values[codes].tolist() == names
    assert sorted(values.tolist()) == sorted(set(names))
