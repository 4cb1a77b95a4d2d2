"""A throwaway PostgreSQL server for benches, and pgbench against it from the other namespace."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.tools.netns import HOST4, Pair, wait_for


@contextlib.contextmanager
def serving(two: Pair, folder: Path, core: int) -> Iterator[Callable[[int], float] | None]:
    """A function that runs pgbench for so many seconds and gives 1 / p99 of the latency in 1/s; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda path: int(path.parts[-3]))
    if not found:
        yield None
        return
    programs, user = found[-1].parent, pwd.getpwnam("postgres")
    home = folder / "postgres"
    home.mkdir()
    folder.chmod(0o711)
    os.chown(home, user.pw_uid, user.pw_gid)

    def line(namespace: str, *words: str) -> list[str]:
        as_user = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        pinned = ("nsenter", f"--net=/run/netns/{namespace}", "taskset", "-c", str(core))
        return [*pinned, *as_user, str(programs / words[0]), *words[1:]]

    def run(namespace: str, *words: str) -> None:
        subprocess.run(line(namespace, *words), check=True, capture_output=True, cwd=home)

    data = home / "data"
    run(two.host.name, "initdb", "-D", str(data), "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 192.0.2.0/24 trust\n")
    options = ("-c", f"listen_addresses={HOST4}", "-c", f"unix_socket_directories={home}", "-c", "fsync=off")
    server = subprocess.Popen(
        line(two.host.name, "postgres", "-D", str(data), *options),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home,
    )  # fmt: skip
    try:
        ready = line(two.host.name, "pg_isready", "-q", "-h", str(home))
        wait_for(lambda: not subprocess.run(ready, check=False).returncode, "PostgreSQL to be ready")
        run(two.host.name, "pgbench", "-h", str(home), "-i", "-s", "1", "-q", "postgres")

        def ask(seconds: int) -> float:
            for log in home.glob("latency*"):
                log.unlink()
            words = (
                "-h",
                HOST4,
                "-n",
                "-S",
                "-c",
                "1",
                "-T",
                str(seconds),
                "-l",
                "--log-prefix=latency",
                "postgres",
            )
            run(two.peer.name, "pgbench", *words)
            (log,) = home.glob("latency*")
            # client, transaction, microseconds, ...
            micros = np.loadtxt(log, usecols=2)
            return float(1e6 / np.quantile(micros, 0.99))

        yield ask
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
