"""The programs let everything pass, whatever is in a packet: the kernel runs them on made-up packets (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors.bpf import libbpf
from collectors.bpf.programs import image

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
]
GO_ON = 1
PROGRAMS = ("sekisho_egress", "sekisho_ingress")


class _Test(ctypes.Structure):
    """``struct bpf_test_run_opts`` of libbpf 1.0."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


class Ran:
    """The loaded programs, and how many of their returns were other than 1."""

    def __init__(self, loaded: libbpf.Object) -> None:
        self._library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        self._library.bpf_program__fd.argtypes = (ctypes.c_void_p,)
        self._fds = {
            n: self._library.bpf_program__fd(p) for n, p in loaded._programs.items() if n in PROGRAMS
        }
        self.other_returns = self.runs = 0

    def run(self, frame: bytes) -> None:
        """Give both programs a frame with its link layer's header."""
        data = ctypes.create_string_buffer(frame, len(frame))
        for fd in self._fds.values():
            test = _Test(ctypes.sizeof(_Test), ctypes.addressof(data), None, len(frame))
            if self._library.bpf_prog_test_run_opts(fd, ctypes.byref(test)) == 0:
                self.runs += 1
                self.other_returns += test.retval != GO_ON


@pytest.fixture(scope="module")
def ran() -> Iterator[Ran]:
    with libbpf.Object(image("flow"), entries={"sekisho_flows_a": 64, "sekisho_flows_b": 64}) as loaded:
        yield Ran(loaded)


ETHERNET = b"\2" * 12
v4 = st.builds(
    lambda first, protocol, fragment, rest: (
        ETHERNET
        + b"\x08\x00"
        + bytes([first])
        + struct.pack(">xHHHBBH", 60, 1, fragment, 64, protocol, 0)
        + socket.inet_aton("192.0.2.1") * 2
        + rest
    ),
    st.sampled_from((0x45, 0x46, 0x4F, 0x40)),
    st.sampled_from((1, 6, 17, 33, 50, 132, 136, 255)),
    st.sampled_from((0, 0x4000, 0x2000, 1, 0x1FFF)),
    st.binary(max_size=80),
)
v6 = st.builds(
    lambda following, rest: (
        ETHERNET
        + b"\x86\xdd"
        + struct.pack(">IHBB", 6 << 28, len(rest), following, 64)
        + socket.inet_pton(socket.AF_INET6, "2001:db8::1") * 2
        + rest
    ),
    st.sampled_from((0, 6, 17, 43, 44, 50, 51, 58, 59, 60, 132)),
    st.builds(
        lambda parts, tail: b"".join(parts) + tail,
        st.lists(
            st.builds(
                lambda n, size: bytes([n, size]) + bytes(6),
                st.sampled_from((0, 6, 17, 43, 44, 51, 60)),
                st.integers(0, 255),
            ),
            max_size=8,
        ),
        st.binary(max_size=60),
    ),
)
any_frame = st.builds(
    lambda kind, rest: ETHERNET + kind + rest,
    st.sampled_from((b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x12\x34")),
    st.binary(min_size=1, max_size=120),
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=st.one_of(v4, v6, any_frame))
def test_no_packet_is_ever_stopped(ran: Ran, frame: bytes) -> None:
    """The count of returns other than 1 stays 0, whole packets or torn ones, and with maps that are full."""
    ran.run(frame)
    assert ran.other_returns == 0


def test_the_programs_did_run(ran: Ran) -> None:
    """The kernel took most of the frames: else the test above would show nothing."""
    before = ran.runs
    for size in range(20, 60):
        ran.run(ETHERNET + b"\x08\x00\x45" + bytes(size))
    assert ran.runs == before + 80
