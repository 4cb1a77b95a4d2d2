"""The account: where every flow and octet that was captured went.

    captured = excluded[reason] + dropped[reason] + in_kernel + in_memory + sealed
    sealed   = decided + dead[reason] + waiting

Each term counts flows, octets_out and octets_in, cumulative for one run of the process. The residue of either line
is itself a figure, and must be 0. ``Accounts.drop`` is the only way to let rows go; a stage that returns fewer
octets than it took without calling it raises :class:`~agent.core.errors.AccountError` in the pipeline.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol, Self

from agent.core.errors import AccountError


@dataclass(frozen=True, slots=True)
class Amounts:
    """Flows and octets (IP layer, headers included) seen from the reporting host."""

    flows: int = 0
    octets_out: int = 0
    octets_in: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.flows + other.flows, self.octets_out + other.octets_out, self.octets_in + other.octets_in
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.flows - other.flows, self.octets_out - other.octets_out, self.octets_in - other.octets_in
        )

    def __bool__(self) -> bool:
        return bool(self.flows or self.octets_out or self.octets_in)

    def as_dict(self) -> dict[str, int]:
        """Plain numbers by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class Unobserved:
    """Time in which nothing was counted, and what can have passed in it at most."""

    seconds: float = 0.0
    octets_out_at_most: int | None = 0
    """IP layer; None: no counter bounds it."""
    octets_in_at_most: int | None = 0

    def __add__(self, other: Unobserved) -> Unobserved:
        both = (
            (self.octets_out_at_most, other.octets_out_at_most),
            (self.octets_in_at_most, other.octets_in_at_most),
        )
        out, in_ = (None if a is None or b is None else a + b for a, b in both)
        return Unobserved(self.seconds + other.seconds, out, in_)

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain numbers by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Rows beside the counters of the interfaces by which packets leave: octets at the IP layer, of the same time."""

    seconds: float = 0.0
    interfaces_out: int = 0
    rows_out: int = 0
    not_ip_out: int = 0
    """Of the interfaces' octets: frames that are no IP packets, such as ARP."""
    interfaces_in: int = 0
    rows_in: int = 0
    not_ip_in: int = 0

    def __add__(self, other: Reconciled) -> Reconciled:
        return Reconciled(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def unexplained_out(self) -> int:
        """What left by the interfaces and is in no row; 0 where rows have more (frames cut by the card, containers)."""
        return max(self.interfaces_out - self.not_ip_out - self.rows_out, 0)

    @property
    def unexplained_in(self) -> int:
        """As :attr:`unexplained_out`, of what came."""
        return max(self.interfaces_in - self.not_ip_in - self.rows_in, 0)

    @property
    def unexplained_share_out(self) -> float | None:
        """Of all that left, 0 to 1; None where nothing did."""
        return self.unexplained_out / self.interfaces_out if self.interfaces_out else None

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain numbers by name."""
        table: dict[str, float | int | None] = {f.name: getattr(self, f.name) for f in fields(self)}
        told = ("unexplained_out", "unexplained_in", "unexplained_share_out")
        return table | {name: getattr(self, name) for name in told}


class Counted(Protocol):
    """Anything that knows its own amounts, such as a batch."""

    def amounts(self) -> Amounts:
        """Flows and octets held."""


@dataclass(frozen=True, slots=True)
class Account:
    """One reading of the counters."""

    captured: Amounts
    excluded: Mapping[str, Amounts]
    dropped: Mapping[str, Amounts]
    in_kernel: Amounts
    in_memory: Amounts
    sealed: Amounts
    decided: Amounts
    dead: Mapping[str, Amounts]
    waiting: Amounts
    lost_frames: Mapping[str, tuple[int, int]]
    """Frames that were lost before a flow was known: reason -> (frames, octets at the frame layer, 0 if unknown)."""
    unobserved: Mapping[str, Unobserved] = field(default_factory=dict)
    """Time in which nothing was counted, by reason."""
    reconciled: Reconciled | None = None
    """Rows beside interface counters, of this run; None where no collector compares them."""

    @property
    def residue(self) -> Amounts:
        """What the first line cannot explain; must be zero."""
        gone = sum(self.excluded.values(), Amounts()) + sum(self.dropped.values(), Amounts())
        return self.captured - gone - self.in_kernel - self.in_memory - self.sealed

    @property
    def sealed_residue(self) -> Amounts:
        """What the second line cannot explain; must be zero."""
        return self.sealed - self.decided - sum(self.dead.values(), Amounts()) - self.waiting

    def rows(self) -> Iterator[tuple[str, Amounts]]:
        """Each term by name, for a table or metrics."""
        yield "captured", self.captured
        for reason, amounts in sorted(self.excluded.items()):
            yield f"excluded ({reason})", amounts
        for reason, amounts in sorted(self.dropped.items()):
            yield f"dropped ({reason})", amounts
        yield "in kernel", self.in_kernel
        yield "in memory", self.in_memory
        yield "sealed", self.sealed
        yield "decided", self.decided
        for reason, amounts in sorted(self.dead.items()):
            yield f"dead ({reason})", amounts
        yield "waiting", self.waiting
        yield "residue", self.residue
        yield "sealed residue", self.sealed_residue

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON and batch headers."""
        table: dict[str, object] = {name: amounts.as_dict() for name, amounts in self.rows()}
        table["lost_frames"] = {k: {"frames": f, "octets": o} for k, (f, o) in self.lost_frames.items()}
        table["unobserved"] = {k: u.as_dict() for k, u in self.unobserved.items()}
        table["reconciled"] = None if self.reconciled is None else self.reconciled.as_dict()
        return table


class Accounts:
    """The counters of one run. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._captured = Amounts()
        self._excluded: dict[str, Amounts] = {}
        self._dropped: dict[str, Amounts] = {}
        self._held: dict[str, Amounts] = {}
        self._kernel = Amounts()
        self._sealed = Amounts()
        self._decided = Amounts()
        self._dead: dict[str, Amounts] = {}
        self._waiting = Amounts()
        self._frames: dict[str, tuple[int, int]] = {}
        self._unobserved: dict[str, Unobserved] = {}
        self._reconciled: Reconciled | None = None

    def capture(self, amounts: Amounts, *, held_in: str | None = None) -> None:
        """Count what a collector has decoded, at the moment it did; ``held_in`` is where it is from that moment on."""
        with self._lock:
            self._captured += amounts
            if held_in is not None:
                self._held[held_in] = self._held.get(held_in, Amounts()) + amounts

    def hold(self, place: str, amounts: Amounts) -> None:
        """State (not add) what ``place``, such as a flow table or a queue, holds now."""
        with self._lock:
            self._held[place] = amounts

    def move(self, source: str | None, target: str | None, amounts: Amounts) -> None:
        """Move rows between two places of memory in one step, so that no reading sees them twice or not at all."""
        with self._lock:
            if source is not None:
                self._held[source] = self._held.get(source, Amounts()) - amounts
            if target is not None:
                self._held[target] = self._held.get(target, Amounts()) + amounts

    def in_kernel(self, amounts: Amounts) -> None:
        """State what the kernel still holds."""
        with self._lock:
            self._kernel = amounts

    def drain(
        self,
        captured: Amounts,
        in_kernel: Amounts,
        *,
        drained: Amounts = Amounts(),
        held_in: str = "",
    ) -> None:
        """Count what the kernel has counted since the last call, what it still holds, and what was read from it, which
        is from now on in ``held_in``: in one step, so that no reading sees it twice or not at all.
        """
        with self._lock:
            self._captured += captured
            self._kernel = in_kernel
            if drained:
                self._held[held_in] = self._held.get(held_in, Amounts()) + drained

    def drop(self, reason: str, what: Counted, *, held_in: str | None = None) -> None:
        """Let rows go that were captured. The only place that may; ``reason`` is snake case and bounded in number."""
        amounts = what.amounts()
        with self._lock:
            self._dropped[reason] = self._dropped.get(reason, Amounts()) + amounts
            if held_in is not None:
                self._held[held_in] = self._held.get(held_in, Amounts()) - amounts

    def exclude(self, reason: str, what: Counted, *, held_in: str | None = None) -> None:
        """Leave out rows because a setting says so."""
        amounts = what.amounts()
        with self._lock:
            self._excluded[reason] = self._excluded.get(reason, Amounts()) + amounts
            if held_in is not None:
                self._held[held_in] = self._held.get(held_in, Amounts()) - amounts

    def lose_frames(self, reason: str, frames: int, octets: int = 0) -> None:
        """Count frames that were lost or undecodable before their flow was known. ``octets`` 0 means unknown."""
        with self._lock:
            had_frames, had_octets = self._frames.get(reason, (0, 0))
            self._frames[reason] = (had_frames + frames, had_octets + octets)

    def unobserve(self, reason: str, what: Unobserved) -> None:
        """State that nothing was counted for a time; ``reason`` is snake case and bounded in number."""
        with self._lock:
            self._unobserved[reason] = self._unobserved.get(reason, Unobserved()) + what

    def reconcile(self, what: Reconciled) -> None:
        """Add a comparison of rows with interface counters."""
        with self._lock:
            self._reconciled = what if self._reconciled is None else self._reconciled + what

    def seal(self, amounts: Amounts, *, held_in: str | None = None) -> None:
        """Count rows that got their number and may no longer change."""
        with self._lock:
            self._sealed += amounts
            if held_in is not None:
                self._held[held_in] = self._held.get(held_in, Amounts()) - amounts

    def wait(self, amounts: Amounts) -> None:
        """State (not add) what sealed rows wait for their commit, as counted in the place where they wait."""
        with self._lock:
            self._waiting = amounts

    def decide(self, amounts: Amounts) -> None:
        """Count rows whose effect is committed."""
        with self._lock:
            self._decided += amounts

    def bury(self, reason: str, what: Counted) -> None:
        """Count sealed rows that can never be decided."""
        with self._lock:
            self._dead[reason] = self._dead.get(reason, Amounts()) + what.amounts()

    def read(self) -> Account:
        """All counters at one moment."""
        with self._lock:
            return Account(
                captured=self._captured,
                excluded=dict(self._excluded),
                dropped=dict(self._dropped),
                in_kernel=self._kernel,
                in_memory=sum(self._held.values(), Amounts()),
                sealed=self._sealed,
                decided=self._decided,
                dead=dict(self._dead),
                waiting=self._waiting,
                lost_frames=dict(self._frames),
                unobserved=dict(self._unobserved),
                reconciled=self._reconciled,
            )

    def check(self) -> Self:
        """Raise :class:`AccountError` if the residue is not zero."""
        account = self.read()
        if account.residue:
            raise AccountError(f"captured rows are missing from the account: {account.residue}")
        return self
