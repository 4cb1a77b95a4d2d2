"""Live capture of this host's own traffic through a packet socket: every packet it sends or is sent, once.

Each packet is counted where it leaves or reaches the host: packet type "outgoing" or "to us", not at the ports of a
bridge or bond (the bridge or bond sees it too), not on a VLAN's parent. Interfaces that come later are seen by
themselves. Only headers are ever copied (``snap``), but for the messages that ``names`` reads, where it is on. What
the kernel drops is counted as ``ring_full``. Rows know their process where its socket was seen
(:mod:`collectors.host.owners`), and the remote end's name where names are on (:mod:`collectors.packets.names`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agent.core.accounts import Accounts
from agent.core.address import NetworkSet
from agent.core.clock import SECOND_NS, Clock
from agent.core.errors import CaptureError
from agent.core.flow import FlowBatch
from agent.core.log import Log
from agent.core.stages import Collector, CollectorSettings, Context
from collectors.flowtable.flows import FlowTable
from collectors.host.interfaces import Host, HostWatch
from collectors.host.owners import Owners
from collectors.packets.decode import Decoded, decode
from collectors.packets.inner import SNAP, decode_inner
from collectors.packets.links import ETHERNET, NO_LOSS, RAW
from collectors.packets.names import Names, NameTap
from collectors.packets.packet import Packets, concat
from collectors.packets.ring import OUTGOING, Frames, Ring

_LOG: Final = Log(part="af_packet")

_LATE_NS: Final = SECOND_NS
"""A packet may reach the ring this long after its time stamp: flows are called idle this much later."""
_TICK_NS: Final = SECOND_NS * 7 // 10
"""With one quiet pause this is less than the second that is promised between batches."""
_BUSY_FRAMES: Final = 256
_BUSY_PAUSE_S: Final = 0.02
_QUIET_PAUSE_S: Final = 0.2
"""Waking up costs more than a few packets do. At 16 MiB the ring holds 0.2 s of 300,000 packets/s."""
_NO_ROWS: Final = FlowBatch.empty()
_MOST_GONE: Final = 1000
_IPV4, _IPV6 = 0x0800, 0x86DD
_SHIMS: Final = (0x8100, 0x88A8, 0x8847, 0x8848)
"""Tags that the kernel left in the frame, and labels. (PPPoE is seen at its PPP interface.)"""
_ARPHRD_ETHER: Final = 1
_LOOPBACK: Final = IPv4Network("127.0.0.0/8")


class Settings(CollectorSettings):
    """Capture this host's traffic from the kernel (needs root or CAP_NET_RAW)."""

    needs: ClassVar[frozenset[str]] = frozenset({"cap_net_raw"})

    interfaces: tuple[str, ...] | Literal["all"] = Field(
        "all",
        description="Interfaces to watch by name, or `all`: every one on which the host's packets are seen once",
    )
    loopback: bool = Field(False, description="Also count traffic within the host (interface lo)")
    own_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Further networks that are this host's own, such as those of pods routed through it"
    )
    ring_mib: int = Field(16, ge=1, le=4096, description="Memory shared with the kernel, in MiB")
    snap: int = Field(128, ge=96, le=1024, description="Octets kept of each frame: headers, no content")
    tunnels: Literal["outer", "inner"] = Field(
        "outer",
        description="Of tunnels count the outer packets, for those leave the host, or the packets inside (only where the "
        "tunnels are your own: what is inside is what its sender wrote; `snap` is then at least 256)",
    )
    max_flows: int = Field(
        1_000_000, ge=1000, description="Live flows held in memory (200 octets each) before the idlest leave"
    )
    processes: bool = Field(
        True,
        description="Say which process, unit and container each row is of, from the kernel's sockets and /proc",
    )
    names: bool = Field(
        False,
        description="Name remote ends from DNS answers and TLS server names that pass by: the host name alone is kept",
    )

    def build(self, context: Context) -> Collector:
        """The collector; opens nothing yet."""
        return AfPacket(self, context.accounts, context.clock)

    def hindrance(self) -> str:
        """Why it cannot run here; found by opening a small ring."""
        try:
            with Ring(mib=1, snap=self.snap):
                return ""
        except CaptureError as error:
            return str(error)


class AfPacket:
    """The collector. ``collect`` works in the network namespace of the thread that runs it."""

    name = "af_packet"
    live = True

    def __init__(self, settings: Settings, accounts: Accounts, clock: Clock) -> None:
        self.not_seen: tuple[str, ...] = (
            "brief_processes" if settings.processes else "processes",
            "bypass",
            "local_sockets",
            "before_start",
        )
        self._settings = settings
        self._accounts = accounts
        self._clock = clock

    def progress(self) -> None:
        """None: there is no end."""
        return

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Rows as they end, and a batch at least once a second, until ``stop``; then the ring and the table emptied.

        Raises :class:`CaptureError` without permission, memory, or one of the named interfaces.
        """
        settings = self._settings
        with ExitStack() as open_here:
            watch = open_here.enter_context(HostWatch())
            snap = max(settings.snap, SNAP) if settings.tunnels == "inner" else settings.snap
            ring = open_here.enter_context(Ring(mib=settings.ring_mib, snap=snap))
            owners = open_here.enter_context(Owners(self._clock)) if settings.processes else None
            names = Names() if settings.names else None
            tap = open_here.enter_context(NameTap(names)) if names else None

            def heard(frames: int) -> None:
                if owners and frames:
                    owners.traffic()
                if tap:
                    tap.read(self._clock.now_ns())

            capture = _Capture(settings, self._accounts, self._clock, watch, ring, heard)
            for batch in capture.run(stop):
                if len(batch):
                    batch = owners.fill(batch) if owners else batch
                    batch = names.fill(batch) if names else batch
                yield batch


class _Capture:
    """One run of the collector over an open ring."""

    def __init__(
        self,
        settings: Settings,
        accounts: Accounts,
        clock: Clock,
        watch: HostWatch,
        ring: Ring,
        heard: Callable[[int], None] = lambda _frames: None,
    ) -> None:
        self._heard = heard
        """Told after every reading how many frames there were."""
        self._settings, self._accounts, self._clock = settings, accounts, clock
        self._decoder = functools.partial(decode_inner, decode) if settings.tunnels == "inner" else decode
        self._watch, self._ring = watch, ring
        self._host = Host()
        self._own = self._addresses = NetworkSet()
        self._routed = NetworkSet(settings.own_networks)
        self._names: list[str] = []
        self._places: dict[int, int] = {}
        """Interface index -> its place in ``_names``, -1 where it is not watched. Those that are gone stay for a while,
        for frames of theirs may still wait in the ring."""
        self._doubled: NDArray[np.int64] = np.zeros(0, np.int64)
        named = settings.interfaces
        self._all = named == "all"
        self._table = FlowTable(
            local=lambda addresses: self._own.contains(addresses),
            vantage="af_packet:" + ("all" if named == "all" else "+".join(named)),
            interfaces=self._names,
            accounts=accounts,
            max_flows=settings.max_flows,
        )
        self._took = 0
        """Frames of the last reading."""
        self._more = False
        """Whether it left some."""

    def run(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """See ``AfPacket.collect``."""
        self._look()
        self._require_named()
        _LOG.info("capture_started", interfaces=sorted(self._names), ring_mib=self._settings.ring_mib)
        yield from self._watch_traffic(stop)
        # What is in the ring now, and not what goes on coming.
        drained = 0
        while drained < self._ring.slots:
            yield self._read()
            drained += self._took
            if not self._more:
                break
        self._count_lost()
        yield from self._table.drain()

    def _watch_traffic(self, stop: threading.Event) -> Iterator[FlowBatch]:
        tick_ns = self._clock.monotonic_ns()
        while not stop.is_set():
            if self._watch.changed():
                self._look()
            now_ns = self._clock.now_ns()
            batch = self._read()
            # With frames left in the ring the present is not known yet; the packets' own times move the table.
            caught_up = not self._more
            if len(batch):
                yield batch
            if self._clock.monotonic_ns() >= tick_ns:
                tick_ns = self._clock.monotonic_ns() + _TICK_NS
                self._count_lost()
                yield self._table.expire(now_ns - _LATE_NS) if caught_up else _NO_ROWS
            if caught_up:
                stop.wait(_BUSY_PAUSE_S if self._took >= _BUSY_FRAMES else _QUIET_PAUSE_S)

    def _look(self) -> None:
        """Take up which interfaces and addresses the host has now."""
        before = {i.name: i.up for i in self._host.interfaces.values()}
        self._host = host = self._watch.read()
        settings = self._settings
        if self._all:
            chosen = host.vantages(loopback=settings.loopback)
            doubled = host.vlans()
        else:
            chosen = [i for i in host.interfaces.values() if i.name in settings.interfaces]
            doubled = set()
        places = {i.index: self._place(i.name) for i in chosen}
        gone = {index: place for index, place in self._places.items() if index not in host.interfaces}
        self._places = {index: places.get(index, -1) for index in host.interfaces}
        self._places |= dict(list(gone.items())[-_MOST_GONE:])
        self._ring.leave_out(host.interfaces.keys() - places.keys())
        self._doubled = np.array(sorted(index << 12 | vlan for index, vlan in doubled), np.int64)
        own = (*host.addresses, *settings.own_networks, *((_LOOPBACK,) if settings.loopback else ()))
        self._own = NetworkSet(own)
        self._addresses = NetworkSet(host.addresses)
        for interface in chosen:
            if before and before.get(interface.name) != interface.up:
                what = "interface_came_up" if interface.up else "interface_went_down"
                _LOG.info(what, interface=interface.name)

    def _place(self, name: str) -> int:
        """The number of an interface in ``Packets.interface``: one for each name, also when it comes again."""
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def _require_named(self) -> None:
        if self._all:
            return
        there = {i.name for i in self._host.interfaces.values()}
        if absent := [name for name in self._settings.interfaces if name not in there]:
            raise CaptureError(
                f"no interface is called {', '.join(absent)}; there are {', '.join(sorted(there))}. "
                "Change interfaces in the settings of af_packet, or set it to all"
            )

    def _read(self) -> FlowBatch:
        """Rows that ended because of what waited in the ring."""
        frames = self._ring.read()
        self._took, self._more = (0, False) if frames is None else (len(frames), frames.more)
        self._heard(self._took)
        if frames is None:
            return _NO_ROWS
        packets = self._packets(frames)
        if self._routed and self._all:
            packets = self._seen_once(packets)
        self._ring.release()
        return self._table.add(packets)

    def _seen_once(self, packets: Packets) -> Packets:
        """Without the further sight of what the host routes for its own networks, which is seen coming and going.

        What they send counts where it leaves, what they are sent counts where it reaches the host.
        """
        source_here = self._addresses.contains(packets.source)
        target_here = self._addresses.contains(packets.target)
        of_routed = self._routed.contains(packets.source) & ~source_here
        to_routed = self._routed.contains(packets.target) & ~target_here
        leaves = packets.sent == 1
        seen_again = of_routed & ~target_here & ~leaves
        seen_before = to_routed & ~source_here & ~of_routed & leaves
        return packets.take(~(seen_again | seen_before))

    def _packets(self, frames: Frames) -> Packets:
        interface, wanted = self._interfaces(frames)
        plain = (frames.ethertype == _IPV4) | (frames.ethertype == _IPV6)
        parts = [self._decode(frames, interface, np.flatnonzero(wanted & plain), RAW, frames.network)]
        # Only Ethernet has them.
        tagged = np.isin(frames.ethertype, _SHIMS) & wanted & (frames.hardware == _ARPHRD_ETHER)
        if tagged.any():
            parts.append(self._decode(frames, interface, np.flatnonzero(tagged), ETHERNET, frames.link))
        for part in parts:
            for reason, (lost, octets) in part.skipped.items():
                if reason not in NO_LOSS:
                    self._accounts.lose_frames(reason, lost, octets)
        if len(parts) == 1:
            return parts[0].packets
        in_order = np.argsort(np.concatenate([part.order for part in parts]), kind="stable")
        return concat([part.packets for part in parts]).take(in_order)

    def _decode(
        self,
        frames: Frames,
        interface: NDArray[np.int32],
        rows: NDArray[np.int64],
        link: int,
        starts: NDArray[np.int64],
    ) -> Decoded:
        head = (frames.network - starts)[rows]
        part = self._decoder(
            frames.data,
            starts[rows],
            frames.captured[rows] + head,
            frames.length[rows] + head,
            frames.time_ns[rows],
            link,
            interface[rows],
            (frames.packet_type[rows] == OUTGOING).astype(np.int8),
            frames.segment[rows],
        )
        if len(part.odd):
            octets = int(frames.length[rows[part.odd]].sum())
            self._accounts.lose_frames("undecodable", len(part.odd), octets)
        if self._settings.tunnels == "outer":
            # An inner packet was counted by its own headers.
            _cut_tunnelled(part.packets, frames.segment[rows[part.order]], frames.headers[rows[part.order]])
        return replace(part, order=rows[part.order], odd=rows[part.odd])

    def _interfaces(self, frames: Frames) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The place of each frame's interface (-1 unknown), and whether the frame is to be counted there."""
        indexes, which = np.unique(frames.index, return_inverse=True)
        seen = indexes.tolist()
        if not self._places.keys() >= set(seen):
            self._look()
        # An interface that came and went before it could be asked for is counted without its name.
        strangers = [self._all and index not in self._places for index in seen]
        places = np.array([self._places.get(index, -1) for index in seen], np.int32)
        wanted = ((places >= 0) | np.array(strangers))[which]
        if len(self._doubled):
            wanted &= ~np.isin(frames.index << 12 | frames.vlan, self._doubled)
        if self._settings.loopback:
            # Within the host a packet passes lo twice: sent, then received.
            inside = [i.index for i in self._host.interfaces.values() if i.loopback]
            wanted &= ~(np.isin(frames.index, inside) & (frames.packet_type == OUTGOING))
        return places[which], wanted

    def _count_lost(self) -> None:
        if error := self._ring.error():
            _LOG.warning("packet_socket_failed", errno=error)
        if lost := self._ring.lost():
            self._accounts.lose_frames("ring_full", lost)
            _LOG.warning("frames_dropped", reason="ring_full", frames=lost, advice="raise af_packet.ring_mib")


def _cut_tunnelled(packets: Packets, segment: NDArray[np.int64], headers: NDArray[np.int64]) -> None:
    """Count offload frames of tunnels anew, in place: each packet they become repeats the inner headers too.

    Decoding knew the outer headers alone, and repeated those.
    """
    rows = np.flatnonzero(segment > 0)
    outer = (packets.octets[rows] - packets.content_octets[rows]) // packets.packets[rows]
    tunnelled = headers[rows] > outer
    rows, outer = rows[tunnelled], outer[tunnelled]
    if not len(rows):
        return
    once = packets.content_octets[rows] + outer
    repeated = headers[rows]
    count = np.maximum(-(-(once - repeated) // segment[rows]), 1)
    packets.packets[rows] = count
    packets.octets[rows] = once + (count - 1) * repeated
    packets.content_octets[rows] = packets.octets[rows] - count * outer
