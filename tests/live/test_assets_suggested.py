"""`sekisho assets suggest` against real servers on ports that say nothing.

PostgreSQL has a test of its own (``test_store_on_other_port.py``). MongoDB, MinIO and Elasticsearch are in no Debian
release: for them stands a real listening process whose executable bears their name (a copy of Redis), which is all that
the look at a host goes by.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import yaml

from agent.core.errors import PolicyError
from agent.listening import listening
from agent.policy.load import load
from agent.policy.servers import Listening
from agent.policy.starter import suggestion
from tests.tools import netns
from tests.tools.netns import Namespace, wait_for

pytestmark = pytest.mark.root

TODAY = date(2026, 11, 21)
NEEDED = {
    "redis-server": "redis-server",
    "mariadbd": "mariadb-server-core",
    "smbd": "samba",
    "storescp": "dcmtk",
}
NAMED = {"mongod": 37017, "minio": 39000, "elasticsearch/jdk/bin/java": 39200}


@contextlib.contextmanager
def started(namespace: Namespace, folder: Path) -> Iterator[dict[int, tuple[str, str]]]:
    """Servers in a namespace: port -> (kind, executable)."""
    found = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in NEEDED}
    if missing := [package for name, package in NEEDED.items() if not found[name]]:
        pytest.skip(f"not installed here: apt-get install {' '.join(missing)}")
    redis, mariadb, samba, dicom = (str(found[name]) for name in NEEDED)
    for name in ("mysql", "smb", "dicom"):
        (folder / name).mkdir()
    config = folder / "smb.conf"
    dirs = "".join(
        f"{d} directory = {folder}/smb\n" for d in ("lock", "state", "cache", "pid", "private", "ncalrpc")
    )
    config.write_text(f"[global]\nsmb ports = 34450\n{dirs}log file = {folder}/smb/log\n")
    commands: dict[int, tuple[str, str, list[str]]] = {
        36379: ("Redis", redis, ["--port", "36379", "--save", "", "--dir", str(folder)]),
        33306: (
            "MariaDB",
            mariadb,
            ["--no-defaults", f"--datadir={folder}/mysql", "--user=root", "--skip-grant-tables", "--port=33306",
             f"--socket={folder}/mysql.sock", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=8M"],
        ),
        34450: ("SMB file server", samba, ["-F", "--no-process-group", "-s", str(config), "-p", "34450"]),
        31112: ("DICOM archive", dicom, ["-od", f"{folder}/dicom", "31112"]),
    }  # fmt: skip
    for name, port in NAMED.items():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(redis, copy)
        kind = {"mongod": "MongoDB", "minio": "MinIO"}.get(name, "Elasticsearch")
        commands[port] = (kind, str(copy), ["--port", str(port), "--save", "", "--dir", str(folder)])
    running = []
    try:
        with (folder / "log").open("wb") as log:
            for _, program, words in commands.values():
                inside = ["nsenter", f"--net=/run/netns/{namespace.name}", program, *words]
                running.append(
                    subprocess.Popen(
                        inside, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
                    )
                )

        def all_listen() -> bool:
            return set(commands) <= {f.port for f in namespace.call(listening)}

        wait_for(all_listen, f"servers on {sorted(commands)}: {folder}/log")
        yield {port: (kind, str(Path(program).resolve())) for port, (kind, program, _) in commands.items()}
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_servers_on_odd_ports_are_proposed(tmp_path: Path) -> None:
    """Each server is told by its executable on whatever port; the text is refused until a person replaced each TODO,
    and then every server is a store of its own.
    """
    with netns.pair() as two, started(two.host, tmp_path) as servers:
        found = two.host.call(listening)
        everywhere = listening(containers=True)
    told = {f.port: (f.guess, f.executable, f.by) for f in found if f.guess}
    assert told == {port: (kind, executable, "executable") for port, (kind, executable) in servers.items()}
    elsewhere = {f.port: f.guess for f in everywhere if f.port in servers}
    assert elsewhere == {port: kind for port, (kind, _) in servers.items()}

    text = suggestion(found, "db-1.example", ["redis-db-1"])
    file = tmp_path / "assets.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError, match="`TODO` is none of the choices"):
        load([file], today=TODAY)
    file.write_text(text.replace("[TODO]", "[business_critical]").replace("contact: TODO", "contact: ext. 1"))
    stores = load([file], today=TODAY).stores
    assert sorted(port for s in stores for port in s.recognise.ports) == sorted(servers)
    assert {s.recognise.hosts for s in stores} == {("db-1.example",)}
    assert "redis-db-1" not in {s.id for s in stores}


def test_the_command_leaves_out_what_is_registered(tmp_path: Path) -> None:
    """A server that the policy has as a store is named as such and not proposed again."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "stores:\n  - {id: cache, categories: [research], recognise: {hosts: [this], ports: [36379]}}\n"
    )
    with netns.pair() as two, started(two.host, tmp_path):
        command = [
            sys.executable,
            "-m",
            "agent.cli",
            "--state-dir",
            str(tmp_path),
            "--set",
            f"policy={policy}",
        ]
        inside = ["nsenter", f"--net=/run/netns/{two.host.name}", *command, "assets", "suggest", "--json"]
        answer = json.loads(subprocess.run(inside, check=True, capture_output=True).stdout)
    of = {row["port"]: row["store"] for row in answer["listening"]}
    assert (of[36379], of[33306]) == ("cache", "")
    proposed = [port for s in yaml.safe_load(answer["yaml"])["stores"] for port in s["recognise"]["ports"]]
    assert 36379 not in proposed
    assert 33306 in proposed


@pytest.mark.parametrize(
    ("port", "process", "executable", "unit", "guess", "by"),
    [
        (2575, "java", "/usr/bin/java", "mirthconnect.service", "HL7 (MLLP) interface", "unit"),
        (6661, "java", "/opt/mirthconnect/jre/bin/java", "", "HL7 (MLLP) interface", "executable"),
        (9999, "clickhouse-serv", "", "", "ClickHouse", "process"),
        (11112, "", "", "", "DICOM archive", "port"),
        (5432, "sshd", "/usr/sbin/sshd", "ssh.service", "", ""),
        (4444, "java", "/usr/bin/java", "web.service", "", ""),
    ],
)
def test_what_says_what_a_server_is(
    port: int, process: str, executable: str, unit: str, guess: str, by: str
) -> None:
    """Executable, then process, then unit, and the port only where nothing else speaks."""
    from agent.policy.servers import guessed

    assert guessed(port, process, executable, unit) == (guess, by)


def test_nfs_of_the_kernel_is_seen(tmp_path: Path) -> None:
    """No process holds nfsd's sockets: its own list tells its ports (a made /proc: this kernel may have no nfsd)."""
    (tmp_path / "fs/nfsd").mkdir(parents=True)
    (tmp_path / "fs/nfsd/portlist").write_text("rdma 20049\ntcp 32049\nudp 32049\ntcp 32049\n")
    assert listening(tmp_path) == [Listening(32049, "nfsd", guess="NFS file server", by="process")]
