"""A broker that takes connections and never answers: the detector that leads goes on leading, and one stands by."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.store import schema
from agent.store.postgres import PostgresDatabase, open_postgres
from tests.tools.fleet import Program, settings_of, until
from tests.tools.postgres import Server

LEASE_S = 5


class Silent:
    """Takes every connection and says nothing."""

    def __init__(self) -> None:
        self._end = socket.create_server(("127.0.0.1", 0))
        self.port = self._end.getsockname()[1]
        self.held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        while True:
            try:
                self.held.append(self._end.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        """Let go of all."""
        self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()
        self._thread.join(10)
        for one in self.held:
            one.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.close()


def _lease(database: PostgresDatabase) -> tuple[str, int]:
    """Who leads, and how much of its lease is left in ms, by the server's clock."""
    t = schema.leases.c
    left = t.renewed_ms + t.lease_ms - sa.func.extract("epoch", sa.func.clock_timestamp()) * 1000
    with database.read() as connection:
        row = connection.execute(sa.select(t.holder, left)).one_or_none()
    return (row[0], int(row[1])) if row else ("", 0)


def test_a_broker_that_never_answers_costs_no_lease(
    silent: Silent, postgres_server: Server, tmp_path: Path
) -> None:
    """One connect takes many leases: the lease never runs out, and the one that stands by takes nothing."""
    url = postgres_server.fresh()
    more = {
        "detect.database": url,
        "detect.lease_s": str(LEASE_S),
        "kafka.connect_s": str(24 * LEASE_S),
    }
    servers = [f"127.0.0.1:{silent.port}"]
    flags = settings_of(tmp_path / "a", servers, **more)
    with Program(flags, tmp_path / "log-a") as first:
        until(lambda: '"leads"' in first.log.read_text(), "leader", first)
        database = open_postgres(url, holder="test", create=False, now_ns=0, busy_timeout_s=5)
        holder, _ = _lease(database)
        until(lambda: len(silent.held) > 0, "connection", first)
        with Program(settings_of(tmp_path / "b", servers, **more), tmp_path / "log-b") as second:
            until(lambda: '"stands_by"' in second.log.read_text(), "standby", second)
            seen: list[tuple[str, int]] = []

            def watched() -> bool:
                seen.append(_lease(database))
                return len(seen) > 10 * 2 * LEASE_S  # a look every tenth of a second: two leases

            until(watched, "end", first)
            assert {who for who, _ in seen} == {holder}
            assert min(left for _, left in seen) > 0
            assert "kafka_unreachable" not in first.log.read_text(), (
                "the connect was not held up for long enough"
            )
            assert '"leads"' not in second.log.read_text()
            second.process.kill()
        database.close()
        first.process.kill()
