"""Names of remote ends: which flows get one, how long, and that memory stays bounded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS
from agent.core.stages import Context
from collectors.packets import names as names_file
from collectors.packets.names import Names
from collectors.pcap import Settings
from tests.tools.captures import enhanced, interface, section
from tests.tools.hello_messages import client_hello, dns_answer
from tests.tools.rows import batch_of

T0 = 1_700_000_000 * SECOND_NS
HERE, THERE = "192.0.2.1", "203.0.113.7"


def udp(message: bytes, source: str = "192.0.2.53", target: str = HERE) -> bytes:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6

    head = IPv6 if ":" in source else IP
    return bytes(head(src=source, dst=target) / UDP(sport=53, dport=5000) / message)


def hello(name: str, port: int, target: str = THERE, source: str = HERE) -> bytes:
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6

    head = IPv6 if ":" in target else IP
    segment = TCP(sport=port, dport=443, options=[("NOP", None)] * 4)
    return bytes(head(src=source, dst=target) / segment / client_hello(name))


def named(made: Names, *rows: dict[str, Any]) -> list[str | None]:
    plain = {"start_ns": T0, "end_ns": T0 + 1, "end_reason": "end"}
    return made.fill(batch_of([{**plain, **row} for row in rows])).text("remote_name").decode()


def test_an_answer_names_flows_that_begin_while_it_holds() -> None:
    """From a little before it was heard until its time and ten seconds more have run out; only flows that begin."""
    made = Names()
    made.hear(udp(dns_answer("db.example.org", [THERE], ttl=60)), T0)
    starts = [-11, -10, 0, 70, 71]
    assert named(made, *({"start_ns": T0 + s * SECOND_NS} for s in starts)) == [
        None, "db.example.org", "db.example.org", "db.example.org", None,
    ]  # fmt: skip
    assert named(made, {"flows": 0}, {"remote_address": "203.0.113.8"}) == [None, None]


def test_a_long_flow_keeps_its_name() -> None:
    """The later rows of a flow have its first row's name, however long ago the answer ran out; until it ends."""
    made = Names()
    made.hear(udp(dns_answer("db.example.org", [THERE], ttl=1)), T0)
    late = {"start_ns": T0 + 600 * SECOND_NS, "flows": 0}
    assert named(made, {"end_reason": "active"}) == ["db.example.org"]
    assert named(made, {**late, "end_reason": "active"}, late, late) == ["db.example.org"] * 2 + [None]


@pytest.mark.parametrize(("here", "there"), [(HERE, THERE), ("2001:db8::1", "2001:db8::7")])
def test_the_server_name_wins_and_is_the_servers(here: str, there: str) -> None:
    """A flow's own server name comes before the answer's; the server's row has none, for its remote end is the client."""
    made = Names()
    made.hear(udp(dns_answer("cdn.example.org", [there])), T0)
    made.hear(hello("web.example.net", 40000, there, here), T0)
    flow = {"local_address": here, "remote_address": there}
    assert named(
        made,
        {**flow, "local_port": 40000},
        {**flow, "local_port": 40001},
        {"local_address": there, "remote_address": here, "local_port": 443, "remote_port": 40000},
    ) == ["web.example.net", "cdn.example.org", None]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limits the longest unused names of addresses and of flows go."""
    monkeypatch.setattr(names_file, "MOST_ADDRESSES", 2)
    monkeypatch.setattr(names_file, "MOST_FLOWS", 2)
    made = Names()
    for last in (1, 2, 1, 3):
        made.hear(udp(dns_answer(f"n{last}.example.org", [f"203.0.113.{last}"])), T0)
        made.hear(hello(f"s{last}.example.org", 40000 + last, "198.51.100.1"), T0)
    rows = [{"remote_address": f"203.0.113.{last}", "local_port": 9} for last in (1, 2, 3)]
    assert named(made, *rows) == ["n1.example.org", None, "n3.example.org"]
    flows = [{"remote_address": "198.51.100.1", "local_port": 40000 + last} for last in (1, 2, 3)]
    assert named(made, *flows) == ["s1.example.org", None, "s3.example.org"]


def test_cut_packets_are_survived() -> None:
    """A packet cut anywhere gives a name or none."""
    whole = hello("web.example.net", 40000)
    for packet in (whole, udp(dns_answer("db.example.org", [THERE]))):
        for end in range(len(packet)):
            Names().hear(packet[:end], T0)


def test_names_are_heard_in_captures_of_several_link_types(tmp_path: Path) -> None:
    """A pcapng with Ethernet, cooked and raw interfaces in turn: a name heard on each names its flows."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import CookedLinux

    def plain(there: str) -> bytes:
        return bytes(IP(src=HERE, dst=there) / TCP(sport=40_000, dport=443, flags="S"))

    heads = (1, bytes(12) + b"\x08\0"), (113, bytes(CookedLinux(proto=0x0800))), (101, b"")
    blocks = section() + b"".join(interface(link) for link, _ in heads)
    for number in range(9):
        head, there = heads[number % 3][1], f"198.51.100.{number}"
        for frame in (udp(dns_answer(f"n{number}.example.org", [there])), plain(there)):
            blocks += enhanced(head + frame, 1_700_000_000_000_000 + number, number % 3)
    path = tmp_path / "several.pcapng"
    path.write_bytes(blocks)
    pcap = Settings.model_validate({"files": [path], "local": [HERE], "names": True}).build(
        Context(Accounts(), tmp_path)
    )
    told = {}
    for batch in pcap.collect(threading.Event()):
        told |= {row["remote_address"]: row["remote_name"] for row in batch.rows()}
    assert {there: name for there, name in told.items() if name} == {
        f"198.51.100.{number}": f"n{number}.example.org" for number in range(9)
    }
