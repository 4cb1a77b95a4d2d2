"""What a real kernel shows of traffic that passes its network stack by."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from collectors.host import bypass
from collectors.host.ethtool import features
from tests.tools import netns
from tests.tools.netns import Namespace

pytestmark = pytest.mark.root
_AF_XDP = 44
_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_LOAD, _LINK = 5, 28  # BPF_PROG_LOAD, BPF_LINK_CREATE
_TYPE_XDP, _ATTACH_XDP = 6, 37


def _bpf(what: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes.ljust(144, b"\0"), 144)
    made = libc.syscall(_BPF, what, buffer, 144)
    if made < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(made)


@contextmanager
def passing(interface: str) -> Iterator[None]:
    """An XDP program that lets everything pass, on an interface of the calling thread's namespace."""
    code = ctypes.create_string_buffer(
        struct.pack("=BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)
    )  # r0 = XDP_PASS; exit
    licence = ctypes.create_string_buffer(b"GPL")
    program = _bpf(
        _LOAD, struct.pack("=IIQQ", _TYPE_XDP, 2, ctypes.addressof(code), ctypes.addressof(licence))
    )
    try:
        link = _bpf(_LINK, struct.pack("=IIII", program, socket.if_nametoindex(interface), _ATTACH_XDP, 0))
        try:
            yield
        finally:
            os.close(link)
    finally:
        os.close(program)


def in_namespace(namespace: Namespace) -> None:
    """An XDP program and an AF_XDP socket come and go, and each is found while it is there."""
    assert bypass.xdp_programs() == {}
    with passing("h0"):
        programs = bypass.xdp_programs()
        assert list(programs) == ["h0"] and programs["h0"] > 0
    assert bypass.xdp_programs() == {}


def test_an_xdp_program_is_found_on_its_interface() -> None:
    """rtnetlink tells the id of an XDP program, while it is attached."""
    with netns.pair() as two:
        two.host.call(lambda: in_namespace(two.host))


def test_an_af_xdp_socket_is_found() -> None:
    """/proc/net/protocols counts AF_XDP sockets of the own namespace."""

    def found() -> list[bypass.Bypass]:
        return [one for one in bypass.survey() if one.kind == "af_xdp"]

    before = sum(int(one.blanks["n"]) for one in found())
    try:
        opened = socket.socket(_AF_XDP, socket.SOCK_RAW, 0)
    except OSError as error:
        pytest.skip(f"this kernel has no AF_XDP: {error}")
    with opened:
        assert [one.blanks["n"] for one in found()] == [before + 1]


def test_features_of_an_interface_are_those_that_ethtool_shows() -> None:
    """The features that are on are the ones that the ethtool program calls on (it joins some under an older name)."""
    with netns.pair() as two:
        shown = {
            line.split(":")[0].strip()
            for line in two.host.run("ethtool", "-k", "h0").splitlines()
            if ": on" in line
        }
        found = two.host.call(lambda: features("h0"))
        alike = {"highdma", "tx-gre-segmentation", "rx-udp-gro-forwarding", "tx-checksum-ip-generic"}
        assert found & alike == shown & alike != set()
        assert features("nothing") == frozenset()
