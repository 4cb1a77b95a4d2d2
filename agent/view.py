"""What a person wants to see of the running program: rates, totals, and where most goes. Bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from agent.core.clock import SECOND_NS, Clock
from agent.core.flow import FlowBatch

MAX_DESTINATIONS = 5_000
SERIES_S = 60


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
    recent: deque[tuple[int, int]] = field(default_factory=deque)
    """(second, octets out) of the last minute."""

    def rate(self, now_s: int, over_s: int = 10) -> float:
        """Octets out per second over the last ``over_s`` seconds."""
        return sum(octets for second, octets in self.recent if second > now_s - over_s) / over_s


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
    """Most octets out first; external ones only."""
    internal_out: int


class View:
    """Tallies sealed batches. ``observe`` and ``read`` may be called from different threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_ns = clock.now_ns()
        self._lock = threading.Lock()
        self._lines: dict[tuple[object, ...], DestinationLine] = {}
        self._out = self._in = self._flows = self._internal = 0
        self._series: deque[tuple[int, int]] = deque()

    def observe(self, batch: FlowBatch) -> None:
        """Add a batch to the tallies, at the time of its arrival."""
        if not len(batch):
            return
        second = self._clock.now_ns() // SECOND_NS
        amounts = batch.amounts()
        with self._lock:
            self._out += amounts.octets_out
            self._in += amounts.octets_in
            self._flows += amounts.flows
            _push(self._series, second, amounts.octets_out)
            self._tally(batch, second)

    def _tally(self, batch: FlowBatch, second: int) -> None:
        names = (
            "remote_country",
            "remote_as_org",
            "remote_provider",
            "remote_owner",
            "remote_owner_country",
            "remote_scope",
            "store",
        )
        texts = [batch.text(name) for name in names]
        keys = np.stack([t.codes.astype(np.int64) for t in texts] + [batch["remote_asn"]], axis=1)
        distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        sums = {
            name: np.bincount(inverse, weights=batch[name], minlength=len(distinct)).astype(np.int64)
            for name in ("octets_out", "octets_in", "flows")
        }
        for i, codes in enumerate(distinct.tolist()):
            country, as_org, provider, owner, owner_country, scope, store = (
                text.values[code] if code >= 0 else None for text, code in zip(texts, codes[:-1], strict=True)
            )
            out = int(sums["octets_out"][i])
            if scope != "external":
                self._internal += out
                continue
            asn = codes[-1]
            network = f"AS{asn} {as_org or ''}".strip() if asn >= 0 else as_org or "?"
            line = self._line(country, network, provider, owner, owner_country, scope)
            line.octets_out += out
            line.octets_in += int(sums["octets_in"][i])
            line.flows += int(sums["flows"][i])
            if store:
                line.stores.add(store)
            _push(line.recent, second, out)

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
                country, network, provider, owner, owner_country = None, "(all others)", None, None, None
            line = self._lines.setdefault(
                key, DestinationLine(country, network, provider, owner, owner_country, scope)
            )
        return line

    def read(self, top: int = 50) -> Reading:
        """The tallies now."""
        now_ns = self._clock.now_ns()
        now_s = now_ns // SECOND_NS
        with self._lock:
            series = dict(self._series)
            lines = sorted(self._lines.values(), key=lambda line: -line.octets_out)[:top]
            return Reading(
                since_ns=self._since_ns,
                now_ns=now_ns,
                octets_out=self._out,
                octets_in=self._in,
                flows=self._flows,
                series_out=tuple(series.get(now_s - SERIES_S + i, 0) for i in range(SERIES_S)),
                destinations=tuple(lines),
                internal_out=self._internal,
            )


def _push(series: deque[tuple[int, int]], second: int, octets: int) -> None:
    if series and series[-1][0] == second:
        series[-1] = (second, series[-1][1] + octets)
    else:
        series.append((second, octets))
    while series and series[0][0] <= second - SERIES_S:
        series.popleft()
