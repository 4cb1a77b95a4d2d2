"""The command line: one file per command, loaded only when it is used."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.common import Group, Options, echo, example
from agent.core import process
from agent.core.errors import SekishoError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: Final[Mapping[str, Mapping[str, str]]] = {
    "First steps": {
        "check": "say what this host can do, what is missed, and how to mend it",
        "db": "install, update and verify the country and network databases",
        "init": "write commented settings and policy for this host",
    },
    "Watch": {
        "up": "watch this host: capture, enrich, decide, alert, in one process",
        "agent": "the same without a screen, as a service",
        "detect": "decide what all agents sent to Kafka, as a service",
        "archive": "keep what all agents sent to Kafka as Parquet, as a service",
        "republish": "write each flow to Kafka as JSON, for other tools, as a service",
        "top": "where traffic goes right now, by owner and country",
        "replay": "run captures through the same road, with their own clock",
    },
    "Look into it": {
        "status": "where every octet is, and what was not observed, of a host or the fleet",
        "cases": "list and show cases, and record what people do about them",
        "flows": "query the archive of flows: filter, sum, export",
        "who": "every fact about an address, with source and date",
    },
    "Look after it": {
        "approvals": "approved transfers: list them, propose provisional ones",
        "policy": "check, test, explain and compare policy files, also over the past",
        "owners": "try files on who owns networks: faults, canaries, what they would change",
        "assets": "propose stores and hosts for the registers, from what is there",
        "enrolment": "tokens for new agents, and the keys that count",
        "ledger": "copy the state while it runs, put a copy back, look whether it is whole",
        "maintenance": "say when people work on hosts, so that nobody is paged for it",
        "kafka": "say whether Kafka can be reached and how its topics stand; make them",
        "simulate": "play exercises; make the messages of a fleet that does not exist",
        "config": "show the settings in force and where each comes from",
        "completion": "print the script that completes commands in a shell",
    },
}
"""Every command with its one line, in the order of a newcomer's first day."""

EXIT_ERROR = 1
EXIT_FINDINGS = 3
EXIT_INTERRUPTED = 130

_OF_THE_HOST: Final[Mapping[int, str]] = {
    errno.ENOSPC: "no room is left there; free some",
    errno.EDQUOT: "its user's quota is used up; free some room",
    errno.EACCES: "access was refused; run as a user who may, or name another place",
    errno.EPERM: "this was not permitted; run as a user who may, or name another place",
    errno.EROFS: "it lies on a volume that is read-only; name another place",
    errno.ENOENT: "there is no such file or folder; check the path",
    errno.ENOTDIR: "a part of the path is no folder; check the path",
    errno.EISDIR: "is a folder where a file was expected; check the path",
    errno.EEXIST: "a file is in the way; check the path",
    errno.ELOOP: "its symbolic links go round in a circle; check the path",
    errno.ENAMETOOLONG: "its name is too long; check the path",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.EIO: "the device failed; see the kernel's log",
}
"""Errors of the host that any command may meet with any file, and how to mend them."""


class ReaderGoneError(Exception):
    """Whoever read standard output has gone. No OSError, for click turns that one into exit code 1."""


class Commands(Group):
    """Loads a command's file when the command is asked for, so that ``sekisho who`` does not wait for the detector."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGoneError from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of a newcomer's first day."""
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = getattr(importlib.import_module(f"agent.cli.{cmd_name}"), "command")  # noqa: B009
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands with their one line, without loading any."""
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and options that begin so, without loading any command."""
        from click.shell_completion import CompletionItem

        lines = [item for group in COMMANDS.values() for item in group.items()]
        found = [CompletionItem(name, help=line) for name, line in lines if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


def _settings_names(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    from agent.cli.completing import setting_names

    return setting_names(begun)


@click.command(
    cls=Commands,
    epilog=f"""{example("sekisho")}

\b
Exit codes:
  0    done
  1    an error; or something is missing (check, db)
  2    wrong usage
  3    findings, where --fail-on asked for it
  130  interrupted with Ctrl-C

`sekisho COMMAND --help` has examples of each command.
""",
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)
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
    shell_complete=_settings_names,
    help="One setting, such as language=ja or collectors.af_packet.ring_mib=32. May be repeated.",
)
@click.option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(file_okay=True, path_type=str),
    help="Where state, archive and databases are kept. Default: the setting state_dir.",
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colours: auto is on a terminal, unless NO_COLOR is set; FORCE_COLOR is always.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more, to standard error.")
@click.version_option(package_name="sekisho", prog_name="sekisho", help="Print the version and end.")
@click.pass_context
def cli(
    ctx: click.Context,
    config_file: str | None,
    flags: tuple[str, ...],
    state_dir: str | None,
    color: str,
    verbose: bool,
) -> None:
    """Watch what leaves a data centre: flow metadata, never payload."""
    ctx.obj = Options.of(config_file, flags, state_dir, verbose)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point. Exit codes: 0 done, 1 an error that was said, 2 wrong usage, 3 findings where asked, 130 interrupted.

    Nobody ever sees a traceback: a defect of ours is said in one line and its details are put into a file.
    """
    process.prepare()
    _ready_streams()
    try:
        if arguments is None and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if arguments is None:
            sys.unraisablehook = _unraisable
        code = cli.main(args=arguments, prog_name="sekisho", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as asked:
        code = asked.code
    except BaseException as error:  # noqa: BLE001  the program's outermost edge
        if arguments is None:
            # From here on a further Ctrl-C ends the process without a word, not with a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        code = _said(error)
        if arguments is None and code == EXIT_INTERRUPTED:
            # Not sys.exit: a Ctrl-C that came while a library ran made-up code (as every dataclass does when it is
            # made) is remembered by the interpreter, which then ends by signal 2, whatever code it is given.
            code = _flushed(code)
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(code)
    sys.exit(_flushed(code if isinstance(code, int) else 0))


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that fell into code out of which nothing can be raised (a callback from C, a finaliser) comes once more,
    a moment later, where it can; else the interpreter would tell of it and go on."""
    if what.exc_type is KeyboardInterrupt:
        # To the main thread itself, so that it also wakes where it waits.
        again = threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(what)


def _said(error: BaseException) -> int:
    """Tell the user what went wrong; the exit code for it."""
    if _is_interrupted(error):
        # Nothing is loaded for it: the Ctrl-C may have come in the middle of loading just that.
        with contextlib.suppress(OSError):
            click.echo("sekisho: interrupted", err=True)
        return EXIT_INTERRUPTED
    if isinstance(error, click.ClickException):
        _show(error)
        return error.exit_code
    if isinstance(error, ReaderGoneError | BrokenPipeError):
        return 0
    if isinstance(error, SekishoError):
        _say(_in_language(error))
    elif isinstance(error, MemoryError):
        _say("out of memory: give it more, or lower max_flows of the collector")
    elif isinstance(error, UnicodeError):
        _say("a path or an argument is no text in this locale; set LC_ALL=C.UTF-8, and name files in UTF-8")
    elif isinstance(error, OSError) and error.errno is not None and error.errno in _OF_THE_HOST:
        _say(f"{error.filename or 'output'}: {_OF_THE_HOST[error.errno]}")
    else:
        _say(f"a defect of ours ({type(error).__name__}: {error}); {_kept(error)}")
    return EXIT_ERROR


def _in_language(error: SekishoError) -> str:
    """What it says in the language of the settings that were read last."""
    from agent.cli.common import spoken
    from agent.words.faults import of_error

    return of_error(error, spoken())


def _show(error: click.ClickException) -> None:
    """What click says of an error, with the names in it escaped."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        echo(error.ctx.get_usage(), err=True)
        flag = error.ctx.help_option_names[0]
        echo(f"Try '{error.ctx.command_path} {flag}' for help.\n", err=True)
    echo(f"Error: {error.format_message()}", err=True)


def _is_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at the bottom of it: one that comes while a class is made is wrapped in a RuntimeError."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _say(text: str) -> None:
    from agent.words.escape import shown
    from agent.words.folding import fold

    with contextlib.suppress(OSError):
        width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
        for line in text.splitlines():
            said = f"sekisho: {shown(line, 2000)}"
            for part in fold(said, width, 2) if width else [said]:
                click.echo(part, err=True)


def _kept(error: BaseException) -> str:
    """Where the details of a defect are, in words."""
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="sekisho-defect-",
            suffix=".txt",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return "please report it"
    return f"please report it with {file.name}"


def _flushed(code: int) -> int:
    """The exit code once standard output has taken all of it; the interpreter's own last flush would end in noise."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and code == 0:
            code = _said(error)
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _ready_streams() -> None:
    """Give a standard stream that was handed over closed somewhere to go, so that no file of ours takes its number;
    and let no text fail because the locale has no letters for it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
