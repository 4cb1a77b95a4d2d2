"""``sekisho archive``: keep what all agents sent to Kafka as Parquet."""

from __future__ import annotations

import click

from agent.cli.common import Command, Options, example


@click.command(cls=Command, epilog=example("archive"))
@click.pass_obj
def command(options: Options) -> None:
    """Read what all agents sent to Kafka and keep each row once, as Parquet by day, as a service.

    Needs `kafka.servers`. The folder is `archiver.directory`, or archive in `state_dir`; `sekisho flows` reads it, `--host`
    and `--agent` name whose rows. What cannot be read or is not signed by the agent it names is left out and counted.
    How far it read stands in that folder too, so that a crash at any point neither loses nor doubles a row; a second
    archiver on the same folder is refused. It decides nothing and delays no alert. Logs are lines of JSON on standard error.
    """
    from agent.cli.copied import serve
    from agent.receiving.archiving import ArchiveRuntime

    serve(options, ArchiveRuntime)
