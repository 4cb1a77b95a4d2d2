"""How one host or the fleet stands: the account of the whole path to the octet, coverage hour by hour, what is not observed.

From what the detector keeps of its agents, or from what the program on this host wrote down last. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from agent.core.accounts import Amounts
from agent.core.clock import HOUR_NS, MINUTE_NS
from agent.core.heartbeat import of_account
from agent.covering.covering import stores_on
from agent.detection import coverage
from agent.detection.coverage import OPEN, UNBOUNDED, Hole, Holes
from agent.detection.fleet import Known
from agent.policy.model import Policy, same_host
from agent.store.coverage import Maintained, Receipt, RunKey

STRIP: Final = 24
"""Hours that are shown."""
LATE_NS: Final = 2 * MINUTE_NS
"""Data that is younger may still be on its way."""
ENDS: Final = ("residue", "sealed residue")


@dataclass(frozen=True, slots=True)
class HourSeen:
    """One hour of a host."""

    from_ns: int
    covered_s: int
    lost: int | None
    """Octets at most; None: nothing bounds them."""
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unseen:
    """A stretch of a host's time in which something was not observed."""

    from_ns: int
    to_ns: int | None
    """None: it goes on."""
    reason: str
    octets: int | None
    """Lost at most; None: nothing bounds them."""


@dataclass(frozen=True, slots=True)
class HostStanding:
    """One host."""

    host: str
    state: str
    agent_id: str = ""
    run_id: str = ""
    heard_ns: int = 0
    complete_ns: int = 0
    tier: str = ""
    version: str = ""
    clock_offset_ns: int | None = None
    account: Mapping[str, Amounts] = field(default_factory=dict)
    """Terms in the order of the path."""
    residue: Amounts = field(default_factory=Amounts)
    """What no term explains; must be 0."""
    hours: tuple[HourSeen, ...] | None = None
    """The last 24, oldest first; None where only the detector knows."""
    unseen: tuple[Unseen, ...] = ()
    troubles: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    maintained: str = ""
    """Why people work on it now; empty if none do."""
    no_agent: str = ""
    waiting_octets: int | None = None
    """Of the disk of its spool."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        table = asdict(self)
        table["account"] = {name: amounts.as_dict() for name, amounts in self.account.items()}
        table["residue"] = self.residue.as_dict()
        return table


def path_of(
    account: Mapping[str, Any],
    decided: Amounts | None,
    *,
    ended: bool,
    gap: bool,
    dead: Mapping[str, Amounts | None] | None = None,
) -> tuple[dict[str, Amounts], Amounts]:
    """The account of one run from its capture to the decision, and what it leaves unexplained.

    ``account`` is the agent's, ``decided`` what the detector committed of the run (None: only the agent is asked).
    While the run goes on, what is sealed and neither let go nor decided is on the way; once it has ended and all was
    read, that is missing: a gap if batches are known to be, else a residue. ``dead``: what was refused, by reason; None
    where nobody could read how much: then it is what is left over, unless batches are missing besides.
    """
    terms = {
        name: of_account({name: value}, name)
        for name, value in account.items()
        if isinstance(value, Mapping) and "octets_out" in value and name not in ENDS
    }
    spare = ("waiting", "decided", "acked", "spooled") if decided is not None else ()
    residue = sum((of_account({name: account.get(name, {})}, name) for name in ENDS), Amounts())
    if decided is None:
        return {name: amounts for name, amounts in terms.items() if amounts or name in _ALWAYS}, residue
    kept = {name: amounts for name, amounts in terms.items() if name not in spare}
    let_go = of_account(account, "spool dropped")
    kept["decided"] = decided
    kept |= {f"dead ({reason})": amounts or Amounts() for reason, amounts in sorted((dead or {}).items())}
    unread = [reason for reason, amounts in sorted((dead or {}).items()) if amounts is None]
    refused = sum((amounts for amounts in (dead or {}).values() if amounts), Amounts())
    left = terms.get("sealed", Amounts()) - let_go - decided - refused
    out, over = _parts(left)
    if ended:
        explained = out if gap or unread else Amounts()
        kept["gap"] = out if gap else Amounts()
        if unread and not gap:
            kept[f"dead ({unread[0]})"] = out
        residue += left - explained
    else:
        kept["on the way"] = out
        kept["newer than the heartbeat"] = over
    always = (*_ALWAYS, "decided")
    return {name: amounts for name, amounts in kept.items() if amounts or name in always}, residue


_ALWAYS: Final = ("captured", "sealed")


def _parts(left: Amounts) -> tuple[Amounts, Amounts]:
    """What is positive, and what is negative turned round."""
    values = left.as_dict()
    return (
        Amounts(**{name: max(n, 0) for name, n in values.items()}),
        Amounts(**{name: max(-n, 0) for name, n in values.items()}),
    )


def of_agents(
    agents: Iterable[Known],
    taken: Mapping[RunKey, Amounts],
    policy: Policy,
    maintained: Sequence[Maintained],
    now_ns: int,
    dead: Mapping[RunKey, Mapping[str, Amounts | None]] | None = None,
) -> list[HostStanding]:
    """Every host that was heard, or is expected, by name; ``dead``: what was refused of each run, by reason."""
    by_host: dict[str, list[Known]] = {}
    for known in agents:
        by_host.setdefault(known.host.lower(), []).append(known)
    reasons = {h.host.lower(): h.no_agent for h in policy.expected_hosts}
    for host in reasons:
        if not any(same_host(host, heard) for heard in by_host):
            by_host[host] = []
    found = [
        _host(host, members, taken, dead or {}, policy, maintained, reasons.get(host, ""), now_ns)
        for host, members in by_host.items()
    ]
    return sorted(found, key=lambda one: one.host)


def _host(
    host: str,
    members: list[Known],
    taken: Mapping[RunKey, Amounts],
    dead: Mapping[RunKey, Mapping[str, Amounts | None]],
    policy: Policy,
    maintained: Sequence[Maintained],
    no_agent: str,
    now_ns: int,
) -> HostStanding:
    working = next((m.reason for m in maintained if m.holds(host, now_ns - 1, now_ns)), "")
    if not members:
        hole = Hole(0, OPEN, "no_agent" if no_agent else "never_heard")
        stores = tuple(sorted(s.id for s in policy.index.on_host(host) if _named(s, host)))
        return HostStanding(
            host, hole.reason, hours=_hours([hole], now_ns), unseen=_unseen([hole], now_ns), stores=stores,
            maintained=working, no_agent=no_agent,
        )  # fmt: skip
    ordered = sorted(members, key=lambda known: known.heard_ns)
    last = ordered[-1]
    state = last.state
    if state == "talking" and now_ns - last.heard_ns > LATE_NS:
        state = "silent"  # the detector itself may be down, and can say nothing
    holes = [hole.hole() for known in ordered for hole in known.holes]
    tail = last.tail()
    tail = replace(tail, reason="silent") if state == "silent" else tail
    holes += [tail, Hole(0, min(k.first_ns for k in ordered), "not_heard_before")]
    ended = last.closing and last.pending is None
    gap = any(hole.reason == "gap" for hole in last.holes)
    run = (last.agent_id, last.run_id)
    decided = taken.get(run, Amounts())
    account, residue = path_of(last.newest_account, decided, ended=ended, gap=gap, dead=dead.get(run))
    return HostStanding(
        last.host,
        state,
        last.agent_id,
        last.run_id,
        last.heard_ns,
        last.complete_ns,
        last.tier,
        last.version,
        last.offset_ns if last.offsets else None,
        account,
        residue,
        _hours(holes, now_ns),
        _unseen([h for h in holes if h is not tail or now_ns - h.from_ns > LATE_NS], now_ns),
        tuple(sorted(last.troubles)),
        tuple(sorted(set().union(*(stores_on(policy, known) for known in ordered)))),
        working,
        no_agent,
        last.spool.get("octets"),
    )


def _named(store: Any, host: str) -> bool:
    return any(place != "this" and same_host(place, host) for place in store.recognise.places)


def _hours(holes: Iterable[Hole], now_ns: int) -> tuple[HourSeen, ...]:
    last = now_ns // HOUR_NS - 1
    found = coverage.hours(Holes(holes), last - STRIP + 1, last)
    return tuple(
        HourSeen(hour * HOUR_NS, covered_s, None if lost < 0 else lost, reasons)
        for hour, covered_s, lost, reasons in zip(
            found.hour.tolist(), found.covered_s.tolist(), found.lost.tolist(), found.reasons, strict=True
        )
    )


def _unseen(holes: Iterable[Hole], now_ns: int) -> tuple[Unseen, ...]:
    since_ns = (now_ns // HOUR_NS - STRIP) * HOUR_NS
    return tuple(
        Unseen(
            h.from_ns,
            None if h.to_ns == OPEN else h.to_ns,
            h.reason,
            None if h.octets == UNBOUNDED else h.octets,
        )
        for h in sorted(holes, key=lambda hole: hole.from_ns)
        if h.to_ns > max(since_ns, h.from_ns) and h.from_ns < now_ns
    )


def of_file(table: Mapping[str, Any]) -> HostStanding:
    """The host on which the program runs, by what it wrote down last."""
    account, residue = path_of(table.get("account") or {}, None, ended=False, gap=False)
    probe, spool = table.get("probe") or {}, table.get("spool") or {}
    unobserved = (table.get("account") or {}).get("unobserved") or {}
    return HostStanding(
        host=str(table.get("host", "")),
        state="ended" if table.get("ended") else "talking",
        heard_ns=int(table.get("time_ns") or 0),
        tier=str(probe.get("tier", "")),
        version=str(table.get("version", "")),
        account=account,
        residue=residue,
        unseen=tuple(
            Unseen(0, None, reason, told.get("octets_out_at_most"))
            for reason, told in sorted(unobserved.items())
            if told.get("seconds")
        ),
        troubles=() if probe.get("running", True) else ("capture_ended",),
        stores=tuple(table.get("stores") or ()),
        waiting_octets=spool.get("octets"),
    )


def of_run(table: Mapping[str, Any], known: Iterable[HostStanding]) -> HostStanding:
    """The host on which a program decides for itself: account and time by what it wrote down last, hours and what was not
    observed by what its state holds."""
    now = of_file(table)
    kept = next((one for one in known if one.agent_id and one.host.lower() == now.host.lower()), None)
    if kept is None:
        return now
    return replace(
        kept,
        host=now.host,
        state=now.state,
        heard_ns=now.heard_ns,
        account=now.account,
        residue=now.residue,
        version=now.version,
        troubles=tuple(sorted({*now.troubles, *kept.troubles})),
    )


def last_receipts(receipts: Iterable[Receipt], hosts: Iterable[HostStanding]) -> list[Receipt]:
    """The last of each rule and store that is on one of the hosts, worst first."""
    stores = {store for host in hosts for store in host.stores}
    last: dict[tuple[str, str], Receipt] = {}
    for one in receipts:
        key = (one.store, one.rule)
        if one.store in stores and (key not in last or one.last_ns > last[key].last_ns):
            last[key] = one
    return sorted(last.values(), key=lambda one: (_WORST.index(one.verdict), one.store, one.rule))


_WORST: Final = ("finding", "not_observed", "no_finding")


def summed(hosts: Sequence[HostStanding]) -> tuple[dict[str, Amounts], Amounts]:
    """The account of all of them, and their residue."""
    terms: dict[str, Amounts] = {}
    for host in hosts:
        for name, amounts in host.account.items():
            terms[name] = terms.get(name, Amounts()) + amounts
    return terms, sum((host.residue for host in hosts), Amounts())
