"""``sekisho completion``: the script that completes commands, options, cases and stores in a shell."""

from __future__ import annotations

import click

from agent.cli.common import Command, example

VARIABLE = "_SEKISHO_COMPLETE"


@click.command(cls=Command, epilog=example("completion"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell. Commands, options, files, case ids and store names are completed.

    A package of sekisho has these scripts already (share/bash-completion, share/zsh, share/fish beside its bin).
    Otherwise put one where your shell looks (see the examples) and open a new shell. To try it in this one, in bash:
    eval "$(sekisho completion bash)"
    """
    click.echo(script(shell))


def script(shell: str) -> str:
    """The completion script of bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    from agent.cli import cli

    made = get_completion_class(shell)
    assert made is not None
    # Not .source(): for bash that starts one to ask for its version, and warns into the script's place if it is odd.
    made_script = made.source_template % made(cli, {}, "sekisho", VARIABLE).source_vars()
    # click's script for fish cuts at every comma: it would lose the rest of a help text, and of `--by owner,country`.
    return made_script.replace('string split "," $completion', 'string split -m 1 "," $completion')
