"""``sekisho init``: commented settings and policy for this host, after a look at what listens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.common import Command, Options, echo, echo_json, example, json_option, language_of, tell, words
from agent.cli.writing import written
from agent.core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from agent.policy.servers import Listening

SETTINGS = """\
# Settings of sekisho on this host. Every value shown is the default unless it stands without `#`.
# `sekisho config show --origin` says what is in force and why. Reload: systemctl reload, or kill -HUP.
version: 1

policy: [policy.yaml]
# overrides: [overrides.yaml]     # what you know better about some networks (YAML or CSV)
# ownership: [ownership.yaml]     # what you know better about who owns whom; wins over the table in sekisho

# language: en                    # or ja: language of alerts
# time_zone: Asia/Tokyo           # zone in which people read times; default: this host's
# state_dir: {state_dir}

# How this host is watched: the best way that runs here (`sekisho check` tells), unless one is named.
# collectors:
#   ebpf:
#     keep_on_stop: false         # keep counting while the agent is stopped, for a restart that misses nothing
#   af_packet:
#     interfaces: [eth0]          # default: every interface that is up, but lo
#     ring_mib: 16
#     processes: true             # which process, unit and container: from the kernel's sockets and /proc
#     names: false                # host names from DNS answers and TLS server names; the name alone is kept

# Flows are kept as Parquet in state_dir/archive.
# archive: true

sinks: {{}}
#  stdout:
#    format: full
#  ocsf:
#    file: /var/log/sekisho/alerts.jsonl
#  webhook:
#    url: https://soc.example/hooks/sekisho
#    secret_file: /etc/sekisho/webhook.secret
"""


@click.command(cls=Command, epilog=example("init"))
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write. Default: /etc/sekisho for root, else the user's own settings folder.",
)
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.option("--print", "only_print", is_flag=True, help="Print the policy and write nothing.")
@json_option("One JSON document: the files, the policy's text, what listens.")
@click.pass_obj
def command(options: Options, directory: Path | None, force: bool, only_print: bool, as_json: bool) -> None:
    """Look at what listens on this host and write commented settings and a policy to start from.

    What looks like a data store becomes a store of the policy; you say what it holds. Nothing is sent anywhere.
    """
    from dataclasses import asdict

    from agent.listening import listening
    from agent.policy import load as policy_files

    found = listening()
    text = policy_files.starter(found)
    files = () if only_print else _written(directory or _default_dir(), text, force)
    if as_json:
        document = {
            "files": [str(file) for file in files],
            "policy": text,
            "listening": [asdict(fact) for fact in found],
        }
        echo_json(document, indent=2)
    elif only_print:
        echo(text.rstrip("\n"))
    else:
        _tell(options, found, directory, files)


def _written(target: Path, text: str, force: bool) -> tuple[Path, ...]:
    """Write settings and policy into a folder; the files."""
    from agent import config

    files = {
        target / "sekisho.yaml": SETTINGS.format(state_dir=config.default_state_dir()),
        target / "policy.yaml": text,
    }
    there = [file for file in files if file.exists()]
    if there and not force:
        raise ConfigError(
            [Fault(str(file), 0, "is there already", "--force writes over it") for file in there]
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            with written(file) as output:
                output.write(content)
    except OSError as error:
        raise ConfigError(
            Fault(str(target), 0, f"cannot be written: {error.strerror}", "choose another folder with --dir")
        ) from None
    return tuple(files)


def _tell(
    options: Options, found: Sequence[Listening], directory: Path | None, files: tuple[Path, ...]
) -> None:
    from datetime import UTC, datetime

    from agent.policy import load as policy_files

    settings_file, policy_file = files
    policy = policy_files.load([policy_file], today=datetime.now(UTC).date())
    say = words(language_of(options))
    for file in files:
        tell(say("init.wrote", file=file))
    likely = [say("init.port", guess=fact.guess, port=fact.port) for fact in found if fact.guess]
    tell(say("init.listens", n=len(found), stores=say.join(likely) or say("init.none")))
    where = "" if directory is None else f" -c {settings_file}"
    next_ = {"policy": policy_file, "up": f"sekisho{where} up"}
    n = len(policy.stores)
    tell(say("init.next", n=n, **next_) if n else say("init.next_no_store", **next_))


def _default_dir() -> Path:
    from agent import config

    return config.default_config_files()[2 if config.is_root() else 1].parent
