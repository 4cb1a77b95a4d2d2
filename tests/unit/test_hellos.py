"""Host names in DNS answers and ClientHellos, from real software's messages and from hostile octets."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.address import number
from collectors.packets.hellos import Answer, answer, host_name, server_name
from tests.tools.hello_messages import client_hello, dns_answer

HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")
HELLO = client_hello("web.example.net")
ANSWER = dns_answer("db.example.org", ["192.0.2.7", "2001:db8::7"], ttl=60, aliases=["edge.example.net"])


def test_a_client_hello_tells_the_server_name() -> None:
    """The server name of OpenSSL's ClientHello comes out in lower case."""
    assert server_name(client_hello("WEB.Example.NET")) == "web.example.net"
    assert server_name(client_hello("xn--wgv71a.example")) == "xn--wgv71a.example"


def test_an_answer_tells_the_name_that_was_asked_for() -> None:
    """Addresses behind aliases are the asked name's, for the least time of the chain."""
    assert answer(ANSWER) == Answer(
        "db.example.org", ((number("192.0.2.7"), 60), (number("2001:db8::7"), 60))
    )
    assert answer(dns_answer("a.example", ["192.0.2.7"], ttl=10**6)) == Answer(
        "a.example", ((number("192.0.2.7"), 86_400),)
    )


def test_records_of_another_name_are_not_believed() -> None:
    """An address record whose owner is neither asked for nor an alias of it gives nothing."""
    from scapy.layers.dns import DNS, DNSQR, DNSRR

    records = [
        DNSRR(rrname="bank.example", type="A", rdata="192.0.2.8", ttl=60),
        DNSRR(rrname="db.example.org", type="A", rdata="192.0.2.7", ttl=60),
    ]
    message = bytes(DNS(qr=1, qd=[DNSQR(qname="db.example.org")], an=records))
    assert answer(message) == Answer("db.example.org", ((number("192.0.2.7"), 60),))


@pytest.mark.parametrize(
    ("at", "octets"),
    [
        (2, b"\x01\x00"),
        (2, b"\x81\x83"),
        (2, b"\xa8\x00"),
        (4, b"\x00\x02"),
        (4, b"\x00\x00"),
        (6, b"\x00\x00"),
    ],
)
def test_what_is_no_good_answer_gives_nothing(at: int, octets: bytes) -> None:
    """A query, an error, another operation, no or two questions, and no records give nothing."""
    assert answer(ANSWER[:at] + octets + ANSWER[at + len(octets) :]) is None


def test_pointers_that_do_not_point_back_end_the_reading() -> None:
    """A name that points at itself or forward is malformed."""
    head = bytes.fromhex("000781800001000100000000")
    assert answer(head + b"\xc0\x0c" + b"\x00\x01\x00\x01") is None
    assert answer(head + b"\xc0\x20" + bytes(40)) is None


@pytest.mark.parametrize(
    "name",
    ["", "localhost", "a..b", "-a.example", "a-.example", "a_b.example", "192.0.2.1", "a.\x1b[31m.example",
     "日本.example", "a b.example", "x" * 64 + ".example", ".".join(["abcdefg"] * 40)],
)  # fmt: skip
def test_only_host_names_come_out(name: str) -> None:
    """Names that are none, control characters, numbers, single labels and names too long are refused."""
    assert host_name(tuple(name.encode().split(b"."))) is None


@given(st.sampled_from([HELLO, ANSWER]), st.data())
def test_cut_and_mutated_messages_give_host_names_or_nothing(message: bytes, data: st.DataObject) -> None:
    """Whatever the octets, each reader ends and gives a host name or nothing."""
    cut = bytearray(message[: data.draw(st.integers(0, len(message)))])
    for _ in range(data.draw(st.integers(0, 6))):
        if cut:
            cut[data.draw(st.integers(0, len(cut) - 1))] = data.draw(st.integers(0, 255))
    told = answer(bytes(cut))
    for name in (server_name(bytes(cut)), told and told.name):
        assert name is None or (HOST.fullmatch(name) and len(name) <= 253)
    assert told is None or all(0 <= seconds <= 86_400 for _, seconds in told.addresses)


@given(st.binary(max_size=300))
def test_any_octets_give_host_names_or_nothing(message: bytes) -> None:
    """Random octets behind the first ones of a message are survived."""
    for octets in (message, HELLO[:44] + message, ANSWER[:12] + message):
        for name in (server_name(octets), (told := answer(octets)) and told.name):
            assert name is None or HOST.fullmatch(name)
