"""What of the live collector can be known without a kernel: which interfaces count, which frames, which errors."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.core.accounts import Accounts
from agent.core.clock import SystemClock
from agent.core.errors import CaptureError
from agent.core.stages import Context
from collectors.af_packet import Settings, _Capture
from collectors.host.interfaces import Host, HostWatch, Interface
from collectors.packets import ring as ringlib
from collectors.packets.ring import HOST, OUTGOING, Frames, Ring

LO = Interface(1, "lo", True, True)
ETH0 = Interface(2, "eth0", True, False)
ETH1 = Interface(3, "eth1", True, False, master=5)
VETH = Interface(4, "veth1", True, False, kind="veth", master=5)
BR0 = Interface(5, "br0", True, False, kind="bridge")
VLAN7 = Interface(6, "eth0.7", True, False, kind="vlan", parent=2, vlan=7)
RED = Interface(7, "red", True, False, kind="vrf")
ETH2 = Interface(8, "eth2", True, False, master=7)
HERE = Host({i.index: i for i in (LO, ETH0, ETH1, VETH, BR0, VLAN7, RED, ETH2)})


def test_each_packet_has_one_vantage() -> None:
    """Ports of a bridge are left out for the bridge, a VRF for its ports, lo unless it is wanted."""
    assert [i.name for i in HERE.vantages()] == ["eth0", "br0", "eth0.7", "eth2"]
    assert [i.name for i in HERE.vantages(loopback=True)] == ["lo", "eth0", "br0", "eth0.7", "eth2"]
    assert HERE.vlans() == {(2, 7)}


def frames(*rows: tuple[int, int, int]) -> Frames:
    """UDP packets of 28 octets as (interface index, packet type, VLAN id or -1)."""
    packet = bytes.fromhex("4500001c0000000040110000c0000201c0000202") + bytes.fromhex("1388138900080000")
    n = len(rows)
    starts = np.arange(n) * len(packet)
    whole = np.full(n, len(packet))
    return Frames(
        data=np.frombuffer(packet * n + bytes(256), np.uint8),
        link=starts,
        network=starts,
        captured=whole,
        length=whole,
        time_ns=np.arange(n) + 10**18,
        ethertype=np.full(n, 0x0800, np.uint16),
        index=np.array([r[0] for r in rows]),
        packet_type=np.array([r[1] for r in rows], np.uint8),
        hardware=np.ones(n, np.uint16),
        vlan=np.array([r[2] for r in rows]),
        segment=np.zeros(n, np.int64),
        headers=np.zeros(n, np.int64),
        more=False,
    )


class Watch(HostWatch):
    """A host that stands still, or changes when it is told to."""

    host = HERE

    def read(self) -> Host:
        return self.host


class Silent(Ring):
    """A ring that was never opened."""

    def leave_out(self, indexes: Any) -> None:
        self.left_out = sorted(indexes)


def capture(**settings: Any) -> _Capture:
    ring = Silent(mib=1, snap=128)
    made = _Capture(Settings(**settings), Accounts(), SystemClock(), Watch(), ring)
    made._look()
    return made


def seen(made: _Capture, *rows: tuple[int, int, int]) -> list[str | None]:
    """The interface of each frame that is counted."""
    packets = made._packets(frames(*rows))
    return [made._names[place] if place >= 0 else None for place in packets.interface.tolist()]


def test_a_frame_with_the_tag_of_a_vlan_interface_is_counted_there_alone() -> None:
    """On the parent, frames of a VLAN that has an interface are left out, those of other VLANs are counted."""
    rows = ((2, OUTGOING, 7), (6, OUTGOING, -1), (2, OUTGOING, -1), (2, HOST, 8))
    assert seen(capture(), *rows) == ["eth0.7", "eth0", "eth0"]
    assert seen(capture(interfaces=["eth0"]), *rows) == ["eth0", "eth0", "eth0"]


def test_the_loopback_counts_each_packet_once() -> None:
    """On lo a packet that is sent is received too; the received one is counted, with loopback on."""
    rows = ((1, OUTGOING, -1), (1, HOST, -1))
    assert seen(capture(loopback=True), *rows) == ["lo"]
    assert seen(capture(), *rows) == []


def test_unwanted_interfaces_are_left_to_the_kernel() -> None:
    """The kernel is told to pass no frames of known interfaces that are not watched."""
    assert capture()._ring.left_out == [1, 3, 4, 7]  # type: ignore[attr-defined]
    assert capture(interfaces=["br0"])._ring.left_out == [1, 2, 3, 4, 6, 7, 8]  # type: ignore[attr-defined]


def test_frames_of_an_interface_that_is_gone_still_count() -> None:
    """Frames that wait in the ring while their interface goes away keep its name; an unwatched one stays unwatched."""
    made = capture()
    made._watch.host = Host({9: Interface(9, "new0", True, False)})  # type: ignore[attr-defined]
    rows = ((2, HOST, -1), (4, HOST, -1), (9, HOST, -1), (77, HOST, -1))
    assert seen(made, *rows) == ["eth0", "new0", None]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EPERM, "no permission to capture packets: run as root, or give .*CAP_NET_RAW.*setcap"),
        (errno.EAFNOSUPPORT, "the kernel has no packet sockets; load the module af_packet"),
        (errno.EMFILE, "cannot open a packet socket: "),
    ],
)
def test_a_refused_socket_is_explained(monkeypatch: pytest.MonkeyPatch, number: int, says: str) -> None:
    """Without permission or packet sockets the error says what to do."""

    def refuse(*_: object) -> socket.socket:
        raise OSError(number, "refused")

    monkeypatch.setattr(ringlib.socket, "socket", refuse)
    with pytest.raises(CaptureError, match=says), Ring(mib=1, snap=128):
        pass


def test_building_opens_nothing(tmp_path: Path) -> None:
    """Building the collector needs no rights; it says what collecting needs."""
    collector = Settings().build(Context(accounts=Accounts(), state_dir=tmp_path))
    assert (collector.name, collector.live, collector.progress()) == ("af_packet", True, None)
    assert Settings.needs == {"cap_net_raw"}


def test_filter_passes_what_is_wanted() -> None:
    """The kernel's filter, run by hand: our own frames pass cut to the snap length, others and unwanted ones do not."""
    import struct

    def run(left_out: list[int], packet_type: int, index: int) -> int:
        program = [
            struct.unpack_from("HBBI", ringlib._filter(left_out, 128), at * 8)
            for at in range(len(left_out) + 6)
        ]
        at, value = 0, 0
        while True:
            code, yes, no, k = program[at]
            at += 1
            if code == 0x20:
                value = {0xFFFFF004: packet_type, 0xFFFFF008: index}[k]
            elif code == 0x06:
                return int(k)
            else:
                at += yes if (value == k if code == 0x15 else value > k) else no

    for left_out in ([], [5], list(range(100, 300))):
        assert [run(left_out, kind, 3) for kind in range(8)] == [128, 128, 128, 0, 128, 0, 0, 0]
        assert [run(left_out, HOST, index) for index in left_out] == [0] * len(left_out)
