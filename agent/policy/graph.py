"""The graph of owners: who stands at the top, who holds what, and what several owners hold together.

Two questions are kept apart. *Who decides* follows the one holder with more than half of capital or votes (or control)
from step to step, up to an owner that nobody decides over. *What is held* adds shares up as 28 CFR 202.211(a)(1) and
(2) do (mark V, read for ``docs/ownership.md``): a company counts if owners that count hold 50 % or more of it, directly
or through others, one of them alone or several together; what counts then counts whole for what it holds itself.
28 CFR 202.256 (mark V) makes a subsidiary organised in the US a US person whoever holds it: such a network is told
for review (:class:`agent.policy.holders.Holding`), but shares are added up through it.

Stakes that are disputed or given up, and owners that are disputed, count for nothing; what they would add is kept
beside it. Resolved once, when the table is read; the graph has no cycle (refused there).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from agent.policy.holders import WHOLE, Owner, Stake, weaker

FLOOR = WHOLE // 2
"""50 %: ``50% or more owned``, 28 CFR 202.211(a)(1)."""


@dataclass(frozen=True, slots=True)
class Concern:
    """Which owners count: those of some countries, and some by name."""

    owners: frozenset[str] = frozenset()
    countries: frozenset[str] = frozenset()
    """Of the head office."""
    organised_in: frozenset[str] = frozenset()
    floor: int = FLOOR

    def names(self, owner: Owner) -> bool:
        """Whether an owner counts by itself."""
        return (
            owner.id in self.owners
            or owner.country in self.countries
            or (owner.organised_in is not None and owner.organised_in in self.organised_in)
        )


@dataclass(frozen=True, slots=True)
class Held:
    """What owners that count hold of one company together, in ten-thousandths of a percent."""

    share: int = 0
    possible: int = 0
    """The same if every disputed stake and owner counted too."""
    mark: str = ""
    """The weakest of the facts that were added up."""
    checked: date | None = None
    """The oldest of them."""


@dataclass(frozen=True)
class Graph:
    """Owners and stakes; no stake names an owner that is not there, and none leads back to itself."""

    owners: Mapping[str, Owner]
    stakes: Sequence[Stake] = ()
    above: Mapping[str, tuple[Stake, ...]] = field(init=False)
    """The stakes in a company, largest first."""
    _held: dict[Concern, dict[str, Held]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        above: dict[str, list[Stake]] = {}
        for stake in self.stakes:
            above.setdefault(stake.of, []).append(stake)
        ordered = {of: tuple(sorted(into, key=_largest)) for of, into in above.items()}
        object.__setattr__(self, "above", ordered)

    def walk(self, owner: str) -> tuple[Stake, ...]:
        """The steps from a company to its ultimate owner; none if nobody decides over it, or two do."""
        steps: list[Stake] = []
        while True:
            deciding = [s for s in self.above.get(owner, ()) if s.counts and s.decides]
            if len(deciding) != 1:
                return tuple(steps)
            steps.append(deciding[0])
            owner = deciding[0].by

    def chain(self, owner: str) -> tuple[Stake, ...]:
        """Every stake above a company, nearest first, disputed and given up ones too; each once."""
        found: dict[tuple[str, str], Stake] = {}
        level = [owner]
        while level:
            into = [stake for of in level for stake in self.above.get(of, ())]
            level = list(dict.fromkeys(s.by for s in into if (s.of, s.by) not in found))
            found |= {(s.of, s.by): s for s in into}
        return tuple(found.values())

    def held(self, owner: str, concern: Concern) -> Held:
        """What owners that count hold of a company, directly and through others, alone and together. A company that
        counts by itself is held whole."""
        known = self._held.setdefault(concern, {})
        for node in self._upwards(owner):
            if node not in known:
                known[node] = self._of(node, concern, known)
        return known[owner]

    def _of(self, node: str, concern: Concern, known: Mapping[str, Held]) -> Held:
        self_named = self.owners[node]
        if concern.names(self_named):
            sure = 0 if self_named.disputed else WHOLE
            return Held(sure, WHOLE, self_named.mark, self_named.checked)
        share = possible = 0
        mark, checked = "", None
        for stake in self._in_force(node):
            by = known[stake.by]
            part = stake.share or 0
            if by.possible >= concern.floor:
                possible += part
            if stake.counts and by.share >= concern.floor and part:
                share += part
                mark = weaker(mark, stake.mark, by.mark)
                checked = min(d for d in (checked, stake.checked, by.checked) if d is not None)
        return Held(share, possible, mark, checked)

    def _in_force(self, owner: str) -> list[Stake]:
        return [stake for stake in self.above.get(owner, ()) if stake.until is None]

    def _upwards(self, owner: str) -> Iterator[str]:
        """The companies above one, and itself, each after all that hold it."""
        done: set[str] = set()
        waiting = [owner]
        while waiting:
            node = waiting[-1]
            first = [s.by for s in self._in_force(node) if s.by not in done]
            if first:
                waiting += first
                continue
            waiting.pop()
            if node not in done:
                done.add(node)
                yield node


def cycle(stakes: Iterable[Stake]) -> tuple[str, ...]:
    """Owners that hold each other in a circle, the first one again at the end; empty if there are none."""
    above: dict[str, list[str]] = {}
    for stake in stakes:
        above.setdefault(stake.of, []).append(stake.by)
    done: set[str] = set()
    for start in above:
        path: list[str] = []
        waiting = [(start, iter(above.get(start, ())))]
        while waiting:
            node, others = waiting[-1]
            if not path or path[-1] != node:
                path.append(node)
            following = next((o for o in others if o not in done), None)
            if following is None:
                done.add(node)
                waiting.pop()
                path.pop()
            elif following in path:
                return (*path[path.index(following) :], following)
            else:
                waiting.append((following, iter(above.get(following, ()))))
    return ()


def _largest(stake: Stake) -> tuple[int, str]:
    return -(stake.share or stake.votes or 0), stake.by
