"""The systemd unit as text: systemd itself takes it, its exposure stays where docs/deploy.md says, its rights are those named."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.places import ROOT

UNIT = ROOT / "deploy" / "systemd" / "sekisho-agent.service"
PAGE = (ROOT / "docs" / "deploy.md").read_text()
pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (apt-get install systemd)"
)


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def exposure(unit: Path) -> float:
    """systemd's own figure, 0 to 10."""
    text = analyze("security", "--offline=yes", "--no-pager", unit).stdout
    found = re.search(r"exposure level for \S+: ([0-9.]+)", text)
    assert found, text
    return float(found[1])


def values(name: str, *files: Path) -> list[str]:
    """Every word that a setting is given."""
    return [
        word
        for file in files
        for word in " ".join(re.findall(rf"^{name}=(.*)$", file.read_text(), re.M)).split()
    ]


@pytest.mark.parametrize("with_packets", [False, True])
def test_systemd_takes_every_line(tmp_path: Path, with_packets: bool) -> None:
    """`systemd-analyze verify` has nothing to say, with and without the drop-in."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/sekisho/bin/sekisho", sys.executable))
    if with_packets:
        folder = tmp_path / f"{UNIT.name}.d"
        folder.mkdir()
        shutil.copy(UNIT.parent / "drop-ins" / "af-packet.conf", folder)
    done = analyze("verify", unit)
    ours = [line for line in done.stderr.splitlines() if UNIT.name in line or str(tmp_path) in line]
    assert (done.returncode, ours) == (0, [])


def test_its_exposure_is_what_the_page_says(tmp_path: Path) -> None:
    """The figure of `systemd-analyze security`, no more; a unit that gives away one line of it is noticed."""
    said = re.search(
        r"gives the unit \*\*([0-9.]+)\*\*|\nthe unit \*\*([0-9.]+)\*\*|unit \*\*([0-9.]+)\*\*", PAGE
    )
    assert said
    claimed = float(next(filter(None, said.groups())))
    assert exposure(UNIT) <= claimed
    assert analyze("security", "--offline=yes", f"--threshold={int(claimed * 10)}", UNIT).returncode == 0
    weaker = tmp_path / UNIT.name
    weaker.write_text(
        UNIT.read_text().replace("ProtectSystem=strict\n", "").replace("NoNewPrivileges=yes\n", "")
    )
    assert exposure(weaker) > claimed


def test_it_has_these_rights_and_no_others() -> None:
    """Three to load eBPF, one to read executables; packets need the drop-in; each stands in the page's table."""
    drop_in = UNIT.parent / "drop-ins" / "af-packet.conf"
    for name in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert values(name, UNIT) == ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "CAP_SYS_PTRACE"]
        assert values(name, drop_in) == ["CAP_NET_RAW", "CAP_DAC_READ_SEARCH"]
    for right in values("CapabilityBoundingSet", UNIT, drop_in):
        assert right in PAGE
    taken = UNIT.read_text().split("SystemCallFilter=~", 1)[1].splitlines()[0].split()
    assert {"process_vm_readv", "process_vm_writev", "@privileged"} <= set(taken)


def test_ptrace_is_no_call_it_may_make() -> None:
    """CAP_SYS_PTRACE is for links in /proc: the groups of calls that the filter starts from have neither ptrace nor its kin."""
    calls = analyze("syscall-filter", "@system-service").stdout
    for name in ("ptrace", "pidfd_getfd", "perf_event_open", "mount", "init_module"):
        assert name not in calls.split()
