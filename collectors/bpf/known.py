"""What is remembered of flows between epochs: that they began, who opened them, how they ended. Amounts never are.

So nothing that is counted is held here, and a crash loses none of it; the rule is that of docs/flow-rule.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import SECOND_NS
from collectors.bpf.layout import FIN, RST, Role
from collectors.bpf.merge import TCP, Flags, Flows, Numbers, Words, opened_in, opened_out

IDLE_NS: Final = 15 * SECOND_NS

# Bits that are remembered.
_BY_LOCAL, _BY_REMOTE, _FIN_OUT, _FIN_IN, _RESET, _MIDSTREAM = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class Told:
    """What the past says of m flows."""

    flows: Numbers
    """Flows that began in this epoch."""
    initiator: NDArray[np.int32]
    """0 local, 1 remote, -1 unknown."""
    ended: Flags
    """Both ends have sent FIN, or one RST."""
    midstream: Flags


class Known:
    """Flows of the last 15 s and one epoch. Not thread-safe."""

    def __init__(self) -> None:
        self._identity: Words = np.zeros(0, np.uint64)
        """Sorted."""
        self._last_ns: Numbers = np.zeros(0, np.int64)
        self._bits: Numbers = np.zeros(0, np.int64)
        self._began_ns: int | None = None

    def __len__(self) -> int:
        return len(self._identity)

    def take(self, flows: Flows) -> Told:
        """Take up an epoch's flows, whose identities are distinct and sorted."""
        n = len(flows)
        at = np.searchsorted(self._identity, flows.identity)
        at = np.minimum(at, max(len(self._identity) - 1, 0))
        there = self._identity[at] == flows.identity if len(self._identity) else np.zeros(n, bool)
        bits = np.zeros(n, np.int64)
        bits[there] = self._bits[at[there]]
        last = np.full(n, -(1 << 62), np.int64)
        last[there] = self._last_ns[at[there]]
        reused = (opened_out(flows) | opened_in(flows)) & (bits & (_FIN_OUT | _FIN_IN | _RESET) != 0)
        new = ~there | (flows.first_ns - last >= IDLE_NS) | reused
        bits[new] = 0
        bits = self._opened(flows, bits, new)
        bits |= np.where(flows.flags_out & FIN != 0, _FIN_OUT, 0) | np.where(
            flows.flags_in & FIN != 0, _FIN_IN, 0
        )
        bits |= np.where((flows.flags_out | flows.flags_in) & RST != 0, _RESET, 0)
        self._keep(flows, there, at, bits)
        both = _FIN_OUT | _FIN_IN
        return Told(
            flows=np.where(new, flows.connections, 0),
            initiator=np.where(bits & _BY_LOCAL, 0, np.where(bits & _BY_REMOTE, 1, -1)).astype(np.int32),
            ended=(bits & both == both) | (bits & _RESET != 0),
            midstream=bits & _MIDSTREAM != 0,
        )

    def _opened(self, flows: Flows, bits: Numbers, new: Flags) -> Numbers:
        """Who opened each flow: by SYN, by the part its socket plays, by the first packet, by ports."""
        if self._began_ns is None and len(flows):
            self._began_ns = int(flows.first_ns.min())
        tcp, role = flows.protocol == TCP, flows.owner["role"]
        by_local, by_remote = opened_out(flows), opened_in(flows)
        by_local, by_remote = by_local & ~by_remote, by_remote & ~by_local
        unseen = ~(by_local | by_remote)
        midstream = tcp & new & unseen & (role == Role.UNKNOWN)
        by_local |= unseen & tcp & (role == Role.INITIATED)
        by_remote |= unseen & tcp & (role == Role.ACCEPTED)
        began = ~tcp & (flows.first_ns - (self._began_ns or 0) >= IDLE_NS)
        by_local |= began & flows.first_out
        by_remote |= began & ~flows.first_out
        by_local |= ~tcp & ~began & (role == Role.INITIATED)
        unseen = ~(by_local | by_remote)
        low_local, low_remote = flows.local_port < 1024, flows.remote_port < 1024
        one_low = low_local ^ low_remote
        has_ports = (flows.local_port >= 0) & (flows.remote_port >= 0)
        high_local, high_remote = flows.local_port >= 32768, flows.remote_port >= 32768
        by_local |= unseen & has_ports & np.where(one_low, low_remote, high_local & ~high_remote)
        by_remote |= unseen & has_ports & np.where(one_low, low_local, high_remote & ~high_local)
        told = np.where(by_local, _BY_LOCAL, np.where(by_remote, _BY_REMOTE, 0))
        opener = np.where(bits & (_BY_LOCAL | _BY_REMOTE), bits & (_BY_LOCAL | _BY_REMOTE), told)
        kept = bits & ~np.int64(_BY_LOCAL | _BY_REMOTE)
        return np.asarray(kept | opener | np.where(midstream, _MIDSTREAM, 0))

    def _keep(self, flows: Flows, there: Flags, at: Numbers, bits: Numbers) -> None:
        stay = np.ones(len(self._identity), bool)
        stay[at[there]] = False
        if len(flows):
            stay &= self._last_ns > int(flows.last_ns.max()) - 2 * IDLE_NS
        identity = np.concatenate((self._identity[stay], flows.identity))
        order = np.argsort(identity, kind="stable")
        self._identity = identity[order]
        self._last_ns = np.concatenate((self._last_ns[stay], flows.last_ns))[order]
        self._bits = np.concatenate((self._bits[stay], bits))[order]
