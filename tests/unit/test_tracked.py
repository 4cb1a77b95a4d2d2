"""Messages of the connection tracking table as columns."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import address
from agent.core.flow import Mark
from collectors.flowtable.counters import Growth
from collectors.host.tracked import Tracked, parse
from collectors.host.tracked_rows import REASONS, Here, Span, batch
from tests.fuzz import fuzz_tracked
from tests.tools.ctnetlink import Entry, Way, attribute, message

COUNT = st.integers(0, 2**62)
PORT = st.integers(0, 65535)


def ends(version: int) -> st.SearchStrategy[str]:
    return st.ip_addresses(v=version).map(str)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    version = draw(st.sampled_from([4, 6]))
    protocol = draw(st.sampled_from([6, 17, 132, 1 if version == 4 else 58]))
    ways = [
        Way(
            *(draw(ends(version)) for _ in range(2)),
            *(draw(PORT) for _ in range(2)),
            draw(COUNT),
            draw(COUNT),
        )
        for _ in range(2)
    ]
    maybe = lambda what: draw(st.none() | what)  # noqa: E731
    return Entry(
        *ways,
        protocol=protocol,
        identity=draw(st.integers(0, 2**32 - 1)),
        zone=maybe(PORT),
        status=maybe(st.integers(0, 2**32 - 1)),
        state=maybe(st.integers(0, 20)),
        start_ns=maybe(st.integers(0, 2**62)),
        counted=draw(st.booleans()),
    )


def columns(messages: list[bytes], lead: bytes = b"") -> Tracked:
    data, starts, stops = lead, [], []
    for one in messages:
        starts.append(len(data))
        data += one
        stops.append(len(data))
    return parse(data, np.array(starts, np.int64), np.array(stops, np.int64))


def plain(table: Tracked) -> list[dict[str, Any]]:
    out = []
    for row in range(len(table)):
        one: dict[str, Any] = {"zone": int(table.zone[row]), "state": int(table.state[row])}
        one |= {"identity": int(table.identity[row]), "status": int(table.status[row])}
        one |= {"start_ns": int(table.start_ns[row]), "counted": bool(table.counted[row])}
        one |= {"protocol": int(table.protocol[row]), "echo": int(table.echo[row])}
        for way in (table.orig, table.reply):
            one.setdefault("ways", []).append(
                (
                    address.texts(way.source)[row],
                    address.texts(way.target)[row],
                    int(way.source_port[row]),
                    int(way.target_port[row]),
                    int(way.packets[row]),
                    int(way.octets[row]),
                )
            )
        out.append(one)
    return out


def expected(entry: Entry) -> dict[str, Any]:
    echo = entry.protocol in (1, 58)

    def text(of: str) -> str:
        number = ipaddress.ip_address(of)
        mapped = number.ipv4_mapped if number.version == 6 else None  # type: ignore[union-attr]
        return str(mapped or number)

    def way(one: Way) -> tuple[Any, ...]:
        ports = (-1, -1) if echo else (one.source_port, one.target_port)
        amounts = (one.packets, one.octets) if entry.counted else (0, 0)
        return (text(one.source), text(one.target), *ports, *amounts)

    return {
        "zone": entry.zone or 0,
        "state": -1 if entry.state is None else entry.state,
        "identity": entry.identity,
        "status": entry.status or 0,
        "start_ns": -1 if entry.start_ns is None else entry.start_ns,
        "counted": entry.counted,
        "protocol": entry.protocol,
        "echo": entry.orig.source_port if echo else -1,
        "ways": [way(entry.orig), way(entry.reply)],
    }


@settings(max_examples=80)
@given(st.lists(entries(), max_size=8), st.randoms(use_true_random=False), st.integers(0, 3))
def test_what_the_kernel_wrote_is_read(given_: list[Entry], order: Any, shift: int) -> None:
    """Entries of any mixture, their attributes in any order and with strange ones between, at any place of the buffer, read as written."""
    messages = []
    for entry in given_:
        parts = [*entry.attributes(), attribute(22, bytes(16)), attribute(0x3F00, b"abc")]
        order.shuffle(parts)
        messages.append(message(entry, attributes=parts))
    assert plain(columns(messages, bytes(shift))) == [expected(entry) for entry in given_]


@settings(max_examples=80)
@given(entries(), st.binary(max_size=64), st.integers(0, 400), st.integers(0, 400))
def test_damage_stays_within_its_message(entry: Entry, noise: bytes, at: int, cut: int) -> None:
    """A message that is overwritten or cut raises nothing, its neighbours read as written, and nothing of theirs is read into it."""
    whole = message(
        Entry(Way("192.0.2.1", "192.0.2.2", 1, 2, 3, 4), Way("192.0.2.2", "192.0.2.1", 2, 1, 5, 6))
    )
    hurt = bytearray(message(entry))
    hurt[20 + at : 20 + at + len(noise)] = noise
    hurt = hurt[: max(20, len(hurt) - cut)]
    read = plain(columns([whole, bytes(hurt), whole]))
    assert (read[0], read[2]) == (plain(columns([whole]))[0],) * 2
    assert read[1] == plain(columns([bytes(hurt), b"\xa5" * 400]))[0]


@settings(max_examples=80)
@given(
    st.integers(0, 255), st.lists(entries().map(message) | st.binary(max_size=80), max_size=4).map(b"".join)
)
def test_any_octets_are_read_each_for_itself(size: int, octets: bytes) -> None:
    """See tests/fuzz/fuzz_tracked.py."""
    fuzz_tracked.target(bytes([size]) + octets)


def test_an_attribute_of_no_length_ends_the_reading() -> None:
    """A length below four, or beyond the message, is not followed."""
    for size in (0, 3, 60000):
        entry = Entry(Way("192.0.2.1", "192.0.2.2", 1, 2, 3, 4), Way("192.0.2.2", "192.0.2.1", 2, 1, 5, 6))
        broken = message(entry, attributes=[struct.pack("=HH", size, 1), *entry.attributes()])
        assert not columns([broken]).counted.any()


HERE = Here(
    own=address.NetworkSet(["192.0.2.1/32", "127.0.0.0/8", "198.51.100.0/24"]),
    addresses=address.NetworkSet(["192.0.2.1/32", "127.0.0.0/8"]),
    zones=(0,),
)


def rows_of(
    entry: Entry, *, ended: bool = False, forced: bool = False, since_ns: int = 5
) -> list[dict[str, Any]]:
    table = columns([message(entry)])
    growth = Growth(table.counts, np.ones(1, bool), HERE.note(table))
    span = Span(since_ns, 100)
    rows, _ = batch(
        table, growth, span, vantage="conntrack:host", ended=ended, forced=forced, fill=lambda b: b
    )
    return list(rows.rows())


@pytest.mark.parametrize(
    ("state", "ended", "forced", "reason"),
    [
        (3, False, False, "active"),
        (3, False, True, "forced"),
        (3, True, False, "idle"),
        (7, False, False, "end"),
        (8, True, False, "end"),
    ],
)
def test_why_a_row_ended(state: int, ended: bool, forced: bool, reason: str) -> None:
    """A closed connection's row says end; else idle where the entry went, forced where the capture did, active otherwise."""
    assert reason in REASONS
    entry = Entry(
        Way("192.0.2.1", "203.0.113.7", 40000, 443, 3, 300),
        Way("203.0.113.7", "192.0.2.1", 443, 40000, 2, 120),
        state=state,
    )
    row = rows_of(entry, ended=ended, forced=forced)[0]
    assert (row["end_reason"], row["start_ns"], row["end_ns"]) == (reason, 5, 100)


@pytest.mark.parametrize(("start_ns", "expected_ns"), [(None, 5), (50, 50), (1, 5), (10**18, 100)])
def test_a_beginning_lies_within_the_reading(start_ns: int | None, expected_ns: int) -> None:
    """The kernel's time of a beginning counts, but never outside the time between two readings, whatever clock it came from."""
    entry = Entry(
        Way("192.0.2.1", "203.0.113.7", 40000, 443, 3, 300),
        Way("203.0.113.7", "192.0.2.1", 443, 40000, 2, 120),
        start_ns=start_ns,
    )
    assert rows_of(entry)[0]["start_ns"] == expected_ns


def test_a_row_never_spans_a_minute() -> None:
    """However long nobody read, a row's time is less than a minute."""
    entry = Entry(
        Way("192.0.2.1", "203.0.113.7", 40000, 443, 3, 300), Way("203.0.113.7", "192.0.2.1", 443, 40000, 0, 0)
    )
    row = rows_of(entry, since_ns=-(10**12))[0]
    assert row["end_ns"] - row["start_ns"] == 60 * 10**9 - 1


def test_what_may_have_been_cut_is_a_lower_bound() -> None:
    """One counted packet of more than a link carries was several on the wire: marked, content less one header."""
    entry = Entry(
        Way("192.0.2.1", "203.0.113.7", 40000, 443, 1, 60052),
        Way("203.0.113.7", "192.0.2.1", 443, 40000, 0, 0),
    )
    row = rows_of(entry)[0]
    assert (row["marks"], row["content_octets_out"], row["packets_out"]) == (int(Mark.LOWER_BOUND), 60000, 1)


def test_both_ends_local_are_a_row_each() -> None:
    """Between a pod's network that is ours and the host: one row for each end, each sum once out and once in."""
    entry = Entry(
        Way("198.51.100.9", "192.0.2.1", 40000, 443, 3, 300),
        Way("192.0.2.1", "198.51.100.9", 443, 40000, 2, 120),
    )
    assert [
        (r["local_address"], r["remote_address"], r["initiator"], r["octets_out"], r["octets_in"])
        for r in rows_of(entry)
    ] == [
        ("198.51.100.9", "192.0.2.1", "local", 300, 120),
        ("192.0.2.1", "198.51.100.9", "remote", 120, 300),
    ]


def test_a_service_address_is_told_beside_who_is_really_asked() -> None:
    """A connection of this host to a service address: the remote end is who answers, the one asked for stands beside it."""
    entry = Entry(
        Way("192.0.2.1", "203.0.113.80", 40000, 80, 3, 300),
        Way("203.0.113.99", "192.0.2.1", 8080, 40000, 2, 120),
    )
    names = ("remote_address", "remote_port", "service_address", "service_port", "nat_address")
    assert [tuple(r[name] for name in names) for r in rows_of(entry)] == [
        ("203.0.113.99", 8080, "203.0.113.80", 80, None)
    ]


def test_a_client_whose_request_is_passed_on_is_not_local() -> None:
    """A request to the host's port that goes on elsewhere under the host's address: the host answers, the client is remote."""
    entry = Entry(
        Way("203.0.113.7", "192.0.2.1", 40000, 30080, 3, 300),
        Way("10.0.0.9", "192.0.2.1", 8080, 50000, 2, 120),
    )
    assert [
        (
            r["local_address"],
            r["local_port"],
            r["remote_address"],
            r["remote_port"],
            r["nat_address"],
            r["octets_out"],
        )
        for r in rows_of(entry)
    ] == [("192.0.2.1", 30080, "203.0.113.7", 40000, None, 120)]
