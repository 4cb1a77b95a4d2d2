"""Logs: one event name per fact, snake case, past tense; values as keys; nothing per flow.

Human-readable on a terminal, JSON lines elsewhere; always to standard error or a file, never to standard output.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from agent.core import log
from agent.core.log import Log
from agent.words.escape import shown_in

if TYPE_CHECKING:
    import structlog


class _Unfailing:
    """A stream whose faults stop nobody: on a full disk the program's work matters more than its log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""Of sd-daemon(3), in front of each line: the journal takes them off and sorts by them."""


def configure(
    *, level: int = logging.INFO, file: Path | None = None, service: bool = False, language: str = "en"
) -> None:
    """Set up logging for the process, from ``level`` up. ``file`` takes the lines instead of standard error (a live view owns the screen).

    ``service``: JSON lines whatever standard error is, with priorities where it is the journal. ``language`` is that of
    the lines on a terminal.
    """
    stream: TextIO = file.open("a", encoding="utf-8") if file else sys.stderr
    log.before_first(level, functools.partial(_configure, level, stream, service, language))


def _configure(level: int, stream: TextIO, service: bool, language: str) -> None:
    import structlog

    renderer: structlog.typing.Processor
    after: list[structlog.typing.Processor] = []
    if service:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
        after = [_with_priority(renderer)] if _is_journal(stream) else []
    elif stream.isatty():
        renderer = _ForPeople(language)
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _harmless,
            *(after or [renderer]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Unfailing(stream))),
        cache_logger_on_first_use=False,
    )


class _ForPeople:
    """A line as people read it: when, what in words, and its values."""

    def __init__(self, language: str) -> None:
        self._language = language

    def __call__(self, _logger: object, _method: str, event: structlog.typing.EventDict) -> str:
        """The line."""
        from agent.words import screen_phrases  # here: most runs log nothing

        say = screen_phrases(self._language)
        name, clock = str(event.pop("event")), str(event.pop("timestamp"))[11:19]
        for unwanted in ("level", "part"):
            event.pop(unwanted, None)
        trace = event.pop("exception", "")
        values = ", ".join(f"{key} {_plain(value)}" for key, value in event.items() if value is not None)
        named = say.named("event", say.named("log", name))
        named = name.replace("_", " ") if named == name else named
        line = say("event_detail", key=named, value=values) if values else named
        return f"{clock}Z {line}" + (f"\n{trace}" if trace else "")


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _is_journal(stream: TextIO) -> bool:
    """Whether the stream goes to the journal (``JOURNAL_STREAM``, systemd.exec(5))."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def _with_priority(renderer: structlog.typing.Processor) -> structlog.typing.Processor:
    def render(logger: object, method: str, event: structlog.typing.EventDict) -> str:
        priority = _PRIORITIES.get(str(event.get("level")), 6)
        return f"<{priority}>" + str(renderer(logger, method, event))

    return render


def _harmless(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Names of hosts, interfaces and processes are written by strangers, and whoever reads logs has a terminal."""
    return {key: value if key == "exception" else shown_in(value, 2000) for key, value in event.items()}


def get(name: str) -> Log:
    """A logger that states its part of the program."""
    return Log(part=name)
