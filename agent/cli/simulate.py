"""``sekisho simulate``: exercises, and a fleet that does not exist, to size a cluster and to try a detector."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli import exercises
from agent.cli.bars import Bar
from agent.cli.common import (
    Group,
    Options,
    echo_json,
    example,
    json_option,
    language_of,
    point_ns,
    size,
    tell,
    words,
)
from agent.cli.writing import written
from agent.words.escape import json_text

if TYPE_CHECKING:
    from agent.simulation.agents import Fleet
    from agent.simulation.outputs import Output
    from agent.simulation.plan import Plan
    from agent.words import Phrases

_NOTE = "simulated by sekisho: these hosts, stores and transfers do not exist"


class Share(click.ParamType[float]):
    """A share of a whole: ``1%`` or ``0.01``."""

    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The share as a number."""
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{text}: expected a share such as 1% or 0.01", param, ctx)
        return share


@click.group(cls=Group, epilog=example("simulate"))
def command() -> None:
    """Make what does not exist: exercises for people, and a fleet to size a cluster."""


for _exercise in exercises.commands():
    command.add_command(_exercise)


@command.command(epilog=example("simulate fleet"))
@click.option("--hosts", type=click.IntRange(1, 2_000_000), default=100, help="Hosts, each with an agent.")
@click.option(
    "--rate",
    type=click.FloatRange(0.01, 100_000),
    default=50.0,
    help="Rows a second and host, as collectors hand them over.",
)
@click.option("--seconds", type=click.IntRange(1), help="How long the fleet runs, in event time.")
@click.option("--minutes", type=click.IntRange(1), help="The same in minutes; 1 if neither is given.")
@click.option("--backlog-share", type=Share(), default="1%", help="Hosts that replay a 10-minute backlog.")
@click.option("--store-share", type=Share(), default="2%", help="Hosts on which a store runs; at least one.")
@click.option(
    "--incidents", type=click.IntRange(0, 100_000), default=0, help="Transfers hidden in the traffic."
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, help="Everything follows from it.")
@click.option(
    "--jitter",
    "jitter_s",
    type=click.FloatRange(0, 3600),
    default=30.0,
    help="Seconds by which rows are handed over late, at most.",
)
@click.option("--begin", help="Event time of the first rows. Default: so that the last end now.")
@click.option("--real-time", is_flag=True, help="Send as time goes by instead of at once.")
@click.option(
    "--destinations",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of networks, one a line, that rows go to. Default: documentation ranges.",
)
@click.option(
    "--topic", help="Topic to write to, made if it is missing. Default: sekisho.simulated.flows.v1."
)
@click.option(
    "--partitions", type=click.IntRange(1, 10_000), default=12, help="Partitions of one that is made."
)
@click.option(
    "--allow-real-topic",
    is_flag=True,
    help="Write to a topic that real agents use. A detector cannot undo it.",
)
@click.option("--dry-run", is_flag=True, help="Send nothing; count messages, rows and octets.")
@click.option(
    "--to-files",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write messages into this folder instead.",
)
@click.option(
    "--truth",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for what is hidden in the traffic (JSON), to compare findings with.",
)
@click.option(
    "--write-policy",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for a policy (YAML) that knows the simulated stores, for the detector.",
)
@json_option("One JSON document: what was made, and what is hidden in it.")
@click.pass_obj
def fleet(options: Options, /, **given: Any) -> None:
    """Seal and send what so many agents would: real keys, real messages, hosts that do not exist.

    Destinations are documentation addresses unless you name others; every agent's id begins with `simulated-`. The same
    options give the same octets. Only topics with `simulated` in their name are written to, so that no alert about a
    host that does not exist reaches anybody; a detector of its own reads them (see the examples).
    """
    with ExitStack() as stack:
        request = _Request(options, **given)
        plan = request.plan()
        policy = plan.policy()
        version = request.version(policy, stack)
        if request.write_policy:
            stack.enter_context(written(request.write_policy)).write(policy)
        out = request.output()
        say = words(language_of(options))
        told = _made(plan, version, out, say, real_time=request.real_time)
        if request.truth:
            stack.enter_context(written(request.truth)).write(json_text(_truth(plan), indent=2) + "\n")
    if request.as_json:
        echo_json({**told, "truth": _truth(plan)}, indent=2)
    else:
        _tell(told, request, say)


@dataclass(frozen=True)
class _Request:
    """The options, as click gives them."""

    options: Options
    hosts: int
    rate: float
    seconds: int | None
    minutes: int | None
    backlog_share: float
    store_share: float
    incidents: int
    seed: int
    jitter_s: float
    begin: str | None
    real_time: bool
    destinations: Path | None
    topic: str | None
    partitions: int
    allow_real_topic: bool
    dry_run: bool
    to_files: Path | None
    truth: Path | None
    write_policy: Path | None
    as_json: bool

    def plan(self) -> Plan:
        """What is asked for. Raises ``click.UsageError``."""
        from agent.core.clock import SECOND_NS
        from agent.simulation.plan import DESTINATIONS, Asked, Plan

        if self.seconds and self.minutes:
            raise click.UsageError("give --seconds or --minutes, not both")
        if self.dry_run and self.to_files:
            raise click.UsageError("give --dry-run or --to-files, not both")
        seconds = self.seconds or 60 * (self.minutes or 1)
        now_ns = time.time_ns() // SECOND_NS * SECOND_NS
        begin_ns = now_ns if self.real_time else now_ns - seconds * SECOND_NS
        if self.begin:
            if self.real_time:
                raise click.UsageError("--real-time begins now; leave --begin out")
            begin_ns = point_ns(self.begin, "--begin", now_ns, None)
        networks = _networks(self.destinations) if self.destinations else DESTINATIONS
        asked = Asked(
            self.hosts,
            self.rate,
            seconds,
            begin_ns,
            self.seed,
            self.backlog_share,
            self.store_share,
            self.incidents,
            self.jitter_s,
            networks,
        )
        return Plan(asked)

    def version(self, policy: str, stack: ExitStack) -> str:
        """The version that a detector gives that policy, so that it need not derive facts anew."""
        import tempfile
        from datetime import UTC, datetime

        from agent.policy.load import load

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sekisho-")))
        file = folder / "policy.yaml"
        file.write_text(policy)
        return load([file], today=datetime.now(UTC).date()).version

    def output(self) -> Output:
        """Where messages go. Raises :class:`agent.core.errors.SekishoError`."""
        from agent.core.errors import ConfigError, Fault
        from agent.simulation import kafka, outputs

        if self.dry_run:
            return outputs.Counted()
        if self.to_files:
            return outputs.Files(self.to_files)
        connection = self.options.load().settings.kafka
        if connection is None:
            raise ConfigError(
                Fault(
                    "settings", 0, "kafka is not set", "add kafka: {servers: [HOST:PORT]}, or use --dry-run"
                )
            )
        topic = self.topic or kafka.TOPIC
        if not self.allow_real_topic:
            kafka.refuse_real_name(topic, connection)
        kafka.ready(connection, topic, self.partitions, mixed=self.allow_real_topic)
        return outputs.ToKafka(connection, topic)


def _networks(path: Path) -> tuple[str, ...]:
    import ipaddress

    from agent.core.errors import ConfigError, Fault

    found, faults = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            found.append(str(ipaddress.ip_network(text)))
        except ValueError as error:
            faults.append(Fault(str(path), number, str(error), "expected a network such as 192.0.2.0/24"))
    if not found and not faults:
        faults.append(Fault(str(path), 0, "names no network", "one a line, such as 192.0.2.0/24"))
    if faults:
        raise ConfigError(faults)
    return tuple(found)


def _made(plan: Plan, version: str, out: Output, say: Phrases, *, real_time: bool) -> dict[str, Any]:
    """Make and hand over every message; what came of it."""
    from agent.simulation.agents import Fleet

    fleet = Fleet(plan, version)
    begun_s, cpu_s = time.monotonic(), time.process_time()
    messages = rows = 0
    total = plan.asked.seconds * 10**9
    with Bar(say("simulate.working", n=plan.asked.hosts, hosts=f"{plan.asked.hosts:,}")) as bar:
        for sent in fleet.messages():
            if isinstance(sent, int):
                bar.step(sent - plan.asked.begin_ns, total)
                _wait_for(sent, fleet) if real_time else None
                continue
            out.put(sent)
            messages, rows = messages + 1, rows + sent.rows
        out.close()
    return {
        "note": _NOTE,
        "seed": plan.asked.seed,
        "hosts": plan.asked.hosts,
        "seconds": plan.asked.seconds,
        "begin_ns": plan.asked.begin_ns,
        "messages": messages,
        "rows_handed_over": fleet.handed,
        "rows": rows,
        "octets": out.octets,
        "took_s": round(time.monotonic() - begun_s, 3),
        "cpu_s": round(time.process_time() - cpu_s, 3),
    }


def _wait_for(until_ns: int, fleet: Fleet) -> None:
    """Until the clock is there; agents of a fleet that cannot keep up are late, as real ones would be."""
    left_s = (until_ns - time.time_ns()) / 1e9
    if left_s > 0:
        time.sleep(left_s)


def _truth(plan: Plan) -> dict[str, Any]:
    return {
        "note": _NOTE,
        "seed": plan.asked.seed,
        "compare": "findings of a store and entity; the amounts are exact",
        "incidents": [incident.as_dict() for incident in plan.incidents],
    }


def _tell(told: dict[str, Any], request: _Request, say: Phrases) -> None:
    counts = {
        "messages": told["messages"],
        "rows": told["rows"],
        "handed": told["rows_handed_over"],
        "hosts": told["hosts"],
        "seconds": told["seconds"],
    }
    figures = {name: f"{number:,}" for name, number in counts.items()}
    tell(say("simulate.made", size=size(told["octets"]), **figures))
    if request.incidents:
        where = str(request.truth) if request.truth else say("simulate.listed")
        tell(say("simulate.hidden", n=request.incidents, count=f"{request.incidents:,}", where=where))
    if request.dry_run:
        tell(say("simulate.not_sent"))
