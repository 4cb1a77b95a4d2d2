"""The agent killed while it counts for machines and for sockets: what its successor decides is what left, exactly."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors.bpf import libbpf
from collectors.host.cgroups import mounted
from tests.tools import guests, hosting, netns
from tests.tools.guests import VM4, VM6, Machine
from tests.tools.killed import Site
from tests.tools.netns import PEER4

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
]

PACKETS, SIZE, FLOWS = 6_000, 100, 1000
LOAD = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[2])):
    s.sendto(bytes(100), (sys.argv[1], 10000 + n % int(sys.argv[3])))
    if n % 50 == 49: time.sleep(0.02)
"""
QUIET: dict[str, Any] = {"stdin": None, "stdout": None}
POINTS = [
    *(("tcx", f"ebpf.{where}") for where in ("after_swap", "after_read", "in_clear")),
    *(("clsact", f"ebpf.{where}") for where in ("after_note", "in_clear")),
    ("tcx", "commit.before_begin"),
    ("clsact", "commit.after_commit"),
]


@pytest.fixture
def vm() -> Iterator[tuple[netns.Pair, Machine]]:
    with netns.pair() as two, guests.machine(two.host) as made:
        guests.route(two, made.space, made.tap, "eth0", (VM4, VM6, guests.GATE4, guests.GATE6))
        yield two, made


@pytest.fixture
def site(tmp_path: Path, vm: tuple[netns.Pair, Machine], attach: str) -> Iterator[Site]:
    two, _ = vm
    with hosting.group(two.host) as here, hosting.bpf_folder() as pins:
        rest = f"interval: 1, pin_dir: {pins}, map_flows: 4096"
        yield Site.made(
            two,
            here,
            tmp_path,
            pins,
            f"  ebpf: {{cgroup: {here.folder}, {rest}}}\n"
            f"  tc: {{interfaces: [vnet*], attach: {attach}, legal_basis: test, approved_by: A. Example, "
            f"approved_on: 2026-01-01, {rest}}}\n",
            count=2,
        )


def loads(site: Site, machine: Machine) -> list[subprocess.Popen[str]]:
    """The machine and a process of the host send to the peer."""
    of_machine = hosting.start_in(machine.space, LOAD, PEER4, PACKETS, FLOWS)
    return [of_machine, site.here.start(LOAD, PEER4, PACKETS, FLOWS, **QUIET)]


@pytest.mark.parametrize(("attach", "point"), POINTS)
def test_an_agent_with_both_collectors_killed_anywhere(
    site: Site, vm: tuple[netns.Pair, Machine], point: str
) -> None:
    """kill -9 while either collector reads, under load of both: the next start decides every packet once, and stopping
    it in order leaves nothing on the interface and nothing pinned."""
    agent = site.start(f"{point}:{5 if point.startswith('commit') else 3}")
    assert agent.poll() is None
    running = loads(site, vm[1])
    assert agent.wait(timeout=30) == -signal.SIGKILL
    again = site.start()
    for load in running:
        assert load.wait(timeout=60) == 0
    site.two.settle()
    site.stop(again)
    assert site.left() == (2 * PACKETS, 2 * PACKETS * (SIZE + 28))
    assert site.decided() == site.left()
    assert not site.pins.exists()
    assert "clsact" not in site.two.host.run("tc", "qdisc", "show", "dev", "vnet0")


@pytest.mark.parametrize("attach", ["clsact"])
def test_a_scope_that_was_narrowed_ends_the_counting_at_once(
    site: Site, vm: tuple[netns.Pair, Machine]
) -> None:
    """An agent is killed and starts with a scope that no longer names the tap: what was counted under the old one is
    decided, nothing after."""
    agent = site.start()
    for load in loads(site, vm[1]):
        assert load.wait(timeout=60) == 0
    site.two.settle()
    agent.kill()
    agent.wait()
    settings = site.home / "sekisho.yaml"
    settings.write_text(settings.read_text().replace("[vnet*]", "[other*]"))
    again = site.start()
    assert "clsact" not in site.two.host.run("tc", "qdisc", "show", "dev", "vnet0")
    assert hosting.start_in(vm[1].space, LOAD, PEER4, 500, 10).wait(timeout=60) == 0
    site.two.settle()
    site.stop(again)
    assert site.decided() == (2 * PACKETS, 2 * PACKETS * (SIZE + 28))
    assert not site.pins.exists()
