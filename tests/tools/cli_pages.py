"""The command line's reference from click's own tree: docs/cli.md and docs/man/sekisho.1."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from agent.cli import COMMANDS, cli
from agent.cli.documents import DOCUMENTS
from agent.cli.examples import EXAMPLES

EXIT_CODES = (
    ("0", "done"),
    ("1", "an error, said on standard error; or something is missing (check, db status, db verify)"),
    ("2", "wrong usage"),
    ("3", "findings, where --fail-on asked for it"),
    ("130", "interrupted with Ctrl-C; no file is half written"),
)
ENVIRONMENT = (
    ("SEKISHO_…", "any setting, such as SEKISHO_STATE_DIR or SEKISHO_COLLECTORS__AF_PACKET__RING_MIB"),
    ("NO_COLOR", "no colours; FORCE_COLOR=1: colours also into a pipe; --color wins over both"),
    (
        "COLUMNS",
        "width of tables and alerts where standard output is no terminal; unset: no line is cut or folded",
    ),
)
FILES = (
    (
        "./sekisho.yaml, ~/.config/sekisho/sekisho.yaml, /etc/sekisho/sekisho.yaml",
        "settings; the first found is read",
    ),
    ("/var/lib/sekisho", "state, archive and databases of root; of others in their own state folder"),
)


def commands() -> Iterator[tuple[str, click.Context]]:
    """Every command and subcommand with its context, in the order of the help: ("cases show", …)."""
    top = click.Context(cli, info_name="sekisho", color=False)
    for name in [name for group in COMMANDS.values() for name in group]:
        yield from _below(cli.get_command(top, name), name, top)


def _below(
    command: click.Command | None, name: str, parent: click.Context
) -> Iterator[tuple[str, click.Context]]:
    assert command is not None
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield " ".join(context.command_path.split()[1:]), context
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            yield from _below(command.get_command(context, inner), inner, context)


def options(context: click.Context) -> list[tuple[str, str]]:
    """(option, meaning) as the help has them, without --help."""
    found = [p.get_help_record(context) for p in context.command.get_params(context)]
    return [record for record in found if record is not None and "--help" not in record[0]]


def text_of(context: click.Context) -> list[str]:
    """The paragraphs of the help text."""
    return [" ".join(part.split()) for part in inspect.cleandoc(context.command.help or "").split("\n\n")]


def usage(context: click.Context) -> str:
    """``sekisho cases show [OPTIONS] CASE_ID``."""
    return f"{context.command_path} {' '.join(context.command.collect_usage_pieces(context))}"


def cli_page() -> str:
    """docs/cli.md."""
    top = click.Context(cli, info_name="sekisho", color=False)
    lines = [
        "# Command line",
        "",
        "Written by `make docs` from the program's own help. `sekisho COMMAND --help` says the same; "
        "`man sekisho` too.",
        "",
        "Facts go to standard output, errors and progress to standard error. With `--json` there is nothing else on standard",
        "output; keys are only ever added. Names that others wrote are shown with control and bidirectional characters",
        "made visible; in JSON these are `\\u` escapes; in CSV no cell is a formula. To complete commands in your shell:",
        "`sekisho completion --help`.",
        "",
        "Times on the command line may be spans before now (`90s`, `5m`, `2h`, `7d`), `now`, `today`, `yesterday`, dates or times",
        "(`2026-11-18`, `2026-11-18T16:00`, `2026-11-18T07:00Z`, `2026-11-18T16:00+09:00`). Without a zone they are in the",
        "setting `time_zone`, and if that is unset in this host's.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES),
        "",
        "| environment | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT),
        "",
        "## sekisho",
        "",
        *_options(options(top)),
    ]
    for name, context in commands():
        depth = "###" if " " in name else "##"
        lines += ["", f"{depth} sekisho {name}", "", f"    {usage(context)}", ""]
        lines += [line for part in text_of(context) for line in (part, "")]
        lines += _options(options(context))
        if name in EXAMPLES and not isinstance(context.command, click.Group):
            lines += ["", "```", *EXAMPLES[name], "```"]
        if document := DOCUMENTS.get(name):
            lines += ["", f"JSON: {document.shape}:", ""]
            lines += [f"- `{key}`: {meaning}" for key, meaning in document.keys.items()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _options(records: list[tuple[str, str]]) -> list[str]:
    if not records:
        return []
    rows = [f"| `{_cell(name)}` | {_cell(meaning)} |" for name, meaning in records]
    return ["| option | meaning |", "|---|---|", *rows]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def man_page() -> str:
    """docs/man/sekisho.1, in the macros of man(7)."""
    top = click.Context(cli, info_name="sekisho", color=False)
    lines = [
        ".\\\" Written by `make docs` from the program's own help.",
        '.TH SEKISHO 1 "" sekisho "User Commands"',
        ".SH NAME",
        "sekisho \\- watch what leaves a data centre",
        ".SH SYNOPSIS",
        _roff(usage(top)),
        ".SH DESCRIPTION",
        *[line for part in text_of(top) for line in (".PP", _roff(part))],
        ".SH OPTIONS",
        *_items(options(top)),
        ".SH COMMANDS",
    ]
    for name, context in commands():
        lines += [f".SS {_roff(usage(context))}"]
        lines += [line for part in text_of(context) for line in (".PP", _roff(part))]
        lines += _items(options(context))
        if name in EXAMPLES and not isinstance(context.command, click.Group):
            lines += [".PP", "Examples:", ".PP", ".nf", ".RS", *map(_roff, EXAMPLES[name]), ".RE", ".fi"]
    lines += [".SH EXIT STATUS", *_items(EXIT_CODES), ".SH ENVIRONMENT", *_items(ENVIRONMENT)]
    lines += [".SH FILES", *_items(FILES)]
    bare = [
        line
        for i, line in enumerate(lines)
        if line != ".PP" or not lines[i - 1].startswith((".SH", ".SS", ".PP"))
    ]
    return "\n".join(bare) + "\n"


def _items(records: object) -> list[str]:
    assert isinstance(records, list | tuple)
    return [line for name, meaning in records for line in (".TP", f"\\fB{_roff(name)}\\fR", _roff(meaning))]


def _roff(text: str) -> str:
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return "\\&" + escaped if escaped[:1] in (".", "'") else escaped
