"""Community IDs: the values that Zeek gives, those of the reference package, and null where they cannot be known."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.accounts import Accounts
from agent.core.community import community_ids
from agent.core.flow import concat
from agent.core.stages import Context
from collectors.pcap import Settings
from sinks.jsonl import flow_lines
from sinks.ocsf_events.flows import flow_events
from tests.tools.places import TESTDATA
from tests.tools.rows import batch_of

communityid = pytest.importorskip(
    "communityid", reason="the package communityid is a dev dependency: pip install -e .[dev]"
)

HTTP = {
    "local_address": "128.232.110.120",
    "local_port": 34855,
    "remote_address": "66.35.250.204",
    "remote_port": 80,
    "protocol": 6,
}
SWAPPED = HTTP | {
    "local_address": HTTP["remote_address"],
    "local_port": 80,
    "remote_address": HTTP["local_address"],
    "remote_port": 34855,
}
ID = "1:LQU9qZlK+B5F3KDmev6m5PMibrg="
"""As the specification's own example has it."""


def test_both_directions_have_one_id() -> None:
    """Local and remote swapped make the same ID, that of the specification."""
    assert community_ids(batch_of([HTTP, SWAPPED])) == [ID, ID]


def test_what_cannot_be_known_is_null() -> None:
    """Without a port that the protocol has, and for ICMP, there is no ID; protocols without ports need none."""
    rows = [
        HTTP | {"local_port": None},
        HTTP | {"remote_port": None},
        HTTP | {"protocol": 1, "local_port": None, "remote_port": None},
        HTTP | {"protocol": 58, "local_port": None, "remote_port": None},
        HTTP | {"protocol": 50, "local_port": None, "remote_port": None},
    ]
    esp = communityid.CommunityID().calc(
        communityid.FlowTuple.make_ip("128.232.110.120", "66.35.250.204", 50)
    )
    assert community_ids(batch_of(rows)) == [None, None, None, None, esp]
    assert community_ids(batch_of([])) == []


ends = st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)) | st.tuples(
    *[st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None)] * 2
)


@given(
    ends,
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.sampled_from([6, 17, 132, 47, 50, 136]),
    st.booleans(),
)
def test_ids_are_those_of_the_reference_package(
    addresses: Any, one: int, other: int, protocol: int, same: bool
) -> None:
    """Any addresses and ports, equal ends too: the ID that the specification's authors compute."""
    local, remote = str(addresses[0]), str(addresses[0] if same else addresses[1])
    row = {
        "local_address": local,
        "local_port": one,
        "remote_address": remote,
        "remote_port": other,
        "protocol": protocol,
    }
    ports = (one, other) if protocol in (6, 17, 132) else ()
    expected = communityid.CommunityID().calc(communityid.FlowTuple(protocol, local, remote, *ports))
    assert community_ids(batch_of([row])) == [expected]


def test_sinks_give_it_on_request() -> None:
    """JSON lines have it as a field, null where unknown, OCSF in its own place; without asking there is none."""
    batch = batch_of([HTTP, HTTP | {"local_port": None}])
    lines = [json.loads(line) for line in flow_lines(batch, community_id=True).splitlines()]
    assert [line["community_id"] for line in lines] == [ID, None]
    assert b"community" not in flow_lines(batch)
    events = [
        event["connection_info"].get("community_uid") for event in flow_events(batch, community_id=True)
    ]
    assert events == [ID, None]
    assert all("community_uid" not in event["connection_info"] for event in flow_events(batch))


@pytest.mark.testdata
@pytest.mark.parametrize("name", ["tcp", "udp", "ipv6", "sctp", "icmp", "icmp6"])
def test_captures_give_the_ids_that_zeek_gave(name: str) -> None:
    """Of the same captures. Ours of ICMP are null; Zeek leaves out the ports of SCTP, the specification does not."""
    assert TESTDATA
    folder = TESTDATA / "pcap"
    told = (folder / "communityid-expected" / f"{name}.out").read_text()
    zeeks = set(re.findall(r"1:[\w+/]+=", told))
    batch = flows(folder / f"zeek__communityid-{name}.pcap")
    ours = set(community_ids(batch))
    if name in ("icmp", "icmp6"):
        assert ours == {None}
    elif name == "sctp":
        ends = ("local_address", "remote_address", "local_port", "remote_port")
        tuples = [communityid.FlowTuple.make_sctp(*(row[end] for end in ends)) for row in batch.rows()]
        assert ours == {communityid.CommunityID().calc(of) for of in tuples} != zeeks
    else:
        assert ours == zeeks


def flows(capture: Path) -> Any:
    collector = Settings(files=(capture,), local=("0.0.0.0/0",)).build(Context(Accounts(), Path()))
    return concat(list(collector.collect(threading.Event())))
