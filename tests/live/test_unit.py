"""The unit under a real systemd, installed by the commands of docs/deploy.md, its counts held against nft's."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from collectors.bpf import libbpf
from collectors.host.cgroups import mounted
from tests.tools import netns
from tests.tools.booted import Booted, booted
from tests.tools.netns import HOST4, PEER4, Pair, wait_for
from tests.tools.places import ROOT
from tests.unit.test_unit_file import UNIT, values

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
    pytest.mark.skipif(
        shutil.which("systemd-nspawn") is None,
        reason="needs systemd-nspawn (apt-get install systemd-container)",
    ),
]

PAGE = (ROOT / "docs" / "deploy.md").read_text()
AGENT = "sekisho-agent"
SEND = "import socket; s = socket.socket(2, 2); [s.sendto(b'x' * 72, ('%s', 9)) for _ in range(%d)]"
QUICK = """[Service]
WatchdogSec=3
RestartSec=200ms
TimeoutStopSec=10
"""
"""What a test changes of the unit: how long it waits."""
CAP_BITS = {
    # linux/capability.h
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}


@dataclass(frozen=True, slots=True)
class Site:
    """A host with the agent installed, and the other end of its network."""

    two: Pair
    host: Booted

    def follow(self, section: str) -> str:
        """Run the commands of a section of the page, as they stand; what they said."""
        text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
        said = [
            self.host.run("sh", "-euxc", block) for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        ]
        assert said, section
        return "".join(said)

    def sekisho(self, *arguments: str) -> str:
        """Run a command beside the service."""
        return self.host.run("/opt/sekisho/bin/sekisho", "-c", "/etc/sekisho/sekisho.yaml", *arguments)

    def send(self, packets: int) -> None:
        """Datagrams of 100 octets to the peer, from a service."""
        python = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        environ = ["env", "PYTHONHOME=/opt/python", "LD_LIBRARY_PATH=/opt/python/lib"]
        self.host.as_service(*environ, python, "-c", SEND % (PEER4, packets))

    def left(self) -> tuple[int, int]:
        """(packets, octets) that have reached the peer, by its nft counter."""
        return self.two.counts()["in", "ip", 17]

    def archived(self) -> tuple[int, int]:
        """(packets, octets) to the peer, by the archive."""
        lines = self.sekisho("flows", "--since", "1h", "--remote", PEER4, "--json").splitlines()
        rows = [json.loads(line) for line in lines]
        assert all(row["local_address"] == HOST4 for row in rows)
        return sum(row["packets_out"] for row in rows), sum(row["octets_out"] for row in rows)

    def status(self) -> dict[str, str]:
        """/proc/PID/status of the agent."""
        text = self.host.run("cat", f"/proc/{self.host.show(AGENT, 'MainPID')}/status")
        return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)

    def pins(self) -> list[str]:
        """What stands in the BPF file system, but what the kernel puts there itself."""
        return sorted(set(self.host.run("ls", "/sys/fs/bpf").split()) - {"maps.debug", "progs.debug"})


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Installed and started; the commands of the page fail the test where they fail."""
    with netns.pair() as two, booted(two.host) as host:
        made = Site(two, host)
        said = made.follow("Install")
        assert "Active: active (running)" in said
        assert "no fault" in said
        yield made


@contextlib.contextmanager
def changed(site: Site, drop_in: str) -> Iterator[None]:
    """Started again with a drop-in, and afterwards without."""
    folder = f"/run/systemd/system/{AGENT}.service.d"
    put = f"mkdir -p {folder}; printf '%s' '{drop_in}' > {folder}/test.conf"
    site.host.run("sh", "-ec", f"{put}; systemctl daemon-reload; systemctl restart {AGENT}")
    try:
        yield
    finally:
        site.host.run("sh", "-ec", f"rm -r {folder}; systemctl daemon-reload; systemctl restart {AGENT}")


def test_it_runs_as_its_own_user_with_its_rights_alone(site: Site) -> None:
    """Its user is no root, its capabilities lie within those named, a filter is on its calls, and nothing can be gained."""
    status = site.status()
    named = sum(1 << CAP_BITS[name] for name in values("CapabilityBoundingSet", UNIT))
    assert int(status["CapBnd"], 16) == named
    for which in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[which], 16) | named == named
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    uid = site.host.run("id", "-u", "sekisho").strip()
    assert (status["Uid"].split(), uid != "0") == ([uid] * 4, True)


def test_it_sees_of_the_files_what_it_needs(site: Site) -> None:
    """In its mount namespace only its state, its log folder, its pins and its own /tmp can be written, even by root."""
    pid = site.host.show(AGENT, "MainPID")

    def writes(folder: str) -> bool:
        inside = ("nsenter", "-t", pid, "-m", "sh", "-c", f"mkdir {folder}/probe && rmdir {folder}/probe")
        return site.host.ask(*inside).returncode == 0

    for folder in ("/var/lib/sekisho", "/var/log/sekisho", "/sys/fs/bpf/sekisho", "/tmp"):
        assert writes(folder), folder
    for folder in ("/etc", "/etc/sekisho", "/usr", "/var", "/sys/fs/bpf", "/sys/fs/cgroup", "/opt"):
        assert not writes(folder), folder
    seen = site.host.run("nsenter", "-t", pid, "-m", "ls", "/sys/fs", "/sys/fs/bpf").split()
    assert seen == ["/sys/fs:", "bpf", "cgroup", "/sys/fs/bpf:", "sekisho"]


def test_it_counts_exactly_in_its_sandbox(site: Site) -> None:
    """eBPF programs are loaded, pinned and read under every restriction: octets and packets equal nft's; status says how it goes."""
    sent_before = site.left()
    site.send(500)
    assert site.left() == (sent_before[0] + 500, sent_before[1] + 500 * 100)
    assert (
        site.host.run("sh", "-c", "find /sys/fs/bpf/sekisho/agent -name 'link_sekisho_egress'").count("\n")
        == 1
    )
    site.host.run("systemctl", "restart", AGENT)
    assert site.archived() == site.left()
    assert site.host.show(AGENT, "StatusText").startswith("watching by ebpf, ")


def test_the_day_to_day_commands_of_the_page_work(site: Site) -> None:
    """Logs, reload and cases, as the page has them; the reload is in the journal and the unit stays active."""
    before = site.host.show(AGENT, "MainPID")
    site.host.run("sh", "-c", "echo '# seen' >> /etc/sekisho/policy.yaml")
    site.follow("From day to day")
    assert "Reloaded" in site.host.journal(AGENT)
    assert (site.host.show(AGENT, "MainPID"), site.host.show(AGENT, "ActiveState")) == (before, "active")
    # The journal took the priorities off the lines, and sorted by them.
    said = site.host.run("journalctl", "--no-pager", "-o", "json", "-u", AGENT)
    lines = [json.loads(line) for line in said.splitlines()]
    started = [one for one in lines if '"capture_started"' in str(one["MESSAGE"])]
    assert {one["PRIORITY"] for one in started} == {"6"}
    assert all(one["MESSAGE"].startswith("{") for one in started)


def test_killed_or_stuck_it_is_started_again_and_nothing_is_lost(site: Site) -> None:
    """kill -9, then a process that stands still until the watchdog bites: pins go on counting, the sum equals nft's."""
    with changed(site, QUICK):
        for number, wound in enumerate(("KILL", "STOP"), 1):
            site.send(100)
            site.host.run("kill", f"-{wound}", site.host.show(AGENT, "MainPID"))
            site.send(100)
            wait_for(
                lambda n=number: site.host.show(AGENT, "NRestarts") == str(n), f"a start after {wound}", 60
            )  # type: ignore[misc]
            wait_for(lambda: site.host.show(AGENT, "ActiveState") == "active", "the agent to be ready", 60)
            site.send(100)
        journal = site.host.journal(AGENT)
        assert "Watchdog timeout" in journal
        assert "the agent ended with signal and is started again" in journal
        site.host.run("systemctl", "stop", AGENT)
        assert site.archived() == site.left()
        assert site.host.run("ls", "/sys/fs/bpf/sekisho") == ""


def test_a_stop_that_has_to_kill_leaves_nothing_at_work(site: Site) -> None:
    """An agent that does not hear a stop is killed, and the unit itself hands out what was counted and removes the pins."""
    with changed(site, QUICK + "KillSignal=SIGWINCH\n"):
        site.send(100)
        site.host.run("systemctl", "stop", AGENT)
        assert "the programs of /sys/fs/bpf/sekisho/agent are removed." in site.host.journal(AGENT)
        assert site.host.run("ls", "/sys/fs/bpf/sekisho") == ""
        assert site.archived() == site.left()


def test_without_the_folder_for_pins_it_counts_and_says_so(site: Site) -> None:
    """Somebody removed it: the sandbox is made all the same, a warning names it, and counts are exact."""
    site.host.run("sh", "-ec", f"systemctl stop {AGENT}; rmdir /sys/fs/bpf/sekisho; systemctl start {AGENT}")
    site.send(50)
    assert '"maps_not_pinned"' in site.host.journal(AGENT)
    site.host.run("sh", "-ec", f"systemctl stop {AGENT}; systemd-tmpfiles --create sekisho.conf")
    assert site.archived() == site.left()
    site.host.run("systemctl", "start", AGENT)
    assert site.host.run("ls", "/sys/fs/bpf/sekisho") == "agent\n"


def test_packets_are_captured_with_the_drop_in(site: Site) -> None:
    """Where eBPF is not to be had: the drop-in's rights are enough for packet sockets, in the same sandbox."""
    drop_in = (UNIT.parent / "drop-ins" / "af-packet.conf").read_text()
    set_to = "Environment=SEKISHO_COLLECTORS__AF_PACKET__RING_MIB=1\n"
    with changed(site, drop_in.replace("'", "") + set_to):
        before = site.archived()
        assert site.host.show(AGENT, "StatusText").startswith("watching by af_packet, ")
        site.send(200)
        site.host.run("systemctl", "stop", AGENT)
        assert site.archived()[0] - before[0] == 200


def test_uninstalled_by_the_page_nothing_is_left(site: Site) -> None:
    """No pin, no program at work, no file of the unit; state and settings stay until somebody removes them."""
    site.follow("Uninstall")
    assert site.pins() == []
    assert site.host.ask("systemctl", "cat", AGENT).returncode != 0
    left = site.host.run(
        "find",
        "/etc/systemd",
        "/etc/sysusers.d",
        "/etc/tmpfiles.d",
        "/run/systemd/system",
        "-name",
        "*sekisho*",
    )
    assert left == ""
    assert site.host.ask("pgrep", "-u", "sekisho").returncode == 1
    assert site.archived() == site.left()


@pytest.mark.parametrize(("caps", "told"), [("", False), ("+sys_ptrace", True), ("+dac_read_search", False)])
def test_the_executable_of_another_user_s_process_needs_one_right(caps: str, told: bool) -> None:
    """CAP_SYS_PTRACE alone tells it; CAP_DAC_READ_SEARCH does not, so the unit has not got it."""
    held = ",".join(filter(None, ("-all", caps)))
    with subprocess.Popen(["sleep", "60"]) as theirs:
        line = [
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={held}",
            f"--ambient-caps={held}", f"--bounding-set={held}", "readlink", f"/proc/{theirs.pid}/exe",
        ]  # fmt: skip
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        theirs.kill()
    assert bool(done.stdout.strip()) == told
