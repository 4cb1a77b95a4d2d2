"""``sekisho republish``: each flow to Kafka as JSON, for tools that read no Arrow."""

from __future__ import annotations

import click

from agent.cli.common import Command, Options, example


@click.command(cls=Command, epilog=example("republish"))
@click.pass_obj
def command(options: Options) -> None:
    """Read what all agents sent to Kafka and write each flow as JSON to topics of its own, as a service.

    `republish.ocsf: true` writes OCSF Network Activity (4001) to sekisho.flows.ocsf.v1, `republish.json_lines: true` plain objects to
    sekisho.flows.json.v1, both keyed by agent; `sekisho kafka topics create` makes them. After a crash it repeats at most what was not
    yet committed: the header sekisho-row of a record tells. A flow costs some sixty times what a row of a batch costs.
    """
    from agent.cli.copied import serve
    from agent.receiving.archiving import RepublishRuntime

    serve(options, RepublishRuntime)
