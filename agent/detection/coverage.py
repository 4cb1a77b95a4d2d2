"""What was observed, by worst case: seconds covered, octets lost, and what may be said of a rule's window.

No I/O and no clock. A :class:`Hole` is a stretch of a host's time in which something was not seen, or may not have been.
It may take away seconds, octets, or both; octets that nothing bounds are :data:`UNBOUNDED`. Everything is worked out by
columns: sums over sorted bounds, never a look at each row.

``no_finding`` is said only where the sum that was seen, and everything that was lost, stays within the threshold:
so even if all that was lost had gone there, the threshold stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from agent.core.clock import HOUR_NS, SECOND_NS
from agent.detection.keys import Bools, Ints

UNBOUNDED: Final = -1
"""As lost octets: no counter bounds them."""
OPEN: Final = 2**62
"""As an end: it goes on."""
HOUR_S: Final = HOUR_NS // SECOND_NS


class Verdict(StrEnum):
    """What may be said of a rule's window."""

    FINDING = "finding"
    NO_FINDING = "no_finding"
    NOT_OBSERVED = "not_observed"


VERDICTS: Final = tuple(Verdict)
"""By code."""
_FINDING, _NO_FINDING, _NOT_OBSERVED = range(3)


@dataclass(frozen=True, slots=True)
class Hole:
    """A stretch of one host's time, [``from_ns``, ``to_ns``)."""

    from_ns: int
    to_ns: int
    reason: str
    octets: int = UNBOUNDED
    """Lost in it at most; 0 where it only takes away seconds."""
    uncovers: bool = True
    """Whether its seconds were not observed."""


class Holes:
    """All holes of one host as columns. Octets of a hole count whole for every stretch that it touches."""

    def __init__(self, holes: Iterable[Hole] = ()) -> None:
        kept = sorted((h for h in holes if h.to_ns > h.from_ns), key=lambda h: (h.from_ns, h.to_ns))
        self._holes = kept
        octets = np.array([h.octets for h in kept], np.int64)
        self._starts = np.array([h.from_ns for h in kept], np.int64)
        ends = np.array([h.to_ns for h in kept], np.int64)
        by_end = np.argsort(ends, kind="stable")
        self._ends = ends[by_end]
        unbounded = octets < 0
        self._by_start = _sums(np.where(unbounded, 0, octets)), _sums(unbounded)
        self._by_end = (
            _sums(np.where(unbounded, 0, octets)[by_end]),
            _sums(unbounded[by_end]),
        )
        self._seconds = _joined(h for h in kept if h.uncovers)

    def __len__(self) -> int:
        return len(self._holes)

    def __iter__(self) -> Iterator[Hole]:
        return iter(self._holes)

    def lost(self, froms: Ints, tos: Ints) -> Ints:
        """Octets lost at most in each stretch; :data:`UNBOUNDED` where nothing bounds them."""
        begun = np.searchsorted(self._starts, tos, side="left")
        over = np.searchsorted(self._ends, froms, side="right")
        octets = self._by_start[0][begun] - self._by_end[0][over]
        unbounded = self._by_start[1][begun] - self._by_end[1][over] > 0
        return np.where(unbounded, UNBOUNDED, octets).astype(np.int64)

    def uncovered_s(self, froms: Ints, tos: Ints) -> Ints:
        """Whole seconds of each stretch that were not observed; one that was not for a part counts whole."""
        return self._before(-(-tos // SECOND_NS)) - self._before(froms // SECOND_NS)

    def reasons(self, from_ns: int, to_ns: int) -> tuple[str, ...]:
        """Why something of the stretch is missing, sorted."""
        return tuple(sorted({h.reason for h in self._holes if h.from_ns < to_ns and h.to_ns > from_ns}))

    def touches(self, froms: Ints, tos: Ints) -> Bools:
        """Whether any hole touches each stretch."""
        begun = np.searchsorted(self._starts, tos, side="left")
        over = np.searchsorted(self._ends, froms, side="right")
        return np.asarray(begun > over)

    def _before(self, seconds: Ints) -> Ints:
        """Seconds not observed before each second."""
        starts, ends, sums = self._seconds
        at = np.searchsorted(starts, seconds, side="right")
        whole = sums[at]
        last = np.maximum(at - 1, 0)
        past = np.maximum(ends[last] - seconds, 0) if len(ends) else np.zeros(len(seconds), np.int64)
        return np.asarray(whole - np.where(at > 0, past, 0), np.int64)


def _sums(values: Ints | Bools) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)])


def _joined(holes: Iterable[Hole]) -> tuple[Ints, Ints, Ints]:
    """Whole seconds in disjoint stretches: starts, ends, and the sum of those before each."""
    spans: list[list[int]] = []
    for hole in holes:
        first, last = hole.from_ns // SECOND_NS, -(-hole.to_ns // SECOND_NS)
        if spans and first <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], last)
        else:
            spans.append([first, last])
    starts = np.array([s for s, _ in spans], np.int64)
    ends = np.array([e for _, e in spans], np.int64)
    return starts, ends, _sums(ends - starts)


@dataclass(frozen=True, slots=True)
class Hours:
    """Coverage of one host, hour by hour. Columns of one length."""

    hour: Ints
    """Hours since the epoch, UTC."""
    covered_s: Ints
    """0 to 3600."""
    lost: Ints
    """Octets at most, or :data:`UNBOUNDED`."""
    reasons: tuple[tuple[str, ...], ...]


def hours(holes: Holes, first: int, last: int) -> Hours:
    """The hours ``first`` to ``last``, both included."""
    hour = np.arange(first, last + 1)
    froms, tos = hour * HOUR_NS, (hour + 1) * HOUR_NS
    touched = holes.touches(froms, tos).tolist()
    reasons = tuple(
        holes.reasons(a, b) if hit else ()
        for hit, a, b in zip(touched, froms.tolist(), tos.tolist(), strict=True)
    )
    return Hours(hour, HOUR_S - holes.uncovered_s(froms, tos), holes.lost(froms, tos), reasons)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was lost of several stretches, of all hosts on which a store may be."""

    froms: Ints
    tos: Ints
    covered: Ints
    """Seconds of the host that was covered least."""
    lost: Ints


def seen(hosts: Sequence[Holes], froms: Ints, tos: Ints) -> Seen:
    """Join hosts: octets add up, seconds are those of the worst. No host at all has seen nothing."""
    seconds = -(-tos // SECOND_NS) - froms // SECOND_NS
    covered, lost = np.zeros_like(froms), np.full_like(froms, UNBOUNDED)
    for number, holes in enumerate(hosts):
        of_host, out = seconds - holes.uncovered_s(froms, tos), holes.lost(froms, tos)
        covered = np.minimum(covered, of_host) if number else of_host
        lost = np.where((lost < 0) | (out < 0), UNBOUNDED, lost + out) if number else out
    return Seen(froms, tos, covered, lost)


def judge(amount: Ints, lost: Ints, found: Bools, estimated: Bools, over: int) -> Ints:
    """Code in :data:`VERDICTS` of each window: ``amount`` is the largest sum of any destination, ``lost`` what may have
    gone there besides, ``found`` whether a finding was open, ``estimated`` whether some of it was multiplied up."""
    stands = (lost >= 0) & ~estimated & (amount + np.maximum(lost, 0) <= over)
    return np.where(found, _FINDING, np.where(stands, _NO_FINDING, _NOT_OBSERVED)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Run:
    """Windows in a row of which the same may be said. Times are ends of windows: first and last."""

    first_ns: int
    last_ns: int
    verdict: Verdict
    covered_s: int
    """Of the window that was covered least."""
    lost: int
    """Of the window with most."""
    amount: int
    """Largest sum of a window."""
    reasons: tuple[str, ...]

    @property
    def said(self) -> tuple[Verdict, tuple[str, ...]]:
        """What makes two runs one."""
        return self.verdict, self.reasons

    def joined(self, later: Run) -> Run:
        """This run and one that follows it."""
        return Run(
            min(self.first_ns, later.first_ns),
            max(self.last_ns, later.last_ns),
            self.verdict,
            min(self.covered_s, later.covered_s),
            _worse(self.lost, later.lost),
            max(self.amount, later.amount),
            self.reasons,
        )


def _worse(a: int, b: int) -> int:
    return UNBOUNDED if a < 0 or b < 0 else max(a, b)


def runs(stretch: Seen, codes: Ints, amount: Ints, why: Sequence[tuple[str, ...]]) -> list[Run]:
    """Windows in order as runs; ``why`` of each (looked at where nothing was observed only)."""
    if not len(codes):
        return []
    names: dict[tuple[str, ...], int] = {}
    said = [
        names.setdefault(reasons if code == _NOT_OBSERVED else (), len(names))
        for code, reasons in zip(codes.tolist(), why, strict=True)
    ]
    known = list(names)
    both = codes * (len(names) + 1) + np.array(said, np.int64)
    starts = np.flatnonzero(np.r_[True, both[1:] != both[:-1]])
    covered = np.minimum.reduceat(stretch.covered, starts)
    most, bound = np.maximum.reduceat(stretch.lost, starts), np.minimum.reduceat(stretch.lost, starts)
    largest = np.maximum.reduceat(amount, starts)
    ends = np.append(starts[1:], len(codes)) - 1
    return [
        Run(
            int(stretch.tos[a]),
            int(stretch.tos[b]),
            VERDICTS[codes[a]],
            int(covered[i]),
            UNBOUNDED if bound[i] < 0 else int(most[i]),
            int(largest[i]),
            known[said[a]],
        )
        for i, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
    ]
