"""What a collector said, held against the truth: amounts to the octet, and every row's process.

A row's process is *right* (the process that sent), *listener* (the one that made the listening socket: its service is
right, which worker is not said), *unknown* (nothing is claimed) or *wrong*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.core.address import parse
from agent.core.flow import FlowBatch, Mark
from tests.capture.wire import Counts

Flags = NDArray[np.bool_]
_NO_PROTOCOL = 255
"""IANA "reserved": a row of what a collector could not keep apart has no ends and no protocol."""
VERDICTS = ("right", "listener", "unknown", "wrong")


@dataclass(frozen=True, slots=True)
class Actor:
    """A process as the kernel knew it while it ran."""

    pid: int
    process: str
    executable: str
    uid: int
    cgroup: str | None = None
    """Path below the mount of cgroup v2; None where there is no such mount."""

    def is_meant_by(self, row: dict[str, Any]) -> bool:
        """Whether nothing that the row says speaks against this process."""
        for name in ("pid", "process", "executable", "uid"):
            if row[name] is not None and row[name] != getattr(self, name):
                return False
        said = row["cgroup"]
        return said is None or self.cgroup is None or said.rstrip("/").endswith(self.cgroup)


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose the rows with these ports are; None stands for any port."""

    right: tuple[Actor, ...]
    """Nobody at all where the kernel itself sends."""
    local_port: int | None = None
    remote_port: int | None = None
    listener: tuple[Actor, ...] = ()
    """Who made the socket that listened, or that was handed over, where that is another process."""

    def covers(self, rows: FlowBatch) -> Flags:
        """Which rows it speaks of."""
        chosen = np.ones(len(rows), bool)
        for name, port in (("local_port", self.local_port), ("remote_port", self.remote_port)):
            if port is not None:
                chosen &= rows[name] == port
        return chosen

    def judge(self, row: dict[str, Any]) -> str:
        """One of ``VERDICTS``."""
        named = any(row[name] is not None for name in ("pid", "process", "executable"))
        if not self.right and not self.listener:
            return "wrong" if named else "unknown"
        if any(actor.is_meant_by(row) for actor in self.right):
            return "right" if named else "unknown"
        if any(actor.is_meant_by(row) for actor in self.listener):
            return "listener" if named else "unknown"
        return "wrong"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one scenario of one family went."""

    true: Counts
    counted: Counts
    octets_by: dict[str, int] = field(default_factory=dict)
    """Verdict on the process -> octets, both directions, of the rows that a claim speaks of."""
    wrong: tuple[str, ...] = ()
    """What was said of rows with a wrong process."""
    resets: int = 0
    """How many of the true packets were resets of no connection."""

    @property
    def exact(self) -> bool:
        """Whether every amount is the truth."""
        return self.true == self.counted

    @property
    def error(self) -> Counts:
        """Counted less true."""
        return self.counted - self.true


def judge(rows: FlowBatch, true: Counts, local: set[str], protocols: tuple[int, ...], claims: Sequence[Claim]) -> Verdict:  # fmt: skip
    """Compare the rows of one family with the truth and with the claims. Transit is never summed, so it is left out.

    A sum of what could not be kept apart counts, and names nobody; it has no family, so let only one be played then.
    """
    summed = rows["marks"] & int(Mark.TRANSIT) == 0
    placed = _of(rows, local) & np.isin(rows["protocol"], protocols)
    mine = rows.take(np.flatnonzero(summed & (placed | (rows["protocol"] == _NO_PROTOCOL))))
    counted = Counts(*(int(mine[name].sum()) for name in Counts.__slots__))
    octets: Counter[str] = Counter()
    wrong = []
    left = mine["protocol"] != _NO_PROTOCOL
    if apart := int(mine["octets_out"][~left].sum() + mine["octets_in"][~left].sum()):
        octets["unknown"] = apart
    for claim in claims:
        chosen = claim.covers(mine) & left
        left &= ~chosen
        for row, many in _kinds(mine.take(np.flatnonzero(chosen))):
            verdict = claim.judge(row)
            octets[verdict] += many
            if verdict == "wrong":
                wrong.append(f"{row} instead of {claim.right[:3]}{claim.listener}")
    return Verdict(true, counted, {name: octets[name] for name in VERDICTS if octets[name]}, tuple(wrong))


def _of(rows: FlowBatch, local: set[str]) -> Flags:
    """Rows whose local end is one of these addresses."""
    chosen = np.zeros(len(rows), bool)
    for address in parse(sorted(local)):
        chosen |= (rows["local_address"] == address).all(axis=1)
    return chosen


def _kinds(rows: FlowBatch) -> list[tuple[dict[str, Any], int]]:
    """The different processes that rows name, each with its octets."""
    names = ("pid", "process", "executable", "uid", "cgroup")
    if not len(rows):
        return []
    keys = np.stack([rows[name].astype(np.int64) for name in names], axis=1)
    kinds, which = np.unique(keys, axis=0, return_inverse=True)
    octets = np.bincount(which.ravel(), weights=rows["octets_out"] + rows["octets_in"], minlength=len(kinds))
    out = []
    for kind, many in zip(kinds.tolist(), octets.tolist(), strict=True):
        row: dict[str, Any] = {}
        for name, value in zip(names, kind, strict=True):
            is_text = name in ("process", "executable", "cgroup")
            row[name] = None if value < 0 else rows.text(name).values[value] if is_text else value
        out.append((row, int(many)))
    return out
