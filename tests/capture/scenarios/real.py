"""Real servers: PostgreSQL copies a table out to a client, nginx serves a big file."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

from agent.core.accounts import Accounts
from agent.core.address import parse
from agent.core.flow import FlowBatch
from agent.core.stages import Context
from agent.policy.model import Policy
from enrichers import asset
from tests.capture.actor import actor_of, program
from tests.capture.judge import Actor, Claim
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
        # The client closes, as browsers do; closed_by_the_host is what happens where the server does.
        with socket.create_connection((HOST[family], NGINX_PORT)) as link, link.makefile("rb") as answer:
            link.sendall(b"GET /big HTTP/1.1\r\nHost: example.com\r\n\r\n")
            got, left = 0, 0
            while (line := answer.readline()) != b"\r\n":
                got += len(line)
                name, _, value = line.partition(b":")
                left = int(value) if name.lower() == b"content-length" else left
            while left:
                left -= (some := len(answer.read1(left)))
                got += some
            return got + 2

    # What nginx sent is known by what its client read.
    stage.sent[family] += stage.wire.peer.call(fetch)


def _postgres(stage: Stage) -> None:
    postmaster = _serve_postgres(stage, stage.size(15, 200) * 1_000)
    for family in FAMILIES:
        stage.claims[family].append(Claim((), local_port=POSTGRES_PORT, listener=(postmaster,)))


def _serve_postgres(stage: Stage, rows: int) -> Actor:
    """Start the server with a table of so many rows of 1,000 octets; its first process."""
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
    done = subprocess.run((*as_user, str(programs / "initdb"), *made), capture_output=True, text=True, check=False, cwd=folder)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"initdb: {done.stdout[-500:]}{done.stderr[-500:]}")
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 192.0.2.0/24 trust\nhost all all 2001:db8::/32 trust\n")
    options = ("listen_addresses=*", f"unix_socket_directories={folder}", "fsync=off", "shared_buffers=16MB")
    line = [*as_user, str(programs / "postgres"), "-D", str(data)]
    for option in options:
        line += ["-c", option]
    server = stage.exit.enter_context(program(stage.wire.host, stage.cgroups, "postgres", *line))
    ready = (*as_user, str(programs / "pg_isready"), "-q", "-h", str(folder))
    wait_for(lambda: not subprocess.run(ready, check=False).returncode, "PostgreSQL to be ready")
    run(
        "psql", "-h", str(folder), "-U", "postgres", "-qc",
        "create unlogged table records as select n, rpad(md5(n::text), 990, md5((n * 7)::text)) as record "
        f"from generate_series(1, {rows}) as n",
    )  # fmt: skip
    return actor_of(server.pid, stage.cgroups.path("postgres"))


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


def _dump(stage: Stage) -> None:
    _serve_postgres(stage, stage.size(5, 100) * 1_000)


STORE = {
    "id": "records",
    "categories": ["personal_general"],
    "recognise": {"hosts": ["this"], "ports": [POSTGRES_PORT], "processes": ["postgres"]},
}


def _counts_for_the_store(stage: Stage, rows: FlowBatch) -> str:
    """Whether every row that left the host is the store's, for it left the store's host."""
    policy = Policy.model_validate({"tenant": "example", "version": "0123456789ab", "stores": [STORE]})
    context = Context(accounts=Accounts(), state_dir=Path("/nonexistent"), policy=policy)
    local = parse(sorted(a for f in FAMILIES for a in stage.wire.local[f]))
    here = (rows["local_address"][:, None, :] == local[None, :, :]).all(axis=2).any(axis=1)
    told = asset.Settings().build(context).enrich(rows.take(here.nonzero()[0]))
    found = set(zip(told.text("store").decode(), told.text("basis").decode(), strict=True))
    if found != {("records", "same_host")}:
        return f"the upload of a dump was taken for {found}, not for the store of its host"
    stage.notes.append("every octet is the store's, because it left the store's host (basis same_host)")
    return ""


@scenario(
    "pg_dump through a local socket, then another process uploads the file",
    prepare=_dump,
    also=_counts_for_the_store,
)
def dump_and_upload(stage: Stage, family: int) -> None:
    folder = stage.folder / "postgres"
    file = folder / f"dump{family}"
    run("pg_dump", "-h", str(folder), "-U", "postgres", "-f", str(file), "postgres")
    stage.sink(family)
    stage.send("upload", family, file=str(file))
