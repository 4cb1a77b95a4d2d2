"""This host's interfaces and addresses, asked of the kernel over rtnetlink(7), with word of every change.

No library for it is among the dependencies, and the three messages needed are short. Reads the network namespace of
the calling thread, which /sys does not.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from agent.core.address import Network
from agent.core.errors import CaptureError

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_DUMP: Final = 0x0301  # NLM_F_REQUEST | NLM_F_DUMP
_ONE: Final = 0x0001  # NLM_F_REQUEST
_ERROR, _DONE = 2, 3
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
_GROUPS: Final = 0x1 | 0x10 | 0x100  # RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
_GETNSID, _NSID, _NSID_PID = 90, 1, 2  # linux/net_namespace.h
_IFNAME, _LINK, _MASTER, _LINKINFO, _STATS64, _LINK_NETNSID = 3, 5, 10, 18, 23, 37
_TRAFFIC: Final = struct.Struct("=QQQQ")
_ETHERNET, _ETHERNET_HEADER = 1, 14  # ARPHRD_ETHER
_INFO_KIND, _INFO_DATA, _VLAN_ID = 1, 2, 1
_XDP, _XDP_ATTACHED, _XDP_PROGRAM = 43, 2, 4
_ADDRESS, _LOCAL = 1, 2
_NESTED: Final = 0x3FFF
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface."""

    index: int
    name: str
    up: bool
    loopback: bool
    kind: str = ""
    """Such as bridge, bond, vlan, veth; empty for hardware."""
    master: int = 0
    """Index of the bridge, bond or VRF that it is a port of; 0 for none."""
    parent: int = 0
    """Index of the interface that it lies upon, such as a VLAN's; 0 for none."""
    vlan: int = -1
    """VLAN id; -1 where it is no VLAN interface."""
    hardware: int = 0
    """ARPHRD number of its link layer (linux/if_arp.h); 1 is Ethernet."""
    netns: int = -1
    """This namespace's own number for the network namespace that its other end lies in; -1 where that is none."""
    xdp: int = 0
    """Id of the XDP program on it, -1 where there are several; 0 for none."""
    link_header: int = field(default=14, compare=False)
    """Octets of the link layer's header that its counters hold too."""
    traffic: Traffic = field(default_factory=lambda: Traffic(), compare=False)
    """Since the interface was made."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Frames and their octets, header of the link layer included (linux/if_link.h: rtnl_link_stats64)."""

    packets_in: int = 0
    packets_out: int = 0
    octets_in: int = 0
    octets_out: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """Interfaces by index, and the host's own addresses, at one moment."""

    interfaces: dict[int, Interface] = field(default_factory=dict)
    addresses: tuple[Network, ...] = ()

    def vantages(self, *, loopback: bool = False) -> list[Interface]:
        """The interfaces on which each packet of this host is seen once.

        A port of a bridge or bond is left out, for its packets are seen at the bridge or bond too; so is a VRF, whose
        packets are seen at its ports.
        """
        out = []
        for interface in self.interfaces.values():
            master = self.interfaces.get(interface.master)
            is_port = interface.master != 0 and not (master is not None and master.kind == "vrf")
            if interface.kind != "vrf" and not is_port and (loopback or not interface.loopback):
                out.append(interface)
        return out

    def uplinks(self) -> list[Interface]:
        """The interfaces by which packets leave this network namespace: its hardware (virtual machines' included), each
        once however it is bridged or bonded; where there is none, what is no port of a bridge and lies on no other.
        """
        real = [i for i in self.interfaces.values() if not i.loopback and not i.kind]
        if real:
            return real
        return [i for i in self.vantages() if i.kind in ("veth", "macvlan", "ipvlan", "macvtap", "netkit")]

    def outward(self) -> frozenset[int]:
        """Indexes of the uplinks and of all that lies on them (bridges, bonds, VLANs): packets there leave the host."""
        found = {i.index for i in self.uplinks()}
        while True:
            more = {self.interfaces[i].master for i in found if i in self.interfaces} - {0}
            more |= {i.index for i in self.interfaces.values() if i.parent in found and i.kind != "veth"}
            if more <= found:
                return frozenset(found)
            found |= more

    def vlans(self) -> set[tuple[int, int]]:
        """(interface index, VLAN id) of tagged frames that are seen at a VLAN interface too."""
        return {(i.parent, i.vlan) for i in self.interfaces.values() if i.vlan >= 0 and i.parent}


class HostWatch:
    """Reads the host's interfaces and addresses, and tells when they may have changed. Close it."""

    def __init__(self) -> None:
        self._news: socket.socket | None = None

    def __enter__(self) -> Self:
        self._news = _netlink(_GROUPS)
        self._news.setblocking(False)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._news is not None:
            self._news.close()

    def changed(self) -> bool:
        """Whether anything was heard since the last call. Does not block."""
        assert self._news is not None
        heard = False
        while True:
            try:
                self._news.recv(65536)
            except BlockingIOError:
                return heard
            except OSError as error:
                # More was said than the socket could hold: that is news enough.
                if error.errno != errno.ENOBUFS:
                    raise
            heard = True

    def read(self) -> Host:
        """The state now. Raises :class:`CaptureError` where the kernel does not answer."""
        links = (_interface(body) for kind, body in _dump(_GETLINK) if kind == _NEWLINK)
        addresses = (_own(body) for kind, body in _dump(_GETADDR) if kind == _NEWADDR)
        return Host(
            {i.index: i for i in links}, tuple(sorted({a for a in addresses if a is not None}, key=str))
        )


def passed(index: int) -> Traffic | None:
    """What has passed an interface; None if it is gone. Reads the namespace of the calling thread."""
    try:
        answers = asked(_GETLINK, struct.pack("=BxHiII", 0, 0, index, 0, 0), _ONE)
    except CaptureError:
        return None
    found = _attributes(answers[0][1][16:]).get(_STATS64, b"") if answers else b""
    return _traffic(found)


def number_of_netns(pid: int) -> int:
    """The calling thread's namespace's own number for the network namespace of a process; -1 if it has none."""
    body = struct.pack("=Bxxx", 0) + _ATTRIBUTE.pack(8, _NSID_PID) + struct.pack("=I", pid)
    try:
        answers = asked(_GETNSID, body, _ONE)
    except CaptureError:
        return -1  # the process has ended
    found = _attributes(answers[0][1][4:]).get(_NSID, b"") if answers else b""
    return int(struct.unpack_from("=i", found)[0]) if len(found) >= 4 else -1


def _netlink(groups: int = 0) -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        opened.bind((0, groups))
    except OSError as error:
        raise CaptureError(
            f"cannot ask the kernel for interfaces and addresses (rtnetlink): {error.strerror}; "
            "a sandbox may forbid AF_NETLINK sockets"
        ) from error
    return opened


def _dump(request: int) -> list[tuple[int, bytes]]:
    # struct ifinfomsg; the longest head of the two requests
    return asked(request, struct.pack("=BxHiII", 0, 0, 0, 0, 0))


def asked(request: int, body: bytes, flags: int = _DUMP) -> list[tuple[int, bytes]]:
    """The messages (type, body) that answer a request: all of a dump, else one. Raises :class:`CaptureError`."""
    out: list[tuple[int, bytes]] = []
    with contextlib.closing(_netlink()) as asking:
        asking.settimeout(5)
        try:
            asking.send(_HEADER.pack(_HEADER.size + len(body), request, flags, 1, 0) + body)
            while True:
                for kind, message in _messages(asking.recv(1 << 20)):
                    if kind == _DONE:
                        return out
                    if kind == _ERROR:
                        code = -struct.unpack_from("=i", message)[0]
                        raise OSError(code, errno.errorcode.get(code, str(code)))
                    out.append((kind, message))
                if flags == _ONE:
                    return out
        except OSError as error:
            raise CaptureError(f"the kernel did not list interfaces and addresses: {error}") from error


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, *_ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + size]
        at += size + 3 & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    out: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            break
        out[kind & _NESTED] = data[at + _ATTRIBUTE.size : at + size]
        at += size + 3 & ~3
    return out


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "little" if struct.pack("=H", 1)[0] else "big")


def _interface(body: bytes) -> Interface:
    _family, hardware, index, flags, _change = struct.unpack_from("=BxHiII", body)
    found = _attributes(body[16:])
    info = _attributes(found.get(_LINKINFO, b""))
    kind = info.get(_INFO_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
    vlan = -1
    if kind == "vlan":
        vlan = _number(_attributes(info.get(_INFO_DATA, b"")).get(_VLAN_ID))
    return Interface(
        link_header=_ETHERNET_HEADER if hardware == _ETHERNET else 0,
        traffic=_traffic(found.get(_STATS64, b"")) or Traffic(),
        index=index,
        name=found.get(_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace"),
        up=bool(flags & _IFF_UP),
        loopback=bool(flags & _IFF_LOOPBACK),
        kind=kind,
        master=_number(found.get(_MASTER)),
        parent=_number(found.get(_LINK)),
        vlan=vlan,
        hardware=hardware,
        netns=_number(found.get(_LINK_NETNSID)) if _LINK_NETNSID in found else -1,
        xdp=_program(_attributes(found.get(_XDP, b""))),
    )


def _traffic(stats: bytes) -> Traffic | None:
    return Traffic(*_TRAFFIC.unpack_from(stats)) if len(stats) >= _TRAFFIC.size else None


def _program(xdp: dict[int, bytes]) -> int:
    """The XDP program in IFLA_XDP: its id, -1 for several, 0 for none."""
    return (_number(xdp.get(_XDP_PROGRAM)) or -1) if _number(xdp.get(_XDP_ATTACHED)) else 0


def _own(body: bytes) -> Network | None:
    family, *_ = struct.unpack_from("=BBBBI", body)
    found = _attributes(body[8:])
    # On a point-to-point link IFA_ADDRESS is the far end; IPv6 sends no IFA_LOCAL elsewhere.
    raw = found.get(_LOCAL) or found.get(_ADDRESS) or b""
    if family == socket.AF_INET and len(raw) == 4:
        return ipaddress.IPv4Network(raw)
    if family == socket.AF_INET6 and len(raw) == 16:
        return ipaddress.IPv6Network(raw)
    return None
