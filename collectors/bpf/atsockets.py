"""What programs at the sockets of a control group count: rows with their process, compared with what left the host."""

from __future__ import annotations

import socket
import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import Addresses, parse
from agent.core.flow import Text
from agent.core.stages import Context
from collectors.bpf import rows
from collectors.bpf.counting import Captured, Counting, How
from collectors.bpf.epochs import Drained
from collectors.bpf.gaps import Diary
from collectors.bpf.kept import Kept
from collectors.bpf.known import Known
from collectors.bpf.merge import Flows, merge
from collectors.bpf.owning import Owning
from collectors.bpf.reconcile import Counters, Reckoning, Rows
from collectors.bpf.roots import Root
from collectors.flowtable.table import KeyHash
from collectors.host.cgroups import Groups
from collectors.host.interfaces import HostWatch

_LOOPBACK_INDEX: Final = 1
"""``lo`` has this index in every network namespace (LOOPBACK_IFINDEX, include/net/flow.h)."""
_SO_NETNS_COOKIE: Final = 71


class AtSockets(Counting):
    """One run of ``ebpf``. Interfaces are those of the calling thread's network namespace."""

    def __init__(
        self,
        stage: Kept,
        how: How,
        context: Context,
        root: Root,
        back_filled: bool,
        watch: HostWatch,
        diary: Diary,
        *,
        loopback: bool,
    ) -> None:
        """``back_filled``: older sockets were stamped too. ``loopback``: keep what stays within the host."""
        super().__init__(stage, how, context, f"ebpf:{root.name}", diary)
        self._owning = Owning(Groups(root.mount), back_filled=back_filled)
        self._watch, self._loopback = watch, loopback
        self._names: dict[int, str] = {}
        self._netns = _netns_cookie()
        self._hasher, self._known = KeyHash(), Known()
        self._is_whole = root.name == "/"
        self._reckoning: Reckoning | None = None
        self._outward: frozenset[int] = frozenset()
        self._addresses: Addresses = np.zeros((0, 2), np.uint64)
        self._look_at_names()

    def look(self, now_ns: int) -> None:
        """See :class:`Counting`: control groups that have come may be gone at the next reading."""
        self._owning.look(now_ns)

    def capture(self, drained: Drained, times: rows.Times, *, forced: bool) -> Captured:
        """See :class:`Counting`; what stayed within the host is left out, unless asked for."""
        if self._watch.changed():
            self._look_at_names()
        flows = merge(drained.keys, drained.values, self._hasher)
        batch = rows.batch(
            flows,
            self._known.take(flows),
            times=times,
            vantage=self._vantage,
            interface=self._interface(flows),
            owners=self._owning.columns(flows, times.boot_ns),
            forced=forced,
        )
        inside = (flows.owner["ifindex"] == _LOOPBACK_INDEX) & (not self._loopback)
        return Captured(batch, inside, self._passed(flows))

    def counters(self) -> Counters:
        """See :class:`Counting`: those of the uplinks. The first begin the comparison, where the whole host is watched."""
        host = self._watch.read()
        self._outward = host.outward()
        self._addresses = parse([str(network.network_address) for network in host.addresses])
        read = Counters.read(host)
        if self._is_whole and self._reckoning is None:
            self._reckoning = Reckoning(read, self._clock.now_ns(), self._clock.monotonic_ns())
        return read

    def reckon(self, passed: Rows) -> None:
        """See :class:`Counting`."""
        if self._reckoning is not None:
            self._reckoning.add(passed)

    def close_reckoning(self, *, at_end: bool) -> None:
        """See :class:`Counting`: once an hour, and at the end."""
        wall_ns = self._clock.now_ns()
        if self._reckoning is None or not (at_end or self._reckoning.due(wall_ns)):
            return
        told = self._reckoning.close(self.counters(), wall_ns, self._clock.monotonic_ns())
        self._accounts.reconcile(told)
        self._log.info("rows_beside_interfaces", **told.as_dict())

    def _passed(self, flows: Flows) -> Rows:
        """What passed the uplinks. The kernel's own packets have no namespace: their address tells."""
        netns, ifindex = flows.owner["netns"], flows.owner["ifindex"]
        here = netns == self._netns
        unsaid = (netns == 0) | (self._netns == 0)
        if unsaid.any():
            by_address = [(flows.local == address).all(axis=1) for address in self._addresses]
            here = np.where(unsaid, np.any(by_address, axis=0) if by_address else False, here)
        own = here & np.isin(ifindex, list(self._outward))
        others = ~here & (ifindex != _LOOPBACK_INDEX)

        def total(name: str, rows_: NDArray[np.bool_]) -> int:
            return int(flows.sums[name][rows_].sum())

        apart = ("octets_out", "octets_in", "packets_out", "packets_in")
        return Rows(
            total("octets_out", own), total("octets_in", own), *(total(name, others) for name in apart)
        )

    def _interface(self, flows: Flows) -> Text:
        """Names where the socket is in our own network namespace; an index means nothing elsewhere."""
        here = flows.owner["netns"] == self._netns if self._netns else np.zeros(len(flows), bool)
        indexes, which = np.unique(flows.owner["ifindex"], return_inverse=True)
        names = [self._names.get(index) for index in indexes.tolist()]
        values = tuple(dict.fromkeys(name for name in names if name))
        codes = np.array([values.index(name) if name else -1 for name in names], np.int32)
        return Text(np.where(here, codes[which], -1).astype(np.int32), values)

    def _look_at_names(self) -> None:
        self._names = {i.index: i.name for i in self._watch.read().interfaces.values()}
        self._names.setdefault(_LOOPBACK_INDEX, "lo")


def _netns_cookie() -> int:
    """The cookie of this thread's network namespace; 0 where the kernel does not tell (before 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            return int(struct.unpack("=Q", asked.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])
        except OSError:
            return 0
