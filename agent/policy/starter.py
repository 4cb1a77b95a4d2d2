"""A first policy for a host, from what listens on it: what ``sekisho init`` writes for a person to correct."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STORE_PORTS: Mapping[int, str] = {
    445: "SMB file server",
    1433: "SQL Server",
    1521: "Oracle Database",
    2049: "NFS file server",
    3306: "MySQL or MariaDB",
    5432: "PostgreSQL",
    5984: "CouchDB",
    6379: "Redis",
    9042: "Cassandra",
    9200: "Elasticsearch or OpenSearch",
    11112: "DICOM archive",
    27017: "MongoDB",
    50000: "Db2",
}
"""Ports on which data stores commonly listen (IANA service names, and makers' documentation)."""

_PROCESSES: Mapping[str, str] = {
    "postgres": "PostgreSQL",
    "mysqld": "MySQL",
    "mariadbd": "MariaDB",
    "mongod": "MongoDB",
    "redis-server": "Redis",
    "smbd": "SMB file server",
    "minio": "MinIO",
    "clickhouse-serv": "ClickHouse",
    "sqlservr": "SQL Server",
    "Orthanc": "DICOM archive",
}


@dataclass(frozen=True, slots=True)
class Listening:
    """A port on which something of this host accepts connections. Empty text: not known."""

    port: int
    process: str = ""
    executable: str = ""
    unit: str = ""
    guess: str = ""
    """What kind of data store it may be, such as ``PostgreSQL``; empty: probably none."""


_RUNS_OTHERS = re.compile(
    r"/(?:java|python[\d.]*|node|ruby|perl|php[\d.]*|dotnet|mono|beam\.smp|docker-proxy|systemd)$"
)
"""Executables that say nothing of what they run."""


def guess(port: int, process: str = "", executable: str = "") -> str:
    """What kind of data store listens there, by its process name or executable, else by its port; empty if none."""
    by_name = _PROCESSES.get(process) or _PROCESSES.get(executable.rpartition("/")[2][:15])
    return by_name or STORE_PORTS.get(port, "")


_HEAD = """\
# What sekisho watches on this host. Made by `sekisho init`; yours to correct.
# Check it with `sekisho policy check`. Every key is explained in docs/policy.md.
version: 1

# Your own networks. An address in one of them is never a destination. Add your other sites, public ones too.
sites: []
#  - id: main
#    networks: [192.0.2.0/24, "2001:db8::/32"]

# Places where sensitive data rests. Everything that leaves the host of a store counts for it.
"""

_TAIL = """
# The rules that are awake without a word from you: over 1 GB in 24 h from a store to one external receiver that is
# new or takes most of it; over 100 MB in 24 h to an owner on the list `restricted-owners`. Change one by its id:
# rules:
#   - id: bulk-external
#     over: 5 GB
#   - id: bulk-restricted-owner
#     enabled: false
"""


def starter(facts: Sequence[Listening]) -> str:
    """Commented YAML of a policy for this host. What looks like a data store is active, the rest is a comment."""
    stores: dict[str, list[Listening]] = {}
    others: dict[int, Listening] = {}
    for fact in sorted(set(facts), key=lambda f: (f.port, f.process)):
        if fact.guess:
            group = stores.setdefault(f"{fact.guess}\0{fact.unit or fact.process}", [])
            if fact.port not in {f.port for each in stores.values() for f in each}:
                group.append(fact)
        else:
            others.setdefault(fact.port, fact)
    out = [_HEAD]
    found = [group for group in stores.values() if group]
    out.append("stores:\n" if found else "stores: []\n")
    ids: set[str] = set()
    for group in found:
        shared = {
            n
            for other in found
            if other is not group
            for f in other
            for n in (f.process, f.unit, f.executable)
        }
        out.append(_store(group, ids, shared))
    if not found:
        out.append(_EXAMPLE)
    if others:
        out.append("\n# Also listening, and not taken for a data store:\n")
        out.extend(f"#   port {f.port}{_by(f)}\n" for f in others.values())
    out.append(_TAIL)
    return "".join(out)


_EXAMPLE = """\
# Nothing that listens here looks like a data store. If one is here all the same:
#  - id: patient-records
#    name: Patient records
#    categories: [personal_health]
#    recognise:
#      hosts: [this]
#      ports: [5432]
"""


def _store(group: Sequence[Listening], ids: set[str], shared: set[str]) -> str:
    first = group[0]
    slug = re.sub(r"[^a-z0-9]+", "-", first.guess.lower()).strip("-")[:40] or "store"
    name = slug if slug not in ids else f"{slug}-{first.port}"
    ids.add(name)
    recognise = ["      hosts: [this]", f"      ports: [{', '.join(str(f.port) for f in group)}]"]
    for key, attribute in (("processes", "process"), ("executables", "executable"), ("units", "unit")):
        values = sorted({getattr(f, attribute) for f in group} - shared - {""})
        if key == "executables":
            values = [v for v in values if v.startswith("/") and not _RUNS_OTHERS.search(v)]
        if values:
            recognise.append(f"      {key}: [{', '.join(map(_quoted, values))}]")
    return "\n".join(
        [
            f"  - id: {name}",
            f"    name: {_quoted(first.guess)}",
            "    # What it holds: personal_health, personal_financial, human_genomic, biometric, covered_identifiers,",
            "    # precise_geolocation, trade_secret, controlled_technology, ci_operational, ... (docs/policy.md)",
            "    categories: [business_critical]",
            "    recognise:",
            *recognise,
            "    # contact: whom to ring",
            "",
        ]
    )


def _by(fact: Listening) -> str:
    known = ", ".join(_plain(t) for t in (fact.process, fact.executable, fact.unit) if t)
    return f" ({known})" if known else ""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_plain(escaped)}"'


def _plain(text: str) -> str:
    """Text of the process table without control characters: a name may hold a line break."""
    return "".join(c if c.isprintable() else "?" for c in text)
