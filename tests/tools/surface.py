"""What the real detector finds of a tactic: one run, and the smallest total that it finds nine times in ten."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from agent.core.finding import Case, Finding
from agent.detection.detector import Detector
from agent.policy.load import load
from agent.policy.model import Policy
from enrichers.asset import Asset
from tests.tools import tactics
from tests.tools.tactics import BACKGROUNDS, DB, GB, MB, TACTICS, Plan, Rows

TOTALS: Final = (100 * MB, 200 * MB, 500 * MB, GB, 2 * GB, 5 * GB, 10 * GB, 20 * GB, 50 * GB, 100 * GB)
SURE: Final = 0.9
_STORES = "".join(
    f"""
  - id: store-{n}
    categories: [personal_health]
    entity: hospital
    recognise: {{addresses: [{one}]}}"""
    for n, one in enumerate(tactics.OTHERS)
)
POLICY: Final = f"""version: 1
tenant: example
sites:
  - {{id: site, networks: [10.20.0.0/16, "2001:db8:1::/48"]}}
entities:
  - {{id: hospital, name: Example Hospital}}
stores:
  - id: ehr
    categories: [personal_health]
    entity: hospital
    recognise: {{addresses: [{DB}, "{tactics.VICTIM}"]}}
  - id: ehr-copy
    categories: [personal_health]
    copy_of: ehr
    recognise: {{addresses: [{tactics.COPY}]}}
  - id: web
    categories: [business_critical]
    public_service: true
    recognise: {{addresses: [{tactics.WEB}]}}{_STORES}
forwarders:
  - {{id: web-proxy, role: proxy, recognise: {{addresses: [{tactics.PROXY}]}}}}
approvals:
  - id: partner
    stores: [ehr]
    destination: {{asns: [64512]}}
    basis: contract
    approver: A. Example
    cap: 1 GB
    valid_from: 2025-01-01
    valid_to: 2027-01-01
rules:
  - id: restricted-year
    title: To a restricted owner over a year
    destinations: [restricted-owners]
    over: 500 MB
    window: 12mo
    severity: high
  - id: restricted-together
    title: Several stores of one legal entity to a restricted owner
    destinations: [restricted-owners]
    over: 100 MB
    window: 24h
    group_by: legal_entity
    severity: high
"""


@functools.cache
def policy() -> Policy:
    """The pack that is awake out of the box, with two rules over longer times and over several stores."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        path.write_text(POLICY, encoding="utf-8")
        return load([path], today=date(2025, 11, 21))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found."""

    findings: tuple[Finding, ...]
    cases: tuple[Case, ...]

    def has(self, entities: Sequence[str]) -> bool:
        """Whether people were told of one of these destinations."""
        return any(case.destination.entity in entities for case in self.cases)


def run(rows: Rows) -> Outcome:
    """The real detector over these rows, stores told by the real enricher."""
    detector = Detector(policy(), None, replay=True)
    enricher = Asset(policy(), "fleet")
    findings: dict[str, Finding] = {}
    cases: dict[str, Case] = {}
    batch = rows.batch()
    said = [detector.take(enricher.enrich(part), int(part["end_ns"].max())) for part in tactics.pieces(batch)]
    for decision in (*said, detector.finish()):
        findings |= {f.id: f for f in decision.findings}
        cases |= {c.id: c for c in decision.cases}
    return Outcome(tuple(findings.values()), tuple(cases.values()))


ENTITIES: Final[Mapping[tactics.Tactic, tuple[str, ...]]] = {
    tactics.neutral_cloud: ("as:64510",),
    tactics.hidden: ("as:64511",),
    tactics.maintenance: ("as:64511",),
    tactics.exemption: ("as:64512",),
}
_OWNER = ("owner:example-holdings",)


def is_found(tactic: str, background: str, plan: Plan) -> bool:
    """Whether a transfer by this tactic in this background is told of."""
    rows = Rows()
    BACKGROUNDS[background](rows, plan)
    TACTICS[tactic](rows, plan)
    return run(rows).has(ENTITIES.get(TACTICS[tactic], _OWNER))


def smallest(
    tactic: str, background: str, plan: Plan, seeds: Sequence[int], totals: Sequence[int] = TOTALS
) -> int:
    """The smallest of the totals that is found in nine of ten runs; 0 where none is. What is found of one total is taken
    to be found of more."""
    low, high = 0, len(totals)
    while low < high:  # one run of each finds the neighbourhood
        middle = (low + high) // 2
        if is_found(tactic, background, replace(plan, total=totals[middle], seed=seeds[0])):
            high = middle
        else:
            low = middle + 1
    for total in totals[low:]:
        if _is_sure(tactic, background, replace(plan, total=total), seeds):
            return total
    return 0


def _is_sure(tactic: str, background: str, plan: Plan, seeds: Sequence[int]) -> bool:
    allowed = int(len(seeds) * (1 - SURE))
    missed = 0
    for seed in seeds:
        missed += not is_found(tactic, background, replace(plan, seed=seed))
        if missed > allowed:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Judged:
    """Relayed transfers that were planted or not, and what was told."""

    planted: int
    found: int
    told_rightly: int
    told: int

    @property
    def recall(self) -> float:
        """Part of the planted ones that were told."""
        return self.found / self.planted if self.planted else 0.0

    @property
    def precision(self) -> float:
        """Part of the relays told as matched that were planted ones."""
        return self.told_rightly / self.told if self.told else 0.0


def judge_relays(seed: int, runs: int) -> Judged:
    """Every other run has a relayed transfer of 200 MB to 100 GB by some way; all have ordinary life of some kind, and a host
    that takes from the store and sends the owner something of its own, of any volume."""
    chance = np.random.default_rng(seed)
    ways = (tactics.relayed, tactics.relayed_later, tactics.relayed_amid, tactics.staging, tactics.ssh_jump)
    planted = found = rightly = told = 0
    for number in range(runs):
        total = int(10 ** chance.uniform(np.log10(200 * MB), 11))
        plan = Plan(
            total, int(chance.integers(1, 4)), 1, int(chance.integers(1, 4)), int(chance.integers(2**31))
        )
        rows = Rows()
        list(BACKGROUNDS.values())[int(chance.integers(3))](rows, plan)
        tactics.own_upload(rows, plan)
        if is_planted := number % 2 == 0:
            ways[int(chance.integers(len(ways)))](rows, plan)
        outcome = run(rows)
        matched = [r for c in outcome.cases for r in c.traffic.relays if r.matched_octets > 50 * MB]
        ours = [r for r in matched if is_planted and set(r.hosts) <= set(tactics.STAGING[:4])]
        planted += is_planted
        found += bool(ours) and is_planted
        rightly += len(ours)
        told += len(matched)
    return Judged(planted, found, rightly, told)
