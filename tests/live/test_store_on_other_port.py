"""A real PostgreSQL server on a port that says nothing: found by `sekisho init`, and its rows by its executable."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from agent.core.accounts import Accounts
from agent.core.flow import concat
from agent.core.stages import Context
from agent.listening import listening
from agent.policy import load as policy_files
from agent.policy.servers import Listening
from enrichers.asset import Settings as AssetSettings
from tests.tools import netns
from tests.tools.netns import HOST4, Namespace, wait_for
from tests.tools.watching_sockets import watching

pytestmark = pytest.mark.root

PORT = 6543
SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@contextlib.contextmanager
def postgres(namespace: Namespace) -> Iterator[Path]:
    """A throwaway server in a namespace; its executable."""
    if not SERVERS:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    programs = SERVERS[-1].parent
    user = pwd.getpwnam("postgres")

    def command(*words: str) -> list[str]:
        space = f"--net=/run/netns/{namespace.name}"
        return ["nsenter", space, "runuser", "-u", "postgres", "--", str(programs / words[0]), *words[1:]]

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.chown(folder, user.pw_uid, user.pw_gid)
        data = str(folder / "data")
        quiet = {"check": True, "stdout": subprocess.DEVNULL}
        subprocess.run(command("initdb", "-D", data, "-A", "trust", "--no-sync"), **quiet)  # type: ignore[call-overload]
        with (folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all 192.0.2.0/24 trust\n")
        options = f"-p {PORT} -c listen_addresses={HOST4} -c unix_socket_directories={folder} -c fsync=off -c ssl=off"
        start = command("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
        subprocess.run(start, **quiet)  # type: ignore[call-overload]
        try:
            yield programs / "postgres"
        finally:
            subprocess.run(command("pg_ctl", "-D", data, "-m", "immediate", "stop"), **quiet)  # type: ignore[call-overload]


def test_a_database_on_another_port_is_found_and_its_rows_are_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`init` proposes the server with its executable; its connections belong to the store by their process."""
    with netns.pair() as two, postgres(two.host) as executable:
        (found,) = (f for f in two.host.call(listening) if f.port == PORT)
        assert found == Listening(PORT, "postgres", str(executable), "", "PostgreSQL", by="executable")
        proposed = policy_files.starter([found])
        assert f'executables: ["{executable}"]' in proposed
        file = tmp_path / "policy.yaml"
        file.write_text(proposed.replace(f"      ports: [{PORT}]\n", ""))
        policy = policy_files.load([file], today=date(2026, 11, 21))
        with watching(two.host, monkeypatch) as watched:
            wait_for(lambda: watched.owners[0].samples > 0, "the first sample")
            client = [
                "psql",
                "-h",
                HOST4,
                "-p",
                str(PORT),
                "-U",
                "postgres",
                "-qAtc",
                "select repeat('x', 100000)",
            ]
            subprocess.run(
                ["nsenter", f"--net=/run/netns/{two.peer.name}", *client],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            watched.rows()
        asset = AssetSettings().build(Context(Accounts(), tmp_path, host="db-01", policy=policy))
        rows = [r for r in asset.enrich(concat(watched.batches)).rows() if r["local_port"] == PORT]
    assert [(r["store"], r["basis"], r["executable"]) for r in rows] == [
        ("postgresql", "process", str(executable))
    ]
    assert rows[0]["content_octets_out"] > 100_000
