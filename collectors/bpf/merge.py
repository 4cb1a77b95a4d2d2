"""One epoch's rows of the kernel's map become flows: what belongs to one connection is joined.

The map holds one row per socket and ends. A connection may stand in it several times:

- an accepted one also under its listener, which answered the first packet;
- one whose addresses are translated with the ends as they leave and as they come in;
- one that was closed also under the kernel's own socket, which sends the last acknowledgement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import NULL_HALF, V4_PREFIX, Addresses
from collectors.bpf.layout import FIN, PURE_SYN, RST, VALUE, Bits, Role, Source
from collectors.flowtable.table import KeyHash

Numbers = NDArray[np.int64]
Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]

TCP: Final = 6
WITH_PORTS: Final = (TCP, 17, 33, 132, 136)
_SUMMED: Final = ("octets_out", "octets_in", "packets_out", "packets_in", "content_out")


@dataclass(frozen=True, slots=True)
class Flows:
    """m flows of one epoch as columns."""

    identity: Words
    """Equal for one flow in all epochs of one run."""
    local: Addresses
    remote: Addresses
    nat: Addresses
    """The local end as it leaves, where that is another; else null."""
    service: Addresses
    """The remote end as the socket asked for it, where the kernel put another in its place; else null."""
    service_port: NDArray[np.int32]
    local_port: NDArray[np.int32]
    """-1 where the protocol has none."""
    remote_port: NDArray[np.int32]
    protocol: NDArray[np.uint8]
    sums: dict[str, Numbers]
    first_ns: Numbers
    """CLOCK_BOOTTIME."""
    last_ns: Numbers
    flags_out: Numbers
    """TCP flags, and ``PURE_SYN``."""
    flags_in: Numbers
    connections: Numbers
    """Sockets of this flow, at least 1."""
    listening: Flags
    """The process is that of the listening socket."""
    first_out: Flags
    """Its first packet of the epoch went out."""
    owner: NDArray[np.void]
    """The ``layout.VALUE`` that says whose it is."""

    def __len__(self) -> int:
        return len(self.identity)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The map's rows, ends and ports as the sockets themselves say."""

    local: Addresses
    remote: Addresses
    nat: Addresses
    service: Addresses
    service_port: Numbers
    local_port: Numbers
    remote_port: Numbers
    protocol: NDArray[np.uint8]
    cookie: Words
    origin: Words
    listener: Flags
    accepted: Flags
    orphan: Flags
    out: Flags
    """Whether anything was sent."""


def merge(keys: NDArray[np.void], values: NDArray[np.void], hasher: KeyHash) -> Flows:
    """Join the rows of an epoch. ``keys`` and ``values`` as in ``layout``, both (n,)."""
    rows = _rows(keys, values)
    _meet_translated(rows, values)
    identity = _identity(rows, hasher)
    _adopt_orphans(rows, identity, hasher)
    return _joined(rows, values, identity, _groups(rows, identity))


def _rows(keys: NDArray[np.void], values: NDArray[np.void]) -> _Rows:
    local, remote = keys["local"].astype(np.uint64), keys["remote"].astype(np.uint64)
    protocol = keys["protocol"].copy()
    ported = np.isin(protocol, WITH_PORTS)
    local_port = np.where(ported, keys["local_port"].astype(np.int64), -1)
    remote_port = np.where(ported, keys["remote_port"].astype(np.int64), -1)
    own, own_port = values["own"].astype(np.uint64), values["own_port"].astype(np.int64)
    bits, tcp = values["bits"], protocol == TCP
    connected = bits & Bits.CONNECTED != 0
    # A socket that is bound to no address (0.0.0.0, ::) says nothing of its end.
    says = (own[:, 0] != 0) | ~np.isin(own[:, 1], (0, V4_PREFIX))
    moved = says & ((own != local).any(axis=1) | (ported & (own_port != local_port) & connected))
    out = values["packets_out"] > 0
    nat = np.where((moved & out)[:, None], local, np.uint64(NULL_HALF))
    local = np.where(moved[:, None], own, local)
    local_port = np.where(moved & ported & connected, own_port, local_port)
    cookie, origin = keys["cookie"].copy(), values["origin"].copy()
    origin[origin == 0] = cookie[origin == 0]
    orphan = tcp & (values["source"] == Source.NOBODY) & ((bits & Bits.NO_SOCKET != 0) | ~connected)
    listener = tcp & ~connected & ~orphan
    return _Rows(
        local=local,
        remote=remote,
        nat=nat,
        service=np.full_like(remote, NULL_HALF),
        service_port=np.full_like(remote_port, -1),
        local_port=local_port,
        remote_port=remote_port,
        protocol=protocol,
        cookie=cookie,
        origin=origin,
        listener=listener,
        accepted=tcp & (listener | (origin != cookie)),
        orphan=orphan,
        out=out,
    )


def _meet_translated(rows: _Rows, values: NDArray[np.void]) -> None:
    """Give rows that only received the remote end, or those that only sent the local end, of their other half; in place."""
    connected = values["bits"] & Bits.CONNECTED != 0
    received = values["packets_in"] > 0
    lone_in, lone_out = received & ~rows.out, rows.out & ~received
    # A service address that the kernel replaces: answers seem to come from it. Who is really asked is the row that sent.
    todo = np.flatnonzero(lone_in & connected)
    if len(todo):
        senders = np.flatnonzero(rows.out & connected)
        cookies, first, count = np.unique(rows.cookie[senders], return_index=True, return_counts=True)
        at = np.minimum(np.searchsorted(cookies, rows.cookie[todo]), max(len(cookies) - 1, 0))
        if len(cookies):
            sure = (cookies[at] == rows.cookie[todo]) & (count[at] == 1)
            todo, source = todo[sure], senders[first[at[sure]]]
            other = (rows.remote[todo] != rows.remote[source]).any(axis=1)
            other |= rows.remote_port[todo] != rows.remote_port[source]
            todo, source = todo[other], source[other]
            rows.service[todo], rows.service_port[todo] = rows.remote[todo], rows.remote_port[todo]
            rows.remote[todo], rows.remote_port[todo] = rows.remote[source], rows.remote_port[source]
    # An unconnected socket behind source translation: it sends from one address and receives at another.
    loose = np.flatnonzero((lone_in | lone_out) & ~connected & (rows.protocol != TCP))
    if len(loose) > 1:
        columns = (rows.remote[loose, 0], rows.remote[loose, 1], rows.remote_port[loose], rows.cookie[loose])
        order = np.lexsort(columns)
        same = np.ones(len(loose) - 1, bool)
        for column in columns:
            same &= column[order][1:] == column[order][:-1]
        # Exactly two of them, one each way.
        pair = same & ~np.append(same[1:], False) & ~np.insert(same[:-1], 0, False)
        a, b = loose[order[:-1][pair]], loose[order[1:][pair]]
        opposite = rows.out[a] != rows.out[b]
        a, b = a[opposite], b[opposite]
        sent, got = np.where(rows.out[a], a, b), np.where(rows.out[a], b, a)
        rows.nat[sent] = rows.local[sent]
        rows.local[sent], rows.local_port[sent] = rows.local[got], rows.local_port[got]


def _identity(rows: _Rows, hasher: KeyHash) -> Words:
    """One word for each flow. An accepted connection is its listener's and the remote end's, whatever the local address."""
    whole = ~rows.accepted
    key = np.zeros((5, len(rows.cookie)), np.uint64)
    key[0], key[1] = rows.local[:, 0] * whole, rows.local[:, 1] * whole
    key[2], key[3] = rows.remote[:, 0], rows.remote[:, 1]
    key[4] = _ports(rows.local_port * whole, rows.remote_port, rows.protocol)
    ends = hasher(key)
    key[:] = 0
    key[0], key[1], key[2] = ends, np.where(rows.accepted, rows.origin, rows.cookie), rows.accepted
    return hasher(key)


def _ports(local: Numbers, remote: Numbers, protocol: NDArray[np.uint8]) -> Words:
    return ((local + 1) << 25 | (remote + 1) << 8 | protocol).astype(np.uint64)


def _adopt_orphans(rows: _Rows, identity: Words, hasher: KeyHash) -> None:
    """Give what the kernel sent for a closed connection to the only flow with its ends; in place."""
    orphans = np.flatnonzero(rows.orphan)
    if not len(orphans):
        return
    key = np.vstack(
        (rows.local.T, rows.remote.T, _ports(rows.local_port, rows.remote_port, rows.protocol)[None])
    )
    ends = hasher(np.ascontiguousarray(key))
    owned = np.flatnonzero((rows.protocol == TCP) & ~rows.orphan)
    pairs = np.unique(np.column_stack((ends[owned], identity[owned])), axis=0)
    if not len(pairs):
        return
    known, first, count = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    at = np.minimum(np.searchsorted(known, ends[orphans]), len(known) - 1)
    sure = (known[at] == ends[orphans]) & (count[at] == 1)
    identity[orphans[sure]] = pairs[first[at[sure]], 1]


@dataclass(frozen=True, slots=True)
class _Groups:
    """Which rows are one flow. Most flows are one row alone, so only the others are put in order and summed."""

    best: Numbers
    """The row of each flow that says whose it is."""
    several: Numbers
    """Flows that have more than one row."""
    members: Numbers
    """The rows of those, flow by flow, the best ones first."""
    starts: Numbers
    """Where each of those flows begins among the members."""


def _groups(rows: _Rows, identity: Words) -> _Groups:
    order = np.argsort(identity)
    in_order = identity[order]
    starts = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1]) if len(order) else [])
    count = np.diff(starts, append=len(order))
    several = np.flatnonzero(count > 1)
    shared = np.repeat(count > 1, count)
    members = np.sort(order[shared])  # what else is equal stays as the map had it
    secondary = (rows.listener | rows.orphan)[members]
    members = members[np.lexsort((rows.cookie[members], secondary, identity[members]))]
    order[shared] = members
    ends = np.cumsum(count[several])
    return _Groups(order[starts], several, members, ends - count[several])


def _joined(rows: _Rows, values: NDArray[np.void], identity: Words, groups: _Groups) -> Flows:
    best, several, members, starts = groups.best, groups.several, groups.members, groups.starts
    # As plain words: numpy copies rows of fields one field at a time.
    words = values.view(np.uint64).reshape(-1, VALUE.itemsize // 8)
    owner = words.take(best, axis=0).view(VALUE)[:, 0]

    def reduced(how: Any, column: NDArray[Any], alone: NDArray[Any]) -> Any:
        out = alone.copy()
        if len(several):
            out[several] = how.reduceat(column[members], starts)
        return out

    def of_values(how: Any, name: str) -> Numbers:
        return np.asarray(reduced(how, values[name], owner[name]).astype(np.int64, copy=False))

    flags_out, flags_in = (of_values(np.bitwise_or, name) for name in ("flags_out", "flags_in"))
    connections = np.ones(len(best), np.int64)
    first_out = owner["bits"] & Bits.FIRST_OUT != 0
    if len(several):
        connections[several] = np.maximum(_sockets(rows, identity, groups), 1)
        # An orphan's row beside the flow's own: the kernel acknowledged the other side's FIN, which no socket saw.
        primary = ~(rows.listener | rows.orphan)[members[starts]]
        closed = np.logical_or.reduceat((rows.orphan & rows.out)[members], starts) & primary
        flags_in[several] |= np.where(closed & (flags_out[several] & (FIN | RST) != 0), FIN, 0)
        oldest = members[np.lexsort((values["first_ns"][members], identity[members]))][starts]
        first_out[several] = values["bits"][oldest] & Bits.FIRST_OUT != 0
    return Flows(
        identity=identity[best],
        local=rows.local.take(best, axis=0),
        remote=rows.remote.take(best, axis=0),
        nat=reduced(np.minimum, rows.nat, rows.nat.take(best, axis=0)),
        service=reduced(np.minimum, rows.service, rows.service.take(best, axis=0)),
        service_port=reduced(np.maximum, rows.service_port, rows.service_port[best]).astype(np.int32),
        local_port=rows.local_port[best].astype(np.int32),
        remote_port=rows.remote_port[best].astype(np.int32),
        protocol=rows.protocol[best],
        sums={name: of_values(np.add, name) for name in _SUMMED},
        first_ns=of_values(np.minimum, "first_ns"),
        last_ns=of_values(np.maximum, "last_ns"),
        flags_out=flags_out,
        flags_in=flags_in,
        connections=connections,
        listening=rows.accepted[best] | (owner["role"] == Role.ACCEPTED),
        first_out=first_out,
        owner=owner,
    )


def _sockets(rows: _Rows, identity: Words, groups: _Groups) -> Numbers:
    """Different sockets of each flow that has several rows, without listeners and the kernel's own."""
    members = groups.members
    cookie, flow = rows.cookie[members], identity[members]
    other = np.append(True, (cookie[1:] != cookie[:-1]) | (flow[1:] != flow[:-1]))
    primary = ~(rows.listener | rows.orphan)[members]
    return np.add.reduceat((primary & other).astype(np.int64), groups.starts)


def opened_out(flows: Flows) -> Flags:
    """Where the local end sent a first packet of a connection (SYN)."""
    return np.asarray(flows.flags_out & PURE_SYN != 0)


def opened_in(flows: Flows) -> Flags:
    """Where it received one."""
    return np.asarray(flows.flags_in & PURE_SYN != 0)
