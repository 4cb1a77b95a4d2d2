"""An agent's sending side without collectors: sealed batches go in, a test holds the account against the topic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.core.accounts import Accounts, Amounts
from agent.core.clock import SystemClock
from agent.core.flow import BatchHeader, FlowBatch
from agent.core.kafka import Connection
from agent.core.stages import Carrier
from agent.sending.carrying import Pace
from agent.sending.identity import identity
from agent.sending.send import Send
from agent.sending.tripwire import Tripwire
from agent.spool.spool import Limits, Spool
from agent.store.state import State
from sinks.kafka import KafkaCarrier
from tests.tools.rows import batch_of

AGENT = "agent-1"
NOW = Pace(octets_per_s=2**30, after_s=0.0, longest_wait_s=1.0)
"""A backlog is sent as quickly as it goes."""
ROOMY = Limits(most_octets=2**30, min_free_octets=0)


class Sender:
    """One run."""

    def __init__(self, send: Send, accounts: Accounts, run_id: str) -> None:
        self.send, self.accounts, self.run_id = send, accounts, run_id
        self._sequence = {0: 0, 1: 0}

    def put(self, rows: FlowBatch, lane: int = 0, position: str = "") -> int:
        """Seal rows and keep them; gives their sequence."""
        sequence = self._sequence[lane]
        self._sequence[lane] += 1
        batch = rows.under(
            BatchHeader(
                agent_id=AGENT,
                run_id=self.run_id,
                lane=lane,
                sequence=sequence,
                host="db-1",
                collector="test",
                position=position,
            )
        )
        self.accounts.capture(batch.amounts())
        self.accounts.seal(batch.amounts())
        self.accounts.wait(batch.amounts())
        self.send.take([batch], 0)
        self.accounts.wait(Amounts())
        return sequence

    @property
    def waiting(self) -> int:
        """Records in the spool."""
        return self.send.spool.waiting().records

    def check(self) -> None:
        """Both lines of the account are whole, and the spool holds what the account says."""
        with self.send.carrying.lock:
            account = self.accounts.read()
            assert (account.residue, account.sealed_residue) == (Amounts(), Amounts())


@contextmanager
def sender(
    folder: Path,
    kafka: Connection | None = None,
    *,
    carrier: Carrier | None = None,
    run: int = 0,
    limits: Limits = ROOMY,
    pace: Pace = NOW,
    in_flight_octets: int = 8 * 2**20,
    facts: Mapping[str, Any] | None = None,
    tripwire: Tripwire | None = None,
) -> Iterator[Sender]:
    """A run that sends, let go at the end without an orderly stop."""
    accounts = Accounts()
    run_id = f"{run:032x}"
    clock = SystemClock()
    folder.mkdir(exist_ok=True, parents=True)
    state = State.open(folder / "state.db", clock=clock)
    if carrier is None:
        assert kafka is not None
        carrier = KafkaCarrier(kafka)
    send = Send(
        Spool(folder / "spool", limits),
        carrier,
        identity(folder),
        AGENT,
        run_id,
        accounts,
        clock,
        "db-1",
        folder / "spool",
        state,
        in_flight_octets=in_flight_octets,
        pace=pace,
        facts=lambda: dict(facts or {}),
        tripwire=tripwire,
        tripwire_sinks=("paper",),
    )
    send.restore()
    send.start()
    try:
        yield Sender(send, accounts, run_id)
    finally:
        send.close()
        state.close()


def numbered(count: int, first: int = 0, **rest: Any) -> FlowBatch:
    """So many rows, each told from the others by its ``octets_out``."""
    return batch_of([{"octets_out": first + n, "remote_port": n % 60000, **rest} for n in range(count)])
