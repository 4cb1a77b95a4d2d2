"""What is kept of a heartbeat, and the holes that follow: plain values, and how an account tells of loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent.core.heartbeat import Beat, LaneSaid, of_account
from agent.detection.coverage import OPEN, UNBOUNDED, Hole

LARGEST_FRAME: Final = 65_575
"""Octets that one lost frame can have had: an IPv6 packet with its header, cut into frames by the card."""


@dataclass(slots=True)
class Stored:
    """A hole that is kept."""

    from_ns: int
    to_ns: int
    reason: str
    octets: int = UNBOUNDED
    uncovers: bool = True
    run: str = ""
    waits: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Lane -> batches, first and last, that would fill it; empty: nothing does."""
    spool: bool = False
    """It waits for what the last run left in the agent's spool."""
    shrinks_to: int = OPEN
    """Where it begins once that has come; :data:`OPEN`: it is none then."""
    emptied_ns: int = 0
    """Append time of the first heartbeat that said so; 0 before."""

    def hole(self) -> Hole:
        """As coverage counts it."""
        return Hole(self.from_ns, self.to_ns, self.reason, self.octets, self.uncovers)


@dataclass(slots=True)
class Mark:
    """How far an agent was at one heartbeat."""

    time_ns: int
    next: dict[int, int]
    sealed: int
    spool_dropped: int
    heard_ns: int


_TIERS: Final = ("ebpf", "tc", "af_packet", "conntrack", "")


def rank(tier: str) -> int:
    """0 is the best way of watching."""
    return _TIERS.index(tier) if tier in _TIERS else 2


def plain(one: Mark | Stored) -> dict[str, Any]:
    """Its fields by name; shares what they hold."""
    return {name: getattr(one, name) for name in one.__slots__}


def mark_of(table: Mapping[str, Any]) -> Mark:
    """Take back what :func:`plain` gave, through JSON."""
    return Mark(**{**table, "next": {int(lane): n for lane, n in table["next"].items()}})


def lanes_of(beat: Beat) -> dict[int, LaneSaid]:
    """Lane -> what a heartbeat says of it."""
    return {int(lane): said for lane, said in beat.lanes.items() if lane in ("0", "1")}


def lost_of(account: Mapping[str, Any]) -> int:
    """Octets that were captured and let go, or frames that nobody could count, at most."""
    octets = of_account(account, "dropped").octets_out
    frames = account.get("lost_frames", {})
    for lost in frames.values() if isinstance(frames, Mapping) else ():
        if isinstance(lost, Mapping):
            octets += int(lost.get("octets") or 0) or int(lost.get("frames") or 0) * LARGEST_FRAME
    return octets


def unobserved_of(account: Mapping[str, Any]) -> tuple[float, int] | None:
    """Seconds in which nothing was counted, and the octets that interface counters bound; None where there were none."""
    found = account.get("unobserved", {})
    if not isinstance(found, Mapping) or not found:
        return None
    seconds, octets = 0.0, 0
    for one in found.values():
        if not isinstance(one, Mapping):
            continue
        seconds += float(one.get("seconds") or 0.0)
        most = one.get("octets_out_at_most")
        octets = UNBOUNDED if most is None or octets < 0 else octets + int(most)
    return seconds, octets
