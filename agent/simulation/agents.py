"""The agents of a simulated fleet: real keys, the real sealer, real messages, in the order in which they would be sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS
from agent.core.flow import BatchHeader, FlowBatch, concat
from agent.core.message import Message, seal
from agent.seal import Sealer
from agent.sending.identity import Identity
from agent.simulation.plan import BACKLOG_NS, SIMULATED, Plan
from agent.simulation.rows import STEP_NS, Traffic

_HELD: Final = "batches"
_TOGETHER: Final = 256
"""Hosts whose rows are made in one go, at most."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One message as its agent would send it."""

    agent_id: str
    message: Message
    rows: int


class Agent:
    """One run of one agent."""

    def __init__(self, plan: Plan, host: int, run: str, key: Identity, versions: dict[str, str]) -> None:
        self.id = plan.agent_id(host)
        self._key, self._public = key, key.public
        self._accounts = Accounts()
        self._versions = versions
        header = BatchHeader(
            agent_id=self.id,
            run_id=plan.asked.tag(run, host).hex(),
            host=self.id,
            collector=SIMULATED,
            clock_offset_ns=0,
            versions=versions,
        )
        self._collected = header
        self._sealer = Sealer(header, self._accounts, held_in=_HELD, adaptive=True)

    def take(self, rows: FlowBatch, begin_ns: int, end_ns: int) -> Iterator[Sent]:
        """Hand over the rows of that time; what is full or old enough by its end is sealed."""
        if len(rows):
            self._accounts.capture(rows.amounts(), held_in=_HELD)
            yield from map(self._sealed, self._sealer.add(rows.under(self._collected), begin_ns))
        yield from map(self._sealed, self._sealer.due(end_ns))

    def flush(self) -> Iterator[Sent]:
        """Seal what is left: the agent stops."""
        yield from map(self._sealed, self._sealer.flush())

    def _sealed(self, batch: FlowBatch) -> Sent:
        amounts = batch.amounts()
        self._accounts.wait(amounts)
        self._accounts.spool(amounts)
        sequence = batch.header.sequence
        message = seal(
            batch.with_header(account=self._accounts.read()),
            self._key.sign,
            low_water=sequence,
            key=self._public,
        )
        self._accounts.acknowledge(amounts)
        return Sent(self.id, message, len(batch))


class Fleet:
    """All agents of a plan."""

    def __init__(self, plan: Plan, policy_version: str = "") -> None:
        """``policy_version``: that of the policy whose stores the agents know."""
        self.plan = plan
        self.traffic = Traffic(plan)
        self.handed = 0
        """Rows that were handed over to sealers; alike ones are joined there."""
        self.stores_octets = 0
        """Content octets of those of stores."""
        self.versions = {SIMULATED: f"seed {plan.asked.seed}"}
        if policy_version:
            self.versions["policy"] = policy_version

    @cached_property
    def steps(self) -> int:
        """How many steps of 10 s the run has."""
        return -(-self.plan.asked.seconds * SECOND_NS // STEP_NS)

    def messages(self, *, stops: bool = True) -> Iterator[Sent | int]:
        """Every message, in order; between them the event time (ns) at which those before would have been sent. Hosts with
        a backlog send what of it is due beside what is new. Unless the fleet ``stops`` at the end, what is not full or old
        enough by then is not sent; of stores all is.
        """
        asked = self.plan.asked
        order = np.argsort(self.plan.phases_ns, kind="stable").tolist()
        many = min(_TOGETHER, len(order) // 20 + 1)
        groups = [order[at : at + many] for at in range(0, len(order), many)]
        agents = {host: self._agent(host, "live") for host in order}
        backlog = self._backlog()
        for step in range(self.steps):
            begin_ns = asked.begin_ns + step * STEP_NS
            for hosts in groups:
                yield from self._step(hosts, step, begin_ns, agents)
                yield begin_ns + int(self.plan.phases_ns[hosts[-1]]) + STEP_NS
            yield from next(backlog)
        for agent in agents.values() if stops else ():
            yield from agent.flush()

    def _step(
        self, hosts: Sequence[int], step: int, begin_ns: int, agents: dict[int, Agent]
    ) -> Iterator[Sent]:
        rows, counts = self.traffic.rows(hosts, step, begin_ns)
        self.handed += len(rows)
        first = 0
        for host, count in zip(hosts, counts, strict=True):
            own = rows.take(slice(first, first + count))
            at_ns = begin_ns + int(self.plan.phases_ns[host])
            if host < self.plan.store_hosts:
                yield from self._seconds(agents[host], host, own, at_ns)
            else:
                yield from agents[host].take(own, at_ns, at_ns + STEP_NS)
            first += count

    def _seconds(self, agent: Agent, host: int, rows: FlowBatch, at_ns: int) -> Iterator[Sent]:
        """Rows of stores are sealed after a second, so they are handed over second by second."""
        self.stores_octets += int(rows["content_octets_out"].sum())
        seconds = STEP_NS // SECOND_NS
        for n in range(seconds):
            part = rows.take(slice(len(rows) * n // seconds, len(rows) * (n + 1) // seconds))
            begin_ns, end_ns = at_ns + n * SECOND_NS, at_ns + (n + 1) * SECOND_NS
            extra = self.traffic.hidden(host, begin_ns, end_ns)
            if extra is not None:
                self.handed += len(extra)
                self.stores_octets += int(extra["content_octets_out"].sum())
                part = concat([part, extra])
            yield from agent.take(part, begin_ns, end_ns)

    def _backlog(self) -> Iterator[Iterator[Sent]]:
        """For each step what hosts send of the 10 minutes before the run. It is of an earlier run of theirs."""
        hosts = sorted(self.plan.backlogged)
        agents = {host: self._agent(host, "backlog") for host in hosts}
        kept = BACKLOG_NS // STEP_NS
        for step in range(self.steps):
            due = range(kept * step // self.steps, kept * (step + 1) // self.steps)
            yield self._of_backlog(hosts, agents, due, last=step == self.steps - 1)

    def _of_backlog(
        self, hosts: list[int], agents: dict[int, Agent], due: range, *, last: bool
    ) -> Iterator[Sent]:
        kept = BACKLOG_NS // STEP_NS
        for step in due if hosts else ():
            begin_ns = self.plan.asked.begin_ns - BACKLOG_NS + step * STEP_NS
            yield from self._step(hosts, step - kept, begin_ns, agents)
        for host in hosts if last else ():
            yield from agents[host].flush()

    def _agent(self, host: int, run: str) -> Agent:
        return Agent(self.plan, host, run, self.key(host), self.versions)

    def key(self, host: int) -> Identity:
        """The key of a host's agent; it follows from the seed, so it protects nothing."""
        seed = hashlib.sha256(f"sekisho simulated {self.plan.asked.seed} {host}".encode()).digest()
        return Identity(Ed25519PrivateKey.from_private_bytes(seed))
