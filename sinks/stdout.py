"""Notices as text on standard output, as they come. The live view of ``sekisho up`` is the command line's."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import tzinfo
from typing import Literal, TextIO
from zoneinfo import ZoneInfo

import click
from pydantic import Field

from agent.core.errors import SinkError
from agent.core.finding import Notice, Severity
from agent.core.flow import FlowBatch
from agent.core.stages import Context, SinkSettings
from agent.words import Language

_COLOURS = {Severity.CRITICAL: "red", Severity.HIGH: "red", Severity.MEDIUM: "magenta"}
"""Only colours that can be read on black and on white."""


class Settings(SinkSettings):
    """How notices look on standard output."""

    format: Literal["full", "title"] = Field("full", description="The whole text, or its first line")
    language: Language | None = Field(None, description="en or ja; none is the program's own")
    colour: Literal["auto", "always", "never"] = Field(
        "auto", description="auto: on a terminal, unless NO_COLOR is set"
    )

    def build(self, context: Context) -> Stdout:
        """Make the sink."""
        zone = ZoneInfo(context.zone) if context.zone else None
        return Stdout(self, self.language or context.language, zone)


class Stdout:
    """Prints each notice at once, a blank line after each full text."""

    name = "stdout"
    takes_flows = False
    takes_notices = True

    def __init__(self, settings: Settings, language: str, zone: tzinfo | None) -> None:
        self._settings, self._language, self._zone = settings, language, zone

    def write_flows(self, batch: FlowBatch) -> None:
        """Takes none."""

    def write_notice(self, notice: Notice) -> None:
        """Print the notice. Raises :class:`~agent.core.errors.SinkError` if nobody reads any more."""
        from agent.words import render  # here: the templates' engine costs a start that tells nobody anything

        stream = sys.stdout
        text = render(
            notice,
            language=self._language,
            zone=self._zone,
            detail=self._settings.format,
            width=_width(stream),
        )
        if _coloured(self._settings.colour, stream):
            first, _, rest = text.partition("\n")
            first = click.style(first, fg=_COLOURS.get(notice.severity), bold=True)
            text = f"{first}\n{rest}" if rest else first
        text += "\n\n" if self._settings.format == "full" else "\n"
        # A terminal without Japanese letters shows escapes: an alert must not be lost to a locale.
        encoding = stream.encoding or "utf-8"
        try:
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except OSError as error:
            raise SinkError(f"cannot write standard output: {error}", retriable=False) from error

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Standard output belongs to the program."""


def _width(stream: TextIO) -> int | None:
    """Columns of the terminal, or of COLUMNS; None where nobody says: tools read a fact as one line."""
    told = os.environ.get("COLUMNS", "")
    return shutil.get_terminal_size().columns if stream.isatty() or told.isdecimal() else None


def _coloured(choice: str, stream: TextIO) -> bool:
    if choice == "auto":
        return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return choice == "always"
