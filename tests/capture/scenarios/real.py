"""Real servers: PostgreSQL copies a table out to a client, nginx serves a big file."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

from tests.capture.actor import actor_of, program
from tests.capture.judge import Claim
from tests.capture.stage import NotThereError, Stage, scenario
from tests.capture.wire import FAMILIES, HOST
from tests.tools.netns import run, wait_for

NGINX_PORT, POSTGRES_PORT = 8080, 5432


def _children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _nginx(stage: Stage) -> None:
    if shutil.which("nginx") is None:
        raise NotThereError("the program nginx is not installed (apt-get install nginx-light)")
    folder = stage.folder / "nginx"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for each in (folder, *folder.parents):
        # Its workers run as another user.
        if each.stat().st_uid == os.getuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o711)
    listen = "".join(f"listen {f'[{HOST[f]}]' if f == 6 else HOST[f]}:{NGINX_PORT};" for f in FAMILIES)
    octets = stage.size(20_000_000, 300_000_000)
    with (folder / "big").open("wb") as file:
        file.truncate(octets)
    (folder / "big").chmod(0o644)
    (folder / "conf").write_text(
        f"daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/errors; events {{ }}\n"
        f"http {{ sendfile on; access_log off; server {{ {listen} root {folder}; }} }}\n"
    )
    line = ("nginx", "-p", str(folder), "-e", str(folder / "errors"), "-c", str(folder / "conf"))
    master = stage.exit.enter_context(program(stage.wire.host, stage.cgroups, "nginx", *line))
    wait_for(lambda: master.poll() is not None or _listens(stage, NGINX_PORT), "nginx to listen")
    wait_for(lambda: len(_children(master.pid)) >= 2, "the workers of nginx")
    group = stage.cgroups.path("nginx")
    workers = tuple(actor_of(pid, group) for pid in _children(master.pid))
    claim = Claim(workers, local_port=NGINX_PORT, listener=(actor_of(master.pid, group),))
    for family in FAMILIES:
        stage.claims[family].append(claim)


def _listens(stage: Stage, port: int) -> bool:
    return f":{port} " in stage.wire.host.run("ss", "-ltn")


@scenario("nginx serves a big file (sendfile, two workers)", prepare=_nginx)
def nginx_big_file(stage: Stage, family: int) -> None:
    def fetch() -> int:
        with socket.create_connection((HOST[family], NGINX_PORT)) as link:
            link.sendall(b"GET /big HTTP/1.0\r\n\r\n")
            got = 0
            while chunk := link.recv(1 << 18):
                got += len(chunk)
            return got

    # What nginx sent is known by what its client read.
    stage.sent[family] += stage.wire.peer.call(fetch)


def _postgres(stage: Stage) -> None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise NotThereError("no PostgreSQL server is installed (apt-get install postgresql)")
    programs, user = found[-1].parent, pwd.getpwnam("postgres")
    folder = stage.folder / "postgres"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for each in folder.parents:
        if each.stat().st_uid == os.getuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o711)
    os.chown(folder, user.pw_uid, user.pw_gid)
    as_user = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    data = folder / "data"
    made = ("-D", str(data), "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
    subprocess.run((*as_user, str(programs / "initdb"), *made), check=True, capture_output=True, cwd=folder)
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 192.0.2.0/24 trust\nhost all all 2001:db8::/32 trust\n")
    options = ("listen_addresses=*", f"unix_socket_directories={folder}", "fsync=off", "shared_buffers=16MB")
    line = [*as_user, str(programs / "postgres"), "-D", str(data)]
    for option in options:
        line += ["-c", option]
    server = stage.exit.enter_context(program(stage.wire.host, stage.cgroups, "postgres", *line))
    ready = (*as_user, str(programs / "pg_isready"), "-q", "-h", str(folder))
    wait_for(lambda: not subprocess.run(ready, check=False).returncode, "PostgreSQL to be ready")
    rows = stage.size(15, 200) * 1_000
    run(
        "psql", "-h", str(folder), "-U", "postgres", "-qc",
        "create unlogged table records as select n, rpad(md5(n::text), 990, md5((n * 7)::text)) as record "
        f"from generate_series(1, {rows}) as n",
    )  # fmt: skip
    postmaster = actor_of(server.pid, stage.cgroups.path("postgres"))
    for family in FAMILIES:
        stage.claims[family].append(Claim((), local_port=POSTGRES_PORT, listener=(postmaster,)))


@scenario("PostgreSQL copies a table out to a client (the real server)", prepare=_postgres)
def postgres_copy_out(stage: Stage, family: int) -> None:
    line = ("psql", "-h", HOST[family], "-U", "postgres", "-qAt", "-d", "sslmode=disable dbname=postgres")
    steps = ("-c", "select pg_backend_pid()", "-c", r"\copy records to stdout")
    inside = ("ip", "netns", "exec", stage.wire.peer.name, *line, *steps)
    said = subprocess.run(inside, check=True, capture_output=True).stdout
    first, rest = said.split(b"\n", 1)
    claim = stage.claims[family][0]
    (postmaster,) = claim.listener
    backend = type(postmaster)(int(first), postmaster.process, postmaster.executable, postmaster.uid, postmaster.cgroup)  # fmt: skip
    stage.claims[family][0] = Claim((backend,), local_port=POSTGRES_PORT, listener=claim.listener)
    # The protocol wraps each row (5 octets) around what the client wrote out; so this is a lower bound.
    stage.sent[family] += len(rest)
