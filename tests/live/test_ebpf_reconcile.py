"""Rows beside the counters of the interfaces, over real links."""

from __future__ import annotations

import pytest

from collectors.bpf import libbpf
from collectors.host.cgroups import mounted
from tests.tools import hosting, netns
from tests.tools.bpf_capture import Capture, capturing
from tests.tools.ends import sink
from tests.tools.netns import PEER4, PEER6

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
]

SEND = """
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
for n in range(int(sys.argv[2])): s.sendto(bytes(1000), (sys.argv[1], 9))
"""
# Whole Ethernet frames past the IP layer, as a packet socket sends them: no hook of the control group sees them.
RAW = """
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(("h0", 0x0800))
for n in range(100): s.send(bytes(12) + b"\\x08\\x00" + b"\\x45" + bytes(999))
"""


def told(capture: Capture) -> tuple[int, int]:
    """(octets out by the interfaces but for ARP, octets of rows)."""
    account = capture.accounts.read().reconciled
    assert account is not None
    return account.interfaces_out - account.not_ip_out, account.rows_out


def test_rows_equal_what_the_interface_counted() -> None:
    """Datagrams of both families, after ARP and neighbour discovery: nothing stays unexplained but ARP's few octets."""
    with netns.pair() as two, hosting.group(two.host) as here:
        with capturing(here, cgroup=None) as capture:
            for target in (PEER4, PEER6):
                with sink(two.peer, target, 9):
                    here.run(SEND, target, 2000)
            two.settle()
            capture.rows()
        interfaces, rows = told(capture)
        account = capture.accounts.read().reconciled
    assert account is not None
    assert rows >= 2000 * (1028 + 1048)
    # An ARP packet has 28 octets here and is taken for at most 46; a multicast report may be under way at the end.
    assert abs(interfaces - rows) < 400
    assert account.unexplained_out < 400
    assert account.unexplained_share_out is not None
    assert account.unexplained_share_out < 0.0001


def test_what_no_hook_sees_stays_unexplained() -> None:
    """Frames of a packet socket are in no row: their octets, less 46 for each as it might be ARP, are the unexplained share."""
    with netns.pair() as two, hosting.group(two.host) as here:
        with capturing(here, cgroup=None) as capture:
            here.run(RAW)
            two.settle()
            capture.rows()
        account = capture.accounts.read().reconciled
    assert account is not None
    assert 100 * (1000 - 46) - 400 < account.unexplained_out <= 100 * 1000
    assert account.unexplained_share_out is not None
    assert account.unexplained_share_out > 0.8


def test_a_part_of_the_host_is_not_compared() -> None:
    """Where one control group is watched, interfaces say nothing of it."""
    with netns.pair() as two, hosting.group(two.host) as here, capturing(here) as capture:
        here.run(SEND, PEER4, 1)
        capture.rows()
        assert capture.accounts.read().reconciled is None
