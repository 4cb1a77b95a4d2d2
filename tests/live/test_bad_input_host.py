"""A host that gives no permission to capture, or whose interface goes down: what the whole program says and does."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.tools.netns import HOST4, PEER4, Namespace, pair
from tests.tools.program import SECONDS, command, environment, sekisho

pytestmark = pytest.mark.root

NO_PERMISSION = (
    "sekisho: af_packet: no permission to capture packets: run as root, or give the program the capability"
)


class Running:
    """``sekisho up --plain`` in a namespace; its log lines as they come."""

    def __init__(self, namespace: Namespace, folder: Path, *settings: str) -> None:
        flags = [word for one in settings for word in ("--set", one)]
        line = command(*flags, "up", "--plain", state_dir=folder / "state")
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace.name, *line],
            cwd=folder,
            env=environment(folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self.said: list[dict[str, object]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._lines.put(line)

    def until(self, event: str) -> dict[str, object]:
        """Wait for a log line; what it says."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self._process.kill()
                raise AssertionError(f"waited {SECONDS} s for {event}; said: {self.said}") from None
            if line.startswith("{"):
                self.said.append(json.loads(line))
                if self.said[-1]["event"] == event:
                    return self.said[-1]

    def stop(self) -> int:
        """Ask it to stop in order; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        self._reader.join(SECONDS)
        return self._process.wait(SECONDS)


def test_up_without_permission_says_how_to_get_it(tmp_path: Path) -> None:
    """Exit code 1, and the last line says what to do; `check` says the same before."""
    outcome = sekisho("up", "--plain", home=tmp_path, without_rights=True)
    assert outcome.code == 1
    assert outcome.said[-1].startswith(NO_PERMISSION), outcome.err
    asked = sekisho("check", home=tmp_path, without_rights=True)
    assert asked.code == 1
    assert "missing  capture: no CAP_NET_RAW\n         mend: run as root (sudo), or give" in asked.out


def test_up_without_permission_shows_the_bundled_capture_where_asked(tmp_path: Path) -> None:
    """One line says why; then the replay's one case, and exit code 0."""
    outcome = sekisho("up", "--or-replay", home=tmp_path, without_rights=True)
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == (
        "This host cannot be watched without privilege (no CAP_NET_RAW); here is the bundled capture instead."
    )
    assert outcome.text.count("[high] case ") == 1


def test_an_interface_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    """Exit code 1, the interfaces there are, and the setting to change."""
    with pair() as two:
        line = command("--set", "collectors.af_packet.interfaces=[eth9]", "up", "--plain")
        done = subprocess.run(
            ["ip", "netns", "exec", two.host.name, *line],
            cwd=tmp_path,
            env=environment(tmp_path) | {"SEKISHO_STATE_DIR": str(tmp_path / "state")},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert (
        "sekisho: af_packet: no interface is called eth9; there are h0, lo. "
        "Change interfaces in the settings of af_packet, or set it to all"
    ) in done.stderr


def test_an_interface_that_goes_down_is_said_and_capture_goes_on_when_it_is_up(tmp_path: Path) -> None:
    """`up` outlives its only interface going down and up; what was sent before and after is archived."""
    with pair() as two:
        running = Running(two.host, tmp_path, "collectors.af_packet.interfaces=[h0]")
        running.until("capture_started")
        _send(two.host, 7001)
        two.host.ip("link", "set", "h0", "down")
        assert running.until("interface_went_down")["interface"] == "h0"
        two.host.ip("link", "set", "h0", "up")
        assert running.until("interface_came_up")["interface"] == "h0"
        _send(two.host, 7002)
        code = running.stop()
    assert code == 0
    kept = sekisho("flows", "--json", home=tmp_path, state_dir=tmp_path / "state")
    ports = {json.loads(line)["remote_port"] for line in kept.out.splitlines()}
    assert {7001, 7002} <= ports, kept.text


def _send(namespace: Namespace, port: int) -> None:
    """One datagram from the host to its peer, whose address is known without asking."""
    namespace.ip("neigh", "replace", PEER4, "lladdr", "02:00:00:00:00:02", "dev", "h0")
    code = f"import socket; s = socket.socket(2, 2); s.bind(({HOST4!r}, 0)); s.sendto(bytes(100), ({PEER4!r}, {port}))"
    namespace.run(os.environ.get("PYTHON", "python3"), "-c", code)
