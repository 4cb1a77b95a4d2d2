"""Forwarded capture when the host turns against it: programs taken off, pins gone, an approval withdrawn."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from collectors.bpf import hooks, libbpf
from collectors.host.cgroups import mounted
from tests.tools import guests, hosting
from tests.tools.ends import sink
from tests.tools.guests import Machine, capturing
from tests.tools.killed import AGENT, Site
from tests.tools.netns import PEER4, Pair, wait_for
from tests.tools.places import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
]

SEND = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[2])): s.sendto(bytes(100), (sys.argv[1], 5001))
"""
OCTETS = 128
_TCX_LINK = 11  # BPF_LINK_TYPE_TCX


def send(two: Pair, vm: Machine, count: int) -> None:
    with sink(two.peer, PEER4):
        assert hosting.start_in(vm.space, SEND, PEER4, count).wait(60) == 0
        two.settle()


def take_off(two: Pair, vm: Machine, attach: str) -> None:
    """Take our programs off the machine's interface, as another tool with the right to may (bpf(2): LINK_DETACH)."""
    if attach == "clsact":
        two.host.run("tc", "qdisc", "del", "dev", vm.tap, "clsact")
        return

    def standing() -> list[int]:
        index = socket.if_nametoindex(vm.tap)
        return [program for side in hooks.SIDES for program in hooks.order(index, side)]

    library, number, taken = ctypes.CDLL("libbpf.so.1", use_errno=True), ctypes.c_uint32(0), 0
    programs = two.host.call(standing)
    while not library.bpf_link_get_next_id(number, ctypes.byref(number)):
        link = library.bpf_link_get_fd_by_id(number)
        if link < 0:
            continue
        info, size = hooks.TcxInfo(), ctypes.c_uint32(ctypes.sizeof(hooks.TcxInfo))
        library.bpf_obj_get_info_by_fd(link, ctypes.byref(info), ctypes.byref(size))
        if info.type == _TCX_LINK and info.program in programs:
            assert library.bpf_link_detach(link) == 0
            taken += 1
        os.close(link)
    assert taken == 2


@pytest.mark.parametrize("pin", [False, True])
@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_programs_that_another_tool_took_off_an_interface_are_put_back(
    two: Pair, vm: Machine, tmp_path: Path, attach: str, pin: bool
) -> None:
    """Noticed within a second: what they had counted is kept, they count again, and the time between is a gap."""
    with (
        hosting.bpf_folder() as pins,
        capture_logs() as said,
        capturing(two.host, attach=attach, pin=pin, pin_dir=pins, state_dir=tmp_path) as capture,
    ):
        send(two, vm, 100)
        take_off(two, vm, attach)
        wait_for(
            lambda: any(e["event"] == "programs_put_back" for e in said), "the programs to be put back", 60
        )
        wait_for(lambda: "not_counting" in capture.accounts.read().unobserved, "the gap to be counted", 60)
        send(two, vm, 50)
        rows = capture.rows(17)
        assert not (pins / "guests").exists()
    assert sum(row["packets_out"] for row in rows) == 150
    gap = capture.accounts.read().unobserved["not_counting"]
    assert 0 < gap.seconds < 60
    assert gap.octets_out_at_most is not None
    assert {p for e in said if e["event"] == "programs_taken_off" for p in e["programs"]} == {
        f"{side} of {vm.tap}" for side in hooks.SIDES
    }


def test_an_interface_that_goes_is_no_gap(two: Pair, tmp_path: Path) -> None:
    """A machine that ends takes its programs with it: nothing is put back, and nothing is said to be unobserved."""
    with capturing(two.host, state_dir=tmp_path) as capture, capture_logs() as said:
        with guests.machine(two.host, "vnet7"):
            wait_for(lambda: any(e["event"] == "interface_watched" for e in said), "it to be watched", 60)
        wait_for(lambda: any(e["event"] == "interface_released" for e in said), "it to be let go", 60)
        begun = len(capture.batches)
        wait_for(lambda: len(capture.batches) > begun + 2, "two more looks", 60)
        capture.rows()
    assert capture.accounts.read().unobserved == {}
    assert [e for e in said if e["log_level"] == "error"] == []


def test_what_nobody_counted_between_two_runs_is_bounded_by_the_interface(
    two: Pair, vm: Machine, tmp_path: Path
) -> None:
    """Killed, its maps gone: the next start tells for how long nothing was counted, and the most that can have passed."""
    note = tmp_path / "tc-guests.json"
    with capturing(two.host, state_dir=tmp_path) as capture:
        send(two, vm, 100)
        capture.rows()
        # An orderly stop forgets the note: there is no gap of it.
        assert not note.exists()
    with capturing(two.host, state_dir=tmp_path):
        wait_for(note.exists, "the note", 60)
        kept = shutil.copy(note, tmp_path / "kept")
    shutil.copy(kept, note)
    send(two, vm, 70)
    with capturing(two.host, state_dir=tmp_path) as capture:
        wait_for(lambda: "not_counting" in capture.accounts.read().unobserved, "the gap to be counted", 60)
        capture.rows()
    gap = capture.accounts.read().unobserved["not_counting"]
    assert gap.octets_out_at_most is not None
    assert 70 * OCTETS <= gap.octets_out_at_most < 70 * OCTETS + 2000
    assert gap.octets_in_at_most is not None
    assert gap.octets_in_at_most < 2000


@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_what_a_killed_agent_left_on_interfaces_is_handed_out_and_removed(
    two: Pair, vm: Machine, tmp_path: Path, attach: str
) -> None:
    """kill -9, the approval withdrawn, then `agent --detach`: all that was counted is decided, nothing is left."""
    with hosting.group(two.host) as here, hosting.bpf_folder() as pins:
        approval = "approved_by: A. Example, approved_on: 2026-01-01"
        settings = f"attach: {attach}, interval: 1, pin_dir: {pins}, map_flows: 4096"
        site = Site.made(
            two,
            here,
            tmp_path,
            pins,
            f"  tc: {{interfaces: [vnet*], legal_basis: test, {approval}, {settings}}}\n",
        )
        agent = site.start()
        send(two, vm, 30)
        agent.kill()
        agent.wait()
        send(two, vm, 12)
        config = tmp_path / "sekisho.yaml"
        config.write_text(config.read_text().replace(f", {approval}", ""))
        ending = hosting.start_in(
            two.host, AGENT, f"--config={config}", "agent", "--detach",
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        told, errors = ending.communicate(timeout=120)
        said = f"What was counted is decided and written; the programs of {pins}/guests are removed.\n"
        assert (ending.returncode, told) == (0, said), errors
        assert site.decided() == site.left() == (42, 42 * OCTETS)
        assert not pins.exists()
        assert "clsact" not in two.host.run("tc", "qdisc", "show", "dev", vm.tap)
        assert two.host.call(lambda: hooks.order(socket.if_nametoindex(vm.tap), "ingress")) == []
