"""Stand-ins for virtual machines and pods behind a watched host: taps that a process holds, and veths to namespaces.

A machine is a network namespace of its own whose only interface is a tap; the process that holds it hands each frame on
to a tap of the host, as a hypervisor does, with the offload header before it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core.accounts import Accounts, Amounts
from agent.core.flow import FlowBatch, concat
from agent.core.stages import CollectorSettings, Context
from collectors import ebpf as of_sockets
from collectors import tc
from collectors.bpf import hooks, libbpf
from tests.tools import hosting, netns
from tests.tools.netns import Namespace, Pair, Task, wait_for

VM4, VM6, GATE4, GATE6 = "198.51.100.2", "2001:db8:1::2", "198.51.100.1", "2001:db8:1::1"
POD4, POD6, POD_GATE4, POD_GATE6 = "203.0.113.2", "2001:db8:2::2", "203.0.113.1", "2001:db8:2::1"
ALLOWED: dict[str, Any] = {"legal_basis": "test", "approved_by": "A. Example", "approved_on": "2026-01-01"}
_counter = itertools.count()

_HOLD = """
import fcntl, select
offload = int(sys.argv[3])
def tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH14x", name.encode(), 0x0002 | 0x1000 | 0x4000))  # TUNSETIFF: TAP, NO_PI, VNET_HDR
    fcntl.ioctl(fd, 0x400454D0, 0x67 if offload else 0)  # TUNSETOFFLOAD: CSUM, TSO4, TSO6, USO4, USO6
    return fd
here = os.open("/proc/self/ns/net", os.O_RDONLY)
outer = tap(sys.argv[1])
os.setns = ctypes.CDLL(None).setns
if os.setns(os.open("/run/netns/" + sys.argv[2], os.O_RDONLY), 0x40000000): raise OSError("setns")
inner = tap("eth0")
if os.setns(here, 0x40000000): raise OSError("setns")
open("/proc/self/comm", "w").write("qemu-stand-in")
print("ready", flush=True)
while True:
    for fd in select.select([outer, inner, sys.stdin], [], [])[0]:
        if fd is sys.stdin: sys.exit()
        try:
            os.write(inner if fd is outer else outer, os.read(fd, 80000))
        except OSError: pass
"""


@dataclass
class Machine:
    """A virtual machine: ``space`` is what runs in it, ``tap`` where the host sees it."""

    space: Namespace
    tap: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def space(kind: str) -> Iterator[Namespace]:
    """A network namespace; removed at the end."""
    made = Namespace(f"sk{kind}{os.getpid()}{next(_counter)}")
    netns.run("ip", "netns", "add", made.name)
    try:
        made.ip("link", "set", "lo", "up")
        yield made
    finally:
        subprocess.run(("ip", "netns", "del", made.name), check=False, capture_output=True)


@contextlib.contextmanager
def machine(host: Namespace, tap: str = "vnet0", *, offload: bool = False) -> Iterator[Machine]:
    """A machine behind a tap of the host; it has no address yet."""
    with space("v") as inside:
        holder = hosting.start_in(
            host, _HOLD, tap, inside.name, int(offload), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None and holder.stdin is not None
        try:
            assert holder.stdout.readline() == "ready\n"
            host.ip("link", "set", tap, "up")
            inside.ip("link", "set", "eth0", "up")
            yield Machine(inside, tap, holder)
        finally:
            holder.stdin.close()
            holder.wait(20)
            holder.stdout.close()


def join_bridge(two: Pair, *ports: str) -> None:
    """Put the host's link to the peer and other ports into a bridge ``br0``; the host's addresses move to it."""
    host = two.host
    host.ip("link", "add", "br0", "type", "bridge")
    host.ip("addr", "flush", "dev", "h0")
    for port in ("h0", *ports):
        host.ip("link", "set", port, "master", "br0")
    host.ip("link", "set", "br0", "up")
    netns.address(host, "br0", netns.HOST4, netns.HOST6)


def address_in_bridge(inside: Namespace, interface: str, number: int) -> tuple[str, str]:
    """Give a guest addresses of the bridge's network."""
    v4, v6 = f"192.0.2.{number}", f"2001:db8::{number:x}"
    netns.address(inside, interface, v4, v6)
    return v4, v6


def route(two: Pair, inside: Namespace, outer: str, inner: str, ends: tuple[str, str, str, str]) -> None:
    """Route between a guest and the peer; ``ends``: the guest's addresses, then the host's towards it."""
    host = two.host
    v4, v6, gate4, gate6 = ends
    netns.address(host, outer, gate4, gate6)
    netns.address(inside, inner, v4, v6)
    inside.ip("route", "add", "default", "via", gate4)
    inside.ip("-6", "route", "add", "default", "via", gate6)
    prefix4, prefix6 = gate4.rsplit(".", 1)[0] + ".0/24", gate6.rsplit("::", 1)[0] + "::/64"
    two.peer.ip("route", "add", prefix4, "via", netns.HOST4)
    two.peer.ip("-6", "route", "add", prefix6, "via", netns.HOST6)
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        host.run("sh", "-c", f"echo 1 > /proc/sys/net/{setting}")


@contextlib.contextmanager
def pod(two: Pair, outer: str = "cali0") -> Iterator[Namespace]:
    """A namespace behind a veth, routed to the peer, as many pod networks are."""
    with space("q") as inside:
        two.host.ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", inside.name)
        for where, end in ((two.host, outer), (inside, "eth0")):
            where.run("ethtool", "-K", end, "tso", "off", "gso", "off", "gro", "off")
            where.ip("link", "set", end, "gso_max_segs", "1")
            where.ip("link", "set", end, "up")
        route(two, inside, outer, "eth0", (POD4, POD6, POD_GATE4, POD_GATE6))
        yield inside


_NONE = Path("/nonexistent")


class Capture:
    """A collector at work in a namespace."""

    def __init__(self, where: Namespace, settings: CollectorSettings, state_dir: Path) -> None:
        self.accounts = Accounts()
        self.batches: list[FlowBatch] = []
        self.stop, self.started = threading.Event(), threading.Event()
        self.collector = settings.build(Context(accounts=self.accounts, state_dir=state_dir))
        self.task = Task(where, self._collect)

    def _collect(self) -> None:
        for batch in self.collector.collect(self.stop):
            self.batches.append(batch)
            self.started.set()

    def rows(self, *protocols: int) -> list[dict[str, Any]]:
        """Stop it; its rows, of TCP and UDP unless named. Checks the account."""
        self.stop.set()
        self.task.result()
        whole = concat([b for b in self.batches if len(b)])
        account = self.accounts.check().read()
        assert account.in_memory == whole.amounts()
        assert account.in_kernel == Amounts()
        return [row for row in whole.rows() if row["protocol"] in (protocols or (6, 17))]


@contextlib.contextmanager
def capturing(where: Namespace, *, state_dir: Path = _NONE, **settings: Any) -> Iterator[Capture]:
    """The tc collector, stopped in any case."""
    given = ALLOWED | {"interfaces": ["vnet*"], "pin": False, "interval": 1} | settings
    with _at_work(where, tc.Settings.model_validate(given), state_dir) as capture:
        yield capture


@contextlib.contextmanager
def ebpf(where: Namespace) -> Iterator[Capture]:
    """The ebpf collector on the whole host, stopped in any case."""
    with _at_work(where, of_sockets.Settings.model_validate({"pin": False, "interval": 1})) as capture:
        yield capture


@contextlib.contextmanager
def _at_work(where: Namespace, settings: CollectorSettings, state_dir: Path = _NONE) -> Iterator[Capture]:
    capture = Capture(where, settings, state_dir)
    try:
        wait_for(lambda: capture.started.is_set() or capture.task.done, "the capture to begin")
        yield capture
    finally:
        capture.stop.set()
        if not capture.task.done:
            capture.task.result()


_FOREIGN = """
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int foreign(struct __sk_buff *skb) { return skb->protocol == 0x0608 /* ARP */ ? -1 : %d; }
char _license[] SEC("license") = "GPL";
"""


@contextlib.contextmanager
def foreign(where: Namespace, interface: str, verdict: int) -> Iterator[None]:
    """Another tool's tcx program, first on what comes in from an interface, that gives one verdict for all but ARP."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "foreign.c", Path(folder) / "foreign.o"
        source.write_text(_FOREIGN % verdict)
        include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
        netns.run("clang", "-O2", "-g", "-target", "bpf", include, "-c", str(source), "-o", str(made))
        with libbpf.Object(made.read_bytes()) as loaded:
            program = loaded.program("foreign")
            link = where.call(lambda: hooks.put_tcx(program, socket.if_nametoindex(interface), "ingress"))
            try:
                yield
            finally:
                os.close(link)
                os.close(program)
