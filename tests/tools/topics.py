"""Topics as a stranger sees them: made, read from the first record to the last, with plain kafka-python."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from agent.core.kafka import Connection, Topics, quiet
from agent.core.message import HEADER_KEY, SIGNATURE_KEY, Header, Message

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Read:
    """One record of a topic."""

    key: str
    value: bytes
    headers: dict[str, bytes]

    @property
    def message(self) -> Message:
        """It as a batch."""
        return Message(self.headers[HEADER_KEY], self.headers[SIGNATURE_KEY], self.value)


def connection(servers: Sequence[str], prefix: str, **rest: Any) -> Connection:
    """Settings with topics of a test's own."""
    named = {name: f"{prefix}.{name}" for name in Topics.model_fields}
    return Connection(servers=tuple(servers), topics=Topics(**named), **rest)


def make(servers: Sequence[str], *names: str, **config: str) -> None:
    """Make topics of one partition."""
    quiet()
    admin = KafkaAdminClient(bootstrap_servers=list(servers))
    try:
        admin.create_topics(
            [NewTopic(n, num_partitions=1, replication_factor=-1, topic_configs=config) for n in names]
        )
        admin.wait_for_topics(list(names))
    finally:
        admin.close()


def read(servers: Sequence[str], topic: str, **options: Any) -> list[Read]:
    """Everything in a topic of one partition; ``options`` of the client for brokers that ask who one is."""
    quiet()
    known = {"bootstrap_servers": list(servers), **options}
    consumer = KafkaConsumer(**known, enable_auto_commit=False, max_partition_fetch_bytes=2**25)
    out: list[Read] = []
    try:
        part = TopicPartition(topic, 0)
        consumer.assign([part])
        consumer.seek_to_beginning(part)
        end = consumer.end_offsets([part])[part]
        deadline = time.monotonic() + DEADLINE_S
        while consumer.position(part) < end:
            assert time.monotonic() < deadline, f"{topic} was not read to its end"
            for records in consumer.poll(timeout_ms=500).values():
                out += [Read((r.key or b"").decode(), r.value, dict(r.headers)) for r in records]
    finally:
        consumer.close()
    return out


def batches(servers: Sequence[str], topic: str) -> dict[tuple[str, str, int, int], Message]:
    """Every batch of a topic once. Two of one id and different digests fail."""
    out: dict[tuple[str, str, int, int], tuple[Header, Message]] = {}
    for record in read(servers, topic):
        header = record.message.read_header()
        known = out.setdefault(header.batch_id, (header, record.message))
        assert known[0].digest == header.digest, f"two digests of {header.batch_id}"
    return {key: message for key, (_, message) in out.items()}


def rows(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Every row of messages."""
    return [row for m in messages for row in m.batch(m.read_header()).rows()]


def until(fact: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> Any:
    """Wait until something is true. Fails with ``what`` where it never is."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, f"in {seconds} s it did not come about that {what}"
        time.sleep(0.05)
    return found
