#!/usr/bin/env python3
"""Move real data between two network namespaces and watch it end in one case.

A PostgreSQL server in the namespace `sekisho-db` holds a table. First a client on the far side copies the table out
through port 5432. Then the table is dumped over the local socket, and another process uploads the dump. Both ways
end at addresses that overrides.yaml gives to one owner; `sekisho up` watches in the server's namespace.

Needs root, iproute2 and a PostgreSQL server's programs. Uses documentation addresses; no packet leaves this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
DB_SPACE, FAR_SPACE = "sekisho-db", "sekisho-far"
DB_ADDRESS, FAR_COPY, FAR_UPLOAD = "192.0.2.10", "203.0.113.77", "203.0.113.78"
UPLOAD_PORT = 443
ROW_OCTETS = 1_000

UPLOADER = """
import os, socket, sys, time
size, seconds = os.path.getsize(sys.argv[3]), float(sys.argv[4])
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s, open(sys.argv[3], "rb") as f:
    while chunk := f.read(1 << 20):
        s.sendall(chunk)
        time.sleep(seconds * len(chunk) / size)
"""
READER = """
import sys, time
octets, seconds = int(sys.argv[1]), float(sys.argv[2])
while chunk := sys.stdin.buffer.read(1 << 20):
    time.sleep(seconds * len(chunk) / octets)
"""
RECEIVER = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
total = 0
peer, _ = server.accept()
while chunk := peer.recv(1 << 20):
    total += len(chunk)
print(total, flush=True)
"""


def main() -> int:
    """Run the demonstration. Returns 0 if it ended in exactly one case."""
    args = _arguments()
    if os.geteuid() != 0:
        sys.exit(
            "the demonstration needs root: it makes two network namespaces and a packet socket (sudo make demo)"
        )
    programs = _postgres_programs()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sekisho-demo-")))
        work.chmod(0o755)
        stack.enter_context(_namespaces())
        say(f"two namespaces: {DB_SPACE} {DB_ADDRESS} and {FAR_SPACE} {FAR_COPY}, {FAR_UPLOAD}")
        postgres = stack.enter_context(_postgres(programs, work))
        _fill(postgres, args.megabytes)
        if args.record:
            stack.enter_context(_recording(args.record))
        state = work / "state"
        with _sekisho(args.sekisho, work, state, args.language):
            _copy_out(postgres, args.megabytes, args.seconds)
            _dump_and_upload(postgres, args.seconds)
            wait_for(
                "a case", lambda: _case_octets(args.sekisho, state) >= 2 * args.megabytes * 10**6 * 0.9, 60
            )
        cases = _cases(args.sekisho, state)
        say(f"{len(cases)} case: " + ", ".join(str(c["id"]) for c in cases))
        for case in cases:
            print(
                _run(
                    [
                        args.sekisho,
                        "--state-dir",
                        str(state),
                        "cases",
                        "show",
                        case["id"],
                        "--language",
                        args.language,
                    ]
                )
            )
    return 0 if len(cases) == 1 else 1


def say(text: str) -> None:
    """One line of the story."""
    print(f"-- {text}", flush=True)


def wait_for(what: str, test: Callable[[], bool], seconds: float) -> None:
    """Wait until ``test`` holds; ends the program with a plain word when it does not in time."""
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.2)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--megabytes", type=int, default=200, help="size of the table; it leaves twice (default 200)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0,
        help="spread each transfer over so many seconds (default: as fast as it goes)",
    )
    parser.add_argument("--language", choices=("en", "ja"), default="en")
    parser.add_argument(
        "--sekisho",
        default=shutil.which("sekisho", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
        or "sekisho",
    )
    parser.add_argument(
        "--record", type=Path, help="also record the headers of both transfers into this pcap (needs tcpdump)"
    )
    return parser.parse_args()


def _run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr or done.stdout}")
    return str(done.stdout)


def _postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if not found:
        sys.exit("no PostgreSQL server here; install one: apt-get install postgresql")
    return found[-1].parent


@contextlib.contextmanager
def _namespaces() -> Iterator[None]:
    _remove_namespaces()
    try:
        for space in (DB_SPACE, FAR_SPACE):
            _run(["ip", "netns", "add", space])
            _run(["ip", "-n", space, "link", "set", "lo", "up"])
        _run(
            [
                "ip",
                "link",
                "add",
                "sekisho0",
                "netns",
                DB_SPACE,
                "type",
                "veth",
                "peer",
                "name",
                "sekisho1",
                "netns",
                FAR_SPACE,
            ]
        )
        _run(["ip", "-n", DB_SPACE, "address", "add", f"{DB_ADDRESS}/24", "dev", "sekisho0"])
        _run(["ip", "-n", FAR_SPACE, "address", "add", "192.0.2.1/24", "dev", "sekisho1"])
        for address in (FAR_COPY, FAR_UPLOAD):
            _run(["ip", "-n", FAR_SPACE, "address", "add", f"{address}/32", "dev", "sekisho1"])
        _run(["ip", "-n", DB_SPACE, "link", "set", "sekisho0", "up"])
        _run(["ip", "-n", FAR_SPACE, "link", "set", "sekisho1", "up"])
        _run(["ip", "-n", DB_SPACE, "route", "add", "default", "via", "192.0.2.1"])
        yield
    finally:
        _remove_namespaces()


def _remove_namespaces() -> None:
    for space in (DB_SPACE, FAR_SPACE):
        subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


class Postgres:
    """A throwaway server in the namespace of the store."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.data = programs, folder, folder / "data"
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)

    def command(self, space: str, *command: str) -> list[str]:
        """A command of PostgreSQL's, run as its user inside a namespace."""
        tool = str(self.programs / command[0])
        return ["nsenter", f"--net=/run/netns/{space}", "runuser", "-u", "postgres", "--", tool, *command[1:]]

    def sql(self, statement: str) -> str:
        """Run one statement over the local socket."""
        return _run(
            self.command(DB_SPACE, "psql", "-h", str(self.folder), "-d", "postgres", "-qAtc", statement)
        )


@contextlib.contextmanager
def _postgres(programs: Path, work: Path) -> Iterator[Postgres]:
    folder = work / "pg"
    folder.mkdir()
    postgres = Postgres(programs, folder)
    _run(
        postgres.command(
            DB_SPACE, "initdb", "-D", str(postgres.data), "-A", "trust", "--no-sync", "-E", "UTF8"
        )
    )
    with (postgres.data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 203.0.113.0/24 trust\n")
    options = f"-c listen_addresses={DB_ADDRESS} -c unix_socket_directories={folder} -c fsync=off"
    _run(
        postgres.command(
            DB_SPACE,
            "pg_ctl",
            "-D",
            str(postgres.data),
            "-l",
            str(folder / "log"),
            "-w",
            "-o",
            options,
            "start",
        )
    )
    say("a PostgreSQL server listens in the store's namespace")
    try:
        yield postgres
    finally:
        subprocess.run(
            postgres.command(DB_SPACE, "pg_ctl", "-D", str(postgres.data), "-m", "immediate", "stop"),
            capture_output=True,
            check=False,
        )


def _fill(postgres: Postgres, megabytes: int) -> None:
    rows = megabytes * 10**6 // ROW_OCTETS
    text = f"rpad(md5(n::text), {ROW_OCTETS - 10}, md5((n * 7)::text))"
    postgres.sql(
        f"create unlogged table patients as select n as id, {text} as record from generate_series(1, {rows}) as n"
    )
    say(f"a table of {rows:,} invented records, about {megabytes} MB")


@contextlib.contextmanager
def _recording(path: Path) -> Iterator[None]:
    command = [
        "nsenter",
        f"--net=/run/netns/{DB_SPACE}",
        "tcpdump",
        "-i",
        "sekisho0",
        "-s",
        "66",
        "-B",
        "65536",
        "-U",
        "-w",
        str(path),
        "ip",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


@contextlib.contextmanager
def _sekisho(program: str, work: Path, state: Path, language: str) -> Iterator[None]:
    settings = work / "sekisho.yaml"
    settings.write_text(
        json.dumps(
            {
                "host": "db-01",
                "policy": [str(HERE / "policy.yaml")],
                "overrides": [str(HERE / "overrides.yaml")],
                "language": language,
                "collectors": {"af_packet": {}},
                "sinks": {"stdout": {"format": "title"}},
            }
        )
    )
    command = [
        "nsenter",
        f"--net=/run/netns/{DB_SPACE}",
        program,
        "-c",
        str(settings),
        "--state-dir",
        str(state),
        "up",
        "--plain",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    errors: list[str] = []
    ready = threading.Event()
    assert process.stdout is not None and process.stderr is not None

    def follow_errors() -> None:
        for line in process.stderr or ():
            errors.append(line)
            if "run_started" in line:
                ready.set()

    def follow_output() -> None:
        for line in process.stdout or ():
            print(f"   sekisho: {line}", end="", flush=True)

    threads = [threading.Thread(target=follow_errors), threading.Thread(target=follow_output)]
    for thread in threads:
        thread.start()
    try:
        if not ready.wait(60):
            sys.exit(f"sekisho did not start:\n{''.join(errors)}")
        say("sekisho watches")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        for thread in threads:
            thread.join()
        if code != 0:
            sys.exit(f"sekisho ended with {code}:\n{''.join(errors)}")


def _copy_out(postgres: Postgres, megabytes: int, seconds: float) -> None:
    _run(["ip", "-n", FAR_SPACE, "route", "replace", "192.0.2.0/24", "dev", "sekisho1", "src", FAR_COPY])
    command = postgres.command(
        FAR_SPACE, "psql", "-h", DB_ADDRESS, "-d", "postgres", "-qc", r"\copy patients to stdout"
    )
    client = subprocess.Popen(command, stdout=subprocess.PIPE)
    subprocess.run(
        [sys.executable, "-c", READER, str(megabytes * 10**6), str(seconds)], stdin=client.stdout, check=True
    )
    if client.wait(10) != 0:
        sys.exit("the client on the far side failed")
    say(f"a client at {FAR_COPY} copied the table out through port 5432")


def _dump_and_upload(postgres: Postgres, seconds: float) -> None:
    dump = postgres.folder / "patients.dump"
    _run(
        postgres.command(
            DB_SPACE,
            "pg_dump",
            "-h",
            str(postgres.folder),
            "-d",
            "postgres",
            "-t",
            "patients",
            "-f",
            str(dump),
        )
    )
    inside = [
        "nsenter",
        f"--net=/run/netns/{FAR_SPACE}",
        sys.executable,
        "-c",
        RECEIVER,
        FAR_UPLOAD,
        str(UPLOAD_PORT),
    ]
    receiver = subprocess.Popen(inside, stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    receiver.stdout.readline()
    _run(
        [
            "nsenter",
            f"--net=/run/netns/{DB_SPACE}",
            sys.executable,
            "-c",
            UPLOADER,
            FAR_UPLOAD,
            str(UPLOAD_PORT),
            str(dump),
            str(seconds),
        ]
    )
    arrived = int(receiver.stdout.readline())
    receiver.wait(10)
    if arrived != dump.stat().st_size:
        sys.exit(f"the receiver got {arrived:,} octets of {dump.stat().st_size:,}")
    say(
        f"another process dumped the table over the local socket and uploaded {arrived:,} octets to {FAR_UPLOAD}:{UPLOAD_PORT}"
    )


def _cases(program: str, state: Path) -> list[dict[str, object]]:
    lines = _run([program, "--state-dir", str(state), "cases", "list", "--json"]).splitlines()
    return [json.loads(line) for line in lines]


def _case_octets(program: str, state: Path) -> int:
    return sum(int(case["traffic"]["content_octets_out"]) for case in _cases(program, state))  # type: ignore[index]


if __name__ == "__main__":
    sys.exit(main())
