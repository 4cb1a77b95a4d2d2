"""The signals of a run: the first ``SIGINT`` or ``SIGTERM`` asks it to stop, the second ends it; ``SIGHUP`` reloads."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Signals:
    """Signal handlers for the time of a run; only in the main thread, elsewhere it does nothing."""

    def __init__(self, stop: threading.Event, asked: threading.Event) -> None:
        self._event, self._asked = stop, asked
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in (
            (signal.SIGINT, self._stop),
            (signal.SIGTERM, self._stop),
            (signal.SIGHUP, self._reload),
        ):
            self._before[number] = signal.signal(number, handler)

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()

    def _reload(self, number: int, _frame: FrameType | None) -> None:
        self._asked.set()
