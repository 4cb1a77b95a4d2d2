"""Addresses as columns."""

from __future__ import annotations

import ipaddress

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.core import address

ANY = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
NETWORKS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda pair: ipaddress.ip_network(f"{pair[0]}/{pair[1]}", strict=False))


def _plain(given_address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = given_address.ipv4_mapped if isinstance(given_address, ipaddress.IPv6Address) else None
    return str(mapped or given_address)


@given(st.lists(ANY))
def test_text_comes_back(addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
    """Parsing and writing an address gives the same address; v4-mapped ones come back as IPv4."""
    texts = address.texts(address.parse(str(a) for a in addresses))
    assert texts == [_plain(a) for a in addresses]


@given(st.lists(NETWORKS, max_size=5), st.lists(ANY, min_size=1))
def test_membership_equals_the_standard_library(
    networks: list[address.Network], addresses: list[ipaddress.IPv4Address]
) -> None:
    """NetworkSet.contains answers as ipaddress does, for each address and network of one family or v4-mapped."""
    found = address.NetworkSet(networks).contains(address.parse(str(a) for a in addresses))
    spans = [address.span(n) for n in networks]
    expected = [any(first <= address.number(a) <= last for first, last in spans) for a in addresses]
    assert found.tolist() == expected


def test_edges_of_a_network_belong_to_it() -> None:
    """First and last address are inside, their neighbours are not."""
    tested = address.parse(
        ["192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0", "2001:db8::", "2001:db7:ffff::"]
    )
    inside = address.NetworkSet(["192.0.2.0/24", "2001:db8::/32"]).contains(tested)
    assert inside.tolist() == [False, True, True, False, True, False]


def test_null_is_no_address() -> None:
    """The null marker is written as None and is no IPv4 address."""
    null = address.empty(1)
    assert address.texts(null) == [None]
    assert (address.is_null(null).tolist(), address.is_v4(null).tolist()) == ([True], [False])
    assert address.is_v4(address.from_v4(np.array([0], np.uint32))).tolist() == [True]
