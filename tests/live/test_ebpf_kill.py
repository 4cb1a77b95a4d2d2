"""The agent killed anywhere while it counts by eBPF: what its successor decides is what left the host, exactly."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core.faults import FAULT_POINTS
from collectors.bpf import libbpf
from collectors.bpf.pins import LINK
from collectors.host.cgroups import mounted
from tests.tools import hosting, netns
from tests.tools.killed import Site
from tests.tools.netns import PEER4

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
]

PACKETS, SIZE = 24_000, 100
FLOWS = 3000
LOAD = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[2])):
    s.sendto(bytes(100), (sys.argv[1], 10000 + n % int(sys.argv[3])))
    if n % 100 == 99: time.sleep(0.012)
"""
QUIET: dict[str, Any] = {"stdin": None, "stdout": None}
AT_START = ("ebpf.before_pins", "ebpf.after_link")
AT_RESUME = ("ebpf.in_resume",)
AT_STOP = ("ebpf.after_detach", "ebpf.before_removal")
DRAIN = [p for p in FAULT_POINTS if p.startswith("ebpf.") and p not in (*AT_START, *AT_RESUME, *AT_STOP)]
PASS = {"ebpf.in_read": 4, "ebpf.in_clear": 4}
"""Of points that a reading passes several times, one in its midst: 3,000 flows a second, 512 at a time."""
COMMIT = ["commit.before_begin", "commit.after_ledger", "commit.after_commit"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with netns.pair() as two, hosting.group(two.host) as here, hosting.bpf_folder() as pins:
        collectors = f"  ebpf: {{cgroup: {here.folder}, interval: 1, pin_dir: {pins}, map_flows: 4096}}\n"
        yield Site.made(two, here, tmp_path, pins, collectors)


@pytest.mark.parametrize("point", [*DRAIN, *COMMIT])
def test_an_agent_killed_while_it_reads_loses_and_doubles_nothing(site: Site, point: str) -> None:
    """kill -9 at a point of reading, commit or clearing, under load; the next start decides every packet once."""
    # The first commits are those of the start.
    agent = site.start(f"{point}:{PASS.get(point, 2) if point in DRAIN else 4}")
    assert agent.poll() is None
    load = site.here.start(LOAD, PEER4, PACKETS, FLOWS, **QUIET)
    assert agent.wait(timeout=90) == -signal.SIGKILL
    again = site.start()
    assert load.wait(timeout=120) == 0
    site.two.settle()
    site.stop(again)
    assert site.left() == (PACKETS, PACKETS * (SIZE + 28))
    assert site.decided() == site.left()
    assert not site.pins.exists()


@pytest.mark.parametrize("before", ["ebpf.after_read", "commit.after_commit", "ebpf.in_clear"])
def test_an_agent_killed_while_it_takes_up_what_was_left_loses_and_doubles_nothing(
    site: Site, before: str
) -> None:
    """Killed while it reads, and its successor killed while it takes that up: the third decides every packet once."""
    agent = site.start(f"{before}:{PASS.get(before, 4)}")
    load = site.here.start(LOAD, PEER4, PACKETS, FLOWS, **QUIET)
    assert agent.wait(timeout=90) == -signal.SIGKILL
    assert site.start("ebpf.in_resume:1").wait(timeout=90) == -signal.SIGKILL
    again = site.start()
    assert load.wait(timeout=120) == 0
    site.two.settle()
    site.stop(again)
    assert site.decided() == site.left() == (PACKETS, PACKETS * (SIZE + 28))
    assert not site.pins.exists()


@pytest.mark.parametrize("point", AT_STOP)
def test_an_agent_killed_while_it_stops_loses_and_doubles_nothing(site: Site, point: str) -> None:
    """Killed on the way out, its programs taken off already: the next start decides what they had counted."""
    agent = site.start()
    assert site.here.start(LOAD, PEER4, 4000, FLOWS, **QUIET).wait(timeout=90) == 0
    site.two.settle()
    agent.kill()
    agent.wait()
    # Stopped at once, so that what is read belongs to the stop.
    dying = site.start(f"{point}:1")
    dying.send_signal(signal.SIGTERM)
    assert dying.wait(timeout=90) == -signal.SIGKILL
    site.stop(site.start())
    assert site.decided() == site.left() == (4000, 4000 * (SIZE + 28))
    assert not site.pins.exists()


def test_what_was_read_before_the_programs_came_off_is_decided(site: Site) -> None:
    """Killed with an epoch read and not decided, its programs then taken off: the next start decides that epoch too."""
    agent = site.start("ebpf.after_read:2")
    load = site.here.start(LOAD, PEER4, 4000, FLOWS, **QUIET)
    assert agent.wait(timeout=90) == -signal.SIGKILL
    assert load.wait(timeout=120) == 0
    site.two.settle()
    links = list(site.pins.rglob(f"{LINK}*"))
    assert links
    for link in links:
        link.unlink()
    site.stop(site.start())
    assert site.decided() == site.left() == (4000, 4000 * (SIZE + 28))
    assert not site.pins.exists()


def test_an_agent_killed_again_and_again_loses_and_doubles_nothing(site: Site) -> None:
    """Killed at any time, many times, under load: the last start decides every packet once."""
    agent = site.start()
    load = site.here.start(LOAD, PEER4, PACKETS, FLOWS, **QUIET)
    for _ in range(3):
        agent.kill()
        agent.wait()
        agent = site.start()
    assert load.wait(timeout=120) == 0
    site.two.settle()
    site.stop(agent)
    assert site.decided() == site.left() == (PACKETS, PACKETS * (SIZE + 28))


def test_an_agent_killed_while_it_attaches_leaves_nothing_behind(site: Site) -> None:
    """Cut off after some programs were attached: they are found, read, taken off, and what they counted is decided."""
    assert site.start("ebpf.before_pins:1").wait(timeout=90) == -signal.SIGKILL
    # The seventh is the first that counts.
    assert site.start("ebpf.after_link:7").wait(timeout=90) == -signal.SIGKILL
    assert site.here.start(LOAD, PEER4, 2000, 10, **QUIET).wait(timeout=90) == 0
    agent = site.start()
    assert site.here.start(LOAD, PEER4, 2000, 10, **QUIET).wait(timeout=90) == 0
    site.two.settle()
    site.stop(agent)
    assert site.decided() == site.left() == (4000, 4000 * (SIZE + 28))
    assert not site.pins.exists()
