"""A run under a service manager: ready, status, reload, stop, and a sign of life only while rows really move.

The worker's own thread sends, at the end of a turn. So a worker that hangs in a stage, a disk or a lock gives no sign
of life; nor does one that turns in vain because a live collector, which must bring at least an empty batch every second,
has fallen silent. A commit that is refused again and again is no hang: a restart would not mend a full disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent import logs
from agent.core.clock import SECOND_NS, Clock
from agent.core.errors import SekishoError
from agent.notify import Notifier, Watchdog

STATUS_EVERY_NS: Final = 10 * SECOND_NS
SILENT_NS: Final = 20 * SECOND_NS
"""A live collector that brought nothing for so long is stuck, or half the watchdog's interval if that is less."""
_FEEDS: Final = 4
"""Signs of life in one interval of the watchdog."""


class Attendant:
    """Whoever is told how a run goes. This one makes nothing of it."""

    def begins(
        self, live: frozenset[str], failures: Mapping[str, SekishoError], stop: threading.Event
    ) -> None:
        """The run begins: names of its live collectors, where failures of collectors will stand, and what stops it."""

    def turned(self, collector: str) -> None:
        """The worker has gone through what a collector brought (empty: nothing came)."""

    def reloading(self) -> None:
        """Somebody asked to read policy and databases again."""

    def reloaded(self) -> None:
        """That is done, or was refused and told."""

    def retrying(self, reason: str) -> None:
        """A commit was refused and is tried again."""


@dataclass
class Service(Attendant):
    """Tells the service manager, and ends the run when a collector fails, so that the manager starts it again."""

    notifier: Notifier
    watchdog: Watchdog
    clock: Clock
    status: Callable[[], str]
    """How it goes, in one line."""
    ready: bool = False
    """Whether every live collector counts."""
    _live: frozenset[str] = frozenset()
    _failures: Mapping[str, SekishoError] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _heard: dict[str, int] = field(default_factory=dict)
    """Live collector -> when it brought something last, monotonic."""
    _began_ns: int = 0
    _fed_ns: int = 0
    _told_ns: int = 0
    _stopping: bool = False
    _stands_by: bool = False
    _fault: str = ""
    _silent: tuple[str, ...] = ()

    def begins(
        self, live: frozenset[str], failures: Mapping[str, SekishoError], stop: threading.Event
    ) -> None:
        """See :class:`Attendant`."""
        self._live, self._failures, self._stop = live, failures, stop
        self._began_ns = self.clock.monotonic_ns()
        if self.watchdog.fault:
            logs.get("service").warning("watchdog_not_fed", reason=self.watchdog.fault)
        self._send(STATUS="starting: waiting for the first counts")

    def tell(self, status: str) -> None:
        """Say in one line how it goes."""
        self._send(STATUS=status)

    def stands_by(self) -> None:
        """Another one leads, and this one would take over: that is all it is there for, so it is ready, and alive."""
        if not self._stands_by:
            self._stands_by = True
            self._send(READY=1, STATUS="standing by: another one leads")
        self._feed(self.clock.monotonic_ns())

    def turned(self, collector: str) -> None:
        """See :class:`Attendant`."""
        now_ns = self.clock.monotonic_ns()
        if collector in self._live:
            self._heard[collector] = now_ns
        if self._failures:
            self._stop.set()
        moving = self._is_moving(now_ns)
        if self._stop.is_set():
            self._say_stopping()
        elif not self.ready and self._heard.keys() >= self._live:
            self.ready, self._told_ns = True, now_ns
            self._send(READY=1, STATUS=self.status())
        elif self.ready and moving and now_ns - self._told_ns >= STATUS_EVERY_NS:
            self._told_ns = now_ns
            self._send(STATUS=self.status())
        if moving:
            self._feed(now_ns)

    def reloading(self) -> None:
        """See :class:`Attendant`."""
        # Managers from 253 on want to know since when (Type=notify-reload); older ones pass it over.
        self._send(RELOADING=1, MONOTONIC_USEC=_monotonic_us(), STATUS="reading policy and databases again")

    def reloaded(self) -> None:
        """See :class:`Attendant`."""
        self._send(READY=1, STATUS=self.status())

    def retrying(self, reason: str) -> None:
        """See :class:`Attendant`."""
        now_ns = self.clock.monotonic_ns()
        self._send(STATUS=f"the state cannot be written, trying again: {reason}")
        self._told_ns = now_ns
        # Collectors are held back by it: their silence is none of their own.
        self._heard = dict.fromkeys(self._heard, now_ns)
        self._feed(now_ns)

    def _is_moving(self, now_ns: int) -> bool:
        """Whether every live collector has been heard of lately; says once which has not."""
        if self._stop.is_set():
            return True
        patience_ns = min(SILENT_NS, self.watchdog.interval_ns // 2 or SILENT_NS)
        silent = tuple(
            sorted(
                name for name in self._live if now_ns - self._heard.get(name, self._began_ns) > patience_ns
            )
        )
        if silent and silent != self._silent:
            logs.get("service").error(
                "collector_silent", collectors=list(silent), seconds=patience_ns // SECOND_NS
            )
            self._send(STATUS=f"stuck: nothing comes from {', '.join(silent)}")
        self._silent = silent
        return not silent

    def _feed(self, now_ns: int) -> None:
        if self.watchdog.interval_ns and now_ns - self._fed_ns >= self.watchdog.interval_ns // _FEEDS:
            self._fed_ns = now_ns
            self._send(WATCHDOG=1)

    def _say_stopping(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._send(STOPPING=1, STATUS="stopping: handing out what is held")

    def _send(self, **fields: object) -> None:
        self.notifier.send(**fields)
        if self.notifier.fault and self.notifier.fault != self._fault:
            logs.get("service").warning(
                "service_manager_not_told",
                reason=self.notifier.fault,
                advice="the manager sets it (Type=notify, NotifyAccess=main); unset NOTIFY_SOCKET elsewhere",
            )
        self._fault = self.notifier.fault


def _monotonic_us() -> int:
    """CLOCK_MONOTONIC in microseconds, as sd_notify(3) asks for."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
