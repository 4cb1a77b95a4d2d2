"""Receipts: what may be said of each rule, store and window, kept as runs of equal value, and said anew where a hole closes.

A step covers five minutes of the watermark. Sums come from the detector's rings; where a ring no longer holds a window, a
longer window's sum bounds it from above. Whatever is not known makes a receipt worse, never better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np

from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.finding import FindingState
from agent.detection import coverage
from agent.detection.coverage import OPEN, UNBOUNDED, Holes, Run, Seen, Verdict
from agent.detection.detector import Detector
from agent.detection.keys import Bools, Ints
from agent.detection.rules import Watch
from agent.detection.sums import UNKNOWN, WindowSums
from agent.detection.windows import WINDOWS, Window
from agent.policy.model import Policy
from agent.store.coverage import Receipt
from agent.store.state import State

STEP_NS: Final = 5 * MINUTE_NS
AGAIN_NS: Final = 30 * SECOND_NS
"""How often receipts are said anew, at most."""
COARSER: Final = {"5m": "1h", "1h": "24h", "24h": "30d"}
NO_AGENT: Final = "no_agent"
OVER_UNTOLD: Final = "over_but_test_not_met"
"""The sum is over the threshold, and what the rule asks besides did not hold."""
ESTIMATED: Final = "estimated"
UNCOUNTED: Final = "late_data_in_no_window"

HolesOf = Callable[[str], list[Holes]]
Over = tuple[str, str, int, int]
"""(store, rule, first, last) of a receipt that others replace."""


@dataclass
class _Windows:
    """Windows of one rule and store that are judged together."""

    window: Window
    bucket: Ints
    amount: Ints
    doubtful: Bools
    """Estimated, or nobody knows."""
    why: str = ESTIMATED
    """Reason where doubtful."""

    @property
    def froms(self) -> Ints:
        """Begin of each."""
        return (self.bucket - self.window.n) * self.window.grain_ns

    @property
    def tos(self) -> Ints:
        """End of each."""
        return (self.bucket + 1) * self.window.grain_ns


@dataclass
class Receipts:
    """All receipts of one detector. Not thread-safe."""

    state: State
    detector: Detector
    lateness_ns: int
    _last: dict[tuple[str, str], Receipt] = field(default_factory=dict)
    _done: dict[str, int] = field(default_factory=dict)
    """Window -> the last bucket judged."""
    _step: int = -1
    _findings: dict[str, tuple[str, str, int, int]] = field(default_factory=dict)
    _asked_ns: int = 0
    _waiting: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Store -> (from, to, octets) of which something has changed."""
    _again_ns: int = 0
    _judged_ns: int = 0
    """Ends of windows up to here were judged."""

    def __post_init__(self) -> None:
        for one in self.state.coverage.receipts():
            self._last[one.store, one.rule] = one
            self._judged_ns = max(self._judged_ns, one.last_ns)
            bucket = one.last_ns // WINDOWS[one.window].grain_ns - 1
            self._done[one.window] = max(self._done.get(one.window, bucket), bucket)

    def turn(self, policy: Policy, holes_of: HolesOf, now_ns: int, *, all_read: bool) -> list[Receipt]:
        """Receipts of the windows that are over since the last step; the first of each kind may grow the last one."""
        mark = self.detector.watermark_ns
        if mark is None:
            if not all_read:
                return []
            mark = now_ns - self.lateness_ns
        if mark // STEP_NS <= self._step:
            return []
        self._step, self._judged_ns = mark // STEP_NS, mark
        self._ask_findings(now_ns)
        out: list[Receipt] = []
        holes = {store.id: holes_of(store.id) for store in policy.stores}
        for name, window in WINDOWS.items():
            due = window.last_due(mark)
            first = self._done.get(name, due - 1) + 1
            if first > due:
                continue
            self._done[name] = due
            watches = [w for w in self.detector.watches if w.ring == name and not w.rule.subjects]
            if not watches:
                continue
            sums = self.detector.sums(name, first, due)
            for watch in watches:
                for store in policy.stores:
                    if policy.reads(watch.rule, store.id):
                        windows = self._windows(watch, store.id, sums)
                        out += self._fresh(policy.tenant, store.id, watch, windows, holes[store.id])
        return out

    def touch(self, stores: Iterable[str], from_ns: int, to_ns: int, came: int) -> None:
        """Something has changed in a stretch of a host's time; ``came``: octets of rows that came for it, at most.

        A stretch behind all windows that were judged, as it is where data comes in time, changes nothing.
        """
        if from_ns >= self._judged_ns:
            return
        for store in stores:
            known = self._waiting.get(store)
            if known is None:
                self._waiting[store] = (from_ns, to_ns, came)
                continue
            both = UNBOUNDED if known[2] < 0 or came < 0 else known[2] + came
            self._waiting[store] = (min(known[0], from_ns), max(known[1], to_ns), both)

    def again(self, holes_of: HolesOf, now_ns: int) -> tuple[list[Receipt], list[Over]]:
        """Receipts that say another thing now, and those whose place they take."""
        if not self._waiting or abs(now_ns - self._again_ns) < AGAIN_NS:
            return [], []
        self._again_ns = now_ns
        waiting, self._waiting = self._waiting, {}
        self._ask_findings(now_ns)
        fresh: list[Receipt] = []
        over: list[Over] = []
        watches = {w.rule.id: w for w in self.detector.watches}
        for store, stretch in waiting.items():
            by_rule: dict[str, list[Receipt]] = {}
            for row in self.state.coverage.receipts(store, since_ns=stretch[0] - DAY_NS):
                by_rule.setdefault(row.rule, []).append(row)
            holes = holes_of(store) if by_rule else []
            for rule, rows in by_rule.items():
                if (watch := watches.get(rule)) is not None:
                    changed, gone = self._rule_again(watch, rows, holes, stretch)
                    fresh += changed
                    over += gone
        return fresh, over

    def _rule_again(
        self, watch: Watch, rows: list[Receipt], holes: list[Holes], stretch: tuple[int, int, int]
    ) -> tuple[list[Receipt], list[Over]]:
        """Receipts of a rule and store, in order, as they are said now: those that change, and what they replace."""
        reach_ns = stretch[1] + watch.window.span_ns + watch.window.grain_ns
        pieces: list[Receipt] = []
        for row in rows:
            touched = row.first_ns <= reach_ns and row.last_ns > stretch[0]
            if touched and row.window == watch.window.name:
                pieces += self._said_anew(row, watch, holes, stretch)
            else:
                pieces.append(row)
        pieces = _merged(pieces)
        kept = set(pieces) & set(rows)
        if self._last.get((rows[-1].store, rows[-1].rule)) == rows[-1]:
            self._last[rows[-1].store, rows[-1].rule] = pieces[-1]
        gone = [(r.store, r.rule, r.first_ns, r.last_ns) for r in rows if r not in kept]
        return [piece for piece in pieces if piece not in kept], gone

    def numbered(self, rows: Sequence[Receipt], made: int) -> tuple[list[Receipt], int]:
        """The same with their numbers behind ``made``, and the last of these."""
        out = []
        for row in rows:
            made += 1
            out.append(replace(row, made=made))
            known = self._last.get((row.store, row.rule))
            if known is None or row.last_ns >= known.last_ns:
                self._last[row.store, row.rule] = out[-1]
        return out, made

    # sums

    def _windows(self, watch: Watch, store: str, sums: WindowSums) -> _Windows:
        amount, estimated = sums.largest(store, watch.index)
        bucket = np.arange(sums.first, sums.last + 1)
        windows = _Windows(watch.window, bucket, amount, estimated)
        gone = bucket < self.detector.sums_from(watch.window.name)
        if gone.any():
            windows.amount = np.where(gone, self._bound(watch, store, windows), amount)
            windows.doubtful = estimated | (windows.amount == UNKNOWN)
        return windows

    def _bound(self, watch: Watch, store: str, windows: _Windows) -> Ints:
        """A longer window's sum, where the rings hold no nearer one; :data:`UNKNOWN` where none does."""
        bound = np.full(len(windows.bucket), UNKNOWN, np.int64)
        name = watch.window.name
        while name in COARSER:
            name = COARSER[name]
            window = WINDOWS[name]
            bucket = (windows.tos - 1) // window.grain_ns
            held = (bucket >= self.detector.sums_from(name)) & (bound == UNKNOWN)
            if held.any():
                first, last = int(bucket[held].min()), int(bucket[held].max())
                amount, _ = self.detector.sums(name, first, last).largest(store, watch.index)
                bound[held] = amount[bucket[held] - first]
        return bound

    # judging

    def _fresh(
        self, tenant: str, store: str, watch: Watch, windows: _Windows, hosts: list[Holes]
    ) -> list[Receipt]:
        stretch = coverage.seen(hosts, windows.froms, windows.tos)
        found = self._judged(store, watch, windows, stretch, hosts)
        made = [
            Receipt(
                tenant, store, watch.pack, watch.rule.id, watch.window.name, run.first_ns, run.last_ns,
                run.verdict.value, run.covered_s, run.lost, run.amount, watch.over, run.reasons,
            )
            for run in found
        ]  # fmt: skip
        before = self._last.get((store, watch.rule.id))
        if before is not None and made and _continues(before, made[0]):
            grown = _run(before).joined(_run(made[0]))
            made[0] = replace(
                made[0],
                first_ns=grown.first_ns,
                covered_s=grown.covered_s,
                lost=grown.lost,
                amount=grown.amount,
            )
        return made

    def _judged(
        self, store: str, watch: Watch, windows: _Windows, stretch: Seen, hosts: list[Holes]
    ) -> list[Run]:
        found = self._found(store, watch.rule.id, stretch)
        codes = coverage.judge(windows.amount, stretch.lost, found, windows.doubtful, watch.over)
        why: list[tuple[str, ...]] = [()] * len(codes)
        for i in np.flatnonzero(codes == coverage.VERDICTS.index(Verdict.NOT_OBSERVED)).tolist():
            why[i] = _reasons(hosts, windows, stretch, i, watch.over)
        return coverage.runs(stretch, codes, windows.amount, why)

    def _said_anew(
        self, row: Receipt, watch: Watch, hosts: list[Holes], stretch: tuple[int, int, int]
    ) -> list[Receipt]:
        """A receipt's windows judged again, as far as the stretch touches them."""
        window = watch.window
        bucket = np.arange(row.first_ns // window.grain_ns - 1, row.last_ns // window.grain_ns)
        windows = _Windows(
            window, bucket, np.full(len(bucket), row.amount, np.int64), np.zeros(len(bucket), bool), UNCOUNTED
        )
        touched = (windows.froms < stretch[1]) & (windows.tos > stretch[0])
        held = bucket >= self.detector.sums_from(window.name)
        if (held & touched).any():
            first = int(bucket[held & touched].min())
            amount, estimated = self.detector.sums(window.name, first, int(bucket[-1])).largest(
                row.store, watch.index
            )
            known = held & touched & (bucket >= first)
            windows.amount[known], windows.doubtful[known] = (
                part[bucket[known] - first] for part in (amount, estimated)
            )
        late = touched & ~held
        if stretch[2] < 0:
            windows.doubtful |= late & (row.verdict != Verdict.NO_FINDING.value)
        elif row.verdict != Verdict.NO_FINDING.value:
            windows.amount = np.where(late, windows.amount + stretch[2], windows.amount)
        out: list[Receipt] = []
        for low, high, again in _stretches(touched):
            part = _Windows(
                window, bucket[low:high], windows.amount[low:high], windows.doubtful[low:high], windows.why
            )
            if not again:
                out.append(replace(row, first_ns=int(part.tos[0]), last_ns=int(part.tos[-1])))
                continue
            judged = self._judged(row.store, watch, part, coverage.seen(hosts, part.froms, part.tos), hosts)
            out += [
                replace(
                    row, first_ns=run.first_ns, last_ns=run.last_ns, verdict=run.verdict.value,
                    covered_s=run.covered_s, lost=run.lost, amount=run.amount, threshold=watch.over,
                    reasons=run.reasons,
                )
                for run in judged
            ]  # fmt: skip
        return _merged(out)

    # findings

    def _ask_findings(self, now_ns: int) -> None:
        """Take up findings that were written since the last look."""
        quiet = {w.rule.id: w.quiet_ns + w.window.grain_ns for w in self.detector.watches}
        for finding in self.state.cases.findings_of(since_ns=self._asked_ns or None):
            is_open = finding.state is FindingState.OPEN
            end_ns = OPEN if is_open else finding.last_bucket_ns + quiet.get(finding.rule, 0)
            self._findings[finding.id] = (finding.store, finding.rule, finding.first_bucket_ns, end_ns)
        self._asked_ns = now_ns - HOUR_NS  # the two clocks are not that far apart

    def _found(self, store: str, rule: str, stretch: Seen) -> Bools:
        found = np.zeros(len(stretch.tos), bool)
        for of_store, of_rule, from_ns, to_ns in self._findings.values():
            if (of_store, of_rule) == (store, rule):
                found |= (stretch.tos > from_ns) & (stretch.froms < to_ns)
        return found


def _reasons(hosts: list[Holes], windows: _Windows, stretch: Seen, at: int, over: int) -> tuple[str, ...]:
    from_ns, to_ns = int(stretch.froms[at]), int(stretch.tos[at])
    named = {reason for holes in hosts for reason in holes.reasons(from_ns, to_ns)}
    if not hosts:
        named.add(NO_AGENT)
    if windows.doubtful[at]:
        named.add(windows.why)
    if not named and int(windows.amount[at]) > over:
        named.add(OVER_UNTOLD)
    return tuple(sorted(named))


def _continues(before: Receipt, later: Receipt) -> bool:
    """Whether one receipt may say both: nothing between them, the same said, on one day."""
    grain_ns = WINDOWS[before.window].grain_ns
    said = (before.window, before.verdict, before.reasons, before.threshold)
    return (
        said == (later.window, later.verdict, later.reasons, later.threshold)
        and later.first_ns == before.last_ns + grain_ns
        and before.first_ns // DAY_NS == later.last_ns // DAY_NS
    )


def _run(one: Receipt) -> Run:
    return Run(
        one.first_ns, one.last_ns, Verdict(one.verdict), one.covered_s, one.lost, one.amount, one.reasons
    )


def _merged(rows: Sequence[Receipt]) -> list[Receipt]:
    out: list[Receipt] = []
    for row in rows:
        if out and _continues(out[-1], row):
            grown = _run(out[-1]).joined(_run(row))
            out[-1] = replace(
                row, first_ns=grown.first_ns, covered_s=grown.covered_s, lost=grown.lost, amount=grown.amount
            )
        else:
            out.append(row)
    return out


def _stretches(mask: Bools) -> list[tuple[int, int, bool]]:
    """First, one past the last, and value of each stretch of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(mask)]
    return [(a, b, bool(mask[a])) for a, b in pairwise(edges)]
