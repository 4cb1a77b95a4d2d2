"""Community ID: one text for a flow that Zeek, Suricata and others compute alike, so that their records can be joined.

Community ID Flow Hashing version 1, seed 0 (github.com/corelight/community-id-spec). The PyPI package of that name takes
47 us a flow; this takes 1.5, and the tests hold it against that package.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Final

import numpy as np

from agent.core.address import Addresses, is_null, is_v4
from agent.core.flow import FlowBatch

_WITH_PORTS: Final = (6, 17, 132)
"""TCP, UDP and SCTP; all others but ICMP are told apart by addresses and protocol alone."""
_ICMP: Final = (1, 58)


def community_ids(batch: FlowBatch) -> list[str | None]:
    """The community ID of each row, equal in both directions; a Python object per row, 1.5 us.

    None where it cannot be known: a port that the ID needs is null (fragments, and the ephemeral end in sealed rows
    of no store), and ICMP, whose ID needs message types, which rows do not have. Of a flow that was seen within a
    tunnel it is the ID of the packets inside if those were counted. A v4-mapped IPv6 address counts as IPv4.
    """
    protocol = batch["protocol"]
    local, remote = batch["local_address"], batch["remote_address"]
    ports = np.stack([batch["local_port"], batch["remote_port"]], axis=1)
    has_ports = np.isin(protocol, _WITH_PORTS)
    known = ~np.isin(protocol, _ICMP) & ~(has_ports & (ports < 0).any(axis=1))
    known &= ~is_null(local) & ~is_null(remote)
    begins = np.where(is_v4(local) & is_v4(remote), 12, 0).tolist()
    ones, others, tails = _octets(local), _octets(remote), ports.astype(">u2").tobytes()
    protocols, with_ports = protocol.tolist(), has_ports.tolist()
    found: list[str | None] = [None] * len(batch)
    for i in np.flatnonzero(known).tolist():
        here = slice(16 * i + begins[i], 16 * i + 16)
        tail = 4 * i if with_ports[i] else 4 * i + 4
        one = (ones[here], tails[tail : 4 * i + 2])
        other = (others[here], tails[tail + 2 : 4 * i + 4])
        if other < one:
            one, other = other, one
        hashed = b"\0\0%b%b%c\0%b%b" % (one[0], other[0], protocols[i], one[1], other[1])
        found[i] = "1:" + b64encode(hashlib.sha1(hashed, usedforsecurity=False).digest()).decode()
    return found


def _octets(addresses: Addresses) -> bytes:
    """16 octets of each address, in network order."""
    return addresses.astype(">u8").tobytes()
