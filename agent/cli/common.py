"""What the commands share: settings from flags, consoles, tables, numbers."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from agent import config, logs
from agent.cli.examples import EXAMPLES
from agent.core.clock import when
from agent.policy.model import duration_ns
from agent.words import shown


@dataclass(frozen=True)
class Options:
    """The options before the command's name."""

    config_file: Path | None
    flags: tuple[tuple[str, str], ...]
    state_dir: Path | None
    verbose: bool

    @classmethod
    def of(
        cls, config_file: str | None, flags: Sequence[str], state_dir: str | None, verbose: bool
    ) -> Options:
        """From what click read. Raises ``click.UsageError``."""
        pairs: list[tuple[str, str]] = []
        for flag in flags:
            name, sign, value = flag.partition("=")
            if not sign or not name:
                raise click.UsageError(f"--set {flag}: expected NAME=VALUE, such as --set language=ja")
            pairs.append((name, value))
        if state_dir == "":
            raise click.UsageError("--state-dir is empty; expected a folder")
        folder = None if state_dir is None else Path(state_dir).expanduser().absolute()
        return cls(Path(config_file) if config_file else None, tuple(pairs), folder, verbose)

    def level(self, usual: int) -> int:
        """The level from which logs are shown: ``usual``, or everything with --verbose."""
        return logging.DEBUG if self.verbose else usual

    def load(self, *more: tuple[str, Any]) -> config.Loaded:
        """The settings in force; ``more`` wins over everything. Raises :class:`agent.core.errors.ConfigError`."""
        logs.configure(level=self.level(logging.WARNING))
        folder = () if self.state_dir is None else (("state_dir", self.state_dir),)
        return config.load(self.config_file, flags=self.flags, given=(*folder, *more))


def example(name: str) -> str:
    """The examples of a command, for the end of its help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name])


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave the exit code to :func:`agent.cli.main`, as for any other output."""
        raise BrokenPipeError


PIPED_WIDTH = 200
"""Columns where nobody says how wide the paper is: rows in a pipe or a file are not folded at 80."""
LEAST_WIDTH = 40
"""Narrower than this a table would show nothing at all."""


def console(*, err: bool = False) -> Console:
    """A console that honours NO_COLOR, COLUMNS, pipes and the terminal's width; text is text, never markup."""
    piped = not (sys.stderr if err else sys.stdout).isatty()
    made = _Console(stderr=err, highlight=False, markup=False, emoji=False, soft_wrap=piped)
    if piped and not os.environ.get("COLUMNS"):
        made.width = PIPED_WIDTH
    elif made.width < LEAST_WIDTH:
        made.width = LEAST_WIDTH
    return made


class _Table(Table):
    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Names come from databases, traffic and other people: whatever they hold, they are shown as text."""
        super().add_row(*(Text(shown(c)) if isinstance(c, str) else c for c in cells), **options)


def table(columns: Iterable[str | tuple[str, str]], *, title: str | None = None) -> Table:
    """An unframed table; a column given as (name, "right") is aligned to the right."""
    made = _Table(title=title, box=None, pad_edge=False, title_justify="left", header_style="bold")
    for column in columns:
        name, justify = column if isinstance(column, tuple) else (column, "left")
        made.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    return made


def size(octets: float) -> str:
    """Octets in decimal units, short: ``42.1 GB``."""
    value = float(octets)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} PB"


def place(country: str | None) -> str:
    """A country code, or a dash where no source says."""
    return country or "-"


def moment(time_ns: int, zone: tzinfo | None) -> str:
    """A time as people read it: local, with its zone."""
    return when(time_ns, zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def span_ns(text: str, flag: str) -> int:
    """A span such as ``2h``, given with ``flag``, as nanoseconds. Raises ``click.BadParameter``."""
    try:
        return duration_ns(text)
    except ValueError as error:
        raise click.BadParameter(f"{text}: {error}", param_hint=flag) from None


def point_ns(text: str, flag: str, now_ns: int, zone: tzinfo | None) -> int:
    """A span before now (``2h``) or a date and time (``2026-11-18 16:00``, local unless it says otherwise).

    Raises ``click.BadParameter`` that names ``flag``.
    """
    with contextlib.suppress(ValueError):
        return now_ns - duration_ns(text)
    try:
        given = datetime.fromisoformat(text)
        if given.tzinfo is None:
            given = given.replace(tzinfo=zone) if zone else given.astimezone()
        return int(given.timestamp()) * 10**9
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text}: expected a span such as 2h or 7d, or a time such as 2026-11-18T16:00", param_hint=flag
        ) from None
