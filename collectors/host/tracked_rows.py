"""What entries of the connection tracking table grew by becomes rows of the schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import NULL_HALF, Addresses, NetworkSet, is_v4
from agent.core.clock import MINUTE_NS
from agent.core.flow import FlowBatch, Mark, Text
from collectors.flowtable.counters import Growth
from collectors.host.tracked import CLOSED, TIME_WAIT, Tracked

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

# What is noted of an entry when it is first seen, for addresses may come and go while it lives.
BY_LOCAL, TO_LOCAL, INNER_FROM, INNER_TO, INSIDE, STRANGE, MIDSTREAM = 1, 2, 4, 8, 16, 32, 64

REASONS: Final = ("idle", "active", "end", "forced")
_IDLE, _ACTIVE, _FINISHED, _FORCED = range(4)
_TCP: Final = 6
_WITH_PORTS: Final = (_TCP, 17, 33, 132, 136)
_LESS: Final = np.zeros(256, np.int64)
"""Headers of one packet that are no content, beyond IP's own 20 or 40 octets (docs/definitions.md)."""
_LESS[[_TCP, 17, 33, 132, 136]] = (32, 8, 12, 12, 8)
_WIRE: Final = 1500
"""Octets of the largest packet on most links: what is larger was cut, or will be (GSO, GRO, fragments)."""


@dataclass(frozen=True, slots=True)
class Here:
    """Which addresses are this host's, and which zones of the table are watched."""

    own: NetworkSet
    """Its addresses, and networks said to be its own."""
    addresses: NetworkSet
    """Its addresses alone, with all of 127.0.0.0/8."""
    zones: tuple[int, ...] | None
    """None: all."""

    def note(self, table: Tracked) -> Numbers:
        """Which ends are local, as bits."""
        source, target = self.own.contains(table.orig.source), self.own.contains(table.orig.target)
        answers, answered = self.own.contains(table.reply.source), self.own.contains(table.reply.target)
        to_local = target | answers
        # Whoever is hidden behind this host's address speaks for it; but not a client whose request it passes on.
        by_local = source | (answered & ~to_local)
        inside = self.addresses.contains(table.orig.source) & self.addresses.contains(table.reply.source)
        out = np.where(by_local, BY_LOCAL, 0) | np.where(to_local, TO_LOCAL, 0)
        out |= np.where(source, INNER_FROM, 0) | np.where(answers, INNER_TO, 0) | np.where(inside, INSIDE, 0)
        if self.zones is not None:
            out |= np.where(np.isin(table.zone, self.zones), 0, STRANGE)
        return np.asarray(out, np.int64)


@dataclass(frozen=True, slots=True)
class Span:
    """The time in which the entries grew: UTC, by the clock as it is now."""

    start_ns: int
    end_ns: int


def batch(
    table: Tracked,
    growth: Growth,
    span: Span,
    *,
    vantage: str,
    ended: bool,
    forced: bool,
    fill: Callable[[FlowBatch], FlowBatch],
) -> tuple[FlowBatch, Numbers]:
    """Rows of the entries that grew, one per local end, and the note of each row.

    ``ended``: the entries have left the table; ``forced``: the capture ends here. ``fill`` gives rows their owners, by
    the ends as the sockets have them.
    """
    grew = np.flatnonzero((growth.by > 0).any(axis=0))
    table, by, fresh, note = table.take(grew), growth.by[:, grew], growth.fresh[grew], growth.note[grew]
    # Neither end is local: the row of whoever sent first.
    as_opener = np.flatnonzero((note & BY_LOCAL != 0) | (note & TO_LOCAL == 0))
    as_answerer = np.flatnonzero(note & TO_LOCAL)
    index = np.concatenate((as_opener, as_answerer))
    answers = np.zeros(len(index), bool)
    answers[len(as_opener) :] = True
    table, by, fresh, note = table.take(index), by[:, index], fresh[index], note[index]
    out_, in_ = np.where(answers, by[2:], by[:2]), np.where(answers, by[:2], by[2:])
    start, end = _times(table, fresh, span)
    rows = FlowBatch.build(
        len(index),
        {
            **_socket_ends(table, answers),
            "protocol": table.protocol,
            "initiator": Text(answers.astype(np.int32), ("local", "remote")),
            "flows": fresh.astype(np.int64),
            "octets_out": out_[1],
            "packets_out": out_[0],
            "octets_in": in_[1],
            "packets_in": in_[0],
            "content_octets_out": _content(table, out_),
            "start_ns": start,
            "end_ns": end,
            "end_reason": Text(_reason(table, ended, forced), REASONS),
            "vantage": Text.full(len(index), vantage),
            "marks": _marks(table, note, by),
        },
    )
    return fill(rows).with_columns(**_real_ends(table, answers, note)), note


def _socket_ends(table: Tracked, answers: Flags) -> dict[str, NDArray[np.generic]]:
    """The ends as the local socket has them: before its own packets are translated, after the others' were."""
    from_, to = table.orig, table.reply
    ported = np.isin(table.protocol, _WITH_PORTS)

    def port(opener: NDArray[np.int32], answerer: NDArray[np.int32]) -> NDArray[np.generic]:
        return np.where(ported, np.where(answers, answerer, opener), -1)

    return {
        "local_address": _either(answers, to.source, from_.source),
        "remote_address": _either(answers, to.target, from_.target),
        "local_port": port(from_.source_port, to.source_port),
        "remote_port": port(from_.target_port, to.target_port),
    }


def _real_ends(table: Tracked, answers: Flags, note: Numbers) -> dict[str, NDArray[np.generic]]:
    """The ends that packets go between: the local one as it is here, and as it leaves; the remote one as it is reached."""
    from_, to = table.orig, table.reply
    ported = np.isin(table.protocol, _WITH_PORTS)
    inner = _either(answers, to.source, from_.source)
    outer = _either(answers, from_.target, to.target)
    inner_port = np.where(answers, to.source_port, from_.source_port)
    outer_port = np.where(answers, from_.target_port, to.target_port)
    # What only passes this host under one of its addresses counts for that address (or nobody's, if in transit).
    is_own = np.where(answers, note & INNER_TO, note & INNER_FROM) != 0
    transit = note & (BY_LOCAL | TO_LOCAL) == 0
    stays = is_own | transit
    moved = (inner != outer).any(axis=1) & stays
    remote_port = np.where(answers, from_.source_port, to.source_port)
    asked, asked_port = from_.target, from_.target_port
    replaced = ~answers & ((asked != to.source).any(axis=1) | (ported & (asked_port != to.source_port)))
    return {
        "local_address": _either(stays, inner, outer),
        "local_port": np.where(ported, np.where(stays, inner_port, outer_port), -1),
        "remote_address": _either(answers, from_.source, to.source),
        "remote_port": np.where(ported, remote_port, -1),
        "nat_address": np.where(moved[:, None], outer, np.uint64(NULL_HALF)),
        "service_address": np.where(replaced[:, None], asked, np.uint64(NULL_HALF)),
        "service_port": np.where(replaced & ported, asked_port, -1),
    }


def _either(which: Flags, first: Addresses, second: Addresses) -> Addresses:
    return np.where(which[:, None], first, second)


def _header(table: Tracked) -> Numbers:
    return np.asarray(np.where(is_v4(table.orig.source), 20, 40) + _LESS[table.protocol])


def _content(table: Tracked, sent: Numbers) -> Numbers:
    """Octets sent less headers, which are not counted apart: an estimate, at least 0."""
    return np.asarray(np.maximum(sent[1] - sent[0] * _header(table), 0))


def _times(table: Tracked, begun: Flags, span: Span) -> tuple[Numbers, Numbers]:
    """Within the span; from the beginning of an entry where the kernel tells it. Never a full minute."""
    least = max(span.start_ns, span.end_ns - MINUTE_NS + 1)
    start = np.where(begun & (table.start_ns >= 0), table.start_ns, least)
    return np.clip(start, least, span.end_ns), np.full(len(table), span.end_ns, np.int64)


def _reason(table: Tracked, ended: bool, forced: bool) -> NDArray[np.int32]:
    closed = (table.protocol == _TCP) & np.isin(table.state, (TIME_WAIT, CLOSED))
    otherwise = _IDLE if ended else _FORCED if forced else _ACTIVE
    return np.where(closed, _FINISHED, otherwise).astype(np.int32)


def _marks(table: Tracked, note: Numbers, by: Numbers) -> Numbers:
    """In transit; midstream; lower bound where a counted packet may have been several on the wire, each with headers."""
    least = _header(table)
    large = np.zeros(len(table), bool)
    for packets, octets in (by[:2], by[2:]):
        large = large | (octets - np.maximum(packets - 1, 0) * least > _WIRE)
    marks = np.where(note & (BY_LOCAL | TO_LOCAL) == 0, int(Mark.TRANSIT), 0)
    marks |= np.where((note & MIDSTREAM != 0) & (table.protocol == _TCP), int(Mark.MIDSTREAM), 0)
    return np.asarray(marks | np.where(large, int(Mark.LOWER_BOUND), 0), np.int64)
