"""What the commands share: settings from flags, output, numbers. Light to import: a command's help needs no more."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.examples import EXAMPLES
from agent.cli.times import moment, point_ns, span_ns

if TYPE_CHECKING:
    from agent import config
    from agent.cli.screen import Column, Rows, Screen
    from agent.words import Phrases

__all__ = [
    "Command",
    "Group",
    "Options",
    "console",
    "echo",
    "echo_json",
    "example",
    "json_option",
    "language_of",
    "many",
    "moment",
    "paper",
    "place",
    "point_ns",
    "size",
    "span_ns",
    "spoken",
    "table",
    "tell",
    "words",
]


_SPOKEN: list[str] = []
"""Language of the settings that were read last."""


def spoken() -> str:
    """The language of the settings that were read last; English where none were."""
    return _SPOKEN[0] if _SPOKEN else "en"


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
        from agent import config, logs

        logs.configure(level=self.level(logging.WARNING))
        folder = () if self.state_dir is None else (("state_dir", self.state_dir),)
        loaded = config.load(self.config_file, flags=self.flags, given=(*folder, *more))
        logs.configure(level=self.level(logging.WARNING), language=loaded.settings.language)
        _SPOKEN[:] = [loaded.settings.language]
        return loaded


class Command(click.Command):
    """A command whose help shows every default."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click's, with defaults shown."""
        extra.setdefault("show_default", True)
        return super().make_context(info_name, args, parent, **extra)


class Group(click.Group):
    """Commands of one kind. A mistyped name is answered with the nearest."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command meant. Raises ``click.UsageError`` that names the nearest ones."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and self.get_command(ctx, name) is None:
            import difflib

            known = self.list_commands(ctx)
            near = difflib.get_close_matches(name.lower(), known, 1, 0.5)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(known)}."
            raise click.UsageError(f"No such command '{name}'. {hint}", ctx)
        return super().resolve_command(ctx, args)


def example(name: str) -> str:
    """The examples of a command, for the end of its help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name])


def person_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--by``, or ``--as``: who does this, for the record."""
    return click.option(
        "--by",
        "--as",
        "who",
        metavar="NAME",
        default=getpass.getuser,
        show_default="your user name",
        help="Your name, for the record.",
    )(function)


def json_option(help_text: str = "One JSON document instead of text.") -> Callable[[Any], Any]:
    """The option ``--json`` of a command that prints facts."""
    return click.option("--json", "as_json", is_flag=True, help=help_text)


def console(*, err: bool = False) -> Screen:
    """The screen: see :func:`agent.cli.screen.console`."""
    from agent.cli import screen

    return screen.console(err=err)


def table(columns: Iterable[Column], say: Phrases) -> Rows:
    """A table: see :func:`agent.cli.screen.table`."""
    from agent.cli import screen

    return screen.table(columns, say)


def language_of(options: Options) -> str:
    """That of the settings; English where they have a fault that the command need not mind."""
    from agent.core.errors import ConfigError

    try:
        return options.load().settings.language
    except ConfigError:
        return "en"


def words(language: str) -> Phrases:
    """The phrases of the screens in the language of the settings."""
    from agent.words import screen_phrases

    return screen_phrases(language)


def paper() -> int | None:
    """Columns of the terminal or of COLUMNS; None where nobody says how wide the paper is, and lines stay whole."""
    from agent.cli import screen

    made = screen.console()
    return made.width if screen.is_measured(made) else None


def echo(text: str = "", *, err: bool = False) -> None:
    """Print text in which names of others may stand. Nothing is printed in any other way, but JSON."""
    from agent.words.escape import shown_lines

    click.echo(shown_lines(text), err=err)


def tell(text: str) -> None:
    """Print a sentence in which names of others may stand, folded to the terminal."""
    from agent.words.folding import fold

    width = paper()
    for line in text.split("\n"):
        for part in fold(line, width, 2) if width else [line]:
            echo(part)


def echo_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON: one line, or a document with ``indent``."""
    from agent.words.escape import json_text

    click.echo(json_text(value, indent=indent))


def size(octets: float) -> str:
    """Octets in decimal units, short and never rounded up: ``42.1 GB``."""
    from agent.words.units import size as in_units

    return in_units(int(octets))


def many(number: int, what: str) -> str:
    """``1 flow``, ``1,204 flows``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def place(country: str | None) -> str:
    """A country code, or a dash where no source says."""
    return country or "-"
