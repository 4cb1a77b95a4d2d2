"""The topic of a simulation: made where it is missing, and never one that real agents write to."""

from __future__ import annotations

from typing import Any, Final

from agent.core.errors import SekishoError
from agent.core.kafka import Connection, Topics, in_words, made_by
from agent.core.message import HEADER_KEY
from agent.simulation.plan import SIMULATED

TOPIC: Final = "sekisho.simulated.flows.v1"
"""Where nothing else is said."""
_LOOKED_AT: Final = 20
"""Messages at the end of each partition whose sender is looked at."""
_LOOK_MS: Final = 3_000


class RealTopicError(SekishoError):
    """Simulated rows were about to be mixed with real ones."""


def refuse_real_name(topic: str, connection: Connection) -> None:
    """Only a name that says that it is simulated is one. Raises :class:`RealTopicError`."""
    others = {*connection.topics.model_dump().values(), *Topics().model_dump().values()}
    if SIMULATED in topic:
        return
    used = "is the one that real agents use" if topic in others else "does not say that it is simulated"
    raise RealTopicError(
        f"topic {topic} {used}; simulated rows there would be decided, alerted and kept like real ones. Name one with "
        f"`{SIMULATED}` in it, such as {TOPIC}, or add --allow-real-topic"
    )


def ready(connection: Connection, topic: str, partitions: int, *, mixed: bool) -> None:
    """Have the topic, made where it is missing. Unless ``mixed``, raises :class:`RealTopicError` where others than
    simulated agents have lately written to it. Raises :class:`~agent.core.errors.SinkError`.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    with made_by(connection, "sekisho-simulate") as options:
        admin = KafkaAdminClient(**options)
        try:
            (found,) = admin.describe_topics([topic])
            if found["error_code"]:
                settings = {
                    "num_partitions": partitions,
                    "replication_factor": -1,
                    "configs": {"message.timestamp.type": "LogAppendTime"},
                }
                admin.create_topics({topic: settings})
                admin.wait_for_topics([topic])
                return
        except KafkaError as error:
            raise in_words(error, connection, topic) from error
        finally:
            admin.close()
    if not mixed and (stranger := _stranger(connection, topic)):
        raise RealTopicError(
            f"topic {topic} holds messages of {stranger}, which is no simulated agent; name another topic, or add "
            "--allow-real-topic"
        )


def _stranger(connection: Connection, topic: str) -> str:
    """Who else wrote to the topic lately; empty if nobody did."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    with made_by(connection, "sekisho-simulate") as options:
        consumer = KafkaConsumer(**options, group_id=None, enable_auto_commit=False)
        try:
            parts = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(parts)
            ends: dict[Any, int] = consumer.end_offsets(parts)
            for part, end in ends.items():
                consumer.seek(part, max(0, end - _LOOKED_AT))
            while any(consumer.position(part) < end for part, end in ends.items()):
                found = consumer.poll(timeout_ms=_LOOK_MS)
                if not found:
                    break
                for record in (r for records in found.values() for r in records):
                    key = (record.key or b"").decode("utf-8", "replace")
                    if HEADER_KEY not in dict(record.headers) or not key.startswith(f"{SIMULATED}-"):
                        return key or "somebody without a name"
        except KafkaError as error:
            raise in_words(error, connection, topic) from error
        finally:
            consumer.close()
    return ""
