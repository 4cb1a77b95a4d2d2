"""Progress of what takes over a moment: on a terminal, on standard error, never beside JSON."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import click

AFTER_S = 0.4
"""What is done sooner shows no bar."""


class Bar:
    """A bar that appears once the work takes a while and is gone when it is done. Thread-safe.

    ``with Bar("reading") as bar: bar.step(done, total)``; a total of None or 0 is unknown. ``what`` may be what gives
    the words, which is asked only if they are shown: reading all phrases takes 10 ms.
    """

    def __init__(self, what: str | Callable[[], str], *, octets: bool = False, show: bool = True) -> None:
        self._what, self._octets = what, octets
        self._done: float = 0
        self._total: float | None = None
        self._show = show and sys.stderr.isatty() and not _wants_json() and _can_draw()
        self._over = threading.Event()
        self._painter = threading.Thread(target=self._paint, name="progress", daemon=True)

    def step(self, done: float, total: float | None = None, what: str | None = None) -> None:
        """Say how far the work is, and perhaps what it is at now."""
        self._done, self._total = done, total or None
        self._what = what or self._what

    def __enter__(self) -> Self:
        if self._show:
            self._painter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._show:
            self._painter.join()

    def _paint(self) -> None:
        if self._over.wait(AFTER_S):
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        from agent.cli.screen import console

        amounts = (DownloadColumn(), TimeRemainingColumn()) if self._octets else ()
        if callable(self._what):
            self._what = self._what()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amounts)
        with Progress(*columns, console=console(err=True), transient=True) as progress:
            task = progress.add_task(self._what, total=self._total)
            while not self._over.wait(0.1):
                progress.update(task, description=self._what, completed=self._done, total=self._total)


def _can_draw() -> bool:
    from agent.cli.screen import is_terminal

    return is_terminal(sys.stderr)


def _wants_json() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.params.get("as_json"))
