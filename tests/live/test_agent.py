"""`sekisho agent` as a service manager runs it: what it tells, what it logs, how it ends, what it leaves and how that goes."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from collectors.bpf import libbpf
from collectors.host.cgroups import mounted
from tests.tools import hosting, netns
from tests.tools.hosting import Group
from tests.tools.netns import HOST4, PEER4, Pair, wait_for
from tests.tools.places import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
]

SEND = 's = socket.socket(2, 2); [s.sendto(b"x" * 72, (sys.argv[1], 9)) for _ in range(int(sys.argv[2]))]'
MAIN = "from agent.cli import main; main()"
STUCK_WORKER = """
import threading
from agent.pipeline import Pipeline
turns = []
def between(self, before=Pipeline._settle):
    turns.append(1)
    threading.Event().wait() if len(turns) > 3 else before(self)
Pipeline._settle = between
"""
"""A fault: a stage that never comes back, from the fourth time on."""
SILENT_COLLECTOR = """
import threading
from collectors.ebpf import Ebpf
def collect(self, stop, real=Ebpf.collect):
    yield next(real_one := real(self, stop))
    threading.Event().wait()
Ebpf.collect = collect
"""
"""A fault: a capture that begins and then brings nothing, not even an empty batch."""


@dataclass
class Manager:
    """The end of a service manager: hears what is sent to its socket."""

    address: str
    messages: list[str] = field(default_factory=list)

    def hear(self, listener: socket.socket) -> list[str]:
        """Take what has come; all of it."""
        while True:
            try:
                self.messages.append(listener.recv(1 << 16, socket.MSG_DONTWAIT).decode())
            except BlockingIOError:
                return self.messages


@dataclass
class Site:
    """A host to watch, and an agent's settings for it."""

    two: Pair
    here: Group
    home: Path
    pins: Path
    stack: ExitStack
    listener: socket.socket
    manager: Manager

    def start(
        self, *arguments: str, fault: str = "", config: str = "sekisho.yaml", **environ: str
    ) -> subprocess.Popen[str]:
        """Start the agent, told of the manager and a watchdog of 4 s."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SEKISHO_")}
        given = {"NOTIFY_SOCKET": self.manager.address, "WATCHDOG_USEC": "4000000"}
        log = self.stack.enter_context((self.home / "log").open("a"))
        agent = hosting.start_in(
            self.two.host, fault + MAIN, f"--config={self.home / config}", "agent", *arguments,
            cwd=ROOT, env={**kept, **given, **environ}, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        self.stack.callback(_ended, agent)
        return agent

    def told(self, what: str, agent: subprocess.Popen[str]) -> None:
        """Wait until the manager heard something."""
        wait_for(
            lambda: any(what in m for m in self.manager.hear(self.listener)) or agent.poll() is not None,
            what,
            30,
        )
        assert any(what in m for m in self.manager.messages), self.log

    @property
    def log(self) -> str:
        """What the agents said."""
        return (self.home / "log").read_text()

    @property
    def events(self) -> list[str]:
        """The names of the events they logged."""
        return [json.loads(line)["event"] for line in self.log.splitlines() if line.startswith("{")]

    def finish(self, agent: subprocess.Popen[str]) -> tuple[int, str]:
        """(exit code, standard output) of one that ends by itself."""
        said, _ = agent.communicate(timeout=60)
        return agent.returncode, said

    def stop(self, agent: subprocess.Popen[str]) -> None:
        """Stop it in order."""
        agent.send_signal(signal.SIGTERM)
        assert self.finish(agent) == (0, ""), self.log

    def counted(self) -> int:
        """Packets that the archive holds."""
        from agent.store.flows import read_flows

        read = read_flows(self.home / "state" / "archive")
        return sum(int(batch["packets_out"].sum()) for batch in read)


def _ended(agent: subprocess.Popen[str]) -> None:
    agent.kill()
    agent.wait()
    assert agent.stdout is not None
    agent.stdout.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="sekisho-agent-") as made:
        home = Path(made)
        home.chmod(0o755)  # another user's agent reads it in one of the tests
        yield from _site(home)


def _site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "policy.yaml").write_text(
        "version: 1\ntenant: example\nstores:\n"
        f"  - {{id: records, categories: [personal_health], recognise: {{addresses: [{HOST4}]}}}}\n"
    )
    with ExitStack() as stack:
        two = stack.enter_context(netns.pair())
        here = stack.enter_context(hosting.group(two.host))
        pins = stack.enter_context(hosting.bpf_folder())
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        # An abstract address would be another one in the agent's network namespace.
        address = str(tmp_path / "notify")
        listener.bind(address)
        for name in ("sekisho", "other"):
            (tmp_path / f"{name}.yaml").write_text(
                f"version: 1\nstate_dir: {tmp_path / ('state' if name == 'sekisho' else name)}\n"
                f"policy: [policy.yaml]\ncollectors:\n"
                f"  ebpf: {{cgroup: {here.folder}, interval: 1, pin_dir: {pins}, map_flows: 4096}}\n"
            )
        yield Site(two, here, tmp_path, pins, stack, listener, Manager(address))


def test_the_manager_hears_how_it_goes_and_the_log_is_lines_of_json(site: Site) -> None:
    """Ready when it counts, alive, reloaded, stopping; every octet archived; nothing on standard output, no pins left."""
    agent = site.start()
    site.told("READY=1", agent)
    site.here.run(SEND, PEER4, 40)
    site.told("WATCHDOG=1", agent)
    (site.home / "policy.yaml").write_text(
        (site.home / "policy.yaml").read_text().replace("records", "notes")
    )
    agent.send_signal(signal.SIGHUP)
    site.told("RELOADING=1", agent)
    wait_for(lambda: "policy_reloaded" in site.events, "the reload")
    site.stop(agent)
    site.told("STOPPING=1", agent)
    names = [m.split("=")[0] for m in site.manager.messages]
    assert names[:3] == ["STATUS", "STATUS", "READY"]
    assert names.index("RELOADING") < len(names) - 1 - names[::-1].index("READY")
    assert "watching by ebpf" in "".join(site.manager.messages)
    assert all(line.startswith("{") for line in site.log.splitlines()), site.log
    assert site.counted() == site.two.counts()["in", "ip", 17][0] == 40
    assert not site.pins.exists()


def test_on_a_terminal_too_it_logs_json_without_colour(site: Site) -> None:
    """A service's log is read by programs, wherever it is started."""
    master, slave = pty.openpty()
    agent = hosting.start_in(
        site.two.host, MAIN, f"--config={site.home / 'sekisho.yaml'}", "agent", cwd=ROOT, stderr=slave
    )
    os.close(slave)
    try:
        said = b""
        while b"run_started" not in said:
            said += os.read(master, 1 << 16)
        assert (said[:8], b"\x1b" in said) == (b'{"part":', False), said
    finally:
        agent.kill()
        agent.wait()
        os.close(master)


@pytest.mark.parametrize(
    ("fault", "said"),
    [(STUCK_WORKER, ""), (SILENT_COLLECTOR, "collector_silent")],
    ids=["a stage that hangs", "a capture that brings nothing"],
)
def test_a_stuck_pipeline_gives_no_sign_of_life(site: Site, fault: str, said: str) -> None:
    """For longer than the watchdog's interval nothing is fed; ended as a watchdog does it, its successor decides all."""
    agent = site.start(fault=fault)
    wait_for(lambda: "capture_started" in site.events, "the capture")
    site.here.run(SEND, PEER4, 40)
    last = [time.monotonic()]

    def unfed() -> bool:
        before = len(site.manager.messages)
        if any("WATCHDOG=1" in message for message in site.manager.hear(site.listener)[before:]):
            last[0] = time.monotonic()
        return time.monotonic() - last[0] > 4

    wait_for(unfed, "the watchdog to bite", 40)
    assert agent.poll() is None
    agent.send_signal(signal.SIGABRT)
    assert site.finish(agent)[0] == -signal.SIGABRT
    assert said in ["", *site.events]
    assert "Current thread" in site.log  # where each thread stood
    after = site.start()
    site.manager.messages.clear()
    site.told("READY=1", after)
    site.here.run(SEND, PEER4, 2)
    site.stop(after)
    assert site.counted() == 42


def test_started_twice(site: Site) -> None:
    """The second is refused with the first one's process id; with a state of its own, by the pins."""
    agent = site.start()
    site.told("READY=1", agent)
    assert site.finish(site.start())[0] == 1
    assert f"the state is in use by another sekisho (pid {agent.pid})" in site.log
    assert site.finish(site.start(config="other.yaml"))[0] == 1
    assert f"another agent counts with {site.pins}/agent; stop it, or give this one an instance" in site.log
    assert site.finish(site.start("--detach"))[0] == 1
    assert site.log.count("the state is in use by another sekisho") == 2
    site.stop(agent)


def test_what_a_killed_agent_left_is_handed_out_and_removed(site: Site) -> None:
    """kill -9, then `agent --detach`: every packet sent before, between and after is in the archive; a second time nothing is left."""
    agent = site.start()
    site.told("READY=1", agent)
    site.here.run(SEND, PEER4, 30)
    agent.kill()
    agent.wait()
    site.here.run(SEND, PEER4, 12)
    kept = site.finish(site.start("--detach", SERVICE_RESULT="watchdog"))
    assert kept == (
        0,
        f"Left at work in {site.pins}/agent: the agent ended with watchdog and is started again. "
        "To end it: sekisho agent --detach\n",
    )
    assert site.pins.exists()
    ended = site.finish(site.start("--detach", SERVICE_RESULT="timeout"))
    assert ended == (
        0,
        f"What was counted is decided and written; the programs of {site.pins}/agent are removed.\n",
    )
    assert not site.pins.exists()
    assert site.counted() == site.two.counts()["in", "ip", 17][0] == 42
    assert site.finish(site.start("--detach")) == (0, "Nothing is left at work in the kernel.\n")


def test_what_shall_be_kept_is_left_by_the_unit_and_ended_by_a_person(site: Site) -> None:
    """With keep_on_stop an orderly stop counts on; the unit's stop leaves it; asked by hand it is ended."""
    settings = site.home / "sekisho.yaml"
    settings.write_text(settings.read_text().replace("interval", "keep_on_stop: true, interval"))
    agent = site.start()
    site.told("READY=1", agent)
    site.stop(agent)
    site.here.run(SEND, PEER4, 7)
    kept = site.finish(site.start("--detach", SERVICE_RESULT="success"))
    assert kept[0] == 0
    assert "the settings say so (ebpf.keep_on_stop)" in kept[1]
    assert site.finish(site.start("--detach"))[0] == 0
    assert not site.pins.exists()
    assert site.counted() == 7


def test_what_cannot_be_kept_is_not_let_go(site: Site) -> None:
    """A state folder that cannot be written: exit code 1 with the reason, and what was counted stays pinned."""
    agent = site.start()
    site.told("READY=1", agent)
    agent.kill()
    agent.wait()
    site.here.run(SEND, PEER4, 5)
    state = site.home / "state"
    netns.run("mount", "--bind", "-o", "ro", str(state), str(state))
    try:
        assert site.finish(site.start("--detach"))[0] == 1
        assert site.finish(site.start())[0] == 1
    finally:
        netns.run("umount", str(state))
    assert "state.db: Read-only file system; check state_dir" in site.log
    assert site.finish(site.start("--detach"))[0] == 0
    assert site.counted() == 5


def test_a_wrong_environment_stops_nobody(site: Site) -> None:
    """A socket that is not there and a watchdog that is no number are logged, each once, and the agent counts."""
    agent = site.start(NOTIFY_SOCKET="/nowhere/notify", WATCHDOG_USEC="soon")
    wait_for(lambda: "capture_started" in site.events, "the capture")
    site.here.run(SEND, PEER4, 3)
    site.stop(agent)
    assert site.events.count("service_manager_not_told") == 1
    assert site.events.count("watchdog_not_fed") == 1
    assert "NOTIFY_SOCKET=/nowhere/notify: No such file or directory" in site.log
    assert site.counted() == 3


def test_a_capture_that_cannot_begin_ends_it_with_the_reason(site: Site) -> None:
    """Exit code 1, so that the service manager knows; READY was never sent."""
    agent = site.start("--help")
    assert site.finish(agent)[0] == 0
    settings = site.home / "sekisho.yaml"
    settings.write_text(settings.read_text().replace(str(site.here.folder), "/proc"))
    assert site.finish(site.start())[0] == 1
    assert "sekisho: ebpf: /proc is no control group (version 2); change ebpf.cgroup" in site.log
    assert not any("READY=1" in message for message in site.manager.hear(site.listener))


def test_pins_of_another_user_are_said_and_capture_goes_on(site: Site) -> None:
    """A folder for pins that may not be written: a warning names it, and counts are kept without."""
    site.pins.mkdir(mode=0o700)
    (site.pins / "agent").mkdir(mode=0o700)
    # The last is for the tests' own Python, which may lie in root's home.
    caps = "-all,+bpf,+net_admin,+perfmon,+dac_read_search"
    (site.home / "state").mkdir()
    for path in (site.home, site.home / "state"):
        os.chown(path, 65534, 65534)
    line = [
        "nsenter", f"--net=/run/netns/{site.two.host.name}", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        f"--inh-caps={caps}", f"--ambient-caps={caps}", f"--bounding-set={caps}",
        sys.executable, "-c", MAIN, f"--config={site.home / 'sekisho.yaml'}", "agent",
    ]  # fmt: skip
    with (site.home / "log").open("a") as log:
        agent = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    site.stack.callback(_ended, agent)
    wait_for(lambda: "capture_started" in site.events or agent.poll() is not None, "the capture", 30)
    site.here.run(SEND, PEER4, 6)
    site.stop(agent)
    assert f"{site.pins}/agent: Permission denied; another user's agent may have made it" in site.log
    assert site.counted() == 6
