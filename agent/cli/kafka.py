"""``sekisho kafka``: whether Kafka can be reached and holds what is needed, and the topics made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.common import Group, Options, echo_json, example, json_option, tell, words
from agent.cli.topicfaults import DAY_MS as _DAY_MS
from agent.cli.topicfaults import State, Topic, faults

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.core.kafka import Connection
    from agent.words import Phrases

_MARK_WIDTH: Final = 8
_BROKERS_TIME: Final = {"message.timestamp.type": "LogAppendTime"}
"""Silence and clocks are measured by the broker's time."""
CONFIGS: Final[Mapping[str, Mapping[str, str]]] = {
    "flows": {"retention.ms": str(7 * _DAY_MS), **_BROKERS_TIME},
    "flows_ocsf": {"retention.ms": str(2 * _DAY_MS)},
    "flows_json": {"retention.ms": str(2 * _DAY_MS)},
    "alerts": {"retention.ms": str(90 * _DAY_MS)},
    "agents": {**_BROKERS_TIME, "cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"},
    "coverage": {"retention.ms": str(400 * _DAY_MS)},
    "enrolment": {"retention.ms": str(7 * _DAY_MS), "message.timestamp.type": "LogAppendTime"},
    "dead": {"retention.ms": str(30 * _DAY_MS)},
}
"""Settings of each topic where they differ from the broker's."""
SPREAD: Final = ("flows", "flows_ocsf", "flows_json")
"""Topics of rows, which have as many partitions as are asked for."""
NEEDED: Final = ("flows", "agents")
"""Topics that an agent writes to."""
_OUR_OWN: Final = 3
_UNKNOWN, _REFUSED, _EXISTS = 3, 29, 36
"""Of Kafka's error codes."""


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    what: str
    state: State
    detail: str
    mend: str = ""


@click.group(cls=Group, epilog=example("kafka"))
def command() -> None:
    """Look whether Kafka can be reached and has the topics that are needed; make them."""


@command.command(epilog=example("kafka check"))
@json_option("One JSON document: a list of lines with what, state, detail and mend.")
@click.pass_obj
def check(options: Options, as_json: bool) -> None:
    """Say whether Kafka lets us in, and how its topics stand. Exit code 1 if an agent could not send."""
    from agent.core.errors import SinkError
    from agent.words.faults import of_error

    settings = _settings(options)
    say = words("en" if as_json else settings.language)
    lines: list[Line] = []
    try:
        with _Admin(settings) as admin:
            lines += admin.look(say)
    except SinkError as error:
        lines.append(Line(say("kafka.brokers"), "missing", of_error(error, say.language)))
    _show(lines, as_json, say)


@command.group(cls=Group, epilog=example("kafka topics"))
def topics() -> None:
    """The topics of the settings."""


@topics.command(epilog=example("kafka topics create"))
@click.option(
    "--partitions", type=click.IntRange(1, 10_000), default=12, help="Partitions of each topic of rows."
)
@click.option(
    "--replication",
    type=click.IntRange(1, 100),
    help="Copies of each record; if not given 3, or as many as there are brokers.",
)
@json_option("One JSON document: a list of lines with what, state, detail and mend.")
@click.pass_obj
def create(options: Options, partitions: int, replication: int | None, as_json: bool) -> None:
    """Make the topics that are missing, with the retention each needs. What is there stays as it is."""
    from agent.core.errors import SinkError
    from agent.words.faults import of_error

    settings = _settings(options)
    say = words("en" if as_json else settings.language)
    try:
        with _Admin(settings) as admin:
            lines = list(admin.create(partitions, replication, say))
    except SinkError as error:
        lines = [Line(say("kafka.brokers"), "missing", of_error(error, say.language))]
    _show(lines, as_json, say)


def _settings(options: Options) -> Settings:
    from agent.core.errors import ConfigError, Fault

    loaded = options.load()
    if loaded.settings.kafka is None:
        where = str(loaded.file) if loaded.file else "settings"
        raise ConfigError(
            Fault(where, 0, "kafka is not set", "add kafka: {servers: [kafka-1.example.net:9092]}")
        )
    return loaded.settings


def _show(lines: list[Line], as_json: bool, say: Phrases) -> None:
    if as_json:
        echo_json([asdict(line) for line in lines], indent=2)
    else:
        for line in lines:
            tell(say("kafka.line", mark=say(f"kafka.mark.{line.state}"), what=line.what, detail=line.detail))
            if line.mend:
                tell(f"{' ' * _MARK_WIDTH}{line.mend}")
    if any(line.state == "missing" for line in lines):
        raise SystemExit(1)


class _Admin:
    """A connection that looks and makes. Raises :class:`agent.core.errors.SinkError` for what the client raises."""

    def __init__(self, settings: Settings) -> None:
        assert settings.kafka is not None
        self._connection, self._named = settings.kafka, _named(settings)
        self._client: Any = None

    def __enter__(self) -> _Admin:
        from kafka import KafkaAdminClient

        from agent.core.kafka import made_by

        quick = self._connection.model_copy(update={"connect_s": min(self._connection.connect_s, 10.0)})
        with made_by(quick, "sekisho-check") as options:
            self._client = KafkaAdminClient(**options)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def look(self, say: Phrases) -> Iterator[Line]:
        """How brokers and topics stand."""
        brokers = self._ask(lambda: self._client.describe_cluster()["brokers"])
        reached = say("kafka.reached", n=len(brokers), way=_way(self._connection, say))
        yield Line(say("kafka.brokers"), "ok", reached)
        named = self._named
        found = self._ask(lambda: self._client.describe_topics(list(named)))
        configs = self._configs([t["name"] for t in found if t["error_code"] == 0])
        for topic in found:
            config = configs.get(topic["name"], {})
            yield from self._topic(named[topic["name"]], topic, len(brokers), config, say)

    def create(self, partitions: int, replication: int | None, say: Phrases) -> Iterator[Line]:
        """Make what is missing."""
        from kafka.errors import for_code

        brokers = len(self._ask(lambda: self._client.describe_cluster()["brokers"]))
        copies = replication or min(_OUR_OWN, brokers)
        wanted: dict[str, dict[str, Any]] = {
            name: {
                "num_partitions": partitions if role in SPREAD else 1,
                "replication_factor": copies,
                "configs": {**CONFIGS[role], **({"min.insync.replicas": "2"} if copies > 2 else {})},
            }
            for name, role in self._named.items()
        }
        made = self._ask(lambda: self._client.create_topics(wanted, raise_errors=False))
        for topic in made["topics"]:
            name, code = topic["name"], topic["error_code"]
            what = say("kafka.topic", name=name)
            if code == 0:
                size = _size(wanted[name]["num_partitions"], copies, say)
                yield Line(what, "ok", say("kafka.made", size=size))
            elif code == _EXISTS:
                yield Line(what, "ok", say("kafka.was_there"))
            else:
                why = topic["error_message"] or for_code(code).__name__
                mend = say("kafka.needs_create") if code in (_REFUSED, 31) else ""
                yield Line(what, "missing", say("kafka.not_made", why=why), mend)

    def _topic(
        self, role: str, topic: dict[str, Any], brokers: int, config: Mapping[str, str], say: Phrases
    ) -> Iterator[Line]:
        unfit = self._unfit(role, topic, say)
        if unfit is not None:
            yield unfit
            return
        parts = topic["partitions"]
        copies = min(len(part["replica_nodes"]) for part in parts)
        what, detail = say("kafka.topic", name=topic["name"]), _size(len(parts), copies, say)
        one = Topic(role, topic["name"], parts, copies, config)
        found = list(faults(one, brokers, self._connection.servers[0], say))
        for fault in found:
            yield Line(what, fault.state, say("kafka.but", size=detail, fault=fault.said), fault.mend)
        if not found:
            yield Line(what, "ok", detail)

    def _unfit(self, role: str, topic: dict[str, Any], say: Phrases) -> Line | None:
        """Why it cannot be written to."""
        what = say("kafka.topic", name=topic["name"])
        if topic["error_code"] == _REFUSED:
            return Line(what, "missing", say("kafka.unseen"), say("kafka.needs_both"))
        if topic["error_code"]:
            state: State = "missing" if role in NEEDED else "poor"
            return Line(what, state, say("kafka.absent"), "sekisho kafka topics create")
        allowed = topic.get("authorized_operations") or ["WRITE"]
        if "WRITE" not in allowed and role in NEEDED:
            return Line(what, "missing", say("kafka.no_write"), say("kafka.needs_write"))
        if any(part["leader_id"] < 0 for part in topic["partitions"]):
            return Line(what, "missing", say("kafka.no_leader"), say("kafka.start_brokers"))
        return None

    def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Settings of topics; none where this user may not read them."""
        from kafka.admin import ConfigResource, ConfigResourceType
        from kafka.errors import KafkaError

        if not names:
            return {}
        try:
            told = self._client.describe_configs(
                [ConfigResource(ConfigResourceType.TOPIC, name) for name in names], config_filter="all"
            )
        except KafkaError:
            return {}
        return {n: {k: v["value"] for k, v in c.items()} for n, c in told.get("topic", {}).items()}

    def _ask(self, question: Any) -> Any:
        from kafka.errors import KafkaError

        from agent.core.kafka import in_words

        try:
            return question()
        except KafkaError as error:
            raise in_words(error, self._connection) from error


def _named(settings: Settings) -> dict[str, str]:
    """Name -> role of each topic that these settings use."""
    assert settings.kafka is not None
    off = {"flows_ocsf": not settings.republish.ocsf, "flows_json": not settings.republish.json_lines}
    return {name: role for role, name in settings.kafka.topics.model_dump().items() if not off.get(role)}


def _size(partitions: int, copies: int, say: Phrases) -> str:
    return say(
        "kafka.size", partitions=say("kafka.partitions", n=partitions), copies=say("kafka.copies", n=copies)
    )


def _way(connection: Connection, say: Phrases) -> str:
    way = say("kafka.over_tls" if connection.tls else "kafka.unencrypted")
    if connection.sasl is None:
        return way
    return say("kafka.as_user", way=way, user=connection.sasl.user or say("kafka.token"))
