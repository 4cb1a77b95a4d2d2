"""A real PostgreSQL server in a folder of its own, reached by a socket in that folder; removed at the end."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

_NEEDED = "PostgreSQL's programs are not installed; Debian: apt-get install postgresql"


class Server:
    """A running server. Any local user may do anything in it."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self._programs = folder, programs

    def fresh(self, *more: str) -> str:
        """The address of a new, empty database; ``more`` are words for createdb."""
        name = f"t{uuid.uuid4().hex}"
        self.run("createdb", "-h", str(self.folder), "-T", "template0", *more, name)
        return f"postgresql://{_user()}@/{name}?host={self.folder}"

    def run(self, program: str, *words: str) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        command = [*_as_user(), str(self._programs / program), *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.strip()}")


@contextlib.contextmanager
def serving(*, durable: bool = False) -> Iterator[Server]:
    """A server, started and stopped. ``durable``: it waits for the disk at each commit, as one that is relied on does."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        raise RuntimeError(_NEEDED)
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = Server(folder, Path(initdb).resolve().parent)
    try:
        folder.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam(_user()).pw_uid, -1)
        data = str(folder / "data")
        server.run("initdb", "-D", data, "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
        sync = "on" if durable else "off"
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync={sync} -c shared_buffers=32MB"
        server.run("pg_ctl", "-D", data, "-w", "-s", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield server
        finally:
            server.run("pg_ctl", "-D", data, "-w", "-s", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str:
    """PostgreSQL refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


def _as_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(_user())
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
