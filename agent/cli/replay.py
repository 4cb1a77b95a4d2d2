"""``sekisho replay``: captures through the same road, with the clock of the data."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import click

from agent.cli.common import Command, Options, example, json_option


@click.command(cls=Command, epilog=example("replay"))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, readable=False), metavar="FILE...")
@click.option(
    "--sample",
    is_flag=True,
    help="Replay the small capture that comes with sekisho, under the policy that comes with it.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    help="Policy file or folder. Default: that of the settings.",
)
@click.option(
    "--overrides",
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    help="File of what is known better about some networks (YAML or CSV).",
)
@click.option(
    "--local",
    "local",
    multiple=True,
    metavar="CIDR",
    help="Networks whose addresses are local. Default: private ranges and the policy's sites.",
)
@click.option(
    "--tunnels",
    type=click.Choice(["outer", "inner"]),
    help="Of tunnels (GRE, VXLAN, GTP-U, …) count the outer packets, or those inside. Default: outer, or the setting.",
)
@click.option(
    "--names",
    is_flag=True,
    help="Name the other ends from DNS answers and TLS server names in the capture; the host name alone is kept.",
)
@click.option(
    "--host", help="Host name under which the rows are booked. Default: this host's, or the setting."
)
@click.option(
    "--state",
    "state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep cases, ledger and archive in this folder, and go on there if a replay was cut off. Default: nothing is kept.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["low", "medium", "high", "critical"]),
    help="Exit code 3 if a case of this severity or higher was found.",
)
@json_option()
@click.option(
    "--send", is_flag=True, help="Also send to the sinks of the settings. Default: old traffic pages nobody."
)
@click.option("--quiet", is_flag=True, help="No progress bar and no alert texts; the summary alone.")
@click.pass_obj
def command(
    options: Options,
    files: tuple[Path, ...],
    sample: bool,
    policies: tuple[Path, ...],
    overrides: tuple[Path, ...],
    local: tuple[str, ...],
    tunnels: str | None,
    names: bool,
    host: str | None,
    state: Path | None,
    fail_on: str | None,
    as_json: bool,
    send: bool,
    quiet: bool,
) -> None:
    """Run captures (pcap, pcapng, also compressed; - is standard input) through the whole road.

    Time is the data's own. Nothing is mixed with what `sekisho up` knows: cases, ledger and archive are kept apart, in
    the folder that --state names, or not at all. The same files in the same order count once in such a folder, however
    often they are replayed. No rights are needed.
    """
    if sample:
        if files or policies or overrides or local or host or tunnels or names:
            raise click.UsageError(
                "--sample brings its own capture, policy, overrides and host; name no others"
            )
        raise SystemExit(replay_sample(options, state=state, as_json=as_json, quiet=quiet, fail_on=fail_on))
    if not files:
        raise click.UsageError("name at least one capture, or --sample")
    from agent.cli.replaying import Replay

    request = Replay(
        options,
        files,
        policies,
        overrides,
        local,
        host,
        state,
        fail_on,
        as_json,
        quiet,
        send,
        tunnels=tunnels,
        names=names,
    )
    raise SystemExit(request.run())


def replay_sample(
    options: Options,
    *,
    state: Path | None = None,
    as_json: bool = False,
    quiet: bool = False,
    fail_on: str | None = None,
) -> int:
    """Replay the bundled capture under its own policy. Returns the exit code."""
    from agent.cli.replaying import Replay

    with ExitStack() as stack:
        folder = stack.enter_context(resources.as_file(resources.files("agent") / "sample"))
        request = Replay(
            options,
            (folder / "sample.pcap.gz",),
            (folder / "policy.yaml",),
            (folder / "overrides.yaml",),
            (),
            "db-01",
            state,
            fail_on,
            as_json,
            quiet,
        )
        return request.run()
