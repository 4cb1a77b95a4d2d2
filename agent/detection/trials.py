"""Tests beside rules, run through the detector itself: one rule alone, rows that a person wrote down, the data's clock.

What the other end is comes from the ownership table and, where the test says more than that knows, from an override for
that address alone, so a test goes the way that a real row goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from ipaddress import ip_address, ip_network
from typing import Any, Final

import numpy as np

from agent.core import address
from agent.core.clock import MINUTE_NS, SECOND_NS
from agent.core.finding import Finding, Severity
from agent.core.flow import BatchHeader, FlowBatch, Mark, Text
from agent.detection.detector import Detector
from agent.policy.model import Category, Override, Policy, Recognition, Rule, Store
from agent.policy.ownership import Ownership
from agent.policy.rule_tests import Given, Receiver, RuleCase

BEGINS: Final = datetime(2026, 1, 15, tzinfo=UTC)
"""When every test begins."""
_BEGINS_NS: Final = int(BEGINS.timestamp()) * SECOND_NS
_MOST_PIECES: Final = 3_000
"""Rows into which one line of a test is cut; agents send a row a minute at most."""
_ROWS_AT_ONCE: Final = 500
_HEADERS: Final = 52
_EPHEMERAL: Final = 40_000
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
_MEASURED: Final = {"content": "octets", "flows": "flows", "octets_in": "received"}
_HOST: Final = "policy-test"
_INVENTED: Final = "invented-store"


@dataclass(frozen=True)
class Trial:
    """What one test gave."""

    pack: str
    rule: Rule
    case: RuleCase
    findings: tuple[Finding, ...]
    refusal: str = ""
    """Where nothing was found, words key of why: store_not_read, other_initiator, not_in_sets, below, no_further_fact."""
    largest_octets: int = 0
    """Largest sum of what the rule counts, of one store and receiver in its window, about: to a bucket."""

    @property
    def severity(self) -> Severity | None:
        """The highest that was found."""
        return max((f.severity for f in self.findings), default=None)

    @property
    def passed(self) -> bool:
        """Whether it is what the test expects."""
        expected, found = self.case.expect, self.severity
        if expected == "none" or found is None:
            return expected == "none" and found is None
        return expected in ("finding", found.name.lower())


def trials(rules: Sequence[tuple[str, Rule]], policy: Policy, ownership: Ownership | None) -> Iterator[Trial]:
    """Run every test of the rules, each with the rule alone. ``policy``: whose stores, sets and overrides they may name."""
    for pack, rule in rules:
        for case in rule.tests:
            yield _Bench(pack, rule, case, policy, ownership).run()


@dataclass(frozen=True)
class Sent:
    """One row of a test's line."""

    line: int
    start_ns: int
    end_ns: int
    octets: int
    received: int = 0
    flows: int = 0


@dataclass(frozen=True)
class Scene:
    """Lines of what is sent, with the stores that send them and an address for each receiver."""

    given: Sequence[Given]
    stores: Sequence[str]
    """Of each line."""
    ends: Mapping[Receiver, Any]
    overrides: Mapping[Any, Override]
    """What lines say beyond what the table of owners may know, by address."""
    ownership: Ownership | None
    tenant: str
    host: str = _HOST

    @classmethod
    def of(
        cls,
        given: Sequence[Given],
        stores: Sequence[str],
        policy: Policy,
        ownership: Ownership | None,
        host: str = _HOST,
    ) -> Scene:
        """With documentation addresses for receivers that name none."""
        ends = _addresses([g.to for g in given], policy)
        overrides = {ends[g.to]: o for g in given if (o := _override(g.to, ends[g.to]))}
        return cls(given, stores, ends, overrides, ownership, policy.tenant, host)

    def batch(self, rows: Sequence[Sent]) -> FlowBatch:
        """The rows as enrichers would have left them; ``line`` of each is a place in ``given``."""
        given = [self.given[row.line] for row in rows]
        facts = {g.to: self._fact(g.to) for g in given}
        content = np.array([row.octets for row in rows], np.int64)
        n = len(rows)
        texts: dict[str, list[str | None]] = {
            "initiator": [g.initiator for g in given],
            "store": [self.stores[row.line] for row in rows],
            "remote_scope": ["external"] * n,
            "basis": [g.basis for g in given],
            "tenant": [self.tenant] * n,
            "vantage": [f"test:{self.host}"] * n,
            "remote_country": [g.to.country for g in given],
            "location_confidence": ["high" if g.to.country else None for g in given],
        }
        texts |= {name: [facts[g.to][name] for g in given] for name in _OWNER_COLUMNS}
        data: dict[str, Any] = {
            "local_address": np.repeat(address.parse(["192.0.2.1"]), n, axis=0),
            "remote_address": np.vstack([address.parse([str(self.ends[g.to])]) for g in given]),
            "local_port": np.array([_ports(g)[0] for g in given], np.int64),
            "remote_port": np.array([_ports(g)[1] for g in given], np.int64),
            "protocol": np.array([_PROTOCOLS[g.service.partition("/")[0]] for g in given], np.int64),
            "flows": np.array([row.flows for row in rows], np.int64),
            "octets_out": content + _HEADERS,
            "packets_out": np.ones(n, np.int64),
            "octets_in": np.array([row.received or _HEADERS for row in rows], np.int64),
            "packets_in": np.ones(n, np.int64),
            "content_octets_out": content,
            "start_ns": np.array([row.start_ns for row in rows], np.int64),
            "end_ns": np.array([row.end_ns for row in rows], np.int64),
            "remote_asn": np.array([-1 if g.to.asn is None else g.to.asn for g in given], np.int64),
            "marks": np.array([int(Mark.ESTIMATED) if g.estimated else 0 for g in given], np.int64),
        }
        header = BatchHeader(agent_id=self.host, host=self.host)
        return FlowBatch.build(n, data | {name: Text.of(values) for name, values in texts.items()}, header)

    def _fact(self, to: Receiver) -> dict[str, str | None]:
        """What the enrichers would have written of this end."""
        override = self.overrides.get(self.ends[to])
        if self.ownership is None:
            found = (to.as_org, to.provider, to.owner, to.owner_country)
        else:
            fact = self.ownership.fact(
                asn=to.asn,
                as_org=to.as_org,
                provider=to.provider,
                owner=to.owner,
                today=BEGINS.date(),
                override=override,
            )
            found = (
                to.as_org or fact.organisation,
                fact.provider,
                fact.owner_id or fact.owner,
                fact.owner_country,
            )
        values = [value or None for value in found]
        return dict(zip(_OWNER_COLUMNS, [*values, "high" if values[-1] else None], strict=True))


class _Bench:
    """One rule and one test."""

    def __init__(
        self, pack: str, rule: Rule, case: RuleCase, policy: Policy, ownership: Ownership | None
    ) -> None:
        self._pack, self._rule, self._case = pack, rule, case
        self._ownership = ownership
        self._given = case.given
        invented = [_invented(i, g, rule) for i, g in enumerate(case.given)]
        self._stores = [
            s.id if s else g.store or rule.stores[0] for s, g in zip(invented, case.given, strict=True)
        ]
        known = {s.id: s for s in invented if s}
        self._scene = Scene.of(case.given, self._stores, policy, ownership)
        sets = {d.id: d for p in policy.packs for d in p.destinations} | {
            d.id: d for d in policy.destinations
        }
        self._policy = policy.model_copy(
            update={
                "stores": (*policy.stores, *known.values()),
                "destinations": tuple(sets.values()),
                "rules": ((pack, rule.model_copy(update={"enabled": True, "tests": ()})),),
                "overrides": (*policy.overrides, *self._scene.overrides.values()),
            }
        )

    def run(self) -> Trial:
        detector = Detector(self._policy, self._ownership, host=_HOST, replay=True)
        findings: dict[str, Finding] = {}
        rows = sorted(
            (row for line, given in enumerate(self._given) for row in pieces(line, given)),
            key=lambda row: (row.end_ns, row.line),
        )
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[begin : begin + _ROWS_AT_ONCE]
            decision = detector.take(self._scene.batch(part), part[-1].end_ns)
            findings |= {f.id: f for f in decision.findings}
        findings |= {f.id: f for f in detector.finish().findings}
        largest = self._largest(rows, detector.watches[0].window.span_ns)
        refusal = "" if findings else self._refusal(largest)
        return Trial(self._pack, self._rule, self._case, tuple(findings.values()), refusal, largest)

    def _largest(self, rows: Sequence[Sent], span_ns: int) -> int:
        """Largest sum of a store and a receiver in a window, to about a bucket."""
        by_pair: dict[tuple[str, Any], list[Sent]] = {}
        for row in rows:
            by_pair.setdefault(
                (self._stores[row.line], self._scene.ends[self._given[row.line].to]), []
            ).append(row)
        largest, measured = 0, _MEASURED[self._rule.measure]
        for of_pair in by_pair.values():
            total, begin = 0, 0
            for row in of_pair:
                total += getattr(row, measured)
                while of_pair[begin].end_ns <= row.end_ns - span_ns:
                    total -= getattr(of_pair[begin], measured)
                    begin += 1
                largest = max(largest, total)
        return largest

    def _refusal(self, largest: int) -> str:
        rule = self._rule
        read = [
            g
            for g, store in zip(self._given, self._stores, strict=True)
            if self._policy.reads(rule, store, g.basis)
        ]
        if not read:
            return "store_not_read"
        if rule.initiator != "any" and all(g.initiator != rule.initiator for g in read):
            return "other_initiator"
        if largest <= rule.over:
            return "below"
        if rule.destinations or rule.except_destinations:
            bare = rule.model_copy(
                update={"destinations": (), "except_destinations": (), "tests": (self._case,)}
            )
            if _Bench(self._pack, bare, self._case, self._policy, self._ownership).run().findings:
                return "not_in_sets"
        return "no_further_fact"


_OWNER_COLUMNS: Final = (
    "remote_as_org",
    "remote_provider",
    "remote_owner",
    "remote_owner_country",
    "owner_confidence",
)


def pieces(line: int, given: Given, begins_ns: int = _BEGINS_NS) -> Iterator[Sent]:
    """The rows that agents would make of it: of a minute each, or longer ones where they were too many."""
    count = max(1, min(_MOST_PIECES, given.lasts // MINUTE_NS))
    begin = begins_ns + given.at
    for i in range(count):
        start, end = (begin + given.lasts * k // count for k in (i, i + 1))
        octets, received = (
            total * (i + 1) // count - total * i // count for total in (given.sends, given.receives)
        )
        flows = -(-given.flows * (i + 1) // count) + (
            -given.flows * i // count
        )  # one flow begins at the beginning
        yield Sent(line, start, end, octets, received, flows)


def _ports(given: Given) -> tuple[int, int]:
    """Local and remote port: the service stands at the end that accepted."""
    port = int(given.service.partition("/")[2])
    return (_EPHEMERAL, port) if given.initiator == "local" else (port, _EPHEMERAL)


def _invented(index: int, given: Given, rule: Rule) -> Store | None:
    """A store that holds what the test says, where it names none of the register."""
    if given.store or (rule.stores and not given.holds):
        return None
    holds = given.holds or rule.categories[:1] or (Category.BUSINESS_CRITICAL,)
    name = "-".join([_INVENTED, *sorted(holds)])[:63].replace("_", ".")
    return Store(id=name, categories=holds, recognise=Recognition(hosts=(f"{name}.invalid",)))


def _addresses(receivers: Sequence[Receiver], policy: Policy) -> dict[Receiver, Any]:
    """An address of each receiver: its own, or one of documentation that no override speaks of."""
    taken = [o.network for o in policy.overrides]
    free = (a for a in ip_network("2001:db8:7e57::/112").hosts() if not any(a in n for n in taken))
    found: dict[Receiver, Any] = {}
    for receiver in receivers:
        if receiver not in found:
            found[receiver] = receiver.address or next(free, ip_address("2001:db8:7e57::1"))
    return found


def _override(to: Receiver, end: Any) -> Override | None:
    """What the test says beyond what the table may know."""
    if to.owner is None and to.owner_country is None and to.organised_in is None:
        return None
    return Override(
        network=ip_network(end),
        country=to.country,
        asn=to.asn,
        as_org=to.as_org,
        provider=to.provider,
        owner=to.owner,
        owner_country=to.owner_country,
        organised_in=to.organised_in,
        source="policy test",
        checked=date(2026, 1, 15),
    )
