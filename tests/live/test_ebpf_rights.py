"""What eBPF capture needs of rights and of the host, what it says where it lacks them, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agent import config, detaching, tiers
from agent.core.accounts import Accounts
from agent.core.errors import CaptureError
from agent.core.stages import Context
from collectors.bpf import libbpf, programs
from collectors.bpf.pins import Pins, remove
from collectors.ebpf import Settings
from collectors.host.cgroups import mounted
from tests.tools import hosting, netns
from tests.tools.hosting import Group
from tests.tools.netns import PEER4
from tests.tools.places import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
]

NOBODY = 65534
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
COLLECT = """
import json, sys, threading
from pathlib import Path
from agent.core.accounts import Accounts
from agent.core.errors import CaptureError
from agent.core.stages import Context
from collectors.ebpf import Settings
settings = Settings(cgroup=sys.argv[1], pin=False, interval=1)
stop, packets = threading.Event(), 0
try:
    for batch in settings.build(Context(accounts=Accounts(), state_dir=Path("/nonexistent"))).collect(stop):
        if not packets and not len(batch): print("ready", flush=True)
        packets += int(batch["packets_out"].sum())
        if packets >= 10: stop.set()
    status = dict(line.split(":\t") for line in open("/proc/thread-self/status").read().splitlines() if line.startswith("Cap"))
    print("rights", *(status[f"Cap{name}"] for name in ("Prm", "Eff", "Inh", "Amb")), flush=True)
except CaptureError as error:
    print(error)
else:
    print(packets)
"""
SEND = 's = socket.socket(2, 2); [s.sendto(b"x", (sys.argv[1], 9)) for _ in range(10)]'


@pytest.fixture
def here() -> Iterator[Group]:
    with netns.pair() as two, hosting.group(two.host) as made:
        yield made


@pytest.fixture
def own() -> Iterator[Path]:
    """A folder of nobody's, which nobody can reach: pytest's own lie in one of root's."""
    with tempfile.TemporaryDirectory(prefix="sekisho-rights-") as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def as_nobody(caps: str, group: Group) -> subprocess.Popen[str]:
    # Reading files of others is for the tests' own Python, which may lie in root's home.
    given = "-all" + "".join(f",+{cap}" for cap in (*caps.split(), "dac_read_search"))
    line = [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={given}",
        f"--ambient-caps={given}", f"--bounding-set={given}", sys.executable, "-c", COLLECT, str(group.folder),
    ]  # fmt: skip
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ)


@needs_setpriv
def test_three_capabilities_are_enough(here: Group) -> None:
    """Another user with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON alone counts every packet."""
    with as_nobody("bpf net_admin perfmon", here) as running:
        assert running.stdout is not None
        assert "ready\n" in iter(running.stdout.readline, "")
        here.run(SEND, PEER4)
        said = running.stdout.read().splitlines()
    assert said[-1] == "10"
    # What is left once it counts: CAP_BPF (39) to read maps, and the tests' own CAP_DAC_READ_SEARCH (2).
    kept = f"{1 << 39 | 1 << 2:016x}"
    assert f"rights {kept} {kept} {kept} {kept}" in said


def of_threads(pid: int) -> dict[int, int]:
    """Thread -> its effective capabilities as a mask."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        effective = (task / "status").read_text().split("CapEff:")[1].split()[0]
        found[int(task.name)] = int(effective, 16)
    return found


@needs_setpriv
@pytest.mark.parametrize("archive", [False, True])
def test_each_thread_of_the_agent_keeps_the_least(here: Group, own: Path, archive: bool) -> None:
    """Once it counts, the thread that reads maps has CAP_BPF and CAP_SYS_PTRACE, and no other thread has either; also none
    of the libraries that an archive loads."""
    settings = own / "sekisho.yaml"
    collectors = {"ebpf": {"cgroup": str(here.folder), "pin": False}}
    settings.write_text(json.dumps({"collectors": collectors, "archive": archive, "policy": []}))
    given = "-all,+bpf,+net_admin,+perfmon,+sys_ptrace,+dac_read_search"
    line = [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={given}",
        f"--ambient-caps={given}", f"--bounding-set={given}", sys.executable, "-m", "agent.cli", "-c", str(settings),
        "--state-dir", str(own / "state"), "agent",
    ]  # fmt: skip
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=own, env=environ) as running:
        assert running.stderr is not None
        said: list[str] = []
        while sum("rights_given_up" in one for one in said) < 2 and (one := running.stderr.readline()):
            said.append(one)
        masks = of_threads(running.pid) if running.poll() is None else {}
        running.terminate()
        said += running.stderr
    files = 1 << 2  # CAP_DAC_READ_SEARCH: the tests' own Python may lie in root's home
    main = masks.pop(running.pid, None)
    assert (running.returncode, main, set(masks.values())) == (
        0,
        files,
        {files, 1 << 39 | 1 << 19 | files},
    ), said


@needs_setpriv
@pytest.mark.parametrize("caps", ["net_admin perfmon", "bpf perfmon", ""])
def test_without_them_it_says_what_is_missing(here: Group, caps: str) -> None:
    """Without one of them, one sentence names the three."""
    with as_nobody(caps, here) as running:
        assert running.stdout is not None
        said = running.stdout.read().splitlines()[-1]
    assert "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON" in said


def test_another_tool_s_hooks_are_left_alone(here: Group) -> None:
    """Where foreign programs stand on connect and sendmsg, ours stay off those hooks, and it is said what that costs."""
    settings = Settings(cgroup=here.folder, pin=False)
    assert settings.shortcomings() == ()
    folder = os.open(here.folder, os.O_RDONLY)
    with ExitStack() as held:
        held.callback(os.close, folder)
        foreign = held.enter_context(libbpf.Object(programs.image("flow")))
        held.enter_context(foreign.attach("sekisho_conn4", folder))
        hooks, left_out = programs.hooks_for(here.folder, dict.fromkeys(programs.POLITE, 0))
        assert (hooks, left_out) == ((*programs.ALWAYS, *programs.INSTEAD), programs.POLITE)
        assert "connect and sendmsg" in settings.shortcomings()[0]


def test_no_pins_is_said_and_capture_goes_on(here: Group, tmp_path: Path) -> None:
    """A folder outside a BPF file system is named, with the command that mends it."""
    settings = Settings(cgroup=here.folder, pin_dir=tmp_path)
    assert settings.hindrance() == ""
    assert "mount -t bpf" in settings.shortcomings()[0]


def test_two_agents_never_share_maps(here: Group) -> None:
    """A second agent of the same instance is refused with the setting to change."""
    with hosting.bpf_folder() as pins:
        first = Pins.open(pins / "agent")
        with pytest.raises(CaptureError, match=r"ebpf\.instance"):
            Pins.open(pins / "agent")
        first.close()
        assert not pins.exists()


def test_maps_of_another_version_are_read_out_and_replaced(here: Group) -> None:
    """After an upgrade the old programs are taken off, what they counted is handed out, and the new ones count."""
    with hosting.bpf_folder() as folder:
        pins = Pins.open(folder / "agent")
        wish = programs.Wish(here.folder, 2048, (*programs.ALWAYS, *programs.POLITE))
        programs.Programs.load(wish, pins).close()
        pins.close()
        here.run(SEND, PEER4)
        assert counted(here, pin_dir=folder) == 10
        assert not folder.exists()


def test_pins_are_undone_by_removing_the_folder(here: Group) -> None:
    """Removing the folder takes every program off its hook."""
    with hosting.bpf_folder() as folder:
        pins = Pins.open(folder / "agent")
        programs.Programs.load(programs.Wish(here.folder, 2048, programs.ALWAYS), pins).close()
        group = os.open(here.folder, os.O_RDONLY)
        assert libbpf.attached(group, 1) == 1  # BPF_CGROUP_INET_EGRESS
        remove(folder)
        netns.wait_for(lambda: libbpf.attached(group, 1) == 0, "the programs to go")
        os.close(group)
        pins.close()


def counted(group: Group, **settings: Any) -> int:
    """Packets that a capture hands out which is stopped at once."""
    import threading

    given = Settings.model_validate({"cgroup": group.folder, "map_flows": 1024} | settings)
    collector = given.build(Context(accounts=Accounts(), state_dir=Path("/nonexistent")))
    stop = threading.Event()
    stop.set()
    return sum(int(batch["packets_out"].sum()) for batch in collector.collect(stop))


def test_the_next_tier_is_taken_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libbpf, packets are captured instead, and the reason says how to get it."""
    monkeypatch.setattr(libbpf, "missing", lambda: "libbpf.so.1: cannot open shared object file")
    monkeypatch.setenv("SEKISHO_CONFIG", "")
    monkeypatch.delenv("SEKISHO_CONFIG")
    monkeypatch.setattr(config, "default_config_files", lambda: ())
    loaded, why = tiers.choose(config.load())
    assert list(loaded.stages.collectors) == ["af_packet"]
    assert "libbpf1" in why


def test_the_best_tier_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where eBPF runs it is what watches the host, unless the settings name a collector."""
    monkeypatch.setattr(config, "default_config_files", lambda: ())
    assert list(tiers.choose(config.load())[0].stages.collectors) == ["ebpf"]
    named = config.load(flags=[("collectors.af_packet.ring_mib", "32")])
    assert list(tiers.choose(named)[0].stages.collectors) == ["af_packet"]


def test_a_folder_that_is_no_control_group_is_refused(tmp_path: Path) -> None:
    """The setting is named."""
    assert "ebpf.cgroup" in Settings(cgroup=tmp_path).hindrance()
    assert json.dumps(str(tmp_path))[1:-1] in Settings(cgroup=tmp_path).hindrance()


def test_what_root_wrote_below_a_user_s_folder_becomes_that_user_s(own: Path) -> None:
    """Files and folders of root's change hands; a link's target, a file with a second name and other users' do not."""
    elsewhere = own.parent / f"{own.name}-elsewhere"
    elsewhere.mkdir()
    try:
        (elsewhere / "target").write_text("")
        (elsewhere / "twice").write_text("")
        (own / "archive" / "day").mkdir(parents=True)
        for name in ("state.db", "archive/day/part", "third"):
            (own / name).write_text("")
        (own / "link").symlink_to(elsewhere / "target")
        (own / "twice").hardlink_to(elsewhere / "twice")
        os.chown(own / "third", NOBODY - 1, NOBODY - 1)
        detaching._hand_over(own)
        found = {str(path.relative_to(own)): path.lstat().st_uid for path in own.rglob("*")}
        assert found == {
            "state.db": NOBODY, "archive": NOBODY, "archive/day": NOBODY, "archive/day/part": NOBODY,
            "third": NOBODY - 1, "link": 0, "twice": 0,
        }  # fmt: skip
        assert (elsewhere / "target").stat().st_uid == 0
    finally:
        shutil.rmtree(elsewhere)
