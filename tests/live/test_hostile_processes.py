"""Hostile names of real processes, from the kernel through the whole program to whoever reads of them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.words.escape import is_harmless
from tests.tools import netns
from tests.tools.netns import PEER4, Pair, wait_for
from tests.tools.program import command, environment, sekisho

pytestmark = [pytest.mark.root, pytest.mark.slow]

NAMES = (b"\x1b[31mred\n=1+1", b"=cmd|calc", b"\xff\xe2\x80\xaeabc\x7f", b"\xc2\x9b31m@x")
"""What PR_SET_NAME takes: an escape with a line break, a formula, no UTF-8 with a turned reading direction, a C1 escape."""
SHOWN = ("\ufffd\\u202eabc\\x7f", "=cmd|calc", "\\x1b[31mred\\x0a=1+1", "\\x9b31m@x")
PROGRAM = """
import ctypes, socket, sys, time
ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0)
link = socket.create_connection((sys.argv[2], int(sys.argv[3])))
print("connected", flush=True)
for _ in range(20):  # af_packet learns of sockets by asking now and then
    link.sendall(bytes(1000))
    time.sleep(0.2)
link.close()
sys.stdin.read()  # it lives on: of a process that is gone nobody can tell the executable
"""
EXECUTABLE = "py\nthon\x1b[31m"
PORT = 49_213
POLICY = """
version: 1
stores:
  - {id: secrets, categories: [trade_secret], recognise: {hosts: [this]}}
rules:
  - {id: any-egress, over: 1 KB, window: 5m, severity: high}
"""


def settings(folder: Path, tier: str) -> Path:
    """Every sink of text says what it has to say on standard output."""
    (folder / "policy.yaml").write_text(POLICY)
    sinks = {"stdout": {"format": "full"}, "jsonl": {"file": "-"}, "ocsf": {"file": "-"}}
    file = folder / "sekisho.yaml"
    file.write_text(
        json.dumps({"host": "db-01", "policy": ["policy.yaml"], "collectors": {tier: {}}, "sinks": sinks})
    )
    return file


def taking(two: Pair) -> socket.socket:
    """A server in the peer's namespace that reads whatever comes, until it is closed."""
    server = two.peer.call(lambda: socket.create_server((PEER4, PORT)))

    def read(link: socket.socket) -> None:
        with link:
            while link.recv(1 << 16):
                pass

    def serve() -> None:
        while True:
            try:
                link = server.accept()[0]
            except OSError:
                return
            threading.Thread(target=read, args=(link,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return server


@pytest.mark.parametrize("tier", ["af_packet", "ebpf"])
def test_no_process_commands_a_terminal_or_a_spreadsheet(tmp_path: Path, tier: str) -> None:
    """Names with escapes, line breaks, formulas and turned letters, and an executable of such a name that is deleted:
    shown as visible escapes in alerts, JSON, tables and CSV, and otherwise kept as they are."""
    file = settings(tmp_path, tier)
    executable = tmp_path / EXECUTABLE
    shutil.copy(Path(sys.executable).resolve(), executable)
    with netns.pair() as two, taking(two):
        inside = ["nsenter", f"--net=/run/netns/{two.host.name}"]
        with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
            up = subprocess.Popen(
                [*inside, *command("-c", file, "up", "--plain", state_dir=tmp_path / "state")],
                cwd=tmp_path,
                env=environment(tmp_path),
                stdout=out,
                stderr=err,
            )
        programs: list[subprocess.Popen[bytes]] = []
        try:
            wait_for(lambda: b"capture_started" in (tmp_path / "err").read_bytes(), "the capture", 60)
            for name in NAMES:
                which = executable if name == NAMES[0] else sys.executable
                programs.append(
                    subprocess.Popen(
                        [*inside, str(which), "-c", PROGRAM, name.hex(), PEER4, str(PORT)],
                        env={**os.environ, "PYTHONHOME": sys.base_prefix},
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                    )
                )
            for program in programs:
                assert program.stdout is not None and program.stdout.readline() == b"connected\n"
            executable.unlink()
            wait_for(lambda: _all(tmp_path), "a row of each process", 60)
            for program in programs:
                program.communicate()
            up.terminate()
            assert up.wait(60) == 0, (tmp_path / "err").read_text()
        finally:
            for process in (*programs, up):
                process.kill()
                process.wait()
    _never_unescaped((tmp_path / "out").read_bytes(), (tmp_path / "err").read_bytes())
    told = _kept_and_shown(tmp_path, str(executable))
    # eBPF counts all of the host: another process may have sent more, and a case names only those that sent most.
    assert tier == "ebpf" or SHOWN[1] in told


def _all(folder: Path) -> bool:
    """Whether a row of each process was written."""
    text = (folder / "out").read_text().rpartition("\n")[0]
    names = {json.loads(line)["process"] for line in text.splitlines() if line.startswith('{"record":"flow"')}
    return {name.decode("utf-8", "replace") for name in NAMES} <= names


def _never_unescaped(*octets: bytes) -> None:
    for text in octets:
        for line in text.decode().split("\n"):
            assert is_harmless(line), ascii(line)


def _kept_and_shown(folder: Path, executable: str) -> str:
    """Fail unless rows hold the names as they are and every table shows them escaped; what is shown of the case."""
    ask = ("flows", "--since", "1h", "--remote", PEER4, "--port", str(PORT))
    plain, grouped, table, as_json = (
        sekisho(*ask, *more, home=folder) for more in (["--csv"], ["--by", "process"], [], ["--json"])
    )
    _never_unescaped(*(o.out.replace("\r\n", "\n").encode() for o in (plain, grouped, table, as_json)))
    rows = [json.loads(line) for line in as_json.out.splitlines()]
    wanted = {name.decode("utf-8", "replace") for name in NAMES}
    assert {row["process"] for row in rows} == wanted
    assert executable in {row["executable"] for row in rows}
    cells = list(csv.DictReader(io.StringIO(plain.out)))
    assert not [cell for row in cells for cell in row.values() if re.match(r"\s*[=+@\-]", cell or "")]
    assert {row["process"] for row in cells} == {n if n[0] != "=" else "'" + n for n in SHOWN}
    for name in SHOWN:
        assert name in grouped.out
    cases = sekisho("cases", "list", "--json", home=folder)
    (case,) = json.loads(cases.out) if cases.out.startswith("[") else [json.loads(cases.out.splitlines()[0])]
    shown = sekisho("cases", "show", case["id"], home=folder)
    _never_unescaped(cases.out.encode(), shown.out.encode())
    return shown.out
