"""Messages of exactly 1,000 rows, and the same rows as JSON objects: what the detector's bar is measured with.

Agents join alike rows after they have cut a batch, so that theirs hold fewer; here nothing is joined.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from agent.core.accounts import Accounts
from agent.core.flow import BatchHeader, FlowBatch, concat
from agent.core.message import Message, seal
from agent.simulation.agents import Fleet, Sent
from agent.simulation.plan import Asked, Plan
from agent.simulation.rows import STEP_NS

ROWS = 1_000
HOSTS = 500
BEGIN_NS = 1_763_700_000 * 10**9


def plan(messages: int) -> Plan:
    """A fleet whose hosts each send a message in 10 s."""
    return Plan(
        Asked(HOSTS, 130.0, -(-messages // HOSTS) * 10, BEGIN_NS, seed=5, incidents=4, backlog_share=0.0)
    )


def batches(fleet: Fleet, messages: int) -> Iterator[FlowBatch]:
    """So many batches, each step's hosts in another order. One host in fifty runs a store."""
    made = fleet.plan
    random = np.random.default_rng(1)
    left = messages
    for step in range(fleet.steps):
        for host in random.permutation(HOSTS).tolist()[: max(left, 0)]:
            lane = 1 if host < made.store_hosts else 0
            rows = _rows(fleet, host, step)
            if not lane:
                rows = rows.with_columns(local_port=np.full(ROWS, -1))
            name = made.agent_id(host)
            yield rows.compact().under(
                BatchHeader(
                    name, made.asked.tag(host).hex(), lane, step, name, "simulated", 0, fleet.versions
                )
            )
        left -= HOSTS


def sealed(fleet: Fleet, batch: FlowBatch) -> Sent:
    """It as a message."""
    key = fleet.key(int(batch.header.agent_id.rpartition("-")[2]))
    whole = batch.with_header(account=Accounts().read())
    message: Message = seal(whole, key.sign, low_water=batch.header.sequence, key=key.public)
    return Sent(batch.header.agent_id, message, len(batch))


def _rows(fleet: Fleet, host: int, step: int) -> FlowBatch:
    begin_ns = fleet.plan.asked.begin_ns + step * STEP_NS
    rows, more = fleet.traffic.rows([host], step, begin_ns)[0], 1
    while len(rows) < ROWS:
        rows = concat([rows, fleet.traffic.rows([host], step + 10_000 * more, begin_ns)[0]])
        more += 1
    return rows.take(slice(0, ROWS))
