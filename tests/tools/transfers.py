"""Policies, batches and runs for tests of the detector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from agent.core import address
from agent.core.decision import Decision
from agent.core.finding import Case, Finding, Notice
from agent.core.flow import BatchHeader, FlowBatch, Text
from agent.detection.detector import Detector
from agent.policy.model import DestinationSet, Policy, Recognition, Rule, Store
from tests.tools.recount import Asked, Found, Sent

T0 = 1_763_712_000 * 10**9
"""2025-11-21 08:00 UTC."""
MB = 10**6
GB = 10**9


def store(store_id: str = "ehr", **changed: Any) -> Store:
    """A store of the reporting host."""
    fields: dict[str, Any] = {
        "id": store_id,
        "categories": ("personal_health",),
        "recognise": Recognition(addresses=(f"192.0.2.{len(store_id)}",)),
    }
    return Store(**fields | changed)


def policy(
    *rules: Rule | tuple[str, Rule], stores: Sequence[Store] = (), destinations: Sequence[DestinationSet] = ()
) -> Policy:
    """A policy of these rules; a bare rule belongs to the operator's pack."""
    named = tuple(rule if isinstance(rule, tuple) else ("operator", rule) for rule in rules)
    version = str(abs(hash(named)))[:12]
    return Policy(
        stores=tuple(stores) or (store(),), destinations=tuple(destinations), rules=named, version=version
    )


def rule_of(asked: Asked) -> Rule:
    """The rule that the recount asks."""
    return Rule(
        id=asked.id,
        over=asked.over,
        window=asked.window,
        quiet=asked.quiet_ns,
        initiator=asked.initiator,
    )


def sent(rows: Sequence[Sent], **columns: Any) -> FlowBatch:
    """The rows as an enriched batch; ``columns`` are added or replaced, one value for all rows or a list of texts."""
    n = len(rows)
    content = np.array([r.octets for r in rows], np.int64)
    asns = np.array([r.asn for r in rows], np.int64)
    texts: dict[str, Any] = {
        "initiator": [r.initiator for r in rows],
        "store": [r.store for r in rows],
        "remote_scope": ["external"] * n,
        "basis": ["process"] * n,
        "tenant": ["default"] * n,
        "process": ["postgres"] * n,
        "vantage": ["af_packet:eth0"] * n,
        "remote_as_org": [f"Example {r.asn}" for r in rows],
    }
    data: dict[str, Any] = {
        "local_address": np.repeat(address.parse(["192.0.2.1"]), n, axis=0),
        "remote_address": np.repeat(address.parse(["203.0.113.7"]), n, axis=0),
        "local_port": np.full(n, 40_000),
        "remote_port": np.full(n, 443),
        "protocol": np.full(n, 6),
        "flows": np.ones(n, np.int64),
        "octets_out": content + 40,
        "packets_out": np.ones(n, np.int64),
        "octets_in": np.full(n, 40),
        "packets_in": np.ones(n, np.int64),
        "content_octets_out": content,
        "start_ns": np.array([r.start_ns for r in rows], np.int64),
        "end_ns": np.array([r.end_ns for r in rows], np.int64),
        "remote_asn": asns,
    }
    for name, value in columns.items():
        if isinstance(value, list):
            texts[name] = value
        elif value is None or isinstance(value, str):
            texts[name] = [value] * n
        else:
            data[name] = np.full(n, value)
    host = rows[0].host if rows else "a"
    header = BatchHeader(agent_id=host, host=host, versions={"country": "example 2025-11"})
    return FlowBatch.build(n, data | {k: Text.of(v) for k, v in texts.items()}, header)


def pieces(rows: Sequence[Sent], size: int) -> Iterable[list[Sent]]:
    """The rows in pieces of one host and at most ``size`` rows each, in order."""
    piece: list[Sent] = []
    for row in rows:
        if piece and (len(piece) >= size or piece[0].host != row.host):
            yield piece
            piece = []
        piece.append(row)
    if piece:
        yield piece


class Run:
    """A detector, and all that it has said."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.findings: dict[str, Finding] = {}
        self.cases: dict[str, Case] = {}
        self.notices: list[Notice] = []
        self.ledger: list[Any] = []
        self.deltas: list[bytes] = []
        self.reasons: dict[str, int] = {}

    def heard(self, decision: Decision) -> Decision:
        """Remember a decision."""
        self.findings |= {f.id: f for f in decision.findings}
        self.cases |= {c.id: c for c in decision.cases}
        self.notices += decision.notices
        self.ledger += decision.ledger
        if decision.delta:
            self.deltas.append(decision.delta)
        for name, n in decision.reasons.items():
            self.reasons[name] = self.reasons.get(name, 0) + n
        return decision

    def take(self, rows: Sequence[Sent], received_ns: int | None = None, **columns: Any) -> Decision:
        """Let the detector take rows; received when the last of them ended unless said otherwise."""
        received = max(r.end_ns for r in rows) if received_ns is None else received_ns
        return self.heard(self.detector.take(sent(rows, **columns), received))

    def found(self) -> set[Found]:
        """What it found, as the recount says it."""
        return {
            (
                f.rule,
                f.store,
                f.entity,
                f.first_bucket_ns,
                f.last_bucket_ns,
                f.content_octets_out,
                f.state.value,
            )
            for f in self.findings.values()
            if "merged" not in f.reasons
        }


def run(policy: Policy, rows: Sequence[Sent], size: int = 1000, *, replay: bool = True) -> Run:
    """A replay of the rows in batches of at most ``size``, to its end."""
    made = Run(Detector(policy, None, replay=replay))
    for piece in pieces(rows, size):
        made.take(piece)
    made.heard(made.detector.finish())
    return made
