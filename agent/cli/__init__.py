"""The command line: one file per command, loaded only when it is used."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from agent.core.errors import SekishoError

COMMANDS = {
    "up": "watch this host: capture, enrich, decide, alert, in one process",
    "replay": "run captures through the same road, with their own clock",
    "check": "say what this host can do, what is missed, and how to mend it",
    "init": "write commented settings and policy for this host",
    "who": "every fact about an address, with source and date",
    "top": "where traffic goes right now, by owner and country",
    "flows": "query the archive of flows",
    "cases": "list, show, acknowledge and close cases",
    "policy": "check policy files; print their JSON Schema",
    "db": "install, update and verify the country and network databases",
    "config": "show the settings in force and where each comes from",
}

EXIT_ERROR = 1
EXIT_FINDINGS = 3
EXIT_INTERRUPTED = 130


class Commands(click.Group):
    """Loads a command's file when the command is asked for, so that ``sekisho who`` does not wait for the detector."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of a newcomer's first day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"agent.cli.{cmd_name}"), "command")  # noqa: B009
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands with their one line, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(dir_okay=False),
    help="Settings file. Default: ./sekisho.yaml, the user's, then /etc/sekisho/sekisho.yaml.",
)
@click.option(
    "--set",
    "flags",
    multiple=True,
    metavar="NAME=VALUE",
    help="One setting, such as language=ja or collectors.af_packet.ring_mib=32. May be repeated.",
)
@click.option("--state-dir", metavar="DIR", help="Where state, archive and databases are kept.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.version_option(package_name="sekisho", prog_name="sekisho")
@click.pass_context
def cli(
    ctx: click.Context, config_file: str | None, flags: tuple[str, ...], state_dir: str | None, verbose: bool
) -> None:
    """Watch what leaves a data centre: flow metadata, never payload.

    \b
    First steps:
      sekisho check                 what this host can do
      sekisho db install            country and network databases
      sekisho init                  settings and policy for this host
      sudo sekisho up               watch
      sekisho replay capture.pcap   the same on a file, without rights
    """
    from agent.cli.common import Options

    ctx.obj = Options.of(config_file, flags, state_dir, verbose)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point. Exit codes: 0 done, 1 an error that was said, 2 wrong usage, 3 findings where asked, 130 interrupted."""
    try:
        code = cli.main(args=arguments, prog_name="sekisho", standalone_mode=False)
    except click.exceptions.Abort:
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SekishoError as error:
        click.echo(f"sekisho: {error}", err=True)
        code = EXIT_ERROR
    except KeyboardInterrupt:
        click.echo("sekisho: interrupted", err=True)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
