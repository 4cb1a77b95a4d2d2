"""Loggers that load structlog with the first fact that is told."""

from __future__ import annotations

import logging
import subprocess
import sys

from structlog.testing import capture_logs

from agent.core import log
from agent.core.log import Log


def test_a_fact_is_told_with_what_the_logger_is_bound_to() -> None:
    """A fact goes out under its level, with its values and those of the logger."""
    with capture_logs() as told:
        Log(part="a").warning("file_lost", file="x")
        Log(part="b").info("ended")
    assert told == [
        {"part": "a", "file": "x", "event": "file_lost", "log_level": "warning"},
        {"part": "b", "event": "ended", "log_level": "info"},
    ]


def test_what_is_below_the_level_is_dropped_before_anything_is_set_up() -> None:
    """Facts below the level are dropped and set nothing up; the first above it sets up once, and errors always pass."""
    calls: list[str] = []
    log.before_first(logging.ERROR, lambda: calls.append("configured"))
    with capture_logs() as told:
        Log().debug("a")
        Log().warning("b")
        assert calls == []
        Log().error("c")
        Log().error("d")
    assert calls == ["configured"]
    assert [line["event"] for line in told] == ["c", "d"]


def test_an_exception_takes_its_trace_along() -> None:
    """``exception`` within a handler marks the fact with the exception being handled."""
    with capture_logs() as told:
        try:
            raise ValueError("x")
        except ValueError:
            Log().exception("crashed")
    assert [(line["event"], line["log_level"], line["exc_info"]) for line in told] == [
        ("crashed", "error", True)
    ]


def test_nothing_is_loaded_until_a_fact_is_told() -> None:
    """A logger, a configuration and a dropped fact load no structlog; a fact that is told does."""
    said = """
import logging, sys
from agent import logs
logs.configure(level=logging.WARNING)
logs.get("a").info("small")
print("structlog" in sys.modules)
logs.get("a").warning("large", name="b\\x1b")
print("structlog" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert '"event": "large"' in done.stderr and "\\u001b" not in done.stderr
