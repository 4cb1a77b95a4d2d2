"""What must hold between the entries of ownership files: every fault with its line, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise

from agent.core.errors import Fault
from agent.policy.document import Document
from agent.policy.faults import nearest
from agent.policy.graph import cycle
from agent.policy.holders import WHOLE, Holding, Owner, OwnershipFile, Stake, percent
from agent.policy.placed import Placed

AnyEntry = Placed[Owner] | Placed[Stake] | Placed[Holding]
SLACK = timedelta(days=1)
"""How far a date may lie ahead: somewhere it is tomorrow already."""


@dataclass(frozen=True)
class Written:
    """The entries of ownership files, in the order read."""

    owners: Sequence[Placed[Owner]]
    stakes: Sequence[Placed[Stake]]
    networks: Sequence[Placed[Holding]]

    @classmethod
    def of(cls, files: Sequence[tuple[Document, OwnershipFile]]) -> Written:
        """Every entry of some files."""
        return cls(
            [Placed(o.id, o, d, ("owners", i)) for d, f in files for i, o in enumerate(f.owners)],
            [Placed(s.of, s, d, ("stakes", i)) for d, f in files for i, s in enumerate(f.stakes)],
            [Placed(n.provider, n, d, ("networks", i)) for d, f in files for i, n in enumerate(f.networks)],
        )

    def under(self, own: Written) -> Written:
        """These entries and an operator's own, which win: an owner by its id, a stake by both ends, a network by its
        number."""
        owners = {o.id for o in own.owners}
        stakes = {(s.value.of, s.value.by) for s in own.stakes if s.value}
        taken = {asn for n in own.networks if n.value for asn in n.value.asns}
        networks = []
        for placed in self.networks:
            if placed.value is None:
                continue
            left = tuple(asn for asn in placed.value.asns if asn not in taken)
            if left:
                value = placed.value.model_copy(update={"asns": left})
                networks.append(placed if left == placed.value.asns else replace(placed, value=value))
        return Written(
            [*(o for o in self.owners if o.id not in owners), *own.owners],
            [*(s for s in self.stakes if s.value and (s.value.of, s.value.by) not in stakes), *own.stakes],
            [*networks, *own.networks],
        )


def repeated(written: Written) -> Iterator[Fault]:
    """A fault for each owner, stake or network that is given twice."""
    owners: dict[str, Placed[Owner]] = {}
    for owner in written.owners:
        if owner.id and (first := owners.setdefault(owner.id, owner)) is not owner:
            told = f"owner `{owner.id}` is given twice, first {_at(first, owner)}"
            yield owner.fault(told, "rename or remove one")
    stakes: dict[tuple[str, str], Placed[Stake]] = {}
    for stake in written.stakes:
        if stake.value is None:
            continue
        pair = (stake.value.of, stake.value.by)
        if (before := stakes.setdefault(pair, stake)) is not stake:
            told = f"what `{pair[1]}` holds of `{pair[0]}` is given twice, first {_at(before, stake)}"
            yield stake.fault(told, "keep one of them")
    seen: dict[int, Placed[Holding]] = {}
    for network in written.networks:
        for place, asn in enumerate(network.value.asns if network.value else ()):
            if (earlier := seen.setdefault(asn, network)) is not network:
                told = f"AS{asn} is given twice, first {_at(earlier, network)}"
                advice = "an autonomous system stands in one row"
                yield network.fault(told, advice, ("asns", place))


def across(written: Written, asked: Sequence[Document], today: date | None) -> Iterator[Fault]:
    """Every fault between entries, of what is in force after an operator's own files have had their say.

    Owners that nothing leads to, and dates that lie ahead of ``today``, are looked for in the files ``asked``.
    """
    owners = {owner.id: owner for owner in written.owners}
    yield from _unused(written, asked)
    yield from _unknown(written, owners)
    yield from _over_the_whole(written.stakes)
    yield from _circles(written.stakes)
    yield from _providers(written.networks)
    if today is not None:
        yield from _ahead(written, asked, today + SLACK)


def _unused(written: Written, asked: Sequence[Document]) -> Iterator[Fault]:
    used = {n.value.owner for n in written.networks if n.value}
    held: dict[str, list[str]] = {}
    for stake in written.stakes:
        if stake.value:
            held.setdefault(stake.value.of, []).append(stake.value.by)
    waiting = list(used)
    while waiting:
        new = set(held.get(waiting.pop(), ())) - used
        used |= new
        waiting += new
    for owner in written.owners:
        if owner.id and owner.id not in used and _is_of(owner, asked):
            yield owner.fault(f"no network leads to owner `{owner.id}`", "remove it")


def _unknown(written: Written, owners: Mapping[str, Placed[Owner]]) -> Iterator[Fault]:
    for network in written.networks:
        if network.value and network.value.owner not in owners:
            yield network.fault(
                f"there is no owner `{network.value.owner}`",
                nearest(network.value.owner, sorted(owners)),
                ("owner",),
            )
    for stake in written.stakes:
        for key in ("of", "by"):
            name = getattr(stake.value, key, None)
            if name is not None and name not in owners:
                advice = nearest(name, sorted(owners)) or "add it under `owners:`"
                yield stake.fault(f"there is no owner `{name}`", advice, (key,))


def _over_the_whole(stakes: Sequence[Placed[Stake]]) -> Iterator[Fault]:
    for key, what in (("share", "the capital"), ("votes", "the votes")):
        sums: dict[str, int] = {}
        for stake in stakes:
            part = getattr(stake.value, key, None)
            if stake.value is None or part is None or not stake.value.counts:
                continue
            of = stake.value.of
            before, sums[of] = sums.get(of, 0), sums.get(of, 0) + part
            if before <= WHOLE < sums[of]:
                yield stake.fault(
                    f"owners of `{of}` hold {percent(sums[of])} of {what} together",
                    "correct a share, or say of one `to:` (given up) or `disputed: true`",
                    (key,),
                )


def _circles(stakes: Sequence[Placed[Stake]]) -> Iterator[Fault]:
    left = {(s.value.of, s.value.by): s for s in stakes if s.value is not None and s.value.until is None}
    while circle := cycle(s.value for s in left.values() if s.value):
        last = [pair for pair in left if pair in set(pairwise(circle))][-1]
        told = f"owners hold each other in a circle: {' <- '.join(circle)}"
        yield left.pop(last).fault(told, "leave out the smallest of these stakes")


def _providers(networks: Sequence[Placed[Holding]]) -> Iterator[Fault]:
    first: dict[str, Holding] = {}
    for placed in networks:
        if (one := placed.value) is None:
            continue
        known = first.setdefault(one.provider, one)
        if (known.owner, known.provider_name, known.disputed) != (one.owner, one.provider_name, one.disputed):
            yield placed.fault(
                f"rows of provider `{one.provider}` differ in owner, name or dispute",
                "give this one another provider id",
                ("provider",),
            )


def _ahead(written: Written, asked: Sequence[Document], last: date) -> Iterator[Fault]:
    """Dates that are still to come, of what is said to have been seen or done."""
    written_all: list[AnyEntry] = [*written.owners, *written.stakes, *written.networks]
    for placed in written_all:
        for key, name in (("checked", "checked"), ("since", "from"), ("until", "to")):
            day = getattr(placed.value, key, None)
            text = day.isoformat() if isinstance(day, date) else day
            if text and _is_of(placed, asked) and text > last.isoformat()[: len(text)]:
                yield placed.fault(f"the date {text} lies ahead", "give the day on which it was so", (name,))


def _at(first: AnyEntry, now: AnyEntry) -> str:
    if now.document is first.document:
        return f"on line {first.document.line_of(first.keys)}"
    return f"at {first.where}"


def _is_of(placed: AnyEntry, documents: Sequence[Document]) -> bool:
    return any(placed.document is document for document in documents)
