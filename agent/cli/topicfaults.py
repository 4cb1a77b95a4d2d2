"""What is wrong with a topic of Kafka that is there and can be written to, and the command that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from agent.words import Phrases

State = Literal["ok", "poor", "missing"]
LARGEST_SEALED: Final = 512 * 2**10
"""Octets that a batch may have; whole ones go to the topic of dead letters too."""
HOLDS_BATCHES: Final = ("flows", "dead")
BROKERS_TIME: Final = ("flows", "agents", "enrolment")
"""Topics of which silence and clocks are judged by the time at which the broker took a record."""
COMPACTED: Final = ("agents",)
DAY_MS: Final = 86_400_000
LEAST_KEPT: Final[Mapping[str, int]] = {"flows": 7 * DAY_MS, "enrolment": DAY_MS}
"""``retention.ms`` at least: as long as a spool or an outage of the detector may hold a batch up."""


@dataclass(frozen=True)
class Topic:
    """A topic as brokers tell of it."""

    role: str
    name: str
    parts: Sequence[Mapping[str, Any]]
    copies: int
    config: Mapping[str, str]
    """Empty where this user may not read it."""


@dataclass(frozen=True)
class TopicFault:
    """One thing that is wrong with a topic."""

    state: State
    said: str
    mend: str


def faults(topic: Topic, brokers: int, server: str, say: Phrases) -> Iterator[TopicFault]:
    """All of them; ``brokers`` is how many there are, ``server`` one to ask."""
    yield from _of_settings(topic, server, say)
    insync = int(topic.config.get("min.insync.replicas", 1))
    if min(len(part["isr_nodes"]) for part in topic.parts) < insync:
        yield TopicFault("missing", say("kafka.in_sync", n=insync), say("kafka.start_brokers"))
    elif topic.copies == 1 and brokers > 1:
        yield TopicFault("poor", say("kafka.one_copy"), say("kafka.more_copies"))
    elif topic.copies > 1 and insync == 1:
        yield TopicFault("poor", say("kafka.alone"), _set(server, topic.name, "min.insync.replicas=2"))


def _of_settings(topic: Topic, server: str, say: Phrases) -> Iterator[TopicFault]:
    def found(state: State, said: str, setting: str) -> TopicFault:
        return TopicFault(state, said, _set(server, topic.name, setting))

    role, config = topic.role, topic.config
    largest = int(config.get("max.message.bytes", LARGEST_SEALED))
    if role in HOLDS_BATCHES and largest < LARGEST_SEALED:
        said = say("kafka.too_small", octets=f"{largest:,}", least=f"{LARGEST_SEALED:,}")
        yield found("missing" if role == "flows" else "poor", said, "max.message.bytes=1048588")
    if role in BROKERS_TIME and config.get("message.timestamp.type", "LogAppendTime") != "LogAppendTime":
        yield found("poor", say("kafka.senders_time"), "message.timestamp.type=LogAppendTime")
    policy = config.get("cleanup.policy", "")
    if role in COMPACTED and policy and policy != "compact":
        yield found("poor", say("kafka.not_compacted", policy=policy), "cleanup.policy=compact")
    if role not in COMPACTED and "compact" in policy:
        yield found("poor", say("kafka.compacted", policy=policy), "cleanup.policy=delete")
    kept_ms, least_ms = int(config.get("retention.ms", -1)), LEAST_KEPT.get(role, 0)
    if 0 <= kept_ms < least_ms and role not in COMPACTED:
        said = say("kafka.kept_short", hours=kept_ms // 3_600_000, least=least_ms // 3_600_000)
        yield found("poor", said, f"retention.ms={least_ms}")


def _set(server: str, name: str, setting: str) -> str:
    """The line that changes a topic's setting."""
    return (
        f"kafka-configs.sh --bootstrap-server {server} --alter --entity-type topics --entity-name {name} "
        f"--add-config {setting}"
    )
