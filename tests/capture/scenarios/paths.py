"""Ways around the plain path: containers, translated addresses, tunnels, sockets below TCP and UDP."""

from __future__ import annotations

import contextlib
import socket
import struct

from tests.capture.judge import Claim
from tests.capture.stage import PORT, NotThereError, Stage, scenario
from tests.capture.wire import (
    ALIAS,
    BOX,
    BOX_GATE,
    FAMILIES,
    HOST,
    ICMP,
    ICMP6,
    INNER_HOST,
    INNER_PEER,
    PEER,
    SCTP,
    SERVICE,
    TESTING,
    UDP,
)
from tests.tools.netns import Namespace

_WORD = {4: "ip", 6: "ip6"}
_LENGTH = {4: "24", 6: "64"}
_PEER_MAC, _HOST_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"


def _address(namespace: Namespace, family: int, address: str, interface: str, length: str = "") -> None:
    quick = ("nodad",) if family == 6 else ()
    namespace.ip("addr", "add", f"{address}/{length or _LENGTH[family]}", "dev", interface, *quick)


def _box(stage: Stage) -> None:
    """A container's namespace behind the host, which forwards."""
    wire = stage.wire
    box = wire.namespace("c")
    wire.host.ip("link", "add", "hc0", "type", "veth", "peer", "name", "c0", "netns", box.name)
    wire.host.ip("link", "set", "hc0", "up")
    box.ip("link", "set", "c0", "up")
    wire.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")  # fmt: skip
    for family in FAMILIES:
        six = ("-6",) if family == 6 else ()
        _address(wire.host, family, BOX_GATE[family], "hc0")
        _address(box, family, BOX[family], "c0")
        box.ip(*six, "route", "add", "default", "via", BOX_GATE[family])
        wire.peer.ip(*six, "route", "add", BOX[family], "via", HOST[family])
        wire.local[family] = {BOX[family]}
    wire.count()


@scenario(
    "a container sends from its own namespace, routed through the host", prepare=_box, wants="container"
)
def container(stage: Stage, family: int) -> None:
    stage.sink(family)
    stage.send("tcp_bulk", family, namespace=stage.wire.more[0], group="box", octets=stage.size(3_000_000, 100_000_000))  # fmt: skip


def _masqueraded(stage: Stage) -> None:
    _box(stage)
    rules = [f"{_WORD[f]} saddr {BOX[f]} oifname h0 masquerade" for f in FAMILIES]
    stage.wire.chain(stage.wire.host, "nat", "nat hook postrouting priority 100", *rules)
    for family in FAMILIES:
        stage.wire.local[family] = {HOST[family]}
        stage.wire.behind[family] = {BOX[family]}
    stage.wire.count()


@scenario("a container behind the host's masquerade: what leaves bears the host's address", prepare=_masqueraded, wants="masquerade")  # fmt: skip
def container_masqueraded(stage: Stage, family: int) -> None:
    stage.sink(family)
    stage.send("tcp_bulk", family, namespace=stage.wire.more[0], group="box", octets=stage.size(3_000_000, 100_000_000))  # fmt: skip


def _snat(stage: Stage) -> None:
    rules = [f"{_WORD[f]} daddr {PEER[f]} snat {_WORD[f]} to {ALIAS[f]}" for f in FAMILIES]
    stage.wire.chain(stage.wire.host, "nat", "nat hook postrouting priority 100", *rules)
    for family in FAMILIES:
        _address(stage.wire.host, family, ALIAS[family], "h0", {4: "32", 6: "128"}[family])
        stage.wire.peer.ip("neigh", "replace", ALIAS[family], "lladdr", _HOST_MAC, "dev", "p0", "nud", "permanent")  # fmt: skip
        stage.wire.local[family] |= {ALIAS[family]}
    stage.wire.count()


@scenario("the host's source address is translated (SNAT)", prepare=_snat)
def snat(stage: Stage, family: int) -> None:
    stage.sink(family)
    stage.send("tcp_bulk", family, octets=stage.size(3_000_000, 100_000_000))


def _dnat(stage: Stage) -> None:
    rules = [f"{_WORD[f]} daddr {SERVICE[f]} tcp dport 80 dnat {_WORD[f]} to {_end(f)}" for f in FAMILIES]
    stage.wire.chain(stage.wire.host, "nat", "nat hook output priority -100", *rules)
    for family in FAMILIES:
        six = ("-6",) if family == 6 else ()
        stage.wire.host.ip(*six, "route", "add", SERVICE[family], "via", PEER[family])


def _end(family: int) -> str:
    return f"[{PEER[family]}]:{PORT}" if family == 6 else f"{PEER[family]}:{PORT}"


@scenario("the destination is translated (DNAT, as kube-proxy does)", prepare=_dnat)
def dnat(stage: Stage, family: int) -> None:
    stage.sink(family)
    sender = stage.sender("tcp_bulk", family, to=SERVICE[family], port=80, octets=stage.size(3_000_000, 100_000_000))  # fmt: skip
    stage.claim(family, sender)
    stage.sent[family] += sender.step()["sent"]


def _tunnel(stage: Stage, *kind: str, **ends: tuple[str, ...]) -> None:
    """A tunnel interface t0 at both ends, with the inner addresses."""
    wire = stage.wire
    for namespace, end, inner in ((wire.host, "host", INNER_HOST), (wire.peer, "peer", INNER_PEER)):
        try:
            namespace.ip("link", "add", "t0", "type", *kind, *ends[end])
        except RuntimeError as error:
            raise NotThereError(f"the kernel has no {kind[0]} ({str(error).rsplit(': ', 1)[-1]})") from error
        if namespace is wire.peer:
            # Each packet shall be counted by itself.
            with contextlib.suppress(RuntimeError):
                namespace.run("ethtool", "-K", "t0", "gro", "off", "tso", "off", "gso", "off")
            namespace.ip("link", "set", "t0", "gso_max_segs", "1")
        # Nothing shall go through the tunnel when it likes: no link-local address announced, no groups reported.
        quiet = "oifname t0 icmpv6 type { mld-listener-report, mld2-listener-report, nd-router-solicit } drop"
        wire.chain(namespace, "quiet", "filter hook output priority 0", quiet)
        with contextlib.suppress(RuntimeError):
            namespace.ip("link", "set", "t0", "addrgenmode", "none")
        namespace.ip("link", "set", "t0", "up")
        for family in FAMILIES:
            _address(namespace, family, inner[family], "t0")


def _inside(stage: Stage) -> None:
    for family in FAMILIES:
        stage.wire.local[family] = {INNER_HOST[family]}
    stage.wire.count()


def _vxlan(stage: Stage, family: int = 4) -> None:
    kind = ("vxlan", "id", "7", "dstport", "4789")
    _tunnel(
        stage,
        *kind,
        host=("local", HOST[family], "remote", PEER[family], "dev", "h0"),
        peer=("local", PEER[family], "remote", HOST[family], "dev", "p0"),
    )


def _vxlan_over_6(stage: Stage) -> None:
    _vxlan(stage, 6)


def _vxlan_inner(stage: Stage) -> None:
    _vxlan(stage)
    _inside(stage)


@scenario("TCP through VXLAN: the packets inside, at the tunnel's interface", prepare=_vxlan_inner)
def vxlan_inside(stage: Stage, family: int) -> None:
    stage.sink(family, at=INNER_PEER[family])
    stage.send("tcp_bulk", family, to=INNER_PEER[family], octets=stage.size(3_000_000, 100_000_000))


@scenario("TCP through VXLAN: the UDP packets that carry it", protocols=(UDP,), families=(4,), prepare=_vxlan)  # fmt: skip
def vxlan_outside(stage: Stage, family: int) -> None:
    stage.claims[family].append(Claim(()))
    for inner in FAMILIES:
        stage.sink(inner, at=INNER_PEER[inner])
        said = stage.send("tcp_bulk", inner, claim=False, to=INNER_PEER[inner], octets=stage.size(3_000_000, 100_000_000))  # fmt: skip
        if inner != family:
            stage.sent[family] += said["sent"]


@scenario("the same over IPv6", protocols=(UDP,), families=(6,), prepare=_vxlan_over_6)
def vxlan_outside_v6(stage: Stage, family: int) -> None:
    vxlan_outside(stage, family)


def _gre(stage: Stage) -> None:
    _tunnel(
        stage, "gre", host=("local", HOST[4], "remote", PEER[4]), peer=("local", PEER[4], "remote", HOST[4])
    )
    _inside(stage)


@scenario("TCP through GRE: the packets inside", prepare=_gre)
def gre_inside(stage: Stage, family: int) -> None:
    vxlan_inside(stage, family)


def _wireguard(stage: Stage) -> None:
    _tunnel(stage, "wireguard", host=(), peer=())
    keys = {}
    for namespace in (stage.wire.host, stage.wire.peer):
        try:
            made = "umask 077; wg genkey | tee $0 | wg pubkey"
            keys[namespace] = namespace.run("sh", "-c", made, str(stage.folder / namespace.name)).strip()
        except RuntimeError as error:
            raise NotThereError("the program wg (wireguard-tools) is not installed") from error
    everything = ("allowed-ips", "0.0.0.0/0,::/0")
    for namespace, other, port, to in (
        (stage.wire.host, stage.wire.peer, "51820", f"{PEER[4]}:51821"),
        (stage.wire.peer, stage.wire.host, "51821", f"{HOST[4]}:51820"),
    ):
        key = str(stage.folder / namespace.name)
        namespace.run("wg", "set", "t0", "listen-port", port, "private-key", key, "peer", keys[other], "endpoint", to, *everything)  # fmt: skip
    _inside(stage)


@scenario("TCP through WireGuard: the packets inside", prepare=_wireguard)
def wireguard_inside(stage: Stage, family: int) -> None:
    vxlan_inside(stage, family)


@scenario("a raw IP socket with a protocol number for experiments", protocols=(TESTING,))
def raw_socket(stage: Stage, family: int) -> None:
    stage.wire.chain(
        stage.wire.peer, f"silent{family}", "filter hook input priority 0", "meta l4proto 253 drop"
    )
    sender = stage.sender("raw_ip", family, count=stage.size(500, 20_000))
    stage.claim(family, sender)
    stage.sent[family] += sender.step()["sent"]


@scenario("whole frames with UDP inside from a packet socket, past IP and all its hooks", protocols=(UDP,))
def packet_socket(stage: Stage, family: int) -> None:
    stage.drain(family)
    content = 300
    stage.send("packet_socket", family, frame=_frame(family, content).hex(), content=content, count=stage.size(500, 20_000))  # fmt: skip


def _frame(family: int, content: int) -> bytes:
    ends = [socket.inet_pton(socket.AF_INET6 if family == 6 else socket.AF_INET, a[family]) for a in (HOST, PEER)]  # fmt: skip
    udp = struct.pack("!HHHH", 4000, PORT, 8 + content, 0) + bytes(content)
    if family == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0x4000, 64, 17, 0) + b"".join(ends)
        total = sum(struct.unpack("!10H", head))
        head = head[:10] + struct.pack("!H", ~(total % 0xFFFF) & 0xFFFF) + head[12:]
    else:
        head = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + b"".join(ends)
    macs = bytes.fromhex((_PEER_MAC + _HOST_MAC).replace(":", ""))
    return macs + struct.pack("!H", {4: 0x0800, 6: 0x86DD}[family]) + head + udp


@scenario("echo requests, each answered", protocols=(ICMP, ICMP6))
def icmp(stage: Stage, family: int) -> None:
    sender = stage.sender("ping", family, count=stage.size(200, 5_000))
    stage.claim(family, sender)
    stage.sent[family] += sender.step()["sent"]


def _sctp(_stage: Stage) -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP).close()
    except OSError as error:
        raise NotThereError(f"the kernel has no SCTP ({error.strerror})") from error


@scenario("an SCTP association", protocols=(SCTP,), prepare=_sctp)
def sctp(stage: Stage, family: int) -> None:
    def serve() -> None:
        with socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_STREAM, SCTP) as server:  # fmt: skip
            server.bind((PEER[family], PORT))
            server.listen()
            sender.go()
            with server.accept()[0] as link:
                while link.recv(1 << 16):
                    pass

    sender = stage.sender("sctp", family, octets=stage.size(1_000_000, 50_000_000))
    stage.claims[family].append(Claim((sender.actor,), remote_port=PORT))
    stage.wire.peer.call(serve)
    stage.sent[family] += sender.said()["sent"]
