"""What is told of a transfer: totals, shares and addresses of a pair since a base, and the ledger's rows.

Counted per detail for every pair, from its first row on, so that a case can look back. Addresses are bounded: when
the table is full, each pair keeps those that took most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import Addresses, text_of
from agent.core.clock import DAY_NS
from agent.core.decision import LedgerRow
from agent.core.finding import Confidence, Destination, OwnerFact, Share, Traffic
from agent.core.grouping import distinct, groups
from agent.detection.admit import AMOUNTS, Step
from agent.detection.cube import PATH, SERVICE_PORTS, Cube, Placed
from agent.detection.keys import Ints, Keys, grown
from agent.detection.pack import part
from agent.detection.rules import ALL
from agent.detection.tally import NEVER_NS, Base, Tally, grouped
from agent.policy.entity import stated
from agent.policy.model import Override

MEASURES: Final = (*AMOUNTS, "late_octets", "estimated_octets")
CONTENT: Final = MEASURES.index("content_octets_out")
LATE: Final = MEASURES.index("late_octets")
SHARES_SHOWN: Final = 20
ADDRESSES: Final = 131_072
ADDRESSES_COUNTED: Final = 1_000
_LEDGER_KEYS: Final = 16_384
_LEDGER_PATH: Final = [
    PATH.index(name)
    for name in (
        "remote_asn", "remote_as_org", "remote_provider", "remote_owner", "remote_country", "initiator", "override",
    )
]  # fmt: skip
_PIECES_WAIT: Final = 256
LEDGER_WAITS: Final = 65_536
"""Sums that wait for the ledger before those of one key are joined; if that does not halve them they are given out."""
_KEPT_OF_A_PAIR: Final = (500, 100, SHARES_SHOWN, 4, 1)
UNKNOWN: Final = "?"
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmpv6", 132: "sctp"}


@dataclass(frozen=True, slots=True)
class CaseBase:
    """What a case leaves out: all that was counted before its day."""

    since_ns: int
    details: Base
    addresses: dict[tuple[int, int], int]

    def state(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "since_ns": self.since_ns,
            "day": self.details.day,
            "first_ns": self.details.first_ns,
            "totals": list(self.details.totals.items()),
            "addresses": [[high, low, octets] for (high, low), octets in self.addresses.items()],
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> CaseBase:
        """What :meth:`state` gave."""
        base = Base(state["day"], dict(state["totals"]), state["first_ns"])
        addresses = {(high, low): octets for high, low, octets in state["addresses"]}
        return cls(state["since_ns"], base, addresses)


class Facts:
    """Tallies of every pair, and ledger rows that are not given out yet."""

    def __init__(self, cube: Cube) -> None:
        self._cube = cube
        self._details = Tally(len(MEASURES))
        self._keys = Keys(3, ADDRESSES)
        self._addresses = Tally(1)
        self._distinct: Ints = np.zeros(1024, np.int64)
        self._waiting: list[tuple[Ints, Ints, Ints]] = []
        """(day, detail, sums) for the ledger."""
        self._waits = 0
        self.ledger_is_full = False
        """More waits for the ledger than memory is given to: take it, whatever the time is."""
        self._ledger_keys: dict[tuple[int, int], tuple[Any, ...]] = {}
        self._ledger_book = cube.book

    def add(self, step: Step, placed: Placed) -> None:
        """Count a step's rows."""
        if not step.rows:
            return
        content, late = step.arrays["content_octets_out"], step.late
        columns = np.stack(
            [
                *(step.arrays[name] for name in AMOUNTS),
                np.where(late, content, 0),
                content * step.arrays["estimated"],
            ]
        )
        days = step.arrays["end_ns"] // DAY_NS
        for day in distinct(days).tolist():
            rows = np.flatnonzero(days == day)
            self._add_day(step, placed, columns, rows, day)

    def _add_day(self, step: Step, placed: Placed, columns: Ints, rows: Ints, day: int) -> None:
        details = placed.detail[rows]
        ids, order, sums = grouped(details, columns[:, rows])
        groups = np.searchsorted(details[order], ids)
        first = np.minimum.reduceat(step.arrays["start_ns"][rows][order], groups)
        last = np.maximum.reduceat(step.arrays["end_ns"][rows][order], groups)
        self._details.add(ids, sums, first, last, day)
        self._wait(np.full(len(ids), day, np.int64), ids, sums)
        self._add_addresses(placed.pair[rows], step.arrays["remote"][rows], columns[CONTENT, rows], day)

    def _add_addresses(self, pairs: Ints, addresses: Addresses, content: Ints, day: int) -> None:
        if self._keys.count + len(pairs) > ADDRESSES:
            self._prune()
        remote = addresses.view(np.int64)
        known = self._keys.count
        ids = self._keys.ids([pairs, remote[:, 0], remote[:, 1]])
        self._distinct = grown(self._distinct, self._cube.pairs.count)
        np.add.at(self._distinct, self._keys.columns[0, known:], 1)
        kept = ids >= 0
        distinct, _, sums = grouped(ids[kept], content[None, kept])
        nothing = np.zeros(len(distinct), np.int64)
        self._addresses.add(distinct, sums, nothing, nothing, day)

    def _prune(self) -> None:
        for most in _KEPT_OF_A_PAIR:
            totals = grown(self._addresses.totals, self._keys.count)[0, : self._keys.count]
            pairs = self._keys.columns[0]
            order = np.lexsort((-totals, pairs))
            in_order = pairs[order]
            starts = np.r_[0, np.flatnonzero(np.diff(in_order)) + 1]
            rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
            kept = np.sort(order[rank < most])
            self._addresses.totals = grown(self._addresses.totals, self._keys.count)
            self._addresses.last_ns = grown(self._addresses.last_ns, self._keys.count)
            self._addresses.keep(kept)
            self._keys = Keys.of(np.ascontiguousarray(self._keys.columns[:, kept]), ADDRESSES)
            if len(kept) <= ADDRESSES // 2:
                return

    def move(self, pairs: Mapping[int, int]) -> None:
        """Pairs go by other numbers (old -> new): their addresses go along, where the new one has none yet."""
        column = self._keys.columns[0].copy()
        has = set(np.unique(column).tolist())
        self._distinct = grown(self._distinct, self._cube.pairs.count)
        for old, new in pairs.items():
            if old in has and new not in has:
                column[column == old] = new
                self._distinct[new] = self._distinct[old]
                has.add(new)
        self._keys = Keys.of(np.vstack([column[None], self._keys.columns[1:]]), ADDRESSES)

    # cases

    def base(self, pair: int, since_ns: int) -> CaseBase:
        """What a case of this pair leaves out, if its window began at ``since_ns``."""
        ids = self._address_ids(pair)
        found = self._addresses.base(ids, since_ns).totals
        columns = self._keys.columns
        addresses: dict[tuple[int, int], int] = {}
        for i, v in found.items():
            address = int(columns[1, i]), int(columns[2, i])
            addresses[address] = addresses.get(address, 0) + v[0]
        return CaseBase(since_ns, self._details.base(self._detail_ids(pair), since_ns), addresses)

    def traffic(self, pair: int, base: CaseBase) -> Traffic:
        """What was measured of the pair since the base."""
        ids, sums = self._since(pair, base)
        totals = dict(zip(MEASURES, sums.sum(axis=1).tolist(), strict=True))
        estimated = totals.pop("estimated_octets") > 0
        path, basis, process, vantage, service, high, low, host = self._cube.details.columns[:, ids]
        names, content = self._cube.names, sums[CONTENT]
        later = int(self._details.last_ns[ids].max(initial=0))
        return Traffic(
            **totals,
            first_ns=base.details.first_ns if base.details.first_ns != NEVER_NS else 0,
            last_ns=later,
            initiators=_shares_of(names.text, content, self._cube.initiators(path)),
            bases=_shares_of(names.text, content, basis),
            processes=_shares_of(names.text, content, process),
            services=_shares_of(_service, content, service),
            local_addresses=_shares_of(_address, content, high, low),
            hosts=_shares_of(names.text, content, host),
            vantages=_shares_of(names.text, content, vantage),
            estimated=estimated,
        )

    def destination(self, pair: int, base: CaseBase, sources: tuple[str, ...]) -> Destination:
        """Who and where the other end is, since the base."""
        ids, sums = self._since(pair, base)
        weight = _sums(sums[CONTENT], self._cube.details.columns[0, ids])
        known = self._cube.paths_of(pair)
        main = max(known, key=lambda p: (weight.get(p, 0), -p))
        fact, owner = self._cube.fact(main), self._cube.owner(main)
        addresses, count = self._top_addresses(pair, base)
        facts, content = [self._cube.fact(path) for path in weight], list(weight.values())
        return Destination(
            entity=self._cube.pair(pair)[2],
            label=_label(self._cube.pair(pair)[2], owner, fact.as_org),
            owner=owner,
            countries=shares([f.country for f in facts], content),
            networks=shares([f"AS{f.asn} {f.as_org}".strip() if f.asn >= 0 else "" for f in facts], content),
            addresses=addresses,
            address_count=count,
            location_confidence=_confidence(fact.location_confidence),
            owner_confidence=_confidence(fact.owner_confidence),
            location_sources=_stated(fact.override) or sources,
        )

    def _since(self, pair: int, base: CaseBase) -> tuple[Ints, Ints]:
        ids = self._detail_ids(pair)
        sums = self._details.since(ids, base.details)
        moved = sums.any(axis=0)
        return ids[moved], sums[:, moved]

    def _detail_ids(self, pair: int) -> Ints:
        return np.flatnonzero(self._cube.members(pair)[self._cube.details.columns[0]])

    def _address_ids(self, pair: int) -> Ints:
        pairs = self._pairs_of(pair)
        of = self._keys.columns[0]
        return np.flatnonzero(of == pairs[0] if len(pairs) == 1 else np.isin(of, pairs))

    def _pairs_of(self, pair: int) -> Ints:
        """The stores and destinations that a pair of another grouping joins; of most pairs that one alone."""
        members = self._cube.members(pair)
        return distinct(self._cube.pair_of[: len(members)][members])

    def _top_addresses(self, pair: int, base: CaseBase) -> tuple[tuple[Share, ...], int]:
        ids = self._address_ids(pair)
        _, high, low = self._keys.columns[:, ids]
        left = self._addresses.totals[0, ids]
        order, starts = groups([high, low])
        if len(starts) < len(ids):  # one address of several stores
            high, low, left = high[order[starts]], low[order[starts]], np.add.reduceat(left[order], starts)
        if base.addresses:
            before = [
                base.addresses.get(address, -1) for address in zip(high.tolist(), low.tolist(), strict=True)
            ]
            known = np.array(before, np.int64)
            left = left - np.maximum(known, 0)
            moved = (left > 0) | (known < 0)
            high, low, left = high[moved], low[moved], left[moved]
        self._distinct = grown(self._distinct, self._cube.pairs.count)
        seen = int(self._distinct[self._pairs_of(pair)].sum())
        count = seen if seen > len(ids) else len(left)
        top = np.lexsort((low, high, -left))[:SHARES_SHOWN]
        columns = (high[top].tolist(), low[top].tolist(), left[top].tolist())
        named = tuple(
            Share(value=_address(*address), content_octets_out=octets)
            for *address, octets in zip(*columns, strict=True)
        )
        return named, min(count, ADDRESSES_COUNTED)

    # the ledger

    def _wait(self, days: Ints, details: Ints, sums: Ints) -> None:
        self._waiting.append((days, details, sums))
        self._waits += len(details)
        if self._waits > LEDGER_WAITS or len(self._waiting) > _PIECES_WAIT:
            days, details, sums = (np.concatenate(part, axis=-1) for part in zip(*self._waiting, strict=True))
            order = np.lexsort((details, days))
            days, details = days[order], details[order]
            starts = np.flatnonzero(np.r_[True, (days[1:] != days[:-1]) | (details[1:] != details[:-1])])
            self._waiting = [(days[starts], details[starts], np.add.reduceat(sums[:, order], starts, axis=1))]
            self._waits = len(starts)
            self.ledger_is_full = self._waits > LEDGER_WAITS // 2

    def waiting_days(self) -> tuple[Ints, Ints, Ints]:
        """Day, path and content octets of what waits for the ledger, a path perhaps several times."""
        if not self._waiting:
            nothing = np.zeros(0, np.int64)
            return nothing, nothing, nothing
        days, details, sums = (np.concatenate(part, axis=-1) for part in zip(*self._waiting, strict=True))
        return days, self._cube.details.columns[0, details], sums[CONTENT]

    def skip_ledger(self) -> None:
        """Forget the rows since the last call; for a detector that keeps no ledger."""
        self._waiting, self._waits, self.ledger_is_full = [], 0, False

    def ledger(self) -> tuple[LedgerRow, ...]:
        """The rows since the last call."""
        waiting, self._waiting = self._waiting, []
        self._waits, self.ledger_is_full = 0, False
        if not waiting:
            return ()
        days, details, amounts = (np.concatenate(part, axis=-1) for part in zip(*waiting, strict=True))
        path, _, process, vantage = self._cube.details.columns[:4, details]
        order = np.lexsort((vantage, process, path, days))
        key = np.stack([days, path, process, vantage])[:, order]
        starts = np.flatnonzero(np.r_[True, (key[:, 1:] != key[:, :-1]).any(axis=0)])
        sums = np.add.reduceat(amounts[: LATE + 1, order], starts, axis=1)
        rows: dict[tuple[Any, ...], list[int]] = {}
        for (day, p, process_code, vantage_code), total in zip(
            key[:, starts].T.tolist(), sums.T.tolist(), strict=True
        ):
            full = (day, *self._ledger_path(p, process_code), self._cube.names.text(vantage_code))
            before = rows.get(full)
            rows[full] = total if before is None else [a + b for a, b in zip(before, total, strict=True)]
        return tuple(LedgerRow(*full, *total) for full, total in rows.items())

    def _ledger_path(self, path: int, process: int) -> tuple[Any, ...]:
        """The ledger's key between the day and the vantage."""
        if self._ledger_book is not self._cube.book:
            self._ledger_book, self._ledger_keys = self._cube.book, {}
        key = self._ledger_keys.get((path, process))
        if key is None:
            key = self._ledger_keys[path, process] = self._made_ledger_path(path, process)
            if len(self._ledger_keys) > _LEDGER_KEYS:
                self._ledger_keys = {}
        return key

    def _made_ledger_path(self, path: int, process: int) -> tuple[Any, ...]:
        asn, *codes = self._cube.paths.columns[_LEDGER_PATH, path].tolist()
        as_org, provider, owner, country, initiator, told = map(self._cube.names.text, codes)
        tenant, store, entity = self._cube.pair(int(self._cube.pair_of[path]))
        categories = ",".join(self._cube.book.categories(store))
        if told:
            override = Override.model_validate_json(told)
            provider, owner = stated(provider, override.provider), stated(owner, override.owner)
        network = (entity, max(asn, -1), as_org, provider, owner, country)
        return (tenant, store, categories, *network, self._cube.names.text(process), initiator)

    # state

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All of it as plain values and arrays."""
        detail_days, details = self._details.arrays(self._cube.details.count)
        address_days, addresses = self._addresses.arrays(self._keys.count)
        nothing, pairs = np.zeros(0, np.int64), self._cube.pairs.count
        waiting = {
            "days": np.concatenate([nothing, *(d for d, _, _ in self._waiting)]),
            "ids": np.concatenate([nothing, *(i for _, i, _ in self._waiting)]),
            "sums": np.concatenate(
                [np.zeros((len(MEASURES), 0), np.int64), *(s for _, _, s in self._waiting)], axis=1
            ),
        }
        arrays = {f"details.{k}": v for k, v in details.items()}
        arrays |= {f"addresses.{k}": v for k, v in addresses.items()}
        arrays |= {f"waiting.{k}": v for k, v in waiting.items()}
        arrays |= {"address_keys": self._keys.columns, "distinct": grown(self._distinct, pairs)[:pairs]}
        return {"detail_days": detail_days, "address_days": address_days}, arrays

    def set_state(self, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`state` gave."""
        self._details.set_arrays(meta["detail_days"], part("details.", arrays))
        self._addresses.set_arrays(meta["address_days"], part("addresses.", arrays))
        self._keys = Keys.of(arrays["address_keys"], ADDRESSES)
        self._distinct = arrays["distinct"]
        waiting = part("waiting.", arrays)
        self._waiting, self._waits, self.ledger_is_full = [], 0, False
        if waiting["ids"].size:
            self._wait(waiting["days"], waiting["ids"], waiting["sums"])


def shares(values: Sequence[str] | Any, octets: Sequence[int]) -> tuple[Share, ...]:
    """Octets by value, most first; ``?`` for what is not known."""
    sums: Counter[str] = Counter()
    for value, amount in zip(values, octets, strict=True):
        sums[value or UNKNOWN] += amount
    top = sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:SHARES_SHOWN]
    return tuple(Share(value=value, content_octets_out=amount) for value, amount in top)


def _shares_of(named: Callable[..., str], octets: Ints, *codes: Ints) -> tuple[Share, ...]:
    """:func:`shares` of rows whose value has a code, or several, no two of them with one name: only what may be shown is
    named."""
    order, starts = groups(list(codes))
    if not len(starts):
        return ()
    sums, first = np.add.reduceat(octets[order], starts), order[starts]
    if len(sums) > SHARES_SHOWN:
        least = np.partition(sums, -SHARES_SHOWN)[-SHARES_SHOWN]
        sums, first = sums[sums >= least], first[sums >= least]
    return shares(map(named, *(column[first].tolist() for column in codes)), sums.tolist())


def _sums(octets: Ints, codes: Ints) -> dict[int, int]:
    """Octets by code."""
    order, starts = groups([codes])
    if not len(starts):
        return {}
    return dict(
        zip(codes[order[starts]].tolist(), np.add.reduceat(octets[order], starts).tolist(), strict=True)
    )


def _service(code: int) -> str:
    if code < 0:
        return ""
    protocol, port = divmod(code, SERVICE_PORTS)
    return f"{_PROTOCOLS.get(protocol, protocol)}/{port}"


def _address(high: int, low: int) -> str:
    return text_of(high % 2**64, low % 2**64) or ""


def _confidence(text: str) -> Confidence:
    return Confidence(text) if text in Confidence.__members__.values() else Confidence.NONE


def _label(entity: str, owner: OwnerFact, as_org: str) -> str:
    kind, _, value = entity.partition(":")
    by_kind: dict[str, Callable[[], str]] = {
        "owner": lambda: owner.owner or value,
        "provider": lambda: owner.provider_name or value,
        "as": lambda: as_org or owner.organisation or f"AS{value}",
    }
    plain = {"unknown": "unknown network", ALL: "all destinations"}
    return by_kind[kind]() if kind in by_kind else plain.get(entity, entity)


def _stated(override: str) -> tuple[str, ...]:
    """Who says so, where an override decides; empty where the databases do."""
    return (Override.model_validate_json(override).source,) if override else ()
