"""What only time shows of a case: that its traffic has stopped, goes on, has doubled, or that nobody takes it.

Asked live only, by the watermark, once a minute: a replay has no people who could take a case, and its batches' size
must not decide who is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS
from agent.core.finding import Case, CaseState, NoticeKind, RelayState, Severity, TrafficState

GRAIN_NS: Final = MINUTE_NS
"""How often it is asked, by the watermark."""
STOPPED_AFTER_NS: Final = 30 * MINUTE_NS
"""Traffic has stopped when nothing was sent for so long."""
DOUBLED_EVERY_NS: Final = HOUR_NS
LEG_EVERY_NS: Final = HOUR_NS
AGAIN_NS: Final = DAY_NS
"""What goes on is told again after so long, and what stopped is told once in so long."""
UNACKNOWLEDGED_NS: Final[Mapping[Severity, int]] = {
    Severity.MEDIUM: DAY_NS,
    Severity.HIGH: HOUR_NS,
    Severity.CRITICAL: HOUR_NS,
}
"""Within what time a person is expected to take a case; below medium nobody is."""


@dataclass(slots=True)
class Said:
    """What people were told of one case."""

    severity: int
    """Told last."""
    times: int = 0
    """Since it opened, between opening and stopping."""
    told_ns: int | None = None
    """When they were told last of whatever; None: never."""
    octets: int = 0
    """Content octets that were told last."""
    doubled_ns: int = 0
    stopped_ns: int | None = None
    waits_ns: int = 0
    """Since when somebody should take it, at ``waits_as``."""
    waits_as: int = 0
    reminded: bool = False
    legs: list[list[str]] = field(default_factory=list)
    """Ways over hosts inside that were told, each as addresses."""
    leg_ns: int = 0

    @classmethod
    def of(cls, case: Case) -> Self:
        """Of a case that people were told of as it stands."""
        said = cls(severity=case.severity)
        said.note(NoticeKind.OPENED, case, case.updated_ns)
        return said

    @classmethod
    def restored(cls, state: Any, case: Case) -> Self:
        """What :meth:`state` gave; also the two numbers that older versions kept."""
        if isinstance(state, dict):
            return cls(**state)
        said = cls.of(case)
        said.times, said.severity = state
        return said

    def state(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def begin(self, case: Case) -> None:
        """It opens, or opens again."""
        self.times, self.severity = 0, case.severity

    def may_stop(self, time_ns: int) -> bool:
        """Whether a stop is told: traffic that comes and goes stops once a day for people."""
        return self.stopped_ns is None or time_ns - self.stopped_ns >= AGAIN_NS

    def note(self, kind: NoticeKind, case: Case, time_ns: int) -> None:
        """People are told."""
        if self.told_ns is None or case.severity > self.waits_as:
            self.waits_ns, self.waits_as, self.reminded = time_ns, case.severity, False
        self.told_ns, self.octets = time_ns, case.traffic.content_octets_out
        self.legs += [leg for leg in legs(case) if leg not in self.legs]
        if kind is NoticeKind.DOUBLED:
            self.doubled_ns = time_ns
        elif kind is NoticeKind.LEG:
            self.leg_ns = time_ns
        elif kind is NoticeKind.CLOSED:
            self.stopped_ns = time_ns
        elif kind is NoticeKind.UNACKNOWLEDGED:
            self.reminded = True
        elif kind is NoticeKind.OPENED:
            self.stopped_ns, self.doubled_ns = None, time_ns


def legs(case: Case) -> list[list[str]]:
    """Addresses of the hosts on each way that fits in time and volume; what is only possible is no news."""
    return [list(one.hosts) for one in case.traffic.relays if one.state is RelayState.MATCHED]


def due(before: Case, after: Case, said: Said, now_ns: int) -> NoticeKind | None:
    """Why people are told of a case at this minute, if they are; never of one of which nobody was told yet."""
    if said.told_ns is None:
        return None
    if after.traffic_state is TrafficState.STOPPED:
        if before.traffic_state is not TrafficState.STOPPED and said.may_stop(now_ns):
            return NoticeKind.CLOSED
        return NoticeKind.UNACKNOWLEDGED if _waits(after, said, now_ns) else None
    is_new = any(leg not in said.legs for leg in legs(after))
    if is_new and now_ns - said.leg_ns >= LEG_EVERY_NS:
        return NoticeKind.LEG
    if _waits(after, said, now_ns):
        return NoticeKind.UNACKNOWLEDGED
    has_doubled = after.traffic.content_octets_out >= 2 * said.octets > 0
    if has_doubled and now_ns - said.doubled_ns >= DOUBLED_EVERY_NS:
        return NoticeKind.DOUBLED
    return NoticeKind.DAILY if now_ns - said.told_ns >= AGAIN_NS else None


def _waits(case: Case, said: Said, now_ns: int) -> bool:
    """Whether nobody has taken it within its time, and nobody was reminded yet."""
    within = UNACKNOWLEDGED_NS.get(Severity(said.waits_as))
    is_open = case.state is CaseState.OPEN and not said.reminded
    return is_open and within is not None and now_ns - said.waits_ns >= within
