"""A throwaway PostgreSQL server for benches, and pgbench against it from the other namespace."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench.charged import Charged
from tests.tools.netns import HOST4, Namespace, Pair, wait_for

Latencies = NDArray[np.float64]
"""Of each transaction, in microseconds."""


@contextlib.contextmanager
def serving(
    two: Pair, folder: Path, pinned: Callable[..., list[str]], apart: Charged
) -> Iterator[Callable[[int], Latencies] | None]:
    """A function that runs pgbench for so many seconds and gives its latencies; None where it is not installed.

    ``pinned(namespace, *words)`` gives the command line that runs a program where the load belongs; clients are in the
    group ``apart``, so that only the database's end is watched, as on its host.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda path: int(path.parts[-3]))
    if not found:
        yield None
        return
    programs, user = found[-1].parent, pwd.getpwnam("postgres")
    home = folder / "postgres"
    home.mkdir()
    folder.chmod(0o711)
    os.chown(home, user.pw_uid, user.pw_gid)

    def line(namespace: Namespace, *words: str, group: Charged | None = None) -> list[str]:
        as_user = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        return pinned(namespace, *as_user, str(programs / words[0]), *words[1:], group=group)

    def run(namespace: Namespace, *words: str, group: Charged | None = None) -> None:
        subprocess.run(line(namespace, *words, group=group), check=True, capture_output=True, cwd=home)

    data = home / "data"
    run(two.host, "initdb", "-D", str(data), "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 192.0.2.0/24 trust\n")
    options = ("-c", f"listen_addresses={HOST4}", "-c", f"unix_socket_directories={home}", "-c", "fsync=off")
    server = subprocess.Popen(
        line(two.host, "postgres", "-D", str(data), *options),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home,
    )  # fmt: skip
    try:
        ready = line(two.host, "pg_isready", "-q", "-h", str(home))
        wait_for(lambda: not subprocess.run(ready, check=False).returncode, "PostgreSQL to be ready")
        run(two.host, "pgbench", "-h", str(home), "-i", "-s", "1", "-q", "postgres")

        def ask(seconds: int) -> Latencies:
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
            run(two.peer, "pgbench", *words, group=apart)
            (log,) = home.glob("latency*")
            # client, transaction, microseconds, ...
            return np.loadtxt(log, usecols=2)

        yield ask
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
