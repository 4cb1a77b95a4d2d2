"""Ordinary life of a data centre: 50 stores of 20 kinds, and the traps that look bad and are not.

Rows are as agents send them, a minute at most each; whose store a row is says the real enricher, who is at the other end
the real table of owners. Everything follows from the seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from agent.core import address
from agent.core.clock import DAY_NS, HOUR_NS, SECOND_NS
from agent.core.finding import Severity
from agent.core.flow import BatchHeader, FlowBatch, Text
from agent.policy.load import load
from agent.policy.model import Policy
from agent.policy.ownership import Ownership
from agent.rehearsal.backtest import Side
from enrichers.asset import Asset

BEGIN = date(2026, 11, 1)
BEGIN_NS = int(datetime(BEGIN.year, BEGIN.month, BEGIN.day, tzinfo=UTC).timestamp()) * SECOND_NS
KB, MB, GB = 10**3, 10**6, 10**9
KINDS = (
    "postgresql", "mysql", "oracle", "mssql", "mongodb", "redis", "elasticsearch", "minio", "nfs", "smb",
    "pacs", "hl7", "lims", "analyser", "erp", "hr", "mail", "git", "portal", "warehouse",
)  # fmt: skip
CATEGORIES = {
    "lims": "human_genomic",
    "hr": "personal_financial",
    "erp": "business_critical",
    "git": "trade_secret",
}


@dataclass(frozen=True)
class End:
    """Another end: its AS says who owns it, as the table has it."""

    asn: int
    address: str
    country: str = "US"
    name: str = ""
    twin: str = ""
    """Its IPv6 address, used as often."""


ENDS = {
    "objects": End(64496, "203.0.113.1", "JP", "Example Objects"),
    "recovery": End(64497, "203.0.113.2", "JP", "Example Recovery"),
    "radiology": End(64498, "203.0.113.3", "JP", "Example Radiology", twin="2001:db8::3"),
    "laboratory": End(64499, "203.0.113.4", "US", "Example Laboratory"),
    "claims": End(64500, "203.0.113.5", "JP", "Example Claims"),
    "logs": End(64501, "203.0.113.6", "US", "Example Logs", twin="2001:db8::6"),
    "logs-moved": End(64502, "203.0.113.6", "US", "Example Logs Two"),
    "mirror": End(64503, "203.0.113.7", "CN", "Example Mirror"),
    "speed": End(64504, "203.0.113.8", "DE", "Example Speed"),
    "partner": End(64505, "203.0.113.9", "JP", "Example Partner", twin="2001:db8::9"),
    "visitors": End(64506, "203.0.113.10", "CN", "Example Visitors"),
    "maker": End(45090, "203.0.113.11", "CN", "maker of a scanner"),
    "resolver": End(37963, "203.0.113.12", "CN", "public resolver"),
    "cdn": End(139341, "203.0.113.13", "SG", "CDN of a listed group"),
    "office": End(64507, "198.51.100.9", "CN", "own office"),
    "inside": End(-1, "10.9.0.1", "", ""),
    "phones": End(45090, "203.0.113.14", "CN", "chat service"),
}
RESTRICTED = ("maker", "resolver", "cdn", "phones")
"""Ends whose owner is on the list that the shipped rules name."""


@dataclass(frozen=True)
class Sent:
    """One transfer of a day."""

    trap: str
    host: str
    to: str
    begin_s: float
    lasts_s: float
    out: float
    inn: float = 0.0
    flows: int = 1
    initiator: str = "local"
    port: int = 443
    process: str = "app"
    waste: float = 1.0
    """Octets at the IP layer per octet of content: retransmissions."""


@dataclass
class Life:
    """Who lives here, and what each day brings."""

    seed: int
    stores: int = 50
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.kinds = [KINDS[n % len(KINDS)] for n in range(self.stores)]
        self.hosts = [f"{kind}-{n:02}" for n, kind in enumerate(self.kinds)]
        self.size = self.rng.lognormal(0, 0.6, self.stores)
        """How busy each is, beside others of its kind."""

    def policy(self, folder: Path, *, approvals: bool) -> Policy:
        """The register, with own sites, and what people have agreed to."""
        lines = [
            "sites:",
            "  - {id: main, networks: [10.0.0.0/8]}",
            "  - {id: office, networks: [198.51.100.0/24]}",
            "stores:",
        ]
        for host, kind in zip(self.hosts, self.kinds, strict=True):
            public = ", public_service: true" if kind == "portal" else ""
            category = CATEGORIES.get(kind, "personal_health")
            lines.append(
                f"  - {{id: {host}, categories: [{category}]{public}, recognise: {{hosts: [{host}]}}}}"
            )
        if approvals:
            lines += ["approvals:", *(_approval(*a, self.hosts) for a in AGREED)]
        file = folder / f"policy-{approvals}.yaml"
        file.write_text("\n".join(lines) + "\n")
        return load([file], today=BEGIN)

    def day(self, number: int) -> list[Sent]:
        """All transfers of a day, the traps among them."""
        found: list[Sent] = []
        for n, (host, kind) in enumerate(zip(self.hosts, self.kinds, strict=True)):
            found += self._store(number, n, host, kind)
        for _ in range(20):  # guests' phones and staff behind the same NAT: no store
            found.append(
                self._at("phones without a store", "wifi-gw", "phones", 8, 14, 600, 300 * MB, 2 * GB)
            )
        return found

    def _at(
        self, trap: str, host: str, to: str, hour: float, span_h: float, lasts_s: float, out: float,
        inn: float = 0.0, spread: float = 0.3, **more: Any,
    ) -> Sent:  # fmt: skip
        begin = (hour + span_h * self.rng.random()) * 3600
        lasts = min(lasts_s * float(self.rng.lognormal(0, 0.2)), 86_399 - begin)
        amounts = [a * float(self.rng.lognormal(0, spread)) for a in (out, inn)]
        return Sent(trap, host, to, begin, max(1.0, lasts), *amounts, **more)

    def _store(self, number: int, n: int, host: str, kind: str) -> list[Sent]:
        size, at, weekday = float(self.size[n]), self._at, number % 7
        work = 1.0 if weekday < 5 else 0.3
        logs = "logs-moved" if number >= 15 else "logs"
        logged = (1.4 * GB if n % 5 == 0 else 120 * MB) * (3 if number >= 20 and n % 10 == 3 else 1)
        found = [
            at("internal bulk, migration, replication", host, "inside", 0, 20, 3600, 20 * GB * size, 5 * GB),
            at("internal readers and scanners", host, "inside", 9, 2, 1800, 3 * GB, port=5432, initiator="remote"),
            at("backup", host, "objects", 1, 2, 5400, (6 if weekday else 30) * GB * size, process="restic", spread=0.15),
            at("log shipper; its network moves, its amount triples", host, logs, 0, 0.1, 86_000, logged),
            at("mirrors and updates", host, "mirror", 3, 3, 300, 2 * MB, 900 * MB),
            at("public resolver", host, "resolver", 0, 1, 80_000, 1.5 * MB, 3 * MB, flows=4000, port=53),
            at("scans and floods", host, "visitors", 0, 20, 3000, 0, 0, flows=20_000, initiator="remote"),
        ]  # fmt: skip
        work_day = {"inn": 30 * MB, "flows": 40}
        found += [
            at("partners, two addresses", host, "partner", hour, 2, 900, 8 * MB * size * work, **work_day)
            for hour in range(8, 19, 2)
        ]
        found += self._of_kind(number, n, host, kind, size, work)
        if self.rng.random() < 0.02:
            found.append(at("speed test", host, "speed", 10, 8, 60, 1.2 * GB, 1.2 * GB))
        if self.rng.random() < 0.05:
            found.append(at("retransmissions", host, "partner", 10, 6, 1200, 20 * MB, waste=60.0))
        return found

    def _of_kind(self, number: int, n: int, host: str, kind: str, size: float, work: float) -> list[Sent]:
        at, found = self._at, []
        if kind in ("postgresql", "mysql", "oracle"):
            found.append(
                at(
                    "replica off site",
                    host,
                    "recovery",
                    0,
                    0.1,
                    86_000,
                    3 * GB * size * work,
                    process="replica",
                )
            )
            if number == 12 and n % 2:
                found.append(
                    at(
                        "first sync of a replica",
                        host,
                        "recovery",
                        1,
                        1,
                        20_000,
                        80 * GB * size,
                        process="replica",
                    )
                )
        if kind in ("hl7", "erp") and number < 10:
            found.append(
                at(
                    "claims, days 1 to 10",
                    host,
                    "claims",
                    9,
                    6,
                    3600,
                    700 * MB * size * (2 if number > 6 else 1),
                )
            )
        if kind == "pacs":
            found += [
                at("tele-radiology", host, "radiology", h, 1, 900, 300 * MB * size * work)
                for h in range(8, 19)
            ]
            found.append(at("maintenance by the maker", host, "maker", 10, 6, 1800, 12 * MB, 60 * MB))
        if kind == "analyser":
            found.append(at("equipment calls home", host, "maker", 2, 1, 600, 3 * MB, 1 * MB))
        if kind == "lims" and number % 7 == 2:
            found.append(
                at(
                    "laboratory and genomes",
                    host,
                    "laboratory",
                    20,
                    2,
                    7000,
                    25 * GB * size,
                    process="aspera",
                )
            )
        if kind == "portal":
            found += [
                at("visitors abroad", host, to, h, 2, 6000, 400 * MB, 40 * MB, flows=900, initiator="remote")
                for h in range(0, 22, 3)
                for to in ("visitors", "phones")
            ]
            found.append(at("CDN of a listed group", host, "cdn", 0, 10, 20_000, 6 * MB, 30 * MB))
        if kind in ("mail", "git"):
            found += [
                at("mail and code", host, "partner", h, 1, 600, 25 * MB * size * work, 20 * MB)
                for h in range(8, 18)
            ]
            found.append(at("own office abroad", host, "office", 9, 2, 20_000, 4 * GB * size, 1 * GB))
        if kind == "warehouse" and number == 25:
            found.append(at("migration weekend", host, "recovery", 1, 2, 40_000, 200 * GB, process="replica"))
        return found


AGREED = (
    ("backup", "objects", "restic", "400 GB"),
    ("replica", "recovery", "replica", "1 TB"),
    ("radiology", "radiology", "", "60 GB"),
    ("laboratory", "laboratory", "aspera", "400 GB"),
    ("claims", "claims", "", "20 GB"),
    ("log-shipper", "logs", "", "5 GB"),
)


def _approval(name: str, to: str, process: str, cap: str, hosts: Sequence[str]) -> str:
    end = ENDS[to]
    processes = f", processes: [{process}]" if process else ""
    return (
        f"  - {{id: {name}, stores: [{', '.join(hosts)}], destination: {{asns: [{end.asn}]}}{processes}, basis: contract, "
        f"approver: A. Person, cap: {cap}, valid_from: 2026-10-01, valid_to: 2027-03-31}}"
    )


def rows(day: int, sent: Sequence[Sent], rng: np.random.Generator) -> FlowBatch:
    """The rows of a day's transfers: cut into minutes, each with its part, so that sums are exact."""
    minutes = np.array([max(1, min(1440, int(s.lasts_s // 60))) for s in sent])
    which = np.repeat(np.arange(len(sent)), minutes)
    k = np.arange(len(which)) - np.repeat(np.cumsum(minutes) - minutes, minutes)
    of = minutes[which]
    begin = (
        BEGIN_NS + day * DAY_NS + (np.array([s.begin_s for s in sent]) * SECOND_NS).astype(np.int64)[which]
    )
    lasts = (np.array([s.lasts_s for s in sent]) * SECOND_NS).astype(np.int64)[which]

    def part(total: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return total[which] * (k + 1) // of - total[which] * k // of

    content = part(np.array([int(s.out) for s in sent], np.int64))
    received = part(np.array([int(s.inn) for s in sent], np.int64))
    flows = part(np.array([s.flows for s in sent], np.int64))
    waste = np.array([s.waste for s in sent])[which]
    twin = rng.random(len(which)) < 0.5
    ends = [ENDS[s.to] for s in sent]
    plain, twins = (
        np.vstack([address.parse([text]) for text in texts])
        for texts in ([e.address for e in ends], [e.twin or e.address for e in ends])
    )
    opened = np.array([s.initiator == "local" for s in sent])[which]
    port = np.array([s.port for s in sent])[which]
    texts = {
        "initiator": [s.initiator for s in sent],
        "process": [s.process for s in sent],
        "agent_host": [s.host for s in sent],
        "remote_country": [e.country or None for e in ends],
        "remote_as_org": [e.name or None for e in ends],
        "vantage": ["ebpf:eth0"] * len(sent),
    }
    columns: dict[str, Any] = {name: Text.of(values).take(which) for name, values in texts.items()}
    columns |= {
        "local_address": np.repeat(address.parse(["10.1.0.1"]), len(which), axis=0),
        "remote_address": np.where(twin[:, None], twins[which], plain[which]),
        "local_port": np.where(opened, 40_000, port),
        "remote_port": np.where(opened, port, 40_000),
        "protocol": np.full(len(which), 6),
        "flows": flows,
        "octets_out": (content * waste).astype(np.int64) + 40 * (content // 1400 + 1),
        "packets_out": content // 1400 + 1,
        "octets_in": received + 40,
        "packets_in": received // 1400 + 1,
        "content_octets_out": content,
        "start_ns": begin + lasts * k // of,
        "end_ns": begin + lasts * (k + 1) // of,
        "remote_asn": np.array([e.asn for e in ends])[which],
    }
    return FlowBatch.build(len(which), columns, BatchHeader(agent_id="ordinary"))


@dataclass
class Lived:
    """What 30 days gave."""

    store_days: int
    rows: int
    cases: Counter[str]
    """Severity -> cases opened."""
    largest: list[tuple[str, str, str, int]]
    """(severity, rule, entity, cases), most first."""


def live(life: Life, policy: Policy, days: int) -> Lived:
    """So many days. A person closes each case in the night after it was opened, so that what comes again is another."""
    enricher = Asset(policy, "here")
    side = Side(policy, Ownership.load(), (enricher,), counts_from_ns=BEGIN_NS)
    count, closed, rng = 0, set[str](), np.random.default_rng(life.seed + 1)
    for number in range(days):
        batch = rows(number, life.day(number), rng)
        count += len(batch)
        side.gather(batch)
        side.decide()
        for case in set(side.opened) - closed:
            side.detector.case_closed(case)
            closed.add(case)
    side.finish(BEGIN_NS + days * DAY_NS + HOUR_NS)
    kinds = Counter(
        (Severity(f.severity).name.lower(), f"{f.pack}/{f.rule}", f.entity)
        for f in side.findings.values()
        if not f.approval
    )
    largest = [(*key, n) for key, n in kinds.most_common()]
    return Lived(life.stores * days, count, Counter(side.cases_by_severity()), largest)
