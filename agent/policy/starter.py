"""A first policy for a host, from what listens on it: what ``sekisho init`` writes for a person to correct."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, count

from agent.policy.servers import Listening

_RUNS_OTHERS = re.compile(
    r"/(?:java|python[\d.]*|node|ruby|perl|php[\d.]*|dotnet|mono|beam\.smp|docker-proxy|systemd)$"
)
"""Executables that say nothing of what they run."""


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
    found, others = grouped(facts)
    out = [_HEAD]
    out.append("stores:\n" if found else "stores: []\n")
    ids: set[str] = set()
    out.extend(_store(group, found, ids) for group in found)
    if not found:
        out.append(_EXAMPLE)
    out.extend(_rest(others))
    out.append(_TAIL)
    return "".join(out)


def suggestion(facts: Sequence[Listening], host: str, taken: Collection[str] = ()) -> str:
    """YAML of stores for the register, to be pasted there: ``TODO`` stands where a person must say something, and
    `sekisho policy check` refuses it until somebody has. ``taken``: ids that are in use."""
    found, others = grouped(facts)
    out = [
        f"# Proposed by `sekisho assets suggest` on {_plain(host)}, from what listens there. Say what each holds.\n"
    ]
    out.append("stores:\n" if found else "stores: []\n")
    ids = set(taken)
    out.extend(_store(group, found, ids, host=host) for group in found)
    out.extend(_rest(others))
    return "".join(out)


def expected(hosts: Mapping[str, str]) -> str:
    """YAML of hosts that are to be heard: name -> where it is known from (kubernetes, libvirt)."""
    if not hosts:
        return "expected_hosts: []\n"
    lines = [f"  - {{host: {_quoted(host)}, source: {source}}}\n" for host, source in hosts.items()]
    head = '# Proposed by `sekisho assets hosts`. To one that has no agent add why: no_agent: "appliance"\n'
    return "".join([head, "expected_hosts:\n", *lines])


def grouped(facts: Sequence[Listening]) -> tuple[list[list[Listening]], list[Listening]]:
    """What looks like a data store, one list per store; and the rest, by port."""
    stores: dict[str, list[Listening]] = {}
    others: dict[int, Listening] = {}
    seen: set[tuple[int, str]] = set()
    for fact in sorted(set(facts), key=lambda f: (f.port, f.process)):
        place = fact.container or fact.pod
        if not fact.guess:
            others.setdefault(fact.port, fact)
        else:
            group = stores.setdefault(f"{fact.guess}\0{fact.unit or fact.process}\0{place}", [])
            if (fact.port, place) not in seen:
                seen.add((fact.port, place))
                group.append(fact)
    return [group for group in stores.values() if group], list(others.values())


def _rest(others: Sequence[Listening]) -> Iterator[str]:
    if others:
        yield "\n# Also listening, and not taken for a data store:\n"
        yield from (f"#   port {f.port}{_by(f)}\n" for f in others)


_EXAMPLE = """\
# Nothing that listens here looks like a data store. If one is here all the same:
#  - id: patient-records
#    name: Patient records
#    categories: [personal_health]
#    recognise:
#      hosts: [this]
#      ports: [5432]
"""


def _store(
    group: Sequence[Listening], groups: Sequence[Sequence[Listening]], ids: set[str], host: str = ""
) -> str:
    """One store's entry. With ``host`` it is for the register of all hosts, and says ``TODO``; else for this host."""
    first = group[0]
    slug = re.sub(r"[^a-z0-9]+", "-", first.guess.lower()).strip("-")[:40] or "store"
    if host:
        slug = f"{slug}-{re.sub(r'[^a-z0-9]+', '-', host.partition('.')[0].lower()).strip('-')[:20]}".strip(
            "-"
        )
    names = chain((slug, f"{slug}-{first.port}"), (f"{slug}-{number}" for number in count(2)))
    name = next(n for n in names if n not in ids)
    ids.add(name)
    recognise = "\n".join(f"      {key}: [{values}]" for key, values in _recognised(group, groups, host))
    title = _quoted(f"{first.guess}{f' on {host}' if host else ''}")
    if not host:
        what = (
            "    # What it holds: personal_health, personal_financial, human_genomic, biometric, covered_identifiers,\n"
            "    # precise_geolocation, trade_secret, controlled_technology, ci_operational, ... (docs/policy.md)\n"
            "    categories: [business_critical]\n"
        )
        return f"  - id: {name}\n    name: {title}\n{what}    recognise:\n{recognise}\n    # contact: whom to ring\n"
    rests = f"told by its {first.by}" if first.by else "told by nothing but its port"
    lines = (
        f"  # {_plain(first.guess)}, {rests}{', which many other programs use' if first.by == 'port' else ''}",
        f"  - id: {name}",
        f"    name: {title}",
        "    categories: [TODO]   # what it holds: personal_health, trade_secret, ... (docs/policy.md)",
        "    contact: TODO        # whom to ring",
        "    # entity: TODO       # the legal entity that answers for it, an id of `entities`",
        "    # subjects: TODO     # persons whose data it holds, with `subjects_by` and `subjects_on`",
        "    # copy_of: TODO      # where it is a backup, a replica or a test clone: the original's id",
        "    recognise:",
        recognise,
        "",
    )
    return "\n".join(lines)


def _recognised(
    group: Sequence[Listening], groups: Sequence[Sequence[Listening]], host: str
) -> Iterator[tuple[str, str]]:
    """Lines that tell the store; what other stores found here have too tells nothing."""
    first = group[0]
    if first.pod:
        yield "pods", _quoted(first.pod)
    else:
        yield "hosts", _quoted(host) if host else "this"
    yield "ports", ", ".join(str(f.port) for f in group)
    others = [f for other in groups if other is not group for f in other]
    for key, attribute in (("processes", "process"), ("executables", "executable"), ("units", "unit")):
        shared = {getattr(f, attribute) for f in others}
        values = sorted({getattr(f, attribute) for f in group} - shared - {""})
        if key == "executables":
            values = [v for v in values if v.startswith("/") and not _RUNS_OTHERS.search(v)]
        if key == "units":
            values = [v for v in values if v.endswith((".service", ".scope")) and not re.search(r"[/\s]", v)]
        if values:
            yield key, ", ".join(map(_quoted, values))
    if first.container and not first.pod:
        yield "containers", _quoted(first.container)


def _by(fact: Listening) -> str:
    known = ", ".join(_plain(t) for t in (fact.process, fact.executable, fact.unit) if t)
    return f" ({known})" if known else ""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_plain(escaped)}"'


def _plain(text: str) -> str:
    """Text of the process table without control characters: a name may hold a line break."""
    return "".join(c if c.isprintable() else "?" for c in text)
