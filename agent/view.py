"""What a person wants to see of the running program: rates, totals, and where most goes. Bounded memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from agent.core.accounts import Amounts
from agent.core.clock import SECOND_NS, Clock
from agent.core.flow import FlowBatch, concat_text
from agent.core.grouping import groups

MAX_DESTINATIONS = 5_000
OTHERS: Final = "(all others)"
"""In place of a network: the line of all destinations past the limit."""
NAMES: Final = 4
"""Names of one line; the newest stay."""
SERIES_S = 60
UNKNOWN: Final = "?"
"""In place of a network that no source knows, for people; in JSON it is null."""


@dataclass(slots=True)
class DestinationLine:
    """One line of the live table: a network in a country, with its owner."""

    country: str | None
    network: str
    provider: str | None
    owner: str | None
    owner_country: str | None
    scope: str
    octets_out: int = 0
    octets_in: int = 0
    flows: int = 0
    stores: set[str] = field(default_factory=set)
    names: tuple[str, ...] = ()
    """Host names that were claimed for its addresses, newest first; where names are switched on."""
    recent: Counter[int] = field(default_factory=Counter)
    """Second -> octets out, of the last minute."""

    def rate(self, now_s: int, over_s: int = 10) -> float:
        """Octets out per second over the last ``over_s`` seconds."""
        return sum(octets for second, octets in self.recent.items() if second > now_s - over_s) / over_s

    def series(self, now_s: int) -> tuple[int, ...]:
        """Octets out in each of the last 60 seconds, oldest first."""
        return tuple(self.recent.get(now_s - SERIES_S + i, 0) for i in range(SERIES_S))


_TEXTS: Final = (
    "remote_country",
    "remote_as_org",
    "remote_provider",
    "remote_owner",
    "remote_owner_country",
    "remote_scope",
    "store",
)
_NUMBERS: Final = ("remote_asn", "octets_out", "octets_in", "flows", "start_ns", "end_ns")
_Sorting = Callable[[DestinationLine, int], Any]
SORTS: Final[Mapping[str, _Sorting]] = {
    "out": lambda line, now_s: -line.octets_out,
    "rate": lambda line, now_s: (-line.rate(now_s), -line.octets_out),
    "minute": lambda line, now_s: (-line.rate(now_s, SERIES_S), -line.octets_out),
    "in": lambda line, now_s: (-line.octets_in, -line.octets_out),
    "flows": lambda line, now_s: (-line.flows, -line.octets_out),
    "country": lambda line, now_s: (line.country or "~", -line.octets_out),
    "network": lambda line, now_s: (line.network, -line.octets_out),
    "owner": lambda line, now_s: (line.owner or line.provider or "~", -line.octets_out),
    "store": lambda line, now_s: (min(line.stores, default="~"), -line.octets_out),
}
"""What destinations can be sorted by."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The view at one moment."""

    since_ns: int
    now_ns: int
    octets_out: int
    octets_in: int
    flows: int
    series_out: tuple[int, ...]
    """Octets out in each of the last 60 seconds, oldest first."""
    destinations: tuple[DestinationLine, ...]
    """In the order asked for; external ones only. Copies: no thread changes them."""
    internal_out: int


class View:
    """Tallies sealed batches. ``observe`` and ``read`` may be called from different threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_ns = clock.now_ns()
        self._lock = threading.Lock()
        self._lines: dict[tuple[object, ...], DestinationLine] = {}
        self._out = self._in = self._flows = self._internal = 0
        self._series: Counter[int] = Counter()

    def observe(self, batches: Sequence[FlowBatch]) -> None:
        """Add batches to the tallies; what a row moved is spread over the seconds that it lasted."""
        if not any(map(len, batches)):
            return
        amounts = sum((batch.amounts() for batch in batches), Amounts())
        with self._lock:
            self._out += amounts.octets_out
            self._in += amounts.octets_in
            self._flows += amounts.flows
            self._tally(batches, self._clock.now_ns() // SECOND_NS)

    def _tally(self, batches: Sequence[FlowBatch], now_s: int) -> None:
        texts = [concat_text([batch.text(name) for batch in batches]) for name in _TEXTS]
        claimed = concat_text([batch.text("remote_name") for batch in batches])
        numbers = {name: np.concatenate([batch[name] for batch in batches]) for name in _NUMBERS}
        columns = [*(text.codes for text in texts), claimed.codes, numbers["remote_asn"]]
        order, starts = groups(columns)
        first = order[starts]
        sums = {
            name: np.add.reduceat(numbers[name][order], starts).tolist()
            for name in ("octets_out", "octets_in", "flows")
        }
        first_s, last_s = (
            np.clip(numbers[name] // SECOND_NS, now_s - SERIES_S, now_s)[order]
            for name in ("start_ns", "end_ns")
        )
        begins = np.minimum.reduceat(first_s, starts).tolist()
        ends = np.maximum.reduceat(last_s, starts).tolist()
        newest_last = np.argsort(np.maximum.reduceat(order, starts), kind="stable").tolist()
        distinct = list(zip(*(column[first].tolist() for column in columns), strict=True))
        for i in newest_last:
            codes = distinct[i]
            country, as_org, provider, owner, owner_country, scope, store = (
                text.values[code] if code >= 0 else None for text, code in zip(texts, codes[:-2], strict=True)
            )
            out = sums["octets_out"][i]
            _spread(self._series, begins[i], ends[i], out, now_s)
            if scope != "external":
                self._internal += out
                continue
            asn = codes[-1]
            network = f"AS{asn} {as_org or ''}".strip() if asn >= 0 else as_org or UNKNOWN
            line = self._line(country, network, provider, owner, owner_country, scope)
            line.octets_out += out
            line.octets_in += sums["octets_in"][i]
            line.flows += sums["flows"][i]
            if store:
                line.stores.add(store)
            if codes[-2] >= 0:
                name = claimed.values[codes[-2]]
                line.names = (name, *(known for known in line.names if known != name))[:NAMES]
            _spread(line.recent, begins[i], ends[i], out, now_s)

    def _line(
        self,
        country: str | None,
        network: str,
        provider: str | None,
        owner: str | None,
        owner_country: str | None,
        scope: str,
    ) -> DestinationLine:
        key: tuple[object, ...] = (country, network, owner)
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= MAX_DESTINATIONS:
                key = ("*",)
                country, network, provider, owner, owner_country = None, OTHERS, None, None, None
            line = self._lines.setdefault(
                key, DestinationLine(country, network, provider, owner, owner_country, scope)
            )
        return line

    def read(self, top: int = 50, by: str = "out") -> Reading:
        """The tallies now, and the first ``top`` destinations by one of :data:`SORTS`."""
        now_ns = self._clock.now_ns()
        now_s = now_ns // SECOND_NS
        with self._lock:
            series = dict(self._series)
            lines = sorted(self._lines.values(), key=lambda line: SORTS[by](line, now_s))[:top]
            return Reading(
                since_ns=self._since_ns,
                now_ns=now_ns,
                octets_out=self._out,
                octets_in=self._in,
                flows=self._flows,
                series_out=tuple(series.get(now_s - SERIES_S + i, 0) for i in range(SERIES_S)),
                destinations=tuple(
                    replace(line, stores=set(line.stores), recent=Counter(line.recent)) for line in lines
                ),
                internal_out=self._internal,
            )


def _spread(series: Counter[int], first_s: int, last_s: int, octets: int, now_s: int) -> None:
    """Add octets evenly to the seconds ``first_s`` to ``last_s`` and forget what is over a minute old."""
    if last_s <= now_s - SERIES_S and not series:
        return
    each, rest = divmod(octets, last_s - first_s + 1)
    for second in range(first_s, last_s + 1):
        series[second] += each
    series[last_s] += rest
    for second in [second for second in series if second <= now_s - SERIES_S]:
        del series[second]
