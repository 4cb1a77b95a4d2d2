"""Loggers. One event name per fact, values as keys; structlog is loaded with the first fact that is told.

(It takes a tenth of the start with it, asyncio and ssl among them, and most runs of a command tell nothing.)
How a fact looks and where it goes is :mod:`agent.logs`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
_level = logging.NOTSET
_first: list[Callable[[], None]] = []
_configuring = threading.Lock()


def before_first(level: int, configure: Callable[[], None]) -> None:
    """From now on facts below ``level`` are dropped, and ``configure`` is called before the next one that is told."""
    global _level
    _level = level
    _first[:] = [configure]


class Log:
    """A logger that states ``bound`` with everything it tells, such as its part of the program."""

    __slots__ = ("_bound",)

    def __init__(self, **bound: Any) -> None:
        self._bound = bound

    def debug(self, event: str, **values: Any) -> None:
        """Of use to whoever looks for a fault."""
        self._tell("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """Something happened, as it should."""
        self._tell("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Something to look at; the work goes on."""
        self._tell("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """Something failed."""
        self._tell("error", event, values)

    def exception(self, event: str, **values: Any) -> None:
        """Something failed by the exception that is being handled, whose trace goes with it."""
        self._tell("exception", event, values)

    def _tell(self, method: str, event: str, values: dict[str, Any]) -> None:
        if _LEVELS.get(method, logging.ERROR) < _level:
            return
        if _first:
            with _configuring:
                while _first:
                    _first[0]()
                    del _first[0]
        import structlog

        getattr(structlog.get_logger(**self._bound), method)(event, **values)
